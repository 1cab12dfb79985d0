"""Labels of records in their own language, in a forced one, and of records that say none."""

import pytest

from tfhf.models.whisper.labels import TranscriptLabels
from tfhf.models.whisper.languages import LanguageError
from tfhf.models.whisper.tokenizer import TranscriptTooLong, WhisperTokenizer, tiny_tokenizer_json


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    tiny_tokenizer_json(folder / "multilingual.json", num_languages=99, end=50257)
    tiny_tokenizer_json(folder / "english.json", num_languages=99, end=50256)
    return {kind: WhisperTokenizer(folder / f"{kind}.json") for kind in ("multilingual", "english")}


def _language(labels, said, clip="clip"):
    ids = labels.of_record(b" hi ", said.encode(), clip.encode(), 30)
    return labels.tokenizer.special.languages[ids[1] - labels.tokenizer.special.first_language]


def test_each_record_in_its_own_language(tokenizers):
    labels = TranscriptLabels(tokenizers["multilingual"])
    for said, code in (("hi", "hi"), ("ta-IN", "ta"), ("zh-TW", "zh"), ("nb-NO", "no"), ("English", "en")):
        assert _language(labels, said) == code
    ids = labels.of_record(b" hi ", b"hi", b"clip", 30)
    assert ids.tolist() == [50258, 50276, 50359, 50363, *b" hi", 50257] and ids.dtype == "int32"
    assert labels.prompts_of(ids[None]).tolist() == [[50258, 50276, 50359, 50363]] and labels.prompts_of(None) is None
    forced = TranscriptLabels(tokenizers["multilingual"], "pt_BR")
    assert forced.prompts_of(ids[None]) is None and forced.language == "pt"
    plain = TranscriptLabels(tokenizers["multilingual"], task="translate", leading_space=False)
    assert plain.of_record(b"x", b"hi", b"clip", 30).tolist() == [50258, 50276, 50358, 50363, 120, 50257]


def test_a_forced_language_is_reported_once(tokenizers):
    lines = []
    labels = TranscriptLabels(tokenizers["multilingual"], "hi", log=lines.append)
    assert {_language(labels, said) for said in ("hi", "", "und", "hi-IN", "Hindi")} == {"hi"} and not lines
    assert {_language(labels, said, f"clip-{said}") for said in ("ta", "ga-IE", "en")} == {"hi"}
    assert lines == ["task.language=hi: labels begin with <|hi|>, though records say another language; the first is "
                     "clip-ta, 'ta'"]


@pytest.mark.parametrize("kind, said, words", [
    ("multilingual", "", "^clip-3: the record says no language; expected one in each record, or task.language=CODE"),
    ("multilingual", "und", "^clip-3: the record says no language"),
    ("multilingual", "ga-IE", "^clip-3: Unknown language 'ga-IE'.*task.language=CODE gives one to all"),
    ("multilingual", "yue", "^clip-3: Unknown language 'yue'"),
    ("english", "hi", "^clip-3: the record says 'hi', but the model is English-only.*task.language=en")])
def test_records_that_do_not_fit(tokenizers, kind, said, words):
    with pytest.raises(LanguageError, match=words):
        TranscriptLabels(tokenizers[kind]).of_record(b"hi", said.encode(), b"clip-3", 30)


def test_an_english_only_model(tokenizers):
    lines = []
    for language, said in ((None, ""), (None, "en-US"), ("en", "en"), ("English", "hi")):
        labels = TranscriptLabels(tokenizers["english"], language, log=lines.append)
        assert labels.of_record(b"x", said.encode(), b"clip", 9).tolist() == [50257, 50362, 32, 120, 50256]
        assert labels.prompts_of(labels.of_record(b"x", b"en", b"clip", 9)[None]) is None
    assert len(lines) == 1


@pytest.mark.parametrize("kind, language, task, words", [
    ("multilingual", "xx", "transcribe", "task.language=xx, task.task=transcribe: Unknown language 'xx'"),
    ("multilingual", "", "transcribe", "Unknown language ''"),
    ("multilingual", "pt-BR", "sing", "task.task=sing: Unknown task 'sing'"),
    ("english", "pt-BR", "transcribe", "English-only model cannot do language='pt-BR'"),
    ("english", None, "translate", "English-only model cannot do .*task='translate'")])
def test_refused_at_once(tokenizers, kind, language, task, words):
    with pytest.raises(LanguageError, match=words):
        TranscriptLabels(tokenizers[kind], language, task)


def test_the_limit_names_the_clip(tokenizers):
    with pytest.raises(TranscriptTooLong, match="^clip-7: .* has 9 tokens"):
        TranscriptLabels(tokenizers["multilingual"]).of_record(b"abc", b"en", b"clip-7", 8)
