"""The second half of a feed-forward: its own definition, and what a TPU keeps and moves of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers.feed_forward import gelu_dense
from tfhf.preflight import compile_for_tpu


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_is_dense_of_gelu(training, jit_compile):
    dropout, dense = keras.layers.Dropout(0.0), keras.layers.Dense(5)
    dense.build((None, None, 9))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 9)), "float32")
    variables = [dense.kernel.value, dense.bias.value]

    @tf.function(jit_compile=jit_compile)
    def ours(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gelu_dense(x, dropout, dense, training)
        return y, *tape.gradient(y, [x, *variables])

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.gelu(x, approximate=False) @ variables[0] + variables[1]
    for got, wanted in zip(ours(x), [y, *tape.gradient(y, [x, *variables])]):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_dropout_acts_while_training_only():
    dropout, dense = keras.layers.Dropout(0.5), keras.layers.Dense(4)
    dense.build((None, 64))
    x = np.ones((3, 64), "float32")
    np.testing.assert_array_equal(gelu_dense(x, dropout, dense), gelu_dense(x, dropout, dense))
    assert np.abs(gelu_dense(x, dropout, dense, training=True) - gelu_dense(x, dropout, dense)).max() > 0.01


def test_a_tpu_keeps_one_wide_activation():
    """Two layers: of each the 32 MiB before GELU, not GELU's result or its slope beside them."""
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    wide, narrow = [[keras.layers.Dense(units, dtype="mixed_bfloat16") for _ in range(2)] for units in (2048, 128)]
    dropout = keras.layers.Dropout(0.0, dtype="mixed_bfloat16")
    for up, down in zip(wide, narrow):
        up.build((None, 128))
        down.build((None, 2048))

    @tf.function(jit_compile=True)
    def gradient(x):
        variables = [variable.value for layer in wide + narrow for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            for up, down in zip(wide, narrow):
                x = x + gelu_dense(up(x), dropout, down, training=True)
            loss = tf.reduce_sum(tf.cast(x, "float32") ** 2)
        return tape.gradient(loss, variables)

    compiled = compile_for_tpu(gradient, [tf.TensorSpec((8192, 128), "bfloat16")])
    assert compiled.temporary_mib < 120, compiled
