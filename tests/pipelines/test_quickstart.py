"""The quickstart's own few lines; the steps themselves are tested where they live, and `make quickstart` runs them."""

import json

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from pipelines import quickstart
from tfhf.assets import AssetUnavailable
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT


def unavailable(*names):
    def fetch(name):
        if name in names:
            raise AssetUnavailable(f"{name}: no registry")
        return f"folder of {name}"
    return fetch


def test_recorded_speech_where_it_can_be_had(monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "fetch", unavailable())
    assert quickstart.fetch_assets() == ("folder of whisper-tiny.en", "asterisk")
    assert "CANNOT" not in capsys.readouterr().out


def test_synthesised_speech_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "fetch", unavailable("asterisk-prompts"))
    assert quickstart.fetch_assets()[1] == "espeak"
    said = capsys.readouterr().out
    assert "THE RECORDED PROMPTS CANNOT BE HAD: asterisk-prompts: no registry" in said and "eSpeak NG" in said


def test_without_the_checkpoint_it_stops(monkeypatch):
    monkeypatch.setattr(quickstart, "fetch", unavailable("whisper-tiny.en"))
    with pytest.raises(SystemExit, match="the checkpoint cannot be had: whisper-tiny.en: no registry"):
        quickstart.fetch_assets()


def test_a_command_that_fails_stops_it(monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "tfhf", lambda arguments: {"good": 0, "bad": 2}[arguments[0]])
    steps = quickstart.Steps()
    steps.run("first", "good", "--x")
    steps.say("done")
    with pytest.raises(SystemExit, match="`tfhf bad` failed with status 2"):
        steps.run("second", "bad")
    steps.table()
    assert "$ tfhf good --x" in capsys.readouterr().out and steps.rows[0][2] == "done"


def test_clips_are_whole_wav_files(tmp_path):
    texts = ["One.", "a b c d e", "two words", "f g h i j k", "l m n o p", "q r s t u"]
    with RecordWriter(tmp_path, "test", SPEECH_TEXT) as writer:
        for number, text in enumerate(texts):
            writer.write({"id": f"clip-{number}", "audio": np.full(1600, 100 * number, "int16"), "text": text})
    clips = quickstart.some_clips(tmp_path, tmp_path / "clips")
    assert [(name, text) for name, _, text in clips] == [(f"clip-{n}", texts[n]) for n in (1, 3, 4)]
    samples, rate = soundfile.read(clips[1][1], dtype="int16")
    assert rate == 16000 and samples.tolist() == [300] * 1600


def test_the_newest_export_is_asked_in_a_process_of_its_own(tmp_path):
    class Server(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
        def serve(self, wav):
            return {"text": tf.strings.join([self.said, wav])}

    for version, said in ((9, "old "), (10, "grüß ")):
        server = Server()
        server.said = said
        tf.saved_model.save(server, str(tmp_path / "export" / str(version)), {"serving_default": server.serve})
    clips = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
        clips.append((name, tmp_path / name, "reference"))
    assert quickstart.transcribe(tmp_path / "export", clips) == ["grüß a", "grüß b"]
    (tmp_path / "b").unlink()
    with pytest.raises(SystemExit, match="the client of .*10 failed with status 1"):
        quickstart.transcribe(tmp_path / "export", clips)


def test_scores_are_read_back(tmp_path):
    metrics = {"wer": 0.071, "substitutions": 3, "deletions": 2, "insertions": 1, "reference_words": 84}
    for name in ("test-initial", "test-step-00000009", "test-step-00000010"):
        folder = tmp_path / "evaluation" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"metrics": {**metrics, "examples": name}}))
        (folder / "predictions.jsonl").write_text('{"id": "a", "reference": "r", "prediction": "p"}\n')
    assert quickstart.score(tmp_path, "initial") == ({**metrics, "examples": "test-initial"}, {"a": "p"})
    assert quickstart.score(tmp_path, "step")[0]["examples"] == "test-step-00000010"
    assert quickstart.percent(metrics) == "WER 7.1 %: 3 S, 2 D, 1 I of 84 words"
