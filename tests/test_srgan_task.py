"""Super-resolution through the house: the harness, both stages, one device against eight, exports, refusals."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.srgan import RECIPES, TASK
from tests import harness
from tfhf import run
from tfhf.checkpoints import CheckpointError
from tfhf.data.degradation import DegradationConfig, degrade
from tfhf.data.image import decode_image, encode_png, read_image, to_float, to_uint8
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_PAIR, RecordError
from tfhf.export import ExportError, export, load_exported
from tfhf.gan import AdversarialPair, GanTrainer
from tfhf.losses.srgan import SRGANLoss
from tfhf.task import TaskError

ROOT = Path(__file__).resolve().parent.parent


def _picture(number, height=36, width=44):
    """Smooth waves of some colour, uint8; sizes that 2 divides, and some that it does not."""
    rows, columns, colours = np.indices((height, width, 3))
    waves = np.sin(rows * (0.1 + 0.02 * number)) * np.cos(columns * (0.3 - 0.01 * number) + colours)
    return (127.5 + 120 * waves).astype("uint8")


def _examples(count=16):
    made = []
    for number in range(count):
        picture = _picture(number, 36 + number % 3, 44 + number % 2)
        made.append({"id": f"picture-{number}", "image": b"", "target": encode_png(picture).numpy(),
                     "pixels": picture.shape[0] * picture.shape[1]})
    return made


class AdversarialTask(TASK):
    """The second stage, on pixels."""

    @classmethod
    def tiny(cls):
        return cls(dataclasses.replace(TASK.tiny().config, stage="adversarial"))


def test_harness(tmp_path):
    # Replicas: a bias before a norm has no gradient but rounding, which Adam makes a step of; see below.
    harness.check_task(TASK, _examples(), tmp_path, skip=("replicas",))


def test_harness_of_the_second_stage(tmp_path):
    harness.check_shapes(AdversarialTask, _examples())
    harness.check_save_and_load(AdversarialTask, _examples(), tmp_path)
    harness.check_bfloat16(AdversarialTask, _examples())


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def _trainer(loss, num_replicas=1):
    """The tiny pair of fixed weights under plain SGD of rate 1: the update is the gradient."""
    keras.utils.set_random_seed(1)
    pair = AdversarialTask.tiny().build_model()
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(pair.discriminator.trainable_variables)
    trainer = GanTrainer(pair, loss, seed=0, num_replicas=num_replicas, max_traces=1, discriminator_optimizer=optimizer)
    trainer.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    trainer.optimizer.build(pair.generator.trainable_variables)
    return trainer


def _batch():
    """Pieces with uneven weights, whose sum is their number."""
    inputs, targets, _ = harness.batch_of(AdversarialTask.tiny(), _examples(), training=True)
    return inputs, targets, np.array([0.5, 1.5, 1, 1, 0.25, 1.75, 1, 1], "float32")


def _values(model):
    return [variable.numpy() for variable in model.variables]


@pytest.mark.parametrize("strategy", ["cpu:2", pytest.param("cpu:8", marks=pytest.mark.nightly)])
def test_replicas_are_one_device(strategy):
    """Losses, gradients and moving statistics of one step, with a content loss on features."""
    done = subprocess.run([sys.executable, __file__, strategy], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{strategy} against one device: {found}")
    assert found.pop("variables") > 60 and found.pop("moved") > 0.9
    assert len(found) == 5 and max(found.values()) < 1e-4   # losses; both networks' gradients and statistics


def _replicas(strategy):
    """In a process of its own: the largest differences, relative to the largest change of a variable of its network, of
    the weights or of the moving statistics."""
    from tfhf.models.vgg.config import VGGConfig
    from tfhf.models.vgg.model import VGGFeatures
    from tfhf.strategy import make_runtime

    runtimes = {strategy: make_runtime(strategy), "none": make_runtime("none")}   # virtual devices come first
    results, start = {}, None
    for name, runtime in runtimes.items():
        with runtime.scope():
            keras.utils.set_random_seed(2)
            loss = SRGANLoss(VGGFeatures(VGGConfig((4, 6), (1, 1))), adversarial_weight=0.1)
            trainer = _trainer(loss, runtime.num_replicas)
        start = start or _values(trainer.model)
        for variable, value in zip(trainer.model.variables, start, strict=True):
            variable.assign(value)
        data = tf.data.Dataset.from_tensors(_batch())
        if runtime.strategy is None:
            logs = tf.function(trainer.train_step)(next(iter(data)))
        else:
            batch = next(iter(runtime.strategy.experimental_distribute_dataset(data.unbatch().batch(8))))
            logs = tf.function(lambda part: runtime.strategy.run(trainer.train_step, args=(part,)))(batch)
            logs = {key: runtime.strategy.experimental_local_results(value)[0] for key, value in logs.items()}
        results[name] = ({key: float(value) for key, value in logs.items()}, _values(trainer.model))
    (many_logs, many), (one_logs, one) = results[strategy], results["none"]
    kinds = [(v.path.split("/")[0], "gradients" if v.trainable else "statistics") for v in trainer.model.variables]
    found = {"losses": max(abs(many_logs[key] / one_logs[key] - 1) for key in one_logs), "variables": len(kinds),
             "moved": float(np.mean([np.abs(b - before).max() > 0 for b, before in zip(one, start)]))}
    for kind in sorted(set(kinds)):
        of_kind = [parts[1:] for parts in zip(kinds, many, one, start, strict=True) if parts[0] == kind]
        change = max(np.abs(b - before).max() for _, b, before in of_kind)
        found[" ".join(kind)] = float(max(np.abs(a - b).max() for a, b, _ in of_kind) / change)
    print(json.dumps(found))


class Silent(SRGANLoss):
    """One of the two networks has a loss of zero."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def generator(self, *arguments):
        return super().generator(*arguments) * (self.network != "generator")

    def discriminator(self, *arguments):
        return super().discriminator(*arguments) * (self.network != "discriminator")


@pytest.mark.parametrize("silent", ["generator", "discriminator"])
def test_each_network_sees_its_own_gradients_alone(silent):
    trainer = _trainer(Silent(silent))
    networks = {"generator": trainer.model.generator, "discriminator": trainer.model.discriminator}
    before = {name: [v.numpy() for v in network.trainable_variables] for name, network in networks.items()}
    tf.function(trainer.train_step)(_batch())
    for name, network in networks.items():
        still = [np.array_equal(a, v.numpy()) for a, v in zip(before[name], network.trainable_variables)]
        assert all(still) if name == silent else np.mean(still) < 0.2, (name, still)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("srgan")
    for split in ("train", "validation"):
        with RecordWriter(folder / "records", split, IMAGE_PAIR, writer="test", options={}, dataset={}) as writer:
            for example in _examples(9):
                writer.write(example)
    return folder


def _config(folder, name, **changes):
    task = dataclasses.replace(TASK.tiny().config, **changes)
    return dataclasses.replace(RECIPES["tiny_cpu"], task=task, batch_size=4, eval_batch_size=4).override([
        f"output={folder / name}", f"data.path={folder / 'records'}", "steps=4", "optimizer.warmup_steps=1",
        "evaluate_every=4"])


@pytest.fixture(scope="module")
def pretrained(records):
    config = _config(records, "pretrained")
    return config, run.train(TASK, config)


def test_first_stage_is_trained_evaluated_and_predicts(pretrained, tmp_path):
    config, history = pretrained
    assert np.isfinite(history["loss"]).all() and len(history["eval_loss"]) == 1
    results = run.evaluate(TASK, config)
    assert set(results) == {"psnr_y_crop2", "ssim_y_crop2", "examples"} and results["examples"] == 9
    folder = Path(config.output) / "evaluation/validation-step-00000004"
    line = json.loads((folder / "predictions.jsonl").read_text().splitlines()[1])
    assert len(json.dumps(line)) < 200   # a picture is a file beside it
    assert read_image(folder / line["prediction"]).shape == (36, 44, 3)   # of a target of 37 x 45
    (tmp_path / "small.png").write_bytes(encode_png(_picture(3, 12, 17)).numpy())
    assert run.predict(TASK, config, [tmp_path / "small.png"])[0].shape == (24, 34, 3)
    tags = {value.tag for path in (Path(config.output) / "tensorboard").iterdir()
            for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value}
    assert {"input", "output", "target"} <= tags


def test_second_stage_begins_with_the_first_ones_generator(pretrained, records):
    config, _ = pretrained
    changes = {"stage": "adversarial", "start_from": config.output}
    adversarial = _config(records, "adversarial", **changes)
    task = TASK(adversarial.task)
    pair = task.build_model()
    assert isinstance(pair, AdversarialPair)
    first = run.load_trained(TASK(config.task), config.output)
    for ours, theirs in zip(pair.generator.variables, first.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    history = run.train(TASK, adversarial)
    assert np.isfinite(history["loss"]).all()
    assert run.evaluate(TASK, adversarial)["psnr_y_crop2"] > 3
    with pytest.raises(CheckpointError, match="nowhere holds no whole checkpoint"):
        TASK(dataclasses.replace(adversarial.task, start_from="nowhere")).build_model()


def test_decoding_is_that_of_the_whole_image_and_of_the_export(tmp_path):
    task = TASK.tiny()
    keras.utils.set_random_seed(3)
    model = task.build_model()
    picture = _picture(5, 45, 70)   # larger than a tile and its overlaps
    small = [picture, picture[:18, :20]]
    expected = [np.clip(127.5 + 127.5 * model(part[None])[0].numpy(), 0, 255) for part in small]
    decoded = [task.decode(model, {"pixel_values": part[None], "size": [part.shape[:2]]})[0] for part in small]
    file = tmp_path / "small.png"
    file.write_bytes(encode_png(small[1]).numpy())
    served = load_exported(export(task, model, tmp_path / "export", files=[file]))   # and the prediction for the file
    with pytest.raises(ExportError, match="a picture of .36, 40, 3. that is not the predicted one of .36, 40, 3."):
        task.decode = lambda model, inputs: [np.zeros((36, 40, 3), "uint8")]
        export(task, model, tmp_path / "export", files=[file])
    files = [encode_png(small[0]).numpy(), tf.io.encode_jpeg(small[1], quality=100).numpy()]
    answers = served(image=files)["image"]
    of_jpeg = decode_image(files[1]).numpy()
    expected_of_jpeg = np.clip(127.5 + 127.5 * model(of_jpeg[None])[0].numpy(), 0, 255)
    for got, want in ((decoded[0], expected[0]), (decoded[1], expected[1]),
                      (decode_image(answers[0]).numpy(), expected[0]),
                      (decode_image(answers[1]).numpy(), expected_of_jpeg)):
        assert got.dtype == np.uint8 and np.abs(got - want).max() < 0.501
    raw = served("raw", pixel_values=to_float(small[0])[None])["image"]
    np.testing.assert_allclose(raw[0] * 255, expected[0], atol=1e-2)


def test_shown_pictures(records):
    task = TASK.tiny()
    inputs, targets, _ = tf.nest.map_structure(np.asarray, harness.batch_of(task, _examples()))
    shown = task.pictures(inputs, targets, targets)
    assert {name: (picture.dtype, picture.shape) for name, picture in shown.items()} == dict.fromkeys(
        ("input", "output", "target"), (np.dtype("uint8"), (8, 40, 48, 3)))
    one = {key: value[0] for key, value in inputs.items()}
    beside = task.picture(one, np.zeros((36, 44, 3), "uint8"))
    assert beside.dtype == np.uint8 and beside.shape[0] >= 36 and beside.shape[1] >= 88


def test_small_images_of_the_records_own(tmp_path):
    task = TASK(dataclasses.replace(TASK.tiny().config, degradation=DegradationConfig("image")))
    target = _picture(1, 20, 24)
    small = to_uint8(degrade(tf.constant([0, 0]), to_float(target), 2)).numpy()[:, ::-1]   # mirrored, so not made here
    example = {"target": encode_png(target), "image": encode_png(small), "seed": tf.constant([0, 0])}
    inputs, _, _ = task.preprocess(example, task.buckets[0], False)
    np.testing.assert_array_equal(inputs["pixel_values"][:10, :12], small)
    assert inputs["size"].numpy().tolist() == [10, 12]


def test_refusals(tmp_path, records):
    config = TASK.tiny().config
    with pytest.raises(ValueError, match="VGG19: the weights' path is None"):
        TASK(dataclasses.replace(config, stage="adversarial", content="vgg")).loss()
    large = tmp_path / "large.png"
    large.write_bytes(encode_png(_picture(0, 30, 20)).numpy())
    with pytest.raises(TaskError, match="large.png: 30 x 20 pixels, expected at most task.max_size=\\(20, 24\\)"):
        TASK(config).load_inputs(str(large))
    with pytest.raises(RecordError, match="an image of.*18 22.*expected at most.*10 10"):
        run.evaluate(TASK, _config(records, "refused", max_size=(10, 10)), checkpoint="initial")


if __name__ == "__main__":
    _replicas(sys.argv[1])
