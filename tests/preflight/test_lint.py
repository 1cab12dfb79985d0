"""What would stand in a step's way: each kind is found, with the line it comes from; the tasks' own steps are clean."""

import dataclasses
import inspect
import re

import pytest
import tensorflow as tf

from tests import toy_task
from tests.preflight.test_step import CORES, tasks, tiny_run
from tfhf.preflight.lint import Finding, arguments, graph_findings, lint, outside_scope, retraces
from tfhf.preflight.step import prepared_steps
from tfhf.strategy import Runtime


def _line(function, part):
    """"file.py:line" of the line of a function that holds `part`."""
    lines, first = inspect.getsourcelines(function)
    return f"test_lint.py:{first + next(i for i, line in enumerate(lines) if part in line)}"


def _step(x):
    tf.print("sum", tf.reduce_sum(x))
    y = tf.numpy_function(lambda a: a, [x], tf.float32)
    positive = tf.boolean_mask(x, x > 0)
    text = tf.strings.as_string(x)
    wide = tf.cast(x, tf.float64) * 2
    for _ in tf.range(3):
        x = x + tf.cast(tf.where(x > 2.0)[0, 0], tf.float32)
    tf.debugging.assert_greater(x, 0.0, "a message is a string, and no matter")
    return x, y, positive, text, wide


def test_every_kind_is_found_with_its_line():
    found = graph_findings(tf.function(_step).get_concrete_function(tf.TensorSpec([4])).graph)
    for level, words, part in [
        ("error", "PrintV2 is the host's work", "tf.print"),
        ("error", "PyFunc calls Python", "numpy_function"),
        ("error", "Where gives a result whose size", "boolean_mask"),
        ("error", "AsString gives a string", "as_string"),
        ("warning", "Cast, Mul: float64", "float64"),
        ("error", "Where gives a result whose size", "x > 2.0"),   # inside a loop's body
    ]:
        assert [one for one in found if one.level == level and words in one.what
                and _line(_step, part) in one.place], (words, [str(one) for one in found])
    assert not [one for one in found if _line(_step, "assert_greater") in one.place]


@pytest.mark.parametrize("name", tasks())
def test_our_own_steps_are_clean(name):
    task = tasks()[name].tiny()
    for kind in ("train", "evaluate", "generate"):
        with prepared_steps(lambda _: task, tiny_run(task), kind, CORES) as prepared:
            assert lint(prepared) == []


class _Strings(toy_task.ToyTask):
    def preprocess(self, example, bucket, training):
        inputs, label, weight = super().preprocess(example, bucket, training)
        return {**inputs, "id": example["id"]}, label, weight


@pytest.mark.parametrize("kind, words", [
    (toy_task.UnpaddedTask, r"inputs/values has the shape \(2, None\); a TPU's shapes are static"),
    (_Strings, "inputs/id is a string, which a TPU has not"),
])
def test_what_preprocess_must_not_give(kind, words):
    """Told before the step is traced, with the line of preprocess."""
    task = kind(toy_task.ToyConfig())
    with prepared_steps(lambda _: task, tiny_run(task), "train", CORES) as prepared:
        finding, = arguments(prepared.steps[0], task)
        assert lint(prepared) == [finding]
    assert finding.level == "error" and re.search(words, finding.what)
    _, line = inspect.getsourcelines(kind.preprocess)
    assert f":{line} in {kind.__name__}.preprocess" in finding.place


def test_a_model_from_outside_the_scope():
    model = toy_task.ToyTask.tiny().build_model()
    task = toy_task.ToyTask.tiny()
    with prepared_steps(lambda _: task, tiny_run(task), "train", CORES) as prepared:
        runtime = prepared.steps[0].runtime
        assert outside_scope(runtime, prepared.steps[0].model) == []
    finding, = outside_scope(runtime, model)
    assert finding.level == "error" and "created outside strategy.scope()" in finding.what
    assert outside_scope(Runtime("none", None, 1, True), model) == []


def test_two_batches_of_the_records(tmp_path):
    """Nothing where there are none; a shape that follows the data is told."""
    class Ragged(toy_task.ToyTask):
        """Padded to the longest of its own two: as long as the first value says."""

        def preprocess(self, example, bucket, training):
            inputs, label, weight = super().preprocess(example, bucket, training)
            width = 6 + tf.cast(example["seed"][1] % 2, tf.int32)
            return {**inputs, "values": inputs["values"][:width]}, label, weight

    config = toy_task.run_config(tmp_path, batch_size=1)
    assert retraces(toy_task.ToyTask.tiny(), config) == []
    toy_task.write_records(tmp_path / "records")
    assert retraces(toy_task.ToyTask.tiny(), config) == []
    shapes = [retraces(Ragged.tiny(), dataclasses.replace(config, seed=seed)) for seed in range(6)]
    found = [one for one in shapes if one]
    assert found and "two batches have different shapes, 0/values: (1, " in found[0][0].what
    assert "Ragged.preprocess" in found[0][0].place


def test_records_that_cannot_be_read_are_a_warning(tmp_path):
    toy_task.write_records(tmp_path / "records")
    shard = next((tmp_path / "records" / "train").glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:100])
    finding, = retraces(toy_task.ToyTask.tiny(), toy_task.run_config(tmp_path))
    assert finding.level == "warning" and "two batches could not be made" in finding.what


def test_a_finding_reads_as_one_line():
    finding = Finding("error", "x is a string", "task.py:3 in preprocess")
    assert str(finding) == "error: x is a string [task.py:3 in preprocess]"
