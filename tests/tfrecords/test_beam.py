"""The writers as a Beam pipeline: the same bytes as the local road, also after a kill; skipped without Beam."""

import os
import sys

import numpy as np
import pytest

from tfhf.data.audio import AudioError
from tfhf.data.records import RecordWriter
from tfhf.data.schema import RecordError
from tfhf.data.shards import FRAME_BYTES
from tfhf.data.writing import Dataset, write_split
from tfrecords.__main__ import main
from tfrecords.beam import _deal, write_split_with_beam


class Noise(Dataset):
    """30 clips of noise, some of which may be bad."""

    name = "noise"

    def __init__(self, bad=()):
        self.bad = bad

    def options(self, split):
        return {"clips": 30}

    def examples(self, split, start=0):
        return ({"id": f"n{number}", "text": str(number)} for number in range(start, 30))

    def load(self, item):
        number = int(item["text"])
        if number in self.bad:
            raise AudioError(f"n{number}.wav: truncated")
        return {**item, "audio": np.random.default_rng(number).uniform(-1, 1, 100 + 10 * number)}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def write_both(folder, bad=(), **options):
    """-> the folder of the local road, that of Beam"""
    options = {"shard_bytes": 4000, "log": lambda line: None, **options}
    write_split(Noise(bad), folder / "local", "train", **options)
    write_split_with_beam(Noise(bad), folder / "beam", "train", **options)
    return folder / "local" / "train", folder / "beam" / "train"


def test_dealing_is_what_the_writer_does(tmp_path):
    rng = np.random.default_rng(0)
    for case in range(20):
        sizes = [None if rng.random() < 0.2 else int(rng.integers(1, 60)) for _ in range(25)]
        sizes[7] = 3   # one record at least
        writer = RecordWriter(tmp_path / str(case), "train", Noise.record_type, shard_bytes=100 + FRAME_BYTES)
        expected = []
        for number, size in enumerate(sizes):
            if size is None:
                writer.skip(str(number), "bad")
            else:
                packed = type("Packed", (), {"serialized": bytes(size), "length": 1, "id_hash": number})
                writer.add(packed)
            expected.append(len(writer._indexes))
        writer.finish()
        shuffled = [(number, sizes[number], "bad") for number in rng.permutation(len(sizes)).tolist()]
        assert _deal(shuffled, shard_bytes=100 + FRAME_BYTES, spare=25) == expected


def test_more_bad_items_than_allowed_are_refused():
    with pytest.raises(RecordError, match="^second$"):
        _deal([(1, None, "first"), (0, 5, ""), (2, None, "second")], shard_bytes=100, spare=1)


def test_without_beam_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(RecordError, match=r"Apache Beam cannot be imported .*tfhf\[beam\]"):
        write_split_with_beam(Noise(), tmp_path, "train")
    with pytest.raises(SystemExit):
        main(["asterisk", "--out", str(tmp_path), "--runner", "DirectRunner"])
    assert "unrecognized arguments: --runner DirectRunner" in capsys.readouterr().err


def test_the_same_bytes_as_the_local_road(tmp_path):
    pytest.importorskip("apache_beam")
    local, beam = write_both(tmp_path, bad=(3, 29), skip_bad=2)
    assert contents(local) == contents(beam) and len(contents(local)) > 8
    before = contents(beam)
    write_split_with_beam(Noise((3, 29)), tmp_path / "beam", "train", shard_bytes=4000, skip_bad=2)
    assert contents(beam) == before


def test_an_interrupted_run_is_finished_to_the_same_bytes(tmp_path):
    pytest.importorskip("apache_beam")
    local, beam = write_both(tmp_path)
    os.unlink(beam / "manifest.json")
    os.unlink(beam / "train-00001.index")   # killed between a shard and its index; later shards were whole
    os.unlink(beam / "train-00003.tfrecord")
    write_split_with_beam(Noise(), tmp_path / "beam", "train", shard_bytes=4000, log=lambda line: None)
    assert contents(local) == contents(beam)


def test_a_bad_item_is_named_and_leaves_no_manifest(tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(RecordError, match="^n7.wav: truncated$"):
        write_split_with_beam(Noise((7,)), tmp_path, "train", log=lambda line: None)
    assert not (tmp_path / "train" / "manifest.json").exists()
