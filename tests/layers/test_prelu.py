"""PReLU against Keras' own: values and both gradients."""

import keras
import numpy as np
import tensorflow as tf

from tfhf.layers.prelu import PReLU


def test_is_kerass_and_has_its_gradients():
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32"))
    found = []
    for kind in (PReLU, keras.layers.PReLU):
        layer = kind(keras.initializers.Constant(0.25), shared_axes=[1, 2])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**2)
        found.append((y, *tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_variables)])))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
