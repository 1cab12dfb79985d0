"""Shards, index, manifest: what is damaged is found and named, what is whole is read."""

import json
import os
import shutil

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from tfhf.data import shards
from tfhf.data.records import RecordReader, RecordWriter, read_manifest
from tfhf.data.schema import SPEECH_TEXT, Field, RecordError, RecordType
from tfhf.data.storage import StorageError
from tfhf.data.verify import verify

TINY = RecordType("tiny", 1, (Field("id", "string"), Field("count", "int")), "count")


def write(out, count=5, split="train", **options):
    with RecordWriter(out, split, TINY, **options) as writer:
        for number in range(count):
            writer.write({"id": f"r{number}", "count": number + 1})
    return os.path.join(out, split)


@pytest.fixture
def folder(tmp_path):
    return write(str(tmp_path))


def read_all(folder):
    with RecordReader(folder, TINY) as reader:
        return [reader.read(number) for number in range(len(reader))]


def test_ordinary_tfrecord_files(folder):
    paths = [os.path.join(folder, "train-00000.tfrecord")]
    assert [data.numpy() for data in tf.data.TFRecordDataset(paths)] == read_all(folder)


def test_shards_are_cut_by_size_and_read_in_any_order(tmp_path):
    folder = write(str(tmp_path), 50, shard_bytes=300)
    manifest = read_manifest(folder)
    assert len(manifest["shards"]) > 5 and all(shard["bytes"] <= 300 for shard in manifest["shards"])
    with RecordReader(folder, TINY) as reader:
        assert len(reader) == manifest["count"] == 50
        np.testing.assert_array_equal(reader.lengths, np.arange(1, 51))
        for number in (49, 0, 17, 17, 3):
            assert TINY.decode(reader.read(number))["id"].numpy().decode() == f"r{number}"
            assert reader.read_at(*reader.locate(number)) == reader.read(number)
        for number in (-1, 50):
            with pytest.raises(RecordError, match=f"record {number}"):
                reader.read(number)
    assert verify(folder, TINY) == {"records": 50, "shards": len(manifest["shards"]), "bytes": manifest["bytes"]}


def test_manifest_states_counts_lengths_and_origin(tmp_path):
    folder = write(str(tmp_path), 7, writer="w", options={"a": 1}, dataset={"licence": "CC0", "origin": "here"})
    manifest = read_manifest(folder)
    assert (manifest["writer"], manifest["options"], manifest["dataset"]["licence"]) == ("w", {"a": 1}, "CC0")
    length = manifest["length"]
    assert (length["min"], length["max"], length["sum"], sum(length["histogram"]["counts"])) == (1, 7, 28, 7)
    shard = os.path.join(folder, manifest["shards"][0]["name"])
    assert google_crc32c.value(open(shard, "rb").read()) == manifest["shards"][0]["crc32c"]


@pytest.mark.parametrize("name", ["train-00000.tfrecord", "train-00000.index", "manifest.json"])
def test_every_flipped_byte_is_found(folder, name):
    path = os.path.join(folder, name)
    whole = open(path, "rb").read()
    with RecordReader(folder) as reader:
        ends = np.cumsum(reader.record_bytes)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        with open(path, "wb") as file:
            file.write(damaged)
        if name == "manifest.json" and json_equal(whole, damaged):
            continue   # a space became another white space
        with pytest.raises(RecordError) as caught:
            read_all(folder)
        assert name in str(caught.value)
        if name.endswith(".tfrecord"):
            assert f"record {np.searchsorted(ends, position, 'right')}:" in str(caught.value)


def json_equal(first, second):
    try:
        return json.loads(first) == json.loads(bytes(second))
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["train-00000.tfrecord", "train-00000.index", "manifest.json"])
def test_every_cut_is_found(folder, name):
    path = os.path.join(folder, name)
    whole = open(path, "rb").read()
    with RecordReader(folder) as reader:
        ends = np.cumsum(reader.record_bytes)
    for length in range(len(whole.rstrip())):
        with open(path, "wb") as file:
            file.write(whole[:length])
        with pytest.raises(RecordError) as caught:
            read_all(folder)
        assert name in str(caught.value)
        if name.endswith(".tfrecord"):
            assert f"cut in record {np.searchsorted(ends, length, 'right')} of 5" in str(caught.value)


def test_a_shard_cut_while_it_is_being_read(folder):
    with RecordReader(folder) as reader:
        os.truncate(os.path.join(folder, "train-00000.tfrecord"), 100)
        with pytest.raises(RecordError, match="train-00000.tfrecord: record 4: the shard is cut"):
            reader.read(4)


def test_missing_renamed_doubled_and_swapped_shards(tmp_path):
    folder = write(str(tmp_path), 20, shard_bytes=200)
    first, second = (os.path.join(folder, f"train-0000{n}.tfrecord") for n in (0, 1))
    os.rename(first, first + ".bak")
    with pytest.raises(RecordError, match=r"missing \['train-00000.tfrecord'\]"):
        RecordReader(folder)
    os.rename(first + ".bak", first)
    shutil.copy(first, os.path.join(folder, "train-00099.tfrecord"))
    with pytest.raises(RecordError, match=r"unknown \['train-00099.tfrecord'\]"):
        RecordReader(folder)
    os.unlink(os.path.join(folder, "train-00099.tfrecord"))
    shutil.copy(first, second)   # the same size, every crc in it sound
    with pytest.raises(RecordError, match="train-00001.tfrecord: record 0: sound, but not the record"):
        read_all(folder)


def rewrite_manifest(folder, change):
    path = os.path.join(folder, "manifest.json")
    manifest = json.load(open(path))
    manifest.pop("checksum")
    change(manifest)
    manifest["checksum"] = google_crc32c.value(shards.canonical(manifest))
    with open(path, "w") as file:
        json.dump(manifest, file)


@pytest.mark.parametrize("change, message", [
    (lambda m: m["schema"].update(version=2), "version 2, expected version 1"),
    (lambda m: m["schema"].update(name="other"), "type 'other', expected 'tiny'"),
    (lambda m: m.update(format=9), "format 9, expected 1"),
    (lambda m: m.update(count=6), "hold 5 records, the manifest says 6"),
])
def test_manifest_of_something_else(folder, change, message):
    rewrite_manifest(folder, change)
    with pytest.raises(RecordError, match=message):
        RecordReader(folder, TINY)


def test_no_manifest(tmp_path, folder):
    with pytest.raises(RecordError, match="expected OUT/SPLIT"):
        RecordReader(tmp_path, TINY)
    with pytest.raises(RecordError, match="no manifest"):
        RecordReader(tmp_path / "nothing", TINY)
    os.unlink(os.path.join(folder, "manifest.json"))
    with pytest.raises(RecordError, match="interrupted"):
        RecordReader(folder, TINY)


def test_other_type_of_records(folder):
    with pytest.raises(RecordError, match="type 'tiny', expected 'speech_text'"):
        RecordReader(folder, SPEECH_TEXT)


def test_double_ids_are_refused(tmp_path):
    with pytest.raises(RecordError, match="train-00000.tfrecord record 1 and train-00000.tfrecord record 2"):
        with RecordWriter(tmp_path, "train", TINY) as writer:
            for name in ("a", "b", "b"):
                writer.write({"id": name, "count": 1})
    assert not (tmp_path / "train" / "manifest.json").exists()


def test_an_error_leaves_no_readable_records(tmp_path):
    with pytest.raises(KeyError):
        with RecordWriter(tmp_path, "train", TINY, shard_bytes=60) as writer:
            writer.write({"id": "a", "count": 1})
            writer.write({"id": "b", "count": 1})
            raise KeyError("source")
    assert not [name for name in os.listdir(tmp_path / "train") if "partial" in name or name == "manifest.json"]


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no record was written"):
        with RecordWriter(tmp_path, "train", TINY):
            pass


def test_written_records_are_not_written_over_unasked(folder, tmp_path):
    with pytest.raises(RecordError, match="already holds complete records"):
        write(str(tmp_path))
    with pytest.raises(RecordError, match=r"with other options: writer '' \(now 'x'\)"):
        RecordWriter(tmp_path, "train", TINY, writer="x", resume=True)
    (tmp_path / "train" / "notes.txt").write_text("mine")
    write(str(tmp_path), 2, overwrite=True)
    assert len(read_all(folder)) == 2
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"


def test_two_writers_do_not_share_a_folder(tmp_path):
    with RecordWriter(tmp_path, "train", TINY) as writer:
        writer.write({"id": "a", "count": 1})
        with pytest.raises(StorageError, match="another writer"):
            RecordWriter(tmp_path, "train", TINY, resume=True)
