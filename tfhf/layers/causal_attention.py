"""Causal attention inside segments, a block of queries at a time: the scores of a whole row never lie in memory."""

import keras
from keras import ops

from tfhf.layers import recompute
from tfhf.layers.attention import MASKED_SCORE, attend

QUERY_BLOCK = 256  # of 1,024 positions: five eighths of the scores are made, the others nobody may see


def causal_attention(queries, keys, values, segments=None, bias=None, dropout=0.0, seed_generator=None,
                     training=False):
    """Scaled dot-product attention of each position to itself and to earlier ones.

    While training, queries are taken QUERY_BLOCK at a time, with the keys that they may see; the backward pass makes
    the scores again (`tfhf.layers.attention.attend`). A single block without dropout, outside XLA, keeps them: they are
    small, and a CPU is quicker so.

    Args:
        queries: [batch, heads, length, head_dim].
        keys, values: [batch, heads, prefix + length, head_dim]; every position sees the prefix.
        segments: int [batch, length]; a position sees those of its own number only. None: all.
        bias: float32, broadcastable to [batch, heads, length, prefix + length], in the place of causality and segments;
            for decoding: there is neither a block nor dropout then.
        dropout: share of the probabilities dropped while training, with the draws of `seed_generator`.
        training: whether dropout acts.

    Returns:
        [batch, heads, length, head_dim] in the dtype of the values.
    """
    length, prefix = queries.shape[2], keys.shape[2] - queries.shape[2]
    queries = queries * queries.shape[-1] ** -0.5
    one_block = length <= QUERY_BLOCK and not dropout and not recompute.xla_compiles()
    if bias is not None or not training or one_block:
        scores = ops.cast(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))), "float32")
        bias = _bias(segments, 0, length, prefix) if bias is None else ops.cast(bias, "float32")
        return ops.matmul(ops.cast(ops.softmax(scores + bias, axis=-1), values.dtype), values)
    contexts = []
    for begin in range(0, length, QUERY_BLOCK):
        end, kept = min(begin + QUERY_BLOCK, length), None
        block, seen = queries[:, :, begin:end], prefix + end
        if dropout:
            shape = (*ops.shape(block)[:3], seen)
            kept = keras.random.uniform(shape, seed=seed_generator) >= dropout
        contexts.append(attend(block, keys[:, :, :seen], values[:, :, :seen], _bias(segments, begin, end, prefix), kept,
                               dropout))
    return ops.concatenate(contexts, axis=2)


def _bias(segments, begin, end, prefix):
    """float32 [batch or 1, 1, end - begin, prefix + end]: what the queries from `begin` to `end` may look at."""
    seen = (ops.arange(end)[None, :] <= ops.arange(begin, end)[:, None])[None]
    if segments is not None:
        seen = ops.logical_and(seen, segments[:, begin:end, None] == segments[:, None, :end])
    return ops.pad(ops.where(seen, 0.0, MASKED_SCORE), ((0, 0), (0, 0), (prefix, 0)))[:, None]
