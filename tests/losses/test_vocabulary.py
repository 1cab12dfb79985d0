"""Cross-entropy over a vocabulary in chunks against the same at once, value and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses import vocabulary
from tfhf.losses.vocabulary import IGNORED, MeanTokenLoss, labels_of, vocabulary_cross_entropy


def drawn(dtype="float32"):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 500, (3, 8)).astype("int32")
    targets[0, :3] = IGNORED
    return (tf.cast(rng.normal(size=(3, 8, 16)), dtype), tf.constant(rng.normal(size=(500, 16)), "float32"),
            tf.constant(targets), tf.constant(rng.normal(size=(3, 8)), "float32"))


def plain(hidden, table, targets):
    logits = tf.cast(tf.matmul(hidden, tf.cast(table, hidden.dtype), transpose_b=True), "float32")
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return tf.where(targets == IGNORED, 0.0, losses)


def value_and_gradients(function, hidden, table, targets, weight):
    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        losses = function(hidden, table, targets)
        total = tf.reduce_sum(losses * weight)
    return [losses, *tape.gradient(total, [hidden, table])]


@pytest.mark.parametrize("elements", [24 * 128, 24 * 384, 2**25])  # 4 chunks, 2 chunks of 384 and 116, one
@pytest.mark.parametrize("xla", [False, True])
def test_chunks_equal_all_at_once(elements, xla, monkeypatch):
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", elements)
    expected = value_and_gradients(plain, *drawn())
    found = tf.function(lambda *x: value_and_gradients(vocabulary_cross_entropy, *x), jit_compile=xla)(*drawn())
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert (found[0].numpy()[0, :3] == 0).all() and (found[1].numpy()[0, :3] == 0).all()


def test_chunks_in_bfloat16_round_as_all_at_once(monkeypatch):
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", 24 * 128)
    expected = value_and_gradients(plain, *drawn("bfloat16"))
    found = value_and_gradients(vocabulary_cross_entropy, *drawn("bfloat16"))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    for a, b in zip(found[1:], expected[1:]):
        a, b = (tf.cast(x, "float32").numpy() for x in (a, b))
        assert np.abs(a - b).max() < 0.02 * np.abs(b).max()


def test_no_chunk_of_logits_is_larger_than_said(monkeypatch):
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", 24 * 128)
    traced = tf.function(lambda *x: value_and_gradients(vocabulary_cross_entropy, *x)).get_concrete_function(*drawn())
    sizes = [tensor.shape.num_elements() for op in traced.graph.get_operations() for tensor in op.outputs]
    assert max(size for size in sizes if size) <= 500 * 16  # the table; all logits would be 24 * 500


def test_the_mean_is_over_labels_that_count():
    ids = np.array([[5, 6, 7, 8, 9, 0]], "int32")
    labels = np.asarray(labels_of(ids, np.array([[1, 1, 1, 2, 2, 0]], "int32")))
    np.testing.assert_array_equal(labels, [[IGNORED, 6, 7, IGNORED, 9, IGNORED]])
    losses = np.array([[0.0, 1.0, 2.0, 0.0, 6.0, 0.0]], "float32")
    np.testing.assert_allclose(MeanTokenLoss().call(labels, losses), [3.0])
    np.testing.assert_allclose(MeanTokenLoss().call(np.full((1, 6), IGNORED), 0 * losses), [0.0])
