"""Tokens that somebody added, in a graph against the `tokenizers` library: each flag, each normaliser, random texts."""

import itertools
import json
import random

import pytest
import tensorflow as tf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tfhf.tokenizers.bert_wordpiece import BertWordPiece
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.wordpiece import WordPiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCÉéßüİıΣς中文字한글กำहिनक्षत्रا\u0301\u0327\u05b0_-.,!?()[]<>|#'"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "food", "good", "##food", "new", "##tok", "e\u0301",
          "##ing"]
# Flags of AddedToken, as bits: single_word, lstrip, rstrip, normalized, special.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
WORDS = ["good", "food", "GOOD", "newtok", "NewTok", "[NEW]", "[new]", "éclair", "ÉCLAIR", "中文", "ab", "abc", "a b",
         "<e>", "[CLS]", "[SEP]", "foodfood", "don't", "naïve", "ing", "straße", "İ", "हिन्दी", "\u0301", "x\u0301y"]
GAPS = ["", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\u00ad", "\x00", "\x07", ".", "-",
        "_", "'", "\u0301", "\u200d", "中", "ß"]


def save(tokenizer, path):
    tokenizer.save(str(path))
    return path


def wordpiece(path, tokens=(), **flags):
    """A BERT tokenizer.json with the tokens added; flags of the normaliser."""
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*SPECIAL, *PIECES]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**flags)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(list(tokens))
    return save(tokenizer, path)


def byte_level(path, tokens=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "go", "od", "good", "Ġgood", "fo", "food"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("g", "o"), ("o", "d"), ("go", "od"), ("Ġ", "good"), ("f", "o"), ("fo", "od")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(list(tokens))
    return save(tokenizer, path)


def texts(rng, count, words=WORDS):
    """Words with gaps of all kinds between them, so that tokens stand in every neighbourhood."""
    return ["".join(rng.choice(words) + rng.choice(GAPS) for _ in range(rng.randrange(1, 7))) for _ in range(count)]


def check_equal(ours, path, samples, encode_special_tokens):
    library = Tokenizer.from_file(str(path))
    library.encode_special_tokens = encode_special_tokens
    got = ours.encode(tf.constant([text.encode() for text in samples])).to_list()
    expected = [one.ids for one in library.encode_batch(samples, add_special_tokens=False)]
    wrong = [(text, a, b) for text, a, b in zip(samples, got, expected, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(samples)}, the first: {wrong[0]}"


def tokens_with(rng, rstrip=True, count=12, **given):
    """Tokens with flags drawn for each of them, but for those that are given."""
    folded = {}
    for content in rng.sample([word for word in WORDS if word not in SPECIAL], count):
        # Two that are one in the normalised text are refused; see below.
        folded.setdefault(normalizers.BertNormalizer(handle_chinese_chars=False).normalize_str(content), content)
    tokens = []
    for key, content in folded.items():
        flags = {flag: rng.random() < 0.4 for flag in FLAGS} | given
        flags["rstrip"] &= rstrip
        if key:
            tokens.append(AddedToken(content, **flags))
    return tokens


def check_wordpiece(path, rng, count, flags, **given):
    # With these a Chinese token begins with white space, and one with rstrip beside it is refused; see below.
    rstrip = not flags["handle_chinese_chars"]
    wordpiece(path, tokens_with(rng, rstrip, **given), **flags)
    check_equal(BertWordPiece.from_file(path), path, texts(rng, count) + random_texts(rng, count), True)


def check_byte_level(path, rng, count, **given):
    byte_level(path, tokens_with(rng, **given))
    samples = texts(rng, count) + random_texts(rng, count)
    for encode_special_tokens in (False, True):
        check_equal(ByteLevelBPE.from_file(path, encode_special_tokens), path, samples, encode_special_tokens)


NORMALISERS = [dict(zip(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), values))
               for values in itertools.product((True, False), (True, False), (None, True, False), (True, False))]
# Each value of each flag once at least.
FEW = [NORMALISERS[number] for number in (0, 14, 22)]


@pytest.mark.parametrize("flags", FEW, ids=lambda flags: "-".join(str(value) for value in flags.values()))
def test_wordpiece_with_every_flag_of_the_normaliser(tmp_path, flags):
    check_wordpiece(tmp_path / "tokenizer.json", random.Random(repr(flags)), 500, flags)


def test_byte_level_bpe_with_tokens_of_every_flag(tmp_path):
    check_byte_level(tmp_path / "tokenizer.json", random.Random(1), 500)


@pytest.mark.nightly
@pytest.mark.parametrize("bits", list(itertools.product((False, True), repeat=5)),
                         ids=lambda bits: "-".join(name for name, bit in zip(FLAGS, bits) if bit) or "plain")
def test_all_normalisers_with_all_flags(tmp_path, bits):
    """24 normalisers with tokens of each of the 32 sets of flags: 1.5 million texts in all."""
    rng = random.Random(repr(bits))
    given = dict(zip(FLAGS, bits))
    for flags in NORMALISERS:
        check_wordpiece(tmp_path / "wordpiece.json", rng, 1000, flags, **given)
    check_byte_level(tmp_path / "bpe.json", rng, 1000, **given)


def random_texts(rng, count):
    """Characters of all of Unicode's blocks, among letters."""
    def character():
        if rng.random() < 0.5:
            return rng.choice(LETTERS + " ")
        block = rng.randrange(0, 0x110000, 0x100)
        point = block + rng.randrange(0x100)
        return "a" if 0xD800 <= point < 0xE000 else chr(point)

    return ["".join(character() for _ in range(rng.randrange(1, 40))) for _ in range(count)]


def test_tokens_that_overlap(tmp_path):
    """The leftmost is taken, of several the longest, and one that is text keeps others from beginning inside it."""
    tokens = [AddedToken("ab", normalized=False), AddedToken("abc", normalized=False, single_word=True),
              AddedToken("bcd", normalized=False), AddedToken("SEP]", normalized=False),
              AddedToken("P] q", lstrip=True), AddedToken("good", normalized=True, rstrip=True),
              AddedToken("od f", normalized=True)]
    samples = ["abcd", "abc", "xabc abc", "ab bcd abcd", "[SEP]", "SEP] q", "[SEP] q", "a [SEPSEP] q", "good food",
               "goodfood", "god food", "GOOD   FOOD", "good \n\t good  ", " abc ", "abcabc", "ab\u0301c"]
    path = wordpiece(tmp_path / "tokenizer.json", tokens)
    check_equal(BertWordPiece.from_file(path), path, samples, True)
    path = byte_level(tmp_path / "bpe.json", [*tokens, AddedToken("text|>", normalized=False)])
    samples += ["<|endoftext|>", "<|endoftext|>text|>", "<|endoftext|", "x<|endoftext|>y"]
    for encode_special_tokens in (False, True):
        check_equal(ByteLevelBPE.from_file(path, encode_special_tokens), path, samples, encode_special_tokens)


def test_a_token_of_more_characters_than_a_word_may_have(tmp_path):
    path = wordpiece(tmp_path / "tokenizer.json", [AddedToken("a" * 150), AddedToken(" pad ", normalized=False)])
    check_equal(BertWordPiece.from_file(path), path, ["x" + "a" * 150 + "y", "a" * 149, "a" * 300, "a pad pad b"], True)


def test_pieces_of_another_prefix(tmp_path):
    for prefix in ("", "x", "xy", "#", "@@"):
        vocabulary = [*SPECIAL, *"abxy", "ab", f"{prefix}a", f"{prefix}b", f"{prefix}x", f"{prefix}ab", prefix or "ba"]
        numbered = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
        tokenizer = Tokenizer(models.WordPiece(numbered, unk_token="[UNK]", continuing_subword_prefix=prefix))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        path = save(tokenizer, tmp_path / "tokenizer.json")
        samples = ["".join(letters) for size in range(1, 5) for letters in itertools.product("abx#@y", repeat=size)]
        check_equal(BertWordPiece.from_file(path), path, samples, True)


REFUSED = [
    ([AddedToken("New", normalized=True), AddedToken("nEW", normalized=True)], "added tokens are written 'new'"),
    ([AddedToken(" x", normalized=False), AddedToken("y", normalized=False, rstrip=True)], "begins with white space"),
    ([AddedToken("中", normalized=True), AddedToken("y", rstrip=True)], "begins with white space"),
    ([AddedToken("\u0301", normalized=True)], "nothing is left of it once it is normalised"),
    ([AddedToken("\x07", normalized=True)], "nothing is left of it once it is normalised"),
]


@pytest.mark.parametrize("tokens, words", REFUSED)
def test_what_the_library_itself_makes_no_sense_of(tmp_path, tokens, words):
    path = wordpiece(tmp_path / "tokenizer.json", tokens)
    with pytest.raises(ValueError, match="tokenizer.json: .*" + words):
        BertWordPiece.from_file(path)


def test_marks_whose_order_the_normaliser_changes(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(
        [*SPECIAL, "a", "##\U0001d165", "##\U0001d16d"])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(ValueError, match=r"marks U\+1D16D and U\+1D165, whose order its normalizer changes"):
        BertWordPiece.from_file(save(tokenizer, tmp_path / "tokenizer.json"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    path = save(tokenizer, tmp_path / "tokenizer.json")
    check_equal(BertWordPiece.from_file(path), path, ["a\U0001d16d\U0001d165", "a\U0001d165\U0001d16d"], True)


@pytest.mark.parametrize("number", [1 << 24, -1, 1 << 40, "7"])
def test_ids_that_no_tokenizer_needs(tmp_path, number):
    for make, kind in ((wordpiece, BertWordPiece), (byte_level, ByteLevelBPE)):
        content = json.loads(make(tmp_path / "tokenizer.json").read_text("utf-8"))
        content["model"]["vocab"]["good"] = number
        with pytest.raises(ValueError, match=f"tokenizer.json: 'good' has the id {number}; expected"):
            kind(json.dumps(content))


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"model": null}', '{"model": {"type": "WordPiece"}}',
                                     "[" * 9999])
def test_what_is_no_tokenizer(content):
    for kind in (BertWordPiece, ByteLevelBPE):
        with pytest.raises(ValueError, match="^tokenizer.json: "):
            kind(content)


def test_the_quick_tokenizer_refuses_added_tokens(tmp_path):
    path = wordpiece(tmp_path / "tokenizer.json", [AddedToken("newtok")])
    with pytest.raises(ValueError, match="tokenizer.json: added token 'newtok'"):
        WordPiece.from_file(path)
