"""Checkpoints: everything a run needs to go on, written so that a torn one is never taken for whole.

    RUN/checkpoints/step-00000100/weights.safetensors     the model's variables, random states included
                                  optimizer.safetensors   the optimizer's variables, its step count included
                                  averages.safetensors    the weights with their running means, if the run keeps them
                                  history.jsonl           the run's history up to this step
                                  state.json              step, data position, eval_loss, sizes and SHA-256 of the files

A checkpoint is written into a temporary folder, read back and compared with its checksums, then renamed. On gs://,
where a folder cannot be renamed at once, the files go up first and state.json last: without it there is no checkpoint.
state.json carries its own checksum. Tensors are named by their position and path ("00012 encoder/conv1/kernel"): paths
alone are not unique in Keras.

`CheckpointWriter` does the writing in a thread: the run waits only while the values are copied from the device.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
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

from tfhf.data import storage
from tfhf.weights import are_left_out

FORMAT = "tfhf-checkpoint-2"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
AVERAGES, HISTORY = "averages.safetensors", "history.jsonl"
_FOLDER = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".writing-"


class CheckpointError(ValueError):
    """A checkpoint that is torn or belongs to another model; the message names the file and the tensor."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A copy, in the host's memory, of what a checkpoint holds.

    Attributes:
        step: number of finished training steps.
        tensors: file name -> {tensor name: array}.
        history: the lines of the run's history up to this step.
        data: the position in the data, for people and for the check on resume; JSON.
        frozen: digest of the weights that are not in it, see `saved_variables`; None: all are.
    """

    step: int
    tensors: dict[str, dict[str, np.ndarray]]
    history: tuple[dict, ...] = ()
    data: dict | None = None
    frozen: str | None = None

    @classmethod
    def take(cls, step: int, model, optimizer=None, averages=None, history: Sequence[dict] = (), data=None):
        """Copy the `variables` of the model and, if given, of the optimizer and the averages (in the model's order,
        `tfhf.train_steps.WeightAverages`). Later steps do not change the copy."""
        owners = {WEIGHTS: model, OPTIMIZER: optimizer, AVERAGES: averages}
        tensors = {name: _named_values(saved_variables(owner)) for name, owner in owners.items() if owner is not None}
        return cls(step, tensors, tuple(history), data, getattr(model, "frozen_digest", None))

    @property
    def eval_loss(self) -> float | None:
        """The evaluation loss at this very step, or None."""
        return next((line["eval_loss"] for line in self.history if line["step"] == self.step and "eval_loss" in line),
                    None)


def saved_variables(model) -> list:
    """The variables of a model that a checkpoint holds: all, but for a model with an attribute `saved_variables`.

    Such a model, one with an adapter (tfhf/peft), has its other weights from elsewhere; they do not change, and their
    `frozen_digest` is in the checkpoint, which fits no model with other ones.
    """
    return getattr(model, "saved_variables", model.variables)


def save_checkpoint(run_folder: str, step: int, model, optimizer=None, keep: int = 0, averages=None) -> str:
    """Take a snapshot and write it at once; see `Snapshot.take` and `write_checkpoint`."""
    return write_checkpoint(run_folder, Snapshot.take(step, model, optimizer, averages), keep)


def write_checkpoint(run_folder: str, snapshot: Snapshot, keep: int = 0, keep_best: int = 0) -> str:
    """Write a checkpoint and return its folder.

    Args:
        run_folder: the run's folder, local or gs://.
        keep: how many of the newest checkpoints to leave; 0: all.
        keep_best: how many to leave besides, of those with the least eval_loss.

    Raises:
        CheckpointError: what was written does not read back as it should (a full or failing disk).
    """
    parent = _join(run_folder, "checkpoints")
    folder = _join(parent, f"step-{snapshot.step:08d}")
    remote = storage.is_remote(run_folder)
    storage.make_folder(parent)
    beside = _staging_folder(run_folder)
    os.makedirs(beside, exist_ok=True)
    staging = tempfile.mkdtemp(prefix=_UNFINISHED, dir=beside)
    try:
        lines = "".join(json.dumps(line) + "\n" for line in snapshot.history).encode("utf-8")
        _write(os.path.join(staging, HISTORY), lines)
        for name, tensors in snapshot.tensors.items():
            path = os.path.join(staging, name)
            safetensors.numpy.save_file(tensors, path)
            _sync(path)
        checksums = {}
        for name in [*snapshot.tensors, HISTORY]:
            path = os.path.join(staging, name)
            checksums[name] = {"bytes": os.path.getsize(path), "sha256": _sha256(path)}
        state = {"format": FORMAT, "step": snapshot.step, "eval_loss": snapshot.eval_loss, "data": snapshot.data,
                 "files": checksums, **({"frozen": snapshot.frozen} if snapshot.frozen else {})}
        _write(os.path.join(staging, STATE), _state_text(state).encode("utf-8"))
        _sync(staging)
        problem = _problem(staging, snapshot.step)
        if problem:
            raise CheckpointError(f"{folder}: written, but does not read back: {problem}")
        _publish(staging, folder, [*checksums, STATE], remote)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if keep:
        _prune(run_folder, keep, keep_best)
    return folder


class CheckpointWriter:
    """Writes one snapshot after the other in a thread of its own. An error of the thread is raised by the next call."""

    def __init__(self, run_folder: str, keep: int = 0, keep_best: int = 0):
        self._arguments = (keep, keep_best)
        self._run_folder = run_folder
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "tfhf-checkpoint")
        self._writing: concurrent.futures.Future | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot, once the one before it is written: at most two are in memory."""
        self.wait()
        self._writing = self._pool.submit(write_checkpoint, self._run_folder, snapshot, *self._arguments)

    def wait(self) -> None:
        """Come back when everything is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def list_checkpoints(run_folder: str) -> list[tuple[int, str]]:
    """(step, folder) of every checkpoint folder in the run, oldest first, whole or not."""
    parent = _join(run_folder, "checkpoints")
    matches = [_FOLDER.fullmatch(name) for name in storage.list_names(parent)]
    return sorted((int(match[1]), _join(parent, match[0])) for match in matches if match)


def latest_checkpoint(run_folder: str) -> tuple[int, str] | None:
    """(step, folder) of the newest whole checkpoint, or None; each torn one is passed over with a word on stderr."""
    for step, folder in reversed(list_checkpoints(run_folder)):
        problem = checkpoint_problem(folder)
        if not problem:
            return step, folder
        print(f"checkpoint {folder} is not whole and is passed over: {problem}", file=sys.stderr, flush=True)
    return None


def load_newest(run_folder: str, model) -> int:
    """`load_checkpoint` of the newest whole checkpoint of another run, to begin with its weights; returns its step.

    Within `tfhf.weights.without_weights`, as in preflight, the run need not be there: nothing is read, the step is 0.

    Raises:
        CheckpointError: there is none, or it does not fit the model.
    """
    if are_left_out():
        return 0
    found = latest_checkpoint(run_folder)
    if found is None:
        raise CheckpointError(f"{run_folder} holds no whole checkpoint, expected the folder of a run that has one")
    return load_checkpoint(found[1], model)


def best_checkpoint(run_folder: str) -> tuple[int, str] | None:
    """(step, folder) of the whole checkpoint with the least eval_loss at its very step, or None if none has one."""
    for _, step, folder in _by_eval_loss(run_folder):
        problem = checkpoint_problem(folder)
        if not problem:
            return step, folder
        print(f"checkpoint {folder} is not whole and is passed over: {problem}", file=sys.stderr, flush=True)
    return None


def checkpoint_problem(folder: str) -> str:
    """What is wrong with a checkpoint, or "" if its files have the sizes and checksums that its state.json tells."""
    return _problem(folder, _step_of(folder))


def _problem(folder: str, step: int) -> str:
    try:
        state = read_state(folder, step)
        for name in state["files"]:
            _check_file(_join(folder, name), state)
    except CheckpointError as error:
        return str(error).removeprefix(f"{folder}/")
    return ""


def read_state(folder: str, step: int | None = None) -> dict:
    """The content of a checkpoint's state.json: format, step, eval_loss, data, files.

    Args:
        step: what it must be of; None: what the folder's name says.

    Raises:
        CheckpointError: it is missing, damaged, or of another step.
    """
    path = _join(folder, STATE)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    try:
        text = data.decode("utf-8")
        state = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = state.get("format") if isinstance(state, dict) else state
        raise CheckpointError(f"{path} has format {got!r}, expected {FORMAT}")
    claimed = state.pop("checksum", None)
    if text != _state_text(state):
        raise CheckpointError(f"{path} is damaged or edited (checksum {claimed!r} does not match its content)")
    if state["step"] != (_step_of(folder) if step is None else step):
        raise CheckpointError(f"{path} is of step {state['step']}: the folder was renamed")
    return state


def read_history(folder: str) -> list[dict]:
    """The lines of the run's history up to a checkpoint's step; CheckpointError when they are damaged."""
    path = _join(folder, HISTORY)
    with _local_copy(path) as local:
        _check_file(path, read_state(folder), local)
        with open(local, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def load_checkpoint(folder: str, model, optimizer=None, averages=None, averaged: bool = True) -> int:
    """Put a checkpoint's values into the variables of `model` and, if given, `optimizer` and `averages`; returns its
    step.

    Nothing is assigned unless everything fits. Without an optimizer the model is not to be trained on: it gets the
    averaged weights where the checkpoint has them, unless `averaged` is false.

    Raises:
        CheckpointError: the checkpoint is torn, or a tensor is missing, left over or of another shape.
    """
    state = read_state(folder)
    wants_averages = optimizer is None and averaged and AVERAGES in state["files"]
    frozen = getattr(model, "frozen_digest", None)
    if state.get("frozen") != frozen:
        raise CheckpointError(f"{folder}: the model's frozen weights have the digest {frozen}, expected "
                              f"{state.get('frozen')}: what it holds was trained over other ones (None: it holds all)")
    jobs = [(AVERAGES if wants_averages else WEIGHTS, saved_variables(model))]
    jobs += [(name, owner.variables) for name, owner in ((OPTIMIZER, optimizer), (AVERAGES, averages))
             if owner is not None]
    values = []
    for name, variables in jobs:
        path = _join(folder, name)
        if name not in state["files"]:
            raise CheckpointError(f"{path}: missing; this checkpoint cannot be trained on (it may hold weights only)")
        values.append(_read_values(path, variables, state))
    for (_, variables), arrays in zip(jobs, values):
        for variable, array in zip(variables, arrays):
            variable.assign(array)
    return state["step"]


def remove_unfinished(run_folder: str) -> None:
    """Delete what a killed writer left: the temporary folders, and in a bucket checkpoints without a state.json."""
    beside = _staging_folder(run_folder)
    for name in storage.list_names(beside):
        if name.startswith(_UNFINISHED):
            shutil.rmtree(os.path.join(beside, name))
    if storage.is_remote(run_folder):
        for _, folder in list_checkpoints(run_folder):
            if not storage.exists(_join(folder, STATE)):
                storage.remove_folder(folder)


def _staging_folder(run_folder: str) -> str:
    """The local folder in which checkpoints are made: where they will lie, or one of this machine's for a bucket's."""
    if not storage.is_remote(run_folder):
        return _join(run_folder, "checkpoints")
    name = hashlib.sha256(run_folder.encode("utf-8")).hexdigest()[:16]
    return os.path.join(tempfile.gettempdir(), f"tfhf-checkpoints-{name}")


def _by_eval_loss(run_folder: str) -> list[tuple[float, int, str]]:
    """(eval_loss, step, folder) of the checkpoints that have one, the best first."""
    found = []
    for step, folder in list_checkpoints(run_folder):
        with contextlib.suppress(CheckpointError):  # torn; `latest_checkpoint` has its word on them
            eval_loss = read_state(folder)["eval_loss"]
            if eval_loss is not None:
                found.append((eval_loss, step, folder))
    return sorted(found)


def _prune(run_folder: str, keep: int, keep_best: int) -> None:
    checkpoints = list_checkpoints(run_folder)
    kept = {folder for _, folder in checkpoints[-keep:]}
    if keep_best:
        kept |= {folder for _, _, folder in _by_eval_loss(run_folder)[:keep_best]}
    for _, folder in checkpoints:
        if folder not in kept:
            _remove(folder)


def _remove(folder: str) -> None:
    """Delete a checkpoint so that what a kill leaves of it is known for what it is."""
    if storage.is_remote(folder):
        if storage.exists(_join(folder, STATE)):
            storage.remove(_join(folder, STATE))
        storage.remove_folder(folder)
        return
    unfinished = tempfile.mkdtemp(prefix=_UNFINISHED, dir=os.path.dirname(folder))
    os.rename(folder, os.path.join(unfinished, os.path.basename(folder)))
    shutil.rmtree(unfinished)


def _state_text(state: dict) -> str:
    """A state (without its checksum) -> the text of state.json, which is the only one that is taken for sound."""
    checksum = hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8")).hexdigest()
    return json.dumps({**state, "checksum": checksum}, indent=2) + "\n"


def _step_of(folder: str) -> int:
    match = _FOLDER.fullmatch(os.path.basename(folder.rstrip("/")))
    if not match:
        raise CheckpointError(f"{folder}: expected a folder named step-NNNNNNNN")
    return int(match[1])


def _check_file(path: str, state: dict, local: str | None = None) -> None:
    """Raise CheckpointError unless the file (or its local copy) is what state.json tells."""
    name, read = os.path.basename(path), local or path
    expected = state["files"][name]
    try:
        size = storage.size(read)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    if size != expected["bytes"]:
        raise CheckpointError(f"{path} has {size} bytes, expected {expected['bytes']}")
    if _sha256(read) != expected["sha256"]:
        raise CheckpointError(f"{path} has another SHA-256 than {STATE} tells")


def _named_values(variables: Sequence) -> dict[str, np.ndarray]:
    named = {}
    for index, variable in enumerate(variables):
        value = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
        named[f"{index:05d} {variable.path}"] = np.ascontiguousarray(value).reshape(value.shape)
    return named


def _read_values(path: str, variables: Sequence, state: dict) -> list[np.ndarray]:
    """The file's tensors in the order of `variables`, checked one by one."""
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(_local_copy(path))
        _check_file(path, state, local)
        tensors = stack.enter_context(safetensors.safe_open(local, framework="np"))
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
    if storage.exists(folder):
        _remove(folder)  # torn, or of a run that was set back to an older step
    if not remote:
        os.rename(staging, folder)
        _sync(os.path.dirname(folder))
        return
    for part in (names[:-1], names[-1:]):  # the last one marks the others as complete
        storage.upload({os.path.join(staging, name): _join(folder, name) for name in part})


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
    _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    for chunk in storage.read_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        with contextlib.suppress(FileNotFoundError):
            storage.download(path, local)
        yield local


def _join(*parts: str) -> str:
    return "/".join(str(part).rstrip("/") for part in parts)
