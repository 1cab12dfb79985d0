"""Image classification through the house: the harness, both networks, freezing, MixUp, EMA, the export, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from pipelines.image_classification import RECIPES, TASK
from tests import harness
from tfhf import run
from tfhf.config import ConfigError
from tfhf.data.image_view import ImageView
from tfhf.data.records import RecordWriter
from tfhf.data.schema import IMAGE_LABEL, RecordError
from tfhf.export import export, load_exported
from tfhf.models.resnet.config import ResNetConfig
from tfhf.models.resnet.model import ResNetForImageClassification
from tfhf.preflight.published import no_checkpoints
from tfhf.task import TaskError

SIDE = 20


def _image(number):
    """Stripes across, stripes down or a board of squares, in noise; PNG bytes."""
    rows, columns = np.indices((SIDE, SIDE + number % 3))
    pattern = [rows % 4 < 2, columns % 4 < 2, (rows // 2 + columns // 2) % 2 == 0][number % 3]
    noise = np.random.default_rng(number).integers(0, 60, pattern.shape)
    return tf.io.encode_png((pattern * 180 + noise).astype("uint8")[..., None]).numpy()


def _examples(count=18):
    return [{"id": f"image-{i}", "image": _image(i), "label": i % 3, "pixels": SIDE * (SIDE + i % 3)}
            for i in range(count)]


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def _config(tmp_path, examples=None, **changes):
    for split in ("train", "test"):
        with RecordWriter(tmp_path / "records", split, IMAGE_LABEL) as writer:
            for example in examples or _examples():
                writer.write(example)
    recipe = dataclasses.replace(RECIPES["mnist"], **{"task": TASK.tiny().config, **changes})
    return recipe.override([f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "batch_size=6",
                            "eval_batch_size=8", "steps=4", "optimizer.warmup_steps=1"])


def test_a_new_head_on_a_frozen_body(tmp_path):
    body = ResNetForImageClassification(ResNetConfig.of_size("resnet8", num_channels=1, num_labels=7))
    body.resnet.bn1.moving_mean.assign(tf.fill([16], 0.25))
    body.save_pretrained(tmp_path / "body")
    task = dataclasses.replace(TASK.tiny().config, pretrained=str(tmp_path / "body"))
    config = _config(tmp_path, task=task, freeze=("/resnet/",), ema_decay=None)
    run.train(TASK, config)
    model = run.load_trained(TASK(task), config.output)
    # The frozen norms keep their statistics as well.
    for ours, theirs in zip(model.resnet.weights, body.resnet.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.fc.kernel.shape == (64, 3) and np.abs(model.fc.bias).max() > 0
    results = run.evaluate(TASK, config)
    matrix = np.array(results["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [6, 6, 6] and results["top_1"] == np.trace(matrix) / 18
    assert results["top_3"] == 1.0
    (tmp_path / "image.png").write_bytes(_image(1))
    assert run.predict(TASK, config, [tmp_path / "image.png"])[0] in ("a", "b", "c")


def test_mixup_smoothing_and_averages_in_training(tmp_path):
    task = dataclasses.replace(TASK.tiny().config, mixup=0.4, label_smoothing=0.1)
    config = _config(tmp_path, task=task, evaluate_every=2)
    history = run.train(TASK, config)
    assert np.isfinite(history["loss"]).all() and len(history["eval_loss"]) == 2
    averaged, last = (run.load_trained(TASK(task), config.output, averaged=which) for which in (True, False))
    assert not np.array_equal(averaged.resnet.conv1.kernel, last.resnet.conv1.kernel)
    inputs, targets, _ = harness.batch_of(TASK(task), _examples(), training=True)
    assert 0 <= tf.reduce_min(inputs["mixup"]) and tf.reduce_max(inputs["mixup"]) <= 1
    np.testing.assert_array_equal(inputs["mixup"], targets["mixup"])
    inputs, targets, _ = harness.batch_of(TASK(task), _examples())
    np.testing.assert_array_equal(targets["mixup"], 1.0)   # nothing is mixed outside training


def test_exported_from_bytes(tmp_path):
    task = TASK.tiny()
    model = task.build_model()
    data = [_image(0), _image(1), tf.io.encode_jpeg(np.full((31, 12, 3), 90, "uint8")).numpy()]
    paths = []
    for number, content in enumerate(data):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(content)
    # The fresh process of `export` loads it without tfhf and compares.
    served = load_exported(export(task, model, tmp_path, files=[str(path) for path in paths]))
    pixels = np.stack([task.load_inputs(str(path))["pixel_values"] for path in paths])
    logits = np.asarray(model({"pixel_values": pixels}))
    answer = served(image=data)
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    assert [label.decode() for label in answer["label"]] == task.decode(model, {"pixel_values": pixels})
    np.testing.assert_allclose(served("raw", pixel_values=pixels)["logits"], logits, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        served(image=[data[0][:100]])


def test_recipes_and_what_preflight_takes_for_their_checkpoints():
    for name, recipe in RECIPES.items():
        assert len(TASK(recipe.task).classes) == (len(recipe.task.classes) or recipe.task.num_classes), name
    assert TASK(RECIPES["mnist"].task).classes == tuple("0123456789")
    with no_checkpoints():
        for name in ("resnet50_finetune", "efficientnet_lite0_finetune"):
            model = TASK(RECIPES[name].task).build_model()
            published = model.config_class.of_size(RECIPES[name].task.model, num_labels=2)
            assert dataclasses.replace(model.config, labels=published.labels) == published


def test_classes_other_than_the_records_own(tmp_path):
    with RecordWriter(tmp_path / "records", "train", IMAGE_LABEL, options={"classes": ["a", "b", "d"]}, writer="test",
                      dataset={}) as writer:
        for example in _examples(3):
            writer.write(example)
    config = dataclasses.replace(RECIPES["mnist"], task=TASK.tiny().config).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}"])
    with pytest.raises(RecordError, match="call class 2 'd', but task.classes calls it 'c'"):
        run.train(TASK, config)


def _named_records(tmp_path, name, classes, splits=("train", "test")):
    for split in splits:
        with RecordWriter(tmp_path / name, split, IMAGE_LABEL, options={"classes": classes}) as writer:
            for example in _examples(6):
                writer.write(example)
    return tmp_path / name


def test_classes_in_another_order_are_refused_wherever_they_meet(tmp_path):
    """Training, resuming, evaluation, prediction and export: a checkpoint knows the names that it was trained on."""
    records = _named_records(tmp_path, "records", ["a", "b", "c"])
    turned = _named_records(tmp_path, "turned", ["a", "c", "b"])
    labels = tmp_path / "names.json"
    labels.write_text(json.dumps(["a", "b", "c"]))
    task = dataclasses.replace(TASK.tiny().config, classes=(), classes_file=str(labels))
    config = dataclasses.replace(RECIPES["mnist"], task=task).override([
        f"output={tmp_path / 'run'}", f"data.path={records}", "batch_size=6", "eval_batch_size=6", "steps=2",
        "optimizer.warmup_steps=1"])
    with pytest.raises(RecordError, match="turned.train: its records call class 1 'c', but task.classes calls it 'b'"):
        run.train(TASK, config.override([f"data.path={turned}"]))
    run.train(TASK, config)
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == ["a", "b", "c"]
    with pytest.raises(RecordError, match="turned.test: its records call class 1 'c'"):
        run.evaluate(TASK, config.override([f"data.path={turned}"]))
    image = tmp_path / "image.png"
    image.write_bytes(_image(1))
    labels.write_text(json.dumps(["c", "b", "a"]))   # the same config, another file
    longer = config.override(["steps=4", "optimizer.decay_steps=2"])
    for act in (lambda: run.train(TASK, longer), lambda: run.evaluate(TASK, config),
                lambda: run.predict(TASK, config, [image]), lambda: run.load_trained(TASK(task), config.output)):
        with pytest.raises(TaskError, match="step-00000002 was trained with class 0 called 'a', but .* calls it 'c'"):
            act()
    # A task that knows numbers alone: the names are those of the records that it was trained on.
    numbers = dataclasses.replace(task, classes_file="", num_classes=3)
    config = dataclasses.replace(config, task=numbers, output=str(tmp_path / "numbers"))
    run.train(TASK, config)
    assert json.loads((tmp_path / "numbers" / "labels.json").read_text()) == ["a", "b", "c"]
    with pytest.raises(RecordError, match="turned.test: its records call class 1 'c', but task.classes calls it 'b'"):
        run.evaluate(TASK, config.override([f"data.path={turned}"]))
    mixed = [f"data.mixture={records},{turned}", "data.mixture_weights=1,1", f"output={tmp_path / 'mixed'}"]
    with pytest.raises(RecordError, match="turned.train: its records call class 1 'c', but task.classes calls it 'b'"):
        run.train(TASK, config.override(mixed))
    _named_records(tmp_path, "half", ["a", "b", "c"], ("train",))
    _named_records(tmp_path, "half", ["b", "a", "c"], ("test",))
    late = [f"data.path={tmp_path / 'half'}", f"output={tmp_path / 'late'}", "evaluate_every=2"]
    with pytest.raises(RecordError, match="half.test: its records call class 0 'b'"):   # before the first step
        run.train(TASK, config.override(late))
    assert not (tmp_path / "late" / "checkpoints").exists()


def test_a_pretrained_head_with_other_labels(tmp_path):
    model = ResNetForImageClassification(ResNetConfig.of_size("resnet8", num_channels=1, num_labels=3))
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    task = dataclasses.replace(TASK.tiny().config, pretrained=str(tmp_path / "model"), new_head=False)
    TASK(task).build_model()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "id2label": {"0": "b", "1": "a", "2": "c"}}))
    with pytest.raises(TaskError, match="model was trained with class 0 called 'b', but task.classes calls it 'a'"):
        TASK(task).build_model()
    TASK(dataclasses.replace(task, new_head=True)).build_model()


def test_names_of_classes_from_a_file(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(["crane", "crane", "heron"]))   # ImageNet has two cranes
    task = dataclasses.replace(TASK.tiny().config, classes=(), classes_file=str(tmp_path / "names.json"))
    assert TASK(task).classes == ("crane", "crane", "heron")
    assert TASK(task).build_model().fc.kernel.shape == (64, 3)


def test_refusals(tmp_path):
    tiny = TASK.tiny().config
    for classes in (("one",), ("a", "a")):
        with pytest.raises(TaskError, match="expected two names or more, none of them twice"):
            TASK(dataclasses.replace(tiny, classes=classes))
    with pytest.raises(TaskError, match="task.model: got 'resnet51', expected one of resnet18"):
        TASK(dataclasses.replace(tiny, model="resnet51"))
    with pytest.raises(FileNotFoundError):   # never random weights in the stead of a checkpoint
        TASK(dataclasses.replace(tiny, pretrained=str(tmp_path / "nothing"))).build_model()
    with pytest.raises(ConfigError, match="image.area: got .0.5, 1.5., expected"):
        ImageView(area=(0.5, 1.5))
    wrong = [{**_examples()[0], "label": 7}]
    with pytest.raises(RecordError, match="image-0: the label is 7, expected 0 to 2, a number of task.classes"):
        run.train(TASK, _config(tmp_path, wrong))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(RecordError, match="bad.jpg"):
        TASK.tiny().load_inputs(str(tmp_path / "bad.jpg"))
