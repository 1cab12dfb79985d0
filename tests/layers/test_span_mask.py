"""Span masks against Hugging Face's distribution, and what the graph must keep: lengths, seeds, static shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers.span_mask import span_mask


def _masks(rows, length, positions, *options, seed=0):
    return span_mask(tf.constant([seed, 7]), tf.fill([rows], length), positions, *options).numpy()


@pytest.mark.parametrize("length, positions, options", [
    (120, 150, (0.65, 10, 2)), (120, 120, (0.05, 10, 2)), (49, 60, (0.5, 4, 0)), (30, 30, (0.9, 1, 0))])
def test_distribution_is_that_of_transformers(length, positions, options):
    """Share masked (mean and spread) and the profile over positions, from 4,000 rows of each."""
    reference = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2", reason="the reference")
    probability, span, least = options
    np.random.seed(0)
    theirs = np.concatenate([  # one rounding draw for a call: many calls of one row are the same distribution
        reference._compute_mask_indices((1, length), probability, span, min_masks=least) for _ in range(4000)])
    ours = _masks(4000, length, positions, *options)
    assert not ours[:, length:].any()
    ours = ours[:, :length]
    spread = theirs.mean(1).std()
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=5 * spread / np.sqrt(2000) + 1e-3)
    np.testing.assert_allclose(ours.mean(1).std(), spread, rtol=0.1, atol=2e-3)
    # An estimate of a share from 4,000 rows has a deviation of at most 0.008; the difference of two 0.011.
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)
    assert np.abs(ours.mean(0) - theirs.mean(0)).mean() < 0.013


def test_starts_are_distinct_and_counts_are_rounded_at_random():
    masks = _masks(2000, 100, 100, 0.25, 1)  # spans of one position: the masked positions are the starts
    assert set(masks.sum(1)) == {25}
    counts = _masks(4000, 98, 98, 0.25, 1).sum(1)  # 24.5 expected
    assert set(counts) == {24, 25} and abs(counts.mean() - 24.5) < 0.04


def test_a_row_depends_on_its_own_length_and_short_rows_have_no_spans():
    lengths = np.array([0, 3, 9, 10, 25, 100], "int32")
    masks = span_mask(tf.constant([3, 4]), lengths, 100, 0.65, 10, 2).numpy()
    assert not any(masks[row, length:].any() for row, length in enumerate(lengths))
    np.testing.assert_array_equal(masks.sum(1)[:4], [0, 0, 0, 10])  # a span needs its 10 positions
    assert 10 < masks.sum(1)[4] <= 20 and masks[5].sum() > 30
    assert not span_mask(tf.constant([3, 4]), lengths, 8, 0.65, 10, 2).numpy().any()


def test_seeds_compile_and_do_not_repeat():
    compiled = tf.function(lambda seed: span_mask(seed, tf.fill([4], 90), 100, 0.65, 10, 2), jit_compile=True)
    seed = tf.constant([1, 2])
    assert compiled(seed).shape == (4, 100)
    np.testing.assert_array_equal(compiled(seed), compiled(tf.constant([1, 2])))
    assert not np.array_equal(compiled(seed), compiled(tf.constant([1, 3])))
    generator = keras.random.SeedGenerator(5)
    drawn = tf.function(lambda: span_mask(generator, tf.fill([4], 90), 100, 0.65, 10, 2))
    assert not np.array_equal(drawn(), drawn()), "the draw is frozen into the graph"
    rows = span_mask(seed, tf.fill([4], 90), 100, 0.65, 10, 2).numpy()
    assert len({row.tobytes() for row in rows}) == 4


@pytest.mark.parametrize("probability, span, message", [(1.5, 10, "probability is 1.5"), (0.5, 0, "span_length is 0")])
def test_bad_arguments_are_named(probability, span, message):
    with pytest.raises(ValueError, match=message):
        span_mask(tf.constant([0, 0]), tf.constant([10]), 10, probability, span)
