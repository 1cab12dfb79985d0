"""An input server for the tests, in a process of its own: python -m tests.input_server PORT. It knows the toy tasks."""

import sys
import types

import tensorflow as tf

from tests import image_toy_task, toy_task
from tfhf.input_service import InputServer


class PythonTask(toy_task.ToyTask):
    """The toy task with a Python function in its pipeline, as a tokenizer is one."""

    name = "python_toy"

    def preprocess(self, example, bucket, training):
        inputs, label, weight = super().preprocess(example, bucket, training)
        label = tf.numpy_function(self._checked, [label, example["id"]], tf.int64, stateful=False)
        return inputs, tf.ensure_shape(label, []), weight

    @staticmethod
    def _checked(label, name):
        if name == b"series-0-13":   # a training example
            raise LabelError(f"{name.decode()}: label {label}, expected another one")
        return label


class LabelError(ValueError):
    __module__ = "tfhf.tests"


TASKS = {task.name: task for task in (toy_task.ToyTask, PythonTask, image_toy_task.ImageTask)}
TASKS["bucketed_toy"] = toy_task.BucketedToyTask


def load_task(name):
    """As pipelines/__main__.py's."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}")
    return types.SimpleNamespace(TASK=TASKS[name])


if __name__ == "__main__":
    server = InputServer(load_task, int(sys.argv[1]), "localhost")
    print("serving", flush=True)
    server.run()
