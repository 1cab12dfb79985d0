"""When each symbol and each word was said: forced alignment of a known text, and the times of words."""

import numpy as np
from keras import ops

from tfhf.decoding.ctc import compact, log_probabilities

_NEVER = -1e30   # log of zero, finite so that no difference of two gives NaN


def align(logits, labels, logit_lengths, label_lengths, blank_index=0):
    """The likeliest alignment of known labels with the frames (Viterbi over labels and blanks, Graves et al. 2006).

    Shapes are static and lengths are data, as in `losses.ctc.ctc_loss`.

    Args:
        logits: float [batch, frames, symbols], before softmax.
        labels: int [batch, max_label], no blanks; what stands after a label's end counts for nothing.
        logit_lengths: int [batch], own frames of each clip.
        label_lengths: int [batch].
        blank_index: the blank symbol.

    Returns:
        dict: starts and ends int32 [batch, max_label], the first frame of each label and the one after its last;
        label_scores float32 [batch, max_label], the log-probability of the label over those frames; scores float32
        [batch], that of the whole alignment, blanks included. Behind a label's end spans are -1 and scores 0. Where no
        alignment exists (more labels than frames, a blank between equal neighbours counted) all spans are -1 and all
        scores -inf.
    """
    labels, logit_lengths, label_lengths = (ops.cast(x, "int32") for x in (labels, logit_lengths, label_lengths))
    asked = labels.shape[1]
    labels = ops.pad(labels, ((0, 0), (0, int(asked == 0))))   # all texts empty: one label that nothing reaches
    width = labels.shape[1]
    written = ops.arange(width, dtype="int32") < label_lengths[:, None]
    labels = ops.where(written, labels, blank_index)
    scores = log_probabilities(logits, logit_lengths, blank_index)
    batch, frames, symbols = ops.shape(scores)[0], scores.shape[1], scores.shape[2]

    # States: blank, label 0, blank, label 1, ..., blank. A label may be entered from the one before it, without the
    # blank between, unless they are the same.
    states = ops.reshape(ops.stack([ops.full_like(labels, blank_index), labels], axis=2), (batch, 2 * width))
    states = ops.pad(states, ((0, 0), (0, 1)), constant_values=blank_index)
    differs = ops.not_equal(states[:, 2:], states[:, :-2])
    is_label = np.arange(2 * width + 1) % 2 == 1
    skips = ops.logical_and(is_label[2:], differs)
    rows = ops.reshape(ops.transpose(scores, (0, 2, 1)), (-1, frames))
    rows = ops.take(rows, states + ops.arange(batch, dtype="int32")[:, None] * symbols, axis=0)
    emitted = ops.transpose(rows, (2, 0, 1))   # [frames, batch, states]

    def entered(best):
        """What each state can be entered from: [batch, states] from itself, the one before, the one before that."""
        back = ops.pad(best, ((0, 0), (2, 0)), constant_values=_NEVER)
        two_back = ops.where(ops.pad(skips, ((0, 0), (2, 0)), constant_values=False), back[:, :-2], _NEVER)
        return best, back[:, 1:-1], two_back

    def forward(best, emits):
        one, two, three = entered(best)
        best = ops.maximum(ops.maximum(one, two), three) + emits
        return best, best

    first = ops.where(ops.arange(2 * width + 1) < 2, emitted[0], _NEVER)
    _, bests = ops.scan(forward, first, emitted[1:])
    bests = ops.concatenate([first[None], bests], axis=0)
    # After a clip's end blank costs nothing, so the last blank has the best of both ends at the last frame.
    last_blank, last_label = 2 * label_lengths, ops.maximum(2 * label_lengths - 1, 0)
    last = ops.where(_at(bests[-1], last_label) > _at(bests[-1], last_blank), last_label, last_blank)

    def backward(state, best):
        candidates = ops.stack([_at(way, state) for way in entered(best)], axis=1)
        state = state - ops.cast(ops.argmax(candidates, axis=1), "int32")
        return state, state

    _, path = ops.scan(backward, last, bests[:-1], reverse=True)
    path = ops.transpose(ops.concatenate([path, last[None]], axis=0))   # [batch, frames]

    total = _at(bests[-1], last)
    possible = total > 0.5 * _NEVER
    path_scores = ops.take_along_axis(ops.transpose(emitted, (1, 0, 2)), path[:, :, None], axis=2)[:, :, 0]
    place = 2 * ops.arange(width, dtype="int32") + 1
    on_label = ops.equal(path[:, :, None], place)   # [batch, frames, max_label]
    label_scores = ops.sum(ops.where(on_label, path_scores[:, :, None], 0.0), axis=1)
    starts = ops.sum(ops.cast(path[:, :, None] < place, "int32"), axis=1)   # the path never goes back
    ends = starts + ops.sum(ops.cast(on_label, "int32"), axis=1)
    shown = ops.logical_and(written, possible[:, None])
    unsaid = ops.where(possible, 0.0, -float("inf"))[:, None]
    return {"starts": ops.where(shown, starts, -1)[:, :asked], "ends": ops.where(shown, ends, -1)[:, :asked],
            "label_scores": ops.where(shown, label_scores, unsaid)[:, :asked],
            "scores": ops.where(possible, ops.sum(path_scores, axis=1), -float("inf"))}


def _at(values, state):
    """values [batch, states] at state int32 [batch] -> [batch]."""
    return ops.take_along_axis(values, state[:, None], axis=1)[:, 0]


def word_times(ids, starts, ends, word_delimiter, seconds_per_frame=0.02):
    """When each word was said.

    Args:
        ids: int32 [batch, time], symbols, -1 behind the end, from `greedy`, a beam of `prefix_beam_search`, or labels.
        starts, ends: int32 [batch, time], their frames.
        word_delimiter: the symbol between words.
        seconds_per_frame: 0.02 for wav2vec2: 320 samples at 16 kHz.

    Returns:
        dict: starts and ends float32 [batch, time], seconds of each word, -1 behind the last one; counts int32 [batch].
    """
    in_word = ops.logical_and(ids >= 0, ops.not_equal(ids, word_delimiter))
    edge = ops.zeros_like(in_word[:, :1])
    before = ops.concatenate([edge, in_word[:, :-1]], axis=1)
    after = ops.concatenate([in_word[:, 1:], edge], axis=1)
    is_first = ops.logical_and(in_word, ops.logical_not(before))
    is_last = ops.logical_and(in_word, ops.logical_not(after))

    def seconds(frames, keep):
        frames = ops.cast(compact(frames, keep), "float32")
        return ops.where(frames < 0, -1.0, frames * seconds_per_frame)

    return {"starts": seconds(starts, is_first), "ends": seconds(ends, is_last),
            "counts": ops.sum(ops.cast(is_first, "int32"), axis=1)}
