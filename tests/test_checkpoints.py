"""Checkpoints: exact, atomic, verified; what does not fit is named."""

import errno
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf import checkpoint_state, checkpoints
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
from tfhf.data.storage import StorageError


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


def steps_in(folder):
    return [step for step, _ in list_checkpoints(str(folder))]


DAMAGES = [
    lambda folder: flip(folder / "weights.safetensors"),
    lambda folder: (folder / "weights.safetensors").write_bytes(b""),
    lambda folder: (folder / "history.jsonl").unlink(),
    lambda folder: (folder / "state.json").write_text("{"),
    lambda folder: (folder / "state.json").unlink(),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("keep", [1, 3])
def test_torn_ones_do_not_push_out_whole_ones(tmp_path, damage, keep):
    """A run goes on from before some torn checkpoints, and is killed again before it has come by them."""
    model, _ = make_model()
    for step in (100, 200, 300, 400):
        save_checkpoint(str(tmp_path), step, model)
    for step in (200, 300, 400):
        damage(tmp_path / f"checkpoints/step-{step:08d}")
    written = save_checkpoint(str(tmp_path), 150, model, keep=keep)
    assert latest_checkpoint(str(tmp_path)) == (150, written)
    assert steps_in(tmp_path) == ([100] if keep > 1 else []) + [150, 200, 300, 400]
    for step in (200, 300, 400):   # the run comes by, and all is as if nothing had been
        save_checkpoint(str(tmp_path), step, model, keep=keep)
    assert steps_in(tmp_path) == [200, 300, 400][-keep:]
    assert not checkpoints.checkpoint_problem(latest_checkpoint(str(tmp_path))[1])


def test_a_torn_one_between_whole_ones_is_not_counted_and_goes_in_its_turn(tmp_path):
    model, _ = make_model()
    for step in (1, 2, 3):
        save_checkpoint(str(tmp_path), step, model)
    flip(tmp_path / "checkpoints/step-00000002/weights.safetensors")
    save_checkpoint(str(tmp_path), 4, model, keep=3)
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    save_checkpoint(str(tmp_path), 5, model, keep=3)
    assert steps_in(tmp_path) == [3, 4, 5]


def test_a_torn_best_does_not_push_out_a_whole_one(tmp_path):
    model, _ = make_model()
    write_with_losses(str(tmp_path), model, {1: 0.5, 2: 0.1, 3: 0.9})
    flip(tmp_path / "checkpoints/step-00000002/weights.safetensors")
    write_with_losses(str(tmp_path), model, {4: 0.8, 5: 0.7}, keep=1, keep_best=1)
    assert best_checkpoint(str(tmp_path))[0] == 1
    assert 1 in steps_in(tmp_path) and latest_checkpoint(str(tmp_path))[0] == 5


def test_a_file_that_changes_after_it_was_counted_is_read_again(tmp_path):
    model, _ = make_model()
    for step in (1, 2, 3):
        save_checkpoint(str(tmp_path), step, model, keep=2)
    path = tmp_path / "checkpoints/step-00000003/weights.safetensors"
    os.utime(path, ns=(0, 0))   # long settled, so that its SHA-256 is remembered
    save_checkpoint(str(tmp_path), 4, model, keep=2)
    assert steps_in(tmp_path) == [3, 4]
    flip(path)
    save_checkpoint(str(tmp_path), 5, model, keep=2)
    assert steps_in(tmp_path) == [4, 5]


STRANGERS = {
    "a file": lambda path: path.write_text("my notes"),
    "an empty folder": lambda path: path.mkdir(),
    "a folder of notes": lambda path: (path.mkdir(), (path / "notes.txt").write_text("my notes")),
    "a link into nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
}


@pytest.mark.parametrize("make", STRANGERS.values(), ids=list(STRANGERS))
@pytest.mark.parametrize("name", ["step-00000100", "step-00000900", "step-000000100", "step-x", "step-٠٠٠٠٠١٠٠"])
def test_what_others_put_beside_checkpoints_does_no_harm(tmp_path, make, name, capsys):
    model, _ = make_model()
    save_checkpoint(str(tmp_path), 50, model)
    stranger = tmp_path / "checkpoints" / name
    make(stranger)
    assert latest_checkpoint(str(tmp_path))[0] == 50
    checkpoints.remove_unfinished(str(tmp_path))
    for step in (100, 200):
        save_checkpoint(str(tmp_path), step, model, keep=1)
    assert latest_checkpoint(str(tmp_path))[0] == 200 and steps_in(tmp_path) == [200]
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()} - {"step-00000200"}
    if name != "step-00000100":
        assert left == {name}
    elif not left:   # an empty folder gives way
        assert make is STRANGERS["an empty folder"]
    else:
        assert left == {"step-00000100.aside-1"}
        assert "step-00000100 was no checkpoint; it is now" in capsys.readouterr().err


def test_a_file_of_others_in_a_checkpoint_outlives_it(tmp_path):
    model, _ = make_model()
    save_checkpoint(str(tmp_path), 1, model)
    notes = tmp_path / "checkpoints/step-00000001/notes.txt"
    notes.write_text("my notes")
    assert latest_checkpoint(str(tmp_path))[0] == 1
    save_checkpoint(str(tmp_path), 2, model, keep=1)
    assert steps_in(tmp_path) == [2] and notes.read_text() == "my notes"
    assert sorted(path.name for path in notes.parent.iterdir()) == ["notes.txt"]


def forge(folder, **changes):
    """state.json with other content and a checksum that fits it."""
    path = folder / "state.json"
    state = json.loads(path.read_text())
    state.pop("checksum")
    state.update(changes)
    path.write_text(checkpoint_state.state_text({key: value for key, value in state.items() if value != "absent"}))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"files": {"../../../secret": {"bytes": 1, "sha256": "0"}}}, "names a file '../../../secret'"),
        ({"files": {"/etc/hostname": {"bytes": 1, "sha256": "0"}}}, "names a file '/etc/hostname'"),
        ({"files": {}}, "expected weights.safetensors and history.jsonl among them"),
        ({"files": {"weights.safetensors": 5, "history.jsonl": 6}}, "expected its bytes and sha256"),
        ({"files": ["weights.safetensors"]}, "has files ['weights.safetensors']"),
        ({"files": "absent"}, "has files None"),
        ({"step": True}, "has step True"),
        ({"step": "1"}, "has step '1'"),
        ({"data": [1]}, "has data [1]"),
        ({"eval_loss": "0.1"}, "has eval_loss '0.1'"),
    ],
)
def test_a_state_of_another_make_is_named(tmp_path, changes, words, capsys):
    model, _ = make_model()
    save_checkpoint(str(tmp_path), 1, model)
    forge(tmp_path / "checkpoints/step-00000001", **changes)
    assert latest_checkpoint(str(tmp_path)) is None and best_checkpoint(str(tmp_path)) is None
    assert words in capsys.readouterr().err
    save_checkpoint(str(tmp_path), 2, model, keep=1)
    assert latest_checkpoint(str(tmp_path))[0] == 2


@pytest.mark.parametrize(
    "content, words",
    [
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b" " * (2 << 20), "has 2097152 bytes, expected 1048576 at most"),
        (b'{"format": "' + b"x" * 10_000 + b'"}', "…, expected tfhf-checkpoint-2"),
        (b"\xff\xfe", "is not JSON"),
        (None, "is a folder, expected a file"),
    ],
)
def test_a_state_that_is_none(tmp_path, content, words):
    model, _ = make_model()
    folder = save_checkpoint(str(tmp_path), 1, model)
    path = tmp_path / "checkpoints/step-00000001/state.json"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    problem = checkpoints.checkpoint_problem(folder)
    assert words in problem and len(problem) < 300


@pytest.mark.parametrize("text", ['{"step": 1, "lo', "[1]\n", '{"loss": 1.0}\n', "[" * 100_000 + "\n", "\n"])
def test_a_history_of_another_make_is_named(tmp_path, text):
    model, _ = make_model()
    folder = save_checkpoint(str(tmp_path), 1, model)
    path = tmp_path / "checkpoints/step-00000001"
    (path / "history.jsonl").write_text(text)
    files = json.loads((path / "state.json").read_text())["files"]
    digest = checkpoint_state.sha256_of(str(path / "history.jsonl"))
    forge(path, files={**files, "history.jsonl": {"bytes": len(text), "sha256": digest}})
    with pytest.raises(CheckpointError, match="history.jsonl, line 1: "):
        read_history(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}"])
def test_weights_of_another_make_are_named(tmp_path, content):
    model, _ = make_model()
    folder = save_checkpoint(str(tmp_path), 1, model)
    path = tmp_path / "checkpoints/step-00000001"
    (path / "weights.safetensors").write_bytes(content)
    files = json.loads((path / "state.json").read_text())["files"]
    digest = checkpoint_state.sha256_of(str(path / "weights.safetensors"))
    forge(path, files={**files, "weights.safetensors": {"bytes": len(content), "sha256": digest}})
    with pytest.raises(CheckpointError, match="weights.safetensors: not a safetensors file"):
        load_checkpoint(folder, model)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("function", ["fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_is_one_line_and_nothing_is_lost(tmp_path, monkeypatch, number, function):
    model, _ = make_model()
    save_checkpoint(str(tmp_path), 1, model, keep=1)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(StorageError) as error:
            save_checkpoint(str(tmp_path), 2, model, keep=1)
    assert str(tmp_path) in str(error.value) and os.strerror(number) in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith("Then start the same command again")
    assert latest_checkpoint(str(tmp_path))[0] == 1
    save_checkpoint(str(tmp_path), 2, model, keep=1)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000002"]


def test_a_limit_on_the_size_of_files(tmp_path):
    """Of the system itself, which safetensors meets: EFBIG comes as the text of an error of its own."""
    code = """
import resource, signal, sys
import numpy as np
from tfhf.checkpoints import Snapshot, write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for step, count in ((1, 10), (2, 100_000)):
    write_checkpoint(sys.argv[1], Snapshot(step, {"weights.safetensors": {"w": np.ones(count, "float32")}}), keep=1)
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert "StorageError: " in last and "File too large" in last and "ulimit -f" in last, result.stderr
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]


def test_the_writer_says_at_once_what_went_wrong(tmp_path, monkeypatch):
    model, _ = make_model()
    writer = CheckpointWriter(str(tmp_path))
    writer.check()

    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        writer.save(Snapshot.take(1, model))
        deadline = time.monotonic() + 60
        with pytest.raises(StorageError, match="No space left"):
            while time.monotonic() < deadline:
                writer.check()
                time.sleep(0.01)
