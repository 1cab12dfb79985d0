"""A process ends although one of its iterators is still alive and has a Python function at work."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
import tensorflow as tf
from tfhf.data import pipeline

devices = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)

def count():
    number = 0
    while True:
        yield number
        number += 1

def slow(number):
    time.sleep(0.3)
    return number

dataset = tf.data.Dataset.from_generator(count, output_signature=tf.TensorSpec([], tf.int64))
dataset = dataset.map(lambda number: tf.numpy_function(slow, [number], tf.int64), num_parallel_calls=2)
dataset = dataset.batch(2).prefetch(2)
held = iter(dataset)
next(held)

def fails():
    if sys.argv[1] == "distributed":
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        iterator = iter(strategy.experimental_distribute_dataset(dataset))
    else:
        iterator = iter(dataset)
    next(iterator)
    raise ValueError("a bad record")

fails()
"""


@pytest.mark.parametrize("kind", ["plain", "distributed"])
def test_an_iterator_that_is_alive_at_the_end(kind):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and ended.stderr.rstrip().endswith("ValueError: a bad record")
