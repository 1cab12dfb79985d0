"""Recomputed activations: the same losses and gradients, dropout included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.whisper.test_model import inputs_for, small_model
from tfhf.layers import recompute
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.preflight import compile_for_tpu
from tfhf.preflight.hlo import costs


def test_without_recomputation_the_layer_just_runs():
    layer = keras.layers.Dense(3)
    np.testing.assert_array_equal(recompute.run(layer, False, np.ones((1, 2), "float32"), training=True),
                                  layer(np.ones((1, 2), "float32")))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_change_nothing(dropout, jit_compile):
    losses = []
    for computed_again in (False, True):
        keras.utils.set_random_seed(0)
        model = small_model(vocab_size=51865, recompute_activations=computed_again, dropout=dropout)
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


@pytest.mark.parametrize("again", [False, True])
def test_what_is_computed_again_is_told_by_its_name(again):
    """The model's own products: 3 of a layer's 2 x 64 x 8,192 forward and back, whatever is computed again."""
    layer = Wide()
    layer.build((None, 64))

    @tf.function(jit_compile=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(recompute.run(layer, again, x, training=True) ** 2)
        return tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_variables)])

    spec = tf.TensorSpec((10, 64))
    found = costs(gradient.experimental_get_compiler_ir(spec)(stage="hlo", platform_name="CPU"))
    product = 2 * 10 * 64 * 8192
    own = sum(flops for name, flops in found.flops_by_name if not recompute.is_again(name))
    assert own == 6 * product, found.flops_by_name
    # The layer's last product is not made again: nothing asks for its result.
    assert found.flops == (7 if again else 6) * product, found.flops_by_name


def test_kept_inputs_change_nothing_and_draw_once():
    """GELU, dropout and a product, compiled with nothing but the input kept: the same result and gradients."""
    dropout, dense = keras.layers.Dropout(0.4, seed=1), keras.layers.Dense(5)
    dense.build((None, 7))
    x = tf.constant(np.random.default_rng(0).normal(size=(6, 7)), "float32")
    results = []
    for half in (lambda x: dense(dropout(tf.nn.gelu(x), training=True)),
                 lambda x: recompute.keep_inputs(lambda y: dense(dropout(tf.nn.gelu(y), training=True)), [dropout], x)):
        @tf.function(jit_compile=True)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = half(x)
                loss = tf.reduce_sum(y * y)
            return y, *tape.gradient(loss, [x, dense.kernel.value, dense.bias.value])

        dropout.seed_generator.state.assign([3, 4])
        results.append([step(x), step(x)])
    for plain, kept in zip(tf.nest.flatten(results[0]), tf.nest.flatten(results[1])):
        np.testing.assert_allclose(kept, plain, rtol=1e-5, atol=1e-6)
    assert np.abs(results[1][0][0] - results[1][1][0]).max() > 0.1   # each step draws anew
