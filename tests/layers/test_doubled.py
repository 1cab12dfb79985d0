"""Twice the size: Keras' own resize, its gradient, and a size that is not known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers.doubled import doubled

X = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("known", [True, False])
def test_is_kerass_resize_and_has_its_gradient(interpolation, known):
    upstream = np.random.default_rng(1).normal(size=(2, 6, 10, 4)).astype("float32")

    def with_gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, upstream)

    spec = tf.TensorSpec(X.shape if known else [None] * 3 + [4])
    ours = tf.function(lambda x: with_gradient(lambda x: doubled(x, interpolation), x), input_signature=[spec])(X)
    theirs = with_gradient(lambda x: keras.ops.image.resize(x, (6, 10), interpolation=interpolation), tf.constant(X))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
