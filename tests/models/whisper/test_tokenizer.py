"""Whisper's tokenizer and processor against transformers, on tiny.en's real tokenizer, and the in-graph decoder."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.tokenizer import TranscriptTooLong, WhisperTokenizer, tiny_tokenizer_json
from tfhf.tokenizers.byte_level import ByteLevelDecoder, byte_of_character, token_bytes

TEXTS = ["Please hold while I try that extension.", " Café naïve, œuvre… “quoted”", "हिन्दी भाषा", "emoji 🙂👩‍👩‍👧 done",
         "  runs   of spaces \n\tand tabs ", "1,234.56 at 5:30", "", "don't <|endoftext|> stop", "日本語とEnglish"]


@pytest.fixture(scope="module")
def real(assets):
    return WhisperTokenizer(assets("whisper-tiny.en") / "tokenizer.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    tiny_tokenizer_json(path)
    return WhisperTokenizer(path)


@pytest.fixture(scope="module")
def theirs(real, tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    folder = tmp_path_factory.mktemp("processor")
    WhisperProcessor(WhisperFeatureExtractor(), real).save_pretrained(folder)
    return transformers.WhisperProcessor.from_pretrained(folder)


def test_equals_transformers(real, theirs):
    for text in TEXTS:
        ids = real.encode(text)
        if "<|" not in text:
            assert ids == theirs.tokenizer(text, add_special_tokens=False).input_ids
        assert real.decode(ids) == text
        assert real.decode([50257, 50362, *ids, 50256, 50256]) == text
        assert theirs.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) in (
            text, text.replace("<|endoftext|>", ""))
    assert theirs.tokenizer.convert_tokens_to_ids("<|notimestamps|>") == real.special.no_timestamps


def test_features_equal_transformers(theirs):
    rng = np.random.default_rng(0)
    audio = [rng.normal(0, 0.1, 48000).astype("float32"), rng.normal(0, 0.02, 500000).astype("float32")]
    expected = theirs.feature_extractor(audio, sampling_rate=16000, return_tensors="np").input_features
    got = WhisperFeatureExtractor()(audio, sampling_rate=16000)
    assert got.shape == (2, 80, 3000)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_tiny_en_special_tokens_and_suppressed_ones(real, assets):
    special = real.special
    assert (special.end, special.start, special.no_timestamps, special.first_timestamp) == (50256, 50257, 50362, 50363)
    assert real.vocab_size == 51864 and not special.multilingual
    suppressed = json.loads((assets("whisper-tiny.en") / "config.json").read_text())["suppress_ids"]
    assert real.non_speech_tokens() == [number for number in suppressed if number < special.end]


def test_labels_prefix_and_limit(tiny):
    assert tiny.labels("hi") == [257, 265, 104, 105, 256] and tiny.prefix_tokens(timestamps=True) == [257]
    assert tiny.get_decoder_prompt_ids() == [(1, 265)]
    assert len(tiny.labels("x" * 29, max_length=32)) == 32
    with pytest.raises(TranscriptTooLong, match="'xxx.*' has 33 tokens.*at most 32"):
        tiny.labels("x" * 30, max_length=32)


def test_timestamps_and_ignored_labels(tiny):
    first = tiny.special.first_timestamp
    ids = [257, first, 104, 105, first + 60, -100, 256]
    assert tiny.decode(ids) == "hi"
    assert tiny.decode(ids, decode_with_timestamps=True) == "<|0.00|>hi<|1.20|>"
    assert tiny.decode(ids[:3], skip_special_tokens=False) == "<|startoftranscript|>h"
    assert tiny.batch_decode([[104, 256], [-100, 105]]) == ["h", "i"]


def test_languages_by_code_and_name(tiny):
    assert tiny.language_code("English") == "en" and tiny.language_code("zh") == "zh" == tiny.language_code("Mandarin")
    with pytest.raises(ValueError, match="Unknown language 'Klingon'"):
        tiny.language_code("Klingon")
    with pytest.raises(ValueError, match="Unknown language 'de'"):  # this vocabulary has two languages only
        tiny.language_code("de")


def test_not_a_whisper_tokenizer(tmp_path, tiny):
    content = json.loads(open(tiny.path, encoding="utf-8").read())
    broken = {**content, "added_tokens": content["added_tokens"][:1]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="lacks the special tokens"):
        WhisperProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        WhisperProcessor.from_pretrained(tmp_path.parent)
    content["model"]["vocab"]["中"] = content["model"]["vocab"].pop("A")
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not byte-level"):
        token_bytes(tmp_path / "other.json", 1767, 256)


def test_processor_errors(tiny):
    processor = WhisperProcessor(WhisperFeatureExtractor(), tiny)
    assert processor(text=["a", "bc"])["labels"] == [[97], [98, 99]]
    with pytest.raises(ValueError, match="got 44100 Hz"):
        processor(audio=np.zeros(10), sampling_rate=44100)
    with pytest.raises(ValueError, match=r"audio 0: got shape \(0,\)"):
        processor(audio=np.zeros(0), sampling_rate=16000)
    with pytest.raises(ValueError, match="Give audio, text, or both"):
        processor()


def test_byte_table_is_a_bijection():
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256)) and table["Ġ"] == 32 and table["A"] == 65


def _rows(tokenizer, texts, extra=()):
    rows = [tokenizer.encode(text) + list(extra) for text in texts]
    width = max(map(len, rows))
    return np.array([row + [tokenizer.special.end] * (width - len(row)) for row in rows], "int32")


def test_in_graph_decoding_equals_python(real):
    decoder = ByteLevelDecoder(real.path, real.vocab_size, real.special.end)
    ids = _rows(real, TEXTS, extra=(50400, 50257))
    decode = tf.function(decoder.decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    assert [text.decode() for text in decode(ids).numpy()] == real.batch_decode(ids)


def test_in_graph_decoding_of_broken_utf8_equals_python(tiny):
    """A character cut by the token limit, lone continuation bytes, overlong and surrogate forms."""
    rng = np.random.default_rng(0)
    rows = [[0xE0, 0xA4], [0x61, 0xF0, 0x9F, 0x99], [0x80, 0x62], [0xC0, 0xAF], [0xED, 0xA0, 0x80], [0xFF, 0xFE, 0x63],
            *rng.integers(0, 256, (200, 6)).tolist()]
    ids = np.array([row + [256] * (6 - len(row)) for row in rows], "int32")
    decoder = ByteLevelDecoder(tiny.path, tiny.vocab_size, 256)
    assert [text.decode() for text in decoder.decode(ids).numpy()] == tiny.batch_decode(ids)
