"""Weights in and out of Keras models: safetensors with Hugging Face's names and layouts, and CTranslate2's binary.

A model whose layers carry the reference's attribute names needs no table: the path of a variable is its name. Loading
is a bijection: every variable gets a tensor, every tensor a variable, every shape is checked, or nothing is loaded.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import re
import struct
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from tfhf.data import storage

_LEAVES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias",
           "moving_mean": "running_mean", "moving_variance": "running_var"}
# Keras keeps inputs before outputs and space before both, torch outputs first.
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
_FROM_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}


class WeightsError(ValueError):
    """A checkpoint does not fit the model: tensors missing, left over, of another shape, or the file is damaged."""


_STAND_IN = contextvars.ContextVar("stand_in", default=None)


@contextlib.contextmanager
def without_weights(stand_in):
    """A context in which `from_pretrained` reads configurations alone: no weight is read, models keep random ones.

    Args:
        stand_in: function of what is no folder, such as a hub id -> the folder to take for it, or None: then the hub
            is asked, for its JSON files only.
    """
    token = _STAND_IN.set(stand_in)
    try:
        yield
    finally:
        _STAND_IN.reset(token)


def say(line):
    """Prints what a reader of checkpoints took, or made, on its own account: nothing of that is done in silence."""
    print(line, file=sys.stderr)


_POINTER = b"version https://git-lfs.github.com/spec/"


def check_is_no_pointer(path):
    """WeightsError if the file is what Git LFS, or a web page, has in the place of a checkpoint."""
    with open(path, "rb") as file:
        begin = file.read(64)
    if begin.startswith(_POINTER):
        raise WeightsError(f"{path}: is a pointer of Git LFS, not the file itself; run `git lfs pull` where it came "
                           "from, or download the file.")
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{path}: is a web page, not a checkpoint; download the file itself.")


MOST_JSON_BYTES = 16_000_000   # of a config; id2label of 21,000 classes takes 1 MB


def read_json(path, most_bytes=MOST_JSON_BYTES) -> dict:
    """The object that a JSON file of a checkpoint holds.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is larger than `most_bytes`, no JSON, of absurd depth, or holds something else than an object.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > most_bytes:
        raise WeightsError(f"{path}: has {size:,} bytes; expected JSON of at most {most_bytes:,}.")
    check_is_no_pointer(path)
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: is not UTF-8 text at byte {error.start}; expected JSON.") from error
    except RecursionError as error:
        raise WeightsError(f"{path}: its JSON is nested too deeply.") from error
    except ValueError as error:   # no JSON, or an integer of thousands of digits
        raise WeightsError(f"{path}: is damaged, not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}; expected a JSON object.")
    return content


def are_left_out() -> bool:
    """Whether this runs within `without_weights`."""
    return _STAND_IN.get() is not None


def reference_name(variable) -> str:
    """A variable's name in a torch state dict: `m/encoder/layers_0/fc1/kernel` -> `encoder.layers.0.fc1.weight`."""
    parts = variable.path.split("/")[1:]
    parts[-1] = _LEAVES.get(parts[-1], parts[-1])
    return re.sub(r"(?<!\bln)_(\d+)(?=\.)", r".\1", ".".join(parts))  # GPT-2's ln_1 and ln_2 are no list


def _is_kernel(variable):
    return variable.path.endswith("/kernel")


def reference_weights(model) -> dict[str, np.ndarray]:
    """Every weight but integers (random states, step counters), by reference name, in the reference's layout."""
    return {name: _to_reference(variable) for name, variable in _variables(model).items()}


def reference_variables(model) -> dict:
    """{reference name: variable} of what `reference_weights` gives the values of."""
    return _variables(model)


def reference_value(variable) -> np.ndarray:
    """A variable's value in the reference's layout."""
    return _to_reference(variable)


def _to_reference(variable):
    value = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable.value)
    return np.ascontiguousarray(value.transpose(_TO_TORCH[value.ndim])) if _is_kernel(variable) else value


def _variables(model):
    named = {}
    for variable in model.weights:
        if str(variable.dtype).startswith(("int", "uint")):
            continue  # random states and step counters belong to a run, not to the checkpoint of a model
        name = reference_name(variable)
        if name in named:
            raise WeightsError(f"Two variables are called {name!r}: {named[name].path} and {variable.path}.")
        named[name] = variable
    return named


def assign_reference_weights(model, tensors, *, where, aliases=None):
    """Puts tensors in the reference's names and layouts into the model.

    Args:
        model: a built Keras model or layer.
        tensors: mapping from reference name to array.
        where: file or folder, for the errors.
        aliases: {name in the file: name it is tied to}; such a tensor may be there, and then must be equal.

    Raises:
        WeightsError: a tensor is missing, left over or has another shape. Nothing has been assigned then.
    """
    if are_left_out():
        return
    variables, aliases = _variables(model), aliases or {}
    missing = sorted(set(variables) - set(tensors))
    left_over = sorted(set(tensors) - set(variables) - set(aliases))
    if missing or left_over:
        raise WeightsError(
            f"{where}: the checkpoint does not fit {type(model).__name__}: "
            f"missing {len(missing)} tensors {_some(missing)}; left over {len(left_over)} {_some(left_over)}.")
    values, wrong = {}, []
    for name, variable in variables.items():
        value = tensors[name]
        if value.dtype.kind in "iubc":   # bfloat16 is of kind V
            raise WeightsError(f"{where}: {name} holds {value.dtype}; expected floats: is the checkpoint quantised?")
        if _is_kernel(variable) and value.ndim in _FROM_TORCH:
            value = value.transpose(_FROM_TORCH[value.ndim])
        if tuple(value.shape) != tuple(variable.shape):
            wrong.append(f"{name}: got {tuple(tensors[name].shape)}, expected {_reference_shape(variable)}")
        values[name] = value
    if wrong:
        raise WeightsError(f"{where}: {len(wrong)} tensors have the wrong shape: {_some(wrong)}.")
    for alias, target in aliases.items():
        if alias in tensors and not np.array_equal(tensors[alias], tensors[target]):
            raise WeightsError(f"{where}: {alias} differs from {target}, to which it is tied in this model.")
    for name, variable in variables.items():
        variable.assign(np.asarray(values[name], dtype="float32"))


def _reference_shape(variable):
    shape = tuple(variable.shape)
    return tuple(shape[i] for i in _TO_TORCH[len(shape)]) if _is_kernel(variable) else shape


def _some(names, most=5):
    names = list(names)
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"[{', '.join(map(str, names[:most]))}{more}]"


def read_safetensors(folder, stem="model") -> dict[str, np.ndarray]:
    """All tensors of `STEM.safetensors`, or of the shards that `STEM.safetensors.index.json` lists.

    Raises:
        FileNotFoundError: the folder has neither.
        WeightsError: a file is damaged, a shard is missing, or one lacks a tensor that the index promises.
    """
    if are_left_out():
        return {}
    return without_wrapping(read_shards(folder, f"{stem}.safetensors", _read_safetensors_file), folder)


def read_shards(folder, name, read_file) -> dict[str, np.ndarray]:
    """All tensors of the file NAME, or of the shards that NAME.index.json lists.

    Args:
        folder: has either.
        name: of the file.
        read_file: function of a path -> {name: tensor}.

    Raises:
        FileNotFoundError: the folder has neither.
        WeightsError: see `read_safetensors`.
    """
    folder = Path(folder)
    index = folder / f"{name}.index.json"
    if not index.exists():
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder}: has neither {name} nor {index.name}.")
        return read_file(folder / name)
    promised = read_json(index).get("weight_map")
    named = isinstance(promised, dict) and promised and all(isinstance(file, str) for file in promised.values())
    if not named:
        raise WeightsError(f"{index}: has no weight_map of tensors' names to files' names.")
    files = sorted(set(promised.values()))
    outside = [file for file in files if file != Path(file).name or file in ("", ".", "..")]
    if outside:
        raise WeightsError(f"{index}: names the file {outside[0]!r}; expected files in its own folder.")
    absent = [file for file in files if not (folder / file).exists()]
    if absent:
        raise WeightsError(f"{index}: {len(absent)} of {len(files)} shards are missing {_some(absent)}; was the folder "
                           "downloaded to its end?")
    tensors = {}
    for file in files:
        found = read_file(folder / file)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise WeightsError(f"{folder / file}: holds {twice[0]}, which another shard holds too.")
        tensors.update(found)
    absent = sorted(set(promised) - set(tensors))
    if absent:
        raise WeightsError(f"{index}: lists {len(absent)} tensors that the shards do not hold: {_some(absent)}.")
    return tensors


_KNOWN_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def _read_safetensors_file(path):
    from safetensors import SafetensorError, safe_open

    check_is_no_pointer(path)
    tensors = {}
    try:
        with safe_open(path, framework="np") as opened:
            for name in opened.keys():
                dtype = opened.get_slice(name).get_dtype()
                if dtype not in _KNOWN_DTYPES:
                    raise WeightsError(f"{path}: {name} is of dtype {dtype}, as quantised checkpoints have; expected "
                                       "F32, F16, BF16 or F64.")
                tensors[name] = opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: cannot be read as safetensors, {path.stat().st_size:,} bytes: {reason}; it is "
                           "damaged, or was not downloaded to its end.") from error
    return tensors


_WRAPPER = "module."   # torch's DataParallel puts it before every name


def without_wrapping(tensors, where):
    """{name: tensor} without the prefix `module.` that torch's data-parallel wrapper has put before all names."""
    if not tensors or not all(name.startswith(_WRAPPER) for name in tensors):
        return tensors
    say(f"{where}: took the prefix {_WRAPPER!r} off all {len(tensors)} names; the model was wrapped in DataParallel.")
    return {name.removeprefix(_WRAPPER): value for name, value in tensors.items()}


def write_safetensors(folder, tensors, max_shard_bytes=5_000_000_000, stem="model"):
    """Writes tensors as `STEM.safetensors`, or as numbered shards with an index beyond `max_shard_bytes`.

    Files are written under another name and renamed when whole.
    """
    folder = Path(folder)
    storage.make_folder(folder)
    shards, size = [{}], 0
    for name in sorted(tensors):
        if shards[-1] and size + tensors[name].nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += tensors[name].nbytes
    names = ([f"{stem}.safetensors"] if len(shards) == 1 else
             [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))])
    for file, shard in zip(names, shards):
        storage.write_tensors(folder / (file + ".partial"), shard, {"format": "pt"})
        (folder / (file + ".partial")).rename(folder / file)
    if len(shards) > 1:
        write_json(folder / f"{stem}.safetensors.index.json", {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {name: file for file, shard in zip(names, shards) for name in shard}})


def write_json(path, content):
    """Writes JSON under another name and renames it when whole."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with storage.writing(path):
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        partial.rename(path)


_CTRANSLATE2_DTYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"),
                       np.dtype(ml_dtypes.bfloat16))


def read_ctranslate2(path) -> tuple[str, dict[str, np.ndarray]]:
    """Reads a CTranslate2 `model.bin`, binary version 6.

    Returns:
        The model's kind (such as "WhisperSpec") and its tensors by name, aliases resolved.

    Raises:
        WeightsError: another version, a file that ends too early, or bytes after the end.
    """
    data, position = Path(path).read_bytes(), 0

    def take(count):
        nonlocal position
        if position + count > len(data):
            raise WeightsError(f"{path}: ends at byte {len(data)}, but {count} bytes were expected at {position}.")
        position += count
        return data[position - count:position]

    def number(kind):
        return struct.unpack("<" + kind, take(struct.calcsize(kind)))[0]

    def string():
        return take(number("H")).rstrip(b"\0").decode()

    version = number("I")
    if version != 6:
        raise WeightsError(f"{path}: CTranslate2 binary version {version}; expected 6.")
    kind, _, count = string(), number("I"), number("I")
    tensors = {}
    for _ in range(count):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        code = number("B")
        if code >= len(_CTRANSLATE2_DTYPES):
            raise WeightsError(f"{path}: {name} has type code {code}; known are 0 to {len(_CTRANSLATE2_DTYPES) - 1}.")
        dtype = _CTRANSLATE2_DTYPES[code]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        stated = number("I")
        if stated != size:
            raise WeightsError(f"{path}: {name} states {stated} bytes; its shape {shape} of {dtype} needs {size}.")
        tensors[name] = np.frombuffer(take(size), dtype).reshape(shape)
    for _ in range(number("I")):
        alias, target = string(), string()
        tensors[alias] = tensors[target]
    if position != len(data):
        raise WeightsError(f"{path}: {len(data) - position} bytes follow the end of the model.")
    return kind, tensors


def local_folder(path_or_hub_id, *, allow_patterns) -> Path:
    """The folder itself, or the hub snapshot of that name (needs huggingface_hub).

    Raises:
        FileNotFoundError: not a folder, and not of the form "owner/name".
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        return folder
    if (stand_in := _STAND_IN.get()) is not None:
        if (instead := stand_in(str(path_or_hub_id))) is not None:
            return Path(instead)
        allow_patterns = ("*.json",)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path_or_hub_id)):
        raise FileNotFoundError(f"{path_or_hub_id}: no such folder, and not a hub id of the form owner/name.")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(path_or_hub_id), allow_patterns=list(allow_patterns)))
