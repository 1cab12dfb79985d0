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
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from typing import Sequence

import numpy as np
import safetensors

from tfhf.checkpoint_state import (
    AVERAGES,
    FILES,
    FOLDER,
    FORMAT,
    HISTORY,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointError,
    check_file,
    checkpoint_problem,
    local_copy,
    problem_of,
    read_history,
    read_state,
    remember,
    sha256_of,
    state_text,
)
from tfhf.data import storage
from tfhf.weights import are_left_out

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "Snapshot",
    "best_checkpoint",
    "checkpoint_problem",
    "chosen_checkpoint",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "load_newest",
    "read_history",
    "read_state",
    "remove_unfinished",
    "save_checkpoint",
    "saved_variables",
    "write_checkpoint",
]

_UNFINISHED = ".writing-"



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
        keep: how many of the newest whole checkpoints to leave; 0: all.
        keep_best: how many whole ones to leave besides, of those with the least eval_loss.

    Raises:
        CheckpointError: what was written does not read back as it should (a failing disk).
        StorageError: it could not be written (a full disk, a read-only one, no permission); nothing is left of it.
    """
    folder = _join(run_folder, "checkpoints", f"step-{snapshot.step:08d}")
    with storage.writing(folder):
        _write_checkpoint(run_folder, folder, snapshot)
        if keep:
            _prune(run_folder, folder, keep, keep_best)
    return folder


def _write_checkpoint(run_folder: str, folder: str, snapshot: Snapshot) -> None:
    remote = storage.is_remote(run_folder)
    storage.make_folder(_join(run_folder, "checkpoints"))
    beside = _staging_folder(run_folder)
    os.makedirs(beside, exist_ok=True)
    staging = tempfile.mkdtemp(prefix=_UNFINISHED, dir=beside)
    try:
        lines = "".join(json.dumps(line) + "\n" for line in snapshot.history).encode("utf-8")
        _write(os.path.join(staging, HISTORY), lines)
        for name, tensors in snapshot.tensors.items():
            path = os.path.join(staging, name)
            storage.write_tensors(path, tensors)
            _sync(path)
        checksums = {}
        for name in [*snapshot.tensors, HISTORY]:
            path = os.path.join(staging, name)
            checksums[name] = {"bytes": os.path.getsize(path), "sha256": sha256_of(path)}
        state = {"format": FORMAT, "step": snapshot.step, "eval_loss": snapshot.eval_loss, "data": snapshot.data,
                 "files": checksums, **({"frozen": snapshot.frozen} if snapshot.frozen else {})}
        _write(os.path.join(staging, STATE), state_text(state).encode("utf-8"))
        _sync(staging)
        problem = problem_of(staging, snapshot.step)
        if problem:
            raise CheckpointError(f"{folder}: written, but does not read back: {problem}")
        _publish(staging, folder, [*checksums, STATE], remote)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if remote:   # an upload is compared with its checksum, so these need not be read again
        for name, expected in checksums.items():
            remember(storage.version(_join(folder, name)), expected["sha256"])


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

    def check(self) -> None:
        """Raise what went wrong in the thread, as soon as it is known; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Come back when everything is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def list_checkpoints(run_folder: str) -> list[tuple[int, str]]:
    """(step, folder) of every checkpoint folder in the run, oldest first, whole or not.

    A file of such a name, and a folder in which no file of a checkpoint lies, is somebody else's and not in the list.
    """
    parent = _join(run_folder, "checkpoints")
    found = []
    for name in storage.list_names(parent):
        match = FOLDER.fullmatch(name)
        if not match or name != f"step-{int(match[1]):08d}":   # step-000000100 would be step 100 a second time
            continue
        folder = _join(parent, name)
        if FILES.intersection(storage.list_names(folder)):
            found.append((int(match[1]), folder))
    return sorted(found)


def latest_checkpoint(run_folder: str) -> tuple[int, str] | None:
    """(step, folder) of the newest whole checkpoint, or None; each torn one is passed over and named on stderr."""
    return _first_whole(reversed(list_checkpoints(run_folder)))


def _first_whole(checkpoints) -> tuple[int, str] | None:
    for step, folder in checkpoints:
        problem = checkpoint_problem(folder)
        if not problem:
            return step, folder
        print(f"checkpoint {folder} is not whole and is passed over: {problem}", file=sys.stderr, flush=True)
    return None


def chosen_checkpoint(run_folder: str, checkpoint: str | int) -> str:
    """The folder of a run's checkpoint: "last", "best", or a step; CheckpointError where there is none."""
    if checkpoint in ("last", "best"):
        last = checkpoint == "last"
        found = (latest_checkpoint if last else best_checkpoint)(run_folder)
        if found is None:
            raise CheckpointError(
                f"{run_folder}: no whole checkpoint here" + ("" if last else " that was saved with its eval_loss")
                + "; train first" + ("" if last else " with evaluate_every and keep_best")
                + ", or ask for checkpoint 'initial'"
            )
        return found[1]
    known = dict(list_checkpoints(run_folder))
    if not str(checkpoint).isdecimal() or int(checkpoint) not in known:
        raise CheckpointError(
            f"{run_folder}: no checkpoint {checkpoint!r}; expected last, best, initial or one of the steps "
            f"{sorted(known)}"
        )
    return known[int(checkpoint)]


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
    return _first_whole((step, folder) for _, step, folder in _by_eval_loss(run_folder))


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
            storage.remove_folder(os.path.join(beside, name))
    if storage.is_remote(run_folder):
        for _, folder in list_checkpoints(run_folder):
            if STATE not in storage.list_names(folder):
                _remove(folder)


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
        with contextlib.suppress(CheckpointError):  # torn; `latest_checkpoint` names them
            eval_loss = read_state(folder)["eval_loss"]
            if eval_loss is not None:
                found.append((eval_loss, step, folder))
    return sorted(found)


def _prune(run_folder: str, written: str, keep: int, keep_best: int) -> None:
    """Delete the checkpoints beyond the `keep` newest whole ones and the `keep_best` best whole ones.

    `written`, which was compared with what is on the disk just now, stays. A torn one counts for nothing. It goes when
    it is older than all that stay, as it would if it were whole; a newer one stays, and is named when a run begins.
    """
    checkpoints = list_checkpoints(run_folder)
    if len(checkpoints) <= keep:
        return

    def whole(found, count):
        """Up to `count` whole checkpoints of (step, folder), in their order."""
        good = (one for one in found if one[1] == written or not problem_of(one[1], one[0], recalled=True))
        return list(itertools.islice(good, count))

    newest = whole(reversed(checkpoints), keep)
    best = whole(((step, folder) for _, step, folder in _by_eval_loss(run_folder)), keep_best)
    kept = {written, *(folder for _, folder in newest + best)}
    oldest = min(step for step, folder in newest)
    for step, folder in checkpoints:
        if folder not in kept and step < oldest:
            _remove(folder)


def _remove(folder: str) -> None:
    """Delete a checkpoint so that what a kill leaves of it is known for what it is. Files of others in it stay."""
    if storage.is_remote(folder):
        for name in sorted(FILES.intersection(storage.list_names(folder)), key=lambda name: name != STATE):
            storage.remove(_join(folder, name))
        if not storage.list_names(folder):
            storage.remove_folder(folder)   # the object that stands for the folder itself
        return
    if os.path.islink(folder):
        os.unlink(folder)
        return
    unfinished = tempfile.mkdtemp(prefix=_UNFINISHED, dir=os.path.dirname(folder))
    others = [name for name in os.listdir(folder) if name not in FILES]
    if others:
        _move_files(folder, unfinished)
    else:
        os.rename(folder, os.path.join(unfinished, os.path.basename(folder)))
    shutil.rmtree(unfinished)


def _move_files(folder: str, target: str) -> None:
    """state.json first: without it the others are no checkpoint."""
    for name in sorted(FILES.intersection(os.listdir(folder)), key=lambda name: name != STATE):
        os.rename(os.path.join(folder, name), os.path.join(target, name))


def _named_values(variables: Sequence) -> dict[str, np.ndarray]:
    named = {}
    for index, variable in enumerate(variables):
        value = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
        named[f"{index:05d} {variable.path}"] = np.ascontiguousarray(value).reshape(value.shape)
    return named


def _read_values(path: str, variables: Sequence, state: dict) -> list[np.ndarray]:
    """The file's tensors in the order of `variables`, checked one by one."""
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(local_copy(path))
        check_file(path, state, local)
        try:
            tensors = stack.enter_context(safetensors.safe_open(local, framework="np"))
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
        saved = sorted(tensors.keys())
        wanted = [variable.path for variable in variables]
        have = [name.partition(" ")[2] for name in saved]
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
    if remote or FILES.intersection(storage.list_names(folder)):
        _remove(folder)  # torn, or of a run that was set back to an older step
    if not remote:
        if os.path.lexists(folder) and not _is_empty_folder(folder):
            _put_aside(folder)
        os.rename(staging, folder)
        _sync(os.path.dirname(folder))
        return
    for part in (names[:-1], names[-1:]):  # the last one marks the others as complete
        storage.upload({os.path.join(staging, name): _join(folder, name) for name in part})


def _is_empty_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)


def _put_aside(path: str) -> None:
    """Another name for what is no checkpoint and stands in the place of one."""
    number = 1
    while os.path.lexists(f"{path}.aside-{number}"):
        number += 1
    os.rename(path, f"{path}.aside-{number}")
    print(f"{path} was no checkpoint; it is now {path}.aside-{number}", file=sys.stderr, flush=True)


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


def _join(*parts: str) -> str:
    return "/".join(str(part).rstrip("/") for part in parts)
