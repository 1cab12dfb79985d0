"""A clip that is too short for its transcript is named, with both lengths and the setting that passes over it."""

import numpy as np
import pytest

from tfhf.losses.ctc import ctc_loss, frames_needed
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.labels import CTCLabels
from tfhf.models.wav2vec2.tokenizer import TranscriptTooLong, Wav2Vec2CTCTokenizer

CONFIG = Wav2Vec2Config()   # the published convolutions: 80 ms are 3 frames, a second is 49


@pytest.fixture(scope="module")
def tokenizer():
    return Wav2Vec2CTCTokenizer.from_corpus(["abcdefghijklmnopqrstuvwxyz"], log=lambda line: None)


@pytest.mark.parametrize("text, samples, symbols, needed, frames", [
    ("this transcript is longer than the clip has frames", 1280, 50, 50, 3),
    ("aaaa", 1360, 4, 7, 4),          # a blank between equal letters
    ("ab", 719, 2, 2, 1),
    ("a", 399, 1, 1, 0),              # less than one frame
    ("hello there", 3600, 11, 12, 11)])
def test_too_short(tokenizer, text, samples, symbols, needed, frames):
    words = (rf"^clip-9: '{text}' has {symbols} symbols, for which CTC needs {needed} frames, but the clip of "
             rf"{samples / 16000:.2f} s has {frames}; .*task.zero_infinity=true")
    with pytest.raises(TranscriptTooLong, match=words):
        CTCLabels(tokenizer, CONFIG).of_record(text.encode(), b"clip-9", samples, True)
    passed_over = CTCLabels(tokenizer, CONFIG, zero_infinity=True)
    assert len(passed_over.of_record(text.encode(), b"clip-9", samples, True)) == symbols


@pytest.mark.parametrize("text, samples", [("aaaa", 2320), ("ab", 720), ("", 100), ("a" * 25, 16000)])
def test_just_long_enough(tokenizer, text, samples):
    ids = CTCLabels(tokenizer, CONFIG).of_record(text.encode(), b"clip", samples, True)
    frames = max(CONFIG.feature_lengths(samples), 1)
    assert ids.dtype == "int32" and len(ids) == len(text)
    loss = ctc_loss(np.zeros((1, frames, 31), "float32"), np.array([[*ids, 0]]), [frames], [len(ids)])
    assert np.isfinite(loss).all()


def test_frames_needed_is_where_the_loss_becomes_finite():
    for ids in ([5], [5, 6, 7], [5, 5], [5, 5, 6, 6, 6], [5, 6, 5, 6]):
        needed = frames_needed(ids)
        lengths = [needed - 1, needed]
        losses = ctc_loss(np.zeros((2, needed, 9), "float32"), np.array([ids, ids]), lengths, [len(ids)] * 2)
        assert np.isfinite(losses).tolist() == [False, True], ids


def test_outside_training_it_is_reported_once(tokenizer):
    lines = []
    labels = CTCLabels(tokenizer, CONFIG, log=lines.append)
    for clip in (b"clip-1", b"clip-1", b"clip-2"):
        assert len(labels.of_record(b"abcd", clip, 720, False)) == 4
    assert [line.partition(":")[0] for line in lines] == ["clip-1", "clip-2"]
