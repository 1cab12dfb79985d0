"""What a checkpoint's folder states of itself, and whether it is so: names, state.json, sizes, checksums.

Everything in it is checked before it is used: a folder may have been copied by half, edited, or made by somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
from typing import Iterator

from tfhf.data import storage

FORMAT = "tfhf-checkpoint-2"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
AVERAGES, HISTORY = "averages.safetensors", "history.jsonl"
FILES = frozenset((WEIGHTS, OPTIMIZER, AVERAGES, HISTORY, STATE))
FOLDER = re.compile(r"step-([0-9]{8,})")
_MAX_STATE_BYTES = 1 << 20
# A file that was written less than this before it was read may change again and keep its time stamp.
_SETTLED_S = 0.1
_MAX_HASHES = 10_000
# Version of a file that was read (`storage.version`) -> its SHA-256: pruning looks at the same ones after every save.
_hashes: dict[tuple, str] = {}


class CheckpointError(ValueError):
    """A checkpoint that is torn or belongs to another model; the message names the file and the tensor."""


def checkpoint_problem(folder: str) -> str:
    """What is wrong with a checkpoint, or "" if its files have the sizes and checksums that its state.json states."""
    return problem_of(folder, step_of(folder))


def problem_of(folder: str, step: int, recalled: bool = False) -> str:
    """`checkpoint_problem` of a folder of any name that should hold `step`.

    `recalled`: a file that this process has read, and that has not changed since, is not read again.
    """
    try:
        state = read_state(folder, step)
        for name in state["files"]:
            check_file(storage.join(folder, name), state, recalled=recalled)
    except CheckpointError as error:
        return str(error).removeprefix(f"{folder}/")
    return ""


def read_state(folder: str, step: int | None = None) -> dict:
    """The content of a checkpoint's state.json: format, step, eval_loss, data, files.

    Args:
        step: what it must be of; None: what the folder's name says.

    Raises:
        CheckpointError: it is missing, damaged, of another step, or names files that no checkpoint has.
    """
    path = storage.join(folder, STATE)
    with damage_of(path):
        size = storage.size(path)
        if size > _MAX_STATE_BYTES:
            raise CheckpointError(f"{path} has {size} bytes, expected {_MAX_STATE_BYTES} at most")
        data = storage.read_bytes(path)
    try:
        text = data.decode("utf-8")
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = state.get("format") if isinstance(state, dict) else state
        raise CheckpointError(f"{path} has format {short(got)}, expected {FORMAT}")
    claimed = state.pop("checksum", None)
    if text != state_text(state):
        raise CheckpointError(f"{path} is damaged or edited (checksum {short(claimed)} does not match its content)")
    _check_state(state, path)
    if state["step"] != (step_of(folder) if step is None else step):
        raise CheckpointError(f"{path} is of step {state['step']}: the folder was renamed")
    return state


def _check_state(state: dict, path: str) -> None:
    """CheckpointError unless the state has what every reader of it takes for granted."""
    kinds = {"step": int, "files": dict, "data": (dict, type(None)), "eval_loss": (int, float, type(None))}
    for key, kind in kinds.items():
        if key not in state or not isinstance(state[key], kind) or isinstance(state[key], bool):
            raise CheckpointError(f"{path} has {key} {short(state.get(key))}, which no checkpoint has")
    classes = (state["data"] or {}).get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise CheckpointError(f"{path} has the classes {short(classes)}, expected a list of names")
    for name, facts in state["files"].items():
        if name not in FILES - {STATE}:
            raise CheckpointError(f"{path} names a file {short(name)}, expected some of {', '.join(sorted(FILES))}")
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts):
            raise CheckpointError(f"{path} has {short(facts)} for {name}, expected its bytes and sha256")
    if not {WEIGHTS, HISTORY} <= set(state["files"]):
        raise CheckpointError(f"{path} names the files {sorted(state['files'])}, expected {WEIGHTS} and {HISTORY} "
                              "among them")


@contextlib.contextmanager
def damage_of(path: str) -> Iterator[None]:
    """A file that is missing, is none, or that the disk cannot read is damage of the checkpoint: CheckpointError.

    Others, such as a missing permission or a bucket without an answer, say nothing of it.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder, expected a file") from error
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ELOOP):
            raise
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def short(value) -> str:
    """A value of a file, cut to what a message can hold."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def state_text(state: dict) -> str:
    """A state (without its checksum) -> the text of state.json, which is the only one that is taken for sound."""
    checksum = hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8")).hexdigest()
    return json.dumps({**state, "checksum": checksum}, indent=2) + "\n"


def step_of(folder: str) -> int:
    """The step that a checkpoint folder's name states."""
    match = FOLDER.fullmatch(os.path.basename(folder.rstrip("/")))
    if not match:
        raise CheckpointError(f"{folder}: expected a folder named step-NNNNNNNN")
    return int(match[1])


def check_file(path: str, state: dict, local: str | None = None, recalled: bool = False) -> None:
    """Raise CheckpointError unless the file (or its local copy) is what state.json states."""
    name, read = os.path.basename(path), local or path
    expected = state["files"][name]
    with damage_of(path):
        size = storage.size(read)
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, expected {expected['bytes']}")
        if sha256_of(read, recalled) != expected["sha256"]:
            raise CheckpointError(f"{path} has another SHA-256 than {STATE} states")


def sha256_of(path: str, recalled: bool = False) -> str:
    """SHA-256 of a file. `recalled`: as it was when this process last read it, if the file has not changed since."""
    version = storage.version(path)
    if recalled and version in _hashes:
        return _hashes[version]
    digest = hashlib.sha256()
    for chunk in storage.read_chunks(path):
        digest.update(chunk)
    if storage.is_remote(path) or time.time() - os.stat(path).st_mtime > _SETTLED_S:
        remember(version, digest.hexdigest())
    return digest.hexdigest()


def remember(version: tuple, digest: str) -> None:
    """Note the SHA-256 of a version of a file."""
    if len(_hashes) >= _MAX_HASHES:
        _hashes.clear()
    _hashes[version] = digest


def read_history(folder: str) -> list[dict]:
    """The lines of the run's history up to a checkpoint's step; CheckpointError when they are damaged."""
    path = storage.join(folder, HISTORY)
    lines = []
    with local_copy(path) as local:
        check_file(path, read_state(folder), local)
        with open(local, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise CheckpointError(f"{path}, line {number}: not JSON ({error})") from error
                if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                    raise CheckpointError(f"{path}, line {number}: {short(line)}, expected an object with a step")
                lines.append(line)
    return lines


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A context that gives a local file with the content of `path`; a missing one leaves no copy."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        with contextlib.suppress(FileNotFoundError):
            storage.download(path, local)
        yield local
