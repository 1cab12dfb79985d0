"""What records were made of: noted while they are written, compared when the same command runs again."""

import json
import os

import numpy as np
import pytest
import soundfile

from tfhf.data import shards, sources, storage, verify
from tfhf.data.records import StaleRecords, read_manifest
from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, write_split


class Clips(Dataset):
    """Sounds of a folder, whose texts are given."""

    name = "clips"

    def __init__(self, folder, texts):
        self.folder, self._texts = str(folder), texts

    def options(self, split):
        return {}

    def examples(self, split, start=0):
        items = [{"id": name, "audio": f"{self.folder}/{name}.wav", "text": text} for name, text in self._texts.items()]
        return iter(items[start:])


def tone(path, samples=800, level=0.1):
    soundfile.write(path, np.full(samples, level), 16000)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abcd":
        tone(tmp_path / "in" / f"{name}.wav")
    return tmp_path / "in"


TEXTS = dict(zip("abcd", ("one", "two", "three", "four")))


def write(folder, texts=TEXTS, **options):
    lines = []
    manifest = write_split(Clips(folder, texts), folder.parent / "out", "train", shard_bytes=4000, log=lines.append,
                           **options)
    return manifest, lines


def test_names_sizes_and_hashes_stand_beside_the_records(folder):
    manifest, _ = write(folder)
    assert len(manifest["shards"]) == len(manifest["sources"]) == 2
    name, items, _ = manifest["sources"][0]
    lines = [json.loads(line) for line in (folder.parent / "out/train" / name).read_text().splitlines()]
    assert items == len(lines) == 2 and lines[0][0] == "a"
    data = (folder / "a.wav").read_bytes()
    assert lines[0][2] == [["a.wav", len(data), sources.hashlib.sha256(data).hexdigest()]]


def test_the_same_sources_are_complete_wherever_they_lie(folder):
    write(folder)
    os.rename(folder, folder.parent / "moved")
    lines = write(folder.parent / "moved")[1]
    assert "already complete, 4 records, made of the same sources" in lines[-1]


@pytest.mark.parametrize("change, words", [
    (lambda folder: tone(folder / "c.wav", level=0.2), r"'c': c.wav \(1,644 bytes, sha256 \w{8}…\), now c.wav"),
    (lambda folder: tone(folder / "c.wav", 900), r"'c': c.wav \(1,644 bytes.*now c.wav \(1,844 bytes"),
    (lambda folder: (folder / "b.wav").unlink(), r"'b': .*now b.wav \(missing\)"),
])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_changed_file_is_reported_and_overwrite_takes_it(folder, change, words, interrupted):
    write(folder)
    if interrupted:
        (folder.parent / "out/train/manifest.json").unlink()
    change(folder)
    with pytest.raises(StaleRecords, match=words + ".*overwrite to start anew"):
        write(folder)
    manifest, _ = write(folder, overwrite=True, skip_bad=1)
    assert manifest["count"] + len(manifest["skipped"]) == 4


def test_changed_texts_and_added_or_lost_items_are_reported(folder):
    write(folder)
    for texts, words in (({**TEXTS, "b": "zwei"}, "'b': its text, label or place"),
                         ({**TEXTS, "e": "five"}, "more items"),
                         (dict(list(TEXTS.items())[:3]), "1 items are gone"),
                         ({"x": "one", **dict(list(TEXTS.items())[1:])}, "item 'a' is now 'x'")):
        with pytest.raises(StaleRecords, match=words):
            write(folder, texts)


def test_a_bad_item_that_was_mended_is_reported(folder):
    whole = (folder / "b.wav").read_bytes()
    (folder / "b.wav").write_bytes(b"")
    manifest, lines = write(folder, skip_bad=1)
    listed, = (folder.parent / "out/train/skipped.jsonl").read_text().splitlines()
    assert json.loads(listed) == {"id": "b", "reason": manifest["skipped"][0][1], "source": f"{folder}/b.wav"}
    assert "1 skipped, listed in" in lines[-1] and "the file is empty" in manifest["skipped"][0][1]
    write(folder, skip_bad=1)
    (folder / "b.wav").write_bytes(whole)
    with pytest.raises(StaleRecords, match="'b'"):
        write(folder, skip_bad=1)


def test_records_of_an_earlier_version_are_left_as_they_are(folder, monkeypatch):
    monkeypatch.setattr(Clips, "sources", lambda self, item: [])
    assert "sources" not in write(folder)[0]
    monkeypatch.undo()
    assert write(folder)[1][-1] == "train: already complete, 4 records"


def test_a_file_is_read_once(folder, monkeypatch):
    read, whole = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: read.append(str(path)) or whole(path))
    write(folder)
    assert sorted(name for name in read if name.endswith(".wav")) == [f"{folder}/{name}.wav" for name in "abcd"]


def test_what_a_library_raises_names_the_file_and_can_be_skipped(folder, monkeypatch):
    class Odd(Clips):
        def load(self, item):
            sources.read_source(item["audio"])
            if item["id"] == "c":
                raise ZeroDivisionError("a library's own\nmistake")
            return {**item, "audio": np.zeros(10, np.float32)}

    with pytest.raises(RecordError, match=r"in/c.wav \(example 'c'\): ZeroDivisionError: a library's own mistake$"):
        write_split(Odd(folder, TEXTS), folder.parent / "odd", "train", log=lambda line: None)
    manifest = write_split(Odd(folder, TEXTS), folder.parent / "odd", "train", skip_bad=1, log=lambda line: None)
    assert manifest["count"] == 3 and read_manifest(folder.parent / "odd/train")["skipped"][0][0] == "c"


def test_a_lost_or_changed_list_of_sources_is_found(folder):
    write(folder)
    train = folder.parent / "out" / "train"
    path = train / "train-00000.sources"
    whole = path.read_bytes()
    assert verify.problems(str(train)) == []
    path.write_bytes(whole.replace(b"a.wav", b"b.wav"))
    assert "train-00000.sources: not the list" in verify.problems(str(train))[0]
    path.unlink()
    assert "train-00000.sources: missing" in verify.problems(str(train))[0]
    with pytest.raises(RecordError, match="train-00000.sources: missing"):
        write(folder)


@pytest.mark.parametrize("split", ["..", ".", ".hidden", "a/b", "a" * 101, ""])
def test_a_split_never_leads_outside(folder, split):
    with pytest.raises(RecordError, match="^split "):
        write_split(Clips(folder, TEXTS), folder.parent / "out", split, log=lambda line: None)
    assert not (folder.parent / "out").exists() and not (folder.parent / "manifest.json").exists()


@pytest.mark.parametrize("name", ["../in/train-00000.tfrecord", "/etc/x.tfrecord", "..tfrecord", "a/b.tfrecord", None])
def test_a_manifest_names_no_shard_outside_of_its_folder(folder, name):
    manifest, _ = write(folder)
    manifest["shards"][0]["name"] = name
    manifest["checksum"] = shards.google_crc32c.value(shards.canonical(manifest))
    (folder.parent / "out/train/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match="manifest.json: names the shard"):
        read_manifest(folder.parent / "out/train")


def test_names_that_are_not_utf_8_are_bad_items(folder):
    name = os.fsdecode(b"caf\xe9")
    os.rename(folder / "b.wav", folder / f"{name}.wav")
    texts = {"a": "one", name: "two", "c": "three"}
    manifest, _ = write(folder, texts, skip_bad=1)
    assert manifest["count"] == 2 and "lone surrogate" in manifest["skipped"][0][1]
    assert "made of the same sources" in write(folder, texts, skip_bad=1)[1][-1]


def test_a_row_that_named_no_file_and_now_does_is_reported(folder):
    class Row(Clips):
        missing = True

        def examples(self, split, start=0):
            items = list(super().examples(split))
            if self.missing:
                items[1] = {"id": "b", "problem": "row 2: no sound 'b'", "where": "row 2"}
            return iter(items[start:])

    dataset = Row(folder, TEXTS)
    write_split(dataset, folder.parent / "out", "train", skip_bad=1, log=lambda line: None)
    tone(folder / "c.wav", level=0.3)   # the item behind the one without a source
    with pytest.raises(StaleRecords, match="'c': c.wav"):
        write_split(dataset, folder.parent / "out", "train", skip_bad=1, log=lambda line: None)
    tone(folder / "c.wav")
    write_split(dataset, folder.parent / "out", "train", skip_bad=1, log=lambda line: None)
    dataset.missing = False
    with pytest.raises(StaleRecords, match="'b': can be used now"):
        write_split(dataset, folder.parent / "out", "train", skip_bad=1, log=lambda line: None)


def test_segments_of_one_recording_read_it_once(folder, monkeypatch):
    class Segments(Clips):
        def examples(self, split, start=0):
            return iter([{"id": f"{number}", "audio": f"{self.folder}/a.wav", "text": "x", "offset": number / 100,
                          "duration": 0.01} for number in range(5)][start:])

    read, whole = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: read.append(str(path)) or whole(path))
    write_split(Segments(folder, TEXTS), folder.parent / "out", "train", log=lambda line: None)
    assert read.count(f"{folder}/a.wav") == 1
    tone(folder / "a.wav", level=0.3)   # another content of the same size, at once
    with pytest.raises(StaleRecords, match="'0': a.wav"):
        write_split(Segments(folder, TEXTS), folder.parent / "out", "train", log=lambda line: None)


def test_clipped_samples_are_counted(folder):
    class Loud(Clips):
        def load(self, item):
            if item["id"] == "a":
                return {**item, "audio": np.array([0.5, 1.2, -1.1], np.float32)}
            sources.note_clipped(3 * (item["id"] == "b"))
            return {**item, "audio": np.zeros(10, np.float32)}

    lines = []
    manifest = write_split(Loud(folder, TEXTS), folder.parent / "out", "train", log=lines.append)
    assert manifest["clipped"] == {"samples": 5, "records": 2}
    assert "5 samples of 2 records clipped at full scale" in lines[-1]
