"""What stands in a step's way on a TPU, found before anything is compiled: each finding with its place in the source.

An "error" cannot run on a TPU, or not as it stands; a "warning" runs, but slowly or not as meant.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections import Counter

import keras
import tensorflow as tf

from tfhf.data import storage
from tfhf.data.pipeline import training_batches
from tfhf.data.schema import RecordError
from tfhf.preflight.compiler import place
from tfhf.preflight.report import nearby
from tfhf.run_config import RunConfig
from tfhf.strategy import StrategyError, check_built_in_scope

# By the kind of op, as TensorFlow's graphs name it.
PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"}
HOST = {"PrintV2", "Print", "StringFormat", "WriteSummary", "WriteScalarSummary", "WriteHistogramSummary",
        "WriteImageSummary", "ReadFile", "WriteFile", "IteratorGetNext", "OutfeedEnqueue", "OutfeedEnqueueTuple",
        "LookupTableFindV2", "LookupTableInsertV2", "DecodeRaw", "DecodeWav", "DecodeJpeg", "DecodePng",
        "HashTableV2", "MutableHashTableV2", "Timestamp"}
DYNAMIC = {"Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "ListDiff", "DynamicPartition",
           "NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5",
           "CombinedNonMaxSuppression", "RaggedRange", "RaggedTensorToVariant", "RaggedGather", "StringSplitV2"}
WIDE = {tf.float64, tf.complex128}
# They carry what others make. A constant string is an assertion's message, as a rule, and XLA leaves assertions out.
_CARRIERS = {"Const", "Placeholder", "Identity", "IdentityN", "If", "StatelessIf", "While", "StatelessWhile",
             "PartitionedCall", "StatefulPartitionedCall"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found. level: "error" or "warning"; place: "file:line in function", or a name."""

    level: str
    what: str
    place: str

    def __str__(self):
        return f"{self.level}: {self.what} [{self.place}]"


def lint(prepared, config: RunConfig | None = None) -> list[Finding]:
    """All findings for the programs of a recipe (`tfhf.preflight.step.prepared_steps`).

    Where `config` is given and its records are at hand, two of their batches are looked at as well.
    """
    found = []
    for step in prepared.steps:
        wrong = arguments(step, prepared.task)
        found += outside_scope(step.runtime, step.model) + wrong
        if not wrong:
            found += graph_findings(step.function.get_concrete_function(*step.specs).graph)
    if config is not None:
        found += retraces(prepared.task, config)
    return list(dict.fromkeys(found))


def arguments(step, task) -> list[Finding]:
    """Arguments of a step that no TPU takes: shapes that `preprocess` leaves open, and strings."""
    found = []
    for name, spec in zip(step.names, step.specs):
        if not spec.shape.is_fully_defined():
            found.append(f"{name} has the shape {spec.shape}; a TPU's shapes are static, padded to the bucket")
        if spec.dtype == tf.string:
            found.append(f"{name} is a string, which a TPU has not; leave it on the host")
    return [Finding("error", said, _source(type(task).preprocess)) for said in found]


def outside_scope(runtime, model) -> list[Finding]:
    """Whether variables of the model were created outside the strategy's scope."""
    try:
        check_built_in_scope(runtime, model)
    except StrategyError as error:
        return [Finding("error", str(error), model.name)]
    return []


def graph_findings(graph) -> list[Finding]:
    """What in a step's FuncGraph, and in the functions that it calls, a TPU has not or has to wait for the host for."""
    found, wide = [], {}
    for each in graphs_of(graph):
        for op in each.get_operations():
            if op.type in _CARRIERS:
                continue
            types = {tensor.dtype for tensor in op.outputs}
            if op.type in PYTHON:
                said = f"{op.type} calls Python, which a TPU has not"
            elif op.type in HOST:
                said = f"{op.type} is the host's work: the TPU would wait for it in every step"
            elif op.type in DYNAMIC:
                said = f"{op.type} gives a result whose size is only known when it runs"
            elif tf.string in types:
                said = f"{op.type} gives a string, which a TPU has not"
            elif types & WIDE:
                wide.setdefault(nearby(place(each, op.name)), []).append(op.type)
                continue
            else:
                continue
            found.append(Finding("error", said, f"{nearby(place(each, op.name))}, op {op.name}"))
    slow = [Finding("warning", f"{', '.join(dict.fromkeys(kinds))}: float64, which a TPU computes in software", where)
            for where, kinds in wide.items()]
    return found + slow


def graphs_of(graph) -> list:
    """A FuncGraph and those of the functions that it calls: bodies of loops, branches, nested functions."""
    inner = (getattr(function, "graph", None) for function in graph._functions.values())
    return [graph, *(each for each in inner if each is not None and each is not graph)]


def retraces(task, config: RunConfig) -> list[Finding]:
    """Whether two batches of the recipe's records have other shapes than each other, which would compile again.

    None where the records are not at hand.
    """
    path = config.data.training_path
    folders = [folder for folder, _ in path] if isinstance(path, list) else [path]
    if not all(storage.exists(storage.join(folder, config.data.train_split, "manifest.json")) for folder in folders):
        return []
    try:
        dataset = training_batches(task, path, config.data.train_split, batch_size=config.batch_size, seed=config.seed,
                                   num_steps=2, drop_longer=config.data.drop_longer)
        batches = [keras.tree.flatten_with_path(batch) for batch in dataset]
    except (tf.errors.OpError, RecordError) as error:
        return [Finding("warning", f"two batches could not be made: {str(error).splitlines()[0]}", str(folders[0]))]
    shapes = Counter(tuple(tuple(tensor.shape) for _, tensor in batch) for batch in batches)
    if len(shapes) <= len(task.buckets):
        return []
    other = [f"{'/'.join(map(str, name))}: {tuple(a.shape)} and {tuple(b.shape)}"
             for (name, a), (_, b) in zip(*batches) if a.shape != b.shape]
    return [Finding("error", f"two batches have different shapes, {'; '.join(other)}: the step compiles for each",
                    _source(type(task).preprocess))]


def _source(function) -> str:
    try:
        file, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return function.__qualname__
    return f"{os.path.relpath(file)}:{line} in {function.__qualname__}"
