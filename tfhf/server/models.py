"""The SavedModels that are served: which there are, what they take, and running one on a batch."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfhf.wire import NUMBERS

DEFAULT_SIGNATURE = "serving_default"
METHOD = "tensorflow/serving/predict"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST_MESSAGE = 500


class ServeError(ValueError):
    """A folder that cannot be served, or ports that are taken; the message says what was expected."""


class RequestError(ValueError):
    """A request that gets no answer. `status` is HTTP's, `code` gRPC's name for the same."""

    status, code = 400, "INVALID_ARGUMENT"


class NotFound(RequestError):
    """No such model, version or signature."""

    status, code = 404, "NOT_FOUND"


class Overloaded(RequestError):
    """The queue is full."""

    status, code = 429, "RESOURCE_EXHAUSTED"


class TooLate(RequestError):
    """No answer within the deadline."""

    status, code = 504, "DEADLINE_EXCEEDED"


class Stopping(RequestError):
    """The server ends, and takes nothing new."""

    status, code = 503, "UNAVAILABLE"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output: its numpy dtype (object: bytes), its shape with None where it is free, TensorFlow's name."""

    dtype: np.dtype
    shape: tuple | None
    name: str

    @property
    def batched(self) -> bool:
        """Whether its first axis is free: then requests share a batch."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def number(self) -> int:
        """TensorFlow's DataType."""
        return NUMBERS[self.dtype]


class Signature:
    """One function of a model.

    Attributes: inputs, outputs: {name: Tensor}; batched: whether examples lie along a free first axis of all of them.
    """

    def __init__(self, function):
        self._function = function
        self.inputs = {name: _tensor(spec, spec.name) for name, spec in
                       function.structured_input_signature[1].items()}
        self.outputs = {name: _tensor(spec, spec.name) for name, spec in function.structured_outputs.items()}
        self.batched = all(tensor.batched for tensor in [*self.inputs.values(), *self.outputs.values()])

    def check(self, given: dict) -> dict:
        """Named arrays of a request -> those that the function takes.

        Raises:
            RequestError: inputs that are missing or unknown, or of another type or shape.
        """
        if set(given) != set(self.inputs):
            raise RequestError(f"got the inputs {sorted(given)}, expected {sorted(self.inputs)}")
        taken = {name: _fitting(name, given[name], tensor) for name, tensor in self.inputs.items()}
        sizes = {len(array) for array in taken.values()} if self.batched else set()
        if len(sizes) > 1:
            raise RequestError(f"got batches of {sorted(sizes)} examples in the inputs, expected the same in all")
        if 0 in sizes:
            raise RequestError("got a batch without an example, expected at least one")
        return taken

    def run(self, inputs: dict) -> dict:
        """Checked arrays -> answers, arrays by their names.

        Raises:
            RequestError: the model refuses the input.
        """
        try:
            answers = self._function(**{name: tf.constant(array) for name, array in inputs.items()})
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.UnimplementedError,
                tf.errors.ResourceExhaustedError) as error:   # the last: an input that asks for more memory than is
            raise RequestError(told(error.message)) from error
        return {name: tensor.numpy() for name, tensor in answers.items()}


def told(message: str) -> str:
    """What of TensorFlow's message a client is told: no node, no place in a file, no trace."""
    asserted = re.search(r"assertion failed: (\[.*)", message)
    message = asserted[1] if asserted else message.split("\n\t [[")[0]
    message = re.sub(r"\{\{[^}]*\}\}|\[Op:[^\]]*\]|\[\[.*|<stack traces unavailable>|Graph execution error:", "",
                     message)
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not re.match(r"(\(\d+\)|File \"|Detected at|Traceback)", line)]
    text = re.sub(r"(?<![\w<])/(?:[\w.-]+/)+[\w.-]*", "…", " ".join(kept)).strip()
    text = text.removeprefix("[").removesuffix("]").replace("] [", " ") if asserted else text
    return text[:_LONGEST_MESSAGE] or "the model refused the input"


def _tensor(spec, name):
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return Tensor(np.dtype(object) if spec.dtype == tf.string else np.dtype(spec.dtype.as_numpy_dtype), shape, name)


def _fitting(name, array, tensor):
    array = np.asarray(array)
    if (array.dtype == object) != (tensor.dtype == object):
        raise RequestError(f"input {name!r}: got {_kind(array.dtype)}, expected {_kind(tensor.dtype)}")
    if array.dtype != tensor.dtype:
        # JSON has but one kind of number; what would lose something is refused.
        if array.size and not (np.can_cast(array.dtype, tensor.dtype, "same_kind")
                               or array.dtype.kind in "iu" and tensor.dtype.kind in "iuf"):
            raise RequestError(f"input {name!r}: got {array.dtype}, expected {tensor.dtype}")
        cast = array.astype(tensor.dtype)
        if tensor.dtype.kind in "iu" and not np.array_equal(cast, array):
            raise RequestError(f"input {name!r}: got numbers out of the range of {tensor.dtype}")
        array = cast
    shape = tensor.shape
    if shape is not None and (len(shape) != array.ndim
                              or any(want not in (None, got) for want, got in zip(shape, array.shape))):
        wanted = [-1 if size is None else size for size in shape]
        raise RequestError(f"input {name!r}: got the shape {list(array.shape)}, expected {wanted}")
    return array


def _kind(dtype):
    return "strings" if dtype == object else str(dtype)


class Model:
    """A version of a SavedModel, loaded. Attributes: name, version, signatures: {name: Signature}."""

    def __init__(self, name: str, version: int, folder: str):
        self.name, self.version = name, version
        self._loaded = tf.saved_model.load(folder)   # its functions hold no reference to it
        self.signatures = {key: Signature(function) for key, function in self._loaded.signatures.items()}
        if not self.signatures:
            raise ServeError(f"{folder}: has no signature, expected an export of `tfhf export`")

    def signature(self, name: str) -> Signature:
        """The signature of that name, "": the default one.

        Raises:
            NotFound: there is none.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise NotFound(f"model {self.name!r} has no signature {name[:80]!r}, it has {sorted(self.signatures)}")
        return self.signatures[name]


def find_models(paths) -> dict:
    """Folders, each NAME=FOLDER or FOLDER, of a model or of models -> {name: (version, folder with saved_model.pb)}.

    A model is a folder of numbered versions (the newest is taken), or a folder with saved_model.pb, which is version 1.

    Raises:
        ServeError: no model there, a name twice or one that is no name.
    """
    found = {}
    for path in paths:
        name, separator, folder = os.fspath(path).partition("=")
        given = name if separator else None
        folder = Path(folder if separator else name)
        here = _versions(folder)
        models = {given or folder.resolve().name: here} if here else {
            child.name: _versions(child) for child in sorted(folder.iterdir() if folder.is_dir() else ())
            if child.is_dir() and _versions(child)}
        if not models:
            raise ServeError(f"{folder}: no SavedModel, expected FOLDER/1/saved_model.pb, or folders of such")
        if given and given not in models:
            raise ServeError(f"{folder}: holds the models {sorted(models)}, expected one to be called {given!r}")
        for name, versions in models.items():
            if not _NAME.fullmatch(name):
                raise ServeError(f"model name {name!r}: expected letters, digits, _ . and -; give it as NAME=FOLDER")
            if name in found:
                raise ServeError(f"model name {name!r} twice, in {found[name][1]} and {folder}; give NAME=FOLDER")
            found[name] = max(versions.items())
    return found


def _versions(folder):
    """-> {version: folder}"""
    if (folder / "saved_model.pb").is_file():
        return {1: str(folder)}
    if not folder.is_dir():
        return {}
    return {int(child.name): str(child) for child in folder.iterdir()
            if child.name.isdecimal() and (child / "saved_model.pb").is_file()}


def signature_def(signature: Signature) -> dict:
    """{"inputs", "outputs": {name: {"dtype": number, "shape": list or None, "name"}}, "method_name"}, for metadata."""
    def told_of(tensors):
        return {name: {"dtype": tensor.number, "name": tensor.name,
                       "shape": None if tensor.shape is None else [-1 if size is None else size
                                                                   for size in tensor.shape]}
                for name, tensor in tensors.items()}

    return {"inputs": told_of(signature.inputs), "outputs": told_of(signature.outputs), "method_name": METHOD}
