"""Signals are noted and answered between steps; the process is gone in time even when it is stuck."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import toy_task
from tfhf import progress, run
from tfhf.checkpoints import list_checkpoints
from tfhf.preemption import EXIT_STATUS, Preempted, StopSignals

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    toy_task.write_records(folder / "records")
    return folder


def at_step(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal when the loss of `step` is noted."""
    add = progress.History.add

    def add_and_signal(self, at, name, value):
        add(self, at, name, value)
        if (at, name) == (step, "loss"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(progress.History, "add", add_and_signal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_step_ends_is_saved_and_the_same_command_goes_on(records, tmp_path, monkeypatch, capsys, number):
    options = {"checkpoint_every": 0, "task": toy_task.ToyConfig(dropout=0.3), "jit_compile": False}
    config = toy_task.run_config(records, output=str(tmp_path / "stopped"), **options)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 7, number)
        with pytest.raises(Preempted) as stopped:
            run.train(toy_task.ToyTask, config)
    assert stopped.value.code == EXIT_STATUS == 75
    assert capsys.readouterr().err.strip().splitlines()[-1] == stopped.value.message
    assert f"stopped by {number.name} after step 7, which is saved" in stopped.value.message
    assert [step for step, _ in list_checkpoints(config.output)] == [7]
    assert signal.getsignal(number) == before
    again = run.train(toy_task.ToyTask, config)
    straight = run.train(toy_task.ToyTask, config.override([f"output={tmp_path / 'straight'}"]))
    assert again["start_step"] == 7
    for key in ("step", "loss", "eval_step", "eval_loss"):
        assert again[key] == straight[key]


def test_an_evaluation_is_given_up_and_made_up_for(records, tmp_path, monkeypatch):
    config = toy_task.run_config(records, output=str(tmp_path / "stopped"), checkpoint_every=0, jit_compile=False)
    with monkeypatch.context() as patch:
        at_step(patch, 6)   # before the evaluation of step 6, which has three batches
        with pytest.raises(Preempted, match="75"):
            run.train(toy_task.ToyTask, config)
    assert '"eval_loss"' not in (tmp_path / "stopped/history.jsonl").read_text()
    again = run.train(toy_task.ToyTask, config)
    straight = run.train(toy_task.ToyTask, config.override([f"output={tmp_path / 'straight'}"]))
    assert again["start_step"] == 6 and again["eval_step"] == straight["eval_step"] == [6, 12]
    assert again["eval_loss"] == straight["eval_loss"]


def test_a_signal_at_the_last_step_ends_the_run_as_usual(records, tmp_path, monkeypatch):
    at_step(monkeypatch, 12)
    config = toy_task.run_config(records, output=str(tmp_path / "run"), evaluate_every=0, jit_compile=False)
    history = run.train(toy_task.ToyTask, config)
    assert history["step"][-1] == 12


@pytest.fixture
def heeded():
    """Ctrl-C as in a terminal: what runs in a shell's background has been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_a_second_interrupt_works_as_before():
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_outside_the_main_thread_nothing_changes():
    before, found = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopSignals() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [("", before)]


STUCK = """
import ctypes
from tfhf.preemption import StopSignals
with StopSignals(grace_s=0.5):
    print("ready", flush=True)
    libc = ctypes.CDLL(None)
    for _ in range(600):
        libc.usleep(100000)   # 60 s, each bit of it cut short by a signal
"""


def test_a_process_that_is_stuck_is_ended_in_time():
    process = subprocess.Popen([sys.executable, "-c", STUCK], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    begin = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == EXIT_STATUS and 0.4 < time.monotonic() - begin < 10
    assert errors.count("\n") == 1 and "stopped by SIGTERM: no step and checkpoint were done" in errors
