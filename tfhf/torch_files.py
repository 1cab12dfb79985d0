"""Tensors out of torch's own files (.pth, .pt, .bin), without torch and without running what a pickle says.

Both layouts: the zip archive of torch 1.6 and later, and the row of pickles before it. A pickle may name functions and
call them; here it gets those that make tensors, dicts and nothing else, and any other name is an error.
"""

import collections
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from tfhf import weights
from tfhf.weights import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C   # the first pickle of the older layout; then come its version and the machine's sizes
_DTYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Long": "<i8", "Int": "<i4",
           "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}


class _Storage:
    """A row of numbers that tensors are views of; `values` come later than its name in the older layout."""

    def __init__(self, dtype, count):
        self.dtype, self.count, self.values = np.dtype(dtype), count, None


class _View:
    """What stands for a tensor until the storages are read."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, name):
        reach = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides)) + 1
        # as_strided reads whatever memory it is told to: a damaged file must not lead it out of the storage.
        if (self.offset < 0 or len(self.shape) != len(self.strides) or any(s < 0 for s in (*self.shape, *self.strides))
                or np.prod(self.shape) and reach > self.storage.count):
            raise WeightsError(f"{name}: shape {self.shape} with strides {self.strides} at {self.offset} does not lie "
                               f"within its {self.storage.count} numbers")
        strides = [stride * self.storage.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(self.storage.values[self.offset:], self.shape, strides)
        return np.array(view)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, storages):
        super().__init__(file, encoding="utf-8")
        self.storages = storages   # key -> _Storage, filled as they are named

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _View
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name.endswith("Storage") and name.removesuffix("Storage") in _DTYPES:
            return _DTYPES[name.removesuffix("Storage")]
        raise WeightsError(f"the pickle names {module}.{name}; expected tensors and dicts only")

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or len(pid) > 5 and pid[5] is not None:
            raise WeightsError(f"the pickle refers to {pid!r}; expected whole storages only")
        return self.storages.setdefault(key, _Storage(dtype, count))


def read_torch(path) -> dict[str, np.ndarray]:
    """A state dict that torch.save wrote -> {name: array}.

    Raises:
        WeightsError: another kind of file, a damaged one, or one whose pickle holds more than tensors in a dict.
    """
    path, storages = Path(path), {}
    try:
        with open(path, "rb") as file:
            content = (_read_zip if zipfile.is_zipfile(path) else _read_row)(file, storages)
        if not isinstance(content, dict) or not all(isinstance(value, _View) for value in content.values()):
            shown = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
            raise WeightsError(f"holds {shown}; expected a state dict, tensors by name")
        return {name: view.array(name) for name, view in content.items()}
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, KeyError, IndexError, TypeError,
            ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: cannot be read as a file of torch: {error}") from error


def _read_zip(file, storages):
    with zipfile.ZipFile(file) as archive:
        root = next((name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None:
            raise WeightsError("a zip archive without data.pkl; expected one that torch.save wrote")
        with archive.open(root + "data.pkl") as opened:
            content = _Unpickler(opened, storages).load()
        for key, storage in storages.items():
            _fill(storage, archive.read(f"{root}data/{key}"), key)
    return content


def _read_row(file, storages):
    def load():
        return _Unpickler(file, storages).load()

    if load() != _MAGIC:
        raise WeightsError("neither a zip archive nor torch's older layout")
    load(), load()   # version and sizes
    content, keys = load(), load()
    for key in keys:
        storage = storages[key]
        count, = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise WeightsError(f"storage {key} has {count} numbers; its tensors were told of {storage.count}")
        _fill(storage, file.read(count * storage.dtype.itemsize), key)
    return content


def _fill(storage, data, key):
    if len(data) != storage.count * storage.dtype.itemsize:
        raise WeightsError(f"storage {key} has {len(data)} bytes; {storage.count} numbers of {storage.dtype} need "
                           f"{storage.count * storage.dtype.itemsize}")
    storage.values = np.frombuffer(data, storage.dtype)


def read_tensors(folder) -> dict[str, np.ndarray]:
    """The tensors of a folder's safetensors files, or else of the one file of torch in it; without batch
    normalisation's num_batches_tracked, which nothing uses.

    Raises:
        FileNotFoundError: the folder has neither.
        WeightsError: a file is damaged.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".pth", ".pt", ".bin"))
    whole = len(files) == 1 and not list(Path(folder).glob("*.safetensors"))
    tensors = read_torch(files[0]) if whole else weights.read_safetensors(folder)
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
