"""A trained model into a SavedModel that TF Serving takes as it is: raw bytes in, named answers out.

    OUT/NAME/VERSION/saved_model.pb, variables/
                     assets.extra/tf_serving_warmup_requests    requests that TF Serving runs before it says it is ready
                     assets.extra/tfhf_export.json              task, configuration, labels, versions, signatures

Whatever counts as an export has been checked: core TensorFlow ops only, nothing that XLA must compile, no Python
function, no path of the machine that wrote it; and a fresh process without tfhf has loaded it and given the answers of
the Python model. An export that fails leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tfhf
from tfhf.data import storage

WARMUP, DESCRIPTION = "tf_serving_warmup_requests", "tfhf_export.json"
TOLERANCE = 1e-3
_PYTHON_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
# What an export must do without. A name that is None in sys.modules cannot be imported.
_ABSENT = ("tfhf", "pipelines", "tfrecords", "keras", "torch", "transformers", "tokenizers", "tensorflow_text")

# The fresh process: requests in, answers out, both pickled. It sees TensorFlow and numpy only, and the CPU only: this
# process may hold all of the accelerator's memory, or the only connection to it.
_FRESH = f"""
import pickle, sys
for name in {_ABSENT!r}:
    sys.modules[name] = None
import tensorflow as tf
from tensorflow.python.framework import op_def_registry
folder, given, taken = sys.argv[1:]
with open(given, "rb") as file:
    ops, requests = pickle.load(file)
unknown = [op for op in ops if op_def_registry.get(op) is None]
answers = []
if not unknown:
    loaded = tf.saved_model.load(folder)
    for name, inputs in requests:
        outputs = loaded.signatures[name](**{{key: tf.constant(value) for key, value in inputs.items()}})
        answers.append({{key: value.numpy() for key, value in outputs.items()}})
with open(taken, "wb") as file:
    pickle.dump((unknown, answers), file)
"""


class ExportError(ValueError):
    """An export that cannot be made or that answers otherwise than the model; the message says what and where."""


def export(task, model, out_dir, *, examples=None, files=(), version=None, tolerance=TOLERANCE) -> str:
    """Write OUT_DIR/NAME/VERSION and prove it; returns that folder.

    The functions of `task.signatures(model)` are what is exported, not the keras model: a model compiled with
    `jit_compile` stays out. They must be plain `tf.function`s over keras.ops, without `jit_compile`: stock TF Serving
    compiles nothing. `keras.ops.slice_update` is an XLA op in disguise and is refused as well.
    A model with an adapter is exported as its `serving_model()`, LoRA merged; `files` are answered by the model itself.
    State must be variables; a lookup table inside a signature is refused by TensorFlow when it saves.

    Args:
        task: a `tfhf.task.Task`; its name, config, `signatures` and `example_requests` are used, with `files` also its
            `load_inputs` and `decode`.
        model: what `task.build_model()` gives, with the weights to export.
        out_dir: local folder or gs:// prefix.
        examples: signature name -> {input name: array, or list of bytes}: real requests. They are compared and written
            as warm-up. None: `task.example_requests()`.
        files: paths of real inputs, such as clips. Their bytes make one more request to `serving_default`, whose only
            string output must be what the Python road (`task.load_inputs`, then `task.decode`) answers.
        version: positive integer; None: one above the highest that is there.
        tolerance: how far floats may be off, absolute and relative. Text and integers must be equal.

    Raises:
        ExportError: no example, a forbidden op, a path of this machine, another answer; nothing is left behind.
    """
    examples = dict(task.example_requests() if examples is None else examples)
    if not examples and not files:
        raise ExportError(f"export of {task.name}: nothing to compare, expected `examples`, `files` or a task with "
                          "example_requests(): an export that was never asked anything is not one")
    functions = _concrete(task, model.serving_model() if hasattr(model, "serving_model") else model)
    checks = [_check_of_request(functions, name, inputs) for name, inputs in examples.items()]
    if files:
        checks.append(_check_of_files(task, model, functions, files))
    requests = [(name, inputs) for name, inputs, _ in checks]

    remote = storage.is_remote(out_dir)
    # The fresh process works in another folder, where a relative path would mean something else.
    parent = storage.join(out_dir if remote else os.path.abspath(out_dir), task.name)
    storage.make_folder(parent)
    lock = storage.FolderLock(parent)
    try:
        if not remote:   # the lock is ours, so these belong to exports that were killed
            for left in Path(parent).glob(".writing-*"):
                shutil.rmtree(left)
        number = _version(parent, version)
        staging = tempfile.mkdtemp(prefix=".writing-", dir=None if remote else parent)
        try:
            _write(staging, task, functions, requests)
            ops = check_graph(staging)
            _check_paths(staging, *([] if remote else [os.path.abspath(out_dir)]))
            for got, (name, _, expected) in zip(_ask_fresh_process(staging, ops, requests), checks, strict=True):
                compare_answers(name, got, expected, tolerance)
            os.chmod(staging, 0o755)   # mkdtemp lets nobody else read, and the server is somebody else
            return _publish(staging, parent, number, remote)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    finally:
        lock.close()


class Exported:
    """A loaded export: called with arrays, answers with arrays. Needs nothing of the task.

    Attributes:
        path: the version's folder.
        signatures: name -> {input name: tf.TensorSpec}.
        description: what assets.extra/tfhf_export.json says, a dict.
    """

    def __init__(self, path):
        self.path = path
        self._loaded = tf.saved_model.load(path)
        self.signatures = {name: dict(function.structured_input_signature[1])
                           for name, function in self._loaded.signatures.items()}
        self.description = json.loads(storage.read_bytes(storage.join(path, "assets.extra", DESCRIPTION)))

    def __call__(self, signature="serving_default", **inputs):
        """{output name: array}; strings are object arrays of bytes. Raises ExportError for an unknown name."""
        if signature not in self.signatures:
            raise ExportError(f"{self.path}: no signature {signature!r}, expected {_listed(self.signatures)}")
        arrays = _arrays(f"{self.path}, signature {signature}", inputs, self.signatures[signature])
        return _answer(self._loaded.signatures[signature], arrays)


def load_exported(path) -> Exported:
    """Load an export: a version's folder, or the folder of all versions, of which it takes the highest.

    Raises:
        ExportError: there is no export.
    """
    path = os.fspath(path)
    if not storage.exists(storage.join(path, "saved_model.pb")):
        versions = _versions(path)
        if not versions:
            raise ExportError(f"{path}: no export here, expected saved_model.pb or folders named 1, 2, ...")
        path = storage.join(path, str(versions[-1]))
    return Exported(path)


def check_graph(folder) -> list[str]:
    """The ops of the SavedModel in `folder`, sorted.

    Raises:
        ExportError: a function that XLA must compile, an XLA op, or an op that calls Python.
    """
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(storage.read_bytes(storage.join(folder, "saved_model.pb")))
    ops, compiled = {}, []
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        bodies = [("the main graph", graph.node)]
        for function in graph.library.function:
            name = function.signature.name
            bodies.append((f"function {name}", function.node_def))
            if function.attr["_XlaMustCompile"].b:
                compiled.append(f"function {name}")
        for where, nodes in bodies:
            for node in nodes:
                ops.setdefault(node.op, f"{where}, node {node.name}")
                if "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b:
                    compiled.append(f"{where}, node {node.name}")
    if compiled:
        raise ExportError(f"{len(compiled)} functions must be compiled by XLA, which TF Serving does not do; expected "
                          f"tf.function without jit_compile: {_listed(compiled)}")
    for op, where in sorted(ops.items()):
        if op.startswith("Xla"):
            raise ExportError(f"op {op} has no kernel without XLA, which TF Serving does not run ({where}); "
                              "keras.ops.slice_update makes it: use where over a mask, or scatter_update")
        if op in _PYTHON_OPS:
            raise ExportError(f"op {op} calls Python, which is not there in TF Serving ({where}); expected "
                              "TensorFlow ops instead of tf.py_function or tf.numpy_function")
    return sorted(ops)


def compare_answers(signature, got, expected, tolerance=TOLERANCE) -> None:
    """Both {output name: array}: text and integers equal, floats within `tolerance` (absolute and relative).

    Raises:
        ExportError: the first difference, with both values.
    """
    _check_names(f"answer of {signature}", got, expected)
    for name, want in expected.items():
        have, where = got[name], f"answer of {signature}, output {name}"
        number = want.dtype.kind in "fV"   # V: bfloat16
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ExportError(f"{where}: the export gives {have.dtype} {list(have.shape)}, the Python model "
                              f"{want.dtype} {list(want.shape)}")
        if number:
            have, want = have.astype("float64"), want.astype("float64")
            same = np.isclose(have, want, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            same = np.asarray(have == want)
        if not same.all():
            place = tuple(int(i) for i in np.argwhere(~same)[0])
            raise ExportError(f"{where}{list(place)}: the export gives {have[place]!r}, the Python model "
                              f"{want[place]!r}; {int((~same).sum())} of {same.size} differ"
                              + (f" by more than {tolerance:g}" if number else ""))


def prediction_log(model_name, signature, inputs) -> bytes:
    """A serialized tensorflow.serving.PredictionLog, the content of a warm-up record.

    Encoded here, since tensorflow-serving-api pins TensorFlow. Fields: PredictionLog.predict_log 6, PredictLog.request
    1, PredictRequest.model_spec 1 and inputs 2 (a map: key 1, value 2), ModelSpec.name 1 and signature_name 3.
    """
    spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    request = _field(1, spec)
    for name, value in sorted(inputs.items()):
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number, payload):
    # Wire type 2: tag, length as a varint, bytes.
    size, length = len(payload), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + payload


def _arrays(where, inputs, specs):
    """Input name -> array of the signature's type; strings as object arrays of bytes."""
    _check_names(where, inputs, specs)
    arrays = {}
    for name, spec in specs.items():
        if isinstance(inputs[name], np.ndarray) and inputs[name].dtype.kind == "S":
            raise ExportError(f"{where}, input {name}: numpy's S type drops zeros at the end of a file; expected a "
                              "list of bytes or an object array")
        arrays[name] = np.array(inputs[name], object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)
    return arrays


def _answer(function, arrays):
    outputs = function(**{name: tf.constant(value) for name, value in arrays.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _listed(names):
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_names(where, got, expected):
    if set(got) != set(expected):
        raise ExportError(f"{where}: got {_listed(sorted(got)) or 'nothing'}, expected {_listed(sorted(expected))}")


def _concrete(task, model):
    """Signature name -> concrete function, traced once."""
    functions = {}
    for name, function in task.signatures(model).items():
        if getattr(function, "input_signature", None) is None:
            raise ExportError(f"task {task.name}, signature {name}: expected a tf.function with an input_signature, "
                              f"got {type(function).__name__}")
        functions[name] = function.get_concrete_function()
        outputs = functions[name].structured_outputs
        if not isinstance(outputs, dict) or not all(tf.is_tensor(value) for value in outputs.values()):
            raise ExportError(f"task {task.name}, signature {name}: expected a dict of tensors, got {outputs!r}")
    if "serving_default" not in functions:
        raise ExportError(f"task {task.name}: signatures {_listed(functions) or 'none'}, expected serving_default")
    return functions


def _specs(function):
    """Input name -> TensorSpec, of a concrete function."""
    arguments, keywords = function.structured_input_signature
    return {spec.name: spec for spec in [*arguments, *keywords.values()]}


def _check_of_request(functions, name, inputs):
    """(signature, inputs, expected answer) for an example."""
    if name not in functions:
        raise ExportError(f"example request for {name!r}: no such signature, expected {_listed(functions)}")
    arrays = _arrays(f"example request for {name}", inputs, _specs(functions[name]))
    return name, arrays, _answer(functions[name], arrays)


def _check_of_files(task, model, functions, files):
    """(signature, inputs, expected answer) for files: their bytes in, the answer of the Python road out."""
    function = functions["serving_default"]
    inputs = [name for name, spec in _specs(function).items() if spec.dtype == tf.string]
    outputs = [name for name, value in function.structured_outputs.items() if value.dtype == tf.string]
    outputs = ["text"] if "text" in outputs else outputs   # beside it may stand words
    if len(inputs) != 1 or len(_specs(function)) != 1 or len(outputs) != 1:
        raise ExportError(f"task {task.name}: files need a serving_default with one input, a string, and one string "
                          f"output, or several and one called text; it has inputs {_listed(_specs(function))} and "
                          f"string outputs {_listed(outputs)}")
    request = {inputs[0]: np.array([storage.read_bytes(os.fspath(path)) for path in files], object)}
    rows = [task.load_inputs(os.fspath(path)) for path in files]
    batch = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    answer = _answer(function, request)
    pairs = zip(task.decode(model, batch), answer[outputs[0]], strict=True)
    decoded = np.array([_as_bytes(task, prediction, data) for prediction, data in pairs], object)
    # The text is the Python road's; of other outputs, such as scores, only the graph knows.
    return "serving_default", request, {**answer, outputs[0]: decoded}


def _as_bytes(task, prediction, answered):
    """The bytes that an export must answer: those of a text; or `answered`, a picture's file, if it holds the predicted
    picture, but for the rounding of one step in 255."""
    if isinstance(prediction, str):
        return prediction.encode("utf-8")
    if not isinstance(prediction, np.ndarray) or prediction.dtype != np.uint8:
        raise ExportError(f"task {task.name}: files are compared by predictions that are text or uint8 images; got "
                          f"{getattr(prediction, 'dtype', type(prediction).__name__)}")
    picture = tf.io.decode_image(answered, expand_animations=False).numpy().astype("int32")
    if picture.shape != prediction.shape or np.abs(picture - prediction).max() > 1:
        raise ExportError(f"task {task.name}: serving_default answers a file with a picture of {list(picture.shape)} "
                          f"that is not the predicted one of {list(prediction.shape)}")
    return answered


def _write(folder, task, functions, requests):
    module = tf.Module()
    # The tf.Variables that the signatures read, and no others: neither the keras model nor its optimizer.
    found = {id(variable): variable for function in functions.values() for variable in function.variables}
    module.values = sorted(found.values(), key=lambda variable: variable.name)
    tf.saved_model.save(module, folder, signatures=functions)
    extra = os.path.join(folder, "assets.extra")
    os.makedirs(extra)
    with tf.io.TFRecordWriter(os.path.join(extra, WARMUP)) as writer:
        for name, inputs in requests:
            writer.write(prediction_log(task.name, name, inputs))
    sides = {name: {"inputs": {key: _described(spec) for key, spec in _specs(function).items()},
                    "outputs": {key: _described(value) for key, value in function.structured_outputs.items()}}
             for name, function in functions.items()}
    description = {"task": task.name, "config": _without_paths(task.config.to_dict()), "labels": list(task.classes),
                   "signatures": sides,
                   "versions": {"tfhf": tfhf.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}}
    Path(extra, DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _described(value):
    return {"dtype": value.dtype.name, "shape": value.shape.as_list() if value.shape.rank is not None else None}


def _without_paths(value):
    """The config with each absolute path cut to its last name: a server has no use for folders of this machine."""
    if isinstance(value, dict):
        return {key: _without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    return os.path.basename(value.rstrip("/")) if isinstance(value, str) and os.path.isabs(value) else value


def _check_paths(folder, *more):
    """No path of this machine in what describes the model; the weights and the warm-up requests are data."""
    packages = [os.path.dirname(os.path.dirname(os.path.abspath(module.__file__))) for module in (tfhf, tf, keras)]
    searched = set()
    for place in {os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir(), *packages, *more}:
        # Of a short one such as the temporary folder, what stands in it: its own name may be a word of the task.
        if len(Path(place).parts) > 2:
            searched.add(place + "/")
        elif len(Path(place).parts) == 2 and os.path.isdir(place):
            searched |= {os.path.join(place, name) for name in os.listdir(place) if len(name) > 2}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name != WARMUP and not path.name.startswith("variables.data"):
            content = path.read_bytes()
            found = [place for place in sorted(searched) if place.encode() in content]
            if found:
                raise ExportError(f"{path.relative_to(folder)} holds the path {found[0]!r} of this machine; expected "
                                  "none: a server elsewhere does not have it")


def _ask_fresh_process(folder, ops, requests):
    """The answers of a process that imports TensorFlow only."""
    with tempfile.TemporaryDirectory() as exchange:
        given, taken = os.path.join(exchange, "requests"), os.path.join(exchange, "answers")
        Path(given).write_bytes(pickle.dumps((ops, requests)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
        # -I: neither the current folder nor PYTHONPATH nor the user's packages.
        command = [sys.executable, "-I", "-c", _FRESH, folder, given, taken]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace",
                                 stdin=subprocess.DEVNULL, cwd=exchange)
        if process.returncode:
            said = "\n".join(process.stderr.strip().splitlines()[-12:])
            raise ExportError(f"a fresh process without tfhf could not run the export (exit status "
                              f"{process.returncode}):\n{said}")
        unknown, answers = pickle.loads(Path(taken).read_bytes())
    if unknown:
        raise ExportError(f"ops that core TensorFlow does not have: {_listed(unknown)}; expected core ops only, since "
                          "TF Serving has no others")
    return answers


def _versions(parent):
    return sorted(int(name) for name in storage.list_names(parent) if name.isdigit())


def _version(parent, version):
    there = _versions(parent)
    if version is None:
        return there[-1] + 1 if there else 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ExportError(f"version {version!r}: expected a positive integer")
    if version in there:
        raise ExportError(f"{storage.join(parent, str(version))}: this version is there already; expected one of its "
                          f"own, the next is {there[-1] + 1}")
    return version


def _publish(staging, parent, number, remote):
    folder = storage.join(parent, str(number))
    if not remote:
        os.rename(staging, folder)
        return folder
    # A bucket has no rename. The file without which nothing loads comes last.
    names = [path.relative_to(staging).as_posix() for path in Path(staging).rglob("*") if path.is_file()]
    last = {"saved_model.pb"}
    try:
        for part in (set(names) - last, last):
            storage.upload({os.path.join(staging, name): storage.join(folder, name) for name in part})
    except OSError as error:
        storage.remove_folder(folder)
        raise ExportError(f"{folder}: could not be written ({error}); what had been was removed") from error
    return folder
