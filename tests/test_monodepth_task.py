"""Monodepth through the house: the harness, training and scores, the export, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from pipelines.monodepth import PNG_SCALE, RECIPES, TASK, MonodepthTaskConfig
from tests import harness
from tfhf import run
from tfhf.data.image import decode_depth, encode_depth, read_image
from tfhf.data.records import RecordWriter
from tfhf.data.schema import STEREO, RecordError
from tfhf.export import export, load_exported
from tfhf.models.monodepth.config import MonodepthConfig
from tfhf.models.monodepth.model import MonodepthModel
from tfhf.task import TaskError

HEIGHT, WIDTH = 36, 72


def _example(number):
    """A smooth random scene, 4 to 9 pixels apart in the two images."""
    random, pixels = np.random.default_rng(number), 4 + number % 6
    scene = random.random((HEIGHT // 4, WIDTH // 4 + 6, 3)).repeat(4, axis=0).repeat(4, axis=1)
    scene = sum(np.roll(scene, (i, j), axis=(0, 1)) for i in range(4) for j in range(4)) / 16
    views = [np.round(255 * scene[:, begin:begin + WIDTH]).astype("uint8") for begin in (8, 8 + pixels)]
    left, right = (tf.io.encode_png(view).numpy() for view in views)
    truth = np.full((HEIGHT, WIDTH, 1), pixels, "float32")
    truth[:, :8] = 0.0   # not measured
    return {"id": f"scene-{number}", "left": left, "right": right, "pixels": HEIGHT * WIDTH,
            "disparity": encode_depth(truth, 1 / 256).numpy(), "disparity_scale": 1 / 256}


EXAMPLES = [_example(i) for i in range(16)]


def test_harness(tmp_path):
    # The loss of four scales and two views begins near 3 and cannot reach 0: what one camera sees alone stays.
    harness.check_task(TASK, EXAMPLES, tmp_path, loss_steps=40, learning_rate=3e-3, skip=("replicas",))


def test_two_replicas_train_as_one_device(tmp_path):
    harness.check_replicas(TASK, EXAMPLES, tmp_path, replicas=2)   # eight are traced one after the other: half a minute


@pytest.mark.nightly
def test_eight_replicas_train_as_one_device(tmp_path):
    harness.check_replicas(TASK, EXAMPLES, tmp_path)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, EXAMPLES, tmp_path)


def _records(folder, split, examples):
    with RecordWriter(folder, split, STEREO, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)


def _config(tmp_path, **changes):
    task = dataclasses.replace(TASK.tiny().config, **changes)
    return dataclasses.replace(RECIPES["tiny_cpu"], task=task, batch_size=4, eval_batch_size=4).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "data.eval_split=validation", "steps=3",
        "log_every=1", "optimizer.warmup_steps=1"])


def test_trained_evaluated_and_asked(tmp_path):
    _records(tmp_path / "records", "train", EXAMPLES[:8])
    unmeasured = {key: value for key, value in EXAMPLES[9].items() if not key.startswith("disparity")}
    _records(tmp_path / "records", "validation", [EXAMPLES[8], unmeasured, *EXAMPLES[10:13]])
    config = _config(tmp_path)
    history = run.train(TASK, config)
    assert history["compiles"] == 1 and np.isfinite(history["loss"]).all()
    lines = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert {"appearance", "smoothness", "left_right"} <= set().union(*lines)
    results = run.evaluate(TASK, config)
    assert results["examples"] == 5 and results["images_without_disparity"] == 1
    assert 0 < results["epe"] < WIDTH and {"d1_all", "abs_rel", "rmse", "delta_1"} <= set(results)
    (tmp_path / "left.png").write_bytes(EXAMPLES[8]["left"])
    answer, = run.predict(TASK, config, [tmp_path / "left.png"], folder=str(tmp_path))
    disparity = np.load(answer)
    assert disparity.shape == (32, 64) and 0 < disparity.min() and disparity.max() < 0.3
    assert read_image(str(tmp_path / "predictions/left-picture.png")).shape[1] == 2 * 64 + 4   # and what it was made of


def test_pictures_while_training():
    task = TASK.tiny()
    inputs, targets, _ = harness.batch_of(task, EXAMPLES)
    outputs = task.build_model()(inputs)
    shown = task.pictures(*tf.nest.map_structure(lambda tensor: tensor.numpy(), (inputs, targets, outputs)))
    picture = shown["left_disparity_rebuilt"]
    assert picture.shape == (8, 32, 3 * 64 + 2 * 4, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, :, :64], targets["left"])


def test_exported(tmp_path):
    task = TASK.tiny()
    model = task.build_model()
    served = load_exported(export(task, model, tmp_path))
    answer = served(image=[EXAMPLES[0]["left"], EXAMPLES[1]["left"]])
    (tmp_path / "left.png").write_bytes(EXAMPLES[1]["left"])
    inputs = {key: tf.constant(value)[None] for key, value in task.load_inputs(str(tmp_path / "left.png")).items()}
    np.testing.assert_allclose(answer["disparity"][1], task.decode(model, inputs)[0], atol=1e-5)
    # The PNG is of the photograph's own size; times the width it is in pixels.
    disparity, valid = decode_depth(answer["disparity_png"][1], PNG_SCALE)
    assert disparity.shape == (HEIGHT, WIDTH, 1) and valid.numpy().all()
    assert abs(float(tf.reduce_mean(disparity)) - answer["disparity"][1].mean()) < 1e-3
    raw = served("raw", pixel_values=inputs["pixel_values"].numpy() / np.float32(255))
    np.testing.assert_allclose(raw["disparity"][0], answer["disparity"][1], atol=1e-5)


def test_from_a_folder(tmp_path):
    trained = MonodepthModel(TASK.tiny().config.model)
    trained.save_pretrained(tmp_path)
    again = TASK(dataclasses.replace(TASK.tiny().config, pretrained=str(tmp_path))).build_model()
    np.testing.assert_array_equal(again.decoder.disp[0].kernel, trained.decoder.disp[0].kernel)
    with pytest.raises(FileNotFoundError):   # never random weights in the stead of a checkpoint
        TASK(dataclasses.replace(TASK.tiny().config, pretrained=str(tmp_path / "nothing"))).build_model()


def test_refusals(tmp_path):
    for image, crop in (((32, 60), (32, 48)), ((32, 64), (48, 48)), ((32,), (32,))):
        with pytest.raises(TaskError, match="multiples of 16, a crop no larger than the image"):
            TASK(dataclasses.replace(TASK.tiny().config, image_size=image, crop_size=crop))
    assert MonodepthTaskConfig().model == MonodepthConfig.of_size("vgg")
    bad = {**EXAMPLES[1], "right": tf.io.encode_png(np.zeros((4, 4, 3), "uint8")).numpy()}
    _records(tmp_path / "records", "train", [EXAMPLES[0], bad, *EXAMPLES[2:8]])
    with pytest.raises(RecordError, match="scene-1: the left image has 36 x 72 pixels, the right one 4 x 4"):
        run.train(TASK, _config(tmp_path))
