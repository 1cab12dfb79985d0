"""WordPiece through tensorflow-text against the `tokenizers` library."""

import json

import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from tests.tokenizers.corpus import PROSE, mixed_lines
from tfhf.tokenizers.tensorflow_text import TensorFlowTextMissing, tensorflow_text
from tfhf.tokenizers.training import train_tokenizer
from tfhf.tokenizers.wordpiece import WordPiece

# "ß" is folded, and joined emoji are taken apart, in another way.
PLAIN = [text for text in PROSE if "ß" not in text and "🙂" not in text]


@pytest.fixture(scope="module", params=["bert", "bert_cased"])
def trained(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    texts = PROSE + [line for line in mixed_lines(2000, seed=7) if line.isascii()]
    train_tokenizer(texts, path, "wordpiece", 2000, normalizer=request.param)
    return path


def test_equals_the_library_where_nfkc_changes_nothing(trained):
    pytest.importorskip("tensorflow_text")
    texts = [line for line in mixed_lines(3000, seed=11) if line.isascii()] + PLAIN
    wordpiece, library = WordPiece.from_file(trained), Tokenizer.from_file(str(trained))
    ids = tf.function(wordpiece.encode)(tf.constant(texts))
    for text, ours, theirs in zip(texts, ids.to_list(), library.encode_batch(texts), strict=True):
        assert ours == theirs.ids, text
    assert ids.dtype == tf.int32 and wordpiece.vocab_size == library.get_vocab_size()


@pytest.mark.parametrize("part, value, message", [
    ("model", {"type": "BPE"}, "model is 'BPE', expected 'WordPiece'"),
    ("normalizer", None, "normalizer is None, expected 'BertNormalizer'"),
    ("normalizer", {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": False,
                    "lowercase": True}, "expected lower case and no accents, or neither"),
])
def test_refusals(trained, part, value, message):
    content = {**json.loads(trained.read_text("utf-8")), part: value}
    with pytest.raises(ValueError, match=message):
        WordPiece(json.dumps(content))


def test_a_hole_in_the_ids_is_refused(trained):
    content = json.loads(trained.read_text("utf-8"))
    content["model"]["vocab"]["new"] = 10**6
    with pytest.raises(ValueError, match="'new' has the id 1000000; expected a whole number"):
        WordPiece(json.dumps(content))


def test_without_tensorflow_text_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_text", None)
    with pytest.raises(TensorFlowTextMissing, match=r"pip install 'tfhf\[text\]'"):
        tensorflow_text()
