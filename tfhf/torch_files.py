"""Tensors out of torch's own files (.pth, .pt, .bin), without torch and without running what a pickle says.

Both layouts: the zip archive of torch 1.6 and later, and the row of pickles before it. `tfhf.torch_pickle` reads the
pickles; here tensors are made of what it found. Whatever a file states is compared with how long the file is before
anything is allocated for it. Tensors are views of their storages: none is copied, however many share one.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np

from tfhf import weights
from tfhf.torch_pickle import Call, Dict, Name, Reference, Source, kind_of, load, shown
from tfhf.weights import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C   # the first pickle of the older layout; then come its version and the machine's sizes
_VERSION = 1001
_STORAGES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Long": "<i8",
             "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "<c8",
             "ComplexDouble": "<c16"}
_DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": ml_dtypes.bfloat16, "int64": "<i8",
           "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "uint16": "<u2", "uint32": "<u4",
           "uint64": "<u8", "bool": "?", "complex64": "<c8", "complex128": "<c16",
           "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
_DTYPE_OF = {**{f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()},
             **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
             "torch.storage.UntypedStorage": "u1"}
_REBUILD = {f"torch._utils._rebuild_{kind}" for kind in (
    "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")}
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_TENSOR_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
# What a training checkpoint holds beside its tensors. None of it is made; the pickle may only name it.
_BESIDE = {"argparse.Namespace", "builtins.set", "builtins.frozenset", "builtins.complex", "builtins.bytearray",
           "builtins.list", "builtins.dict", "builtins.int", "__builtin__.set", "collections.Counter",
           "datetime.timedelta", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "torch.Size",
           "torch.device", "numpy.dtype", "numpy.ndarray", "_codecs.encode",
           *(f"{module}.{name}" for module in ("numpy.core.multiarray", "numpy._core.multiarray")
             for name in ("scalar", "_reconstruct"))}
ALLOWED = frozenset({"collections.OrderedDict", "collections.defaultdict", _FROM_TYPE, *_REBUILD, *_DTYPE_OF,
                     *_TENSOR_TYPES, *_BESIDE})

_MOST_DIMENSIONS = 32
_MOST_EXPANDED = 1 << 20      # numbers of a file that stand in the place of fewer: expand(), which has a stride of 0
_DEFLATED_MOST = 20           # times a file's own size that its compressed members may have together
_DIRECTORY_MOST = 64_000_000  # bytes of a zip archive's table of contents
_DEFLATE_RATIO = 1_032        # what deflate cannot exceed


class _Storage:
    """A row of numbers that tensors are views of; `values` are read when a tensor needs them."""

    def __init__(self, dtype, count):
        self.dtype, self.count, self.values = np.dtype(dtype), count, None


class _View:
    """What stands for a tensor until the storages are read."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def size(self):
        """How many numbers it shows, each as often as it is shown."""
        return math.prod(self.shape)

    def check(self, name):
        """WeightsError unless it lies within its storage."""
        numbers = (self.offset, *self.shape, *self.strides)
        inside = (len(self.shape) == len(self.strides) and min(numbers) >= 0 and max(numbers) < 1 << 48
                  and len(self.shape) <= _MOST_DIMENSIONS
                  and math.prod(size for size in self.shape if size) < 1 << 48)
        if inside and self.size:
            last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
            inside = self.offset + last < self.storage.count
        if not inside:
            raise WeightsError(f"{shown(name)}: shape {_short(self.shape)} with strides {_short(self.strides)} at "
                               f"{_short(self.offset)} does not lie within its {self.storage.count} numbers")

    def array(self, name):
        """The tensor, a read-only view of its storage."""
        self.check(name)
        if not self.size:
            return np.zeros(self.shape, self.storage.dtype)
        width = self.storage.dtype.itemsize
        # numpy itself checks that the strides stay within the buffer.
        view = np.ndarray(self.shape, self.storage.dtype, self.storage.values.view("u1"), self.offset * width,
                          [stride * width for stride in self.strides])
        view.flags.writeable = False
        return view


def _key(reference):
    """The key in a persistent id; None of one that has another form."""
    parts = reference.id
    return parts[2] if isinstance(parts, tuple) and len(parts) > 2 and isinstance(parts[2], str) else None


def _short(value):
    return shown(value, 60)


class _Storages:
    """The storages of a file by their keys."""

    def __init__(self):
        self.known = {}

    def of(self, reference, dtype=None):
        """The storage that a persistent id means, ("storage", kind, key, device, count); of bytes alone with the
        tensor's own dtype."""
        parts = reference.id if isinstance(reference, Reference) else None
        if (not isinstance(parts, tuple) or not 5 <= len(parts) <= 6 or parts[0] != "storage"
                or not isinstance(parts[1], Name) or parts[1].text not in _DTYPE_OF
                or not (len(parts) == 5 or parts[5] is None)):
            raise WeightsError("the pickle refers to something outside of it; expected whole storages only")
        kind, key, count = parts[1].text, parts[2], parts[4]
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 48:
            raise WeightsError(f"a storage has the key {_short(key)} and {_short(count)} numbers; expected text and a "
                               "whole number")
        dtype = np.dtype(_DTYPE_OF[kind] if dtype is None else dtype)
        if kind == "torch.storage.UntypedStorage":
            count //= dtype.itemsize
        storage = self.known.setdefault(key, _Storage(dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise WeightsError(f"storage {shown(key)} is named as {storage.count} of {storage.dtype} and as {count} of "
                               f"{dtype}")
        return storage


def read_torch(path) -> dict[str, np.ndarray]:
    """A state dict that torch.save wrote -> {name: array}.

    Of a training checkpoint, a dict of several things of which one is a state dict, that one is taken, and a line on
    stderr says so.

    Args:
        path: of the file.

    Returns:
        Arrays that cannot be written to: views of the storages as the file has them. Whoever keeps one of many keeps
        the storage.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: another kind of file, a damaged one, one whose pickle holds something else than tensors in a dict,
            or one that states more than it has.
    """
    path = Path(path)
    weights.check_is_no_pointer(path)
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            reader = _ZipFile(file, size) if zipped else _Row(file, size)
            pairs, taken = _state_dict(reader.content)
            storages = _Storages()
            views = {name: _view(value, storages, name) for name, value in pairs}
            _check_sizes(views)
            reader.fill(storages.known)
            tensors = {name: view.array(name) for name, view in views.items()}
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}.") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, struct.error, OverflowError,
            ValueError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as a file of torch: {shown(error, 200)}.") from error
    if taken:
        weights.say(f"{path}: a training checkpoint; took the state dict {taken}.")
    return tensors


def _is_state_dict(value):
    return isinstance(value, Dict) and value.pairs and all(isinstance(key, str) and _is_tensor(each)
                                                           for key, each in value.pairs)


def _is_tensor(value):
    return isinstance(value, Call) and value.name.text in (*_REBUILD, _FROM_TYPE)


def _state_dict(content):
    """The (name, tensor) pairs in a pickle's value, and where in it they stand: "" or the name of an entry."""
    if not isinstance(content, Dict):
        raise WeightsError(f"holds {kind_of(content)}; expected a state dict")
    if not content.pairs or _is_state_dict(content):
        return _once(content.pairs), ""
    names = [_short(key) if isinstance(key, str) else kind_of(key) for key, _ in content.pairs]
    inner = [(name, value) for name, (_, value) in zip(names, content.pairs) if _is_state_dict(value)]
    if len(inner) == 1:
        return _once(inner[0][1].pairs), f"{inner[0][0]} of {', '.join(names[:12])}"
    if inner:
        raise WeightsError(f"holds several state dicts, {', '.join(name for name, _ in inner[:12])}; save the one you "
                           "want alone")
    others = [(name, value) for name, (_, value) in zip(names, content.pairs) if not _is_tensor(value)]
    if 0 < len(others) < len(names) / 2:
        raise WeightsError(f"{others[0][0]} is {kind_of(others[0][1])}; expected tensors only")
    raise WeightsError(f"holds {', '.join(names[:12])}; expected a state dict, tensors by name")


def _once(pairs):
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise WeightsError(f"has {shown(twice[0])} twice")
    return pairs


def _view(value, storages, name):
    """A `_View` of what the pickle would have called."""
    for _ in range(4):   # a parameter of a tensor, or of a tensor with attributes
        if not _is_tensor(value):
            break
        kind, arguments = value.name.text.rpartition("._rebuild_")[2], value.arguments
        if kind in ("parameter", "parameter_with_state"):
            value = arguments[0] if arguments else None
        elif kind == "from_type_v2":
            value = _of_type(arguments, name)
        else:
            return _tensor(kind, arguments, storages, name)
    raise WeightsError(f"{shown(name)}: is {kind_of(value)}; expected a tensor")


def _of_type(arguments, name):
    """(function, class, its arguments, attributes): a tensor with attributes of its own."""
    function, kind, inner = arguments[:3] if len(arguments) >= 3 else (None,) * 3
    known = (isinstance(function, Name) and function.text in _REBUILD and isinstance(kind, Name)
             and kind.text in _TENSOR_TYPES and isinstance(inner, tuple))
    if not known:
        raise WeightsError(f"{shown(name)}: is a tensor of a class of its own; expected torch.Tensor")
    return Call(function, inner)


def _tensor(kind, arguments, storages, name):
    """(storage, offset, shape, strides, …), and from version 3 on the dtype in the seventh place."""
    if len(arguments) < 4:
        raise WeightsError(f"{shown(name)}: is made of {len(arguments)} values; expected a storage, a place, a shape "
                           "and strides")
    reference, offset, shape, strides = arguments[:4]
    shape, strides = (_sizes(value) for value in (shape, strides))
    if type(offset) is not int or shape is None or strides is None:
        raise WeightsError(f"{shown(name)}: its place, shape or strides are not whole numbers")
    dtype = None
    if kind == "tensor_v3":
        dtype = arguments[6] if len(arguments) > 6 else None
        if not isinstance(dtype, Name) or dtype.text not in _DTYPE_OF:
            raise WeightsError(f"{shown(name)}: its dtype is {kind_of(dtype)}; expected one of torch's")
        dtype = _DTYPE_OF[dtype.text]
    return _View(storages.of(reference, dtype), offset, shape, strides)


def _sizes(value):
    """A tuple of whole numbers, as it is or in a torch.Size; None of anything else."""
    if isinstance(value, Call) and value.name.text == "torch.Size" and len(value.arguments) == 1:
        value = value.arguments[0]
    whole = isinstance(value, (tuple, list)) and all(type(size) is int for size in value)
    return tuple(value) if whole else None


def _check_sizes(views):
    """No tensor leads out of its storage, and few numbers are shown more often than they are there."""
    expanded = 0
    for name, view in views.items():
        view.check(name)
        expanded += max(0, view.size - view.storage.count)
        if expanded > _MOST_EXPANDED:
            raise WeightsError(f"{shown(name)}: shape {_short(view.shape)} with strides {_short(view.strides)} makes "
                               f"{view.size} numbers out of {view.storage.count}; save the tensor that it was "
                               "expanded from")


class _Row:
    """The layout before torch 1.6: pickles one behind the other, then the storages."""

    def __init__(self, file, size):
        self.source = source = Source(file, size)
        if load(source, ALLOWED) != _MAGIC:
            raise WeightsError("neither a zip archive nor torch's older layout")
        version, machine = load(source, ALLOWED), load(source, ALLOWED)
        if type(version) is not int or version != _VERSION:
            raise WeightsError(f"version {_short(version)} of torch's older layout; expected {_VERSION}")
        if isinstance(machine, Dict) and any(isinstance(key, str) and key == "little_endian" and value is False
                                             for key, value in machine.pairs):
            raise WeightsError("was written on a big-endian machine; expected a little-endian one")
        self.references = []
        self.content = load(source, ALLOWED, self.references)

    def fill(self, storages):
        """Reads the values of the tensors' storages, {key: `_Storage`}, and passes over others, an optimizer's say."""
        others = _Storages()
        others.known.update(storages)
        for reference in self.references:
            if _key(reference) not in storages:
                others.of(reference)
        keys = load(self.source, ALLOWED)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise WeightsError("has no list of its storages' keys")
        if len(keys) != len(others.known) or set(keys) != set(others.known):
            raise WeightsError(f"lists {len(keys)} storages; its tensors have {len(others.known)}, or others")
        for key in keys:
            storage, count = others.known[key], self.source.number("<q")
            if count != storage.count:
                raise WeightsError(f"storage {shown(key)} has {count} numbers; its tensors state {storage.count}")
            size = count * storage.dtype.itemsize
            if key in storages:
                _fill(storage, self.source.take(size), key)
            else:
                self.source.skip(size)


class _ZipFile:
    """The layout since torch 1.6: data.pkl and a member for each storage."""

    def __init__(self, file, size):
        self.size, self.stored, self.deflated = size, 0, 0   # bytes: of the file, of what was opened in it
        _check_directory(file, size)
        self.archive = zipfile.ZipFile(file)
        members = self.archive.infolist()
        self.members = {member.filename: member for member in members}
        if len(self.members) != len(members):
            name = next(name for name, count in Counter(member.filename for member in members).items() if count > 1)
            raise WeightsError(f"a zip archive with {shown(name)} twice")
        roots = [name.removesuffix("data.pkl") for name in self.members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightsError(f"a zip archive with {len(roots)} files data.pkl; expected one, as torch.save writes it")
        self.root, = roots
        if self.root + "constants.pkl" in self.members:
            raise WeightsError("a TorchScript archive, a program with its weights; expected model.state_dict()")
        if self._small("byteorder") == b"big":
            raise WeightsError("was written on a big-endian machine; expected a little-endian one")
        with self._open("data.pkl") as opened:
            size = self.members[self.root + "data.pkl"].file_size
            self.content = load(Source(io.BufferedReader(opened), size), ALLOWED)

    def fill(self, storages):
        """Reads the values of {key: `_Storage`}."""
        for key, storage in storages.items():
            name = f"data/{key}"
            if self.root + name not in self.members:
                raise WeightsError(f"storage {shown(key)} is missing in the archive")
            expected = storage.count * storage.dtype.itemsize
            stated = self.members[self.root + name].file_size
            if stated != expected:
                raise WeightsError(f"storage {shown(key)} has {stated} bytes; {storage.count} numbers of "
                                   f"{storage.dtype} need {expected}")
            with self._open(name) as opened:
                _fill(storage, opened.read(expected + 1), key)   # one more: its end is where the sum is compared

    def _small(self, name):
        if self.root + name not in self.members:
            return None
        with self._open(name) as opened:
            return opened.read(16)

    def _open(self, name):
        """A member, after a look at what it states."""
        member = self.members[self.root + name]
        if member.flag_bits & 1:
            raise WeightsError(f"{shown(member.filename)} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(f"{shown(member.filename)} is compressed by method {member.compress_type}; expected "
                               "none, as torch.save writes it")
        if member.header_offset < 0 or member.header_offset + member.compress_size > self.size:
            raise WeightsError(f"{shown(member.filename)} states {member.compress_size} bytes; the file has "
                               f"{self.size}")
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.file_size > (member.compress_size if stored else _DEFLATE_RATIO * member.compress_size):
            raise WeightsError(f"{shown(member.filename)} states {member.file_size} bytes, more than its "
                               f"{member.compress_size} compressed ones can be")
        if stored:
            self.stored += member.file_size
        else:
            self.deflated += member.file_size
        if self.stored > self.size or self.deflated > _DEFLATED_MOST * self.size + (1 << 20):
            raise WeightsError(f"its members have {self.stored + self.deflated} bytes together, out of {self.size}")
        return self.archive.open(member)


def _check_directory(file, size):
    """A zip archive's table of contents takes ten times its bytes once it is read."""
    file.seek(max(0, size - (1 << 16) - 22 - 20 - 56))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    stated, = struct.unpack("<I", tail[end + 12:end + 16]) if len(tail) >= end + 16 else (0,)
    large = tail.rfind(b"PK\6\6", 0, max(end, 0))
    if stated == 0xFFFFFFFF and large >= 0 and len(tail) >= large + 48:
        stated, = struct.unpack("<Q", tail[large + 40:large + 48])
    if stated > _DIRECTORY_MOST:
        raise WeightsError(f"a zip archive whose table of contents has {stated} bytes; expected at most "
                           f"{_DIRECTORY_MOST}")


def _fill(storage, data, key):
    if len(data) != storage.count * storage.dtype.itemsize:
        raise WeightsError(f"storage {shown(key)} has {len(data)} bytes; {storage.count} numbers of {storage.dtype} "
                           f"need {storage.count * storage.dtype.itemsize}")
    storage.values = np.frombuffer(data, storage.dtype)


# What trainers write beside a model under the endings of torch's files.
_SIDE_FILES = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|random_states\w*)\.(bin|pt|pth|pkl)")


def read_weights(folder, stem="model", torch_stem="pytorch_model") -> dict[str, np.ndarray]:
    """The tensors of a folder in Hugging Face's layout: `STEM.safetensors`, or where there is none `TORCH_STEM.bin`;
    either of them also as shards with an index.

    Raises:
        FileNotFoundError: the folder has neither.
        WeightsError: a file is damaged, or a shard is missing.
    """
    folder = Path(folder)
    if weights.are_left_out():
        return {}
    if not any((folder / f"{torch_stem}.bin{more}").exists() for more in ("", ".index.json")) or any(
            (folder / f"{stem}.safetensors{more}").exists() for more in ("", ".index.json")):
        return weights.read_safetensors(folder, stem)
    return weights.without_wrapping(weights.read_shards(folder, f"{torch_stem}.bin", read_torch), folder)


def read_tensors(folder) -> dict[str, np.ndarray]:
    """The tensors of a folder as `read_weights` finds them, or else of the one other file of torch in it; without batch
    normalisation's num_batches_tracked, which nothing uses.

    Raises:
        FileNotFoundError: the folder has no weights.
        WeightsError: a file is damaged, or there are several.
    """
    folder = Path(folder)
    named = [*folder.glob("*.safetensors*"), *folder.glob("pytorch_model.bin*")]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".pth", ".pt", ".bin")
                   and not _SIDE_FILES.fullmatch(path.name))
    if named or not files:
        tensors = read_weights(folder)
    elif len(files) > 1:
        raise WeightsError(f"{folder}: has {len(files)} files of torch, {', '.join(path.name for path in files[:5])}; "
                           "expected one, or model.safetensors.")
    else:
        tensors = {} if weights.are_left_out() else weights.without_wrapping(read_torch(files[0]), files[0])
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
