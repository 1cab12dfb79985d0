"""`tfhf data verify` and `tfhf data stats`: every fault is told, one per line, and the figures are the records' own."""

import json
import shutil

import numpy as np
import pytest

import pipelines.__main__ as command
from tests import toy_task
from tfhf.data import verify
from tfhf.data.records import RecordWriter, read_manifest
from tfhf.data.schema import SPEECH_TEXT, RecordError


@pytest.fixture
def records(tmp_path):
    """50 and 21 records, several shards of the first split."""
    for split, count in (("train", 50), ("validation", 21)):
        with RecordWriter(tmp_path, split, toy_task.SERIES, shard_bytes=1500, dataset={"licence": "CC0"}) as writer:
            for example in toy_task.examples(count):
                writer.write(example)
    return tmp_path


def damage(path, position, flip=1):
    data = bytearray(path.read_bytes())
    data[position] ^= flip
    path.write_bytes(bytes(data))


def test_sound_records(records, capsys):
    assert verify.problems(str(records / "train"), toy_task.SERIES) == []
    assert verify.verify(records / "train")["records"] == 50
    assert command.main(["data", "verify", str(records)]) == 0
    lines = capsys.readouterr().out.splitlines()
    fingerprint = read_manifest(records / "train")["fingerprint"]
    assert len(lines) == 2 and lines[0].startswith(f"sound: {records}/train: 50 records, 4 shards, ")
    assert lines[0].endswith(fingerprint[:12])


def test_every_fault_is_told(records, capsys):
    train = records / "train"
    damage(train / "train-00000.tfrecord", 40)
    damage(train / "train-00000.tfrecord", -3)
    damage(train / "train-00001.index", 60)
    (train / "train-00002.tfrecord").rename(train / "train-00002-copy.tfrecord")
    shard = train / "train-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-5])
    (records / "validation" / "manifest.json").unlink()
    assert command.main(["data", "verify", str(records)]) == 1
    lines = capsys.readouterr().out.splitlines()
    last = json.loads((train / "manifest.json").read_text())["shards"][0]["count"] - 1
    for line, words in zip(lines, (
        "missing ['train-00002.tfrecord'], unknown ['train-00002-copy.tfrecord']",
        "train-00000.tfrecord: record 0: its data are damaged",
        f"train-00000.tfrecord: record {last}: its data are damaged",
        "train-00001.index: the index is damaged",
        "train-00003.tfrecord: cut in record",
        "validation/manifest.json: no manifest",
    ), strict=True):
        assert line.startswith("wrong: ") and words in line
    with pytest.raises(RecordError, match="missing"):
        verify.verify(train)


def test_many_damaged_records_are_counted(records):
    shard = records / "train" / "train-00000.tfrecord"
    data = bytearray(shard.read_bytes())
    data[::20] = bytes(255 - byte for byte in data[::20])
    shard.write_bytes(bytes(data))
    found = verify.problems(str(records / "train"))
    assert len(found) == 6 and found[-1].endswith("more records like these")


def test_sound_records_in_the_wrong_place(records):
    train = records / "train"
    assert verify.problems(str(train), SPEECH_TEXT)[0].endswith("expected 'speech_text'")
    sizes = {shard["bytes"]: shard["name"] for shard in read_manifest(train)["shards"]}
    assert len(sizes) > 1
    shutil.copy(train / "train-00000.tfrecord", train / "train-00001.tfrecord")
    assert "train-00001.tfrecord" in verify.problems(str(train))[0]


@pytest.mark.parametrize("path, words", [("nowhere", "no such folder"), (".", "no records here")])
def test_no_records(tmp_path, capsys, path, words):
    (tmp_path / "empty").mkdir()
    assert command.main(["data", "verify", str(tmp_path / path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and words in printed


def test_stats(records, capsys):
    lengths = np.array([example["length"] for example in toy_task.examples(50)])
    assert command.main(["data", "stats", str(records), "--buckets", "6,12"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [f"{records}/train", f"{records}/validation"]
    train = told[f"{records}/train"]
    manifest = read_manifest(records / "train")
    assert (train["records"], train["shards"], train["bytes"]) == (50, 4, manifest["bytes"])
    assert train["shard_bytes"]["max"] == max(shard["bytes"] for shard in manifest["shards"])
    assert (train["length"]["sum"], train["length"]["p100"]) == (lengths.sum(), lengths.max())
    padded = np.where(lengths <= 6, 6, 12)
    assert train["padding"]["fraction"] == pytest.approx(1 - lengths.sum() / padded.sum())
    assert train["padding"]["examples_per_bucket"] == [np.sum(lengths <= 6), np.sum(lengths > 6)]
    assert train["fingerprint"] == manifest["fingerprint"] and train["licence"] == "CC0" and "hours" not in train
    assert verify.stats(records / "train", (6,))["padding"]["longer"] == np.sum(lengths > 6)


def test_hours_of_speech(tmp_path):
    with RecordWriter(tmp_path, "train", SPEECH_TEXT) as writer:
        for number in range(3):
            writer.write({"id": f"{number}", "audio": np.zeros(16000 * (number + 1), np.int16), "text": "a"})
    stats = verify.stats(tmp_path / "train")
    assert stats["hours"] == pytest.approx(6 / 3600)
    assert stats["padding"] == {"buckets": [48000], "fraction": pytest.approx(1 / 3), "examples_per_bucket": [3],
                                "longer": 0}
