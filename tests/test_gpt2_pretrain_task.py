"""GPT-2 from scratch through the house: the harness, packed rows against each document alone, perplexity, refusals."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from pipelines.gpt2_pretrain import RECIPES, TASK
from tests import harness
from tfhf import run
from tfhf.data.records import RecordWriter
from tfhf.data.schema import TOKENS
from tfhf.data.text import token_rows
from tfhf.task import TaskError
from tfhf.tokenizers.fingerprint import FingerprintError
from tfhf.tokenizers.training import train_tokenizer

RNG = np.random.default_rng(0)
DOCUMENTS = [(f"doc-{i}", RNG.integers(1, 64, RNG.integers(3, 20))) for i in range(40)]


def _examples():
    return list(token_rows(DOCUMENTS, 24))


def _pad(inputs):
    fill = {"input_ids": 0, "segment_ids": 0, "labels": -100}
    return {name: tf.pad(value, [[0, 0], [0, 5]], constant_values=fill[name]) for name, value in inputs.items()}


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path, pad=_pad)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def test_packed_documents_have_the_loss_of_each_alone():
    task = TASK.tiny()
    model = task.build_model()

    def nll(rows):
        inputs, _, weight = harness.batch_of(task, rows, count=len(rows))
        answers = task.decode(model, inputs)
        assert [answer["tokens"] for answer in answers] == weight.numpy().tolist()
        return sum(answer["nll"] for answer in answers), sum(answer["tokens"] for answer in answers)

    packed, alone = nll(_examples()), nll(list(token_rows(DOCUMENTS, 24, packed=False)))
    print(f"{len(_examples())} rows for {len(DOCUMENTS)} documents: {packed[0]:.6f} and {alone[0]:.6f} nats")
    assert packed[1] == alone[1] == sum(len(ids) - 1 for _, ids in DOCUMENTS)
    assert packed[0] == pytest.approx(alone[0], rel=1e-5)


def _write(folder, **options):
    for split in ("train", "validation"):
        with RecordWriter(folder / "records", split, TOKENS, options=options) as writer:
            for example in _examples():
                writer.write(example)
    config = dataclasses.replace(RECIPES["king_james"], task=TASK.tiny().config, batch_size=4, eval_batch_size=4)
    return config.override([
        f"output={folder / 'run'}", f"data.path={folder / 'records'}", "steps=3", "checkpoint_every=0",
        "optimizer.warmup_steps=1"])


def test_trained_and_evaluated(tmp_path):
    config = _write(tmp_path)
    run.train(TASK, config)
    found = run.evaluate(TASK, config)
    assert found["tokens"] == sum(len(ids) - 1 for _, ids in DOCUMENTS) and found["examples"] == len(_examples())
    assert found["perplexity"] == pytest.approx(math.exp(found["nats_per_token"])) and 20 < found["perplexity"] < 100


def test_records_of_another_tokenizer_and_models_that_are_too_small(tmp_path):
    own = train_tokenizer(["a b c"], tmp_path / "tokenizer.json", "bpe", 260, special_tokens=("<|endoftext|>",))
    config = _write(tmp_path, tokenizer="0" * 64)
    task = dataclasses.replace(config.task, tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(TaskError, match="task.tokenizer: 2.. tokens, but the model has vocab"):
        TASK(task).build_model()
    task = dataclasses.replace(task, model=dataclasses.replace(task.model, vocab_size=300))
    with pytest.raises(FingerprintError, match="validation|train.*made with the tokenizer of fingerprint 0000000"):
        run.train(TASK, dataclasses.replace(config, task=task))
    TASK(task).check_records({"options": {"tokenizer": own}}, "here")
    with pytest.raises(TaskError, match="task.row_length=24, .*expected rows, and prompts .* at most n_positions=16"):
        short = dataclasses.replace(config.task.model, n_positions=16)
        TASK(dataclasses.replace(config.task, model=short)).build_model()
    with pytest.raises(TaskError, match="task.tokenizer is none"):
        TASK.tiny().load_inputs("prompt.txt")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name):
    config = RECIPES[name]
    assert config.task.row_length == config.task.model.n_positions and not config.batch_size % config.accumulate
