"""The runner on the toy task, from real records: learning, replicas, resume after SIGKILL, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from tests import toy_task
from tfhf import run
from tfhf.checkpoints import CheckpointError, latest_checkpoint, list_checkpoints
from tfhf.config import ConfigError
from tfhf.data.records import RecordWriter
from tfhf.data.schema import RecordError
from tfhf.progress import TrainingError
from tfhf.task import Task, TaskError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    toy_task.write_records(folder / "records")
    return folder


def config_for(records, output, **changes):
    return toy_task.run_config(records, output=str(output), **changes)


def start(code, *arguments, **popen):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, cwd=ROOT, text=True, **popen
    )


def history_of(folder):
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def test_trains_evaluates_and_predicts(records, tmp_path):
    config = config_for(records, tmp_path / "run", steps=30)
    history = run.train(toy_task.ToyTask, config)
    assert history["step"] == list(range(1, 31)) and history["compiles"] == 1
    assert np.mean(history["loss"][-5:]) < 0.5 * history["loss"][0]
    assert history["eval_step"] == [6, 12, 18, 24, 30]
    assert [step for step, _ in list_checkpoints(config.output)] == [20, 25, 30]
    assert run.RunConfig.load(tmp_path / "run/config.json", task=toy_task.ToyConfig) == config
    assert any((tmp_path / "run/tensorboard").iterdir())

    results = run.evaluate(toy_task.ToyTask, config)
    assert results["examples"] == 21 and results["accuracy"] > 0.8
    folder = tmp_path / "run/evaluation/validation-step-00000030"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(f"series-1-{i}" for i in range(21))
    assert np.mean([line["reference"] == line["prediction"] for line in lines]) == results["accuracy"]
    report = json.loads((folder / "metrics.json").read_text())
    assert report["metrics"] == results and report["data"]["count"] == 21 and report["checkpoint_step"] == 30

    paths = []
    for number, level in enumerate([-1.0, 1.0, 0.0] * 3):
        paths.append(tmp_path / f"{number}.txt")
        np.savetxt(paths[-1], np.full(7, level))
    assert run.predict(toy_task.ToyTask, config, paths) == [0, 2, 1] * 3

    # The same command once more has nothing left to do and loses nothing.
    again = run.train(toy_task.ToyTask, config)
    assert again["loss"] == history["loss"] and again["start_step"] == 30


def test_evaluation_loss_counts_every_example_once_by_weight(records, tmp_path):
    config = config_for(records, tmp_path / "run", steps=6, checkpoint_every=0)
    task = toy_task.ToyTask(config.task)
    history = run.train(toy_task.ToyTask, config)
    model = run.load_trained(task, config.output)
    total = weights = 0.0
    for example in toy_task.examples(21, seed=1):
        values = np.zeros((1, 12), "float32")
        values[0, : example["length"]] = example["values"]
        logits = np.asarray(model({"values": values, "length": np.array([example["length"]], "int32")}))[0]
        loss = np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[example["label"]]
        total, weights = total + loss * example["length"], weights + example["length"]
    assert history["eval_loss"][-1] == pytest.approx(total / weights, rel=1e-5)


REPLICAS = """
import sys
from pathlib import Path
import numpy as np, json
from tests import toy_task
from tfhf import run
records, output, specs = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
found = {}
for spec in specs:
    name, task, dropout = spec.split("/")
    config = toy_task.run_config(records, output=str(output / spec.replace("/", "-")), strategy=name, steps=20,
                                 task=toy_task.ToyConfig(dropout=float(dropout)))
    config = config.override(["optimizer.clip_norm=0.3"])
    history = run.train(getattr(toy_task, task), config)
    model = run.load_trained(toy_task.ToyTask(config.task), config.output)
    found[spec] = {"loss": history["loss"], "eval_loss": history["eval_loss"], "replicas": history["replicas"],
                   "compiles": history["compiles"], "weights": [v.numpy().tolist() for v in model.weights]}
print("RESULT" + json.dumps(found))
"""


def test_replicas_agree_with_one_device(records, tmp_path):
    # One process for all: the virtual devices must be there before TensorFlow is first used, so cpu:8 goes first.
    specs = [
        "cpu:8/ToyTask/0",
        "cpu:2/ToyTask/0",
        "none/ToyTask/0",
        "cpu:2/BucketedToyTask/0",
        "none/BucketedToyTask/0",
        "cpu:2/ToyTask/0.5",
        "none/ToyTask/0.5",
    ]
    process = start(REPLICAS, records, tmp_path, *specs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    found = json.loads(output.split("RESULT")[1])
    assert [found[spec]["replicas"] for spec in specs] == [8, 2, 1, 2, 1, 2, 1]
    for name in ("ToyTask/0", "BucketedToyTask/0"):
        one = found["none/" + name]
        for other in (found[spec] for spec in specs if spec.endswith("/" + name) and spec[:4] != "none"):
            np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-4)
            np.testing.assert_allclose(other["eval_loss"], one["eval_loss"], rtol=1e-4)
            for a, b in zip(other["weights"], one["weights"], strict=True):
                assert np.linalg.norm(np.subtract(a, b)) <= 1e-4 * np.linalg.norm(b)
    # With dropout the replicas draw masks of their own, so the curves must part.
    assert not np.allclose(found["cpu:2/ToyTask/0.5"]["loss"], found["none/ToyTask/0.5"]["loss"], rtol=1e-4)


TRAIN = """
import sys, time
from pathlib import Path
from tests import toy_task
from tfhf import run, checkpoints
records, output, slow = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
write = checkpoints.write_checkpoint
def write_slowly(folder, snapshot, *options):
    written = write(folder, snapshot, *options)
    print("SAVED", snapshot.step, flush=True)
    time.sleep(slow)
    return written
checkpoints.write_checkpoint = write_slowly
config = toy_task.run_config(records, output=output, steps=20, log_every=1, checkpoint_every=4,
                             task=toy_task.ToyConfig(dropout=0.3))
run.train(toy_task.ToyTask, config)
"""


def test_killed_and_run_again_gives_the_uninterrupted_losses(records, tmp_path):
    whole = start(TRAIN, records, tmp_path / "whole", 0, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = start(TRAIN, records, tmp_path / "killed", 0.5, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in killed.stdout:
        if line.startswith("SAVED 8"):
            break
    # The pause after the save is over soon; wait until steps past the checkpoint are in the history, then kill.
    deadline = time.monotonic() + 60
    while history_of(tmp_path / "killed")[-1]["step"] <= 8 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert whole.wait(timeout=120) == 0, whole.stderr.read()[-3000:]
    before = history_of(tmp_path / "killed")
    assert 8 < before[-1]["step"] <= 12
    again = start(TRAIN, records, tmp_path / "killed", 0, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "going on from step" in errors
    assert history_of(tmp_path / "killed") == history_of(tmp_path / "whole")


def test_a_torn_checkpoint_is_passed_over(records, tmp_path, capsys):
    config = config_for(records, tmp_path / "run", task=toy_task.ToyConfig(dropout=0.3))
    history = run.train(toy_task.ToyTask, config)
    torn = Path(history["checkpoint"]) / "weights.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    again = run.train(toy_task.ToyTask, config)
    assert again["start_step"] == 10 and again["loss"] == history["loss"]
    assert "step-00000012 is not whole and is passed over: weights.safetensors has" in capsys.readouterr().err


def test_resume_refuses_other_records(records, tmp_path):
    config = config_for(records, tmp_path / "run", steps=5, evaluate_every=0, jit_compile=False)
    with RecordWriter(tmp_path / "data", "train", toy_task.SERIES) as writer:
        for example in toy_task.examples(50):
            writer.write(example)
    config = config.override([f"data.path={tmp_path / 'data'}"])
    history = run.train(toy_task.ToyTask, config)
    with RecordWriter(tmp_path / "data", "train", toy_task.SERIES, overwrite=True) as writer:
        for example in toy_task.examples(51):
            writer.write(example)
    with pytest.raises(ConfigError, match="holds 51 records with the fingerprints .* was trained on 50 with"):
        run.train(toy_task.ToyTask, config.override(["steps=5"]))
    assert run.evaluate(toy_task.ToyTask, config, "train", history["step"][-1])["examples"] == 51


def test_the_best_by_eval_loss_is_kept_and_used(records, tmp_path):
    config = config_for(records, tmp_path / "run", steps=24, evaluate_every=3, checkpoint_every=0)
    config = config.override(["keep_best=1", "keep_checkpoints=1", "optimizer.learning_rate=0.4", "jit_compile=false"])
    history = run.train(toy_task.ToyTask, config)
    best = history["eval_step"][int(np.argmin(history["eval_loss"]))]
    assert [step for step, _ in list_checkpoints(config.output)] == sorted({best, 24})
    run.evaluate(toy_task.ToyTask, config, checkpoint="best")
    assert (tmp_path / f"run/evaluation/validation-step-{best:08d}/metrics.json").exists()


def test_resume_refuses_another_config_but_allows_more_steps(records, tmp_path):
    config = config_for(records, tmp_path / "run", steps=4, evaluate_every=0).override(["optimizer.schedule=constant"])
    run.train(toy_task.ToyTask, config)
    changed = config.override(["optimizer.learning_rate=0.5", "seed=3", "task.width=8"])
    with pytest.raises(ConfigError) as error:
        run.train(toy_task.ToyTask, changed)
    for words in ("optimizer.learning_rate: 0.02 -> 0.5", "seed: 0 -> 3", "task.width: 16 -> 8"):
        assert words in str(error.value)
    longer = run.train(toy_task.ToyTask, config.override(["steps=8", "log_every=1", "strategy=none"]))
    straight = run.train(toy_task.ToyTask, config.override(["steps=8", f"output={tmp_path / 'straight'}"]))
    assert longer["start_step"] == 4 and longer["loss"] == straight["loss"]
    with pytest.raises(ConfigError, match="steps: got 4, but .* checkpoint of step 8"):
        run.train(toy_task.ToyTask, config)
    # A decay that ends with the run is another curve when the run is longer.
    linear = config.override(["optimizer.schedule=linear", f"output={tmp_path / 'linear'}"])
    run.train(toy_task.ToyTask, linear)
    with pytest.raises(ConfigError, match="optimizer.decay_steps: 4 -> 8"):
        run.train(toy_task.ToyTask, linear.override(["steps=8"]))


def test_several_steps_per_execution(records, tmp_path):
    common = {
        "task": toy_task.ToyConfig(dropout=0.3),
        "steps": 12,
        "log_every": 4,
        "checkpoint_every": 4,
        "evaluate_every": 0,
    }
    single = run.train(toy_task.ToyTask, config_for(records, tmp_path / "one", **common))
    many = run.train(toy_task.ToyTask, config_for(records, tmp_path / "four", steps_per_execution=4, **common))
    assert many["step"] == [4, 8, 12] and many["compiles"] == 1
    np.testing.assert_allclose(many["loss"], single["loss"][3::4], rtol=1e-5)


def test_mixed_bfloat16(records, tmp_path):
    before = keras.config.dtype_policy()
    try:
        common = {"steps": 20, "evaluate_every": 0, "checkpoint_every": 0}
        exact = run.train(toy_task.ToyTask, config_for(records, tmp_path / "f32", **common))
        lower = run.train(
            toy_task.ToyTask, config_for(records, tmp_path / "bf16", precision="mixed_bfloat16", **common)
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert lower["loss"] != exact["loss"]
    np.testing.assert_allclose(lower["loss"], exact["loss"], rtol=0.2, atol=0.05)


def test_dropout_repeats_by_seed(records, tmp_path):
    losses = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = config_for(records, tmp_path / name, seed=seed, task=toy_task.ToyConfig(dropout=0.5), evaluate_every=0)
        losses.append(run.train(toy_task.ToyTask, config)["loss"])
    assert losses[0] == losses[1] and losses[0] != losses[2]


@pytest.mark.parametrize(
    "task, words",
    [
        (toy_task.ScalarLossTask, "loss 'mean_loss' returned shape (), expected one value per example"),
        (toy_task.UnpaddedTask, "preprocess() gave inputs/values the shape (8, None)"),
    ],
)
def test_tasks_that_break_the_contract(records, tmp_path, task, words):
    with pytest.raises(TaskError) as error:
        run.train(task, config_for(records, tmp_path / "run"))
    assert words in str(error.value)
    assert not list_checkpoints(str(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run(records, tmp_path):
    class Overflowing(toy_task.ToyTask):
        def loss(self):
            return lambda targets, outputs: outputs[:, 0] * float("inf")

    with pytest.raises(TrainingError, match="loss is (nan|inf|-inf) at step 1"):
        run.train(Overflowing, config_for(records, tmp_path / "run", log_every=1))
    assert latest_checkpoint(str(tmp_path / "run")) is None


def test_bad_arguments(records, tmp_path):
    config = config_for(records, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no whole checkpoint here"):
        run.evaluate(toy_task.ToyTask, config)
    with pytest.raises(CheckpointError, match="no whole checkpoint here that was saved with its eval_loss"):
        run.evaluate(toy_task.ToyTask, config, checkpoint="best")
    with pytest.raises(CheckpointError, match="no checkpoint '7'"):
        run.evaluate(toy_task.ToyTask, config, checkpoint="7")
    with pytest.raises(RecordError, match="nowhere"):
        run.train(toy_task.ToyTask, config.override(["data.path=nowhere"]))
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        config.override(["batch_size=0"])
    with pytest.raises(ConfigError, match="steps: got 12, expected a multiple of steps_per_execution=5"):
        config.override(["steps_per_execution=5"])
    with pytest.raises(ConfigError, match="freeze: 'nothing'"):
        run.train(toy_task.ToyTask, config.override(["freeze=nothing"]))
    with pytest.raises(TaskError, match="expected ToyConfig"):
        toy_task.ToyTask(config.optimizer)
    with pytest.raises(TaskError, match="does not define load_inputs"):
        Task.load_inputs(toy_task.ToyTask.tiny(), "x")


def test_a_damaged_record_is_named(tmp_path):
    toy_task.write_records(tmp_path / "records")
    shard = tmp_path / "records/train/train-00000.tfrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(RecordError, match=r"train-00000.tfrecord: record \d+"):
        run.train(toy_task.ToyTask, config_for(tmp_path, tmp_path / "run"))
