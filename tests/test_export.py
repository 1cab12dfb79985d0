"""Exports: what is written, what is refused, and that other loaders give the Python model's answers."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from tests.c_api_runner import wire_fields
from tests.loudness_task import LoudnessConfig, LoudnessTask, wav
from tfhf import export as exporter
from tfhf.export import ExportError, compare_answers, export, load_exported

RUNNER = Path(__file__).with_name("c_api_runner.py")
SPEC = [tf.TensorSpec([None], tf.string, name="wav")]


def ask_c_api(folder, signature, requests):
    """Answers of the C API: the C++ loader of TF Serving, in a process that never imports TensorFlow's Python."""
    process = subprocess.run([sys.executable, "-I", str(RUNNER), str(folder), signature], input=pickle.dumps(requests),
                             capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    assert process.returncode == 0, process.stderr.decode(errors="replace")
    return pickle.loads(process.stdout)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(task, model, folder): weights of its own, a config with a path, and two files that were compared as well."""
    folder = tmp_path_factory.mktemp("exports")
    task = LoudnessTask(LoudnessConfig(pretrained="/srv/checkpoints/base/"))
    model = task.build_model()
    model.head.bias.assign([1.0, 2.0, 3.0, 4.0])
    for name in ("a", "b"):
        (folder / f"{name}.wav").write_bytes(wav(seed=ord(name), level=0.1))
    left = folder / "out" / "loudness" / ".writing-left"
    left.mkdir(parents=True)
    path = export(task, model, folder / "out", files=[folder / "a.wav", folder / "b.wav"])
    assert not left.exists()
    return task, model, Path(path)


def test_the_folder_is_what_tf_serving_expects(exported):
    task, _, folder = exported
    assert folder.parts[-2:] == ("loudness", "1") and os.listdir(folder.parent) == ["1"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"saved_model.pb", "variables/variables.index", "assets.extra/tf_serving_warmup_requests",
            "assets.extra/tfhf_export.json"} <= files
    assert folder.stat().st_mode & 0o777 == 0o755
    description = load_exported(folder.parent).description
    assert description["task"] == "loudness"
    assert description["config"] == {"width": 4, "pretrained": "base", "unit": "dB"} and description["labels"] == []
    assert description["signatures"]["serving_default"]["outputs"]["text"] == {"dtype": "string", "shape": [None]}


def test_only_the_variables_that_are_read_are_saved(exported):
    _, _, folder = exported
    names = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    assert len([name for name in names if "VARIABLE_VALUE" in name]) == 2


def test_every_loader_gives_the_python_models_answer(exported):
    task, model, folder = exported
    sounds = [wav(seed=seed, level=0.02 + 0.1 * seed, count=1000 + 500 * seed, rate_hz=rate, subtype=subtype)
              for seed, (rate, subtype) in enumerate([(8000, "PCM_U8"), (16000, "FLOAT"), (48000, "PCM_24")])]
    expected = {name: value.numpy() for name, value in task.signatures(model)["serving_default"](sounds).items()}
    assert len(set(expected["text"])) == 3
    compare_answers("Python", load_exported(folder)(wav=sounds), expected)
    answer, none, bad = ask_c_api(folder, "serving_default", [{"wav": sounds}, {"wav": []}, {"wav": [b"no sound"]}])
    compare_answers("the C API", answer, expected)
    assert none["text"].shape == (0,)
    assert "wav 0 of the batch: only 8 bytes" in bad
    ids, = ask_c_api(folder, "raw", [{"audio": np.full((2, 8), 0.5, "float32")}])
    # 10 log10(0.25) is -6.02; the four heads of weight 1 add 2.5 on average.
    np.testing.assert_array_equal(ids["ids"], np.array([-4, -4], "int32"))


def test_warm_up_requests_are_prediction_logs(exported):
    task, _, folder = exported
    records = list(tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")))
    assert len(records) == 3
    seen = []
    for record in records:
        request = dict(wire_fields(dict(wire_fields(dict(wire_fields(record.numpy()))[6]))[1]))
        spec, entry = dict(wire_fields(request[1])), dict(wire_fields(request[2]))
        tensor = tf.make_ndarray(TensorProto.FromString(entry[2]))
        seen.append((spec[1], spec[3], entry[1], tensor.shape))
    assert seen == [(b"loudness", b"serving_default", b"wav", (2,)), (b"loudness", b"raw", b"audio", (2, 8)),
                    (b"loudness", b"serving_default", b"wav", (2,))]
    assert tensor.tolist() == [(folder.parents[2] / f"{name}.wav").read_bytes() for name in "ab"]


def test_warm_up_requests_are_read_by_tensorflow_serving_api(exported):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2",
                               reason="tensorflow-serving-api pins TensorFlow; its parser is a second opinion")
    _, _, folder = exported
    record = next(iter(tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))))
    request = logs.PredictionLog.FromString(record.numpy()).predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("loudness", "serving_default")
    sounds = LoudnessTask.tiny().example_requests()["serving_default"]["wav"]
    assert tf.make_ndarray(request.inputs["wav"]).tolist() == sounds


class Wrong(LoudnessTask):
    """One signature, made by `function`, a function of strings."""

    def __init__(self, function, decorate=tf.function):
        super().__init__(LoudnessConfig())
        self.function, self.decorate = function, decorate

    def signatures(self, model):
        return {"serving_default": self.decorate(lambda wav: self.function(wav), input_signature=SPEC)}

    def example_requests(self):
        return {"serving_default": {"wav": [b"x"]}}


def _slice_update(wav):
    return {"y": keras.ops.slice_update(keras.ops.zeros(8), (keras.ops.cast(tf.size(wav), "int32"),), [1.0])}


def _compiled_inside(wav):
    return {"y": tf.function(lambda x: x + 1, jit_compile=True)(tf.size(wav))}


def _in_a_loop(wav):
    return {"y": tf.map_fn(lambda x: tf.py_function(lambda x: x, [x], tf.string), wav)}


REFUSED = {
    "jit_compile": (_compiled_inside, "must be compiled by XLA"),
    "an XLA op without jit_compile": (_slice_update, "op XlaDynamicUpdateSlice has no kernel without XLA"),
    "py_function": (_in_a_loop, "op EagerPyFunc calls Python"),
    "numpy_function": (lambda wav: {"y": tf.numpy_function(np.copy, [wav], tf.string)}, "op PyFunc calls Python"),
    "a path": (lambda wav: {"y": wav + str(Path(__file__))}, "of this machine"),
    "no dict": (lambda wav: wav, "expected a dict of tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_tf_serving_cannot_run_is_refused_and_nothing_is_left(tmp_path, case):
    function, message = REFUSED[case]
    with pytest.raises(ExportError, match=message):
        export(Wrong(function), None, tmp_path)
    assert not list(tmp_path.rglob("*[0-9]*")) and not list(tmp_path.rglob(".writing*"))


def test_signatures_and_examples_that_do_not_fit(tmp_path):
    fine = Wrong(lambda wav: {"y": wav})
    for task, arguments, message in (
        (Wrong(lambda wav: {"y": wav}, lambda function, **_: function), {}, "input_signature, got function"),
        (fine, {"examples": {}}, "nothing to compare"),
        (fine, {"examples": {"raw": {"wav": [b"x"]}}}, "no such signature, expected serving_default"),
        (fine, {"examples": {"serving_default": {"wave": [b"x"]}}}, "got wave, expected wav"),
        (fine, {"examples": {"serving_default": {"wav": np.array([b"x\0"])}}}, "drops zeros"),
        (fine, {"version": 0}, "version 0: expected a positive integer"),
        (Wrong(lambda wav: {"y": tf.size(wav)}), {"files": [__file__]}, "one string output"),
    ):
        with pytest.raises(ExportError, match=message):
            export(task, None, tmp_path, **arguments)
    assert not list(tmp_path.rglob("saved_model.pb"))


def test_another_answer_is_an_error_and_the_folder_is_removed(tmp_path, monkeypatch):
    """The Python road says something else than the graph."""
    (tmp_path / "a.wav").write_bytes(wav())
    task = LoudnessTask.tiny()
    monkeypatch.setattr(task, "decode", lambda model, inputs: ["-18 db"])
    with pytest.raises(ExportError, match=r"output text\[0\]: the export gives b'-18 dB', the Python model b'-18 db'"):
        export(task, task.build_model(), tmp_path / "out", examples={}, files=[tmp_path / "a.wav"])
    assert os.listdir(tmp_path / "out" / "loudness") == []


def test_an_op_of_some_library_is_refused():
    with pytest.raises(ExportError, match="core TensorFlow does not have: Frobnicate"):
        exporter._ask_fresh_process("", ["Add", "Frobnicate"], [])


def test_the_fresh_process_reports_what_went_wrong(tmp_path):
    with pytest.raises(ExportError, match="exit status 1"):
        exporter._ask_fresh_process(str(tmp_path), [], [("serving_default", {})])


def test_answers_are_compared_name_by_name_and_value_by_value():
    answer = {"text": np.array([b"a", b"b"], object), "score": np.array([1.0, np.nan], "float32")}
    compare_answers("s", answer, {**answer, "score": np.array([1.0005, np.nan], "float32")})
    for name, value, message in (
        ("text", np.array([b"a", b"B"], object), r"text\[1\]: the export gives b'b', the Python model b'B'; 1 of 2"),
        ("score", np.array([1.0, 2.0], "float32"), r"score\[1\].*1 of 2 differ by more than 0.001"),
        ("score", np.array([1.0], "float32"), r"float32 \[2\], the Python model float32 \[1\]"),
        ("score", np.array([1.0, np.nan]), "the Python model float64"),
        ("ids", np.array([1]), "got score, text, expected ids, score, text"),
    ):
        with pytest.raises(ExportError, match=message):
            compare_answers("s", answer, {**answer, name: value})


def test_versions_count_up(exported, tmp_path):
    task, model, folder = exported
    for name in ("3", "10", "old", ".writing-x"):
        (tmp_path / name).mkdir()
    assert exporter._version(str(tmp_path), None) == 11 and exporter._version(str(tmp_path), 4) == 4
    with pytest.raises(ExportError, match="this version is there already"):
        export(task, model, folder.parents[1], version=1)
    assert sorted(os.listdir(folder.parent)) == ["1"]


def test_nothing_to_load_is_said(tmp_path, exported):
    with pytest.raises(ExportError, match="no export here"):
        load_exported(tmp_path)
    with pytest.raises(ExportError, match="no signature 'text', expected raw, serving_default|serving_default, raw"):
        load_exported(exported[2])("text", wav=[b""])


def test_a_bucket_gets_the_whole_export(gcs):
    task, bucket = Wrong(lambda wav: {"y": tf.strings.length(wav)}), gcs.new_bucket()
    path = export(task, None, f"{bucket}/exports")
    assert path == f"{bucket}/exports/loudness/1"
    np.testing.assert_array_equal(load_exported(path)(wav=[b"four"])["y"], [4])
