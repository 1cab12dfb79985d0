"""Attention a block of queries at a time against all at once, value and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers import causal_attention as module
from tfhf.layers.causal_attention import causal_attention

LENGTH, PREFIX = 40, 3


def drawn(prefix=0):
    rng = np.random.default_rng(0)
    shapes = [(2, 3, LENGTH, 8), *[(2, 3, prefix + LENGTH, 8)] * 2]
    segments = tf.constant([[1] * 20 + [2] * 13 + [3] * 2 + [0] * 5, [0] * 7 + [1] * 33], tf.int32)
    return [tf.constant(rng.normal(size=shape), "float32") for shape in shapes], segments


def gradients(tensors, segments, training, prefix=0):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        context = causal_attention(*tensors, segments, training=training)
        total = tf.reduce_sum(tf.sin(context))
    return [context, *tape.gradient(total, tensors)]


@pytest.mark.parametrize("prefix", [0, PREFIX])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("xla", [False, True])
def test_blocks_equal_all_at_once(prefix, packed, xla, monkeypatch):
    monkeypatch.setattr(module, "QUERY_BLOCK", 16)  # blocks of 16, 16 and 8
    tensors, segments = drawn(prefix)
    segments = segments if packed else None
    expected = gradients(tensors, segments, False)
    found = tf.function(lambda: gradients(tensors, segments, True), jit_compile=xla)()
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_nobody_sees_later_tokens_or_another_segment():
    (queries, keys, values), segments = drawn()
    before = causal_attention(queries, keys, values, segments).numpy()
    changed = values.numpy()
    changed[0, :, 25] += 10.0
    after = causal_attention(queries, keys, tf.constant(changed), segments).numpy()
    moved = np.abs(after - before).max(axis=(1, 3))[0] > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(moved), np.arange(25, 33))


def test_no_scores_of_the_whole_row(monkeypatch):
    monkeypatch.setattr(module, "QUERY_BLOCK", 8)
    tensors, segments = drawn()
    traced = tf.function(lambda: gradients(tensors, segments, True)).get_concrete_function()
    shapes = [tensor.shape.as_list() for op in traced.graph.get_operations() for tensor in op.outputs
              if tensor.shape.rank == 4]
    assert any(shape[2:] == [8, LENGTH] for shape in shapes) and not any(shape[2:] == [LENGTH] * 2 for shape in shapes)


def test_dropout_leaves_the_mean_and_repeats_by_its_state():
    (queries, keys, _), _ = drawn()
    values, seeds = tf.ones_like(keys), keras.random.SeedGenerator(1)
    state = seeds.state.numpy()
    dropped = causal_attention(queries, keys, values, dropout=0.25, seed_generator=seeds, training=True).numpy()
    assert np.std(dropped) > 0.05 and np.mean(dropped[:, :, 20:]) == pytest.approx(1.0, abs=0.03)
    seeds.state.assign(state)
    again = causal_attention(queries, keys, values, dropout=0.25, seed_generator=seeds, training=True)
    np.testing.assert_array_equal(dropped, again)
