"""Random spans to mask, drawn inside the graph with static shapes (Baevski et al. 2020, section 3.1)."""

import keras
from keras import ops


def most_spans(num_positions, probability, span_length, min_spans=0):
    """The largest number of spans that `span_mask` draws for a row of `num_positions`; all are Python numbers.

    Raises:
        ValueError: a probability outside [0, 1], or a span length below 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"span_mask: probability is {probability}; expected 0 to 1.")
    if span_length < 1:
        raise ValueError(f"span_mask: span_length is {span_length}; expected 1 or more.")
    return min(max(int(probability * num_positions / span_length + 1), min_spans), num_positions // span_length)


def span_mask(seed, lengths, num_positions, probability, span_length, min_spans=0):
    """Spans of masked positions, as many and as spread as in Hugging Face's `_compute_mask_indices`.

    A row of length n has floor(probability * n / span_length + u) spans, u uniform in [0, 1), at least `min_spans` and
    at most n // span_length. Their starts are distinct and uniform over the n - span_length + 1 places where a span
    fits; spans may overlap. The reference draws one u for the whole batch and takes the longest row's n for the upper
    limit; here a row's mask depends on nothing but its own length and its own draw.

    Args:
        seed: int [2] tensor, or a keras SeedGenerator. The same seed gives the same mask, but TensorFlow's numbers
            are others with XLA than without.
        lengths: int [batch], own positions of each row; those behind them are never masked.
        num_positions: Python int, positions of the mask.
        probability: share of positions that the spans would cover if none overlapped, 0 to 1.
        span_length: positions in one span, 1 or more.
        min_spans: spans of a row that has place for them.

    Returns:
        bool [batch, num_positions], true inside the spans.

    Raises:
        ValueError: a probability outside [0, 1], or a span length below 1.
    """
    if not isinstance(seed, keras.random.SeedGenerator):
        seed = _GivenSeed(seed)
    draws = keras.random.uniform((ops.shape(lengths)[0], num_positions + 1), dtype="float32", seed=seed)
    return span_mask_of(draws, lengths, probability, span_length, min_spans)


def span_mask_of(draws, lengths, probability, span_length, min_spans=0):
    """`span_mask` of given draws: float32 [batch or 1, num_positions + 1], uniform in [0, 1); one row serves all.

    The same draws give the same mask on every backend, with XLA and without.
    """
    num_positions = draws.shape[1] - 1
    spans_drawn = most_spans(num_positions, probability, span_length, min_spans)
    lengths = ops.minimum(ops.cast(lengths, "int32"), num_positions)
    positions = ops.arange(num_positions, dtype="int32")
    if spans_drawn < 1:
        return ops.zeros((ops.shape(lengths)[0], num_positions), "bool")
    # The first column rounds the number of spans, the others rank the places where a span may start.
    expected = ops.cast(lengths, "float32") * (probability / span_length)
    spans = ops.maximum(ops.cast(ops.floor(expected + draws[:, 0]), "int32"), min_spans)
    spans = ops.minimum(spans, lengths // span_length)
    fits = positions <= lengths[:, None] - span_length
    _, starts = ops.top_k(ops.where(fits, draws[:, 1:], -1.0), spans_drawn)              # [batch, spans_drawn]
    starts = ops.where(ops.arange(spans_drawn) < spans[:, None], starts, num_positions)  # the rest: outside
    offsets = positions - ops.cast(starts, "int32")[:, :, None]                          # [batch, spans, positions]
    return ops.any((offsets >= 0) & (offsets < span_length), axis=1)


class _GivenSeed(keras.random.SeedGenerator):
    """Hands a seed tensor to keras.random, which takes Python ints and generators only. Owns no variable."""

    def __init__(self, seed):
        self.seed = ops.convert_to_tensor(seed)

    def next(self, ordered=True):
        return self.seed
