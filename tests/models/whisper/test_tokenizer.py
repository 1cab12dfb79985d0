"""Whisper's tokenizer against transformers, on tiny.en's real file and on made-up ones."""

import json

import pytest

from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.special_tokens import LANGUAGES, NAME_TO_CODE
from tfhf.models.whisper.tokenizer import TranscriptTooLong, WhisperTokenizer, tiny_tokenizer_json

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
def multilingual(tmp_path_factory):
    """Bytes, fillers up to 50256, and the special tokens and ordinary timestamps of the published files."""
    path = tmp_path_factory.mktemp("multilingual") / "tokenizer.json"
    tiny_tokenizer_json(path, num_languages=99)
    content = json.loads(path.read_text("utf-8"))
    content["model"]["vocab"].update({f"x{number}": number for number in range(256, 50257)})
    for token in content["added_tokens"]:
        token["id"] += 50257 - 256
    content["added_tokens"] += [{**content["added_tokens"][0], "id": 50364 + i, "content": f"<|{0.02 * i:.2f}|>",
                                 "special": False} for i in range(1501)]
    path.write_text(json.dumps(content), encoding="utf-8")
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
    for text, message in (('{"model": {"type"', "is damaged, not JSON"),
                          ('{"model": {"type": "WordPiece"}}', "'WordPiece'")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            WhisperTokenizer(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        WhisperProcessor.from_pretrained(tmp_path.parent)


def test_labels_and_timestamps_equal_transformers(real, theirs):
    assert theirs.tokenizer("hello there").input_ids == real.labels("hello there")
    assert theirs.get_decoder_prompt_ids() == real.get_decoder_prompt_ids()
    first = real.special.first_timestamp
    ids = [first, *real.encode(" hello"), first + 60, first + 60, *real.encode(" there"), first + 1500]
    expected = "<|0.00|> hello<|1.20|><|1.20|> there<|30.00|>"
    assert real.decode(ids, decode_with_timestamps=True) == expected
    assert theirs.tokenizer.decode(ids, skip_special_tokens=True, decode_with_timestamps=True) == expected


def test_multilingual(multilingual):
    special = multilingual.special
    assert special.multilingual and multilingual.vocab_size == 51865 and special.first_timestamp == 50364
    assert multilingual.prefix_tokens("Hindi") == [50258, 50276, 50359, 50363]
    assert multilingual.get_decoder_prompt_ids("hi", "translate") == [(1, 50276), (2, 50358), (3, 50363)]
    assert multilingual.labels("a", "hi")[-2:] == [97, 50257]
    with pytest.raises(ValueError, match="needs a language"):
        multilingual.labels("a")
    with pytest.raises(ValueError, match="Unknown language 'Cantonese'") as caught:  # large-v3 only
        multilingual.prefix_tokens("Cantonese")
    assert "cantonese" not in str(caught.value) and "hindi" in str(caught.value)


def test_special_tokens_in_a_transcript_are_text(multilingual):
    text = "<|0.00|> hi<|en|><|endoftext|>"
    ids = multilingual.encode(text)
    assert max(ids) < 50257 and multilingual.decode(ids) == text


def test_multilingual_files_serve_transformers(multilingual, tmp_path):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    WhisperProcessor(WhisperFeatureExtractor(128), multilingual).save_pretrained(tmp_path)
    theirs = transformers.WhisperProcessor.from_pretrained(tmp_path)
    assert theirs.feature_extractor.feature_size == 128
    assert theirs.get_decoder_prompt_ids(language="hindi", task="translate") == (
        multilingual.get_decoder_prompt_ids("hindi", "translate"))
    assert len(theirs.tokenizer) == 51865 and theirs.tokenizer.convert_tokens_to_ids("<|30.00|>") == 51864
    assert {"vocab.json", "merges.txt", "special_tokens_map.json"} <= {path.name for path in tmp_path.iterdir()}


def test_language_names_equal_transformers():
    module = pytest.importorskip("transformers.models.whisper.tokenization_whisper", reason="needs transformers")
    assert list(module.LANGUAGES) == list(LANGUAGES)
    assert {name: code for name, code in module.TO_LANGUAGE_CODE.items() if name not in LANGUAGES} == NAME_TO_CODE
