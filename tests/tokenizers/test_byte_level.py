"""Decoding inside a graph against Python's, over whole Unicode and over broken UTF-8."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json
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


def test_every_character_and_broken_sequences_equal_python(tiny):
    """All of Unicode, and bytes near the edges of UTF-8: cut, overlong, surrogate, too large, stray."""
    decoder = ByteLevelDecoder(tiny.path, tiny.vocab_size, 256)
    edges = [0, 0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF4,
             0xF5, 0xFF, 0xBB]
    rng = np.random.default_rng(0)
    sequences = [bytes(row[:length]) for row, length in zip(rng.choice(edges, (20000, 8)).tolist(),
                                                            rng.integers(1, 9, 20000))]
    sequences += ["".join(map(chr, range(start, start + 256))).encode("utf-8", "surrogatepass")
                  for start in range(0, 0x110000, 256)]
    for group in (sequences[:20000], sequences[20000:]):
        ids = np.full((len(group), max(map(len, group))), 256, "int32")
        for row, sequence in zip(ids, group):
            row[:len(sequence)] = list(sequence)
        expected = [sequence.decode("utf-8", "replace") for sequence in group]
        assert [text.decode() for text in decoder.decode(ids).numpy()] == expected
        assert tiny.batch_decode(ids[:2000]) == expected[:2000]


def test_in_a_saved_model(tiny, tmp_path):
    module, decoder = tf.Module(), ByteLevelDecoder(tiny.path, tiny.vocab_size, 256)
    module.decode = tf.function(decoder.decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    ids = _rows(tiny, TEXTS)
    again = tf.saved_model.load(str(tmp_path / "saved"))
    assert [text.decode() for text in again.decode(ids).numpy()] == TEXTS


def test_refusals(tiny, tmp_path):
    content = json.loads(open(tiny.path, encoding="utf-8").read())
    content["model"]["vocab"]["中"] = content["model"]["vocab"].pop("A")
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not byte-level"):
        token_bytes(tmp_path / "other.json", 1767, 256)
    del content["model"]["vocab"]["中"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="1 ids have no token, the first is 65"):
        token_bytes(tmp_path / "other.json", 1767, 256)
