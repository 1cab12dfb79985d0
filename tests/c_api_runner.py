"""Runs a SavedModel through TensorFlow's C API: the C++ loader that TF Serving uses, with no Python TensorFlow.

    python -I tests/c_api_runner.py EXPORT_FOLDER SIGNATURE < inputs.pickle > outputs.pickle

Reads a pickled list of requests (dicts: input name -> array, or list of bytes for strings), and writes a pickled list
of answers: dicts of arrays (strings as object arrays of bytes), or the error's text where the model refused. The last
line of standard error is the largest memory it had, in bytes. It must run where `import tensorflow` has not happened:
the Python module registers more than the library does by itself.
"""

import ctypes
import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np

_STRING = 7
_TYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64, 10: np.bool_}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_TSTRING_BYTES = 24
_P = ctypes.c_void_p


class _Buffer(ctypes.Structure):
    _fields_ = [("data", _P), ("length", ctypes.c_size_t), ("deallocator", _P)]


class _Output(ctypes.Structure):
    _fields_ = [("operation", _P), ("index", ctypes.c_int)]


_FUNCTIONS = {   # name: (result, arguments)
    "TF_NewStatus": (_P, []), "TF_GetCode": (ctypes.c_int, [_P]), "TF_Message": (ctypes.c_char_p, [_P]),
    "TF_NewGraph": (_P, []), "TF_NewSessionOptions": (_P, []), "TF_NewBuffer": (ctypes.POINTER(_Buffer), []),
    "TF_LoadSessionFromSavedModel": (_P, [_P, _P, ctypes.c_char_p, _P, ctypes.c_int, _P, _P, _P]),
    "TF_GraphOperationByName": (_P, [_P, ctypes.c_char_p]),
    "TF_SessionRun": (None, [_P, _P, _P, _P, ctypes.c_int, _P, _P, ctypes.c_int, _P, ctypes.c_int, _P, _P]),
    "TF_AllocateTensor": (_P, [ctypes.c_int, _P, ctypes.c_int, ctypes.c_size_t]), "TF_DeleteTensor": (None, [_P]),
    "TF_TensorData": (_P, [_P]), "TF_TensorType": (ctypes.c_int, [_P]), "TF_NumDims": (ctypes.c_int, [_P]),
    "TF_Dim": (ctypes.c_int64, [_P, ctypes.c_int]), "TF_TensorByteSize": (ctypes.c_size_t, [_P]),
    "TF_StringInit": (None, [_P]), "TF_StringCopy": (None, [_P, ctypes.c_char_p, ctypes.c_size_t]),
    "TF_StringGetDataPointer": (_P, [_P]), "TF_StringGetSize": (ctypes.c_size_t, [_P]),
    "TF_GetAllOpList": (ctypes.POINTER(_Buffer), []), "TF_DeleteBuffer": (None, [_P]), "TF_Version": (
        ctypes.c_char_p, []),
}


class RunError(RuntimeError):
    """What the C API answered instead of a result."""


def load_library():
    """The C API of the installed TensorFlow wheel, found without importing it."""
    folder = Path(importlib.util.find_spec("tensorflow").submodule_search_locations[0])
    # The framework first, for all to see: the other library looks for its symbols there.
    framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name, None) or getattr(framework, name)
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library


def wire_fields(message):
    """Yields (field number, value) of a serialized protobuf: int for numbers, bytes for what has a length."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        else:
            size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
            yield key >> 3, message[position:position + size]
            position += size


def _map_entries(message, field):
    for number, value in wire_fields(message):
        if number == field:
            entry = dict(wire_fields(value))
            yield entry[1].decode(), entry.get(2, b"")


def signatures_of(meta_graph):
    """MetaGraphDef bytes -> {signature: ({input: tensor name}, {output: tensor name})}."""
    found = {}
    for name, signature in _map_entries(meta_graph, 5):
        sides = []
        for field in (1, 2):
            sides.append({key: dict(wire_fields(info))[1].decode() for key, info in _map_entries(signature, field)
                          if 1 in dict(wire_fields(info))})
        found[name] = tuple(sides)
    return found


class Model:
    """A SavedModel in a session of the C API."""

    def __init__(self, folder):
        self.tf = load_library()
        self.status = self.tf.TF_NewStatus()
        self.graph = self.tf.TF_NewGraph()
        meta = self.tf.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = self.tf.TF_LoadSessionFromSavedModel(
            self.tf.TF_NewSessionOptions(), None, str(folder).encode(), tags, 1, self.graph, meta, self.status)
        self._check()
        self.signatures = signatures_of(ctypes.string_at(meta.contents.data, meta.contents.length))

    def _check(self):
        if self.tf.TF_GetCode(self.status):
            raise RunError(self.tf.TF_Message(self.status).decode(errors="replace"))

    def _outputs(self, names):
        array = (_Output * len(names))()
        for place, name in zip(array, names):
            operation, _, index = name.partition(":")
            place.operation = self.tf.TF_GraphOperationByName(self.graph, operation.encode())
            place.index = int(index or 0)
            if not place.operation:
                raise RunError(f"the graph has no operation {operation!r}")
        return array

    def _tensor(self, value):
        if isinstance(value, list) or np.asarray(value).dtype.kind in "OS":
            flat = [item if isinstance(item, bytes) else bytes(item) for item in np.asarray(value, object).ravel()]
            shape, code, size = np.asarray(value, object).shape, _STRING, len(flat) * _TSTRING_BYTES
        else:
            value = np.ascontiguousarray(value)
            shape, code, size = value.shape, _CODES[value.dtype], value.nbytes
        tensor = self.tf.TF_AllocateTensor(code, (ctypes.c_int64 * len(shape))(*shape), len(shape), size)
        data = self.tf.TF_TensorData(tensor)
        if code == _STRING:
            for place, item in enumerate(flat):
                self.tf.TF_StringInit(data + place * _TSTRING_BYTES)
                self.tf.TF_StringCopy(data + place * _TSTRING_BYTES, item, len(item))
        elif size:
            ctypes.memmove(data, value.ctypes.data, size)
        return tensor

    def _array(self, tensor):
        code = self.tf.TF_TensorType(tensor)
        shape = [self.tf.TF_Dim(tensor, axis) for axis in range(self.tf.TF_NumDims(tensor))]
        data = self.tf.TF_TensorData(tensor)
        if code != _STRING:
            raw = ctypes.string_at(data, self.tf.TF_TensorByteSize(tensor)) if data else b""
            return np.frombuffer(raw, _TYPES[code]).reshape(shape)
        array = np.empty(int(np.prod(shape)), object)
        for place in range(array.size):
            string = data + place * _TSTRING_BYTES
            array[place] = ctypes.string_at(self.tf.TF_StringGetDataPointer(string), self.tf.TF_StringGetSize(string))
        return array.reshape(shape)

    def run(self, signature, inputs):
        """{input: array} -> {output: array}. Raises RunError, with TensorFlow's own message."""
        input_names, output_names = self.signatures[signature]
        if set(inputs) != set(input_names):
            raise RunError(f"inputs {sorted(inputs)}, the signature has {sorted(input_names)}")
        feeds = self._outputs([input_names[key] for key in inputs])
        fetches = self._outputs(list(output_names.values()))
        tensors = (_P * len(inputs))(*[self._tensor(value) for value in inputs.values()])
        results = (_P * len(output_names))()
        self.tf.TF_SessionRun(self.session, None, feeds, tensors, len(tensors), fetches, results, len(results),
                              None, 0, None, self.status)
        for tensor in tensors:
            self.tf.TF_DeleteTensor(tensor)
        self._check()
        answers = {key: self._array(tensor) for key, tensor in zip(output_names, results)}
        for tensor in results:
            self.tf.TF_DeleteTensor(tensor)
        return answers


def main(folder, signature):
    """Answers the pickled requests of standard input; what fails is answered with its message."""
    model, answers = Model(folder), []
    for request in pickle.load(sys.stdin.buffer):
        try:
            answers.append(model.run(signature, request))
        except RunError as error:
            answers.append(str(error))
    assert "tensorflow" not in sys.modules
    pickle.dump(answers, sys.stdout.buffer)
    # Not ru_maxrss: that also counts what the parent held when it started this process.
    with open("/proc/self/status", encoding="ascii") as status:
        peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(peak_kb * 1024, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
