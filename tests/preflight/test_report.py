"""The report: figures, text, page and comparison; and the command's exit status for what fits and what does not."""

import dataclasses
import inspect
import json
import sys
import types
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from keras import ops

import pipelines.__main__ as entry
from tests import toy_task
from tests.preflight.test_step import CORES, tiny_run
from tfhf.preflight import OutOfMemory, PreflightError, chips, command, compiler, page, report

GIB = 2**30
PATH = "while/StatefulPartitionedCall/m_1/encoder_1/layers_11_1/fc1_1"


@pytest.mark.parametrize("op_name, name", [
    (f"{PATH}/Tensordot/MatMul", "m/encoder/layers_*/fc1"),
    (f"gradient_tape/{PATH}/Tensordot/MatMul/MatMul_1", "m/encoder/layers_*/fc1 (backward)"),
    ("while_2/PartitionedCall_1/gradients_3/layers_0/fc1/MatMul", "layers_*/fc1 (backward)"),   # of a recomputed layer
    ("transformer/h_3_1/attn_1/MatMul", "transformer/h_*/attn"),
    ("m/conv_layers_0/Gelu/Erfc", "m/conv_layers_*"),
    ("XLA_Args", "arguments: weights, the optimizer's state, the batch"),
    ("adam_w/mul_3", "adam_w"),
    ("", "without a name"),
])
def test_an_op_belongs_to_a_layer(op_name, name):
    assert report.layer(op_name) == name


def test_layers_are_summed_and_the_rest_is_one():
    named = [(f"m/layers_{i}/fc/MatMul", 2.0) for i in range(12)] + [(f"m/other{i}/x", 1.0) for i in range(20)]
    rows = report.by_layer(named)
    assert rows[0] == {"name": "m/layers_*/fc", "amount": 24.0}
    assert rows[-1] == {"name": "the rest", "amount": 20.0 - 11} and len(rows) == 13


class _Compiled(SimpleNamespace):
    """What a `Compiled` tells of a program of 41 TFLOP, 225 GB and 6.5 GiB."""

    def __init__(self, **changes):
        costs = SimpleNamespace(flops=41e12, bytes=225e9, all_reduce_bytes=1e9, padded_share=0.1, cycles=0.94e9,
                                flops_by_name=((f"{PATH}/MatMul", 41e12),), bytes_by_name=((f"{PATH}/MatMul", 225e9),),
                                unknown_loops=("m/while",))
        values = dict(costs=costs, buffers=(SimpleNamespace(bytes=GIB, op_name="matmul", what="temporary f32[8]"),),
                      argument_bytes=2 * GIB, temporary_bytes=4 * GIB, output_bytes=2.5 * GIB, alias_bytes=2 * GIB,
                      total_bytes=6.5 * GIB, seconds=60.0)
        super().__init__(**{**values, **changes})


def _step(examples=128):
    function = tf.function(lambda x: tf.matmul(x, x, name="matmul"))
    return SimpleNamespace(name="train", function=function, specs=(tf.TensorSpec((2, 2)),), replicas=CORES,
                           examples=examples)


def _report(**changes):
    config = dataclasses.replace(tiny_run(toy_task.ToyTask.tiny()), batch_size=128, steps=3600)
    tpu = chips.tpu_named("v3-8")
    found = report.header("toy", "default", "train", config, tpu)
    found["programs"] = [report.with_model_flops(report.program(_step(), _Compiled(**changes), tpu), 30.75e12, tpu)]
    report.run_figures(found, 1e6, 8.0)
    return found


def test_the_figures_by_hand():
    """A v3 core: 61.5 TFLOP/s and 450 GB/s. 225 GB take 0.5 s, 41 TFLOP two thirds of one: that is the bound."""
    each = _report()["programs"][0]
    assert each["seconds"]["arithmetic"] == pytest.approx(2 / 3) and each["seconds"]["memory"] == pytest.approx(0.5)
    assert each["bound"] == "arithmetic" and each["bound_seconds"] == pytest.approx(2 / 3)
    assert each["mfu_ceiling"] == pytest.approx(0.75)    # a quarter of the arithmetic is activations again
    assert each["mfu_expected"] == pytest.approx(0.5)    # 940 million cycles at 940 MHz are a second
    assert each["examples_per_second"] == pytest.approx(192)
    assert each["memory"]["needed"] == 6.5 * GIB and each["memory"]["outputs"] == 0.5 * GIB
    assert each["memory"]["largest"][0]["place"].startswith("tests/preflight/test_report.py:")
    run = _report()["run"]
    assert run["bucket_mb_per_second"] == pytest.approx(192) and run["hours"] == pytest.approx(2 / 3)
    assert run["cost"] == pytest.approx(16 / 3) and run["examples"] == 3600 * 128


def test_the_text_says_it_all_and_json_holds_it():
    found = json.loads(json.dumps(_report()))
    said = report.text(found)
    for words in ("6.50 of 15.48 GiB", "41.000 TFLOP", "225.00 GB", "bound by            arithmetic: 666.7 ms",
                  "MFU at most 75.0%", "192.0 MB/s", "0.7 h at least, 5.33 at the given price",
                  "follows the data: m/while, counted once"):
        assert words in said, said
    assert report.sound(found) and said.endswith("\nfits")


def test_a_report_that_is_not_sound():
    found = _report()
    refused = report.failure(_step(), PreflightError("XLA does not compile X, model.py:3"))
    assert refused["fits"] is False and not report.sound({**found, "programs": [refused]})
    finding = {"level": "error", "what": "a string", "place": "task.py:3"}
    assert not report.sound({**found, "findings": [finding]})
    assert report.sound({**found, "findings": [{**finding, "level": "warning"}]})
    assert not report.sound({**found, "programs": []})
    said = report.text({**found, "programs": [refused], "findings": [finding]})
    assert "model.py:3" in said and "error: a string [task.py:3]" in said and said.endswith("DOES NOT FIT OR COMPILE")


def test_the_page_is_whole_and_fetches_nothing():
    found = _report()
    found["findings"] = [{"level": "warning", "what": "<b>", "place": "x & y"}]
    text = page.html(found)
    pictures = [part.partition("</svg>")[0] + "</svg>" for part in text.split("<svg")[1:]]
    assert len(pictures) == 5
    for picture in pictures:
        assert len(ElementTree.fromstring("<svg" + picture)) >= 2
    assert "<b>" not in text and "&lt;b&gt;" in text and "x &amp; y" in text
    assert "http" not in text and "<script" not in text and "6.50 of 15.48 GiB" in text
    refused = report.failure(_step(), OutOfMemory("a core needs 20 GiB", 20 * GIB, 15 * GIB, _Compiled))
    assert "a core needs 20 GiB" in page.html({**found, "programs": [refused]})


def test_two_reports_beside_each_other():
    lines = report.compare(_report(), _report(temporary_bytes=8 * GIB, total_bytes=13 * GIB)).splitlines()
    row = next(line.split() for line in lines if line.startswith("train: GiB a core"))
    assert row[-3:] == ["6.500", "13.000", "0.500"]


@pytest.mark.parametrize("fixed, slope, available, largest", [(2, 0.25, 15, 52), (2, 0.5, 100, 196), (20, 1, 15, 0)])
def test_the_search_for_the_largest_batch(monkeypatch, fixed, slope, available, largest):
    """Memory = fixed + slope * batch of a core: few compiles, and what is found is proven."""
    def compile_for_tpu(function, specs, topology, replicas):
        needed = int((fixed + slope * specs[0].shape[0]) * GIB)
        if needed > available * GIB:
            raise OutOfMemory("too large", needed, available * GIB, None)
        return SimpleNamespace(total_bytes=needed)

    class Resized(SimpleNamespace):
        def with_examples(self, examples):
            return Resized(name="train", function=None, specs=(tf.TensorSpec((examples // CORES,)),), replicas=CORES,
                           examples=examples)

    monkeypatch.setattr("tfhf.preflight.compiler.compile_for_tpu", compile_for_tpu)
    tpu = SimpleNamespace(name="v3-8", cores=CORES, topology="v3:2x2", chip=SimpleNamespace(hbm_bytes=available * GIB))
    found = command.largest_batch(Resized(examples=128), tpu, 1)
    assert largest - largest // 64 <= found["batch_size"] / CORES <= largest < found["refused"] / CORES
    assert found["refused"] - found["batch_size"] <= max(1, largest // 64) * CORES
    assert found["compiles"] <= 6


class _Model(toy_task.SeriesClassifier):
    """Adds what `spoil` makes of the hidden values."""

    spoil = staticmethod(lambda values: 0.0)

    def call(self, inputs, training=False):
        return super().call(inputs, training) + self.spoil(inputs["values"])


def _too_large(values):
    table = ops.tile(values[:1, :1], (60_000, 60_000)) * ops.arange(60_000, dtype="float32")
    return ops.sum(ops.sort(table, axis=0)[:2])  # 14 GB before, 14 GB after


def _unsupported(values):
    frames = tf.transpose(values)[:, :, None]
    paths = tf.raw_ops.CTCGreedyDecoder(inputs=frames, sequence_length=[12, 12])
    return tf.reduce_sum(paths.log_probability)


def _text(values):
    return tf.strings.to_number(tf.strings.as_string(values))[:, :1]


def _unknown_size(values):
    return tf.reduce_sum(tf.boolean_mask(values, values > 0))


@pytest.fixture
def spoilt(monkeypatch, tmp_path):
    """spoilt(function) -> `tfhf preflight toy ...` whose model has the function in it; gives status and report."""
    def run(spoil, *options):
        class Model(_Model):
            pass

        Model.spoil = staticmethod(spoil)

        class Spoilt(toy_task.ToyTask):
            def build_model(self):
                model = Model(self.config)
                model.expand.build((None, None, 1))
                for layer in (model.norm, model.head):
                    layer.build((None, self.config.width))
                model.built = True
                return model

        module = types.ModuleType("pipelines.toy")
        module.TASK = Spoilt
        module.RECIPES = {"default": toy_task.run_config(tmp_path, batch_size=2 * CORES, steps=3600)}
        monkeypatch.setitem(sys.modules, "pipelines.toy", module)
        monkeypatch.setattr(entry, "task_names", lambda: ["toy"])
        file = tmp_path / "report.json"
        files = ["--json", str(file), "--html", str(tmp_path / "report.html")]
        status = entry.main(["preflight", "toy", *files, *options])
        return status, json.loads(file.read_text()) if file.exists() else None

    return run


def _line(function, part):
    """"file.py:line" of the line of a function that holds `part`."""
    lines, first = inspect.getsourcelines(function)
    return f"test_report.py:{first + next(i for i, line in enumerate(lines) if part in line)}"


def test_a_step_that_fits(spoilt, capsys, tmp_path):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    before = tmp_path / "before.json"
    before.write_text(json.dumps(_report()))
    status, found = spoilt(lambda values: 0.0, "--price-per-hour", "8", "--compare", str(before))
    assert status == 0 and report.sound(found) and found["programs"][0]["fits"]
    said = capsys.readouterr().out
    assert said.startswith("toy, recipe default: train on v3-8, float32, batch 16") and "ratio" in said
    assert "train on v3-8" in (tmp_path / "report.html").read_text()
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("spoil, words, part", [
    (_unsupported, "CTCGreedyDecoder", "raw_ops"),
    (_too_large, "a core needs", "ops.sort"),
])
def test_what_the_compiler_refuses(spoilt, spoil, words, part):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    status, found = spoilt(spoil)
    program, = found["programs"]
    assert status == 1 and not program["fits"] and words in program["error"]
    places = [program["error"], *(entry["place"] for entry in program.get("memory", {}).get("largest", ()))]
    assert any(_line(spoil, part) in place for place in places), places


@pytest.mark.parametrize("spoil, words, part", [
    (_text, "AsString gives a string", "as_string"),
    (_unknown_size, "Where gives a result whose size", "boolean_mask"),
])
def test_what_is_found_before_compiling(spoilt, capsys, spoil, words, part):
    """No compiler is needed for it."""
    status, found = spoilt(spoil)
    assert status == 1 and found["programs"] == []
    assert any(words in each["what"] and _line(spoil, part) in each["place"] for each in found["findings"])
    assert _line(spoil, part) in capsys.readouterr().out


def test_one_clear_line_for_what_the_user_can_mend(spoilt, capsys):
    for options, words in ((["--tpu", "v9-8"], "v9-8"), (["batch_size=12"], "batch_size: got 12"),
                           (["--step", "generate"], "decode() compiles nothing")):
        assert spoilt(lambda values: 0.0, *options)[0] == 2
        assert words in capsys.readouterr().err


def test_without_the_compiler_there_is_no_verdict(spoilt, capsys, monkeypatch):
    """Not "does not fit": one clear line that says what to install."""
    monkeypatch.setattr("tfhf.preflight.compiler.VERSIONS", {"no-such-compiler": "1.0"})
    monkeypatch.setattr("tfhf.preflight.compiler._jax_names", compiler._jax_names.__wrapped__)
    status, found = spoilt(lambda values: 0.0)
    assert (status, found) == (2, None) and "pip install 'tfhf[preflight]'" in capsys.readouterr().err


@pytest.mark.parametrize("said, sizes", [
    ("Program (23.88G) exceeds available HBM (15.48G)", (int(23.88 * GIB), int(15.48 * GIB))),
    ("Used 4.00G of 4.00G hbm. Exceeded hbm capacity by 2.00M. Total", (4 * GIB + 2 * 2**20, 4 * GIB)),
    ("No registered 'X' OpKernel", None),
])
def test_both_ways_in_which_the_compiler_says_too_large(said, sizes):
    """The second is what a search for the largest batch meets."""
    assert compiler._hbm(said) == sizes
