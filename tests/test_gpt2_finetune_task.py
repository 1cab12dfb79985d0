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
                       (["fox " * 30], "prompt 0 of the batch: .. tokens, expected 1 to 16"), ([b"\xff"], "UTF-8")):
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
