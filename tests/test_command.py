"""The `tfhf` command on the toy task: every step once, and one clear line for what the user can mend."""

import json
import os
import signal
import sys
import types

import numpy as np
import pytest

import pipelines.__main__ as command
from tests import toy_task
from tfhf import run


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """pipelines.toy, as a file of that name would be."""
    toy_task.write_records(tmp_path / "records")
    module = types.ModuleType("pipelines.toy")
    module.__doc__ = "Toy: which of three classes a series is."
    module.TASK, module.RECIPES = toy_task.ToyTask, {"default": toy_task.run_config(tmp_path, checkpoint_every=0)}
    monkeypatch.setitem(sys.modules, "pipelines.toy", module)
    monkeypatch.setattr(command, "task_names", lambda: ["toy"])
    return tmp_path


def test_the_road(toy, capsys):
    assert command.main(["list"]) == 0
    assert "toy: Toy: which of three" in capsys.readouterr().out
    # Options and overrides in any order.
    assert command.main(["train", "toy", "steps=20", "--output", str(toy / "other"), "optimizer.beta_1=0.8"]) == 0
    assert "step-00000020" in capsys.readouterr().out
    saved = json.loads((toy / "other/config.json").read_text())
    assert saved["steps"] == 20 and saved["optimizer"]["beta_1"] == 0.8
    assert command.main(["evaluate", "toy", "--output", str(toy / "other"), "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 50
    assert command.main(["evaluate", "toy", "--output", str(toy / "other"), "--raw-weights"]) == 0
    assert (toy / "other/evaluation/validation-step-00000020-raw").exists() and capsys.readouterr().out
    np.savetxt(toy / "a=b.txt", np.ones(5))
    assert (
        command.main(["predict", "toy", str(toy / "a=b.txt"), "--output", str(toy / "other"), "eval_batch_size=4"]) == 0
    )
    assert capsys.readouterr().out == f"{toy / 'a=b.txt'}\t2\n"


@pytest.mark.parametrize(
    "line, words",
    [
        ("train tyo", "unknown task 'tyo'; expected one of toy"),
        ("train toy --recipe x", "unknown recipe 'x'; expected one of default"),
        ("train toy optimizer.learning_rat=1", "did you mean optimizer.learning_rate?"),
        ("train toy --strategy cpus:2", "unknown strategy 'cpus:2'"),
        ("train toy --data nowhere", "nowhere"),
        ("evaluate toy", "no whole checkpoint here"),
        ("predict toy missing.txt", "missing.txt"),
    ],
)
def test_one_clear_line(toy, capsys, line, words):
    assert command.main(line.split()) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("error: ") and words in printed
    with pytest.raises((ValueError, OSError)):
        command.main(["--debug", *line.split()])


def test_export_takes_files_and_settings_in_any_order():
    parsed = command.parse(["export", "toy", "a.wav", "steps=3", "--checkpoint", "initial", "b.wav"])
    assert (parsed.files, parsed.overrides, parsed.checkpoint) == (["a.wav", "b.wav"], ["steps=3"], "initial")


def test_a_preempted_run_has_an_exit_status_of_its_own(toy, monkeypatch):
    fit = run._fit

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        fit(*arguments)

    monkeypatch.setattr(run, "_fit", interrupted)
    with pytest.raises(SystemExit) as status:
        command.main(["train", "toy"])
    assert status.value.code == 75


@pytest.mark.parametrize("line", ["train toy --speed 3", "train toy stray", "predict toy", "walk"])
def test_usage(toy, capsys, line):
    with pytest.raises(SystemExit) as status:
        command.main(line.split())
    assert status.value.code == 2 and "usage: tfhf" in capsys.readouterr().err


def test_a_bug_keeps_its_trace(toy, monkeypatch):
    monkeypatch.setattr(toy_task.ToyTask, "build_model", lambda self: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        command.main(["train", "toy"])
