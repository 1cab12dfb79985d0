"""Bfloat16 convolutions of few channels: where they are computed in float32, and that the values are right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfhf.layers import convolution
from tfhf.layers.conv_norm import batch_norm, conv, conv_norm
from tfhf.models.wav2vec2.model import WeightNormConv


def draw(*shape, dtype="bfloat16"):
    return tf.cast(np.random.default_rng(0).normal(size=shape).astype("float32"), dtype)


def convolved_in(function, *arguments, **options):
    """The types in which the traced function convolves, in order."""
    traced = tf.function(function, autograph=False, **options).get_concrete_function(*arguments)
    graphs = [traced.graph, *(one.graph for one in traced.graph._functions.values() if hasattr(one, "graph"))]
    return [operation.inputs[0].dtype.name for graph in graphs for operation in graph.get_operations()
            if operation.type == "Conv2D"]


@pytest.mark.parametrize("kernel_shape, dtype, expected", [
    ((16, 8, 8), "bfloat16", "float32"), ((128, 4, 4), "bfloat16", "float32"), ((10, 1, 512), "bfloat16", "float32"),
    ((7, 7, 3, 64), "bfloat16", "float32"), ((1, 9, 47, 8), "bfloat16", "float32"),
    ((3, 3, 3, 4, 8), "bfloat16", "float32"), ((128, 48, 48), "bfloat16", "bfloat16"),
    ((3, 80, 384), "bfloat16", "bfloat16"), ((3, 3, 64, 3), "bfloat16", "bfloat16"),
    ((1, 1, 16, 96), "bfloat16", "bfloat16"), ((1, 8, 8), "bfloat16", "bfloat16"),
    ((16, 8, 8), "float32", "float32"), ((16, 8, 8), "float16", "float16"),
])
def test_the_type_by_the_kernel(kernel_shape, dtype, expected):
    assert convolution.conv_dtype(dtype, kernel_shape) == expected
    assert convolution.conv_dtype(tf.as_dtype(dtype), kernel_shape) == expected


def test_in_graphs_but_not_where_xla_compiles():
    x, kernel = draw(2, 40, 8), draw(16, 8, 8)
    assert convolved_in(convolution.conv, x, kernel) == ["float32"]
    assert convolved_in(convolution.conv, x, kernel, jit_compile=True) == ["bfloat16"]
    seen = []

    def in_a_loop(x, kernel):
        def step(i, y):
            seen.append(convolution.conv_dtype(x.dtype, kernel.shape))
            return i + 1, y + convolution.conv(x, kernel, padding="same")

        return tf.while_loop(lambda i, y: i < 2, step, [0, x])[1]

    for xla, expected in ((True, "bfloat16"), (False, "float32")):
        tf.function(in_a_loop, autograph=False, jit_compile=xla).get_concrete_function(x, kernel)
        inner = tf.function(in_a_loop, autograph=False)
        tf.function(lambda a, b, inner=inner: inner(a, b), autograph=False, jit_compile=xla)(x, kernel)
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        tf.function(lambda a, b: strategy.run(in_a_loop, (a, b)), autograph=False,
                    jit_compile=xla).get_concrete_function(x, kernel)
        assert len(seen) >= 3 and set(seen) == {expected}, xla
        seen.clear()


def test_a_gpu_keeps_bfloat16(monkeypatch):
    devices = {"GPU": ["one"], "TPU": [], "CPU": ["one"]}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: devices[kind])
    assert convolution.conv_dtype("bfloat16", (16, 8, 8)) == "bfloat16"


def test_another_backend_keeps_bfloat16(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert convolution.conv_dtype("bfloat16", (16, 8, 8)) == "bfloat16"


@pytest.mark.parametrize("shape, kernel_shape, options", [
    ((2, 60, 8), (16, 8, 8), {}), ((2, 200, 4), (128, 4, 4), {}), ((2, 400, 1), (10, 1, 32), dict(strides=5)),
    ((1, 32, 32, 3), (7, 7, 3, 16), dict(strides=2, padding="same")), ((1, 9, 9, 12), (3, 3, 12, 6), {}),
])
def test_values_and_gradients_are_those_of_float32(shape, kernel_shape, options):
    x, kernel = draw(*shape), draw(*kernel_shape)
    expected = ops.conv(tf.cast(x, "float32"), tf.cast(kernel, "float32"), **options)
    exact = tf.cast(tf.cast(expected, "bfloat16"), "float32")   # one rounding, that of the result
    graph = tf.function(lambda: convolution.conv(x, kernel, **options), autograph=False)
    for found in (convolution.conv(x, kernel, **options), graph()):
        assert found.dtype == "bfloat16"
        np.testing.assert_allclose(tf.cast(found, "float32"), exact, rtol=1e-2, atol=1e-2)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        loss = tf.reduce_sum(tf.cast(convolution.conv(x, kernel, **options), "float32") ** 2)
    assert all(gradient.dtype == "bfloat16" and np.isfinite(tf.cast(gradient, "float32")).all()
               for gradient in tape.gradient(loss, [x, kernel]))


@pytest.mark.parametrize("layer, x, dtypes", [
    (lambda: convolution.Conv1D(8, 3, dtype="mixed_bfloat16"), (2, 20, 4), ["float32"]),
    (lambda: convolution.Conv2D(8, 3, dtype="mixed_bfloat16"), (2, 9, 9, 3), ["float32"]),
    (lambda: convolution.Conv2D(8, 3, dtype="mixed_bfloat16"), (2, 9, 9, 64), ["bfloat16"]),
    (lambda: convolution.Conv2D(8, 1, dtype="mixed_bfloat16"), (2, 9, 9, 16), ["bfloat16"]),
    (lambda: WeightNormConv(32, 16, 4, dtype="mixed_bfloat16"), (2, 40, 32), ["float32"] * 4),
    (lambda: WeightNormConv(96, 16, 2, dtype="mixed_bfloat16"), (2, 40, 96), ["bfloat16"] * 2),
])
def test_layers(layer, x, dtypes):
    layer, x = layer(), draw(*x, dtype="float32")
    assert layer(x).dtype == "bfloat16" and {v.dtype for v in layer.variables} == {"float32"}
    assert convolved_in(layer, x) == dtypes
    assert convolved_in(layer, x, jit_compile=True) == ["bfloat16"] * len(dtypes)


def test_a_layer_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((9, 9, 3)), convolution.Conv2D(4, 3), keras.layers.Flatten()])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is convolution.Conv2D
    x = draw(2, 9, 9, 3, dtype="float32")
    np.testing.assert_array_equal(again(x), model(x))


def test_behind_a_norm_whose_statistics_are_fixed():
    layer, norm = conv(8, 3, "conv", "mixed_bfloat16"), batch_norm("norm", "mixed_bfloat16")
    layer.build((None, None, None, 3))
    norm.build((None, None, None, 8))
    x = draw(1, 9, 9, 3)
    for training in (False, True):
        assert convolved_in(lambda x, training=training: conv_norm(layer, norm, x, training=training), x) == ["float32"]
