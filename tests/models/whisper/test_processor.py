"""Whisper's processor: features against transformers, files of both generations, refusals."""

import json

import numpy as np
import pytest

from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    tiny_tokenizer_json(path)
    return WhisperTokenizer(path)


@pytest.mark.parametrize("bins", [80, 128])
def test_features_equal_transformers(bins):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    rng = np.random.default_rng(0)
    audio = [rng.normal(0, 0.1, 48000).astype("float32"), rng.normal(0, 0.02, 500000).astype("float32")]
    theirs = transformers.WhisperFeatureExtractor(bins)
    expected = theirs(audio, sampling_rate=16000, return_tensors="np").input_features
    got = WhisperFeatureExtractor(bins)(audio, sampling_rate=16000)
    assert got.shape == (2, bins, 3000) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_saved_and_loaded(tiny, tmp_path):
    WhisperProcessor(WhisperFeatureExtractor(128, 32000), tiny).save_pretrained(tmp_path)
    again = WhisperProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.num_mel_bins == 128 and again.feature_extractor.max_samples == 32000
    assert again.tokenizer.special == tiny.special
    assert (tmp_path / "tokenizer.json").read_text() == open(tiny.path, encoding="utf-8").read()


def test_folder_written_by_transformers(tiny, tmp_path):
    """transformers 5 puts the extractor's settings into processor_config.json."""
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    WhisperProcessor(WhisperFeatureExtractor(128), tiny).save_pretrained(tmp_path / "ours")
    transformers.WhisperProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = WhisperProcessor.from_pretrained(tmp_path / "theirs")
    assert again.feature_extractor.num_mel_bins == 128
    assert again.tokenizer.labels("hé") == tiny.labels("hé")


def test_bins_from_the_model_or_the_default(tiny, tmp_path):
    tiny.save(tmp_path)
    assert WhisperProcessor.from_pretrained(tmp_path).feature_extractor.num_mel_bins == 80
    (tmp_path / "config.json").write_text(json.dumps({"num_mel_bins": 128}))
    assert WhisperProcessor.from_pretrained(tmp_path).feature_extractor.num_mel_bins == 128


def test_refusals(tiny):
    processor = WhisperProcessor(WhisperFeatureExtractor(), tiny)
    assert processor(text=["a", "bc"])["labels"] == [[97], [98, 99]]
    for audio, rate, message in (
            (np.zeros(10), 44100, "got 44100 Hz"), (np.zeros(0), 16000, r"audio 0: got shape \(0,\)"),
            ([np.zeros(9), np.zeros((9, 2))], 16000, r"audio 1: got shape \(9, 2\)"),
            ([], 16000, "empty list"), (np.zeros(10, "int16"), 16000, "audio 0: got int16; expected floats"),
            (np.array([0.0, np.nan]), 16000, "audio 0: has samples that are not finite")):
        with pytest.raises(ValueError, match=message):
            processor(audio=audio, sampling_rate=rate)
    with pytest.raises(ValueError, match="Give audio, text, or both"):
        processor()
