"""The attention that keeps no scores, against plain softmax attention: results and gradients, masks and dropout."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfhf.layers.attention import MASKED_SCORE, Attention, attend, causal_bias
from tfhf.preflight import compile_for_tpu

SHAPE = (2, 3, 20, 8)  # batch, heads, target, head_dim


def plain(queries, keys, values, bias, kept, dropout):
    """What `attend` computes, with all scores kept."""
    scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), "float32")
    probabilities = tf.nn.softmax(scores if bias is None else scores + bias)
    if kept is not None:
        probabilities = tf.where(kept, probabilities / (1 - dropout), 0)
    return tf.matmul(tf.cast(probabilities, values.dtype), values)


def draw(dtype="float32", source=27, seed=0, scale=1.0):
    """queries, keys, values, upstream gradient."""
    rng = np.random.default_rng(seed)
    shapes = (SHAPE, (*SHAPE[:2], source, SHAPE[3]), (*SHAPE[:2], source, SHAPE[3]), SHAPE)
    return [tf.cast(scale * rng.normal(size=shape), dtype) for shape in shapes]


def with_gradients(function, arrays, upstream, *others):
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        result = function(*arrays, *others)
    return [tensor.numpy() for tensor in (result, *tape.gradient(result, arrays, upstream))]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("masked", [None, "padding", "causal"])
def test_equals_plain_attention(masked, dropout, jit_compile):
    *arrays, upstream = draw(source=SHAPE[2] if masked == "causal" else 27)
    bias = kept = None
    if masked == "padding":
        own = np.arange(27) < np.array([27, 4])[:, None]
        bias = np.where(own, 0.0, MASKED_SCORE).astype("float32")[:, None, None]
    elif masked == "causal":
        bias = causal_bias(SHAPE[2])
    if dropout:
        kept = np.random.default_rng(1).uniform(size=(*SHAPE[:3], arrays[1].shape[2])) >= dropout
    expected = with_gradients(plain, arrays, upstream, bias, kept, dropout)
    compiled = tf.function(lambda *three: attend(*three, bias, kept, dropout), jit_compile=jit_compile)
    for got, wanted in zip(with_gradients(compiled, arrays, upstream), expected):
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-4)


def test_large_scores_stay_finite():
    """Scores of some 1,000: exponentials are taken of differences only."""
    *arrays, upstream = draw(scale=15.0)
    results = with_gradients(attend, arrays, upstream)
    assert all(np.isfinite(result).all() for result in results)
    np.testing.assert_allclose(results[0], plain(*arrays, None, None, 0), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_as_good_as_plain_attention_in_it():
    """Against float32 the error of results and gradients is no larger than that of plain attention in bfloat16."""
    *exact, exact_upstream = (tf.cast(x, "float32") for x in draw("bfloat16", scale=2.0))
    *arrays, upstream = draw("bfloat16", scale=2.0)
    truth = with_gradients(plain, exact, exact_upstream, None, None, 0)
    ours = with_gradients(attend, arrays, upstream)
    theirs = with_gradients(plain, arrays, upstream, None, None, 0)
    for got, other, wanted in zip(ours, theirs, truth):
        assert got.dtype == other.dtype
        assert np.abs(got.astype("float32") - wanted).mean() < 1.2 * np.abs(other.astype("float32") - wanted).mean()


def test_training_without_dropout_gives_what_inference_gives():
    layer = Attention(24, 3)
    x = np.random.default_rng(0).normal(size=(2, 9, 24)).astype("float32")
    np.testing.assert_allclose(layer(x, training=True), layer(x), atol=1e-6)


def test_dropout_drops_its_share_and_draws_anew():
    layer = Attention(64, 1, dropout=0.25)
    layer.build((None, None, 64))
    layer.v_proj.kernel.assign(np.eye(64))
    layer.out_proj.kernel.assign(np.eye(64))
    x = np.eye(64, dtype="float32")[None].repeat(8, 0)   # results are the probabilities themselves
    first, second = (ops.convert_to_numpy(layer(x, training=True)) for _ in range(2))
    assert abs((first == 0).mean() - 0.25) < 0.01 and not np.array_equal(first, second)
    np.testing.assert_allclose(first[first > 0], (layer(x) / 0.75).numpy()[first > 0], rtol=1e-5)


def test_attention_needs_whole_heads():
    with pytest.raises(ValueError, match="dim=10 is not a multiple of num_heads=3"):
        Attention(10, 3)


def test_a_tpu_keeps_no_scores():
    """Three layers with scores of 48 MiB each: their gradient needs the memory of one, not of three."""
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    keras.utils.set_random_seed(0)
    layers = [Attention(64, 1, dtype="mixed_bfloat16") for _ in range(3)]
    for layer in layers:
        layer.build((None, None, 64))

    @tf.function(jit_compile=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in layers:
                y = y + layer(y, training=True)
            loss = tf.reduce_sum(tf.cast(y, "float32") ** 2)
        return tape.gradient(loss, x)

    compiled = compile_for_tpu(gradient, [tf.TensorSpec((6, 2048, 64), "bfloat16")])
    scores_mib = 6 * 2048 * 2048 * 2 / 2**20
    assert compiled.temporary_mib < 2.6 * scores_mib, compiled
    # Written twice (forward, backward) with their gradient once; read twice, once and twice: 8, with plain softmax 11.
    assert compiled.costs.bytes / (3 * scores_mib * 2**20) < 10, compiled
