"""Predictions that are pictures, pictures in TensorBoard and beside the answers of `predict`, references as bytes."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines import __main__ as command
from tfhf import run
from tfhf.config import Config
from tfhf.data.image import MAX_PIXELS, decode_checked, decode_image, encode_png, read_image, to_float, to_uint8
from tfhf.data.image_records import image_pair
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_PAIR
from tfhf.evaluation import PICTURED_EXAMPLES, PredictionFolder, merged_results, references
from tfhf.pictures import error_map, side_by_side
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task, TaskError
from tests import toy_task

SIZE = (6, 9)


@dataclasses.dataclass(frozen=True)
class NegativeConfig(Config):
    bad: bool = False


class MeanError:
    """The reference is the record's bytes."""

    name = "mean_error"

    def __init__(self):
        self.errors = []

    def update(self, reference, prediction):
        truth = decode_checked(reference, "reference")
        self.errors.append(np.abs(truth.astype(float) - prediction).mean())

    def result(self):
        return {"mean_error": float(np.mean(self.errors))}


class NegativeTask(Task):
    """Images into their negatives, by a scale and a shift."""

    name, Config, record_type, reference_field = "negative_toy", NegativeConfig, IMAGE_PAIR, "target"
    buckets = (MAX_PIXELS,)

    def preprocess(self, example, bucket, training):
        image, target = (tf.ensure_shape(to_float(decode_image(example[name])), [*SIZE, 3])
                         for name in ("image", "target"))
        return {"image": image}, target, 1.0

    def build_model(self):
        image = keras.Input((*SIZE, 3), name="image")
        return keras.Model({"image": image}, keras.layers.Conv2D(3, 1)(image))

    def loss(self):
        return lambda targets, outputs: keras.ops.mean(keras.ops.square(targets - outputs), axis=(1, 2, 3))

    def metrics(self):
        return [MeanError()]

    def decode(self, model, inputs):
        return list(to_uint8(model(inputs, training=False)).numpy())

    def load_inputs(self, path):
        return {"image": to_float(read_image(path)).numpy()}

    def pictures(self, inputs, targets, outputs):
        if self.config.bad:
            return {"wrong": outputs}
        return {"rows": np.stack([side_by_side([image, output, error_map(output, target)])
                                  for image, output, target in zip(inputs["image"], outputs, targets)])}

    def picture(self, inputs, prediction):
        return side_by_side([inputs["image"], prediction], ["in", "out"])


TASK = NegativeTask


@pytest.fixture
def config(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 6)):
        with RecordWriter(tmp_path / "records", split, IMAGE_PAIR) as writer:
            for number in range(count):
                image = random.integers(0, 256, (*SIZE, 3)).astype("uint8")
                files = (encode_png(image).numpy(), encode_png(255 - image).numpy())
                writer.write(image_pair(f"{split}/{number}", *files, ("image", "target")))
                (tmp_path / f"{number}.png").write_bytes(files[0])
    config = RunConfig(output=str(tmp_path / "run"), data=DataConfig(str(tmp_path / "records")), task=NegativeConfig(),
                       batch_size=4, eval_batch_size=4, steps=4, evaluate_every=2, jit_compile=False)
    return config.override(["optimizer.learning_rate=0.05", "optimizer.warmup_steps=1"])


def shown(folder):
    """(step, tag, images) of every image in a run's TensorBoard files"""
    return [(event.step, value.tag, [tf.io.decode_image(data).numpy() for data in value.tensor.string_val[2:]])
            for path in sorted((folder / "tensorboard").iterdir())
            for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "images"]


def test_pictures_of_the_first_examples_at_each_evaluation(config, tmp_path):
    run.train(NegativeTask, dataclasses.replace(config, ema_decay=0.9))
    check_pictures(tmp_path)


@pytest.mark.nightly
def test_pictures_under_a_strategy(config, tmp_path):
    """In a process of its own: virtual devices come before anything else."""
    config.save(str(tmp_path / "config.json"))
    code = ("import sys; from tests.test_evaluation import NegativeConfig, NegativeTask, RunConfig, run; "
            "run.train(NegativeTask, RunConfig.load(sys.argv[1], task=NegativeConfig).override(['strategy=cpu:2']))")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "config.json")], check=True)
    check_pictures(tmp_path)


def check_pictures(tmp_path):
    found = shown(tmp_path / "run")
    assert [(step, tag) for step, tag, _ in found] == [(2, "rows"), (4, "rows")]
    assert [len(images) for _, _, images in found] == [PICTURED_EXAMPLES] * 2
    first, second = (images[0] for _, _, images in found)
    assert first.shape == (6, 9 * 3 + 8, 3)
    np.testing.assert_array_equal(first[:, :9], second[:, :9])          # the same example each time
    assert (first[:, 13:22] != second[:, 13:22]).any()                  # by the model as it stands


def test_predictions_that_are_images_become_files(config, tmp_path, capsys):
    run.train(NegativeTask, dataclasses.replace(config, evaluate_every=0))
    results = run.evaluate(NegativeTask, config)
    folder = tmp_path / "run" / "evaluation" / "validation-step-00000004"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"validation/{number}" for number in range(6)]
    assert [line["prediction"] for line in lines] == [f"predictions/validation-{number}.png" for number in range(6)]
    assert all(line["reference"].endswith(" bytes") for line in lines)
    assert results["examples"] == 6 and results["mean_error"] > 0
    assert read_image(folder / lines[0]["prediction"]).shape == (*SIZE, 3)
    assert "padding" not in capsys.readouterr().err   # images are not padded

    files = [str(tmp_path / name) for name in ("0.png", "1.png")]
    answers = run.predict(NegativeTask, config, files)
    assert [answer.shape for answer in answers] == [(*SIZE, 3)] * 2 and not (tmp_path / "run" / "predictions").exists()
    kept = run.predict(NegativeTask, config, files, folder=config.output)
    assert kept == [str(tmp_path / "run" / "predictions" / f"{number}.png") for number in range(2)]
    np.testing.assert_array_equal(read_image(kept[1]), answers[1])
    picture = read_image(tmp_path / "run" / "predictions" / "1-picture.png")
    np.testing.assert_array_equal(picture[16:, 13:], answers[1])


def test_the_command_writes_pictures_beside_the_answers(config, tmp_path, capsys, monkeypatch):
    run.train(NegativeTask, dataclasses.replace(config, evaluate_every=0))
    monkeypatch.setattr("tests.test_evaluation.RECIPES", {"default": config}, raising=False)
    monkeypatch.setattr(command, "load_task", lambda name: __import__("tests.test_evaluation", fromlist=["TASK"]))
    capsys.readouterr()
    assert command.main(["predict", "negative_toy", str(tmp_path / "0.png")]) == 0
    captured = capsys.readouterr()
    where = tmp_path / "run" / "predictions"
    assert captured.out == f"{tmp_path / '0.png'}\t{where / '0.png'}\n"
    assert f"picture: {where / '0-picture.png'}" in captured.err
    assert sorted(path.name for path in where.iterdir()) == ["0-picture.png", "0.png"]


def test_pictures_of_another_form_are_refused(config):
    config = dataclasses.replace(config, task=NegativeConfig(bad=True))
    with pytest.raises(TaskError, match="pictures.. gave 'wrong' as float32 .4, 6, 9, 3., expected uint8"):
        run.train(NegativeTask, config)


def test_what_a_line_of_predictions_holds(tmp_path):
    files = PredictionFolder(str(tmp_path))
    assert files.plain({"label": "cat", "scores": np.array([0.5, 1])}, "a") == {"label": "cat", "scores": [0.5, 1.0]}
    assert files.plain([np.int64(3), b"12345", None], "a") == [3, "5 bytes", None]
    assert not (tmp_path / "predictions").exists()
    depth = np.linspace(0, 9, 12, dtype="float32").reshape(3, 4)
    assert files.plain({"depth": depth, "seen": np.ones((3, 4), "uint8")}, "x/y z.jpg") == {
        "depth": "predictions/x-y-z.jpg-depth.npy", "seen": "predictions/x-y-z.jpg-seen.png"}
    np.testing.assert_array_equal(np.load(tmp_path / "predictions" / "x-y-z.jpg-depth.npy"), depth)
    assert files.plain(np.full((2, 2, 1), 300, "uint16"), "b") == "predictions/b.png"
    assert files.plain(np.full((2, 2, 3), 3, "uint8"), "b") == "predictions/b-2.png"   # another file of that name
    data = (tmp_path / "predictions" / "b.png").read_bytes()
    assert tf.io.decode_png(data, dtype=tf.uint16).numpy().max() == 300
    assert PredictionFolder(str(tmp_path), "there").plain(depth, "../c") == "there/predictions/c.npy"


def test_references_are_text_or_bytes_as_the_record_has_them():
    assert references(NegativeTask(NegativeConfig()), np.array([b"\xff\x00"], object)) == [b"\xff\x00"]
    assert references(toy_task.ToyTask(toy_task.ToyConfig()), np.array([3, 4])) == [3, 4]


def test_results_of_one_name():
    one, two = MeanError(), MeanError()
    one.errors, two.errors = [1.0], [2.0]
    assert merged_results([one]) == {"mean_error": 1.0}
    assert merged_results([one, two]) == {"mean_error": 1.0, "mean_error_mean_error": 2.0}
    with pytest.raises(TaskError, match="two metrics both give"):
        merged_results([one, two, two])
