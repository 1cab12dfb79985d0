"""GPT-2 from a checkpoint through the house: prompts in files and in a served model, what follows them, refusals."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipelines.gpt2_finetune import RECIPES, TASK
from tests import harness
from tfhf import run
from tfhf.data.records import RecordWriter
from tfhf.data.schema import TOKENS, RecordError
from tfhf.data.text import token_rows
from tfhf.export import export
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.task import TaskError

PROMPTS = ["the fox", "the lazy dog barks and jumps"]


def _with_tokenizer():
    task = TASK.tiny()
    return TASK(dataclasses.replace(task.config, tokenizer=f"{task.config.pretrained}/tokenizer.json"))


def _documents(task, count=12):
    texts = [f"the dog jumps over the fox{' and the fox' * (i % 4)}" for i in range(count)]
    return [(f"text-{i}", row.numpy()) for i, row in enumerate(task.tokenizer.encode(texts))]


def test_the_checkpoint_is_what_training_begins_from_and_loss_falls(tmp_path):
    task = _with_tokenizer()
    pretrained = GPT2LMHeadModel.from_pretrained(task.config.pretrained)
    for ours, theirs in zip(task.build_model().weights, pretrained.weights):
        np.testing.assert_array_equal(ours, theirs)
    rows = list(token_rows(_documents(task), 24))
    for split in ("train", "validation"):
        options = {"tokenizer": task.tokenizer.fingerprint}
        with RecordWriter(tmp_path / "records", split, TOKENS, options=options) as writer:
            for row in rows:
                writer.write(row)
    config = dataclasses.replace(RECIPES["tiny_cpu"], task=task.config, batch_size=4, eval_batch_size=4).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "steps=30", "optimizer.learning_rate=0.01",
        "optimizer.warmup_steps=2", "freeze=/(wte|wpe)/"])
    before = run.evaluate(TASK, config, checkpoint="initial")["perplexity"]
    run.train(TASK, config)
    after = run.evaluate(TASK, config)["perplexity"]
    assert after < 0.5 * before, (before, after)
    (tmp_path / "prompt.txt").write_text(PROMPTS[0], "utf-8")
    answer, = run.predict(TASK, config, [tmp_path / "prompt.txt"])
    assert isinstance(answer, str)


def test_lora_alone_is_trained_and_exported_merged(tmp_path, capsys):
    task = _with_tokenizer()
    rows = list(token_rows(_documents(task), 24))
    for split in ("train", "validation"):
        options = {"tokenizer": task.tokenizer.fingerprint}
        with RecordWriter(tmp_path / "records", split, TOKENS, options=options) as writer:
            for row in rows:
                writer.write(row)
    config = dataclasses.replace(RECIPES["lora"], task=task.config).override([
        f"output={tmp_path / 'run'}", f"data.path={tmp_path / 'records'}", "steps=30", "optimizer.learning_rate=0.05",
        "optimizer.warmup_steps=2", "task.lora.r=4", "batch_size=4", "eval_batch_size=4", "precision=float32",
        "steps_per_execution=1", "log_every=10", "checkpoint_every=0", "evaluate_every=0", "jit_compile=false"])
    task = TASK(config.task)
    before = run.evaluate(TASK, config, checkpoint="initial")["perplexity"]
    assert "trainable params: 1,024 || all params: " in capsys.readouterr().err   # 2 layers, 4 x (32 + 96)
    run.train(TASK, config)
    after = run.evaluate(TASK, config)["perplexity"]
    assert after < 0.8 * before, (before, after)
    model = run.load_trained(task, config.output)
    (tmp_path / "prompt.txt").write_text(PROMPTS[0], "utf-8")
    folder = export(task, model, tmp_path, files=[str(tmp_path / "prompt.txt")])
    served = tf.saved_model.load(folder)
    assert len(served.values) == len(GPT2LMHeadModel.from_pretrained(task.config.pretrained).trainable_variables)
    ids = {name: tf.constant([np.pad(rows[0][name], (0, 24 - len(rows[0][name])))], tf.int32)
           for name in ("input_ids", "segment_ids")}
    np.testing.assert_allclose(served.signatures["raw"](**ids)["logits"], model(ids), atol=1e-4)
    answer, = run.predict(TASK, config, [tmp_path / "prompt.txt"])
    prompt = tf.constant([PROMPTS[0]])
    assert served.signatures["serving_default"](prompt=prompt)["text"].numpy()[0].decode() == answer
    merged = run.load_trained(task, config.output).merge_and_unload()   # the other way to a plain model
    np.testing.assert_allclose(merged(ids), model(ids), atol=1e-4)


def test_prompt_in_continuation_out(tmp_path):
    task = _with_tokenizer()
    model = task.build_model()
    files = []
    for number, prompt in enumerate(PROMPTS):
        files.append(str(tmp_path / f"{number}.txt"))
        (tmp_path / f"{number}.txt").write_text(prompt, "utf-8")
    served = tf.saved_model.load(export(task, model, tmp_path, files=files)).signatures
    answer = served["serving_default"](prompt=tf.constant(PROMPTS))["text"].numpy()
    ids = [row.numpy().tolist() for row in task.tokenizer.encode(PROMPTS)]
    expected = task.tokenizer.decode(model.generate_with_scores(ids, max_new_tokens=8)["sequences"]).numpy()
    assert answer.tolist() == expected.tolist()
    # A prompt alone gives what it gives beside a longer one.
    assert served["serving_default"](prompt=tf.constant(PROMPTS[:1]))["text"].numpy()[0] == answer[0]
    drawn = [served["sample"](prompt=tf.constant(PROMPTS), temperature=2.0, seed=seed)["text"].numpy().tolist()
             for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for bad, words in ((["fine", ""], "prompt 1 of the batch: 0 tokens, expected 1 to 16"),
                       (["fox " * 30], "prompt 0 of the batch: .. tokens, expected 1 to 16"),
                       ([b"fox", b"f\xff"], "text 1 of the batch: bytes that are not UTF-8")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            served["serving_default"](prompt=tf.constant(bad))


def test_bad_prompts_in_files(tmp_path):
    task = _with_tokenizer()
    for content, error, words in ((b"", TaskError, "prompt.txt: a prompt of 0 tokens, expected 1 to 16"),
                                  (b"fox " * 30, TaskError, "tokens, expected 1 to 16, task.max_prompt_tokens"),
                                  (b"a\xff", RecordError, "prompt.txt: not a text in UTF-8")):
        (tmp_path / "prompt.txt").write_bytes(content)
        with pytest.raises(error, match=words):
            task.load_inputs(str(tmp_path / "prompt.txt"))


def test_shapes_of_the_harness():
    task = _with_tokenizer()
    harness.check_shapes(TASK, list(token_rows(_documents(task, 40), 24)))
    assert TASK(RECIPES["tiny_cpu"].task).buckets == (256,)
