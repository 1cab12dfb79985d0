"""Several processes on the loopback train as one device does, and end and go on together.

`make nightly` makes the rows of docs/engine.md: TFHF_NIGHTLY=1 pytest -s tests/test_strategy_workers.py
"""

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests import killed_run, test_train_steps_table, toy_task
from tests.killed_run import Life
from tests.test_train_steps_table import DECAY, STEPS, TASKS, TOLERANCE
from tfhf import progress, run
from tfhf.checkpoints import list_checkpoints
from tfhf.config import ConfigError


def work(tell, errors, addresses, index, task, config):
    """One process of the cluster; `tell` gets the number of each step that is done, errors.json what `train` says."""
    killed_run._errors_to(errors)
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
    end = progress.StepCallback.on_train_batch_end

    def tell_and_end(self, batch, logs=None):
        end(self, batch, logs)
        tell.send(self.start_step + batch + 1)

    progress.StepCallback.on_train_batch_end = tell_and_end
    history = run.train(task_class_of(task), config)
    Path(f"{errors}.json").write_text(json.dumps(history))


def task_class_of(name):
    return toy_task.ToyTask if name == "toy" else test_train_steps_table.task_class_of(name)


def start(folder, task, config, hosts):
    """The processes of a cluster of `hosts`, each on a port of its own that is free now."""
    sockets = [socket.socket() for _ in range(hosts)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    config = config.override(["strategy=workers"])
    return [Life(work, folder / f"host-{index}.txt", addresses, index, task, config) for index in range(hosts)]


def finish(lives):
    """Every process ends well -> what `train` said in each."""
    ends = [life.end() for life in lives]
    for status, errors in ends:
        assert status == 0, "\n\n".join(errors[-2500:] for _, errors in ends)
    return [json.loads(Path(f"{life.errors}.json").read_text()) for life in lives]


def weights(task, config, averaged=False):
    model = run.load_trained(task_class_of(task)(config.task), config.output, averaged=averaged)
    return [variable.numpy() for variable in model.trainable_variables]


def distance(task, ours, theirs, averaged=False):
    return test_train_steps_table.distance(*(weights(task, config, averaged) for config in (ours, theirs)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(config of a run in one process, what `train` said of it)"""
    folder = tmp_path_factory.mktemp("toy")
    toy_task.write_records(folder / "records")
    config = toy_task.run_config(folder, output=str(folder / "one"), steps=STEPS, jit_compile=False, ema_decay=DECAY)
    config = config.override(["optimizer.epsilon=1e-6"])
    return config, run.train(toy_task.ToyTask, config)


def files_of(folder):
    """Names of the files in a run, those of TensorBoard apart: every start makes one."""
    names = [path.name for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(name for name in names if "tfevents" not in name), sum("tfevents" in name for name in names)


def check_same(histories, config, single, told, starts=1):
    for history in histories:
        assert history["replicas"] == len(histories) and history["compiles"] == 1
        assert history["step"] == told["step"] and history["eval_step"] == told["eval_step"] != []
        np.testing.assert_allclose(history["loss"], told["loss"], rtol=TOLERANCE)
        np.testing.assert_allclose(history["eval_loss"], told["eval_loss"], rtol=TOLERANCE)  # 21 examples, each once
    for averaged in (False, True):
        assert distance("toy", config, single, averaged) <= TOLERANCE
    # Only one process has written, and what it wrote is what a run of one process writes.
    assert files_of(config.output) == (files_of(single.output)[0], starts)


def test_two_processes_are_one_device(toy, tmp_path):
    single, told = toy
    config = single.override([f"output={tmp_path / 'two'}"])
    check_same(finish(start(tmp_path, "toy", config, 2)), config, single, told)


def check_a_death(toy, tmp_path, hosts, killed, again):
    """The others end with one clear error, in a bounded time, and the same command on `again` hosts goes on."""
    single, told = toy
    config = single.override([f"output={tmp_path / 'killed'}"])
    lives = start(tmp_path, "toy", config, hosts)
    assert lives[killed].run_until(8), lives[killed].end()
    os.kill(lives[killed].pid, signal.SIGKILL)
    begin = time.monotonic()
    for index, life in enumerate(lives):
        status, errors = life.end()
        if index == killed:
            assert status == -signal.SIGKILL
        else:
            assert status != 0 and f"host {index} lost another process of the cluster" in errors, errors[-3000:]
    print(f"\nhost {killed} of {hosts} killed: the others ended within {time.monotonic() - begin:.1f} s")
    assert time.monotonic() - begin < 60
    assert [step for step, _ in list_checkpoints(config.output)] == [5]
    histories = finish(start(tmp_path, "toy", config, again))
    assert {history["start_step"] for history in histories} == {5}
    check_same(histories, config, single, told, starts=2)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(toy, tmp_path):
    check_a_death(toy, tmp_path, hosts=2, killed=1, again=2)


def test_only_training_is_shared(toy):
    with pytest.raises(ConfigError, match="strategy: got workers, expected one of a single process"):
        run.evaluate(toy_task.ToyTask, toy[0].override(["strategy=workers"]))


@pytest.mark.nightly
@pytest.mark.parametrize("killed", [0, 3])
def test_a_death_among_four(toy, tmp_path, killed):
    check_a_death(toy, tmp_path, hosts=4, killed=killed, again=2)


@pytest.mark.nightly
def test_a_signal_to_one_host_stops_all_after_the_same_step(toy, tmp_path):
    single, told = toy
    config = single.override([f"output={tmp_path / 'stopped'}", "checkpoint_every=0"])
    lives = start(tmp_path, "toy", config, 2)
    assert lives[1].run_until(8)
    os.kill(lives[1].pid, signal.SIGTERM)
    ends = [life.end() for life in lives]
    steps = [step for step, _ in list_checkpoints(config.output)]
    assert [status for status, _ in ends] == [75, 75], ends
    assert len(steps) == 1 and 8 <= steps[0] <= 10
    for (_, errors), what in zip(ends, ("a signal to host 1", "SIGTERM")):
        assert f"stopped by {what} after step {steps[0]}, which is saved" in errors
    histories = finish(start(tmp_path, "toy", config, 2))
    assert {history["start_step"] for history in histories} == set(steps)
    assert histories[0]["loss"] == histories[1]["loss"]
    np.testing.assert_allclose(histories[0]["loss"], told["loss"], rtol=TOLERANCE)


@pytest.mark.nightly
@pytest.mark.parametrize("task", list(TASKS))
def test_the_rows_of_the_table(task, tmp_path):
    test_train_steps_table.write_records(task, tmp_path)
    single = test_train_steps_table.config_of(task, tmp_path, "none", 1, True)
    run.train(task_class_of(task), single)
    for hosts in (2, 4):
        config = single.override([f"output={tmp_path / f'workers-{hosts}'}"])
        histories = finish(start(tmp_path, task, config, hosts))
        raw, means = (distance(task, config, single, averaged) for averaged in (False, True))
        print(f"\n| {hosts} processes | 1 | on | {task}: {raw:.1e} ({means:.1e})")
        assert 0 < raw <= TOLERANCE and means <= TOLERANCE and len(histories[0]["step"]) == STEPS
