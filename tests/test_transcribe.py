"""`tfhf transcribe` as somebody uses it: many files, bad ones, folders, formats, an interrupt; and once for real."""

import io
import json
import os

import numpy as np
import pytest
import soundfile

import pipelines.__main__ as command
from pipelines.whisper import RECIPES, TASK
from tfhf import transcribe
from tfhf.checkpoints import save_checkpoint
from tfhf.models.whisper.convert import write_tiny_checkpoint
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.subtitles import to_srt


class Stub:
    """Answers with the length of each recording, in two segments; `asked` remembers the options."""

    def __init__(self):
        self.asked = []

    def transcribe(self, waveforms, progress=None, **options):
        self.asked.append(options)
        answers = []
        for number, waveform in enumerate(waveforms):
            seconds = len(waveform) / 16000
            progress(number, seconds)
            text = f"नमस्ते {seconds:g}" if np.abs(waveform).max() else ""
            segments = [{"id": 0, "start": 0.0, "end": seconds, "text": text}] if text else []
            answers.append({"text": text, "language": "hi", "segments": segments})
        return answers


@pytest.fixture
def stub(monkeypatch, tmp_path):
    model = Stub()
    request = {"language": None, "task": "transcribe", "prompt": None}
    monkeypatch.setattr(transcribe, "_load", lambda *_: (model, request))
    monkeypatch.chdir(tmp_path)
    return model


def _wav(path, seconds, rate=16000, channels=1, volume=0.1, **options):
    samples = volume * np.random.default_rng(0).uniform(-1, 1, (round(seconds * rate), channels))
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def _main(*words):
    return command.main(["transcribe", *words])


def test_one_file_is_its_text(stub, capsys):
    assert _main(_wav("a.wav", 1.5)) == 0
    out, err = capsys.readouterr()
    assert out == "नमस्ते 1.5\n" and "1/1 a.wav: 0:01 in " in err
    assert stub.asked == [{"return_timestamps": False, "batch_size": 1, "num_beams": 1, "language": None,
                           "task": "transcribe", "prompt": None}]


def test_any_format_rate_and_number_of_channels(stub, capsys):
    files = [_wav("a.flac", 1, 44100, 2), _wav("b.ogg", 2, 8000), _wav("c.mp3", 1, 44100),
             _wav("ελ ñ.wav", 0.5, 48000, 2)]
    assert _main(*files, "--batch-size", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == files
    assert lines[1].split("\t")[1] == "नमस्ते 2" and [asked["batch_size"] for asked in stub.asked] == [3, 3]


def test_bad_files_among_good_ones(stub, capsys):
    _wav("good.wav", 1), _wav("other.wav", 2)
    open("empty.wav", "wb").close()
    open("text.mp3", "w").write("no sound")
    os.mkdir("folder")
    files = ["good.wav", "missing.wav", "empty.wav", "folder", "text.mp3", "other.wav"]
    assert _main(*files) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["good.wav", "other.wav"]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [any(name in line for line in errors) for name in files] == [False, True, True, True, True, False]
    assert len(errors) == 4 and "4 of 6 recordings could not be transcribed" in err and "Traceback" not in err
    assert _main("missing.wav") == 1 and len(stub.asked) == 2   # no model was asked for nothing


def test_a_folder_of_every_format(stub, capsys):
    files = [_wav("in/a.b.wav", 1.25), _wav("in/silence.wav", 1, volume=0)]
    assert _main(*files, "--format", "all", "--output-dir", "out/deep") == 0
    out, err = capsys.readouterr()
    assert out == "" and "out/deep/a.b.srt" in err and "in/silence.wav: no speech found" in err
    assert sorted(os.listdir("out/deep")) == sorted(f"{name}.{kind}" for name in ("a.b", "silence")
                                                    for kind in ("txt", "json", "srt", "vtt"))
    told = json.loads(open("out/deep/a.b.json", encoding="utf-8").read())
    assert (told["file"], told["duration"], told["language"]) == ("in/a.b.wav", 1.25, "hi")
    srt = open("out/deep/a.b.srt", encoding="utf-8").read()
    assert srt == "1\n00:00:00,000 --> 00:00:01,250\nनमस्ते 1.25\n\n" == to_srt(told["segments"])
    assert open("out/deep/silence.vtt").read() == "WEBVTT\n\n" and open("out/deep/silence.txt").read() == "\n"
    assert all(asked["return_timestamps"] for asked in stub.asked)


def test_files_that_exist_are_safe(stub, capsys):
    files = [_wav("a.wav", 1), _wav("b.wav", 2)]
    assert _main("a.wav", "--output-dir", "out") == 0
    open("out/a.txt", "w").write("mine")
    assert _main(*files, "--output-dir", "out") == 2
    assert "error: out/a.txt: exists already, and 0 more; expected --overwrite" in capsys.readouterr().err
    assert open("out/a.txt").read() == "mine" and not os.path.exists("out/b.txt")
    assert _main(*files, "--output-dir", "out", "--skip-existing") == 0
    assert open("out/a.txt").read() == "mine" and open("out/b.txt").read() == "नमस्ते 2\n"
    assert _main(*files, "--output-dir", "out", "--overwrite") == 0
    assert open("out/a.txt").read() == "नमस्ते 1\n"


@pytest.mark.parametrize("words, message", [
    (["a.wav", "sub/a.wav", "--output-dir", "out"], "a.wav and sub/a.wav would both become out/a.txt"),
    (["a.wav", "a.flac", "--output-dir", "out"], "a.wav and a.flac would both become out/a.txt"),
    (["a.wav", "a.wav", "--output-dir", "out"], "a.wav and a.wav would both become"),
    (["a.wav", "b.wav", "--format", "srt"], "--format srt with 2 recordings: expected --output-dir"),
    (["a.wav", "--format", "all"], "expected --output-dir"),
    (["a.wav", "--format", "srt,doc"], "--format srt,doc: got 'doc', expected one or several of txt,json,srt,vtt"),
    (["a.wav", "--overwrite"], "expected --output-dir with them"),
    (["a.wav", "--output-dir", "a.wav"], "--output-dir a.wav: is a file"),
    (["a.wav", "--output-dir", "a.wav/out"], "cannot be written|not a directory|Not a directory"),
    (["a.wav", "--batch-size", "0"], "expected 1 or more"),
])
def test_requests_that_are_refused(stub, capsys, words, message):
    _wav("a.wav", 1)
    assert _main(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and not stub.asked
    assert any(part in err for part in message.split("|")), err


def test_json_lines_and_subtitles_on_standard_output(stub, capsys):
    assert _main(_wav("a.wav", 1), _wav("b.wav", 2), "--format", "json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["file"] for one in told] == ["a.wav", "b.wav"] and told[1]["segments"][0]["end"] == 2.0
    assert _main("a.wav", "--format", "vtt") == 0
    assert capsys.readouterr().out == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nनमस्ते 1\n\n"


def test_names_that_are_no_utf8_and_a_terminal_without_the_letters(stub, monkeypatch, capsys):
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        _wav("plain.wav", 1), os.rename("plain.wav", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert _main(name, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["file"] == "caf\ufffd.wav"
    assert _main(name, "--output-dir", "out") == 0 and os.listdir("out") == [os.fsdecode(b"caf\xe9.txt")]
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", latin)
    assert _main(name) == 0
    latin.flush()
    assert b"\\u0928" in latin.buffer.getvalue()


def test_interrupted(stub, monkeypatch, capsys):
    files = [_wav("a.wav", 1), _wav("b.wav", 2), _wav("c.wav", 3)]

    def interrupt(waveforms, **options):
        if len(waveforms[0]) == 32000:
            raise KeyboardInterrupt
        return Stub.transcribe(stub, waveforms, **options)

    stub.transcribe = interrupt
    assert _main(*files, "--output-dir", "out") == 130
    assert "interrupted; what was finished is written" in capsys.readouterr().err and os.listdir("out") == ["a.txt"]
    stub.transcribe = lambda *arguments, **options: Stub.transcribe(stub, *arguments, **options)
    assert _main(*files, "--output-dir", "out", "--skip-existing") == 0
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt", "c.txt"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint of 1 s windows, a run that began with it, and a run of another task."""
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(root / "model")
    config = RECIPES["default"].override([f"task.pretrained={root}/model", f"output={root}/run", "task.language=en"])
    model = TASK(config.task).build_model()
    for variable in model.trainable_variables:
        variable.assign(variable + 1)
    save_checkpoint(config.output, 3, model)
    config.save(root / "run/config.json")
    (root / "other").mkdir()
    (root / "other/config.json").write_text(json.dumps({"output": "x", "data": {"path": "y"}, "task": {"classes": []}}))
    return root


def test_for_real(tiny, tmp_path, monkeypatch):
    plain = WhisperForConditionalGeneration.generate_with_scores

    def without_xla(model, *arguments, **options):   # which takes longer to compile than all of this to run
        return plain(model, *arguments, **options, jit_compile=False)

    monkeypatch.setattr(WhisperForConditionalGeneration, "generate_with_scores", without_xla)
    long = _wav(str(tmp_path / "long.wav"), 2.63)
    assert _main(long, "--checkpoint", str(tiny / "model"), "--format", "all", "--output-dir", str(tmp_path / "a"),
                 "--language", "en-GB", "--prompt", "hold the line") == 0
    told = json.loads((tmp_path / "a/long.json").read_text())
    assert told["duration"] == 2.63 and told["language"] == "en"
    assert all(0 <= s["start"] < s["end"] <= 2.63 for s in told["segments"])


def test_a_run_has_its_own_weights_and_language(tiny):
    def load(*words):
        return transcribe._load(transcribe.parser().parse_args(["a.wav", *words]), command.load_task)

    first, request = load("--checkpoint", str(tiny / "model"))
    assert request == {"language": None, "task": "transcribe", "prompt": None}
    trained, request = load("--checkpoint", str(tiny / "run"), "--step", "3")
    assert request["language"] == "en"   # of its configuration
    for before, after in zip(first.trainable_variables, trained.trainable_variables, strict=True):
        np.testing.assert_allclose(after, before.numpy() + 1)


@pytest.mark.parametrize("where, words, message", [
    ("model", ["--language", "xx"], "Unknown language 'xx'"),
    ("model", ["--language", "zh-TW"], "English-only model cannot do language='zh-TW'"),
    ("run", ["--task", "translate"], "English-only model cannot do"),
    ("model", ["--prompt", "hold the line " * 9], "expected at most 31"),
    ("model", ["--step", "3"], "is no folder of a run"),
    ("run", ["--step", "7"], "no checkpoint '7'; expected last, best, initial or one of the steps [3]"),
    ("other", [], "expected a run of the task whisper"),
    ("nowhere", [], "no such folder"),
])
def test_checkpoints_and_requests_that_do_not_fit(tiny, tmp_path, capsys, where, words, message):
    wav = _wav(str(tmp_path / "a.wav"), 0.5)
    assert _main(wav, "--checkpoint", str(tiny / where), *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line


def test_predict_on_a_longer_clip_points_here(tiny, tmp_path, capsys):
    wav = _wav(str(tmp_path / "a.wav"), 1.1)
    words = ["predict", "whisper", wav, f"task.pretrained={tiny}/model", "--checkpoint", "initial"]
    assert command.main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (f"error: {wav}: 1.1 s, expected at most 1.0 s; `tfhf transcribe`, and in Python model.transcribe, "
                    "take any length.")


def test_it_is_no_task(capsys):
    assert "transcribe" not in command.task_names()
    with pytest.raises(SystemExit):
        _main("--help")
    assert "tfhf transcribe talk.m4a --format srt" in capsys.readouterr().out
