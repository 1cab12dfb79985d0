"""wav2vec2's processor: inputs against transformers, files of both generations, refusals."""

import json

import numpy as np
import pytest

from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer

TOKENIZER = Wav2Vec2CTCTokenizer({token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ABC"])})


def _clips(*lengths):
    rng = np.random.default_rng(0)
    # Away from zero and of different loudness, one of them silent: what normalising is about.
    return [(0.1 * place + rng.normal(0, 0.01 + 0.1 * place, n) * (place > 0)).astype("float32")
            for place, n in enumerate(lengths)]


@pytest.mark.parametrize("normalize", [True, False])
def test_inputs_equal_transformers(normalize):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    clips = _clips(900, 16000, 5000, 1)
    theirs = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    ours = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    for length, options in ((None, {"padding": True}), (20000, {"padding": "max_length", "max_length": 20000})):
        expected = theirs(clips, sampling_rate=16000, return_tensors="np", **options)
        got = ours(clips, sampling_rate=16000, max_length=length)
        assert got["input_values"].dtype == np.float32 and got["input_lengths"].dtype == np.int32
        np.testing.assert_allclose(got["input_values"], expected["input_values"], atol=1e-6)
        np.testing.assert_array_equal(got["input_lengths"], expected["attention_mask"].sum(-1))
    np.testing.assert_allclose(ours(clips[1])["input_values"], theirs(clips[1], sampling_rate=16000,
                               return_tensors="np")["input_values"], atol=1e-6)


def test_filled_up_to_the_first_bucket_that_holds_the_longest():
    extractor = Wav2Vec2FeatureExtractor()
    assert extractor(_clips(10, 30), max_length=(20, 30, 40))["input_values"].shape == (2, 30)
    assert extractor(_clips(10, 31), max_length=(20, 30, 40))["input_values"].shape == (2, 40)
    alone = extractor(_clips(10, 31)[1], max_length=64)["input_values"][0]
    np.testing.assert_array_equal(alone, extractor(_clips(10, 31), max_length=64)["input_values"][1])
    assert not alone[31:].any()
    with pytest.raises(ValueError, match="audio 1: 41 samples; expected at most 40"):
        extractor(_clips(10, 41), max_length=(20, 40))


def test_window():
    extractor = Wav2Vec2FeatureExtractor()
    samples = np.array([0.0, 0.5, -1.0, 1.0, 2.0, -3 / 32768], "float32")
    made = extractor.window(samples, 8)
    assert made["input_values"].dtype == np.int16 and made["input_lengths"] == 6
    assert made["input_lengths"].dtype == np.int32 and made["input_lengths"].shape == ()
    assert made["input_values"].tolist() == [0, 16384, -32768, 32767, 32767, -3, 0, 0]
    with pytest.raises(ValueError, match=r"a\.wav: 2\.0 s, expected at most 1\.0 s"):
        extractor.window(np.zeros(32000), 16000, name="a.wav")


def test_saved_and_loaded(tmp_path):
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False), TOKENIZER).save_pretrained(tmp_path)
    again = Wav2Vec2Processor.from_pretrained(tmp_path)
    assert again.feature_extractor.do_normalize is False and again.feature_extractor.sampling_rate == 16000
    assert again.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    answer = again(_clips(100, 50), 16000, text=["AB C", "A"], max_length=128)
    assert answer["input_values"].shape == (2, 128) and answer["input_lengths"].tolist() == [100, 50]
    assert answer["labels"] == [[5, 6, 4, 7], [5]] and again(text="A") == {"labels": [5]}
    assert again.decode([5, 5, 0, 5]) == "AA" and again.batch_decode([[5], [6]]) == ["A", "B"]
    with pytest.raises(ValueError, match="Give audio, text, or both"):
        again()


def test_files_serve_transformers_and_theirs_serve_us(tmp_path):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False), TOKENIZER).save_pretrained(tmp_path / "ours")
    theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "ours")
    assert theirs.feature_extractor.do_normalize is False and theirs.feature_extractor.return_attention_mask
    assert theirs.tokenizer("AB C").input_ids == [5, 6, 4, 7]
    theirs.save_pretrained(tmp_path / "theirs")   # transformers 5: one processor_config.json
    assert Wav2Vec2Processor.from_pretrained(tmp_path / "theirs").feature_extractor.do_normalize is False


def test_an_extractor_without_a_tokenizer(tmp_path):
    """Pretrained checkpoints, such as XLSR, have no vocabulary; some have no settings either."""
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).do_normalize is True
    with pytest.raises(FileNotFoundError, match="has no vocab.json"):
        Wav2Vec2Processor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(
        {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80}))
    with pytest.raises(ValueError, match="settings of a WhisperFeatureExtractor, feature_size 80"):
        Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)


def test_refusals():
    extractor = Wav2Vec2FeatureExtractor()
    for audio, rate, message in ((np.zeros(5), 8000, "got 8000 Hz; this model was trained at 16000"),
                                 ([], None, "an empty list"), ([np.zeros(0)], None, "audio 0: got shape"),
                                 (np.zeros((5, 2, 2)), None, "expected mono"), (np.ones(5, "int16"), None, "got int16"),
                                 ([np.zeros(3), np.array([np.inf])], None, "audio 1: has samples that are not finite")):
        with pytest.raises(ValueError, match=message):
            extractor(audio, rate)
