"""The JAX backend through the runner, in processes of its own: TensorFlow's losses, and weights kept in parts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import toy_task
from tfhf import run

pytest.importorskip("jax", reason="the JAX backend needs jax")
ROOT = Path(__file__).resolve().parent.parent
STEPS = 30

RUN = """
import json, pathlib, sys
from tests import toy_task
from tfhf import run
config = toy_task.run_config(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))
seen = {}
if config.shard_weights:
    import tfhf.run
    make = tfhf.run.make_trainer
    def noting(*arguments):
        trainer = seen["trainer"] = make(*arguments)
        return trainer
    tfhf.run.make_trainer = noting
history = run.train(toy_task.ToyTask, config)
if seen:
    trainer = seen["trainer"]
    for variables in (trainer.model.variables, trainer.optimizer.variables):
        values = [v.value for v in variables if "float" in str(v.dtype)]
        history.setdefault("bytes", []).append(sum(v.nbytes for v in values))
        history.setdefault("bytes_of_a_device", []).append(
            sum(v.addressable_shards[0].data.nbytes for v in values))
history["evaluation"] = run.evaluate(toy_task.ToyTask, config)
print("RESULT" + json.dumps(history))
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with records and a run that the TensorFlow backend has begun, and the history of its whole run."""
    folder = tmp_path_factory.mktemp("jax")
    toy_task.write_records(folder / "records")
    config = toy_task.run_config(folder, output=str(folder / "begun"), steps=STEPS, checkpoint_every=5)
    history = run.train(toy_task.ToyTask, config)
    for path in (folder / "begun" / "checkpoints").iterdir():   # back to step 20, the oldest that is kept
        if path.name > "step-00000020":
            shutil.rmtree(path)
    return folder, history


def _on_jax(folder, name, **changes):
    shutil.copytree(folder / "begun", folder / name)
    saved = json.loads((folder / name / "config.json").read_text())
    saved["strategy"] = changes.get("strategy", "none")   # a run does not change its kind of strategy by itself
    (folder / name / "config.json").write_text(json.dumps(saved))
    changes = {"output": str(folder / name), "steps": STEPS, "checkpoint_every": 5, **changes}
    result = subprocess.run([sys.executable, "-c", RUN, str(folder), json.dumps(changes)], cwd=ROOT, text=True,
                            capture_output=True, timeout=300, env={
                                **os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax",
                                "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu"})
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, result.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT"))


@pytest.mark.parametrize("changes", [{}, {"strategy": "cpu:8"}, {"strategy": "cpu:8", "shard_weights": True}])
def test_goes_on_with_a_run_of_the_tensorflow_backend(begun, changes):
    """The same config and records: losses and evaluation as the TensorFlow backend's, from its checkpoint on."""
    folder, history = begun
    found = _on_jax(folder, "run-" + "-".join(map(str, changes.values())), **changes)
    assert found["start_step"] == 20 and found["step"] == history["step"] and found["compiles"] == 1
    np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-4)
    assert found["eval_step"] == history["eval_step"]
    np.testing.assert_allclose(found["eval_loss"], history["eval_loss"], rtol=1e-4)
    assert found["evaluation"]["examples"] == 21
    if "shard_weights" in changes:
        for whole, part in zip(found["bytes"], found["bytes_of_a_device"]):
            assert part < whole / 4
