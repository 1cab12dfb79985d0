"""Tokenizers of older files, compared with transformers' own; and ids that no table can be made for."""

import json

import pytest
from tokenizers import Tokenizer

from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.folder import read_tokenizer_json
from tfhf.tokenizers.in_graph import in_graph_tokenizer
from tfhf.tokenizers.training import train_tokenizer

TEXTS = ["the quick  brown fox<|endoftext|> déjà!", " a\n b", "Straße 12", "", "the thing, hello the world"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "##s", "fox", "un", "##able", "ü", "u",
        "!", ",", "hello", "é", "e", "中"]


@pytest.fixture
def gpt2(tmp_path):
    """vocab.json and merges.txt alone."""
    train_tokenizer(["the quick brown fox", "hello the world, the thing"] * 5, tmp_path / "whole.json", "bpe", 290,
                    special_tokens=("<|endoftext|>",))
    model = json.loads((tmp_path / "whole.json").read_text("utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return tmp_path


def test_vocab_json_and_merges_txt(gpt2, capsys):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.from_str(read_tokenizer_json(gpt2 / "tokenizer.json"))
    assert "is missing; the tokenizer was made from vocab.json and merges.txt" in capsys.readouterr().err
    theirs = transformers.GPT2Tokenizer(str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt"))
    in_graph = in_graph_tokenizer(gpt2 / "tokenizer.json").encode(TEXTS).to_list()
    for text, own in zip(TEXTS, in_graph, strict=True):
        ids = theirs(text)["input_ids"]
        assert tokenizer.encode(text).ids == ids == own
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_added_tokens_have_their_own_ids(gpt2):
    size = len(json.loads((gpt2 / "vocab.json").read_text()))
    (gpt2 / "added_tokens.json").write_text(json.dumps({"<|hi|>": size, "<|lo|>": size + 1}))
    tokenizer = Tokenizer.from_str(read_tokenizer_json(gpt2 / "tokenizer.json"))
    assert tokenizer.encode("<|lo|><|hi|>").ids == [size + 1, size]
    (gpt2 / "added_tokens.json").write_text(json.dumps({"<|hi|>": size + 7}))
    with pytest.raises(ValueError, match=rf"'<\|hi\|>' has id {size + 7}; expected {size}"):
        read_tokenizer_json(gpt2 / "tokenizer.json")


@pytest.mark.parametrize("settings", [None, {"do_lower_case": False}, {"strip_accents": False, "do_lower_case": True},
                                      {"tokenize_chinese_chars": False, "do_lower_case": True}])
def test_vocab_txt(tmp_path, settings, capsys):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", "utf-8")
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.from_str(read_tokenizer_json(tmp_path / "tokenizer.json"))
    assert ("texts are lower-cased" in capsys.readouterr().err) == (settings is None)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in ("The Quick foxs, UNABLE ü É!", "中the [MASK] e", ""):
        assert tokenizer.encode(text).ids == theirs(text)["input_ids"]
    assert in_graph_tokenizer(tmp_path / "tokenizer.json").vocab_size == len(BERT)


def _field(number, value):
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    return bytes([number << 3, value])


def _piece(text, score, kind=1):
    import struct

    return _field(1, _field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + _field(3, kind))


def test_a_model_of_sentencepiece(tmp_path):
    pieces = [_piece("<unk>", 0, 2), _piece("<s>", 0, 3), _piece("▁", -3), _piece("▁the", -1), _piece("t", -4),
              _piece("he", -2), _piece("h", -5), _piece("e", -5)]
    (tmp_path / "spiece.model").write_bytes(b"".join(pieces) + _field(2, _field(3, 1)))
    tokenizer = Tokenizer.from_str(read_tokenizer_json(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("the  he").tokens == ["▁the", "▁", "he"] and tokenizer.decode([3, 2, 5]) == "the he"
    assert tokenizer.encode("<s>x").ids == [1, 2, 0]
    for data in (b"", b"\xff" * 20, b"".join(pieces)[:-3], b"".join(pieces) + _field(2, _field(3, 2))):
        (tmp_path / "spiece.model").write_bytes(data)
        with pytest.raises(ValueError, match="spiece.model: (is no Unigram|is damaged|has a piece)"):
            read_tokenizer_json(tmp_path / "tokenizer.json")


def test_files_that_are_damaged_or_missing(gpt2, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json, and neither vocab.json with"):
        read_tokenizer_json(tmp_path / "elsewhere" / "tokenizer.json")
    (gpt2 / "merges.txt").write_text("#version: 0.2\nt h e\n")
    with pytest.raises(ValueError, match="merges.txt: line 2 is 't h e'"):
        read_tokenizer_json(gpt2 / "tokenizer.json")
    (gpt2 / "vocab.json").write_text('{"a": -1}')
    with pytest.raises(ValueError, match="vocab.json: expected tokens with their ids"):
        read_tokenizer_json(gpt2 / "tokenizer.json")
    (gpt2 / "vocab.json").unlink()
    (gpt2 / "vocab.txt").write_text("[PAD]\nthe\nthe\n")
    with pytest.raises(ValueError, match=r"vocab.txt: lacks \[UNK\], \[CLS\], \[SEP\] or has a token twice"):
        read_tokenizer_json(gpt2 / "tokenizer.json")


@pytest.mark.parametrize("vocabulary, added, message", [
    ({"a": 0, "b": 2**31}, [], "'b' has the id 2147483648"), ({"a": -1}, [], "'a' has the id -1"),
    ({"a": 0, "b": 10**6}, [], "'b' has the id 1000000; expected a whole number from 0 on and below 1,004"),
    ({"a": 0.5}, [], "'a' has the id 0.5"), ({"a": "1"}, [], "'a' has the id 1;"), ({"a": True}, [], "'a' has the id"),
    ({"a": 0, "b": 0}, [], "'a' and 'b' both have the id 0"), ({"a": 10**5000 // 7}, [], "not JSON"),
    ({"a": 0}, [{"content": "b", "id": 2**40}], "'b' has the id 1099511627776"),
    ({"a": 0}, [{"id": 1}], "added_tokens"),
    ({"a": 0}, {"b": 1}, "added_tokens"),
])
def test_ids_that_no_table_can_be_made_for(tmp_path, vocabulary, added, message):
    import sys

    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    content = json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": added})
    sys.set_int_max_str_digits(limit)
    with pytest.raises(ValueError, match=message) as caught:
        fingerprint(content)
    assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError):
        in_graph_tokenizer(tmp_path / "tokenizer.json")


def test_json_of_absurd_depth():
    with pytest.raises(ValueError, match="nested too deeply"):
        fingerprint('{"model": ' + "[" * 100_000)
