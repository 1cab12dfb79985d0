"""unet_depth through the house: every check of the harness, a run, its export, its pictures, its refusals."""

import dataclasses
import json
import math
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from pipelines.unet_depth import RECIPES, TASK, UNetDepthConfig
from tests import depth_scenes, harness
from tfhf import run
from tfhf.data.image import decode_depth, resize
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_DEPTH, RecordError
from tfhf.export import export
from tfhf.metrics.depth import DepthErrors
from tfhf.task import TaskError


def test_harness(tmp_path):
    harness.check_task(TASK, depth_scenes.examples(16, height=24, width=32), tmp_path)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, depth_scenes.examples(16, height=24, width=32), tmp_path)


def _records(folder, split, examples):
    with RecordWriter(folder, split, IMAGE_DEPTH, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)


def _config(tmp_path, **changes):
    config = dataclasses.replace(RECIPES["tiny_cpu"], task=TASK.tiny().config, batch_size=4, eval_batch_size=4,
                                 output=str(tmp_path / "run"), data=run.DataConfig(str(tmp_path / "records")), steps=2,
                                 optimizer=dataclasses.replace(RECIPES["tiny_cpu"].optimizer, warmup_steps=1))
    return dataclasses.replace(config, **changes)


def test_trained_evaluated_and_predicted(tmp_path):
    examples = depth_scenes.examples(6, height=24, width=32)
    for split in ("train", "validation"):
        _records(tmp_path / "records", split, examples)
    config = _config(tmp_path, evaluate_every=2)
    run.train(TASK, config)
    results = run.evaluate(TASK, config)
    # By hand: every image alone, the prediction at the size of the measured depth.
    task = TASK(config.task)
    model, metric = run.load_trained(task, config.output), DepthErrors()
    for example in examples:
        image = tf.io.decode_png(example["image"]).numpy()
        (tmp_path / "image.png").write_bytes(example["image"])
        inputs = {key: value[None] for key, value in task.load_inputs(str(tmp_path / "image.png")).items()}
        depth = resize(model(inputs)[0], image.shape[:2]).numpy()
        metric.update(decode_depth(example["depth"], depth_scenes.SCALE)[0].numpy(), depth)
    assert results["examples"] == 6 and results["crop"] == "none"
    for key, value in metric.result().items():
        assert results[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), key
    folder = tmp_path / "run/evaluation/validation-step-00000002"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    saved = np.load(folder / lines[-1]["prediction"])
    np.testing.assert_allclose(saved, np.asarray(model(inputs))[0, ..., 0], atol=1e-5)
    answer = run.predict(TASK, config, [tmp_path / "image.png"])[0]
    np.testing.assert_allclose(np.asarray(answer), saved, atol=1e-5)


def test_pictures():
    task = TASK.tiny()
    inputs, targets, _ = harness.batch_of(task, depth_scenes.examples(8, height=24, width=32))
    outputs = task.build_model()(inputs).numpy()
    pictures = task.pictures({key: value.numpy() for key, value in inputs.items()}, targets.numpy(), outputs)
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.ndim == 4 and len(picture) == 8 and picture.shape[-1] == 3
    beside = task.picture({"pixel_values": inputs["pixel_values"][0].numpy()}, outputs[0, ..., 0])
    assert beside.dtype == np.uint8 and beside.shape[0] >= 18 and beside.shape[1] >= 2 * 26


def test_exported(tmp_path):
    task = TASK.tiny()
    model = task.build_model()
    served = tf.saved_model.load(str(export(task, model, tmp_path)))   # a process without tfhf has answered alike
    photo, _ = depth_scenes.scene(0, 30, 50)
    data = [tf.io.encode_jpeg(photo).numpy(), tf.io.encode_png(photo[:, :20]).numpy()]
    answer = served.signatures["serving_default"](image=tf.constant(data))
    assert answer["depth"].shape == (2, 18, 26)
    for row, content in enumerate(data):
        (tmp_path / "image").write_bytes(content)
        inputs = {key: value[None] for key, value in task.load_inputs(str(tmp_path / "image")).items()}
        depth, = task.decode(model, inputs)
        np.testing.assert_allclose(answer["depth"][row], depth, atol=1e-5)
        size = tf.io.decode_image(content).shape[:2]
        png = answer["depth_png"][row].numpy()
        assert png[24] == 16   # bits
        own, valid = decode_depth(png, task.config.png_scale)
        assert valid.numpy().all()
        np.testing.assert_allclose(own, resize(depth[..., None], size), atol=task.config.png_scale)
    raw = served.signatures["raw"](pixel_values=tf.constant(inputs["pixel_values"] / np.float32(255)))
    np.testing.assert_allclose(raw["depth"][0], depth, atol=1e-4)


def _prepared(task, example, training=False, seed=0):
    decoded = IMAGE_DEPTH.decode(tf.constant(IMAGE_DEPTH.encode(example)))
    return task.preprocess({**decoded, "seed": tf.constant([seed, 0], tf.int32)}, task.buckets[0], training)


def test_preprocess_keeps_image_and_depth_together():
    """In the image, brightness is the depth: so it is in every crop, mirrored or not."""
    values = np.arange(24 * 32).reshape(24, 32) % 200 + 20
    example = {"id": "ramp", "image": tf.io.encode_png(np.repeat(values[..., None], 3, -1).astype("uint8")).numpy(),
               "depth": tf.io.encode_png(values[..., None].astype("uint16")).numpy(), "depth_scale": 0.01,
               "pixels": values.size}
    config = dataclasses.replace(TASK.tiny().config, image_size=(24, 32), crop_size=(10, 12))
    task, seen = TASK(config), set()
    with mock.patch("pipelines.unet_depth.random_colour", lambda seed, image, *_: image):
        for seed in range(6):
            inputs, depth, weight = _prepared(task, example, True, seed)
            assert inputs["pixel_values"].shape == (10, 12, 3) and depth.shape == (10, 12, 1) and weight == 1.0
            np.testing.assert_allclose(inputs["pixel_values"][..., :1], depth * 100, atol=0.01)
            seen.add(depth.numpy().tobytes())
    assert len(seen) == 6


def test_depth_out_of_range_counts_as_not_measured():
    example = depth_scenes.example(1, 18, 26)
    task = TASK(dataclasses.replace(TASK.tiny().config, augment=False, crop_size=(18, 26)))
    near = TASK(dataclasses.replace(task.config, model=dataclasses.replace(task.config.model, max_depth=3.0)))
    whole, less = _prepared(task, example)[1].numpy(), _prepared(near, example)[1].numpy()
    assert less.max() <= 3.0 < whole.max()
    np.testing.assert_array_equal(less, np.where(whole <= 3.0, whole, 0.0))
    farther = TASK(dataclasses.replace(task.config, model=dataclasses.replace(task.config.model, max_depth=0.5)))
    assert _prepared(farther, example)[2] == 0.0   # nothing to learn from, so it weighs nothing


@pytest.mark.parametrize("spoil, message", [
    (lambda example: {**example, "depth": tf.io.encode_png(np.zeros((24, 32, 1), "uint16")).numpy()},
     "scene-3: no pixel of the depth is valid, expected at least one value above 0"),
    (lambda example: {**example, "depth": depth_scenes.example(0, 24, 30)["depth"]},
     "scene-3: the image has 24 x 32 pixels, the depth 24 x 30, expected one size"),
])
def test_bad_records_are_named(tmp_path, spoil, message):
    examples = depth_scenes.examples(4, height=24, width=32)
    examples[3] = spoil(examples[3])
    _records(tmp_path / "records", "validation", examples)
    with pytest.raises(RecordError, match=message):
        run.evaluate(TASK, _config(tmp_path), checkpoint="initial")


def test_refusals(tmp_path):
    for sizes in (dict(image_size=(48,)), dict(image_size=(48, 64), crop_size=(50, 64)), dict(crop_size=(0, 4))):
        with pytest.raises(TaskError, match="a crop no larger than the image"):
            TASK(UNetDepthConfig(**sizes))
    with pytest.raises(ValueError, match="crop: got 'eigen'"):
        TASK(UNetDepthConfig(crop="eigen")).metrics()
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="text.png"):
        TASK.tiny().load_inputs(str(tmp_path / "text.png"))


def test_recipes():
    nyu = RECIPES["nyu"]
    model = nyu.task.model
    assert RECIPES["default"] is nyu and nyu.batch_size % 8 == 0
    assert not any(side % model.multiple for side in (*nyu.task.image_size, *nyu.task.crop_size))   # nothing is padded
    assert math.ceil(25 * 50_000 / nyu.batch_size) == pytest.approx(nyu.steps, rel=0.01)
