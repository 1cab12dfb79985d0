"""Byte-level BPE in the graph against the `tokenizers` library, and where it can be used."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from tests.tokenizers.corpus import all_characters, mixed_lines
from tfhf.tokenizers.byte_level import byte_of_character
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.training import train_tokenizer

RUNNER = Path(__file__).parent.parent / "c_api_runner.py"
ABSENT = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "HashTableV2", "MutableHashTableV2"}


@pytest.fixture(scope="module")
def small_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer(mixed_lines(3000, seed=5), path, "bpe", 2000, special_tokens=["<|endoftext|>"])
    return path


@pytest.fixture(scope="module")
def small(small_json):
    return ByteLevelBPE.from_file(small_json)


@pytest.fixture(scope="module")
def real_json(assets):
    return assets("whisper-tiny.en") / "tokenizer.json"


@pytest.fixture(scope="module")
def real(real_json):
    return ByteLevelBPE.from_file(real_json)


def _library(path, texts, **settings):
    tokenizer = Tokenizer.from_file(str(path))
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return [row.ids for row in tokenizer.encode_batch(texts, add_special_tokens=False)]


def check_same(bpe, path, texts, **settings):
    """Ids equal the library's, line by line; returns them."""
    ids = bpe.encode(texts)
    for text, ours, theirs in zip(texts, ids.to_list(), _library(path, texts, **settings), strict=True):
        assert ours == theirs, (text, ours, theirs)
    assert (ids.dtype, ids.row_splits.dtype) == (tf.int32, tf.int64)
    return ids


def test_20000_lines_of_mixed_text_and_back(real, real_json):
    texts = mixed_lines()
    ids = check_same(real, real_json, texts)
    assert [text.decode() for text in real.decode(ids, skip_special_tokens=False).numpy()] == texts
    library = Tokenizer.from_file(str(real_json))
    assert [text.decode() for text in real.decode(ids).numpy()] == library.decode_batch(ids.to_list())


def test_every_character(tmp_path):
    texts, path = all_characters(), tmp_path / "tokenizer.json"
    texts = texts[:1024] + texts[1024::8]   # all of the first plane, an eighth of the others
    path.write_text(_tiny([("Ã", "©")]))
    bpe = ByteLevelBPE.from_file(path)
    ids = check_same(bpe, path, texts)
    assert [text.decode() for text in bpe.decode(ids).numpy()] == texts


def test_mixed_text_with_a_small_vocabulary(small, small_json):
    check_same(small, small_json, mixed_lines(4000, seed=2))


def test_special_tokens_as_text(small_json):
    texts = ["<|endoftext|>", "a<|endoftext|><|0.00|> b", "<|endoftext|><|endoftext"]
    ids = check_same(ByteLevelBPE.from_file(small_json, encode_special_tokens=True), small_json, texts,
                     encode_special_tokens=True)
    assert 0 not in ids.values.numpy()


def test_long_words_and_repetitions(small, small_json):
    draw = random.Random(0)
    texts = ["a" * 999, "ab" * 501, " " * 300, "=" * 77, "".join(draw.choices("etaoins", k=3000)), "\n" * 50 + "x"]
    check_same(small, small_json, texts)


def _tiny(merges, added=(), **changes):
    """tokenizer.json of the 256 bytes and these merges, as text."""
    characters = {byte: character for character, byte in byte_of_character().items()}
    vocabulary = {characters[byte]: byte for byte in range(256)}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    new = iter(range(len(vocabulary), len(vocabulary) + len(added)))
    tokens = [{"id": vocabulary[text] if text in vocabulary else next(new), "content": text, "single_word": False,
               "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
              for text, normalized, special in added]
    content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None,
               "pre_tokenizer": level, "post_processor": None, "decoder": level,
               "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                         "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                         "ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for pair in merges]}}
    content["model"].update(changes.pop("model", {}))
    return json.dumps({**content, **changes})


def test_random_merges_in_and_out_of_order(tmp_path):
    """Merges whose product can be merged earlier, and two ways to one token: as the library, one after the other."""
    in_order = set()
    for seed in range(4):
        draw = random.Random(seed)
        parts, merges = list("abc"), []
        while len(merges) < 25:
            pair = (draw.choice(parts), draw.choice(parts))
            if pair not in merges and len("".join(pair)) < 7:
                merges.append(pair)
                parts.append("".join(pair))
        if seed % 2:
            draw.shuffle(merges)
        path = tmp_path / "tokenizer.json"
        path.write_text(_tiny(merges))
        bpe = ByteLevelBPE.from_file(path)
        in_order.add(bpe._in_order)
        check_same(bpe, path, ["".join(draw.choices("abc", k=draw.randrange(30))) for _ in range(300)])
    assert in_order == {True, False}


def test_added_tokens_leftmost_longest_and_by_kind(tmp_path):
    added = [("<a>", False, True), ("<a><b>", False, False), ("b><c", False, False), ("<c>", True, False),
             ("é<", False, False), ("a", True, False), (">x", True, False), ("  ", False, False)]
    path = tmp_path / "tokenizer.json"
    path.write_text(_tiny([("b", "c")], added))
    draw = random.Random(3)
    texts = ["".join(draw.choices(["<", "a", "b", ">", "c", "é", "x", " ", "<a>", "<b>", "<c>", ""], k=12))
             for _ in range(3000)]
    ids = check_same(ByteLevelBPE.from_file(path), path, texts)
    assert {257, 258, 259, 260, 261, 262, 263} <= set(ids.values.numpy().tolist())   # the tokens that were added
    check_same(ByteLevelBPE.from_file(path, encode_special_tokens=True), path, texts, encode_special_tokens=True)


def test_whole_words_before_merges(tmp_path):
    path = tmp_path / "tokenizer.json"
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]   # "abc" is merged as ab, c; with ignore_merges it is one token
    for ignore_merges in (False, True):
        path.write_text(_tiny(merges, model={"ignore_merges": ignore_merges}))
        ids = check_same(ByteLevelBPE.from_file(path), path, ["abc bc", "abcabc"])
        assert len(ids.to_list()[0]) == (4 if not ignore_merges else 3)


def test_empty_batches_and_strings(small):
    assert small.encode(tf.zeros([0], tf.string)).to_list() == []
    assert small.encode(["", ""]).to_list() == [[], []]
    assert small.decode(small.encode(["", "a"])).numpy().tolist() == [b"", b"a"]
    assert small.decode(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]


def test_in_tf_data_and_tf_function(small, small_json):
    texts = mixed_lines(300, seed=8)
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(100).map(small.encode, num_parallel_calls=2)
    assert [row for batch in dataset for row in batch.to_list()] == _library(small_json, texts)

    @tf.function
    def there_and_back(strings):
        return small.decode(small.encode(strings), skip_special_tokens=False)

    assert [text.decode() for text in there_and_back(tf.constant(texts)).numpy()] == texts


def _exported(bpe, folder):
    module = tf.Module()

    def serve(prompt):
        ids = bpe.encode(prompt)
        return {"ids": ids.to_tensor(-1), "text": bpe.decode(ids)}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return module


def test_in_a_saved_model_through_the_c_api(small, small_json, tmp_path):
    module = _exported(small, tmp_path)
    graph = module.serve.get_concrete_function().graph.as_graph_def()
    ops = {node.op for function in graph.library.function for node in function.node_def} | {n.op for n in graph.node}
    assert not ops & ABSENT
    texts = mixed_lines(400, seed=9)
    requests = [{"prompt": [text.encode() for text in texts]}, {"prompt": [b"fine", b"\xff\xfe", b"fine"]},
                {"prompt": [b""]}]
    process = subprocess.run([sys.executable, "-I", str(RUNNER), str(tmp_path), "serving_default"],
                             input=pickle.dumps(requests), capture_output=True, timeout=120,
                             env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-2000:]
    answer, refusal, empty = pickle.loads(process.stdout)
    assert [[i for i in row if i >= 0] for row in answer["ids"].tolist()] == _library(small_json, texts)
    assert "text 1 of the batch: bytes that are not UTF-8" in refusal
    assert empty["ids"].shape == (1, 0) and empty["text"].tolist() == [b""]


@pytest.mark.parametrize("broken", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\x80"])
def test_bytes_that_are_not_utf8(small, broken):
    with pytest.raises(tf.errors.InvalidArgumentError, match="text 2 of the batch: bytes that are not UTF-8"):
        small.encode([b"a", "\ufffd".encode(), broken])


def test_decoding_broken_bytes_and_ids_outside(small, small_json):
    ids = [[small.token_to_id("Ã"), small.token_to_id("a")], [small.token_to_id("Ã"), small.token_to_id("©")]]
    assert [text.decode() for text in small.decode(np.array(ids)).numpy()] == ["\ufffda", "é"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        small.decode([[small.vocab_size]])


@pytest.mark.parametrize("changes, message", [
    ({"normalizer": {"type": "NFC"}}, "normalizer is {'type': 'NFC'}, expected None"),
    ({"pre_tokenizer": None}, "pre_tokenizer.type is None, expected 'ByteLevel'"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "add_prefix_space is True"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}}, "use_regex is False"),
    ({"model": {"type": "Unigram"}}, "model.type is 'Unigram', expected 'BPE'"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix is '</w>'"),
    ({"model": {"vocab": {"a": 0}}}, "255 of the 256 bytes have no token"),
])
def test_what_has_no_counterpart_is_refused(changes, message):
    with pytest.raises(ValueError) as error:
        ByteLevelBPE(_tiny([], **changes), name="some.json")
    assert message in str(error.value) and str(error.value).startswith("some.json: ")


def test_other_refusals(small):
    content = json.loads(_tiny([], [("<m>", False, True), (" n", False, False)]))
    content["added_tokens"][0]["rstrip"] = True
    with pytest.raises(ValueError, match="added token ' n' begins with white space, and another one has rstrip"):
        ByteLevelBPE(json.dumps(content))
    with pytest.raises(ValueError, match=r"strings: shape \(\), expected \[batch\]"):
        small.encode("a scalar")
    with pytest.raises(ValueError, match="has no token 'zzzz'"):
        small.token_to_id("zzzz")
