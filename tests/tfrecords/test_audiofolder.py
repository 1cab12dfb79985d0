"""Folders of sounds: layouts, columns, errors, and the command."""

import json
import re
import unicodedata

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
    return [(item["id"], item["text"], item["language"]) for item in dataset.examples(split) if "problem" not in item]


def problems(dataset, split="train"):
    return [item["problem"] for item in dataset.examples(split) if "problem" in item]


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
    assert re.search("trans.txt, line 2: .*84-7-0001.flac is missing", problems(AudioFolder(tmp_path), "dev-clean")[0])


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
    ("x.wav,hi\ny.wav,ho\n", "no column for the audio; it has .*x.wav.*is the header missing"),
    ("path,text,text\nx.wav,hi,ho\n", "the column 'text' occurs 2 times"),
    ("path,text,start_of_turn\nx.wav,hi,3\n", "the column 'start_of_turn' looks like a place in a recording"),
    ("path,text,end\nx.wav,hi,3\n", "the column 'end' says where a segment ends, but none"),
    ("path,text,segment\nx.wav,hi,0.5-1.5\n", "the column 'segment' looks like a place"),
    ("path,text,start,begin_ms\nx.wav,hi,1,2\n", "nor which of it and 'start' counts"),
    ("path,text,begin_sample,end_sample\nx.wav,hi,1,2\n", "segments in samples, but no column sample_rate"),
    ("path,text\n", "no rows"),
    ("", "no rows, not even a header"),
])
def test_tables_that_cannot_be_used(tmp_path, table, message):
    sound(tmp_path / "x.wav")
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(RecordError, match=message):
        AudioFolder(tmp_path)


@pytest.mark.parametrize("row, message", [
    ("missing.wav,hi", "no sound 'missing.wav'"),
    ("../x.wav,hi", "'../x.wav' leads outside of"),
    ("C:\\x.wav,hi", "is a path of a Windows machine"),
    ("/nowhere/x.wav,hi", "no sound '/nowhere/x.wav'"),
    (",hi", "path is ''"),
    ("x.wav", "1 cells, expected 2"),
    ("x.wav,hi, and more", "3 cells, expected 2"),
    ('x.wav,"hi', "a quotation mark that is not closed"),
    ("path,text", "repeats the header"),
    ("x.wav,caf\udce9", "not UTF-8: byte 0xe9"),
    ("x.wav,h\0i", "holds a NUL byte"),
])
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path, row, message):
    for name in ("x", "y", "z"):
        sound(tmp_path / f"{name}.wav")
    table = f"path,text\ny.wav,one\n{row}\nz.wav,three\n"
    (tmp_path / "list.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    dataset = AudioFolder(tmp_path)
    problem, = problems(dataset)
    assert problem.startswith(f"{tmp_path}/list.csv, row 2: ") and message in problem
    assert items(dataset, "train") == [("y", "one", ""), ("z", "three", "")]


def test_an_id_that_occurs_twice_cannot_be_used_again(tmp_path):
    sound(tmp_path / "x.wav")
    (tmp_path / "list.csv").write_text("path,text\nx.wav,hi\nx.wav,ho\n")
    dataset = AudioFolder(tmp_path)
    assert "the id 'x' occurs twice" in problems(dataset)[0] and items(dataset, "train") == [("x", "hi", "")]


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


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def ramp(path, seconds=3, rate_hz=8000, channels=1):
    """A sound of which every sample says where it lies, in each channel otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.arange(seconds * rate_hz, dtype="int16")[:, None] * np.array([1, -1][:channels], "int16")
    soundfile.write(path, samples, rate_hz)


def written(folder, *arguments):
    """-> {id: (samples, text, language)} of all splits that the command writes"""
    out = folder.parent / "out"
    assert main(["audiofolder", "--folder", str(folder), "--out", str(out), "--overwrite", *arguments]) == 0
    found = {}
    for split in sorted(path.name for path in out.iterdir()):
        with RecordReader(out / split, SPEECH_TEXT) as reader:
            for number in range(len(reader)):
                one = {key: value.numpy() for key, value in SPEECH_TEXT.decode(reader.read(number)).items()}
                found[one["id"].decode()] = one["audio"], one["text"].decode(), one["language"].decode()
    return found


@pytest.mark.parametrize("columns, cells, part", [
    (("offset", "duration"), (1.0, 0.5), (1.0, 1.5)),
    (("start", "end"), (0.25, 0.75), (0.25, 0.75)),
    (("start_ms", "end_ms"), (250, 750), (0.25, 0.75)),
    (("begin_time", "stop_time"), ("00:00:01.5", "0:02"), (1.5, 2.0)),
    (("Start (s)", "Duration"), ("1", "0.125"), (1.0, 1.125)),
    (("segment_start", "segment_end"), ("1.5", ""), (1.5, 3.0)),
    (("offset", "duration"), (2.0, -1), (2.0, 3.0)),
    (("start_sample", "end_sample"), (8000, 12000), (1.0, 1.5)),
])
def test_columns_cut_the_recording(tmp_path, columns, cells, part):
    folder = tmp_path / "in"
    ramp(folder / "a.wav")
    row = {"audio_filepath": "a.wav", "text": "x", **dict(zip(columns, cells)), "sample_rate": 8000}
    table(folder / "train_manifest.json", [row])
    (audio, _, _), = written(folder).values()
    begin, end = (round(16000 * second) for second in part)
    assert len(audio) == end - begin
    np.testing.assert_allclose(audio[800:-800], np.arange(begin, end)[800:-800] / 2 / 32768, atol=2e-4)


def test_a_decimal_comma_is_one_where_commas_do_not_part(tmp_path):
    folder = tmp_path / "in"
    ramp(folder / "a.wav")
    (folder / "train.csv").write_text("path;text;start;end\na.wav;Hello, you;0,5;1,5\n")
    assert {key: (len(audio), text) for key, (audio, text, _) in written(folder).items()} == {
        "a-0000500-0001500": (16000, "Hello, you")}


@pytest.mark.parametrize("row, message", [
    ({"start": 2, "end": 1}, "the segment ends at 1 s, before its begin at 2 s"),
    ({"start": -0.5, "end": 1}, "start is -0.5 s, expected 0 or more"),
    ({"start": 1, "duration": 0}, "duration is 0 s, expected more"),
    ({"start": 1, "end": 2, "duration": 2}, "but its duration is 2 s"),
    ({"start": "soon", "end": 2}, "start is 'soon', expected a number"),
    ({"start": float("nan"), "end": 2}, "start is nan, expected a number"),
    ({"start": None, "end": 2}, "where it begins is empty"),
    ({"start": True, "end": 2}, "start is True, expected a number"),
])
def test_segments_that_are_none(tmp_path, row, message):
    ramp(tmp_path / "a.wav")
    rows = [{"path": "a.wav", "text": "x", "start": 0, "end": 1, "id": "good"},
            {"path": "a.wav", "text": "x", "id": "bad", **row}]
    table(tmp_path / "train.jsonl", rows)
    problem, = problems(AudioFolder(tmp_path))
    assert "train.jsonl, line 2: " in problem and message in problem


def test_segments_outside_and_lengths_that_differ_are_bad_items(tmp_path, capsys):
    folder = tmp_path / "in"
    ramp(folder / "a.wav")
    rows = [{"id": str(number), "path": "a.wav", "text": "x", **place} for number, place in enumerate((
        {"offset": 2, "duration": 1.04}, {"offset": 2, "duration": 2}, {"offset": 3.5}, {"duration": 3.05},
        {"duration": 2.5}, {"duration": 3}, {"offset": None, "duration": None}))]
    table(folder / "train.jsonl", rows)
    assert set(written(folder, "--skip-bad", "3")) == {"0", "3", "5", "6"}
    reasons = dict(read_manifest(tmp_path / "out" / "train")["skipped"])
    assert "the segment ends at 4 s" in reasons["1"] and "the segment begins at 3.5 s" in reasons["2"]
    assert "3.000 s of sound, but the table says that it lasts 2.5 s" in reasons["4"]


def test_a_column_may_be_named_or_ignored(tmp_path):
    ramp(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("path,text,vad_start,vad_end,turn_end\na.wav,x,1,2,7\n")
    columns = parse_columns(["start=vad_start", "end=vad_end"])
    item, = AudioFolder(tmp_path, columns=columns, ignored=["turn_end"]).examples("train")
    assert (item["offset"], item["duration"]) == (1, 1)
    with pytest.raises(RecordError, match="no column 'turns'"):
        AudioFolder(tmp_path, columns=columns, ignored=["turns"])


def test_common_voice_17(tmp_path):
    """Its column `segment` is no place in a recording, its quotation marks are text, its other tables are no splits."""
    header = ("client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t"
              "accents\tvariant\tlocale\tsegment\n")
    texts = ['"वह', 'he said ""no""', '"""quoted"""', "it's a \u2028line"]
    for split in ("train", "dev", "test", "other", "invalidated", "validated"):
        rows = [f"c\t{split}_{number}.mp3\ts\t{text}\t\t2\t0\t\t\t\t\thi\t{'Benchmark' if number else ''}\n"
                for number, text in enumerate(texts)]
        (tmp_path / f"{split}.tsv").write_text(header + "".join(rows), "utf-8", newline="\r\n")
    (tmp_path / "clip_durations.tsv").write_text("clip\tduration[ms]\ntrain_0.mp3\t1000\n")
    (tmp_path / "validated_sentences.tsv").write_text("sentence_id\tsentence\ns\tx\n")
    for number in range(4):
        sound(tmp_path / "clips" / f"train_{number}.mp3", 32000, 32000)
    dataset = AudioFolder(tmp_path)
    assert sorted(dataset.splits()) == ["test", "train", "validation"]
    assert items(dataset, "train") == [(f"train_{number}", text, "hi") for number, text in enumerate(texts)]
    assert len(problems(dataset, "test")) == 4 and "no sound 'test_0.mp3'" in problems(dataset, "test")[0]


def test_names_are_found_however_they_are_written(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "naïve.wav"), unicodedata.normalize("NFD", "naïve.wav")
    for name in (decomposed, "LOUD.WAV", "sub/b.wav", "clips/c.mp3"):
        sound(tmp_path / name, 16000)
    names = [composed, "loud.wav", "sub\\b.wav", "./c", str(tmp_path / "sub" / "b.wav")]
    rows = [{"path": name, "text": "x", "id": number} for number, name in enumerate(names)]
    table(tmp_path / "train.jsonl", rows)
    found = list(AudioFolder(tmp_path).examples("train"))
    assert [item.get("problem", item.get("audio")) for item in found] == [
        str(tmp_path / name) for name in (decomposed, "LOUD.WAV", "sub/b.wav", "clips/c.mp3", "sub/b.wav")]
    sound(tmp_path / "Loud.wav")
    assert "may be 'LOUD.WAV' or 'Loud.wav'" in problems(AudioFolder(tmp_path))[0]


def test_lone_surrogates_in_json_are_bad_rows(tmp_path):
    sound(tmp_path / "a.wav")
    table(tmp_path / "train.jsonl", [{"path": "a.wav", "text": "cut \ud83d"}, {"path": "a\ud83d.wav", "text": "x"},
                                     {"path": "a.wav", "text": "whole \U0001f600"}])
    dataset = AudioFolder(tmp_path)
    assert len(problems(dataset)) == 2 and "line 1: text: holds '\\ud83d' at 4" in problems(dataset)[0]
    assert items(dataset, "train") == [("a", "whole \U0001f600", "")]


def test_audio_folders_of_hugging_face(tmp_path):
    for split in ("train", "test"):
        for number in range(2):
            sound(tmp_path / split / f"{split}{number}.wav")
        (tmp_path / split / "metadata.csv").write_text(
            "file_name,transcription\n" + "".join(f"{split}{number}.wav,text {number}\n" for number in range(2)))
    dataset = AudioFolder(tmp_path)
    assert items(dataset, "train") == [("train0", "text 0", ""), ("train1", "text 1", "")]
    assert sorted(dataset.splits()) == ["test", "train"] and len(items(dataset, "test")) == 2
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").unlink()
    rows = [{"file_name": f"{split}/{split}0.wav", "text": "x"} for split in ("train", "test")]
    table(tmp_path / "metadata.jsonl", rows)
    dataset = AudioFolder(tmp_path)
    for split in ("train", "test"):
        assert items(dataset, split) == [(f"{split}/{split}0", "x", "")]


def test_transcripts_beside_the_sounds(tmp_path):
    folder = tmp_path / "in"
    for name in ("train/s1/a.wav", "train/s1/b.wav", "test/c.flac", "train/d.wav"):
        ramp(folder / name)
    (folder / "train/s1/a.txt").write_text("\ufeffHello\r\n world\r\n", "utf-8")
    (folder / "train/s1/b.txt").write_text("0.5\t1.5\tone\n2.000000\t2.500000\ttwo\n")
    (folder / "test/c.lab").write_text("see")
    (folder / "README.txt").write_text("about")
    (folder / "train/s1/gone.txt").write_text("no sound")
    found = written(folder, "--skip-bad", "2", "--language", "en")
    assert {key: (len(audio), text, language) for key, (audio, text, language) in found.items()} == {
        "train/s1/a": (48000, "Hello world", "en"), "train/s1/b-0000500-0001500": (16000, "one", "en"),
        "train/s1/b-0002000-0002500": (8000, "two", "en"), "test/c": (48000, "see", "en")}
    reasons = dict(read_manifest(tmp_path / "out" / "train")["skipped"])
    assert "no transcript beside it" in reasons["train/d"]
    assert "no sound 'gone' beside it" in reasons["train/s1/gone.txt"]


GRID = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = {size}
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "say ""hi"""
        intervals [3]:
            xmin = 1.25
            xmax = 3
            text = "नमस्ते"
'''
SHORT = '"ooTextFile"\n"TextGrid"\n0\n3\n<exists>\n1\n"IntervalTier"\n"w"\n0\n3\n1\n0.5\n1\n"short"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text_grids_of_praat(tmp_path, encoding):
    folder = tmp_path / "in"
    ramp(folder / "a.wav")
    ramp(folder / "b.wav")
    (folder / "a.TextGrid").write_text(GRID.format(size=1), encoding)
    (folder / "b.TextGrid").write_text("File type = " + SHORT, encoding)
    assert {key: (len(audio), text) for key, (audio, text, _) in written(folder).items()} == {
        "a-0000500-0001250": (12000, 'say "hi"'), "a-0001250-0003000": (28000, "नमस्ते"),
        "b-0000500-0001000": (8000, "short")}
    second = GRID.format(size=2) + GRID.split("item []:")[1].replace("[1]:", "[2]:", 1).replace("words", "phones")
    (folder / "a.TextGrid").write_text(second, encoding)
    assert "tiers with texts are ['words', 'phones'], expected --tier" in problems(AudioFolder(folder))[0]
    assert len(list(AudioFolder(folder, tier="words").examples("train"))) == 3   # of b there is no such tier
    (folder / "a.TextGrid").write_text(GRID.format(size=1)[:-60], encoding)
    assert "a.TextGrid: not a whole TextGrid" in problems(AudioFolder(folder))[0]


def test_stm_cuts_channels_of_calls(tmp_path):
    folder = tmp_path / "in"
    ramp(folder / "train" / "sph" / "call.wav", channels=2)
    ramp(folder / "train" / "sph" / "talk.wav")
    (folder / "train" / "stm").mkdir()
    (folder / "train" / "stm" / "all.stm").write_text(
        ";; a comment\ncall A spk1 0.5 1.5 <o,f0,male> hello there\ncall B spk2 1 2 <NA> hi\n"
        "talk 1 inter_segment_gap 0 1 <o,,unknown> ignore_time_segment_in_scoring\ntalk 1 spk 1.00 3.00 good\n"
        "talk 2 spk 1 3 other side\nnone 1 spk 0 1 x\nnonsense\n")
    found = written(folder, "--skip-bad", "3")
    assert {key: text for key, (_, text, _) in found.items()} == {
        "call-1-0000500-0001500": "hello there", "call-2-0001000-0002000": "hi", "talk-1-0001000-0003000": "good"}
    assert found["call-1-0000500-0001500"][0][4000] > 0.1 > -0.1 > found["call-2-0001000-0002000"][0][4000]
    reasons = " ".join(reason for _, reason in read_manifest(tmp_path / "out" / "train")["skipped"])
    assert "one channel, expected two for" in reasons and "0 sounds are named 'none'" in reasons and "line 8" in reasons


def test_channels_of_calls(tmp_path, capsys):
    folder = tmp_path / "in"
    ramp(folder / "call.wav", channels=2)
    (folder / "train.csv").write_text("path,text\ncall.wav,x\n")
    left, right, mix = (written(folder, "--channel", which)["call"][0] for which in ("left", "right", "mix"))
    assert left[20000] > 0.2 and right[20000] < -0.2 and abs(mix[20000]) < 1e-3
    both = written(folder, "--channel", "each")
    assert list(both) == ["call-left", "call-right"]
    np.testing.assert_array_equal(both["call-right"][0], right)
    ramp(folder / "call.wav")
    assert main(["audiofolder", "--folder", str(folder), "--out", str(tmp_path / "mono"), "--channel", "left"]) == 1
    assert "call.wav: one channel" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("labels, arguments, expected", [
    (("hi", "de"), (), ("", "hi")), (("yes", "no"), (), ("yes", "")), (("hi", "de"), ("--label", "text"), ("hi", "")),
    (("pt-BR", "zh"), (), ("", "pt-BR")),
])
def test_folders_of_classes(tmp_path, labels, arguments, expected):
    folder = tmp_path / "in"
    for label in labels:
        sound(folder / "train" / label / "1.wav")
        sound(folder / "test" / label / "speaker" / "2.wav")
    found = written(folder, *arguments)
    assert len(found) == 4 and found[f"train/{labels[0]}/1.wav"][1:] == expected
    assert found[f"test/{labels[0]}/speaker/2.wav"][1:] == expected
    sound(folder / "train" / "stray.wav")
    with pytest.raises(RecordError, match="stray.wav: a sound beside folders of classes"):
        AudioFolder(folder)


def test_another_sound_of_the_same_name_is_reported_with_the_command_that_writes_anew(tmp_path, capsys):
    folder = tmp_path / "in"
    sound(folder / "a.wav")
    (folder / "train.csv").write_text("path,text\na.wav,x\n")
    command = ["audiofolder", "--folder", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main(command) == 0 and "made of the same sources" in capsys.readouterr().err
    sound(folder / "a.wav", samples=3200)
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "'a': a.wav (3,244 bytes" in error and error.endswith(f"tfhf records {' '.join(command)} --overwrite")
    assert main([*command, "--overwrite"]) == 0
    (folder / "train.csv").write_text("path,text\na.wav,y\n")
    assert main(command) == 1 and "--overwrite" in capsys.readouterr().err
