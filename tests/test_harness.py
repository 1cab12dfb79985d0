"""The checks pass on a good task and fail on a task that breaks what they check."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import harness, toy_task
from tests.toy_task import ToyTask

EXAMPLES = toy_task.examples(24)


def more_padding(inputs):
    return {**inputs, "values": tf.pad(inputs["values"], [[0, 0], [0, 5]], constant_values=9.0)}


def test_the_toy_task_passes_all(tmp_path):
    harness.check_task(ToyTask, EXAMPLES, tmp_path, pad=more_padding)


def test_the_toy_model_on_jax(tmp_path):
    harness.check_jax_backend(ToyTask, EXAMPLES, tmp_path)


class NoMask(toy_task.SeriesClassifier):
    def call(self, inputs, training=False):
        return super().call({**inputs, "length": inputs["length"] * 0 + keras.ops.shape(inputs["values"])[1]}, training)


class Unmasked(ToyTask):
    def build_model(self):
        model = NoMask(self.config)
        model({"values": np.zeros((1, 12), "float32"), "length": np.ones(1, "int32")})
        return model


class Frozen(ToyTask):
    def loss(self):
        return lambda targets, outputs: 0.0 * outputs[:, 0] + 1.0


@pytest.mark.parametrize(
    "check, task, words",
    [
        (lambda task: harness.check_padded_equals_unpadded(task, EXAMPLES, more_padding), Unmasked, "more padding"),
        (lambda task: harness.check_loss_falls(task, EXAMPLES), Frozen, "the loss went from 1.0000 to 1.0000"),
        (lambda task: harness.check_shapes(task, EXAMPLES), toy_task.UnpaddedTask, "static shapes"),
        (lambda task: harness.check_bfloat16(task, EXAMPLES, tolerance=0.0), ToyTask, "bfloat16 is off"),
    ],
)
def test_a_broken_task_fails(check, task, words):
    with pytest.raises(AssertionError, match=words):
        check(task)
