"""Class weights: against scikit-learn's formula and torch's loss, by number and by name, alone and in mixtures."""

import dataclasses
import types

import keras
import numpy as np
import pytest

from tests import toy_task
from tfhf import run
from tfhf.config import ConfigError
from tfhf.data.class_weights import ClassWeights, check_class_weights, class_weights
from tfhf.data.pipeline import evaluation_batches, training_batches
from tfhf.data.records import JoinedReader, RecordReader, RecordWriter
from tfhf.data.schema import TEXT_LABEL, Field, RecordError, RecordType
from tfhf.task import TaskError

LANGUAGE = RecordType(name="said", version=1, length_field="length",
                      fields=(Field("id", "string"), Field("language", "string"), Field("length", "int")))


@dataclasses.dataclass(frozen=True)
class WeightedConfig(toy_task.ToyConfig):
    class_weights: ClassWeights = ()


class WeightedToyTask(toy_task.ToyTask):
    Config = WeightedConfig
    classes = ("low", "middle", "high")


def write_labels(folder, split, labels, record_type=TEXT_LABEL, field="label"):
    with RecordWriter(folder, split, record_type) as writer:
        for number, label in enumerate(labels):
            text = {"text": "a"} if record_type is TEXT_LABEL else {}
            writer.write({"id": str(number), field: label, "length": 1, **text})
    return folder


def stand_in(classes, weights, field="label", record_type=TEXT_LABEL, **config):
    return types.SimpleNamespace(classes=classes, record_classes=(), reference_field=field, record_type=record_type,
                                 config=types.SimpleNamespace(class_weights=weights, **config))


def weights_of(task, folders, shares=(1.0,)):
    reader = JoinedReader(RecordReader(folder / "train") for folder in folders)
    return class_weights(task, reader, np.arange(len(reader.lengths)), shares)


@pytest.mark.parametrize("counts", [(6, 2), (1, 1, 1), (700, 250, 50), (1, 299)])
def test_balanced(tmp_path, counts, capsys):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    folder = write_labels(tmp_path, "train", labels.tolist())
    got = weights_of(stand_in(tuple("abc"[:len(counts)]), "balanced"), [folder])
    # sklearn.utils.class_weight.compute_class_weight: n_samples / (n_classes * bincount)
    np.testing.assert_allclose(got, len(labels) / (len(counts) * np.array(counts)), rtol=1e-6)
    assert f"class weights, balanced over {len(labels)} records: a " in capsys.readouterr().err


def test_balanced_by_name(tmp_path):
    folder = write_labels(tmp_path, "train", ["hi", "en", "en", "de"], LANGUAGE, "language")
    task = stand_in(("en", "de", "hi"), "balanced", "language", LANGUAGE)
    np.testing.assert_allclose(weights_of(task, [folder]), [4 / 6, 4 / 3, 4 / 3], rtol=1e-6)
    task.classes = ("en", "de")
    with pytest.raises(RecordError, match="tfrecord: record 0: its language is none of task.classes: en, de"):
        weights_of(task, [folder])


def test_balanced_over_a_mixture(tmp_path):
    """Of all training examples the first folder gives a quarter, however many records it has."""
    folders = [write_labels(tmp_path / name, "train", labels)
               for name, labels in (("a", [0] * 30 + [1] * 10), ("b", [1, 1]))]
    got = weights_of(stand_in(("a", "b"), "balanced"), folders, (0.25, 0.75))
    np.testing.assert_allclose(got, [1 / (2 * 0.25 * 0.75), 1 / (2 * (0.25 * 0.25 + 0.75))], rtol=1e-6)


@pytest.mark.parametrize("labels, classes, words", [
    ([0, 0, 2], "abc", "no record is of the class 'b'"),
    ([0, 0, 0], "abc", "no record is of the class 'b', nor of 1 others"),
    ([0, 3, 1], "abc", "record 1: its label is none of task.classes: a, b, c"),
    ([0, -1, 1], "ab", "record 1: its label is none of task.classes: a, b"),
])
def test_records_that_cannot_be_balanced(tmp_path, labels, classes, words):
    folder = write_labels(tmp_path, "train", labels)
    with pytest.raises(RecordError, match=words):
        weights_of(stand_in(tuple(classes), "balanced"), [folder])


@pytest.mark.parametrize("weights, words", [
    ((1.0,), "got 1 numbers, expected balanced, or one for each of the 2 classes a, b"),
    ((1.0, 0.0), "expected numbers above 0"),
    ((1.0, -2.0), "expected numbers above 0"),
    ((1.0, float("nan")), "expected numbers above 0"),
    ((1.0, float("inf")), "expected numbers above 0"),
])
def test_weights_that_are_refused(weights, words):
    with pytest.raises(TaskError, match=words):
        check_class_weights(stand_in(("a", "b"), weights))


def test_mixup_is_refused():
    with pytest.raises(TaskError, match="a mixed example has two classes"):
        check_class_weights(stand_in(("a", "b"), "balanced", mixup=0.2))
    check_class_weights(stand_in(("a", "b"), (), mixup=0.2))


def test_on_the_command_line(tmp_path):
    config = toy_task.run_config(tmp_path, task=WeightedConfig())
    assert config.override(["task.class_weights=balanced"]).task.class_weights == "balanced"
    given = config.override(["task.class_weights=1,3.5,0.25"])
    assert given.task.class_weights == (1.0, 3.5, 0.25)
    given.save(tmp_path / "config.json")
    assert run.RunConfig.load(tmp_path / "config.json", task=WeightedConfig) == given
    with pytest.raises(ConfigError, match="task.class_weights: got 'balance', expected .*balanced.* or tuple"):
        config.override(["task.class_weights=balance"])


def test_training_is_weighted_and_evaluation_is_not(tmp_path):
    toy_task.write_records(tmp_path / "records")
    weights = (1.0, 10.0, 100.0)
    task = WeightedToyTask(WeightedConfig(class_weights=weights))
    batch = {"batch_size": 10, "seed": 0, "normalise_weights": False}
    for inputs, labels, weight in training_batches(task, tmp_path / "records", "train", num_steps=5, **batch):
        np.testing.assert_allclose(weight, inputs["length"].numpy() * np.array(weights)[labels.numpy()])
    for batch in evaluation_batches(task, tmp_path / "records", "validation", batch_size=7):
        np.testing.assert_allclose(batch["weight"], batch["inputs"]["length"])


def test_the_loss_of_a_run_is_that_of_a_weighted_mean(tmp_path):
    """The first step's loss, as torch's CrossEntropyLoss(weight=...) gives it for the same logits."""
    toy_task.write_records(tmp_path / "records")
    changes = {"steps": 3, "batch_size": 50, "evaluate_every": 0, "checkpoint_every": 0, "jit_compile": False}
    losses = {}
    for weights in ((), (1.0, 10.0, 100.0)):
        config = toy_task.run_config(tmp_path, task=WeightedConfig(class_weights=weights), **changes,
                                     output=str(tmp_path / f"run{len(weights)}"))
        losses[weights] = run.train(WeightedToyTask, config)["loss"][0]
    keras.utils.set_random_seed(0)
    model = WeightedToyTask(WeightedConfig()).build_model()
    examples = toy_task.examples(50)
    values = np.stack([np.pad(one["values"], (0, 12 - one["length"])) for one in examples])
    lengths = np.array([one["length"] for one in examples], "int32")
    labels = np.array([one["label"] for one in examples])
    logits = np.asarray(model({"values": values, "length": lengths}), "float64")
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(50), labels]
    for weights, loss in losses.items():
        weight = lengths * np.array(weights or (1.0, 1.0, 1.0))[labels]
        assert loss == pytest.approx((each * weight).sum() / weight.sum(), rel=1e-4)
