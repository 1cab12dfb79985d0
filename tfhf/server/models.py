"""The SavedModels that are served: which there are, what they take, and running one on a batch."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import cancellation, context, execute

from tfhf.wire import NUMBERS

DEFAULT_SIGNATURE = "serving_default"
METHOD = "tensorflow/serving/predict"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[0-9]{1,18}")
_LONGEST_MESSAGE, _LONGEST_REASON = 500, 200


class ServeError(ValueError):
    """A folder that cannot be served, or ports that are taken; the message says what was expected."""


class RequestError(ValueError):
    """A request that gets no answer. `status` is HTTP's, `code` gRPC's name for the same."""

    status, code = 400, "INVALID_ARGUMENT"


class NotFound(RequestError):
    """No such model, version or signature."""

    status, code = 404, "NOT_FOUND"


class UnknownLabel(RequestError):
    """A label for a version; there are none here. The words are TF Serving's."""

    def __init__(self, label: str):
        super().__init__(f"Unrecognized servable version label: {label[:80]}")


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
        self._function = function   # keeps alive what it captured
        self.inputs = {name: _tensor(spec, spec.name) for name, spec in
                       function.structured_input_signature[1].items()}
        self.outputs = {name: _tensor(spec, spec.name) for name, spec in function.structured_outputs.items()}
        self.batched = all(tensor.batched for tensor in [*self.inputs.values(), *self.outputs.values()])
        given = function.inputs[:len(function.inputs) - len(function.captured_inputs)]
        self._order = [_input_of(tensor.name, self.inputs) for tensor in given]

    def check_stated(self, shapes: dict, max_examples: int) -> None:
        """Refuses {input name: shape} by what they state, before anything of that size is made.

        Raises:
            RequestError: inputs that are missing or unknown, shapes that do not fit, too many examples.
        """
        self._check_names(shapes)
        for name, shape in shapes.items():
            _check_shape(name, shape, self.inputs[name])
        self._check_examples({shape[0] for shape in shapes.values()} if self.batched else set(), max_examples)

    def check(self, given: dict, max_examples: int) -> dict:
        """Named arrays of a request -> those that the function takes.

        Raises:
            RequestError: inputs that are missing or unknown, of another type or shape; too many examples.
        """
        self._check_names(given)
        taken = {name: _fitting(name, given[name], tensor) for name, tensor in self.inputs.items()}
        self._check_examples({len(array) for array in taken.values()} if self.batched else set(), max_examples)
        return taken

    def _check_names(self, given):
        if set(given) != set(self.inputs):
            raise RequestError(f"got the inputs {sorted(given)[:8]}, expected {sorted(self.inputs)}")

    @staticmethod
    def _check_examples(sizes, max_examples):
        if len(sizes) > 1:
            raise RequestError(f"got batches of {sorted(sizes)} examples in the inputs, expected the same in all")
        if 0 in sizes:
            raise RequestError("got a batch without an example, expected at least one")
        if sizes and max(sizes) > max_examples:
            raise RequestError(f"got {max(sizes)} examples in one request, expected at most {max_examples}")

    def run(self, inputs: dict, stop) -> dict:
        """Checked arrays -> answers, arrays by their names.

        Args:
            stop: a `new_stop()`, whose `start_cancel` ends the call from another thread.

        Raises:
            RequestError: the model refuses the input; TooLate: it was stopped.
        """
        function = self._function
        tensors = [tf.constant(inputs[name]) for name in self._order]
        here = context.context()
        attributes = [part for pair in here.function_call_options.as_attrs().items() for part in pair]
        try:
            # What calling the function does. TensorFlow's own way to stop one is for the whole process, not for one
            # thread of several.
            outputs = execute.execute_with_cancellation(
                function.name, len(function.outputs), tensors + function.captured_inputs, tuple(attributes), here, stop)
        except tf.errors.CancelledError as error:
            raise TooLate("no answer in time: the work was ended") from error
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.UnimplementedError,
                tf.errors.ResourceExhaustedError) as error:   # the last: an input that asks for more memory than is
            raise RequestError(told(error.message)) from error
        answers = tf.nest.pack_sequence_as(function.structured_outputs, outputs)
        return {name: tensor.numpy() for name, tensor in answers.items()}


def new_stop() -> cancellation.CancellationManager:
    """What stops a call of `Signature.run`."""
    return cancellation.CancellationManager()


def _input_of(tensor_name, inputs):
    """The input that a placeholder of the graph stands for."""
    name = tensor_name.rpartition(":")[0]
    found = [key for key, tensor in inputs.items() if name in (key, tensor.name)]
    if len(found) != 1:
        raise ServeError(f"the graph has the input {name!r}, the signature {sorted(inputs)}; expected the same names")
    return found[0]


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
    _check_shape(name, array.shape, tensor)
    return array


def _check_shape(name, shape, tensor):
    if tensor.shape is not None and (len(tensor.shape) != len(shape)
                                     or any(want not in (None, got) for want, got in zip(tensor.shape, shape))):
        wanted = [-1 if size is None else size for size in tensor.shape]
        got = list(shape) if len(shape) <= 8 else f"of {len(shape)} axes"
        raise RequestError(f"input {name!r}: got the shape {got}, expected {wanted}")


def _kind(dtype):
    return "strings" if dtype == object else str(dtype)


class Model:
    """A version of a SavedModel, loaded. Attributes: name, version, signatures: {name: Signature}.

    Raises:
        ServeError: it cannot be loaded, or has no signature.
    """

    def __init__(self, name: str, version: int, folder: str):
        self.name, self.version = name, version
        try:
            self._loaded = tf.saved_model.load(folder)   # its functions hold no reference to it
        except Exception as error:   # whatever a damaged file makes TensorFlow raise
            raise ServeError(f"{folder}: cannot be loaded ({_reason(error)}); expected a whole SavedModel") from error
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


def _reason(error):
    """One line of an exception, without folders."""
    return told(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]


def newest_model(name: str, versions: dict) -> tuple[Model, dict]:
    """{version: folder} -> (the newest version that can be loaded, {version: why not} of newer ones).

    Raises:
        ServeError: none can be loaded.
    """
    failed, errors = {}, []
    for version, folder in sorted(versions.items(), reverse=True):
        try:
            return Model(name, version, folder), failed
        except ServeError as error:
            errors.append(error)
            failed[version] = told(str(error).partition(": ")[2])   # without its folder
    raise errors[0]


def find_models(paths) -> dict:
    """`find_versions`, of each model the newest version that has a saved_model.pb -> {name: (version, folder)}."""
    return {name: max((version, folder) for version, folder in versions.items() if _is_saved_model(folder))
            for name, versions in find_versions(paths).items()}


def find_versions(paths) -> dict:
    """Folders, each NAME=FOLDER or FOLDER, of a model or of models -> {name: {version: folder}}.

    A model is a folder of numbered versions, one of which at least has a saved_model.pb, or a folder with
    saved_model.pb, which is version 1.

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
                other = next(iter(found[name].values()))
                raise ServeError(f"model name {name!r} twice, in {other} and {folder}; give NAME=FOLDER")
            found[name] = versions
    return found


def _is_saved_model(folder):
    return Path(folder, "saved_model.pb").is_file()


def _versions(folder):
    """-> {version: folder}; {} if none of them is a SavedModel"""
    if _is_saved_model(folder):
        return {1: str(folder)}
    if not folder.is_dir():
        return {}
    found = {int(child.name): str(child) for child in folder.iterdir()
             if _VERSION.fullmatch(child.name) and child.is_dir()}
    return found if any(map(_is_saved_model, found.values())) else {}


def signature_def(signature: Signature) -> dict:
    """{"inputs", "outputs": {name: {"dtype": number, "shape": list or None, "name"}}, "method_name"}, for metadata."""
    def told_of(tensors):
        return {name: {"dtype": tensor.number, "name": tensor.name,
                       "shape": None if tensor.shape is None else [-1 if size is None else size
                                                                   for size in tensor.shape]}
                for name, tensor in tensors.items()}

    return {"inputs": told_of(signature.inputs), "outputs": told_of(signature.outputs), "method_name": METHOD}
