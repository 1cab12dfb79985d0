"""What a run's config refuses, and what may change between a run and its resumption."""

import dataclasses

import pytest

from tests import toy_task
from tfhf.config import ConfigError
from tfhf.run_config import FREE_ON_RESUME, RunConfig, check_same_run


def make_config(tmp_path, *overrides):
    return toy_task.run_config(tmp_path, output=str(tmp_path)).override(["optimizer.schedule=constant", *overrides])


def test_what_may_change(tmp_path):
    config = make_config(tmp_path, "strategy=tpu:one")
    config.save(tmp_path / "config.json")
    changes = ["strategy=tpu:two", "steps=99", "log_every=1", "checkpoint_every=1", "evaluate_every=1"]
    changes += ["keep_checkpoints=9", "keep_best=2", "eval_batch_size=3", "steps_per_execution=1", "shard_weights=true",
                "any_replicas=true", "input_servers=a:1,b:2"]
    check_same_run(config.override(changes))
    assert set(FREE_ON_RESUME) == {change.partition("=")[0] for change in changes} | {"output"}
    assert set(FREE_ON_RESUME) <= {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize(
    "override, words",
    [
        ("batch_size=4", "batch_size: 8 -> 4"),
        ("strategy=cpu:2", "strategy: 'none' -> 'cpu'"),
        ("precision=mixed_bfloat16", "precision: 'float32' -> 'mixed_bfloat16'"),
        ("freeze=head", "freeze: [] -> ['head']"),
        ("data.mixture_weights=2", "data.mixture_weights: [] -> [2.0]"),
        ("data.eval_split=x", "data.eval_split: 'validation' -> 'x'"),
        ("task.dropout=0.5", "task.dropout: 0.0 -> 0.5"),
        ("optimizer.schedule=cosine", "optimizer.decay_steps: None -> 12"),
    ],
)
def test_what_may_not_change(tmp_path, override, words):
    make_config(tmp_path).save(tmp_path / "config.json")
    with pytest.raises(ConfigError) as error:
        check_same_run(make_config(tmp_path, override))
    assert words in str(error.value)


def test_checkpoints_without_their_config(tmp_path):
    with pytest.raises(ConfigError, match="config.json: missing"):
        check_same_run(make_config(tmp_path))


@pytest.mark.parametrize(
    "override, words",
    [
        ("steps=0", "steps: got 0, expected 1 or more"),
        ("seed=-1", "seed: got -1, expected 0 or more"),
        (("evaluate_every=0", "keep_best=2"), "keep_best: got 2 with evaluate_every=0, expected evaluate_every of 1"),
        ("steps_per_execution=8", "steps: got 12, expected a multiple of steps_per_execution=8"),
    ],
)
def test_refused_values(tmp_path, override, words):
    with pytest.raises(ConfigError) as error:
        make_config(tmp_path, *([override] if isinstance(override, str) else override))
    assert words in str(error.value)
