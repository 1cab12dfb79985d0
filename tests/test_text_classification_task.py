"""Text classification through the house: the harness, BERT and GPT-2, freezing, buckets, the export, refusals."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipelines.text_classification import RECIPES, TASK, TextClassificationConfig
from tests import harness
from tfhf import run
from tfhf.data.records import RecordWriter
from tfhf.data.schema import TEXT_LABEL, RecordError
from tfhf.data.text import text_label
from tfhf.export import export
from tfhf.models.bert.model import BertForSequenceClassification
from tfhf.models.classifiers import ModelKindError
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2Model
from tfhf.peft.config import PeftError
from tfhf.peft.model import PeftModel
from tfhf.task import TaskError
from tfhf.tokenizers.training import train_tokenizer
from tfhf.weights import reference_weights

TEXTS = ("the staff were bad", "good food and a kind phone", "an odd film, abc")


def _examples(count=18):
    return [text_label(f"text-{i}", f"{TEXTS[i % 3]} {'x' * (i // 3)}", i % 3) for i in range(count)]


def _pad(inputs):
    return {name: tf.pad(value, [[0, 0], [0, 7]]) for name, value in inputs.items()}


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path, pad=_pad)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def _config(tmp_path, examples, task=None, also=(), **changes):
    """`also`: records that are packed already."""
    for split in ("train", "test"):
        with RecordWriter(tmp_path / "records", split, TEXT_LABEL) as writer:
            for example in examples:
                writer.write(example)
            for packed in also:
                writer.add(packed)
    task = task or TASK.tiny().config
    return dataclasses.replace(RECIPES["reviews"], task=task, batch_size=6, eval_batch_size=6, **changes).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "steps=4", "optimizer.warmup_steps=1"])


def test_frozen_trained_evaluated_and_predicted(tmp_path):
    task = dataclasses.replace(TASK.tiny().config, max_tokens=(12, 16, 24), max_bytes=(24, 30, 256))
    config = _config(tmp_path, _examples(), task, freeze=("/bert/",))
    run.train(TASK, config)
    results = run.evaluate(TASK, config)
    matrix = np.array(results["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [6, 6, 6] and results["accuracy"] == np.trace(matrix) / 18
    assert 0 <= results["f1_good"] <= 1 and "macro_f1" in results
    model = run.load_trained(TASK(config.task), config.output)
    begun = BertForSequenceClassification.from_pretrained(task.pretrained, True, num_labels=3,
                                                          classifier_pooling="mean")
    changed = [v.path for v, w in zip(model.weights, begun.weights)
               if not v.path.startswith("seed") and not np.array_equal(v, w)]
    assert changed and all("/classifier/" in path for path in changed), changed
    (tmp_path / "text.txt").write_text(TEXTS[1], "utf-8")
    assert run.predict(TASK, config, [tmp_path / "text.txt"])[0] in task.classes


def test_lora_trained_resumed_evaluated_and_exported_merged(tmp_path, capsys):
    """Only A, B and the head change; the export has none of them, and says what the model with the adapter says."""
    config = _config(tmp_path, _examples()).override(
        ["task.lora.r=2", "task.lora.lora_alpha=8", "optimizer.learning_rate=0.05", "steps=6"])
    task = TASK(config.task)
    plain = TASK(dataclasses.replace(config.task, lora=None)).build_model()
    run.train(TASK, config.override(["steps=3", "optimizer.decay_steps=6"]))
    assert "trainable params: 611 || all params: " in capsys.readouterr().err   # 2 x 2 x 2 x (32 + 32) and 3 x 33
    assert run.train(TASK, config)["start_step"] == 3
    results, model = run.evaluate(TASK, config), run.load_trained(task, config.output)
    before, after = reference_weights(plain), reference_weights(model.base_model)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["classifier.weight",
                                                                                          "classifier.bias"]
    assert len(after) == len(before) + 8 and all(np.any(after[name]) for name in after if "lora_B" in name)
    inputs = task.inputs_of(TEXTS)
    expected = tf.nn.softmax(model(inputs))
    served = tf.saved_model.load(export(task, model, tmp_path))
    np.testing.assert_allclose(served.signatures["serving_default"](text=tf.constant(TEXTS))["probabilities"], expected,
                               atol=1e-5)
    assert sorted(value.shape.as_list() for value in served.values) == sorted(list(v.shape) for v in plain.weights
                                                                             if v.dtype == "float32")
    np.testing.assert_array_equal(tf.nn.softmax(model(inputs)), expected)   # the model itself is not merged
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(TASK(dataclasses.replace(config.task, lora=None)).build_model(),
                                      tmp_path / "adapter")
    assert task.decode(again, inputs) == task.decode(model, inputs) and results["examples"] == 18
    with pytest.raises(PeftError, match="target_modules: 'c_attn' matches no module of BertForSequenceClassification"):
        TASK(config.override(["task.lora.target_modules=c_attn"]).task).build_model()


def test_classes_in_another_order_than_the_records(tmp_path):
    config = _config(tmp_path, _examples(3))
    for split in ("train", "test"):
        with RecordWriter(tmp_path / "named", split, TEXT_LABEL, options={"classes": ["bad", "odd", "good"]}) as writer:
            for example in _examples(3):
                writer.write(example)
    with pytest.raises(RecordError, match="named.train: its records call class 1 'odd', but task.classes calls it "
                                          "'good'; expected task.classes=bad,odd,good"):
        run.train(TASK, config.override([f"data.path={tmp_path / 'named'}"]))
    with pytest.raises(RecordError, match="named.test: its records call class 1 'odd'"):
        run.evaluate(TASK, config.override([f"data.path={tmp_path / 'named'}"]), checkpoint="initial")


def test_exported_from_bytes(tmp_path):
    task = TASK.tiny()
    model = task.build_model()
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    folder = export(task, model, tmp_path, files=[str(tmp_path / f"{number}.txt") for number in range(3)])
    served = tf.saved_model.load(folder).signatures
    answer = served["serving_default"](text=tf.constant(TEXTS))
    inputs = task.inputs_of(TEXTS)
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(model(inputs)), atol=1e-5)
    assert [label.decode() for label in answer["label"].numpy()] == task.decode(model, inputs)
    np.testing.assert_allclose(served["raw"](**inputs)["logits"], model(inputs), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text 1 of the batch: bytes that are not UTF-8"):
        served["serving_default"](text=tf.constant([b"good", b"b\xff"]))


def test_with_gpt2(tmp_path):
    folder = tmp_path / "gpt2"
    train_tokenizer(TEXTS, folder / "tokenizer.json", "bpe", 300, special_tokens=("<|endoftext|>",))
    GPT2Model(GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4)).save_pretrained(folder)
    task = TASK(TextClassificationConfig(str(folder), ("bad", "good", "odd"), max_tokens=(16,), max_bytes=(64,)))
    model = task.build_model()
    assert model.config.resid_pdrop == 0.1
    rows = [task.inputs_of([text]) for text in TEXTS]
    alone = np.concatenate([model(row) for row in rows])
    np.testing.assert_allclose(model(task.inputs_of(TEXTS)), alone, atol=1e-5)
    config = _config(tmp_path, _examples(9), task.config, freeze=("/transformer/",))
    assert np.isfinite(run.train(TASK, config)["loss"]).all()
    served = tf.saved_model.load(export(task, model, tmp_path)).signatures["serving_default"]
    expected = tf.nn.softmax(model(task.inputs_of([*TEXTS, ""])))
    np.testing.assert_allclose(served(text=tf.constant([*TEXTS, ""]))["probabilities"], expected, atol=1e-5)


def test_refusals(tmp_path):
    task = TASK.tiny()
    for classes in (("one",), ("a", "a")):
        with pytest.raises(TaskError, match="expected two names or more, none of them twice"):
            TASK(dataclasses.replace(task.config, classes=classes))
    with pytest.raises(TaskError, match=r"task.max_tokens: got \(8, 9\), expected one for each of \(256,\)"):
        TASK(dataclasses.replace(task.config, max_tokens=(8, 9)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "t5"}', "utf-8")
    with pytest.raises(ModelKindError, match="other: model_type is 't5'; classifiers are made of bert, gpt2"):
        TASK(dataclasses.replace(task.config, pretrained=str(other)))
    with pytest.raises(FileNotFoundError):
        TASK(dataclasses.replace(task.config, pretrained=str(tmp_path / "nothing")))
    with pytest.raises(RecordError, match="text-0: the label is 7, expected 0 to 2, a number of task.classes"):
        run.train(TASK, _config(tmp_path, [text_label("text-0", "a", 7)]))
    broken = TEXT_LABEL.pack(text_label("text-3", "a bad phone", 1))
    broken = dataclasses.replace(broken, serialized=broken.serialized.replace(b"phone", b"ph\xffne"))
    config = _config(tmp_path / "broken", [text_label(f"text-{i}", "\ufffd", 1) for i in range(3)], also=[broken])
    with pytest.raises(RecordError, match="text-3: the text is not UTF-8"):
        run.evaluate(TASK, config, checkpoint="initial")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="bad.txt: not a text in UTF-8"):
        task.load_inputs(str(tmp_path / "bad.txt"))
