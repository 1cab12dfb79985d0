"""Writing symbols out in a graph against Python's tokenizer, eager, in a function and in a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
from tfhf.tokenizers.characters import CharacterDecoder

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"aäbcdßéकि中Σσ", "sch"]
VOCABULARY = {token: number for number, token in enumerate(TOKENS)}


def _rows(size, count=300, width=20):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, size, (count, width))
    ids[:, ::5] = 4   # delimiters, at the ends too
    return np.where(np.arange(width) < rng.integers(0, width + 1, (count, 1)), ids, -1).astype("int32")


@pytest.mark.parametrize("options", [{}, {"do_lower_case": True}, {"replace_word_delimiter_char": "_"}])
def test_in_graph_decoding_equals_python(options):
    tokenizer = Wav2Vec2CTCTokenizer(VOCABULARY, **options)
    ids = _rows(tokenizer.vocab_size)
    for skip in (False, True):
        decoder = CharacterDecoder(tokenizer.pieces(skip), tokenizer.do_lower_case)
        expected = tokenizer.batch_decode(ids, group_tokens=False, skip_special_tokens=skip)
        decode = tf.function(decoder.decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
        for got in (decoder.decode(ids), decode(ids), decoder.decode(ids.astype("int64"))):
            assert [text.decode() for text in got.numpy()] == expected
    assert decoder.decode(np.full((2, 3), -1)).numpy().tolist() == [b"", b""]


def test_in_a_saved_model(tmp_path):
    tokenizer, module = Wav2Vec2CTCTokenizer(VOCABULARY), tf.Module()
    decoder = CharacterDecoder(tokenizer.pieces())
    module.decode = tf.function(decoder.decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    ids = _rows(tokenizer.vocab_size, 20)
    again = tf.saved_model.load(str(tmp_path / "saved"))
    assert [text.decode() for text in again.decode(ids).numpy()] == tokenizer.batch_decode(ids, group_tokens=False)


def test_an_id_beyond_the_symbols():
    decoder = CharacterDecoder(["", "a"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="beyond the 2 symbols"):
        decoder.decode(tf.constant([[0, 2]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="beyond the 2 symbols"):
        tf.function(decoder.decode)(tf.constant([[0, 2]]))
