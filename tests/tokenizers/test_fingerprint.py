"""One sum for one tokenizer, whatever its file looks like."""

import json

import pytest

from tests.tokenizers.corpus import PROSE
from tfhf.tokenizers.fingerprint import FingerprintError, check_fingerprint, fingerprint
from tfhf.tokenizers.training import train_tokenizer


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("fingerprint") / "tokenizer.json"
    found = train_tokenizer(PROSE, path, "bpe", 300)
    assert found == fingerprint(path.read_bytes()) == fingerprint(path.read_text("utf-8"))
    assert len(found) == 64 and set(found) <= set("0123456789abcdef")
    return json.loads(path.read_text("utf-8"))


def test_layout_and_settings_of_a_batch_do_not_count(content):
    expected = fingerprint(json.dumps(content))
    assert fingerprint(json.dumps(content, indent=3, sort_keys=True, ensure_ascii=False)) == expected
    assert fingerprint(json.dumps({**content, "truncation": {"max_length": 5}, "padding": {"pad_id": 1}})) == expected
    old = {**content, "model": {**content["model"], "merges": [" ".join(pair) for pair in content["model"]["merges"]]}}
    assert fingerprint(json.dumps(old)) == expected


def test_every_id_merge_and_step_counts(content):
    model = content["model"]
    first, second = list(model["vocab"])[:2]
    swapped = {**model["vocab"], first: model["vocab"][second], second: model["vocab"][first]}
    added = {"id": len(model["vocab"]), "content": "added"}
    others = [{**content, "model": {**model, "vocab": swapped}}, {**content, "normalizer": {"type": "NFC"}},
              {**content, "model": {**model, "merges": model["merges"][::-1]}}, {**content, "added_tokens": [added]}]
    assert len({fingerprint(json.dumps(one)) for one in (content, *others)}) == 5


def test_a_mismatch_is_refused_by_name():
    check_fingerprint("ab", "ab", "records/train")
    with pytest.raises(FingerprintError, match="records/train: made with the tokenizer of fingerprint 1234.*has abcd"):
        check_fingerprint("1234", "abcd", "records/train")
    with pytest.raises(FingerprintError, match="fingerprint None"):
        check_fingerprint(None, "abcd", "records/train")


@pytest.mark.parametrize("broken", [b"{", b"[1]", b"{}", b'{"model": 3}'])
def test_what_is_no_tokenizer(broken):
    with pytest.raises(ValueError, match="tokenizer.json"):
        fingerprint(broken)
