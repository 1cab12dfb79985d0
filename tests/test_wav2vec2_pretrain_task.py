"""The pretraining task through the house: the harness, crops, replicas, going on after a stop, and its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.wav2vec2_pretrain import RECIPES, TASK
from tests import harness
from tfhf import run
from tfhf.checkpoints import latest_checkpoint
from tfhf.data.audio import tone_wav
from tfhf.data.records import RecordWriter
from tfhf.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.strategy import set_precision

ROOT = Path(__file__).resolve().parent.parent


def _examples(count=16):
    rng = np.random.default_rng(0)
    return [{"id": f"clip-{i}", "audio": rng.normal(0, 0.1, 8000 + 1000 * i).astype("float32"), "text": "unused",
             "language": "en"} for i in range(count)]


def _config(folder, **changes):
    task = TASK.tiny()
    values = dict(output=str(folder / "run"), data=DataConfig(str(folder / "records")), task=task.config, batch_size=4,
                  eval_batch_size=4, steps=4, log_every=1, checkpoint_every=2, jit_compile=False,
                  optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"))
    return RunConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    for split in ("train", "validation"):
        with RecordWriter(folder / "records", split, TASK.record_type) as writer:
            for example in _examples():
                writer.write(example)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run of four steps: (its folder, its history)."""
    return folder / "whole", run.train(TASK, _config(folder, output=str(folder / "whole")))


def test_harness(tmp_path):
    # Replicas rightly draw other masks, negatives and noise: see test_two_replicas below. Code words are an argmax,
    # which bfloat16 may turn: see test_bfloat16_trains.
    harness.check_task(TASK, _examples(), tmp_path, skip=("replicas", "bfloat16", "loss_falls"))


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def test_crops_are_random_in_training_and_the_beginning_outside(folder):
    task = TASK.tiny()
    assert task.crop == 16000
    audio = tf.cast(tf.range(20000), tf.float32) / 32768.0

    def crop(seed, training):
        inputs, _, weight = task.preprocess({"audio": audio, "seed": tf.constant([seed, 1])}, task.buckets[0], training)
        assert inputs["input_values"].shape == (16000,) and float(weight) == 100
        return inputs["input_values"].numpy()

    assert crop(0, False)[0] == 0 and len({int(crop(seed, True)[0]) for seed in range(5)}) == 5
    np.testing.assert_array_equal(np.diff(crop(3, True).astype("int32")), 1)
    short, length, weight = task.preprocess({"audio": audio[:5000], "seed": tf.constant([0, 1])}, task.buckets[0], True)
    assert int(short["input_lengths"]) == int(length) == 5000 and float(weight) == 31
    assert not short["input_values"][5000:].numpy().any()


def test_going_on_gives_the_numbers_of_the_uninterrupted_run(folder, whole):
    run.train(TASK, _config(folder, steps=2))
    rest = run.train(TASK, _config(folder))
    assert rest["start_step"] == 2
    np.testing.assert_allclose(rest["loss"], whole[1]["loss"], rtol=1e-6)


def test_figures_of_training_and_evaluation_and_the_folder_that_goes_on(folder, whole):
    model = run.load_trained(TASK.tiny(), str(folder / "whole"))
    assert int(model.quantizer.step) == 4
    lines = [json.loads(line) for line in (whole[0] / "history.jsonl").read_text().splitlines()]
    for name, low, high in (("contrastive_accuracy", 0, 1), ("code_perplexity", 2, 16)):
        values = [line[name] for line in lines if name in line]
        assert len(values) == 4 and all(low <= value <= high for value in values)
    found = run.evaluate(TASK, _config(folder, output=str(folder / "whole")))
    again = run.evaluate(TASK, _config(folder, output=str(folder / "whole"), eval_batch_size=8))
    assert found == again and found["masked_frames"] > 16 and 2 <= found["code_perplexity"] <= 16
    sound = folder / "tone.wav"
    sound.write_bytes(tone_wav())
    answer, = run.predict(TASK, _config(folder, output=str(folder / "whole")), [sound])
    assert len(answer["codes"]) >= answer["correct"] >= 0 and len(answer["codes"][0]) == 2
    model.save_pretrained(folder / "hugging-face")
    assert int(Wav2Vec2ForPreTraining.from_pretrained(folder / "hugging-face").quantizer.step) == 0


_REPLICAS = """
from tests.test_wav2vec2_pretrain_task import _config
from tests.harness import _with_tiny
from tfhf.strategy import make_runtime
make_runtime("cpu:2")
import pathlib
from pipelines.wav2vec2_pretrain import TASK
from tfhf import run
folder = pathlib.Path({folder!r})
run.train(_with_tiny(TASK), _config(folder, output=str(folder / "replicas"), strategy="cpu:2"))
"""


def test_two_replicas_draw_their_own_masks_and_count_the_same_step(folder):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _REPLICAS.format(folder=str(folder))], env=environment, cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert latest_checkpoint(str(folder / "replicas"))[0] == 4
    model = run.load_trained(TASK.tiny(), str(folder / "replicas"))
    assert int(model.quantizer.step) == 4


def test_bfloat16_trains(folder, whole):
    history = run.train(TASK, _config(folder, output=str(folder / "bfloat16"), precision="mixed_bfloat16", steps=2))
    set_precision("float32")
    np.testing.assert_allclose(history["loss"], whole[1]["loss"][:2], rtol=0.05)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name):
    config = RECIPES[name]
    assert config.task.model.mask_time_prob >= 0.4 and not config.steps % config.steps_per_execution
    assert TASK(config.task).crop in (250000, 48000)
