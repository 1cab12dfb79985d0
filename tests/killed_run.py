"""A training run and a writing of records that tests/test_run_kills.py starts as processes of their own, and kills.

The processes are forked from one that has imported TensorFlow and done nothing else, which saves seconds for each.
The training logs, in the history, the number of every record of every batch as the train step itself saw it.
"""

import multiprocessing
import os
from pathlib import Path

import keras
import tensorflow as tf

from tests import toy_task
from tfhf import progress, run
from tfhf.data.writing import Dataset, write_split

BATCH, RECORDS = 5, 50


class LoggedLoss(keras.losses.Loss):
    """targets int64 [batch, 2]: the class, and the record's number, which goes to the history."""

    def call(self, targets, outputs):
        return keras.losses.sparse_categorical_crossentropy(targets[:, 0], outputs, from_logits=True)

    def measures(self, targets, outputs):
        del outputs
        return {f"record_{place}": tf.cast(targets[place, 1], tf.float32) for place in range(BATCH)}


class LoggedTask(toy_task.ToyTask):
    def preprocess(self, example, bucket, training):
        inputs, label, weight = super().preprocess(example, bucket, training)
        number = tf.strings.to_number(tf.strings.split(example["id"], "-")[-1], tf.int64)  # "series-0-17"
        return inputs, tf.stack([label, number]), weight

    def loss(self):
        return LoggedLoss(reduction=None)


def config_of(records, output, steps):
    return toy_task.run_config(
        Path(records).parent, output=str(output), steps=steps, batch_size=BATCH, log_every=1, checkpoint_every=3,
        evaluate_every=0, jit_compile=False, keep_checkpoints=2, task=toy_task.ToyConfig(dropout=0.3),
    ).override([f"data.path={records}"])


def train(tell, errors, records, output, steps):
    """Train up to `steps`; `tell` (a connection) gets the number of each step that is done."""
    _errors_to(errors)
    end = progress.StepCallback.on_train_batch_end

    def tell_and_end(self, batch, logs=None):
        tell.send(self.start_step + batch + 1)
        end(self, batch, logs)

    progress.StepCallback.on_train_batch_end = tell_and_end
    run.train(LoggedTask, config_of(records, output, steps))


def write(tell, errors, output, records):
    """Write that many records; `tell` gets the number of each one that is loaded."""
    _errors_to(errors)

    class Series(Dataset):
        name, record_type = "series", toy_task.SERIES

        def options(self, split):
            return {"records": records}

        def examples(self, split, start=0):
            yield from toy_task.examples(records)[start:]

        def load(self, item):
            tell.send(int(item["id"].split("-")[-1]))
            return item

    write_split(Series(), str(output), "train", workers=1, shard_bytes=4000)


def _errors_to(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class Life:
    """One process: `target` (train or write) with its arguments; what it prints goes to the file `errors`."""

    def __init__(self, target, errors, *arguments):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.killed_run"])
        self.errors = errors
        self._told, tell = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(tell, str(errors), *arguments))
        self._process.start()
        tell.close()

    @property
    def pid(self):
        return self._process.pid

    def run_until(self, number):
        """Come back when it has told `number` or more; False when it ended before."""
        try:
            while self._told.recv() < number:
                pass
        except EOFError:
            return False
        return True

    def end(self):
        """Wait for the end -> (exit status, what it printed)."""
        while self.run_until(float("inf")):
            pass
        self._process.join()
        return self._process.exitcode, Path(self.errors).read_text()
