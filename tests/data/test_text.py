"""Documents into rows: nothing lost, segments told apart, little waste; and the tokenizer that the records name."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.records import RecordWriter
from tfhf.data.schema import TEXT_LABEL, TOKENS, RecordError
from tfhf.data.text import check_tokenizer, packing_waste, read_text, text_label, token_rows
from tfhf.tokenizers.fingerprint import FingerprintError


def _documents(count, seed=0, longest=700):
    rng = np.random.default_rng(seed)
    return [(f"doc-{i}", rng.integers(1, 1000, rng.integers(1, longest))) for i in range(count)]


def _pieces(rows):
    """The segments of all rows, as tuples of ids, sorted."""
    found = []
    for row in rows:
        ids, segments = np.asarray(row["input_ids"]), np.asarray(row["segment_ids"])
        assert row["length"] == len(ids) == len(segments)
        assert sorted(set(segments)) == list(range(1, segments.max() + 1)) and (np.diff(segments) >= 0).all()
        found += [tuple(ids[segments == segment].tolist()) for segment in range(1, segments.max() + 1)]
    return sorted(found)


@pytest.mark.parametrize("window", [7, 10_000])
def test_every_piece_of_every_document_is_a_segment_of_one_row(window):
    documents = _documents(60)
    rows = list(token_rows(documents, 128, window=window))
    cut = sorted(tuple(ids[i:i + 128].tolist()) for _, ids in documents for i in range(0, len(ids), 128))
    assert _pieces(rows) == cut and max(row["length"] for row in rows) <= 128
    assert len({row["id"] for row in rows}) == len(rows)
    unpacked = list(token_rows(documents, 128, packed=False))
    assert _pieces(unpacked) == cut and all(set(row["segment_ids"]) == {1} for row in unpacked)
    assert list(map(repr, token_rows(documents, 128, window=window))) == list(map(repr, rows))


def test_waste_is_below_three_percent(tmp_path):
    rows = list(token_rows(_documents(300), 256))
    with RecordWriter(tmp_path, "train", TOKENS, options={"tokenizer": "abc"}) as writer:
        for row in rows:
            writer.write(row)
    waste = packing_waste(tmp_path / "train", 256)
    total = sum(len(ids) for _, ids in _documents(300))
    assert waste == pytest.approx(1 - total / (256 * len(rows))) and waste < 0.03
    print(f"waste {waste:.2%}")
    serialized = TOKENS.encode(rows[0])
    decoded = TOKENS.decode(tf.constant(serialized))
    np.testing.assert_array_equal(decoded["input_ids"], rows[0]["input_ids"])
    np.testing.assert_array_equal(decoded["segment_ids"], rows[0]["segment_ids"])


def test_nothing_and_too_short_rows():
    assert list(token_rows([("empty", [])], 8)) == []
    with pytest.raises(RecordError, match="rows of 1 tokens, expected 2 or more"):
        list(token_rows(_documents(1), 1))


def test_another_tokenizer_is_refused():
    check_tokenizer({"options": {"tokenizer": "a" * 64}}, "a" * 64, "here")
    for options in ({"tokenizer": "b" * 64}, {}):
        with pytest.raises(FingerprintError, match="here: its token records: made with the tokenizer of fingerprint"):
            check_tokenizer({"options": options}, "a" * 64, "here")


def test_labelled_texts_count_bytes_and_files_must_be_utf8(tmp_path):
    example = text_label("a", "naïve ☕", 1)
    assert example["length"] == 10 and TEXT_LABEL.pack(example).length == 10
    (tmp_path / "good.txt").write_text("naïve", "utf-8")
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    assert read_text(str(tmp_path / "good.txt")) == "naïve"
    with pytest.raises(RecordError, match="bad.txt: not a text in UTF-8: byte 0xff at 3"):
        read_text(str(tmp_path / "bad.txt"))
