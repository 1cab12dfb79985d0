"""The right class for a tokenizer.json, and the rows that classifiers read."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.models.bert.convert import SPECIAL_TOKENS
from tfhf.tokenizers.bert_wordpiece import BertWordPiece
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.in_graph import classifier_inputs, in_graph_tokenizer
from tfhf.tokenizers.training import train_tokenizer

TEXTS = ["the good and the bad", "the ugly"]


def _trained(tmp_path, model, special):
    train_tokenizer(TEXTS, tmp_path / f"{model}.json", model, 320, special_tokens=special)
    return tmp_path / f"{model}.json"


def test_bert(tmp_path):
    tokenizer = in_graph_tokenizer(_trained(tmp_path, "wordpiece", SPECIAL_TOKENS))
    assert isinstance(tokenizer, BertWordPiece)
    row = {name: value.numpy() for name, value in classifier_inputs(tokenizer, [*TEXTS, ""], 5).items()}
    ids = [tokenizer.token_to_id(token) for token in ("[CLS]", "the", "good", "and", "[SEP]", "ugly", "[PAD]")]
    cls, the, good, and_, sep, ugly, pad = ids
    np.testing.assert_array_equal(row["input_ids"], [[cls, the, good, and_, sep], [cls, the, ugly, sep, pad],
                                                     [cls, sep, pad, pad, pad]])
    np.testing.assert_array_equal(row["attention_mask"].sum(axis=1), [5, 4, 2])
    assert not row["token_type_ids"].any()


def test_gpt2(tmp_path):
    tokenizer = in_graph_tokenizer(_trained(tmp_path, "bpe", ("<|endoftext|>",)))
    assert isinstance(tokenizer, ByteLevelBPE)
    row = {name: value.numpy() for name, value in classifier_inputs(tokenizer, [*TEXTS, ""], 4).items()}
    the, good, and_, ugly = (tokenizer.encode([word]).values[0] for word in ("the", " good", " and", " ugly"))
    np.testing.assert_array_equal(row["input_ids"], [[the, good, and_, 0], [the, ugly, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(row["attention_mask"], [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    assert sorted(row) == ["attention_mask", "input_ids"]
    longer = classifier_inputs(tokenizer, tf.constant(TEXTS), tf.constant(6, tf.int64))   # a length of the graph's
    assert longer["input_ids"].shape == (2, 6)


def test_others_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a tokenizer of type 'Unigram'; inside a graph there are BPE, WordPiece"):
        in_graph_tokenizer(_trained(tmp_path, "unigram", ()))
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(ValueError, match="not.json: no tokenizer.json: KeyError 'model'"):
        in_graph_tokenizer(tmp_path / "not.json")
