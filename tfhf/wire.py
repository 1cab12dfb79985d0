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
# One value may stand for all of a tensor; of so many at most, or a few bytes would ask for all memory.
_MOST_REPEATED = 2**20

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
AVAILABLE = 30   # ModelVersionStatus.State


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


def from_tensor(tensor) -> np.ndarray:
    """TensorProto -> array; strings are bytes in an object array.

    Raises:
        WireError: a type that is not known here, or more or fewer values than the shape says.
    """
    if tensor.dtype not in DTYPES:
        raise WireError(f"got a tensor of TensorFlow's type {tensor.dtype}, expected one of {sorted(DTYPES)}")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise WireError(f"got a tensor of unknown shape {shape}, expected a known one")
    dtype, count = np.dtype(DTYPES[tensor.dtype]), math.prod(shape)
    if tensor.tensor_content and dtype != object:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise WireError(f"got {len(tensor.tensor_content)} bytes for shape {shape} of {dtype}, expected "
                            f"{count * dtype.itemsize}")
        return np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    values = getattr(tensor, _VALUES[tensor.dtype])
    if len(values) != count and not (len(values) == 1 and count <= _MOST_REPEATED):
        raise WireError(f"got {len(values)} values for shape {shape}, expected {count}")
    try:
        if tensor.dtype == 19:   # the bits of each half as an integer
            array = np.array(values, np.uint16).view(np.float16)
        elif dtype == object:
            array = np.empty(len(values), object)
            array[:] = list(values)
        else:
            array = np.array(values, dtype)
    except OverflowError as error:
        raise WireError(f"a value is out of range for {dtype}: {error}") from error
    return np.resize(array, shape) if count else array[:0].reshape(shape)
