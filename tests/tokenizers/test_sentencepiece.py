"""SentencePiece through tensorflow-text: a trained Unigram gives the ids of the `tokenizers` library."""

import json
import re

import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from tests.tokenizers.corpus import PROSE, mixed_lines
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.sentencepiece import SentencePiece, sentencepiece_model
from tfhf.tokenizers.training import train_tokenizer

# No null characters, which a ModelProto cannot hold, and no long runs: of splits with equal scores the two libraries
# take different ones.
TEXTS = [line for line in mixed_lines(2500, seed=12) if "\0" not in line and not re.search(r"(.)\1{7}", line.strip())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.json"
    train_tokenizer(TEXTS, path, "unigram", 7000, special_tokens=["<pad>", "</s>", "<unk>"])
    return path


def test_equals_the_library_and_decodes(trained):
    pytest.importorskip("tensorflow_text")
    tokenizer, library = SentencePiece.from_file(trained), Tokenizer.from_file(str(trained))
    ids = tf.function(tokenizer.encode)(tf.constant(TEXTS))
    expected = [row.ids for row in library.encode_batch(TEXTS)]
    for text, ours, theirs in zip(TEXTS, ids.to_list(), expected, strict=True):
        assert ours == theirs, text
    assert [text.decode() for text in tokenizer.decode(ids).numpy()] == library.decode_batch(expected)
    assert tokenizer.fingerprint == fingerprint(trained.read_bytes())
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_a_model_file(trained, tmp_path):
    pytest.importorskip("tensorflow_text")
    model, _, _ = sentencepiece_model(trained.read_bytes())
    (tmp_path / "spiece.model").write_bytes(model)
    tokenizer = SentencePiece.from_file(tmp_path / "spiece.model")
    texts = tokenizer.decode(tokenizer.encode(tf.constant(PROSE[:2])))
    assert [text.decode() for text in texts.numpy()] == PROSE[:2]


def test_what_has_no_counterpart_is_refused(trained):
    content = json.loads(trained.read_text("utf-8"))
    for part, value, message in (("model", {"type": "BPE"}, "model is 'BPE', expected 'Unigram'"),
                                 ("normalizer", {"type": "Lowercase"}, "normalizer is .*Lowercase.*, expected some of"),
                                 ("pre_tokenizer", {"type": "Whitespace"}, "expected Metaspace"),
                                 ("model", {**content["model"], "byte_fallback": True}, "byte_fallback is True")):
        with pytest.raises(ValueError, match=message):
            sentencepiece_model(json.dumps({**content, part: value}))
    content["model"]["vocab"][5][0] = "a\0"
    with pytest.raises(ValueError, match="token 5 is 'a.x00', expected no empty piece and no null"):
        sentencepiece_model(json.dumps(content))
