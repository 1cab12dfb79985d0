"""wav2vec2's tokenizer against transformers on random texts and ids; vocabularies of corpora; refusals."""

import json

import numpy as np
import pytest

from tfhf.models.wav2vec2.tokenizer import (
    TranscriptTooLong,
    UnknownCharacters,
    VocabularyError,
    Wav2Vec2CTCTokenizer,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "|"]
ENGLISH = {token: number for number, token in enumerate([*SPECIAL, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"])}
UNITS = {**ENGLISH, "SH": 32, "CH": 33}   # with symbols of several letters
GERMAN = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "#", *"abcdefghijklmnopqrstuvwxyzäöüß"])}
GERMAN_TOKENS = dict(pad_token="[PAD]", unk_token="[UNK]", word_delimiter_token="#", bos_token=None, eos_token=None)
NESTED = {"eng": {token: i for i, token in enumerate([*SPECIAL, *"abcdefghijklmnopqrstuvwxyz"])},
          "hin": {token: i for i, token in enumerate([*SPECIAL, *"कखगघचछजटडतदनपबमयरलवसहािीुूेैोौं्"])},
          "deu": {token: i for i, token in enumerate([*SPECIAL, *"aäbcdefghijklmnoöpqrsßtuüvwxyz"])}}
CASES = {"english": (ENGLISH, {}), "units": (UNITS, {}), "german": (GERMAN, GERMAN_TOKENS),
         "lower": (UNITS, {"do_lower_case": True}), "nested": (NESTED, {"target_lang": "hin"}),
         "no delimiter written": (ENGLISH, {"replace_word_delimiter_char": "_"})}


@pytest.fixture(params=CASES)
def both(request, tmp_path):
    """(our tokenizer, transformers' own of the same vocabulary)."""
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    vocab, options = CASES[request.param]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    return Wav2Vec2CTCTokenizer(vocab, **options), transformers.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", **options)


def _texts(tokens, count=300):
    rng = np.random.default_rng(0)
    # A tab is a character that no vocabulary has and that tokens of several letters swallow.
    alphabet = [*tokens, *" " * 12, "\t", "<unk>", "<pad>", "<s>", "é", "x", "X", "中", "|"]
    return ["".join(rng.choice(alphabet, rng.integers(0, 25))) for _ in range(count)]


def test_encoding_equals_transformers(both):
    ours, theirs = both
    texts = _texts(ours.encoder)
    if ours.unk_token_id is not None:
        assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ours("")["input_ids"] == []
    assert (ours.pad_token_id, ours.unk_token_id, ours.word_delimiter_token_id) == (
        theirs.pad_token_id, theirs.unk_token_id, theirs.word_delimiter_token_id)


def _ids(tokenizer, count=200):
    rng = np.random.default_rng(1)
    return [np.repeat(rng.integers(0, tokenizer.vocab_size, n), rng.integers(1, 4, n))
            for n in rng.integers(1, 30, count)] + [
        # Mostly blanks and delimiters: what real outputs look like, and where offsets go wrong.
        rng.choice([tokenizer.pad_token_id, tokenizer.word_delimiter_token_id, tokenizer.vocab_size - 1], n)
        for n in rng.integers(1, 30, count)]


def test_decoding_and_offsets_equal_transformers(both):
    ours, theirs = both
    rows = _ids(ours)
    assert ours.batch_decode(rows) == theirs.batch_decode(rows)
    assert ours.batch_decode(rows, group_tokens=False) == theirs.batch_decode(rows, group_tokens=False)
    plain = {"group_tokens": False, "skip_special_tokens": True}
    assert ours.batch_decode(rows, **plain) == theirs.batch_decode(rows, **plain)
    for row in rows:
        mine = ours.decode(row, output_word_offsets=True, output_char_offsets=True)
        other = theirs.decode(row, output_word_offsets=True, output_char_offsets=True)
        assert (mine.text, mine.char_offsets, mine.word_offsets) == (other.text, other.char_offsets, other.word_offsets)
    mine = ours.batch_decode(rows, output_word_offsets=True)
    other = theirs.batch_decode(rows, output_word_offsets=True)
    assert (mine.text, mine.word_offsets) == (other.text, other.word_offsets) and mine.char_offsets[0] is None
    assert ours.decode([]) == "" and ours.decode([-100, -1]) == ""


def test_saved_for_transformers_and_loaded_again(both, tmp_path):
    import transformers

    ours, _ = both
    ours.save_pretrained(tmp_path / "saved")
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "saved")
    again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "saved")
    rows, texts = _ids(ours, 50), _texts(ours.encoder, 50)
    assert ours.batch_decode(rows) == theirs.batch_decode(rows) == again.batch_decode(rows)
    assert ours(texts)["input_ids"] == again(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert len(theirs) == ours.vocab_size and again.get_vocab() == ours.get_vocab() == theirs.get_vocab()
    theirs.save_pretrained(tmp_path / "theirs")   # and the files that transformers writes
    assert Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "theirs").batch_decode(rows) == ours.batch_decode(rows)


def test_files_of_earlier_transformers(tmp_path):
    """Fine-tuned XLSR checkpoints: <s> and </s> stand behind the vocabulary, in added_tokens.json."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "|": 2, "[UNK]": 3, "[PAD]": 4}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<s>": 5, "</s>": 6}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]", "pad_token": {"content": "[PAD]"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"word_delimiter_token": "|", "do_lower_case": False}))
    made = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert (made.vocab_size, made.pad_token_id, made.bos_token_id, made.eos_token_id) == (7, 4, 5, 6)
    assert made.decode([0, 0, 4, 0, 2, 1]) == "aa b" and made("ab c")["input_ids"] == [0, 1, 2, 3]


def test_grouping_comes_before_special_tokens_go():
    made = Wav2Vec2CTCTokenizer(ENGLISH)
    row = made.encode("HEL") + [0] + made.encode("L") + [3] + made.encode("LO")
    assert made.decode(row, skip_special_tokens=True) == "HELLLO" and made.decode(row) == "HELL<unk>LO"


def test_languages():
    made = Wav2Vec2CTCTokenizer(NESTED, target_lang="eng")
    assert made.vocab_size == 31 and made.encode("ab") == [5, 6]
    made.set_target_lang("deu")
    assert made.encode("aä") == [5, 6] and made.target_lang == "deu"
    with pytest.raises(VocabularyError, match="'xyz', expected one of its languages: deu, eng, hin"):
        made.set_target_lang("xyz")
    with pytest.raises(VocabularyError, match="target_lang is None, expected one of its languages"):
        Wav2Vec2CTCTokenizer(NESTED)
    with pytest.raises(VocabularyError, match="is not nested"):
        Wav2Vec2CTCTokenizer(ENGLISH, target_lang="eng")
    with pytest.raises(VocabularyError, match="is not nested"):
        Wav2Vec2CTCTokenizer(ENGLISH).set_target_lang("eng")


def test_labels_are_written_as_the_vocabulary_does():
    upper, lower = Wav2Vec2CTCTokenizer(ENGLISH), Wav2Vec2CTCTokenizer(GERMAN, **GERMAN_TOKENS)
    assert upper.normalize("  don’t \n stop ") == "DON'T STOP"
    assert upper.decode(upper.labels("don’t stop"), group_tokens=False) == "DON'T STOP"
    assert lower.normalize("Ein Gruß aus KO\u0308LN") == "ein gruß aus köln"   # o and a combining diaeresis
    assert upper.labels("ab  c") == upper.labels("AB|C") == [7, 24, 4, 19]
    assert upper.labels("") == []


def test_labels_hold_no_blank():
    made = Wav2Vec2CTCTokenizer(UNITS)
    assert made.labels("A<pad>B", unknown="drop") == made.labels("APADB") and made.encode("A<pad>B")[1] == 0
    assert made.labels("she", max_length=2) == [32, 5]   # one symbol for two letters
    with pytest.raises(TranscriptTooLong, match="a transcript: 'set' has 3 symbols; expected at most 2"):
        made.labels("set", max_length=2)


def test_characters_that_the_vocabulary_lacks():
    made = Wav2Vec2CTCTokenizer(ENGLISH)
    assert made.labels("A - 1 é B.", unknown="drop") == made.labels("A B")
    assert made.labels("A1", unknown="unk") == [7, 3]
    with pytest.raises(UnknownCharacters, match=r"clip-7: 'A1é\.' has '\.', '1', 'é' \(U\+00E9\), which"):
        made.labels("A1é.", name="clip-7")
    with pytest.raises(UnknownCharacters, match="symbols lacks"):   # no unk_token to write
        Wav2Vec2CTCTokenizer({"<pad>": 0, "|": 1, "a": 2}).encode("ab")
    with pytest.raises(ValueError, match="unknown: got 'ignore'"):
        made.encode("A", unknown="ignore")


def test_vocabularies_that_cannot_be_used(tmp_path):
    with pytest.raises(VocabularyError, match="has no '<pad>', CTC's blank; give pad_token"):
        Wav2Vec2CTCTokenizer({"|": 0, "a": 1})
    with pytest.raises(VocabularyError, match="has no '|', the space between words"):
        Wav2Vec2CTCTokenizer({"<pad>": 0, "a": 1})
    with pytest.raises(VocabularyError, match=r"1 ids belong to more than one token, id 2 to \['a', 'b'\]"):
        Wav2Vec2CTCTokenizer({"<pad>": 0, "|": 1, "a": 2, "b": 2})
    for wrong in ("2", -1, 2.5, True):
        with pytest.raises(VocabularyError, match="whole numbers from 0 on"):
            Wav2Vec2CTCTokenizer({"<pad>": 0, "|": 1, "a": wrong})
    for empty in ({}, ["a"]):
        with pytest.raises(VocabularyError, match="expected a dict"):
            Wav2Vec2CTCTokenizer(empty)
    with pytest.raises(VocabularyError, match="id 32, expected at most 31"):
        Wav2Vec2CTCTokenizer(ENGLISH).decode([32])
    with pytest.raises(FileNotFoundError, match="has no vocab.json"):
        Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0')
    for make in (Wav2Vec2CTCTokenizer, lambda path: Wav2Vec2CTCTokenizer.from_pretrained(path.parent)):
        with pytest.raises(VocabularyError, match="vocab.json: is damaged"):
            make(tmp_path / "vocab.json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}')
    with pytest.raises(VocabularyError, match="is of a Wav2Vec2PhonemeCTCTokenizer"):
        Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)


def test_vocabulary_of_a_corpus():
    texts = ["Don’t stop, 2 of us!", "कि ताब", "Stop… now", "Ze\u0301ro"]
    report = []
    made = Wav2Vec2CTCTokenizer.from_corpus(texts, log=report.append)
    assert list(made.get_vocab())[:6] == [*SPECIAL, "'"] and made.pad_token_id == 0
    assert list(made.get_vocab())[6:] == sorted(set("2dontstopofusnowzéroकताबि"))
    assert made.dropped_characters == {"!": 1, ",": 1, "…": 1}
    assert report[0].startswith(f"vocabulary: {made.vocab_size} symbols from 4 texts: ' 2 d")
    assert report[1:] == ["vocabulary: dropped '!', seen 1 times", "vocabulary: dropped ',', seen 1 times",
                          "vocabulary: dropped '…' (U+2026), seen 1 times"]
    assert made.get_vocab() == Wav2Vec2CTCTokenizer.from_corpus(reversed(texts), log=report.append).get_vocab()
    assert made.decode(made.labels(texts[0], unknown="drop"), group_tokens=False) == "don't stop 2 of us"
    often = Wav2Vec2CTCTokenizer.from_corpus(texts, case="upper", keep="", min_count=2, log=report.append)
    assert set(often.get_vocab()) == {*SPECIAL, *"NOSTP"} and often.dropped_characters["'"] == 1
    with pytest.raises(ValueError, match="leave no letter"):
        Wav2Vec2CTCTokenizer.from_corpus(["...", ""])
    with pytest.raises(ValueError, match="case: got 'title'"):
        Wav2Vec2CTCTokenizer.from_corpus(texts, case="title")
