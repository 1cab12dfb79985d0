"""`labeller`: an export with a page, small enough for the quick tests; `browser`: Chromium; `artifacts`: a folder."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tensorflow as tf


class _Labeller(tf.Module):
    """A text is short, or long from six letters; one with "wrong" in it is refused."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serving_default(self, text):
        refused = tf.strings.regex_full_match(text, ".*wrong.*")
        with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(refused), ["RecordError: <wrong> text"])]):
            long = tf.cast(tf.strings.length(text) > 5, tf.int32)
        probabilities = tf.one_hot(long, 2, 0.75, 0.25)
        return {"label": tf.gather(tf.constant(["short", "long"]), long), "probabilities": probabilities}


@pytest.fixture(scope="package")
def labeller(tmp_path_factory):
    """OUT with OUT/text_classification/1."""
    folder = tmp_path_factory.mktemp("labeller")
    module = _Labeller()
    tf.saved_model.save(module, str(folder / "text_classification/1"),
                        signatures={"serving_default": module.serving_default})
    extra = folder / "text_classification/1/assets.extra"
    extra.mkdir()
    description = {"task": "text_classification", "config": {"classes": ["short", "long"]}}
    (extra / "tfhf_export.json").write_text(json.dumps(description), "utf-8")
    return folder


@pytest.fixture(scope="session")
def chromium():
    """Debian's or any other; its arguments give it a microphone that says what MICROPHONE's file holds."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="drives Chromium")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")

    def start(playwright, *arguments):
        return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])

    return sync_api.sync_playwright, start


@pytest.fixture
def artifacts(tmp_path):
    """Where screenshots are kept: $TFHF_ARTIFACTS, else with the test's own files."""
    folder = Path(os.environ.get("TFHF_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
