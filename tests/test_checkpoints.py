"""Checkpoints: exact, atomic, verified; what does not fit is named."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf import checkpoints
from tfhf.checkpoints import (
    CheckpointError,
    CheckpointWriter,
    Snapshot,
    best_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_history,
    read_state,
    save_checkpoint,
    write_checkpoint,
)


def make_model(width=4, extra=False):
    layers = [
        keras.Input((3,)),
        keras.layers.Dense(width),
        keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization(),
    ]
    model = keras.Sequential(layers + ([keras.layers.Dense(2)] if extra else []))
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    for index, variable in enumerate(model.variables + optimizer.variables):
        variable.assign(np.full(variable.shape, index + 1))
    return model, optimizer


def values_of(*owners):
    return [np.asarray(variable.numpy()) for owner in owners for variable in owner.variables]


def test_everything_comes_back(tmp_path):
    model, optimizer = make_model()
    folder = save_checkpoint(str(tmp_path), 7, model, optimizer)
    saved = values_of(model, optimizer)
    other_model, other_optimizer = make_model()  # its layers have other numbers in their names
    for variable in other_model.variables + other_optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    assert load_checkpoint(folder, other_model, other_optimizer) == 7
    for a, b in zip(saved, values_of(other_model, other_optimizer), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert any("seed_generator" in variable.path for variable in model.variables)


def test_the_newest_are_kept_and_nothing_else_is_left(tmp_path):
    model, optimizer = make_model()
    for step in (1, 2, 3, 12):
        save_checkpoint(str(tmp_path), step, model, optimizer, keep=2)
    assert [step for step, _ in list_checkpoints(str(tmp_path))] == [3, 12]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000003", "step-00000012"]


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / "weights.safetensors").write_bytes(b"x"), "weights.safetensors has 1 bytes, expected"),
        (lambda f: (f / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
        (lambda f: (f / "state.json").unlink(), "state.json is missing"),
        (lambda f: (f / "state.json").write_text('{"format": '), "state.json is not JSON"),
        (lambda f: (f / "state.json").write_text('{"format": "tfhf-checkpoint-1"}'), "expected tfhf-checkpoint-2"),
        (lambda f: flip(f / "weights.safetensors"), "another SHA-256"),
    ],
)
def test_a_torn_one_is_passed_over(tmp_path, capsys, damage, words):
    model, optimizer = make_model()
    first = save_checkpoint(str(tmp_path), 1, model, optimizer)
    second = save_checkpoint(str(tmp_path), 2, model, optimizer)
    damage(tmp_path / "checkpoints/step-00000002")
    assert latest_checkpoint(str(tmp_path)) == (1, first)
    printed = capsys.readouterr().err
    assert "passed over" in printed and "step-00000002" in printed and words in printed
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(second, model, optimizer)
    assert words in str(error.value)
    save_checkpoint(str(tmp_path), 2, model, optimizer)  # the run comes by again and replaces it
    assert latest_checkpoint(str(tmp_path)) == (2, second)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    model, optimizer = make_model()
    folder = save_checkpoint(str(tmp_path), 1, model, optimizer)
    for other, words in (
        (make_model(width=5), ["kernel", "(3, 4)", "(3, 5)"]),
        (make_model(extra=True), ["missing in the file", "got 7 tensors, the model has 9"]),
    ):
        before = values_of(*other)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(folder, *other)
        for word in words:
            assert word in str(error.value)
        for a, b in zip(before, values_of(*other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model, optimizer = make_model()
    save_checkpoint(str(tmp_path), 1, model, optimizer)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(str(tmp_path), 2, model, optimizer)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / "checkpoints/.writing-abc").mkdir(parents=True)
    assert list_checkpoints(str(tmp_path)) == []
    checkpoints.remove_unfinished(str(tmp_path))
    assert os.listdir(tmp_path / "checkpoints") == []
    assert latest_checkpoint(str(tmp_path / "none")) is None


def test_weights_only(tmp_path):
    model, optimizer = make_model()
    folder = save_checkpoint(str(tmp_path), 1, model)
    assert json.loads((tmp_path / "checkpoints/step-00000001/state.json").read_text())["step"] == 1
    with pytest.raises(CheckpointError, match="weights only"):
        load_checkpoint(folder, model, optimizer)


HISTORY = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}, {"step": 2, "eval_loss": 0.7}]


def test_history_and_data_position_come_back(tmp_path):
    model, optimizer = make_model()
    data = {"step": 2, "epoch": 0, "seed": 3, "fingerprint": "f", "count": 50}
    folder = write_checkpoint(str(tmp_path), Snapshot.take(2, model, optimizer, history=HISTORY, data=data))
    assert read_history(folder) == HISTORY
    state = read_state(folder)
    assert (state["step"], state["eval_loss"], state["data"]) == (2, 0.7, data)
    # An evaluation of an earlier step says nothing of these weights.
    assert Snapshot.take(3, model, history=HISTORY).eval_loss is None


def test_every_byte_of_a_checkpoint_counts(tmp_path):
    """Every byte of every file flipped, every length cut: named, and never loaded."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    snapshot = Snapshot.take(2, model, history=HISTORY, data={"fingerprint": "\u00e9"})
    folder = write_checkpoint(str(tmp_path), snapshot)
    count = 0
    for name in ("state.json", "weights.safetensors", "history.jsonl"):
        path = tmp_path / "checkpoints/step-00000002" / name
        whole = path.read_bytes()
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << (position % 8)
            for data in (bytes(flipped), whole[:position]):
                path.write_bytes(data)
                assert checkpoints.checkpoint_problem(folder).startswith(f"{name} "), (name, position, data)
                count += 1
            with pytest.raises(CheckpointError, match=name):
                (read_history if name == "history.jsonl" else lambda folder: load_checkpoint(folder, model))(folder)
        path.write_bytes(whole)
    assert checkpoints.checkpoint_problem(folder) == ""
    print(f"\n{count} damaged forms, each found and named")


def test_a_renamed_checkpoint_is_another_step(tmp_path, capsys):
    model, _ = make_model()
    save_checkpoint(str(tmp_path), 1, model)
    os.rename(tmp_path / "checkpoints/step-00000001", tmp_path / "checkpoints/step-00000009")
    assert latest_checkpoint(str(tmp_path)) is None
    assert "state.json is of step 1: the folder was renamed" in capsys.readouterr().err


def write_with_losses(folder, model, losses, **options):
    for step, loss in losses.items():
        history = [{"step": step, "loss": 1.0}] + ([] if loss is None else [{"step": step, "eval_loss": loss}])
        write_checkpoint(folder, Snapshot.take(step, model, history=history), **options)


def test_the_newest_and_the_best_are_kept(tmp_path):
    model, _ = make_model()
    losses = {1: 0.9, 2: 0.2, 3: None, 4: 0.5, 5: 0.3, 6: 0.8, 7: None, 8: 0.7}
    write_with_losses(str(tmp_path), model, losses, keep=2, keep_best=2)
    assert [step for step, _ in list_checkpoints(str(tmp_path))] == [2, 5, 7, 8]
    assert best_checkpoint(str(tmp_path))[0] == 2


def test_a_torn_best_is_passed_over(tmp_path, capsys):
    model, _ = make_model()
    write_with_losses(str(tmp_path), model, {1: 0.9, 2: 0.2, 3: 0.5})
    flip(tmp_path / "checkpoints/step-00000002/weights.safetensors")
    assert best_checkpoint(str(tmp_path))[0] == 3
    assert "step-00000002 is not whole and is passed over" in capsys.readouterr().err
    assert best_checkpoint(str(tmp_path / "none")) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_writer_writes_what_was_there_when_it_was_asked(tmp_path, jit_compile):
    model, optimizer = make_model()

    @tf.function(jit_compile=jit_compile)
    def train():   # in place, as an optimizer's update may be
        for variable in model.variables + optimizer.variables:
            variable.value.assign_add(tf.ones_like(variable.value))

    saved = values_of(model, optimizer)
    writer = CheckpointWriter(str(tmp_path), keep=1)
    for step in (1, 2):
        writer.save(Snapshot.take(step, model, optimizer))
    train()   # while the thread is at work
    writer.wait()
    [(step, folder)] = list_checkpoints(str(tmp_path))
    assert load_checkpoint(folder, model, optimizer) == step == 2
    for a, b in zip(saved, values_of(model, optimizer), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_went_wrong_in_the_thread_is_told(tmp_path, monkeypatch):
    model, _ = make_model()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    writer = CheckpointWriter(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full_disk)
        writer.save(Snapshot.take(1, model))
        with pytest.raises(OSError, match="No space left"):
            writer.save(Snapshot.take(2, model))
    writer.save(Snapshot.take(3, model))
    writer.wait()
    assert [step for step, _ in list_checkpoints(str(tmp_path))] == [3]
