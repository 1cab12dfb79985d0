"""Cross-entropy over a large vocabulary, straight from the hidden states: one value per token."""

import keras
from keras import ops

from tfhf.layers import recompute

IGNORED = -100  # a label that counts for nothing
CHUNK_ELEMENTS = 2**25  # logits that may lie in memory at once: 64 MiB in bfloat16


def begins_in(segments):
    """segments int [batch, length] -> bool of the same shape: no token is predicted here from the one before, because
    a segment begins, or it is padding (segment 0)."""
    before = ops.pad(segments[:, :-1], ((0, 0), (1, 0)))
    return ops.logical_or(segments != before, segments == 0)


def labels_of(input_ids, segments):
    """input_ids and segments int32 [batch, length] -> labels int32: the ids, and -100 where nothing is predicted."""
    return ops.where(begins_in(segments), IGNORED, input_ids)


def vocabulary_cross_entropy(hidden, table, targets):
    """-log softmax(hidden @ table.T)[target] of each place.

    Where there would be more than CHUNK_ELEMENTS logits, they are made for a part of the vocabulary at a time, the sum
    of the softmax on the way (Milakov and Gimelshein 2018), and once more in the backward pass: 8 x 1,024 places and
    50,257 tokens would be 1.6 GB in float32, several times. The result is the same.

    Args:
        hidden: [batch, length, width].
        table: [vocabulary, width].
        targets: int32 [batch, length]; IGNORED gives 0.

    Returns:
        float32 [batch, length].
    """
    vocabulary, width = table.shape
    table, valid = ops.cast(table, hidden.dtype), targets != IGNORED
    targets = ops.where(valid, targets, 0)
    places = None if None in hidden.shape else hidden.shape[0] * hidden.shape[1]
    if places is None or places * vocabulary <= CHUNK_ELEMENTS:
        losses = ops.sparse_categorical_crossentropy(targets, _logits(hidden, table), from_logits=True)
    else:
        step = max(CHUNK_ELEMENTS // places // 128, 1) * 128     # whole tiles of a TPU
        losses = _in_chunks(ops.reshape(hidden, (-1, width)), table, ops.reshape(targets, (-1,)), step)
        losses = ops.reshape(losses, ops.shape(targets))
    return ops.where(valid, losses, 0.0)


def _logits(hidden, table):
    """In the dtype of the hidden states first, as `GPT2LMHeadModel` gives them; then float32."""
    return ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")


def _in_chunks(hidden, table, targets, step):
    """hidden [places, width], table [vocabulary, width], targets [places] -> losses [places]; `step` tokens at a time.
    """
    behind = recompute.barrier()
    begins = range(0, table.shape[0], step)

    def is_target(part, begin):
        return ops.arange(begin, begin + part.shape[0], dtype="int32")[None] == targets[:, None]

    @ops.custom_gradient
    def losses_of(hidden, table):
        largest = ops.full((hidden.shape[0],), -1e30, "float32")
        total = of_target = ops.zeros_like(largest)
        for begin in begins:
            part = table[begin:begin + step]
            logits = _logits(hidden, part)
            before, largest = largest, ops.maximum(largest, ops.max(logits, axis=-1))
            total = total * ops.exp(before - largest) + ops.sum(ops.exp(logits - largest[:, None]), axis=-1)
            of_target = of_target + ops.sum(ops.where(is_target(part, begin), logits, 0.0), axis=-1)
        log_total = largest + ops.log(total)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            h, again, upstream = behind(hidden, table, upstream)
            to_hidden, to_table = 0.0, []
            for begin in begins:
                part = again[begin:begin + step]
                with keras.name_scope(recompute.AGAIN):
                    logits = _logits(h, part)
                error = ops.exp(logits - log_total[:, None]) - ops.cast(is_target(part, begin), "float32")
                error = ops.cast(error * upstream[:, None], h.dtype)
                to_hidden = to_hidden + ops.cast(ops.matmul(error, part), "float32")
                to_table.append(ops.matmul(ops.transpose(error), h))
            return ops.cast(to_hidden, h.dtype), ops.concatenate(to_table)

        return log_total - of_target, gradient

    return losses_of(hidden, table)


@keras.saving.register_keras_serializable("tfhf")
class MeanTokenLoss(keras.losses.Loss):
    """Mean over an example's own tokens of the losses that the model gives (`GPT2LMHeadModel` with labels).

    With sample weights proportional to the number of labels that count, the batch loss is the mean over all tokens.
    """

    def __init__(self, name="mean_token_loss", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        """y_true labels int [batch, length], y_pred losses float32 [batch, length] -> float32 [batch]."""
        count = ops.sum(ops.cast(y_true[:, 1:] != IGNORED, "float32"), axis=-1)
        return ops.sum(y_pred, axis=-1) / ops.maximum(count, 1.0)
