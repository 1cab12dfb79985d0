"""Folders of sounds: layouts, columns, errors, and the command."""

import json

import numpy as np
import pytest
import soundfile

from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfrecords.__main__ import main
from tfrecords.audiofolder import AudioFolder, parse_columns


def sound(path, rate_hz=16000, samples=1600, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(samples), rate_hz, **options)


def items(dataset, split):
    return [(item["id"], item["text"], item["language"]) for item in dataset.examples(split)]


def test_librispeech(tmp_path):
    for split, speaker in (("train-clean-100", 19), ("dev-clean", 84)):
        chapter = tmp_path / split / str(speaker) / "7"
        lines = []
        for number in range(2):
            sound(chapter / f"{speaker}-7-{number:04d}.flac")
            lines.append(f"{speaker}-7-{number:04d} HELLO WORLD {number}\n")
        (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    (tmp_path / "README.TXT").write_text("x")
    dataset = AudioFolder(tmp_path)
    assert sorted(dataset.splits()) == ["dev-clean", "train-clean-100"]
    assert items(dataset, "dev-clean") == [("84-7-0000", "HELLO WORLD 0", "en"), ("84-7-0001", "HELLO WORLD 1", "en")]
    assert list(AudioFolder(tmp_path / "dev-clean").splits()) == ["dev-clean"]
    (tmp_path / "dev-clean" / "84" / "7" / "84-7-0001.flac").unlink()
    with pytest.raises(RecordError, match="trans.txt, line 2: .*84-7-0001.flac is missing"):
        AudioFolder(tmp_path)


def test_common_voice(tmp_path):
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    for split, number in (("train", 1), ("dev", 2), ("test", 3)):
        sound(tmp_path / "clips" / f"common_voice_hi_{number}.mp3", 48000, 48000)
        (tmp_path / f"{split}.tsv").write_text(header + f'x\tcommon_voice_hi_{number}.mp3\t"वह {number}\t2\thi\n')
    (tmp_path / "validated.tsv").write_text(header)
    dataset = AudioFolder(tmp_path)
    assert sorted(dataset.splits()) == ["test", "train", "validation"]
    assert items(dataset, "validation") == [("common_voice_hi_2", '"वह 2', "hi")]
    assert main(["audiofolder", "--out", str(tmp_path / "out"), "--folder", str(tmp_path), "--encoding", "flac",
                 "--licence", "CC0-1.0", "--splits", "train"]) == 0
    manifest = read_manifest(tmp_path / "out" / "train")
    assert manifest["dataset"]["licence"] == "CC0-1.0" and manifest["encoding"] == "flac"
    with RecordReader(tmp_path / "out" / "train", SPEECH_TEXT) as reader:
        assert SPEECH_TEXT.decode(reader.read(0))["num_samples"].numpy() == 16000


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables(tmp_path, kind):
    rows = [{"file_name": f"a/{n}.wav", "text": f"text, {n}", "split": "dev" if n == 2 else "train"} for n in range(3)]
    for row in rows:
        sound(tmp_path / row["file_name"])
    separator = {"csv": ",", "tsv": "\t"}.get(kind)
    if separator:
        quote = '"' if kind == "csv" else ""
        lines = [separator.join(rows[0])]
        lines += [separator.join((row["file_name"], f"{quote}{row['text']}{quote}", row["split"])) for row in rows]
    else:
        lines = [json.dumps(row) for row in rows]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    dataset = AudioFolder(tmp_path, language="en")
    assert items(dataset, "train") == [("a/0", "text, 0", "en"), ("a/1", "text, 1", "en")]
    assert items(dataset, "validation") == [("a/2", "text, 2", "en")]


def test_columns_by_name_and_endings_left_out(tmp_path):
    sound(tmp_path / "x.ogg", format="OGG")
    (tmp_path / "list.csv").write_text("sound,words,who\nx,hello,s1\n")
    dataset = AudioFolder(tmp_path, columns=parse_columns(["audio=sound", "text=words", "id=who"]))
    assert items(dataset, "train") == [("s1", "hello", "")]


@pytest.mark.parametrize("table, message", [
    ("sound,text\nx.wav,hi\n", "no column for the audio; it has .*sound.*--column audio=NAME"),
    ("path,text\nmissing.wav,hi\n", "list.csv, row 1: no sound 'missing.wav'"),
    ("path,text\nx.wav,hi\nx.wav,ho\n", "id 'x' occurs twice"),
    ("path,text\n,hi\n", "row 1: path is ''"),
    ("path,text\n", "no rows"),
])
def test_bad_tables(tmp_path, table, message):
    sound(tmp_path / "x.wav")
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(RecordError, match=message):
        AudioFolder(tmp_path)


def test_unknown_layout_and_bad_arguments(tmp_path):
    with pytest.raises(RecordError, match="no such folder"):
        AudioFolder(tmp_path / "nothing")
    sound(tmp_path / "x.wav")
    with pytest.raises(RecordError, match="no known layout"):
        AudioFolder(tmp_path)
    with pytest.raises(RecordError, match="'words': expected FIELD=COLUMN"):
        parse_columns(["words"])


def test_the_command_says_one_line_and_leaves_nothing_readable(tmp_path, capsys):
    for number in range(3):
        sound(tmp_path / f"{number}.wav")
    whole = (tmp_path / "1.wav").read_bytes()
    (tmp_path / "1.wav").write_bytes(whole[:500])
    (tmp_path / "list.csv").write_text("path,text\n0.wav,a\n1.wav,b\n2.wav,c\n")
    command = ["audiofolder", "--out", str(tmp_path / "out"), "--folder", str(tmp_path)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "1.wav: truncated" in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()
    assert main([*command, "--skip-bad", "1"]) == 0
    assert read_manifest(tmp_path / "out" / "train")["skipped"][0][0] == "1"
    assert main([*command, "--splits", "nope"]) == 1
    assert "no split ['nope']" in capsys.readouterr().err
