"""The Whisper task through the house: every check of the harness, bad transcripts, and its signatures."""

import numpy as np
import pytest

from pipelines.whisper import RECIPES, TASK
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
