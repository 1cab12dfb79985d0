"""A card says what the run's files say; the Hub gets the model, the card and TensorBoard's events."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import toy_task
from tests.hub_stand_in import Hub
from tfhf import run
from tfhf.model_card import ModelCardError, model_card

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    toy_task.write_records(folder / "records")
    config = toy_task.run_config(folder)
    run.train(toy_task.ToyTask, config)
    run.evaluate(toy_task.ToyTask, config)
    return config


def test_the_card_says_what_the_run_says(config):
    card = model_card(toy_task.ToyTask, config, "mit")
    _, front, text = card.split("---\n", 2)
    front = yaml.safe_load(front)
    report = json.loads(next(Path(config.output).glob("evaluation/*/metrics.json")).read_text())
    assert front["license"] == "mit" and front["library_name"] == "tfhf" and "toy" in front["tags"]
    result, = front["model-index"][0]["results"]
    assert result["metrics"] == [{"name": "accuracy", "type": "accuracy", "value": report["metrics"]["accuracy"]}]
    manifest = json.loads(Path(config.data.path, "train", "manifest.json").read_text())
    for words in (f"`{manifest['fingerprint'][:16]}`", "| 50 |", "21 examples, step 12", "12 steps of 8 examples",
                  f"tensorflow {report['versions']['tensorflow']}", '"learning_rate": 0.02', "unknown"):
        assert words in text, words


def test_what_is_no_run_is_told(config, tmp_path):
    with pytest.raises(ModelCardError, match="expected the folder of a run"):
        model_card(toy_task.ToyTask, dataclasses.replace(config, output=str(tmp_path)))


def push(config, hub, repo, task="SavableTask", token="hf_secret"):
    """In a process of its own: huggingface_hub reads where the Hub is when it is imported."""
    code = f"""
        from pathlib import Path
        from tests import toy_task
        from tfhf.model_card import ModelCardError, push_to_hub
        from tfhf.run_config import RunConfig

        class Savable(toy_task.SeriesClassifier):
            def save_pretrained(self, folder):
                Path(folder, "model.safetensors").write_bytes(b"weights" + bytes([255]))

        class SavableTask(toy_task.ToyTask):
            def build_model(self):
                model = super().build_model()
                model.__class__ = Savable
                return model

        config = RunConfig.load({config.output + "/config.json"!r}, task=toy_task.ToyConfig)
        try:
            print("url", push_to_hub({task if task == "SavableTask" else "toy_task." + task}, config, {repo!r},
                                     token={token!r}))
        except ModelCardError as error:
            print("error", error)
    """
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                   "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_the_hub_gets_model_card_and_events(config):
    pytest.importorskip("huggingface_hub")
    with Hub() as hub:
        assert push(config, hub, "someone/toy") == f"url {hub.address}/someone/toy/commit/1"
        files = hub.files["someone/toy"]
        assert files["model.safetensors"] == b"weights\xff" and hub.private["someone/toy"]
        assert files["README.md"].decode().startswith("---\nlibrary_name:")
        assert any(name.startswith("runs/") and ".tfevents." in name for name in files)
        assert "the Hub took nothing" in push(config, hub, "taken/toy")
        assert "the Hub took nothing" in push(config, hub, "someone/toy", token="hf_other")
        assert "has no save_pretrained()" in push(config, hub, "someone/toy", task="ToyTask")
