"""Hugging Face datasets as a source: columns, filter, interleaving, streamed or not. All local."""

import json

import numpy as np
import pytest
import soundfile

from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import IMAGE_LABEL, IMAGE_PAIR, SPEECH_TEXT, RecordError
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


def array_dataset(folder, values, kind, name="audio"):
    """A save_to_disk folder of one clip whose samples are numbers of a type"""
    features = datasets.Features({
        "audio": {"array": datasets.Sequence(datasets.Value(kind)), "sampling_rate": datasets.Value("int32")},
        "text": datasets.Value("string")})
    rows = {"audio": [{"array": values.tolist(), "sampling_rate": 16000}], "text": ["tone"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder)
    return str(folder)


TONE = 0.25 * np.sin(np.arange(1600) / 10)


@pytest.mark.parametrize("kind, scale, silence", [
    ("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128), ("int8", 2**7, 0), ("uint16", 2**15, 2**15),
    ("float32", 1, 0), ("float64", 1, 0)])
@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_integer_samples_are_scaled_by_their_type(tmp_path, kind, scale, silence, streaming):
    values = TONE * scale + silence
    source = array_dataset(tmp_path / "in", values if scale == 1 else np.rint(values).astype(kind), kind)
    out = records(tmp_path / "out", "--source", source, *streaming)
    with RecordReader(out / "train", SPEECH_TEXT) as reader:
        audio = SPEECH_TEXT.decode(reader.read(0))["audio"].numpy()
    np.testing.assert_allclose(audio, TONE, atol=0.7 / min(scale, 2**15) if scale > 1 else 2**-15)


@pytest.mark.parametrize("values, kind, options, message", [
    (np.rint(TONE * 2**15), "int64", "", "its samples are int64, expected floats in [-1, 1], or integers whose type"),
    (np.rint(TONE * 2**15), "float32", "", "audio reaches 8192, expected floats in [-1, 1]: these look like integer"),
    (np.rint(TONE * 2**7 + 128), "float32", "", "these look like integer samples"),
    (TONE * 2**15, "float64", "", "these look like integer samples"),
    (np.rint(TONE * 2**20), "int64", ",samples=int16", "expected those of int16"),
    (np.rint(TONE * 2**15), "int64", ",samples=int12", "samples=int12, expected one of"),
])
def test_integer_samples_of_no_type_are_refused(tmp_path, capsys, values, kind, options, message):
    source = array_dataset(tmp_path / "in", values, kind)
    assert main(["hf", "--out", str(tmp_path / "out"), "--source", source + options]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_plain_numbers_of_a_stated_type(tmp_path):
    source = array_dataset(tmp_path / "in", np.rint(TONE * 2**15).astype(int), "int64")
    out = records(tmp_path / "out", "--source", f"{source},samples=int16")
    with RecordReader(out / "train", SPEECH_TEXT) as reader:
        assert abs(SPEECH_TEXT.decode(reader.read(0))["audio"].numpy().max() - 0.25) < 1e-3


def test_changed_rows_are_reported(tmp_path, table, capsys):
    arguments = ["hf", "--out", str(tmp_path / "out"), "--source", f"json,data_files={table}"]
    assert main(arguments) == 0 and main(arguments) == 0
    assert "already complete, 10 records, made of the same sources" in capsys.readouterr().err
    soundfile.write(tmp_path / "3.wav", 0.2 * np.ones(800), 8000)
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "'00000003': " in error and error.endswith("--overwrite")


def test_a_missing_file_and_a_bad_text_can_be_skipped(tmp_path, table):
    (tmp_path / "3.wav").unlink()
    (tmp_path / "4.wav").write_bytes(b"")
    lines = open(table).read().replace('" t5 "', "null")
    open(table, "w").write(lines)
    out = records(tmp_path / "out", "--source", f"json,data_files={table}", "--skip-bad", "3")
    listed = [json.loads(line) for line in (out / "train" / "skipped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in listed] == [f"{number:08d}" for number in (3, 4, 5)]
    assert listed[0]["source"] == str(tmp_path / "3.wav") and "no such file" in listed[0]["reason"]
    assert "the text is None" in listed[2]["reason"]


def test_what_the_library_raises_is_one_line(tmp_path, monkeypatch, capsys):
    def scripts(*_, **__):
        raise RuntimeError("Dataset scripts are no longer\nsupported")

    monkeypatch.setattr(datasets, "load_dataset", scripts)
    assert main(["hf", "--out", str(tmp_path / "out"), "--source", "some/name"]) == 1
    assert capsys.readouterr().err == ("error: source some/name, split train: cannot be opened: Dataset scripts are no "
                                       "longer supported\n")


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


@pytest.fixture
def pictures(tmp_path):
    """A save_to_disk folder of six PNGs: an Image column, a ClassLabel, and the same twice the size."""
    image = pytest.importorskip("PIL.Image", reason="writes PNGs for the test")
    rows = {"img": [], "label": [], "hr": []}
    for number in range(6):
        for column, side in (("img", 4), ("hr", 8)):
            path = str(tmp_path / f"{column}-{number}.png")
            image.fromarray(np.full((side, 3 * side // 2, 3), 40 * number, "uint8")).save(path)
            rows[column].append(path)
        rows["label"].append(number % 2)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"]),
                                  "hr": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pictures")
    return tmp_path


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_images_with_labels(tmp_path, pictures, streaming):
    out = records(tmp_path / "out", "--records", "image_label", "--source", str(pictures / "pictures"), *streaming)
    assert read_manifest(out / "train")["options"]["classes"] == ["even", "odd"]
    with RecordReader(out / "train", IMAGE_LABEL) as reader:
        last = IMAGE_LABEL.decode(reader.read(5))
    assert (int(last["label"]), int(last["pixels"]), last["id"].numpy()) == (1, 24, b"00000005")
    assert last["image"].numpy() == (pictures / "img-5.png").read_bytes()


def test_pairs_of_images_and_what_cannot_be_used(tmp_path, pictures, capsys):
    source = str(pictures / "pictures")
    out = records(tmp_path / "out", "--records", "image_pair", "--source", source)
    with RecordReader(out / "train", IMAGE_PAIR) as reader:
        first = IMAGE_PAIR.decode(reader.read(0))
    assert first["target"].numpy() == (pictures / "hr-0.png").read_bytes()
    assert first["image"].numpy() == (pictures / "img-0.png").read_bytes()
    (pictures / "hr-3.png").write_bytes((pictures / "hr-3.png").read_bytes()[:60])
    assert main(["hf", "--out", str(tmp_path / "bad"), "--records", "image_pair", "--source", source]) == 1
    assert "example '00000003' (target, " in capsys.readouterr().err.splitlines()[-1]
    arguments = ["--records", "image_label", "--source", f"{source},label=hr"]
    assert main(["hf", "--out", str(tmp_path / "bad"), *arguments]) == 1
    assert "hr-0.png', expected a whole number" in capsys.readouterr().err.splitlines()[-1]


def test_places_in_recordings_are_not_passed_over(tmp_path, table, capsys):
    rows = [{**json.loads(line), "offset": 0.01, "duration": 0.02} for line in open(table)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"json,data_files={table}"
    assert main(["hf", "--out", str(tmp_path / "out"), "--source", source]) == 1
    assert "the column 'offset' looks like a place in a recording" in capsys.readouterr().err.splitlines()[-1]
    assert len(written(records(tmp_path / "out", "--source", f"{source},ignore=offset"))) == 10
