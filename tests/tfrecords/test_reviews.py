"""The reviews writer, on small files of the same shape and, where they can be had, on the real ones."""

import json

import pytest

from tfhf.data.schema import RecordError
from tfrecords.reviews import SITES, Reviews


def _write(folder, count=8):
    for site in SITES:
        rows = [{"text": f" {site} says {i}.  ", "class": i % 2} for i in range(count)] + [{"text": "", "class": None}]
        (folder / f"{site}.json").write_text(json.dumps(rows))
    return folder


def test_the_split_is_fixed_and_even(tmp_path):
    dataset = Reviews(_write(tmp_path), held_out=1)
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert {split: len(found) for split, found in items.items()} == {"train": 18, "test": 6}
    assert [item["id"] for item in items["test"]] == ["amazon-0001", "amazon-0002", "imdb-0005", "imdb-0006",
                                                      "yelp-0005", "yelp-0006"]   # by the texts' SHA-256, for ever
    assert sum(item["label"] for item in items["test"]) == 3 and items["test"][0]["text"] == "amazon says 1."
    assert list(dataset.examples("test", 5)) == items["test"][5:]


def test_the_real_ones(assets):
    dataset = Reviews(assets("reviews"))
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert {split: len(found) for split, found in items.items()} == {"train": 2400, "test": 600}
    assert sum(item["label"] for item in items["test"]) == 300
    known = {item["text"].lower() for item in items["train"]}
    assert not any(item["text"].lower() in known for item in items["test"])


def test_what_is_not_the_reviews_is_refused(tmp_path):
    with pytest.raises(RecordError, match="amazon.json: not there"):
        Reviews(tmp_path)
    _write(tmp_path)
    (tmp_path / "imdb.json").write_text(json.dumps([{"text": "fine", "class": 2}]))
    with pytest.raises(RecordError, match="imdb.json, row 0: .*expected a text and class 0 or 1"):
        Reviews(tmp_path)
