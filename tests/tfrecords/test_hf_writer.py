"""Hugging Face datasets as a source: columns, filter, interleaving, streamed or not. All local."""

import json

import numpy as np
import pytest
import soundfile

from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfrecords.__main__ import main
from tfrecords.hf import HuggingFace, parse_filter, parse_source, passes

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def table(tmp_path):
    """a.jsonl: paths, sentences and ages of 10 clips at 8 kHz"""
    rows = []
    for number in range(10):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * np.ones(800), 8000)
        accent = "x" if number % 2 else None
        rows.append({"path": str(path), "sentence": f" t{number} ", "age": number, "accent": accent})
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / "a.jsonl")


@pytest.fixture
def disk(tmp_path, table):
    """A save_to_disk folder with train and test, sounds inside it, an id and a language"""
    rows = [json.loads(line) for line in open(table)]
    dataset = datasets.Dataset.from_list([
        {"audio": {"bytes": open(row["path"], "rb").read(), "path": None}, "text": row["sentence"].strip(),
         "language": "en", "id": f"d{number}"} for number, row in enumerate(rows)])
    dataset = dataset.cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": dataset, "test": dataset.select(range(3))}).save_to_disk(tmp_path / "disk")
    return str(tmp_path / "disk")


def written(out, split="train"):
    with RecordReader(out / split, SPEECH_TEXT) as reader:
        examples = [SPEECH_TEXT.decode(reader.read(number)) for number in range(len(reader))]
    assert {int(example["num_samples"]) for example in examples} == {1600}
    return [tuple(example[field].numpy().decode() for field in ("id", "text", "language")) for example in examples]


def records(out, *arguments):
    assert main(["hf", "--out", str(out), *arguments]) == 0
    return out


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_paths_columns_and_filter(tmp_path, table, streaming):
    out = records(tmp_path / "out", "--source", f"json,data_files={table},text=sentence,lang=hi",
                  "--filter", "age >= 3", "--filter", "accent==x", *streaming)
    assert written(out) == [(f"{n:08d}", f"t{age}", "hi") for n, age in enumerate((3, 5, 7, 9))]


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_folder_of_save_to_disk_and_its_splits(tmp_path, disk, streaming):
    out = records(tmp_path / "out", "--source", disk, "--splits", "all=train", "test", *streaming)
    assert written(out, "all") == [(f"d{n}", f"t{n}", "en") for n in range(10)]
    assert len(written(out, "test")) == 3


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_interleaved_sources(tmp_path, table, disk, streaming):
    arguments = ["--source", disk, "--source", f"json,data_files={table},lang=hi", "--seed", "1", *streaming]
    out = records(tmp_path / "out", *arguments, "--probabilities", "0.2", "0.8")
    languages = [language for _, _, language in written(out)]
    assert languages.count("hi") > languages.count("en") > 0
    everything = records(tmp_path / "all", *arguments, "--stopping", "all_exhausted")
    assert {(text, language) for _, text, language in written(everything)} == {
        (f"t{n}", language) for n in range(10) for language in ("hi", "en")}
    assert read_manifest(everything / "train")["options"]["stopping"] == "all_exhausted"


def test_joined_splits_and_a_limit(tmp_path, disk):
    dataset = HuggingFace([disk], splits=["train=train+test"])
    assert [item["id"] for item in dataset.examples("train")][9:] == ["d9", "d0", "d1", "d2"]
    assert [item["id"] for item in dataset.examples("train", start=11)] == ["d1", "d2"]
    limited = HuggingFace([disk], max_examples=4)
    assert [item["id"] for item in limited.examples("train", start=3)] == ["d3"]


def test_parquet_with_embedded_sounds_and_arrays(tmp_path, disk):
    train = datasets.load_from_disk(disk)["train"]
    train.to_parquet(tmp_path / "p.parquet")
    out = records(tmp_path / "out", "--source", f"parquet,data_files={tmp_path}/p.parquet", "--max-examples", "5")
    assert len(written(out)) == 5
    example = HuggingFace(["x"]).load({"id": "a", "text": "t", "language": "",
                                       "audio": {"array": [0.0] * 800, "sampling_rate": 8000}})
    assert len(example["audio"]) == 1600


@pytest.mark.parametrize("arguments, message", [
    (["--source", "json,data_files={table}", "--filter", "agee>=3"], "no column 'agee', it has"),
    (["--source", "json,data_files={table}", "--filter", "age>=old"], "column holds the number 0, got 'old'"),
    (["--source", "json,data_files={table},text=words"], "no column 'words', it has"),
    (["--source", "json,data_files={table}.nothing"], "cannot be opened"),
    (["--source", "json,files={table}"], "expected KEY=VALUE"),
    (["--source", "json,data_files={table}", "--probabilities", "0.5", "0.5"], "one per source"),
    (["--source", "json,data_files={table}", "--filter", "age"], "expected 'COLUMN OP VALUE'"),
])
def test_bad_arguments(tmp_path, table, capsys, arguments, message):
    assert main(["hf", "--out", str(tmp_path / "out"), *(part.format(table=table) for part in arguments)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()


def test_filter_values():
    assert parse_filter("up votes >= 2") == ("up votes", ">=", "2")
    assert parse_source("a/b,config=hi") == {"name": "a/b", "config": "hi"}
    assert passes(2, ">=", "2") and passes(True, "==", "true")
    assert passes("hello", "~", "ell") and passes("a", "!=", "b")
    assert not passes(None, "!=", "b") and not passes(1, "==", "2")
    with pytest.raises(RecordError, match="number 3"):
        passes(3, "<", "x")
