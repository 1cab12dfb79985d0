"""Connectionist temporal classification (Graves et al. 2006), one value per example.

Forward-backward in log space with the closed-form gradient. Both directions run in one scan: backward is forward over
frames and labels turned round, so the batch is doubled and the loop is as long as the clip, not twice as long. What the
loop writes is only the label states; the blanks' share of a frame is what the labels leave. Every step takes the
largest state's whole part out, as an integer, so that float32 adds small numbers all along and the sum of what was
taken out is exact.

Measured need: this file may import tensorflow. On that backend `keras.ops.scan` stacks all that it carries, which is
twice the bytes here, and wants what is stacked to look like what is carried.
"""

import keras
from keras import ops

PADDING_LOGIT = -1e9   # of every symbol but blank, in frames after a clip's own end: there blank is certain
_NEVER = -1e30         # log of zero, finite so that no difference of two gives NaN


def logit_lengths_of(logits, blank_index=0):
    """Own frames of each clip from logits that say blank with certainty after its end, as `Wav2Vec2ForCTC` gives.

    Args:
        logits: float [batch, frames, symbols].
        blank_index: the blank symbol.

    Returns:
        int32 [batch].
    """
    symbols = logits.shape[-1]
    others = ops.where(ops.equal(ops.arange(symbols), blank_index), ops.cast(PADDING_LOGIT, logits.dtype), logits)
    own = ops.cast(ops.max(others, axis=-1) > 0.5 * PADDING_LOGIT, "int32")
    return ops.max(own * (1 + ops.arange(logits.shape[1], dtype="int32")), axis=-1)


def frames_needed(ids):
    """The least frames in which CTC can write a label: one for each symbol, and a blank between equal neighbours.

    Args:
        ids: int [symbols], without padding.
    """
    return len(ids) + sum(int(one == other) for one, other in zip(ids, ids[1:]))


def ctc_loss(logits, labels, logit_lengths, label_lengths, blank_index=0, zero_infinity=False):
    """Minus the log-probability of the labels, summed over all their alignments with the frames.

    Shapes are static and lengths are data: one program serves all lengths. Computed in float32 whatever comes in.

    Args:
        logits: float [batch, frames, symbols], before softmax.
        labels: int [batch, max_label], no blanks; what stands after a label's end counts for nothing.
        logit_lengths: int [batch], own frames of each clip, at most `frames`.
        label_lengths: int [batch], at most `max_label`.
        blank_index: the blank symbol.
        zero_infinity: give 0 with a gradient of 0, instead of infinity with a gradient of 0, where no alignment
            exists (more labels than frames, a blank between equal neighbours counted).

    Returns:
        float32 [batch].
    """
    logits = ops.convert_to_tensor(logits)
    labels, logit_lengths, label_lengths = (ops.cast(x, "int32") for x in (labels, logit_lengths, label_lengths))
    if labels.shape[1] == 0:   # all transcripts empty: one label state that nothing reaches
        labels = ops.pad(labels, ((0, 0), (0, 1)))
    labels = ops.where(ops.arange(labels.shape[1]) < label_lengths[:, None], labels, blank_index)

    @ops.custom_gradient
    def loss_with_gradient(logits):
        losses, gradients = _forward_backward(ops.cast(logits, "float32"), labels, logit_lengths, label_lengths,
                                              blank_index)
        possible = losses < -0.1 * _NEVER
        losses = ops.where(possible, losses, 0.0 if zero_infinity else float("inf"))
        gradients = ops.where(possible[:, None, None], gradients, 0.0)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            # An infinite loss may reach us through a mean; its gradient stays zero.
            scaled = ops.where(possible[:, None, None], ops.cast(upstream, "float32")[:, None, None] * gradients, 0.0)
            return ops.cast(scaled, logits.dtype)

        return losses, gradient

    return loss_with_gradient(logits)


def _forward_backward(logits, labels, logit_lengths, label_lengths, blank_index):
    """float32 logits [batch, frames, symbols] -> losses [batch], gradients [batch, frames, symbols]."""
    batch, frames, symbols = logits.shape
    batch = ops.shape(logits)[0] if batch is None else batch
    width = labels.shape[1]
    log_probs = ops.log_softmax(logits, axis=-1)
    log_probs = ops.maximum(log_probs, _NEVER)

    # Rows of frames are gathered, not single numbers: [batch * symbols, frames] -> [frames, batch, width].
    rows = ops.reshape(ops.transpose(log_probs, (0, 2, 1)), (-1, frames))
    index = ops.arange(batch)[:, None] * symbols + labels
    emitted = ops.take(rows, ops.reshape(index, (-1,)), axis=0)
    emitted = ops.transpose(ops.reshape(emitted, (-1, width, frames)), (2, 0, 1))
    blanks = ops.transpose(log_probs[:, :, blank_index])
    own = ops.arange(frames)[:, None] < logit_lengths

    def doubled(x):
        """[frames, batch, ...] with, as more rows of the batch, itself backwards in time (and in its labels)."""
        return ops.concatenate([x, ops.flip(x, axis=(0, 2) if len(x.shape) == 3 else 0)], axis=1)

    # State before the first frame: in the first blank. Backwards the labels' padding comes first and is never entered.
    both = ops.concatenate([labels, ops.flip(labels, axis=1)], axis=0)
    start = ops.concatenate([ops.zeros_like(label_lengths), width - label_lengths])
    places = ops.arange(width + 1)
    blank = ops.where(ops.equal(places, start[:, None]), 0.0, _NEVER)
    label = ops.full_like(blank[:, 1:], _NEVER)
    # A label may follow the one before it without a blank between, unless they are the same.
    skips = ops.concatenate([ops.zeros_like(both[:, :1]), both[:, :-1]], axis=1)
    skips = ops.not_equal(both, skips)
    offset = ops.zeros_like(blank[:, 0])
    never = ops.full_like(blank[:, :1], _NEVER)

    def step(carry, inputs):
        blank, label, offset = carry
        emits, silent, is_own = inputs
        # The sum a blank needs is the one a label needs too, so a pair of states costs two exponentials.
        arriving = _log_add_exp(blank, ops.concatenate([never, label], axis=1))   # [2 batch, width + 1]
        new_blank = arriving + silent[:, None]
        new_label = _log_add_exp(label, ops.where(skips, arriving[:, :-1], blank[:, :-1])) + emits
        whole = ops.ceil(ops.maximum(ops.max(new_blank, axis=1), ops.max(new_label, axis=1)))
        whole = ops.where(whole > 0.1 * _NEVER, whole, 0.0)
        blank = ops.where(is_own[:, None], new_blank - whole[:, None], blank)
        label = ops.where(is_own[:, None], new_label - whole[:, None], label)
        offset = ops.where(is_own, offset + whole, offset)
        return (blank, label, offset), (label, offset)

    (blank, label, offset), (states, offsets) = _scan(
        step, (blank, label, offset), (doubled(emitted), doubled(blanks), doubled(own)))

    last = places == label_lengths[:, None]
    ends = ops.where(last, blank[:batch], _NEVER)
    ends = _log_add_exp(ops.max(ends, axis=1), ops.max(ops.where(last[:, 1:], label[:batch], _NEVER), axis=1))
    losses = -(ends + offset[:batch])

    # Posterior of label state l at frame t: forward * backward / emission / total, offsets first, they are exact.
    shift = offsets[:, :batch] + ops.flip(offsets[:, batch:], axis=0) - offset[:batch] - ends
    states = states[:, :batch] + ops.flip(states[:, batch:], axis=(0, 2)) - emitted + shift[:, :, None]
    in_label = ops.arange(width) < label_lengths[:, None]
    posterior = ops.where(own[:, :, None] & in_label, ops.exp(ops.minimum(states, 0.0)), 0.0)
    one_hot = ops.one_hot(labels, symbols, dtype="float32")
    expected = ops.einsum("tbl,blc->btc", posterior, one_hot)
    silence = 1.0 - ops.sum(expected, axis=-1, keepdims=True)
    expected = expected + silence * ops.one_hot(blank_index, symbols, dtype="float32")
    gradients = ops.where(ops.transpose(own)[:, :, None], ops.exp(log_probs) - expected, 0.0)
    return losses, gradients


def _scan(step, carry, inputs):
    """`keras.ops.scan` with all that is carried but the first: (last carry, outputs stacked along the first axis)."""
    if keras.backend.backend() != "tensorflow":
        return ops.scan(step, carry, inputs)
    import tensorflow as tf

    length = inputs[0].shape[0]
    feeds = [tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]).unstack(x) for x in inputs]
    stacks = tuple(tf.TensorArray(x.dtype, length, element_shape=x.shape) for x in carry[1:])

    def body(i, carry, stacks):
        carry, outputs = step(carry, [feed.read(i) for feed in feeds])
        return i + 1, carry, tuple(stack.write(i, x) for stack, x in zip(stacks, outputs))

    _, carry, stacks = tf.while_loop(lambda i, *_: i < length, body, (0, carry, stacks), maximum_iterations=length)
    return carry, tuple(stack.stack() for stack in stacks)


def _log_add_exp(a, b):
    largest = ops.maximum(a, b)
    return largest + ops.log(1.0 + ops.exp(ops.minimum(a, b) - largest))


@keras.saving.register_keras_serializable("tfhf")
class CTCLoss(keras.losses.Loss):
    """`ctc_loss` for `compile`: `model.compile(loss=CTCLoss(model.config))`.

    The logits carry their own lengths: after a clip's end they say blank with certainty (`Wav2Vec2ForCTC`). Labels are
    padded with -100.

    Args:
        config: with `pad_token_id`, the blank, such as `Wav2Vec2Config`; or the blank's index itself.
        zero_infinity: a clip whose labels do not fit its frames counts 0 and teaches nothing, instead of infinity.
    """

    def __init__(self, config=0, zero_infinity=False, name="ctc_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.blank_index = config if isinstance(config, int) else config.pad_token_id
        self.zero_infinity = zero_infinity

    def call(self, y_true, y_pred):
        """y_true int [batch, max_label], y_pred logits [batch, frames, symbols] of any float -> float32 [batch]."""
        labels = ops.cast(y_true, "int32")   # keras.losses.Loss hands labels over as float32
        return ctc_loss(y_pred, labels, logit_lengths_of(y_pred, self.blank_index),
                        ops.sum(ops.cast(labels >= 0, "int32"), axis=1), self.blank_index, self.zero_infinity)

    def get_config(self):
        return {**super().get_config(), "config": self.blank_index, "zero_infinity": self.zero_infinity}
