"""Checkpoints: exact, atomic, verified; what does not fit is named."""

import json
import os

import keras
import numpy as np
import pytest

from tfhf import checkpoints
from tfhf.checkpoints import CheckpointError, latest_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint


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
        (lambda f: (f / "state.json").write_text('{"format": "tfhf-checkpoint-0"}'), "expected tfhf-checkpoint-1"),
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

    monkeypatch.setattr(checkpoints.json, "dump", full_disk)
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
