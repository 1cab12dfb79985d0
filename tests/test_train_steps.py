"""The train step by itself: micro-batches, shares of the global batch, running means, random states and counters."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from safetensors.numpy import load_file

from tests import image_toy_task
from tests.toy_task import ToyConfig, ToyTask
from tests.toy_task import run_config as toy_config
from tests.toy_task import write_records as write_toy_records
from tfhf import run
from tfhf.config import ConfigError
from tfhf.task import TaskError
from tfhf.train_steps import Trainer, WeightAverages

ROOT = Path(__file__).resolve().parent.parent
RATE = 0.5


class Counting(keras.layers.Layer):
    """Counts its calls in training."""

    def __init__(self):
        super().__init__()
        self.calls = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign(self.calls + 1)
        return x


class Words(keras.Model):
    """ids int32 [b, 4] -> [b, 2]: an embedding (sparse gradients), a regulariser, a weight without a gradient."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(7, 5, embeddings_initializer=keras.initializers.RandomNormal(seed=0))
        self.counting = Counting()
        normal = keras.initializers.GlorotNormal(1)
        self.head = keras.layers.Dense(2, kernel_regularizer="l2", kernel_initializer=normal)
        self.unused = self.add_weight(shape=(3,), name="unused")
        self(np.zeros((1, 4), "int32"))

    def call(self, ids, training=False):
        return self.head(ops.tanh(ops.mean(self.counting(self.table(ids), training=training), axis=1)))


class SquaredError:
    """Per example; how often Python runs it, and what fraction of the answers has the right sign."""

    def __init__(self):
        self.runs = 0

    def __call__(self, targets, outputs):
        self.runs += 1
        return ops.sum(ops.square(targets - outputs), axis=-1)

    def measures(self, targets, outputs):
        right = ops.cast(ops.sign(targets) == ops.sign(outputs), "float32")
        positive = ops.cast(targets > 0, "float32")
        return {"recall": (ops.sum(right * positive), ops.sum(positive)), "size": ops.mean(ops.abs(outputs))}


def word_batch(count=16, seed=0):
    random = np.random.default_rng(seed)
    weight = random.uniform(0, 3, count).astype("float32")
    weight[: count // 4] = 0.0  # a whole micro-batch may weigh nothing; their sum is no multiple of anything
    ids = random.integers(0, 7, (count, 4)).astype("int32")
    return ids, random.normal(size=(count, 2)).astype("float32"), weight


def word_trainer(**options):
    trainer = Trainer(Words(), SquaredError(), seed=0, num_replicas=1, max_traces=1, **options)
    trainer.compile(optimizer=keras.optimizers.SGD(RATE))
    trainer.optimizer.build(trainer.model.trainable_variables)
    return trainer


@pytest.mark.parametrize("accumulate, jit_compile", [(1, True), (2, False), (4, True), (16, True)])
def test_an_accumulated_step_is_the_step_of_the_whole_batch(accumulate, jit_compile):
    trainer, (ids, targets, weight) = word_trainer(accumulate=accumulate), word_batch()
    model = trainer.model
    before = [v.numpy() for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(ids)
        value = tf.reduce_sum(SquaredError()(targets, outputs) * weight) / tf.reduce_sum(weight)
        value += 0.01 * tf.reduce_sum(model.head.kernel.value ** 2)
    gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
    logs = tf.function(trainer.train_step, jit_compile=jit_compile)((ids, targets, weight))
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        expected = old if gradient is None else old - RATE * tf.convert_to_tensor(gradient).numpy()
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=variable.path)
    outputs = outputs.numpy()
    recall = np.mean(outputs[targets > 0] > 0)
    expected = {"loss": float(value), "recall": recall, "size": np.mean(np.abs(outputs))}
    assert {name: float(v) for name, v in logs.items()} == pytest.approx(expected, rel=1e-5)
    assert trainer.loss_function.runs == 1  # one body, however many micro-batches
    assert int(model.counting.calls.numpy()) == 1  # a counter counts steps


def test_the_program_does_not_grow_with_the_micro_batches():
    lines = []
    for accumulate in (2, 8):
        step = tf.function(word_trainer(accumulate=accumulate).train_step, jit_compile=True)
        lower = step.experimental_get_compiler_ir(tuple(tf.constant(part) for part in word_batch()))
        lines.append(len(lower(stage="hlo").splitlines()))
    assert lines[0] == lines[1], lines


def test_micro_batches_and_steps_draw_masks_of_their_own():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    trainer = Trainer(model, SquaredError(), seed=0, num_replicas=1, max_traces=1, accumulate=2)
    trainer.compile(optimizer=keras.optimizers.SGD(RATE))
    trainer.optimizer.build(model.trainable_variables)

    @tf.function
    def mask(number):
        trainer.begin_micro_batch(number)
        return model.layers[0](tf.ones((1, 64)), training=True)

    drawn = [tuple(mask(tf.constant(number)).numpy()[0]) for number in (0, 1, 0)]
    trainer.optimizer.iterations.assign_add(1)
    drawn += [tuple(mask(tf.constant(number)).numpy()[0]) for number in (0, 1)]
    assert drawn[0] == drawn[2] and len(set(drawn)) == 4
    # Inside the step: with both halves of the batch alike, only the masks can tell them apart.
    outputs = []
    model.layers[1].kernel.assign(np.ones((64, 1)))
    trainer.loss_function = lambda targets, outputs: ops.exp(0.1 * outputs[:, 0])
    trainer.loss_function.measures = lambda targets, outputs: {"mean": (ops.sum(outputs), 1.0)}
    for number in (0, 1):
        outputs.append(np.sum(drawn[3 + number]))
    logs = tf.function(trainer.train_step)((np.ones((2, 64), "float32"), np.zeros((2, 1), "float32"), np.ones(2)))
    assert float(logs["loss"]) == pytest.approx(np.mean(np.exp(0.1 * np.array(outputs))), rel=1e-5)
    assert float(logs["mean"]) == pytest.approx(np.mean(outputs), rel=1e-5)


def test_averages_against_numpy():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    states = keras.layers.BatchNormalization(momentum=0.5, name="norm")(keras.layers.Dense(4, name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="second")(states))
    model.get_layer("first").trainable = False
    trainer = Trainer(model, SquaredError(), seed=0, num_replicas=1, max_traces=1, ema_decay=0.4)
    trainer.compile(optimizer=keras.optimizers.SGD(0.05))
    trainer.optimizer.build(model.trainable_variables)
    followed = {v.path: v for v in model.variables if not v.path.startswith("first")}
    expected = {path: v.numpy() for path, v in followed.items()}
    step, random = tf.function(trainer.train_step), np.random.default_rng(0)
    for t in range(1, 6):
        x, y = random.normal(size=(8, 3)).astype("float32"), random.normal(size=(8, 2)).astype("float32")
        step((x, y, np.ones(8, "float32")))
        decay = min(0.4, (1 + t) / (10 + t))  # 2/11, 3/12, ... until 0.4
        expected = {path: decay * value + (1 - decay) * followed[path].numpy() for path, value in expected.items()}
    assert [v.path for v in trainer.averages.variables] == [v.path for v in model.variables]
    for variable, average in zip(model.variables, trainer.averages.variables, strict=True):
        if variable.path in expected:
            np.testing.assert_allclose(average.numpy(), expected[variable.path], rtol=1e-5, atol=1e-6)
            assert not np.allclose(average.numpy(), variable.numpy(), rtol=1e-4), variable.path
        else:
            assert average is variable  # frozen: one copy is enough
    weights = [v.numpy() for v in model.variables]
    with trainer.averages.in_use():
        got = model(x).numpy()
    for variable, value in zip(model.variables, weights):
        np.testing.assert_array_equal(variable.numpy(), value)
    sums = trainer.evaluation_step(x, y, tf.ones(8))
    assert float(sums[0]) == pytest.approx(float(np.sum((got - y) ** 2)), rel=1e-5)
    for variable, average in zip(model.variables, trainer.averages.variables):
        variable.assign(average.numpy())
    np.testing.assert_allclose(model(x).numpy(), got, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    image_toy_task.write_records(folder / "records")
    return folder


def test_a_resumed_run_with_averages_is_the_uninterrupted_one(records, tmp_path):
    common = {"task": image_toy_task.ImageConfig(dropout=0.3), "accumulate": 2, "ema_decay": 0.9, "evaluate_every": 4,
              "jit_compile": False}
    config = image_toy_task.run_config(records, **common).override(["optimizer.schedule=constant"])
    whole = config.override([f"output={tmp_path / 'whole'}", "steps=8"])
    parted = config.override([f"output={tmp_path / 'parted'}", "steps=4"])
    expected = run.train(image_toy_task.ImageTask, whole)
    run.train(image_toy_task.ImageTask, parted)
    found = run.train(image_toy_task.ImageTask, parted.override(["steps=8"]))
    assert found["start_step"] == 4 and found["loss"] == expected["loss"]
    assert found["eval_loss"] == expected["eval_loss"]
    for name in ("weights", "optimizer", "averages"):
        ours, theirs = (load_file(f"{result['checkpoint']}/{name}.safetensors") for result in (found, expected))
        for key, other in zip(sorted(theirs), sorted(ours), strict=True):  # Keras numbers layers by the process
            np.testing.assert_array_equal(ours[other], theirs[key], err_msg=f"{name}: {key}")
    # Averages are what is evaluated and loaded, unless the raw weights are asked for.
    task = image_toy_task.ImageTask(config.task)
    averaged, raw = (run.load_trained(task, whole.output, averaged=choice) for choice in (True, False))
    saved = load_file(f"{expected['checkpoint']}/averages.safetensors")
    assert sorted(saved) == sorted(load_file(f"{expected['checkpoint']}/weights.safetensors"))
    for variable, key in zip(averaged.variables, sorted(saved), strict=True):
        np.testing.assert_array_equal(variable.numpy(), saved[key])
    assert not np.array_equal(averaged.weights[0].numpy(), raw.weights[0].numpy())
    run.evaluate(image_toy_task.ImageTask, whole)
    run.evaluate(image_toy_task.ImageTask, whole, averaged=False)
    assert {path.name for path in (tmp_path / "whole/evaluation").iterdir()} == {
        "validation-step-00000008", "validation-step-00000008-raw"}
    with pytest.raises(ConfigError, match="ema_decay: 0.9 -> 0.8.*"):
        run.train(image_toy_task.ImageTask, whole.override(["ema_decay=0.8", "steps=9"]))


def test_refusals(tmp_path):
    write_toy_records(tmp_path / "records")
    config = toy_config(tmp_path)
    with pytest.raises(ConfigError, match="batch_size: got 8, expected a multiple of the 1 replicas of strategy none "
                                          "times accumulate=3"):
        run.train(ToyTask, config.override(["accumulate=3"]))
    for override in ("ema_decay=1.0", "ema_decay=0.0", "accumulate=0"):
        with pytest.raises(ConfigError, match=override.partition("=")[0]):
            config.override([override])
    with pytest.raises(TaskError, match="accumulate: got 3, which does not divide the 16 examples of a replica"):
        word_trainer(accumulate=3).train_step(word_batch())


def test_buckets_of_several_lengths_are_split_alike(tmp_path):
    from tests.toy_task import BucketedToyTask

    write_toy_records(tmp_path / "records")
    losses = []
    for accumulate in (1, 4):
        config = toy_config(tmp_path, output=str(tmp_path / f"run-{accumulate}"), accumulate=accumulate,
                            evaluate_every=0, task=ToyConfig())
        history = run.train(BucketedToyTask, config)
        assert history["compiles"] == 1
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


TWO_REPLICAS = """
import numpy as np
from tfhf.strategy import make_runtime
runtime = make_runtime("cpu:2")
import keras, tensorflow as tf
from tests.test_train_steps import RATE, SquaredError, Words, word_batch, word_trainer
from tfhf.optimizers import OptimizerConfig, make_optimizer
from tfhf.train_steps import Trainer

def step_of(trainer, batch):
    dataset = runtime.strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch))
    step = tf.function(lambda batch: runtime.strategy.run(trainer.train_step, args=(batch,)))
    logs = step(next(iter(dataset)))
    return {name: [float(part) for part in runtime.strategy.experimental_local_results(v)] for name, v in logs.items()}

# Raw weights, most of them on one replica, measures whose counts differ: everything is that of the global batch.
batch = word_batch()
batch[2][8:] *= 100
one = word_trainer()
start = [v.numpy() for v in one.model.trainable_variables]
expected = one.train_step(batch)
for accumulate in (1, 4):
    with runtime.scope():
        two = Trainer(Words(), SquaredError(), seed=0, num_replicas=2, max_traces=1, accumulate=accumulate)
        two.compile(optimizer=keras.optimizers.SGD(RATE), jit_compile=False)
        two.optimizer.build(two.model.trainable_variables)
    for variable, value in zip(two.model.trainable_variables, start):
        variable.assign(value)
    logs = step_of(two, batch)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [float(value)] * 2, rtol=1e-5, err_msg=name)
    for a, b in zip(two.model.trainable_variables, one.model.trainable_variables):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=a.path)
    assert int(two.model.counting.calls.numpy()) == 1

# Clipping by the norm of the global gradient: the update has the length of the clip.
with runtime.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(2)])
    trainer = Trainer(model, SquaredError(), seed=0, num_replicas=2, max_traces=1, accumulate=2, ema_decay=0.5)
    config = OptimizerConfig(learning_rate=100.0, schedule="constant", clip_norm=1e-3, epsilon=1.0)
    trainer.compile(optimizer=make_optimizer(config, model, 10), jit_compile=False)
x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32") + 5
before = [v.numpy() for v in model.trainable_variables]
step_of(trainer, (x, np.zeros((8, 2), "float32"), np.ones(8, "float32")))
moved = np.sqrt(sum(np.sum((v.numpy() - old) ** 2) for v, old in zip(model.trainable_variables, before)))
# The first step of Keras' Adam is rate * g / (|g| + epsilon / sqrt(1 - beta_2)): with epsilon 1, rate * g * 0.0316.
assert abs(moved / (0.1 * 0.001**0.5) - 1) < 1e-3, moved

# Moving statistics: the mean over the replicas, on every replica, and so in the checkpoint.
norm = model.layers[0]
parts = runtime.strategy.experimental_local_results(norm.moving_mean.value)
mean = 0
for replica in (x[:4], x[4:]):
    own = 0
    for micro_batch in (replica[:2], replica[2:]):
        own = 0.5 * own + 0.5 * micro_batch.mean(axis=0)
    mean = mean + own / 2
for part in parts:
    np.testing.assert_allclose(part.numpy(), mean, rtol=1e-5)
decay = 2 / 11
average = trainer.averages.variables[[v.path for v in model.variables].index(norm.moving_mean.path)]
for part in runtime.strategy.experimental_local_results(average.value):
    np.testing.assert_allclose(part.numpy(), (1 - decay) * mean, rtol=1e-5)
print("ALL WELL")
"""


def test_two_replicas():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], env=environment, capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert done.returncode == 0 and "ALL WELL" in done.stdout, done.stderr[-3000:]


def test_averages_are_part_of_no_gradient_and_take_memory_for_trained_weights_only():
    model = Words()
    model.table.trainable = False
    averages = WeightAverages(model, model, 0.9)
    kept = [average for average, variable in zip(averages.variables, model.variables) if average is not variable]
    assert {v.path.split("/")[-1] for v in kept} == {"kernel", "bias", "unused"}
    assert not any(v.trainable for v in kept)
