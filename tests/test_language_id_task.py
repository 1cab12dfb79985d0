"""Language identification through the house: every check of the harness, its export, its picture, its refusals."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from pipelines.language_id import RECIPES, SCRATCH, TASK, LanguageIdConfig
from tests import harness
from tfhf import run
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.export import export
from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForSequenceClassification, Wav2Vec2Model
from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor
from tfhf.task import TaskError

CLASSES = ("en", "de", "hi")


def _clip(number):
    """A language is a rhythm here: noise that comes and goes, faster in each."""
    rng, language = np.random.default_rng(number), number % 3
    time = np.arange(8000 + 400 * number) / 16000
    beat = 0.55 + 0.45 * np.sin(2 * np.pi * (3 + 8 * language) * time)
    return (rng.normal(0, 0.1, len(time)) * beat).astype("float32")


def _examples(count=18):
    return [{"id": f"clip-{i}", "audio": _clip(i), "text": "", "language": CLASSES[i % 3]} for i in range(count)]


def _pad(inputs):
    return {**inputs, "input_values": tf.pad(inputs["input_values"], [[0, 0], [0, 6000]])}


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path, pad=_pad)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def _records(folder, split, examples):
    with RecordWriter(folder, split, SPEECH_TEXT, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)


def _config(tmp_path):
    return dataclasses.replace(RECIPES["tiny_cpu"], task=TASK.tiny().config, batch_size=6, eval_batch_size=6).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "steps=3", "checkpoint_every=0",
        "optimizer.warmup_steps=1"])


def test_trained_and_evaluated_with_a_picture(tmp_path):
    for split in ("train", "validation"):
        _records(tmp_path / "records", split, _examples(14))
    config = _config(tmp_path)
    run.train(TASK, config)
    results = run.evaluate(TASK, config)
    matrix = np.array(results["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [5, 5, 4] and results["examples"] == 14   # the last batch is filled up
    assert results["accuracy"] == np.trace(matrix) / 14 and "macro_f1" in results
    folder = tmp_path / "run/evaluation/validation-step-00000003"
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["confusion_matrix"] == matrix.tolist()
    picture = (folder / "confusion_matrix.png").read_bytes()
    assert tf.io.decode_png(picture).shape[2] == 3
    shown = {}
    for path in (tmp_path / "run/tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                shown[value.tag] = (event.step, value.tensor)
    step, tensor = shown["validation/confusion_matrix"]
    assert step == 3 and tf.make_ndarray(tensor)[2] == picture   # width, height, PNG
    (tmp_path / "clip.wav").write_bytes(TASK.tiny().example_requests()["serving_default"]["wav"][0])
    assert run.predict(TASK, config, [tmp_path / "clip.wav"])[0] in CLASSES


def test_exported(tmp_path):
    task = TASK.tiny()
    model = task.build_model()
    served = tf.saved_model.load(str(export(task, model, tmp_path)))
    (tmp_path / "clip.wav").write_bytes(task.example_requests()["serving_default"]["wav"][0])
    inputs = {key: value[None] for key, value in task.load_inputs(str(tmp_path / "clip.wav")).items()}
    answer = served.signatures["serving_default"](wav=tf.constant([(tmp_path / "clip.wav").read_bytes()]))
    logits = np.asarray(model(inputs))
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    assert answer["label"].numpy().tolist() == [label.encode() for label in task.decode(model, inputs)]
    # The raw signature takes what the feature extractor gives.
    audio = inputs["input_values"][0, :inputs["input_lengths"][0]] / np.float32(32768)
    extracted = Wav2Vec2FeatureExtractor()(audio, max_length=16000)
    raw = served.signatures["raw"](**{key: tf.constant(value) for key, value in extracted.items()})
    np.testing.assert_allclose(raw["logits"], logits, atol=1e-4)


def test_from_a_checkpoint_with_a_new_head_or_its_own(tmp_path, capsys):
    Wav2Vec2Model(tiny_config()).save_pretrained(tmp_path / "bare")
    trained = Wav2Vec2ForSequenceClassification(tiny_config(num_labels=3))
    trained.save_pretrained(tmp_path / "trained")
    fresh = TASK(LanguageIdConfig(str(tmp_path / "bare"), CLASSES, max_seconds=1.0)).build_model()
    assert fresh.classifier.kernel.shape == (16, 3)
    again = TASK(LanguageIdConfig(str(tmp_path / "trained"), CLASSES, False, 1.0)).build_model()
    np.testing.assert_array_equal(again.classifier.kernel, trained.classifier.kernel)
    capsys.readouterr()
    TASK(LanguageIdConfig(str(tmp_path / "bare"), CLASSES, False, 1.0)).build_model()
    assert "classifier.weight, classifier.bias begin with random values" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):   # never random weights in the stead of a checkpoint
        TASK(LanguageIdConfig(str(tmp_path / "nothing"), CLASSES)).build_model()


def test_refusals(tmp_path):
    for classes in (("en",), ("en", "en")):
        with pytest.raises(TaskError, match="expected two languages or more, none of them twice"):
            TASK(LanguageIdConfig(SCRATCH, classes))
    _records(tmp_path / "records", "train", [{**example, "language": "xx"} for example in _examples(6)])
    with pytest.raises(RecordError, match=r"clip-\d+: the language is 'xx', expected one of task.classes: en, de, hi"):
        run.train(TASK, _config(tmp_path))
    with pytest.raises(TypeError, match="pretrained"):   # what to begin from is always said
        LanguageIdConfig(classes=CLASSES)
