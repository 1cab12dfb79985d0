"""How much each class counts in the training loss of unbalanced records: as given, or by how often each occurs.

A task has class weights when its config has a field `class_weights: ClassWeights`. An example's weight is multiplied by
that of its class; the loss of a batch is sum(loss * weight) / sum(weight), as in torch's weighted CrossEntropyLoss.
Evaluation counts every example once, whatever its class.
"""

import concurrent.futures
import math
import sys
import time
from typing import Literal

import numpy as np
import tensorflow as tf

from tfhf.data.schema import RecordError
from tfhf.task import TaskError

BALANCED = "balanced"
ClassWeights = Literal["balanced"] | tuple[float, ...]
_RECORDS_PER_CALL = 256
_REMOTE_READ_THREADS = 32
_PROGRESS_EVERY_S = 5.0
_SHOWN = 20


def _asked_for(task):
    return getattr(getattr(task, "config", None), "class_weights", ())


def check_class_weights(task):
    """Raises TaskError: a task's class weights are not one positive number for each class, or cannot be had."""
    weights = _asked_for(task)
    if not weights:
        return
    if getattr(task.config, "mixup", 0):
        raise TaskError(f"task.class_weights: got {weights} with task.mixup={task.config.mixup}, expected "
                        "task.mixup=0: a mixed example has two classes")
    if weights == BALANCED:
        return
    if len(weights) != len(task.classes):
        raise TaskError(f"task.class_weights: got {len(weights)} numbers, expected balanced, or one for each of the "
                        f"{len(task.classes)} classes {', '.join(task.classes[:_SHOWN])}")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise TaskError(f"task.class_weights: got {weights}, expected numbers above 0")


def class_weights(task, reader, numbers, shares):
    """The weight of each class, float32 [classes], or None where the task weighs none.

    "balanced" gives 1 / (classes * the class's share of all training examples), so that every class counts as much as
    every other, and an example 1 on the average. Every record is read for it once.

    Args:
        reader: `JoinedReader` of the training records.
        numbers: int [n], those that are trained on.
        shares: of each reader, how much of all training examples it gives; they sum to 1.
    """
    check_class_weights(task)
    weights = _asked_for(task)
    if not weights:
        return None
    if weights != BALANCED:
        return np.array(weights, np.float32)
    counts = label_counts(task, reader, np.sort(numbers))
    frequencies = np.asarray(shares) @ (counts / np.maximum(counts.sum(1, keepdims=True), 1))
    empty = [name for name, frequency in zip(task.classes, frequencies) if not frequency]
    if empty:
        raise RecordError(f"{reader.readers[0].folder}: task.class_weights=balanced, but no record is of the class "
                          f"{empty[0]!r}" + (f", nor of {len(empty) - 1} others" if empty[1:] else "")
                          + "; expected records of every class, or a number for each")
    weights = (1 / (len(frequencies) * frequencies)).astype(np.float32)
    shown = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(task.classes[:_SHOWN], weights))
    more = f" and {len(weights) - _SHOWN} more" if len(weights) > _SHOWN else ""
    print(f"class weights, balanced over {int(counts.sum())} records: {shown}{more}", file=sys.stderr, flush=True)
    return weights


def label_counts(task, reader, numbers):
    """How many of the records `numbers` [n] have each class, int [readers, classes]; a label that is none is a
    RecordError."""
    field = task.reference_field
    kinds = {field.name: field.kind for field in task.record_type.fields}
    feature = {field: tf.io.FixedLenFeature([], tf.string if kinds[field] == "string" else tf.int64)}
    names = {name.encode(): number for number, name in enumerate(task.record_classes or task.classes)}
    parse = tf.function(lambda records: tf.io.parse_example(records, feature)[field])
    counts = np.zeros([len(reader.readers), len(task.classes)], np.int64)
    begin = shown = time.monotonic()

    def labels_of(chunk):
        labels = parse(tf.constant(reader.read_many(chunk))).numpy()
        return np.array([names.get(label, -1) for label in labels]) if kinds[field] == "string" else labels

    chunks = [numbers[start:start + _RECORDS_PER_CALL] for start in range(0, len(numbers), _RECORDS_PER_CALL)]
    # One thread reads a disk as quickly as several; in a bucket each record is a request.
    with concurrent.futures.ThreadPoolExecutor(_REMOTE_READ_THREADS if reader.remote else 1) as pool:
        for done, (chunk, labels) in enumerate(zip(chunks, pool.map(labels_of, chunks)), 1):
            wrong = np.flatnonzero((labels < 0) | (labels >= len(task.classes)))
            if len(wrong):
                raise RecordError(f"{reader.where(chunk[wrong[0]])}: its {field} is none of task.classes: "
                                  f"{', '.join(task.classes[:_SHOWN])}")
            owners = np.searchsorted(reader.starts, chunk, side="right") - 1
            np.add.at(counts, (owners, labels), 1)
            if time.monotonic() - shown > _PROGRESS_EVERY_S:
                shown = time.monotonic()
                print(f"counting classes: {done / len(chunks):.0%}, "
                      f"{done * _RECORDS_PER_CALL / (shown - begin):.0f} records/s", file=sys.stderr, flush=True)
    return counts
