"""Beam search against pyctcdecode on a real recogniser's logits, as recorded by tests/record_beam_search.py."""

from pathlib import Path

import numpy as np
import pytest

from tests.record_beam_search import BLANK, DELIMITER, LETTERS, dense, hot_words, language_model
from tfhf.decoding.compile import compiled
from tfhf.decoding.ctc import prefix_beam_search
from tfhf.decoding.ngram import NGramModel
from tfhf.decoding.words import WordTrie

BUCKETS = (100, 200, 400)


@pytest.fixture(scope="module")
def recorded():
    """The recorded arrays, and the log-probabilities [frames, symbols] of each clip."""
    arrays = dict(np.load(Path(__file__).parents[1] / "fixtures" / "beam_search.npz"))
    ends, clips = np.cumsum(arrays["counts"], dtype="int64"), []
    for frames, begin, end in zip(arrays["frames"], [0, *ends[:-1]], ends):
        clips.append(dense(int(frames), np.cumsum(arrays["places"][begin:end], dtype="int64"),
                           arrays["values"][begin:end]))
    return arrays, clips


def _spoken(ids):
    return "".join(LETTERS[symbol] for symbol in ids if symbol >= 0).split()


def _answers(clips, beams, **options):
    """Of each clip: the words, and the score, of the best beam."""
    search = compiled(lambda logits, lengths: prefix_beam_search(
        logits, lengths, beam_width=beams, blank_index=BLANK, word_delimiter=DELIMITER, **options), None)
    found = []
    for clip in clips:
        logits = np.zeros((1, min(b for b in BUCKETS if b >= len(clip)), clip.shape[1]), "float32")
        logits[0, :len(clip)] = clip
        result = search(logits, np.array([len(clip)], "int32"))
        found.append((_spoken(np.asarray(result["ids"])[0, 0]), float(result["scores"][0, 0])))
    return found


@pytest.mark.parametrize("way", ["model", pytest.param("plain", marks=pytest.mark.nightly),
                                 pytest.param("hot", marks=pytest.mark.nightly)])
def test_the_best_beam_is_pyctcdecodes(recorded, way, tmp_path):
    """At its default settings: 100 beams and symbols of log p >= -5. It prunes otherwise (beams ten nats behind the
    best, and all but the best of those that end in the same words), so one of the two may lose what the other keeps:
    where answers differ, a wider beam of ours finds theirs or a better one."""
    arrays, clips = recorded
    options = {}
    if way == "model":
        (tmp_path / "lm.arpa").write_text(language_model(clips))
        options["language_model"] = NGramModel.from_arpa(tmp_path / "lm.arpa", LETTERS)
    if way == "hot":
        options["hot_words"] = WordTrie.of_hot_words(hot_words(clips), LETTERS)
    theirs = [_spoken([int(symbol) for symbol in text.split(",") if symbol])
              for text in bytes(arrays[f"{way}_texts"]).decode().split(";")]
    ours = _answers(clips, 100, **options)
    same = np.array([words == other for (words, _), other in zip(ours, theirs)])
    ahead = np.array([score for _, score in ours]) - arrays[f"{way}_scores"]
    print(f"\n{way}: {same.sum()} of {len(same)} = {same.mean():.2%} equal; the others, ours minus theirs: "
          f"{' '.join(f'{value:+.2f}' for value in sorted(ahead[~same]))}")
    assert same.mean() >= 0.95
    differing = np.flatnonzero(~same)
    wide = [score for _, score in _answers([clips[number] for number in differing], 500, **options)]
    behind = arrays[f"{way}_scores"][differing] - np.array(wide)
    print(f"with 500 beams theirs is ahead by {behind.max():.3f} at most")
    assert behind.max() < 0.05
