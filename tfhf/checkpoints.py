"""Checkpoints: everything a run needs to go on, written so that a torn one is never taken for whole.

    RUN/checkpoints/step-00000100/weights.safetensors     the model's variables, random states included
                                  optimizer.safetensors   the optimizer's variables, its step count included
                                  state.json              step, format, sizes and SHA-256 of the files above

A checkpoint is written into a temporary folder, read back and compared with its checksums, then renamed. On gs://,
where a folder cannot be renamed at once, the files go up first and state.json last: without it there is no checkpoint.
Tensors are named by their position and path ("00012 encoder/conv1/kernel"): paths alone are not unique in Keras.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from typing import Iterator, Sequence

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from tfhf.data import storage

FORMAT = "tfhf-checkpoint-1"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_FOLDER = re.compile(r"step-(\d{8,})")
_CHUNK = 16 * 1024 * 1024


class CheckpointError(ValueError):
    """A checkpoint that is torn or belongs to another model; the message names the file and the tensor."""


def save_checkpoint(run_folder: str, step: int, model, optimizer=None, keep: int = 0) -> str:
    """Write the checkpoint of `step` and return its folder.

    Args:
        run_folder: the run's folder, local or gs://.
        step: number of finished training steps.
        model: its `variables` are saved.
        optimizer: its `variables` are saved, if given.
        keep: how many of the newest checkpoints to leave; 0: all.

    Raises:
        CheckpointError: what was written does not read back as it should (a full or failing disk).
    """
    parent = _join(run_folder, "checkpoints")
    folder = _join(parent, f"step-{step:08d}")
    remote = storage.is_remote(run_folder)
    tf.io.gfile.makedirs(parent)
    staging = tempfile.mkdtemp(prefix=".writing-", dir=None if remote else parent)
    try:
        files = {WEIGHTS: model.variables}
        if optimizer is not None:
            files[OPTIMIZER] = optimizer.variables
        checksums = {}
        for name, variables in files.items():
            path = os.path.join(staging, name)
            safetensors.numpy.save_file(_named_values(variables), path)
            _sync(path)
            checksums[name] = {"bytes": os.path.getsize(path), "sha256": _sha256(path)}
        state = {"format": FORMAT, "step": step, "files": checksums}
        with open(os.path.join(staging, STATE), "w", encoding="utf-8") as file:
            json.dump(state, file, indent=2)
        _sync(os.path.join(staging, STATE))
        problem = checkpoint_problem(staging)
        if problem:
            raise CheckpointError(f"{folder}: written, but does not read back: {problem}")
        _publish(staging, folder, list(files) + [STATE], remote)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if keep:
        for old in [path for _, path in list_checkpoints(run_folder)][:-keep]:
            tf.io.gfile.rmtree(old)
    return folder


def list_checkpoints(run_folder: str) -> list[tuple[int, str]]:
    """(step, folder) of every checkpoint folder in the run, oldest first, whole or not."""
    parent = _join(run_folder, "checkpoints")
    if not tf.io.gfile.isdir(parent):
        return []
    matches = [_FOLDER.fullmatch(name.rstrip("/")) for name in tf.io.gfile.listdir(parent)]
    return sorted((int(match[1]), _join(parent, match[0])) for match in matches if match)


def latest_checkpoint(run_folder: str) -> tuple[int, str] | None:
    """(step, folder) of the newest whole checkpoint, or None; each torn one is passed over with a word on stderr."""
    for step, folder in reversed(list_checkpoints(run_folder)):
        problem = checkpoint_problem(folder)
        if not problem:
            return step, folder
        print(f"checkpoint {folder} is not whole and is passed over: {problem}", file=sys.stderr, flush=True)
    return None


def checkpoint_problem(folder: str) -> str:
    """What is wrong with a checkpoint, or "" if its files have the sizes and checksums that its state.json tells."""
    path = _join(folder, STATE)
    if not tf.io.gfile.exists(path):
        return f"{STATE} is missing"
    with tf.io.gfile.GFile(path, "r") as file:
        text = file.read()
    try:
        state = json.loads(text)
    except json.JSONDecodeError as error:
        return f"{STATE} is not JSON ({error})"
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"{STATE} has format {state.get('format') if isinstance(state, dict) else state!r}, expected {FORMAT}"
    for name, expected in state["files"].items():
        path = _join(folder, name)
        if not tf.io.gfile.exists(path):
            return f"{name} is missing"
        size = tf.io.gfile.stat(path).length
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, expected {expected['bytes']}"
        if _sha256(path) != expected["sha256"]:
            return f"{name} has another SHA-256 than {STATE} tells"
    return ""


def load_checkpoint(folder: str, model, optimizer=None) -> int:
    """Put a checkpoint's values into the variables of `model` and, if given, `optimizer`; returns its step.

    Nothing is assigned unless everything fits.

    Raises:
        CheckpointError: the checkpoint is torn, or a tensor is missing, left over or of another shape.
    """
    problem = checkpoint_problem(folder)
    if problem:
        raise CheckpointError(f"{folder}: {problem}")
    jobs = [(WEIGHTS, model.variables)] + ([(OPTIMIZER, optimizer.variables)] if optimizer is not None else [])
    values = []
    for name, variables in jobs:
        path = _join(folder, name)
        if not tf.io.gfile.exists(path):
            raise CheckpointError(f"{path}: missing; this checkpoint holds weights only and cannot be trained on")
        values.append(_read_values(path, variables))
    for (_, variables), arrays in zip(jobs, values):
        for variable, array in zip(variables, arrays):
            variable.assign(array)
    with tf.io.gfile.GFile(_join(folder, STATE), "r") as file:
        return int(json.loads(file.read())["step"])


def remove_unfinished(run_folder: str) -> None:
    """Delete what a killed writer left beside the checkpoints."""
    parent = _join(run_folder, "checkpoints")
    if storage.is_remote(run_folder) or not os.path.isdir(parent):
        return
    for name in os.listdir(parent):
        if name.startswith(".writing-"):
            shutil.rmtree(os.path.join(parent, name))


def _named_values(variables: Sequence) -> dict[str, np.ndarray]:
    named = {}
    for index, variable in enumerate(variables):
        value = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
        named[f"{index:05d} {variable.path}"] = np.ascontiguousarray(value).reshape(value.shape)
    return named


def _read_values(path: str, variables: Sequence) -> list[np.ndarray]:
    """The file's tensors in the order of `variables`, checked one by one."""
    with _local_copy(path) as local, safetensors.safe_open(local, framework="np") as tensors:
        saved = sorted(tensors.keys())
        wanted = [variable.path for variable in variables]
        have = [name.split(" ", 1)[1] for name in saved]
        if [_without_counters(name) for name in have] != [_without_counters(name) for name in wanted]:
            missing = sorted({_without_counters(n) for n in wanted} - {_without_counters(n) for n in have})
            extra = sorted({_without_counters(n) for n in have} - {_without_counters(n) for n in wanted})
            raise CheckpointError(
                f"{path}: got {len(have)} tensors, the model has {len(wanted)}; "
                f"missing in the file: {_some(missing)}; not in the model: {_some(extra)}"
                + ("" if missing or extra else "; the same names in another order or number")
            )
        arrays = []
        for name, variable in zip(saved, variables):
            array = tensors.get_tensor(name)
            if tuple(array.shape) != tuple(variable.shape):
                raise CheckpointError(
                    f"{path}: tensor {name!r} has shape {tuple(array.shape)}, expected {tuple(variable.shape)}"
                )
            arrays.append(array)
        return arrays


def _without_counters(path: str) -> str:
    # Keras numbers unnamed layers by how many were made in the process: dense_3 here may be dense_7 there.
    # The optimizer joins a path with underscores, so a counter may stand before one as well.
    return re.sub(r"_\d+(?=[/_]|$)", "", path)


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


def _publish(staging: str, folder: str, names: list[str], remote: bool) -> None:
    if tf.io.gfile.exists(folder):
        tf.io.gfile.rmtree(folder)  # torn, or of a run that was set back to an older step
    if not remote:
        os.rename(staging, folder)
        _sync(os.path.dirname(folder))
        return
    tf.io.gfile.makedirs(folder)
    for name in names:
        source, target = os.path.join(staging, name), _join(folder, name)
        tf.io.gfile.copy(source, target, overwrite=True)
        if tf.io.gfile.stat(target).length != os.path.getsize(source):
            raise CheckpointError(
                f"{target}: {tf.io.gfile.stat(target).length} bytes, expected {os.path.getsize(source)}"
            )


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        tf.io.gfile.copy(path, local)
        yield local


def _join(*parts: str) -> str:
    return "/".join(str(part).rstrip("/") for part in parts)
