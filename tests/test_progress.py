"""What a run shows in TensorBoard beside its figures: predictions with their sounds, and the report of a preflight."""

import io
import json

import numpy as np
import soundfile
import tensorflow as tf

from tests import toy_task
from tests.loudness_task import LoudnessTask
from tfhf import run
from tfhf.preflight import report
from tfhf.progress import save_samples


def shown(folder):
    """{tag: (step, [bytes])} of the texts and sounds in a run's TensorBoard files."""
    return {value.tag: (event.step, list(value.tensor.string_val))
            for path in sorted((folder / "tensorboard").glob("events*"))
            for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value
            if value.metadata.plugin_data.plugin_name in ("text", "audio")}


def test_predictions_and_their_sounds(tmp_path):
    sound = (1000 * np.sin(np.arange(800))).astype("int16")
    inputs = {"input_values": np.pad(sound, (0, 200))}
    task = LoudnessTask.tiny()
    lines = [{"id": "a/1", "reference": "yes | no", "prediction": "yes\nno"}, {"id": "b", "reference": 3}]
    save_samples(list(zip(lines, (task.sound(inputs), None))), 16_000, str(tmp_path), "test", 7)
    found = shown(tmp_path)
    step, (table,) = found["test/predictions"]
    assert step == 7 and "| a/1 | yes \\| no | yes no |" in table.decode() and "| b |" not in table.decode()
    step, strings = found["test/sounds/a/1"]
    played, rate = soundfile.read(io.BytesIO(strings[0]), dtype="int16")
    assert (step, rate, len(found)) == (7, 16_000, 2)
    np.testing.assert_allclose(played, np.trim_zeros(sound, "b"), atol=1)


def test_a_task_without_sound_or_text_shows_nothing(tmp_path):
    assert toy_task.ToyTask.tiny().sound({"values": np.ones(3)}) is None
    save_samples([({"id": "a", "reference": 1}, None)], None, str(tmp_path), "test", None)
    assert not (tmp_path / "tensorboard").exists()


def test_evaluate_shows_them_and_training_a_preflight(tmp_path, monkeypatch):
    class Named(toy_task.ToyTask):
        def decode(self, model, inputs):
            return [f"class {number}" for number in super().decode(model, inputs)]

        def metrics(self):
            return []

    toy_task.write_records(tmp_path / "records")
    config = toy_task.run_config(tmp_path, evaluate_every=0, steps=4, jit_compile=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/preflight.json").write_text(json.dumps({"task": "toy"}))
    (tmp_path / "run/preflight.html").write_text("<p>")
    monkeypatch.setattr(report, "text", lambda found: f"fits: {found['task']}\nall of it")
    run.train(Named, config)
    run.evaluate(Named, config)
    found = shown(tmp_path / "run")
    text = found["preflight"][1][0].decode()
    assert "    fits: toy\n    all of it\n" in text and "run/preflight.html)" in text
    step, (table,) = found["validation/predictions"]
    assert step == 4 and table.decode().count("| class ") == run.SAMPLED_EXAMPLES
