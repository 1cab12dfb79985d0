"""Forced alignment against all alignments of small cases, and the times of words."""

import itertools

import numpy as np
import pytest
from keras import ops

from tfhf.decoding.compile import compiled
from tfhf.decoding.ctc import greedy
from tfhf.decoding.ctc_alignment import align, word_times


def _align(logits, labels, logit_lengths, label_lengths, blank, xla):
    run = compiled(lambda *args: align(*args, blank_index=blank), xla)
    arrays = [logits, *(np.asarray(x, "int32") for x in (labels, logit_lengths, label_lengths))]
    return {name: np.asarray(value) for name, value in run(*map(ops.convert_to_tensor, arrays)).items()}


def _best(logits, labels, blank):
    """(score, path) of the likeliest path that writes the labels, by trying all of them."""
    scores = logits.astype("float64")
    scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    best = -np.inf, None
    for path in itertools.product(sorted({blank, *labels}), repeat=len(scores)):
        if [s for i, s in enumerate(path) if s != blank and (i == 0 or path[i - 1] != s)] == list(labels):
            best = max(best, (scores[np.arange(len(path)), list(path)].sum(), path), key=lambda pair: pair[0])
    return best


CASES = [(7, [1, 2, 1]), (6, [1, 1, 2]), (5, [1, 1, 1]), (4, [1, 1, 1]), (3, []), (1, [2]), (7, [3, 3]), (2, [1, 2, 3]),
         (0, []), (0, [1])]


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("xla", [False, True])
def test_the_best_of_all_alignments(blank, xla):
    logits = np.random.default_rng(blank).normal(0, 2, (len(CASES), 7, 5)).astype("float32")
    labels = np.full((len(CASES), 4), -100, "int32")
    for row, (_, label) in enumerate(CASES):
        labels[row, :len(label)] = label
    lengths = [length for length, _ in CASES]
    result = _align(logits, labels, lengths, [len(label) for _, label in CASES], blank, xla)
    for row, (length, label) in enumerate(CASES):
        score, path = _best(logits[row, :length], label, blank)
        n = len(label)
        if path is None:
            assert result["scores"][row] == -np.inf and (result["label_scores"][row] == -np.inf).all()
            assert (result["starts"][row] == -1).all() and (result["ends"][row] == -1).all()
            continue
        assert result["scores"][row] == pytest.approx(score, abs=1e-5)
        own = logits[row, :length] - np.log(np.exp(logits[row, :length]).sum(-1, keepdims=True))
        rebuilt = np.full(length, blank)
        for index, symbol in enumerate(label):
            start, end = result["starts"][row, index], result["ends"][row, index]
            assert 0 <= start < end <= length
            rebuilt[start:end] = symbol
            assert result["label_scores"][row, index] == pytest.approx(own[start:end, symbol].sum(), abs=1e-5)
        assert tuple(rebuilt) == path
        assert (result["starts"][row, n:] == -1).all() and (result["label_scores"][row, n:] == 0).all()


def test_the_greedy_text_aligns_where_greedy_read_it():
    logits = np.random.default_rng(2).normal(0, 6, (4, 120, 12)).astype("float32")
    lengths = np.array([120, 77, 31, 1], "int32")
    read = {name: np.asarray(value) for name, value in greedy(logits, lengths).items()}
    result = _align(logits, read["ids"], lengths, read["lengths"], 0, False)
    np.testing.assert_array_equal(result["starts"], read["starts"])
    np.testing.assert_array_equal(result["ends"], read["ends"])
    np.testing.assert_allclose(result["scores"], read["scores"], rtol=1e-5)


def test_more_labels_than_the_clip_has_frames_or_none_at_all():
    logits = np.zeros((2, 3, 4), "float32")
    result = _align(logits, np.ones((2, 9)), [3, 3], [9, 1], 0, False)
    assert result["scores"][0] == -np.inf and np.isfinite(result["scores"][1])
    empty = _align(logits, np.zeros((2, 0)), [3, 2], [0, 0], 0, False)
    assert empty["starts"].shape == (2, 0)
    np.testing.assert_allclose(empty["scores"], np.log(0.25) * np.array([3, 2]), rtol=1e-6)
    one = _align(logits[:, :1], np.ones((2, 1)), [1, 0], [1, 0], 0, False)
    assert list(one["ends"][:, 0]) == [1, -1] and one["scores"][1] == 0


def test_times_of_words():
    delimiter = 4
    ids = np.array([[1, 2, delimiter, 3, delimiter, delimiter, 1, 1], [delimiter, 2, 2, -1, -1, -1, -1, -1],
                    [-1] * 8], "int32")
    starts = np.array([[0, 2, 5, 6, 8, 9, 11, 14], [3, 4, 7] + [-1] * 5, [-1] * 8], "int32")
    result = word_times(ids, starts, np.where(starts < 0, -1, starts + 1), delimiter, seconds_per_frame=0.5)
    assert list(np.asarray(result["counts"])) == [3, 1, 0]
    np.testing.assert_allclose(result["starts"][0], [0, 3, 5.5] + [-1] * 5)
    np.testing.assert_allclose(result["ends"][0], [1.5, 3.5, 7.5] + [-1] * 5)
    np.testing.assert_allclose(result["starts"][1], [2] + [-1] * 7)
    np.testing.assert_allclose(result["ends"][1], [4] + [-1] * 7)
