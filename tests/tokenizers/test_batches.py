"""Rows of one shape: in Python, and the same inside a graph."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tokenizers.corpus import PROSE, mixed_lines
from tfhf.tokenizers.batches import TextEncoder, pad_batch, pair_batch
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.fingerprint import FingerprintError
from tfhf.tokenizers.training import train_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def wordpiece_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "tokenizer.json"
    texts = [line for line in mixed_lines(2000, seed=6) if line.isascii()]
    train_tokenizer(texts, path, "wordpiece", 1500, special_tokens=SPECIAL,
                    post_processor=("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"))
    return path


@pytest.fixture(scope="module")
def bpe_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "tokenizer.json"
    train_tokenizer(PROSE, path, "bpe", 400, special_tokens=["<|endoftext|>"])
    return path


def test_a_pair_by_hand(wordpiece_json):
    encoder = TextEncoder(wordpiece_json, 10, pad_token="[PAD]")
    rows = encoder.encode_batch(["a"], ["a"])
    letter = int(rows["input_ids"][0, 1])
    assert rows["input_ids"].tolist() == [[2, letter, 3, letter, 3, 0, 0, 0, 0, 0]]
    assert rows["attention_mask"].tolist() == [[1] * 5 + [0] * 5]
    assert rows["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]
    assert all(value.dtype == np.int32 for value in rows.values())
    assert encoder.decode_batch(rows["input_ids"]) == ["a a"]
    assert encoder.encode_batch([])["input_ids"].shape == (0, 10)


@pytest.mark.parametrize("length", [4, 5, 9, 24])
def test_pairs_in_a_graph_equal_the_library(wordpiece_json, length):
    encoder = TextEncoder(wordpiece_json, length, pad_token="[PAD]")
    words = "a the of it".split()
    texts = [" ".join(words[i % 4] for i in range(n)) for n in range(13) for _ in range(13)]
    pairs = [" ".join(words[i % 4] for i in range(n)) for _ in range(13) for n in range(13)]
    long = TextEncoder(wordpiece_json, 100, pad_token="[PAD]")

    def ragged(strings):
        rows = long.encode_batch(strings, add_special_tokens=False)
        return tf.RaggedTensor.from_tensor(rows["input_ids"], lengths=rows["attention_mask"].sum(1))

    numbers = {"cls_id": 2, "sep_id": 3, "pad_id": 0}
    for second, expected in ((ragged(pairs), encoder.encode_batch(texts, pairs)), (None, encoder.encode_batch(texts))):
        found = tf.function(lambda one, two=second: pair_batch(one, two, length, **numbers))(ragged(texts))
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
            assert found[name].dtype == tf.int32 and found[name].shape[1] == length


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_padding_in_a_graph_equals_the_library(bpe_json, padding_side, truncation_side):
    sides = {"padding_side": padding_side, "truncation_side": truncation_side}
    expected = TextEncoder(bpe_json, 12, pad_token="<|endoftext|>", **sides).encode_batch(PROSE)
    bpe = ByteLevelBPE.from_file(bpe_json)
    found = tf.function(lambda texts: pad_batch(bpe.encode(texts), 12, 0, **sides))(tf.constant(PROSE))
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    nothing = pad_batch(bpe.encode(tf.zeros([0], tf.string)), 12, 0, **sides)
    assert nothing["input_ids"].shape == (0, 12)


def test_refusals(bpe_json):
    with pytest.raises(ValueError, match="pad_token is None, expected a token"):
        TextEncoder(bpe_json, 8)
    with pytest.raises(ValueError, match="pad_token is '<nope>'"):
        TextEncoder(bpe_json, 8, pad_token="<nope>")
    with pytest.raises(ValueError, match="padding_side: 'middle'"):
        TextEncoder(bpe_json, 8, pad_token="<|endoftext|>", padding_side="middle")
    with pytest.raises(ValueError, match="truncation_side: 'middle'"):
        pad_batch(tf.ragged.constant([[1]]), 4, 0, truncation_side="middle")
    encoder = TextEncoder(bpe_json, 8, pad_token="<|endoftext|>")
    with pytest.raises(ValueError, match="2 texts and 1 pairs"):
        encoder.encode_batch(["a", "b"], ["c"])
    encoder.check(encoder.fingerprint, "records/train")
    with pytest.raises(FingerprintError, match="records/train: made with"):
        encoder.check("0123", "records/train")


def test_room_for_the_special_tokens(wordpiece_json):
    with pytest.raises(ValueError, match="max_length: 3, expected more than the 3 special tokens"):
        TextEncoder(wordpiece_json, 3, pad_token="[PAD]")
