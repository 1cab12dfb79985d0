"""CTC decoding against all prefixes and all alignments of small cases, in plain Python."""

import itertools
import math

import numpy as np
import pytest
from keras import ops

from tfhf.decoding.compile import compiled
from tfhf.decoding.ctc import compact, greedy, prefix_beam_search
from tfhf.decoding.words import WordTrie

FRAMES, SYMBOLS = 5, 4


def _logits(seed, batch=3, frames=FRAMES, symbols=SYMBOLS, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (batch, frames, symbols)).astype("float32")


def _search(logits, lengths, xla=False, **options):
    options = {"token_min_logp": -np.inf, **options}
    decode = compiled(lambda logits, lengths: prefix_beam_search(logits, lengths, **options), xla)
    result = decode(ops.convert_to_tensor(logits), ops.convert_to_tensor(np.asarray(lengths, "int32")))
    return {name: np.asarray(value) for name, value in result.items()}


def _written(path, blank, delimiter=None):
    """What an alignment writes: repeats once, no blanks, delimiters only between words."""
    symbols = [s for i, s in enumerate(path) if s != blank and (i == 0 or path[i - 1] != s)]
    if delimiter is None:
        return tuple(symbols)
    words = "".join(map(chr, symbols)).split(chr(delimiter))
    return tuple(map(ord, chr(delimiter).join(filter(None, words))))


def _every_prefix(logits, length, blank, delimiter=None):
    """{symbols: log-probability} summed over all alignments of one clip."""
    scores = logits[:length].astype("float64")
    scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    found = {}
    for path in itertools.product(range(scores.shape[1]), repeat=length):
        written = _written(path, blank, delimiter)
        score = scores[np.arange(length), list(path)].sum()
        found[written] = np.logaddexp(found.get(written, -np.inf), score)
    return found


@pytest.mark.parametrize("blank, delimiter", [(0, None), (2, None), (0, 3), (3, 0)])
@pytest.mark.parametrize("xla", [False, True])
def test_a_wide_beam_finds_every_prefix_with_its_exact_probability(blank, delimiter, xla):
    logits, lengths = _logits(1), [5, 3, 4]
    # Twice as wide as there are prefixes: a sentence with and without a delimiter at its end are two until the end.
    result = _search(logits, lengths, xla, beam_width=400, blank_index=blank, word_delimiter=delimiter)
    for row, length in enumerate(lengths):
        every = _every_prefix(logits[row], length, blank, delimiter)
        ranked = sorted(every, key=every.get, reverse=True)
        assert np.isfinite(result["scores"][row]).sum() == len(every)
        got = {tuple(ids[:n]): score for ids, n, score in zip(*(result[k][row] for k in ("ids", "lengths", "scores")))
               if np.isfinite(score)}
        assert set(got) == set(every)
        for prefix in every:
            assert got[prefix] == pytest.approx(every[prefix], abs=2e-5)
        assert [tuple(ids[:n]) for ids, n in zip(result["ids"][row][:5], result["lengths"][row])] == ranked[:5]
        assert (result["ids"][row][result["lengths"][row][:, None] <= np.arange(FRAMES)] == -1).all()
    assert sum(math.exp(score) for score in result["scores"][0] if np.isfinite(score)) == pytest.approx(1, abs=1e-4)


class _Plain:
    """Prefix beam search with dictionaries, the text book's way (Hannun et al. 2014, algorithm 1)."""

    def __init__(self, beams, blank):
        self.beams, self.blank = beams, blank

    def __call__(self, logits):
        scores = logits.astype("float64")
        scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        beam = {(): (0.0, -np.inf)}
        for row in scores:
            new = {}

            def add(prefix, silent, voiced):
                old = new.get(prefix, (-np.inf, -np.inf))
                new[prefix] = np.logaddexp(old[0], silent), np.logaddexp(old[1], voiced)

            for prefix, (silent, voiced) in beam.items():
                total = np.logaddexp(silent, voiced)
                add(prefix, total + row[self.blank], -np.inf)
                for symbol, score in enumerate(row):
                    if symbol == self.blank:
                        continue
                    if prefix and prefix[-1] == symbol:
                        add(prefix, -np.inf, voiced + score)
                        add((*prefix, symbol), -np.inf, silent + score)
                    else:
                        add((*prefix, symbol), -np.inf, total + score)
            best = sorted(new, key=lambda prefix: np.logaddexp(*new[prefix]), reverse=True)[:self.beams]
            beam = {prefix: new[prefix] for prefix in best}
        return {prefix: np.logaddexp(*pair) for prefix, pair in beam.items()}


@pytest.mark.parametrize("beams", [1, 3, 16])
@pytest.mark.parametrize("xla", [False, True])
def test_a_narrow_beam_prunes_and_merges_as_the_text_book_says(beams, xla):
    """Prefixes that fall out of the beam and come back must meet those that grew from them."""
    frames, symbols = 60, 6
    logits = _logits(5, 8, frames, symbols, 1.0)
    result = _search(logits, [frames] * 8, xla, beam_width=beams, symbols_per_frame=symbols)
    for row in range(8):
        expected = _Plain(beams, 0)(logits[row])
        got = {tuple(ids[:n]): score for ids, n, score in zip(*(result[k][row] for k in ("ids", "lengths", "scores")))}
        assert set(got) == set(expected)
        for prefix in expected:
            assert got[prefix] == pytest.approx(expected[prefix], abs=1e-4)


def test_a_clips_answer_does_not_depend_on_its_bucket_or_batch():
    logits = _logits(7, 4, 40, 6, 3.0)
    lengths = [40, 9, 23, 0]
    together = _search(logits, lengths, beam_width=8, max_length=30)
    for row, length in enumerate(lengths):
        alone = _search(logits[row:row + 1, :max(length, 1)], [length], beam_width=8, max_length=30)
        for name in ("ids", "lengths", "starts", "ends"):
            np.testing.assert_array_equal(together[name][row], alone[name][0], name)
        np.testing.assert_allclose(together["scores"][row], alone["scores"][0], atol=1e-4)
    assert together["lengths"][3][0] == 0 and together["scores"][3][0] == 0


def test_probabilities_far_apart_and_impossible_symbols_give_no_nan():
    logits = _logits(8, 2, 300, 5, 30.0)
    logits[:, :, 4] = -np.inf
    logits[1, 100:, 1:] = -1e9   # as a padded clip's logits are
    result = _search(logits, [300, 300], beam_width=16)
    assert not any(np.isnan(value).any() for value in result.values())
    assert 4 not in result["ids"] and result["ends"][1][0].max() <= 100
    expected = _Plain(16, 0)(logits[1, :100, :4])
    assert result["scores"][1][0] == pytest.approx(max(expected.values()), rel=1e-5)


def test_frames_are_those_of_the_likeliest_way():
    #           a faint 1, then a strong one; 2 is held for three frames
    clear = [0, 1, 1, 0, 2, 2, 2, 0, 2, 0]
    logits = np.full((1, len(clear), 3), -6.0, "float32")
    logits[0, np.arange(len(clear)), clear] = 6.0
    logits[0, 0, 1] = 2.0
    result = _search(logits, [len(clear)], beam_width=4)
    best = greedy(ops.convert_to_tensor(logits), np.array([len(clear)]))
    for answer in ({name: value[0, 0] for name, value in result.items()},
                   {name: np.asarray(value)[0] for name, value in best.items()}):
        assert list(answer["ids"][:4]) == [1, 2, 2, -1] and answer["lengths"] == 3
        assert list(answer["starts"][:4]) == [1, 4, 8, -1]
        assert list(answer["ends"][:4]) == [3, 7, 9, -1]


def test_a_prefix_is_no_longer_than_it_may_be():
    logits, lengths = _logits(3, frames=6), [6, 6, 6]
    result = _search(logits, lengths, beam_width=300, max_length=2)
    assert result["ids"].shape == (3, 300, 2) and result["lengths"].max() == 2
    every = _every_prefix(logits[0], 6, 0)
    for ids, length, score in zip(*(result[name][0] for name in ("ids", "lengths", "scores"))):
        if np.isfinite(score):
            assert score == pytest.approx(every[tuple(ids[:length])], abs=2e-5)


@pytest.mark.parametrize("options", [{"symbols_per_frame": 2}, {"token_min_logp": -3.0}])
def test_only_the_likeliest_symbols_of_a_frame_lengthen_a_prefix(options):
    logits = _logits(4, 1, 5, 6)
    result = _search(logits, [5], beam_width=500, **options)
    shortlist = [set(np.argsort(row[1:])[-2:] + 1) for row in logits[0]]
    if "token_min_logp" in options:
        scores = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
        shortlist = [{*np.flatnonzero(row >= -3.0), row.argmax()} for row in scores]
        assert all(0 < len(symbols) < 6 for symbols in shortlist)
    for ids, length, starts, score in zip(*(result[name][0] for name in ("ids", "lengths", "starts", "scores"))):
        if np.isfinite(score):
            assert all(symbol in shortlist[frame] for symbol, frame in zip(ids[:length], starts[:length]))


@pytest.mark.parametrize("xla", [False, True])
def test_greedy_writes_the_best_path(xla):
    logits, lengths = _logits(9, 6, 30, 4), np.array([30, 1, 0, 17, 29, 8], "int32")
    decode = compiled(lambda logits, lengths: greedy(logits, lengths, blank_index=2), xla)
    found = decode(ops.convert_to_tensor(logits), ops.convert_to_tensor(lengths))
    result = {name: np.asarray(value) for name, value in found.items()}
    for row, length in enumerate(lengths):
        path = list(logits[row, :length].argmax(-1))
        expected = _written(path, 2)
        n = result["lengths"][row]
        assert tuple(result["ids"][row, :n]) == expected and n == len(expected)
        for symbol, start, end in zip(expected, result["starts"][row], result["ends"][row]):
            assert set(path[start:end]) == {symbol} and (start == 0 or path[start - 1] != symbol)
            assert end == length or path[end] != symbol
        for name in ("ids", "starts", "ends"):
            assert (result[name][row, n:] == -1).all()
        scores = logits[row, :length] - np.log(np.exp(logits[row, :length]).sum(-1, keepdims=True))
        assert result["scores"][row] == pytest.approx(scores.max(-1).sum(), abs=1e-4)


def test_compact_keeps_the_order():
    values = np.array([[5, 3, 9, 1], [1, 2, 3, 4]])
    keep = np.array([[True, False, True, True], [False, False, False, True]])
    np.testing.assert_array_equal(compact(values, keep), [[5, 9, 1, -1], [4, -1, -1, -1]])


def test_impossible_options_are_named():
    logits, lengths = _logits(0), np.array([5, 5, 5])
    with pytest.raises(ValueError, match="beam_width 0"):
        prefix_beam_search(logits, lengths, beam_width=0)
    hot = WordTrie.of_hot_words(["ab"], ["", "a", "b", " "])
    with pytest.raises(ValueError, match="word_delimiter"):
        prefix_beam_search(logits, lengths, beam_width=2, hot_words=hot)
    hot = WordTrie.of_hot_words(["ab"], ["", "a", "b", " ", "c"])
    with pytest.raises(ValueError, match="hot_words is over 5 symbols, expected 4"):
        prefix_beam_search(logits, lengths, beam_width=2, hot_words=hot, word_delimiter=3)
