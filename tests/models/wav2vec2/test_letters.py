"""Letters looked up in their own Unicode form first, and in the other case by the language's pairs."""

import unicodedata

import numpy as np
import pytest

from tfhf.models.wav2vec2.letters import Speller, clusters, lower_case, upper_case
from tfhf.models.wav2vec2.tokenizer import UnknownCharacters, Wav2Vec2CTCTokenizer
from tfhf.tokenizers.characters import CharacterDecoder
from tfhf.tokenizers.ctc_decoder import Wav2Vec2CTCDecoder

TURKISH = "abcçdefgğhıijklmnoöprsştuüvyz"
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "|"]


def _tokenizer(letters, **options):
    return Wav2Vec2CTCTokenizer({token: number for number, token in enumerate([*SPECIAL, *letters])}, **options)


def _read(tokenizer, text, **options):
    return tokenizer.decode(tokenizer.labels(text, **options), group_tokens=False)


@pytest.mark.parametrize("letters, text", [
    (["\u0958", "\u093e"], "\u0958\u093e"),                             # Hindi qa, which NFC takes apart
    (["क", "\u0958", "\u093e", "\u093c"], "\u0958\u093e"),
    (list(dict.fromkeys(unicodedata.normalize("NFD", "한국어"))), unicodedata.normalize("NFD", "한국어")),
    (["e", "t", "\u0301"], "e\u0301te\u0301"),
    (["é", "e", "t"], "été"),
    (["\u0ba8", "\u0bca"], "\u0ba8\u0bca"),                             # Tamil o, one sign that NFD makes two
    (["\u0ba8", "\u0bc6", "\u0bbe"], "\u0ba8\u0bc6\u0bbe"),             # the same written as two
    (["\u05e9", "\ufb2a", "\u05c1"], "\ufb2a"),                         # Hebrew shin, which NFC takes apart
    (["\u1ea1", "\u0323", "a", "\u0302"], "a\u0302\u0323"),             # Vietnamese marks in another order
])
def test_own_form_first_as_transformers_looks_letters_up(letters, text):
    tokenizer = _tokenizer(letters)
    assert tokenizer.labels(text) == tokenizer.encode(text)


@pytest.mark.parametrize("letters, text, expected", [
    (["é", "t"], "e\u0301te\u0301", "été"),                             # only the composed form is there
    (["e", "t", "\u0301"], "été", "e\u0301te\u0301"),                   # only the parts are
    (list(unicodedata.normalize("NFD", "가나")), "가나", unicodedata.normalize("NFD", "가나")),
    (["É", "T"], "e\u0301t", "ÉT"),
    (["e\u0301", "t"], "été", "e\u0301te\u0301"),                       # one token of two code points
    (["क", "\u093c"], "\u0958", "क\u093c"),
    (["a", "sh"], "SHA", "sha"),                                        # letters of a longer token only
    (["d", "o", "n", "t", "'"], "Don’t", "don't"),
    (["ο", "δ", "σ", "ς"], "ΟΔΟΣ ΟΣΟ", "οδος οσο"),
])
def test_other_forms_and_cases_where_the_own_one_is_missing(letters, text, expected):
    assert _read(_tokenizer(letters), text) == expected


def test_a_vocabulary_of_a_corpus_writes_both_forms_alike():
    """Yoruba: ẹ́ has no composed form, so that the accent is a letter beside é."""
    tokenizer = Wav2Vec2CTCTokenizer.from_corpus(["ẹ\u0301 é"], log=lambda line: None)
    assert {"é", "ẹ", "\u0301"} < set(tokenizer.get_vocab()) and "e" not in tokenizer.get_vocab()
    with_e = Wav2Vec2CTCTokenizer.from_corpus(["ẹ\u0301 é e"], log=lambda line: None)
    assert with_e.labels("e\u0301") == with_e.labels("é") == [with_e.get_vocab()["é"]]


@pytest.mark.parametrize("text, expected", [
    ("ISPARTA İZMİR", "ısparta izmir"), ("Iğdır", "ığdır"), ("I\u0307stanbul", "istanbul"),
    ("DİYARBAKIR", "diyarbakır")])
def test_turkish_in_lower_case(text, expected):
    assert _read(_tokenizer(TURKISH), text) == expected == lower_case(text, turkish=True)
    assert _read(_tokenizer(["ı", "i", *"spartzmğdrynblkuste"]), text) == expected


def test_turkish_in_upper_case(tmp_path):
    capitals = upper_case(TURKISH, turkish=True)
    tokenizer = _tokenizer(capitals, do_lower_case=True)
    ids = tokenizer.labels("ısparta izmir")
    assert "".join(map(tokenizer.decoder.get, ids)) == "ISPARTA|İZMİR"
    assert tokenizer.decode(ids, group_tokens=False) == "ısparta izmir"
    decoder = Wav2Vec2CTCDecoder(tokenizer)
    assert isinstance(decoder._characters, CharacterDecoder)
    assert decoder._characters.decode(np.array([ids])).numpy()[0].decode() == "ısparta izmir"
    tokenizer.save_pretrained(tmp_path)
    again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert again.labels("Iı İi") == tokenizer.labels("Iı İi")


def test_a_turkish_corpus_and_an_english_one_with_turkish_names(tmp_path):
    turkish = Wav2Vec2CTCTokenizer.from_corpus(["ISPARTA İZMİR ığdır", "Diyarbakır"], log=lambda line: None)
    assert set(turkish.get_vocab()) == {*SPECIAL, *"ıspartizmğdybk"}
    assert _read(turkish, "IŞIK", unknown="drop") == "ıık"
    english = Wav2Vec2CTCTokenizer.from_corpus(["I think it is in his city"] * 9 + ["Yıldız"], log=lambda line: None)
    assert "ı" in english.get_vocab() and _read(english, "IN THIS") == "in this"
    english.save_pretrained(tmp_path)
    assert _read(Wav2Vec2CTCTokenizer.from_pretrained(tmp_path), "IN THIS") == "in this"
    capitals = Wav2Vec2CTCTokenizer.from_corpus(["ısparta izmir"], case="upper", log=lambda line: None)
    assert set(capitals.get_vocab()) == {*SPECIAL, *"ISPARTİZM"}


def test_unknown_letters_are_listed_dropped_or_unk():
    tokenizer = _tokenizer(["क", "a"])
    with pytest.raises(UnknownCharacters, match="clip: 'का x' has 'x', 'ा'"):
        tokenizer.labels("का x", name="clip")
    assert tokenizer.labels("काa", unknown="drop") == [5, 6] and tokenizer.labels("का", unknown="unk") == [5, 3]


def test_clusters():
    assert list(clusters("e\u0301te")) == ["e\u0301", "t", "e"]
    assert list(clusters(unicodedata.normalize("NFD", "각나"))) == [unicodedata.normalize("NFD", s) for s in "각나"]
    assert list(clusters("\u0301a")) == ["\u0301", "a"] and list(clusters("")) == []
    assert Speller(["a"]).spell("A b") == "a b"
