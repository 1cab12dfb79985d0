"""Schedules against their formulas, decay masks and clipping against plain numpy, freezing."""

import math

import keras
import numpy as np
import pytest

from tfhf.config import ConfigError
from tfhf.optimizers import AdamW, OptimizerConfig, freeze, make_optimizer, make_schedule, variables_without_decay


def rates(steps=100, **options):
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, **options), steps)
    return np.array([float(schedule(step)) for step in range(steps)])


def test_schedules():
    steps = np.arange(10, 100)
    warmup = 2.0 * np.arange(1, 11) / 10
    for options, after in (
        ({"schedule": "constant"}, np.full(90, 2.0)),
        ({"schedule": "linear"}, 2.0 * (100 - steps) / 90),
        (
            {"schedule": "cosine", "final_fraction": 0.1},
            2.0 * (0.1 + 0.9 * (1 + np.cos(math.pi * (steps - 10) / 90)) / 2),
        ),
        ({"schedule": "inverse_sqrt"}, 2.0 * np.sqrt(10 / (steps + 1))),
    ):
        got = rates(warmup_steps=10, **options)
        np.testing.assert_allclose(got[:10], warmup, rtol=1e-6)
        np.testing.assert_allclose(got[10:], after, rtol=1e-5)
    assert rates(schedule="linear", decay_steps=50)[60] == 0.0
    assert rates(schedule="constant")[0] == 2.0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"schedule": "inverse_sqrt"}, "optimizer.warmup_steps"),
        ({"learning_rate": 0.0}, "optimizer.learning_rate"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm"),
        ({"beta_2": 1.0}, "optimizer.beta_2"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay"),
        ({"warmup_steps": 100}, "optimizer.decay_steps"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ConfigError, match=words):
        make_schedule(OptimizerConfig(**options), 100)


def make_model():
    inputs = keras.Input((3,), dtype="int32")
    states = keras.layers.Embedding(5, 4, name="table")(inputs)
    states = keras.layers.LayerNormalization(name="layer_norm")(states)
    states = keras.layers.BatchNormalization(name="batch_norm")(states)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(states))


def test_decay_leaves_out_biases_norms_and_embeddings_on_request():
    model = make_model()
    norms = {"layer_norm/gamma", "layer_norm/beta", "batch_norm/gamma", "batch_norm/beta"}
    assert {v.path for v in variables_without_decay(model)} == norms | {"head/bias"}
    assert {v.path for v in variables_without_decay(model, False)} == norms | {"head/bias", "table/embeddings"}
    # With gradients of zero, decay is all that moves a weight: by exactly 1 - learning_rate * weight_decay.
    for decay_embeddings in (True, False):
        config = OptimizerConfig(
            learning_rate=0.5, schedule="constant", weight_decay=0.2, decay_embeddings=decay_embeddings
        )
        optimizer = make_optimizer(config, model, 10)
        for variable in model.trainable_variables:
            variable.assign(np.ones(variable.shape))
        optimizer.apply([np.zeros(v.shape, "float32") for v in model.trainable_variables], model.trainable_variables)
        decayed = {v.path for v in model.trainable_variables if np.allclose(v.numpy(), 0.9)}
        kept = {v.path for v in model.trainable_variables if np.array_equal(v.numpy(), np.ones(v.shape))}
        assert decayed == {"head/kernel"} | ({"table/embeddings"} if decay_embeddings else set())
        assert decayed | kept == {v.path for v in model.trainable_variables}


def test_adamw_and_global_clipping_against_numpy():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", weight_decay=0.3, clip_norm=1.0, epsilon=1e-6)
    optimizer = make_optimizer(config, model, 10)
    kernel, bias = (v.numpy().astype("float64") for v in model.trainable_variables)
    m = [np.zeros_like(kernel), np.zeros_like(bias)]
    v = [np.zeros_like(kernel), np.zeros_like(bias)]
    random = np.random.default_rng(0)
    weights = [kernel, bias]
    for step in range(1, 6):
        gradients = [random.normal(size=w.shape) * step for w in weights]
        optimizer.apply([g.astype("float32") for g in gradients], model.trainable_variables)
        norm = math.sqrt(sum(np.sum(g**2) for g in gradients))
        for i, gradient in enumerate(gradients):
            gradient = gradient * min(1.0, 1.0 / norm)
            if i == 0:  # the bias does not decay
                weights[i] = weights[i] * (1 - 0.1 * 0.3)
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            update = (m[i] / (1 - 0.9**step)) / (np.sqrt(v[i] / (1 - 0.999**step)) + 1e-6)
            weights[i] = weights[i] - 0.1 * update
    for variable, expected in zip(model.trainable_variables, weights, strict=True):
        # 1 - 0.999^t in float32 is good to 1e-4 of itself, so five steps of 0.1 are to 5e-5, however small the weight.
        np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=1e-4)


def test_freeze_by_pattern():
    model = make_model()
    frozen = freeze(model, ["^table/", "batch_norm"])
    assert set(frozen) == {"table/embeddings"} | {
        f"batch_norm/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    assert {v.path for v in model.trainable_variables} == {
        "layer_norm/gamma",
        "layer_norm/beta",
        "head/kernel",
        "head/bias",
    }
    before = model.get_layer("batch_norm").moving_mean.numpy()
    model(np.ones((2, 3), "int32"), training=True)
    np.testing.assert_array_equal(model.get_layer("batch_norm").moving_mean.numpy(), before)


@pytest.mark.parametrize(
    "pattern, words", [("encoder", "matches none of 9 variables"), ("(", "not a regular expression")]
)
def test_bad_freeze_patterns(pattern, words):
    with pytest.raises(ConfigError, match=words):
        freeze(make_model(), ["head", pattern])


def test_nothing_left_to_train():
    model = make_model()
    freeze(model, ["."])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        make_optimizer(OptimizerConfig(), model, 10)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_are_read_for_decay_only_where_there_is_one(weight_decay, monkeypatch):
    decayed = []
    monkeypatch.setattr(keras.optimizers.AdamW, "_apply_weight_decay", lambda self, given: decayed.append(given))
    variable = keras.Variable(np.ones(3, "float32"))
    AdamW(0.1, weight_decay=weight_decay).apply([keras.ops.zeros(3)], [variable])
    assert bool(decayed) == bool(weight_decay)
