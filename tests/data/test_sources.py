"""What records were made of: noted while they are written, compared when the same command runs again."""

import json
import os

import numpy as np
import pytest
import soundfile

from tfhf.data import sources, storage
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
    assert "already complete, 4 records, made of the same sources" in lines[0]


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
    assert write(folder)[1] == ["train: already complete, 4 records"]


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
