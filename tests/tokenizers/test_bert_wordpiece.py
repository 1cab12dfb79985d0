"""BERT's WordPiece in a graph against the `tokenizers` library: every code point, real text, and what is refused."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from tfhf.models.bert.convert import SPECIAL_TOKENS, write_tiny_checkpoint
from tfhf.tokenizers.bert_wordpiece import BertWordPiece
from tfhf.tokenizers.training import train_tokenizer

CORPUS = ["the lowest of the newest", "unaffable words, unwanted; ünïcode naïve 中文 字 हिन्दी 한국어 😀 don't (see [1])",
          "a" * 101, "aaab" * 25, "x-ray 3.14 ¿qué? e\u0301 \u00e9 İstanbul ǅ ﬁ Ⅷ"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    train_tokenizer(CORPUS, path, "wordpiece", 400, special_tokens=SPECIAL_TOKENS, min_frequency=1)
    return path


def _check_equal(path, texts, encode_special_tokens=True):
    library = Tokenizer.from_file(str(path))
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = encode_special_tokens
    got = BertWordPiece.from_file(path).encode(tf.constant([text.encode() for text in texts])).to_list()
    expected = [one.ids for one in library.encode_batch(texts, add_special_tokens=False)]
    wrong = [(text, a, b) for text, a, b in zip(texts, got, expected) if a != b]
    assert len(got) == len(texts) and not wrong, f"{len(wrong)} of {len(texts)}, the first: {wrong[0]}"


def test_texts_of_all_kinds(path):
    _check_equal(path, [*CORPUS, "", "   ", "\t\n", "a" * 100, "[CLS] is text",
                        "\u200b\u00ad\ufffd\u0000x", "zzzz qqq", ""])


def test_every_code_point(path):
    points = [point for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    # Far from the assigned planes one of 97 is enough.
    points = [point for point in points if point < 0x32000 or 0xE0000 <= point < 0xE0200 or point % 97 == 0]
    _check_equal(path, ["a" + "a ".join(map(chr, points[i:i + 400])) + "a" for i in range(0, len(points), 400)])


@pytest.mark.parametrize("lowercase, accents", [(False, None), (False, True), (True, False)])
def test_cased_and_accented(path, tmp_path, lowercase, accents):
    content = json.loads(path.read_text("utf-8"))
    content["normalizer"] |= {"lowercase": lowercase, "strip_accents": accents}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    _check_equal(tmp_path / "tokenizer.json", CORPUS + ["Éé CAFÉ The LOWEST"])


def test_the_real_vocabulary(assets):
    folder = assets("minilm-l6")
    sentences = [json.loads((assets("reviews") / f"{site}.json").read_text("utf-8")) for site in ("amazon", "imdb")]
    rng = random.Random(0)
    noise = ["".join(chr(rng.randrange(1, high)) for _ in range(rng.randrange(40))) for high in (128, 0x500, 0x3000)
             for _ in range(200)]
    _check_equal(folder / "tokenizer.json", [row["text"] for rows in sentences for row in rows] + noise)


def test_in_a_saved_model_of_core_operations(path, tmp_path):
    module, tokenizer = tf.Module(), BertWordPiece.from_file(path)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(texts):
        return {"ids": tokenizer.encode(texts).to_tensor(-1)}

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": encode})
    again = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](texts=tf.constant(CORPUS))["ids"]
    np.testing.assert_array_equal(again, tokenizer.encode(CORPUS).to_tensor(-1))


def test_refusals(path, tmp_path):
    tokenizer = BertWordPiece.from_file(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text 1 of the batch: bytes that are not UTF-8"):
        tokenizer.encode([b"fine", b"not \xff"])
    with pytest.raises(ValueError, match="has no token '##nowhere'"):
        tokenizer.token_to_id("##nowhere")
    train_tokenizer(CORPUS, tmp_path / "bpe.json", "bpe", 300)
    with pytest.raises(ValueError, match="normalizer is None, expected 'BertNormalizer'"):
        BertWordPiece.from_file(tmp_path / "bpe.json")
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    assert BertWordPiece.from_file(f"{folder}/tokenizer.json").vocab_size <= 120
