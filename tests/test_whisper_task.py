"""The Whisper task through the house: every check of the harness, bad transcripts, and its signatures."""

import dataclasses

import numpy as np
import pytest

from pipelines.whisper import RECIPES, TASK
from tfhf import run
from tfhf.data.records import RecordError, RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tests import harness


def _examples(count=16):
    rng = np.random.default_rng(0)
    words = "please hold the line".split()
    return [{"id": f"clip-{i}", "audio": rng.normal(0, 0.1, 4000 + 500 * i).astype("float32"),
             "text": " ".join(rng.choice(words, 2)), "language": "en"} for i in range(count)]


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def test_a_transcript_that_is_too_long_names_its_clip(tmp_path):
    examples = _examples()
    examples[3]["text"] = "hold the line " * 20
    with RecordWriter(tmp_path / "records", "train", SPEECH_TEXT, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)
    config = RECIPES["default"].override([f"output={tmp_path}/run", f"data.path={tmp_path}/records", "steps=2",
                                          "batch_size=16", "optimizer.warmup_steps=0", "evaluate_every=0"])
    config = dataclasses.replace(config, task=TASK.tiny().config)
    with pytest.raises(RecordError, match="^clip-3: ' hold the line.*' has .* tokens.*expected at most 33.$"):
        run.train(TASK, config)
