"""Recomputed activations: the same losses and gradients, dropout included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.whisper.test_model import inputs_for, small_model
from tfhf.layers import recompute
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.preflight import compile_for_tpu


def test_without_recomputation_the_layer_just_runs():
    layer = keras.layers.Dense(3)
    np.testing.assert_array_equal(recompute.run(layer, False, np.ones((1, 2), "float32"), training=True),
                                  layer(np.ones((1, 2), "float32")))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_change_nothing(dropout, jit_compile):
    losses = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        model = small_model(vocab_size=51865, recompute_activations=recompute, dropout=dropout)
        inputs = inputs_for(model.config)
        model.compile(keras.optimizers.SGD(0.1), TokenCrossEntropy(), jit_compile=jit_compile)
        losses.append([float(model.train_on_batch(inputs, inputs["decoder_input_ids"])) for _ in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][2] < losses[0][0]


class Wide(keras.layers.Layer):
    """[b, 64] -> [b, 64] through 8,192 activations that a backward pass would have to keep."""

    def __init__(self):
        super().__init__()
        self.up, self.down = keras.layers.Dense(8192, activation="gelu"), keras.layers.Dense(64)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((None, 8192))
        self.built = True

    def call(self, x, training=False):
        return x + self.down(self.up(x))


def test_a_tpu_keeps_less():
    """XLA must not find out that it has the activations already."""
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    layers = [Wide() for _ in range(8)]
    for layer in layers:
        layer.build((None, 64))
    memory = []
    for again in (False, True):
        @tf.function(jit_compile=True)
        def gradient(x):
            variables = [variable.value for layer in layers for variable in layer.trainable_variables]
            with tf.GradientTape() as tape:
                for layer in layers:
                    x = recompute.run(layer, again, x, training=True)
                loss = tf.reduce_sum(x * x)
            return tape.gradient(loss, variables)

        memory.append(compile_for_tpu(gradient, [tf.TensorSpec((4096, 64))]).temporary_mib)
    assert memory[1] < memory[0] / 2, memory
