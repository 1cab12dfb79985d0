"""TF Serving's messages and tensors without TensorFlow: what a client and `tfhf serve` say to each other over gRPC.

The messages are those of tensorflow/serving's apis/*.proto, with the fields that prediction, metadata and status use;
what a message has besides is passed over. They lie in a pool of their own, so that TensorFlow may be loaded as well.
"""

from __future__ import annotations

import math

import numpy as np
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

# TensorFlow's DataType -> numpy's; 7 is string, bytes in an object array.
STRING = 7
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, STRING: np.object_,
          9: np.int64, 10: np.bool_, 17: np.uint16, 19: np.float16, 22: np.uint32, 23: np.uint64}
NUMBERS = {np.dtype(kind): number for number, kind in DTYPES.items()}
# TensorFlow's names of them, as they stand in JSON.
TYPE_NAMES = {number: "DT_" + {"object": "STRING", "float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}.get(
    np.dtype(kind).name, np.dtype(kind).name.upper()) for number, kind in DTYPES.items()}
# The field with the values of a dtype where they are not packed into tensor_content.
_VALUES = {1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val",
           STRING: "string_val", 9: "int64_val", 10: "bool_val", 17: "int_val", 19: "half_val", 22: "uint32_val",
           23: "uint64_val"}
# One value may stand for all of a tensor; of so many, and so many bytes, at most: or a few would ask for all memory.
_MOST_REPEATED, MAX_REPEATED_BYTES = 2**20, 2**26

_TYPES = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"int32": _TYPES.TYPE_INT32, "int64": _TYPES.TYPE_INT64, "bool": _TYPES.TYPE_BOOL,
            "string": _TYPES.TYPE_STRING, "bytes": _TYPES.TYPE_BYTES, "float": _TYPES.TYPE_FLOAT,
            "double": _TYPES.TYPE_DOUBLE, "uint32": _TYPES.TYPE_UINT32, "uint64": _TYPES.TYPE_UINT64}
# Message -> its fields: (number, name, type); "*type" is repeated, "{type}" a map from strings. Enums go as int32.
_MESSAGES = {
    "tensorflow": {
        "TensorShapeDim": ((1, "size", "int64"), (2, "name", "string")),
        "TensorShapeProto": ((2, "dim", "*.tensorflow.TensorShapeDim"), (3, "unknown_rank", "bool")),
        "TensorProto": (
            (1, "dtype", "int32"), (2, "tensor_shape", ".tensorflow.TensorShapeProto"), (4, "tensor_content", "bytes"),
            (13, "half_val", "*int32"), (5, "float_val", "*float"), (6, "double_val", "*double"),
            (7, "int_val", "*int32"), (8, "string_val", "*bytes"), (10, "int64_val", "*int64"),
            (11, "bool_val", "*bool"), (16, "uint32_val", "*uint32"), (17, "uint64_val", "*uint64")),
        "TensorInfo": ((1, "name", "string"), (2, "dtype", "int32"),
                       (3, "tensor_shape", ".tensorflow.TensorShapeProto")),
        "SignatureDef": ((1, "inputs", "{.tensorflow.TensorInfo}"), (2, "outputs", "{.tensorflow.TensorInfo}"),
                         (3, "method_name", "string")),
    },
    "tensorflow.serving": {
        "ModelSpec": ((1, "name", "string"), (2, "version", ".google.protobuf.Int64Value"),
                      (3, "signature_name", "string"), (4, "version_label", "string")),
        "PredictRequest": ((1, "model_spec", ".tensorflow.serving.ModelSpec"),
                           (2, "inputs", "{.tensorflow.TensorProto}"), (3, "output_filter", "*string")),
        "PredictResponse": ((1, "outputs", "{.tensorflow.TensorProto}"),
                            (2, "model_spec", ".tensorflow.serving.ModelSpec")),
        "GetModelMetadataRequest": ((1, "model_spec", ".tensorflow.serving.ModelSpec"),
                                    (2, "metadata_field", "*string")),
        "GetModelMetadataResponse": ((1, "model_spec", ".tensorflow.serving.ModelSpec"),
                                     (2, "metadata", "{.google.protobuf.Any}")),
        "SignatureDefMap": ((1, "signature_def", "{.tensorflow.SignatureDef}"),),
        "GetModelStatusRequest": ((1, "model_spec", ".tensorflow.serving.ModelSpec"),),
        "StatusProto": ((1, "error_code", "int32"), (2, "error_message", "string")),
        "ModelVersionStatus": ((1, "version", "int64"), (2, "state", "int32"),
                               (3, "status", ".tensorflow.serving.StatusProto")),
        "GetModelStatusResponse": ((1, "model_version_status", "*.tensorflow.serving.ModelVersionStatus"),),
    },
}
AVAILABLE, END = 30, 50   # ModelVersionStatus.State


class WireError(ValueError):
    """A tensor or array that cannot go over the wire; the message says what was got and what was expected."""


def _file(package, messages):
    file = descriptor_pb2.FileDescriptorProto(
        name=f"tfhf/{package}.proto", package=package, syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/wrappers.proto"]
        + (["tfhf/tensorflow.proto"] if package != "tensorflow" else []))
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind in fields:
            field = message.field.add(name=field_name, number=number, label=_TYPES.LABEL_OPTIONAL)
            if kind.startswith("{"):
                entry = message.nested_type.add(name="".join(map(str.title, field_name.split("_"))) + "Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=_TYPES.LABEL_OPTIONAL, type=_TYPES.TYPE_STRING)
                entry.field.add(name="value", number=2, label=_TYPES.LABEL_OPTIONAL, type=_TYPES.TYPE_MESSAGE,
                                type_name=kind[1:-1])
                kind = f"*.{package}.{name}.{entry.name}"
            if kind.startswith("*"):
                field.label, kind = _TYPES.LABEL_REPEATED, kind[1:]
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _TYPES.TYPE_MESSAGE, kind
    return file


def _build():
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for package, messages in _MESSAGES.items():
        pool.Add(_file(package, messages))
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
            for package, messages in _MESSAGES.items() for name in messages}


# The messages by their names: MESSAGES["PredictRequest"]().
MESSAGES = _build()


def to_array(values) -> np.ndarray:
    """str, bytes, numbers, lists of them, arrays -> an array that TensorFlow has a type for; str as UTF-8 bytes.

    Raises:
        WireError: it is ragged, or of another type.
    """
    if not isinstance(values, np.ndarray):
        try:
            kinds = _kinds(values)
            if kinds & {str, bytes}:
                if kinds - {str, bytes}:
                    raise WireError(f"got strings and numbers in one array: {str(values)[:60]}")
                flat, shape = _flatten(values)
                array = np.empty(len(flat), object)
                array[:] = [value.encode("utf-8") if isinstance(value, str) else value for value in flat]
                return array.reshape(shape)
            values = np.array(values)
        except ValueError as error:
            raise WireError(f"not an array: {error}") from error
        if values.dtype == np.float64:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)   # as TensorFlow reads Python's numbers; 1e300 is infinite then
    if values.dtype.kind == "U" or (values.dtype == object and not all(
            isinstance(value, bytes) for value in values.reshape(-1).tolist())):
        if values.dtype == object and _kinds(values.tolist()) - {str, bytes}:
            raise WireError(f"got {str(values)[:60]}, expected numbers, bool, str or bytes")
        return to_array(values.tolist())
    if values.dtype.kind == "S":
        return values.astype(object)
    if values.dtype not in NUMBERS:
        raise WireError(f"got an array of {values.dtype}, expected numbers, bool, str or bytes")
    return values


def _kinds(values):
    """The types of all values in lists of lists"""
    if not isinstance(values, (list, tuple)):
        return {type(values)}
    found = set(map(type, values))   # a row of numbers, at the speed of C
    if found & {list, tuple}:
        found = {kind for value in values for kind in _kinds(value)}
    return found


def _flatten(values):
    if not isinstance(values, (list, tuple)):
        return [values], ()
    parts = [_flatten(value) for value in values]
    shapes = {shape for _, shape in parts}
    if len(shapes) > 1:
        raise WireError(f"ragged: rows of the shapes {sorted(shapes)}")
    return [value for part, _ in parts for value in part], (len(values), *(shapes.pop() if shapes else ()))


def to_tensor(values):
    """What `to_array` takes -> TensorProto."""
    array = to_array(values)
    tensor = MESSAGES["TensorProto"](dtype=NUMBERS[array.dtype])
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.SetInParent()
    if array.dtype == object:
        tensor.string_val.extend(array.reshape(-1).tolist())
    else:
        tensor.tensor_content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return tensor


def from_tensor(tensor, max_bytes: int = MAX_REPEATED_BYTES) -> np.ndarray:
    """TensorProto -> array; strings are bytes in an object array.

    Args:
        max_bytes: what one value that stands for all may fill. TensorFlow copies a string as often as it is repeated.

    Raises:
        WireError: a type that is not known here, values out of its range, a shape that no array has, or more or fewer
            values than the shape says.
    """
    if tensor.dtype not in DTYPES:
        raise WireError(f"got a tensor of TensorFlow's type {tensor.dtype}, expected one of {sorted(DTYPES)}")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise WireError(f"got a tensor of unknown shape {shape}, expected a known one")
    dtype, count = np.dtype(DTYPES[tensor.dtype]), math.prod(shape)
    if tensor.tensor_content and dtype != object:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise WireError(f"got {len(tensor.tensor_content)} bytes for shape {_short(shape)} of {dtype}, expected "
                            f"{count * dtype.itemsize}")
        return _shaped(_from_content(tensor.tensor_content, dtype), shape)
    values = getattr(tensor, _VALUES[tensor.dtype])
    if len(values) != count and len(values) != 1:
        raise WireError(f"got {len(values)} values for shape {_short(shape)}, expected {count}")
    array = _from_values(values, dtype)
    if len(array) != count:
        size = len(array[0]) if dtype == object else dtype.itemsize
        if count > _MOST_REPEATED or count * size > max_bytes:
            raise WireError(f"got 1 values for shape {_short(shape)}, expected {count}: one value stands for at most "
                            f"{_MOST_REPEATED}, and for {max_bytes} bytes")
        array = np.repeat(array, count)
    return _shaped(array, shape)


def _from_content(content, dtype):
    """tensor_content -> array [values]; of truth values numpy would take any byte."""
    array = np.frombuffer(content, np.uint8 if dtype == bool else dtype.newbyteorder("<"))
    if dtype == bool and array.size and array.max() > 1:
        raise WireError(f"a value is out of range for bool: {array.max()}, expected 0 or 1")
    return array.astype(dtype, copy=False)


def _from_values(values, dtype):
    """A field of repeated values -> array [values]. Small types come as wider ones: none may wrap round."""
    if dtype == object:
        array = np.empty(len(values), object)
        array[:] = list(values)
        return array
    bits = np.dtype(np.uint16) if dtype == np.float16 else dtype   # halves come as their bits
    array = np.array(values, np.uint64 if dtype == np.uint64 else np.int64 if bits.kind in "iu" else dtype)
    if bits.kind in "iu" and array.size:
        limits = np.iinfo(bits)
        smallest, largest = int(array.min()), int(array.max())
        if smallest < limits.min or largest > limits.max:
            worst = smallest if smallest < limits.min else largest
            raise WireError(f"a value is out of range for {dtype}: {worst}, expected {limits.min} to {limits.max}")
    array = array.astype(bits, copy=False)
    return array.view(np.float16) if dtype == np.float16 else array


def _shaped(array, shape):
    try:
        return array.reshape(shape)
    except ValueError as error:   # more than 64 axes; or one of 2^62, beside one of 0
        raise WireError(f"got the shape {_short(shape)}, of which there is no array") from error


def _short(shape):
    """A shape in a message; a request may have a million axes."""
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} axes"
