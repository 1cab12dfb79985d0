"""The programs that a run has for one core of a TPU: the train step, the evaluation step, and what decoding compiles.

They are the real ones: the task at its recipe's shapes, precision and batch, the trainer that `make_trainer` builds,
its accumulation, clipping, optimizer and averages. Two things are stood in for: the strategy, whose all-reduce and
replica number become those of the compiled program, and the published checkpoints (published.py), since weights do not
change what a step costs. No record is read: shapes are those of what `preprocess` makes of a record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import Any, Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfhf import run
from tfhf.data.schema import RecordError
from tfhf.decoding.compile import not_run
from tfhf.preflight.compiler import PreflightError, all_reduce_sum, replica_id
from tfhf.preflight.published import no_checkpoints
from tfhf.run_config import RunConfig
from tfhf.strategy import Runtime
from tfhf.task import Task

KINDS = ("train", "evaluate", "generate")


@dataclasses.dataclass(frozen=True)
class Step:
    """One program, not yet lowered.

    Attributes:
        name: "train", "evaluate", or "generate: " and the name of the decoding function.
        function: a `tf.function(jit_compile=True)` of flat tensors, what one replica runs.
        specs: its arguments, tf.TensorSpec with the batch of one replica in front (generate: as decoding gives them).
        names: of the arguments, such as "inputs/input_values".
        runtime: where it runs: a strategy of all cores, or none.
        examples: of one run on all replicas.
        model: the keras model in it.
    """

    name: str
    function: Any
    specs: tuple[tf.TensorSpec, ...]
    names: tuple[str, ...]
    runtime: Runtime
    examples: int
    model: Any

    @property
    def replicas(self) -> int:
        """Cores that run it together."""
        return self.runtime.num_replicas

    def with_examples(self, examples: int) -> "Step":
        """The same program for another global batch, a multiple of `replicas`."""
        specs = [tf.TensorSpec([examples // self.replicas, *spec.shape[1:]], spec.dtype) for spec in self.specs]
        return dataclasses.replace(self, specs=tuple(specs), examples=examples)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a recipe would run on a TPU. `steps`: the programs of its kind; `task`: what they belong to."""

    steps: tuple[Step, ...]
    task: Task


@contextlib.contextmanager
def prepared_steps(task_class: Callable[[Any], Task], config: RunConfig, kind: str,
                   replicas: int) -> Iterator[Prepared]:
    """The programs of a recipe; to be lowered within the context, which sets Keras' precision to the recipe's.

    Args:
        task_class: the task, or a function that makes it from `config.task`.
        config: of the run; batches are global.
        kind: "train" (one update, all-reduces included), "evaluate" (the loss of a batch, summed over replicas) or
            "generate" (what `task.decode` compiles for one evaluation batch; decoding runs on one core).
        replicas: cores that train together.

    Raises:
        PreflightError: an unknown kind, a decoding that compiles nothing, or the JAX backend.
        ConfigError, TaskError, StrategyError: a recipe that no TPU would run, as `train` raises them.
    """
    if kind not in KINDS:
        raise PreflightError(f"step: got {kind!r}, expected one of {', '.join(KINDS)}")
    if keras.backend.backend() != "tensorflow":
        raise PreflightError(f"backend: got {keras.backend.backend()!r}, expected tensorflow: KERAS_BACKEND=tensorflow")
    config = dataclasses.replace(config, strategy="tpu")
    policy = keras.config.dtype_policy()
    strategy = _OneCoreOfMany(replicas)
    runtime = Runtime("tpu", strategy, replicas, False)
    with no_checkpoints():
        try:
            run.prepare(config, runtime)
            task = task_class(config.task)
            make = {"train": _train_step, "evaluate": _evaluation_step, "generate": _decoding_steps}[kind]
            yield Prepared(tuple(make(task, config, runtime)), task)
        finally:
            keras.config.set_dtype_policy(policy)


def batch_spec(task: Task, batch_size: int, training: bool) -> tuple:
    """(inputs, targets, weight) of a batch as tf.TensorSpec [batch_size, ...]: what `preprocess` makes of the longest
    records that the task takes. A dimension that it leaves open is None."""
    bucket = max(task.buckets)

    def prepare(serialized):
        # As the pipeline does: with several buckets, preprocess is given a tensor.
        length = bucket if len(task.buckets) == 1 else tf.constant(bucket)
        if task.batched:
            example = {**task.record_type.decode_batch(serialized, length), "seed": tf.zeros([batch_size, 2], tf.int32)}
        else:
            example = {**task.record_type.decode(serialized), "seed": tf.zeros([2], tf.int32)}
        inputs, targets, weight = task.preprocess(example, length, training)
        return inputs, targets, tf.cast(weight, tf.float32)

    def batches(serialized):
        dataset = tf.data.Dataset.from_tensors(tf.fill([batch_size], serialized) if task.batched else serialized)
        if task.batched:
            return dataset.map(prepare)
        return dataset.map(prepare).repeat(batch_size).batch(batch_size, drop_remainder=True)

    spec = batches("").element_spec
    if len(task.buckets) > 1 and not all(leaf.shape.is_fully_defined() for leaf in keras.tree.flatten(spec)):
        # There the graph does not tell the padded length; a batch does. Each length compiles by itself.
        try:
            batch = next(iter(batches(_longest_record(task.record_type, bucket))))
        except (tf.errors.OpError, RecordError):
            return spec  # a task that takes no such record: lint names what is open
        spec = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), batch)
    return spec


def _longest_record(record_type, length) -> bytes:
    """A record of zeros, as long as the bucket."""
    values = {"string": "none", "bytes": b"", "int": 0, "float": 0.0, "ints": np.zeros(length, "int64"),
              "floats": np.zeros(length, "float32"), "audio": np.zeros(length, "int16")}
    example = {field.name: values[field.kind] if field.default is None else field.default
               for field in record_type.fields}
    example[record_type.length_field] = length
    if record_type.has_audio:
        example["sample_rate_hz"] = record_type.sample_rate_hz
    return record_type.encode(example)


def _train_step(task, config, runtime):
    trainer = run.make_trainer(task, config, runtime)
    trainer.max_traces = sys.maxsize  # the search for the largest batch traces as often as it likes; lint counts itself
    spec = batch_spec(task, config.batch_size // runtime.num_replicas, True)
    yield _step("train", lambda *batch: trainer.train_step(batch), spec, runtime, config.batch_size, trainer.model)


def _evaluation_step(task, config, runtime):
    trainer = run.make_trainer(task, config, runtime)
    spec = batch_spec(task, config.eval_batch_size // runtime.num_replicas, False)
    sums = trainer.evaluation_sums(runtime).python_function
    yield _step("evaluate", sums, spec, runtime, config.eval_batch_size, trainer.model, in_replica=False)


def _decoding_steps(task, config, runtime):
    alone = Runtime("tpu", None, 1, True)
    model = run.build_model(task, alone)
    inputs = batch_spec(task, config.eval_batch_size, False)[0]
    with not_run() as calls:
        task.decode(model, tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), inputs))
    if not calls:
        raise PreflightError(f"task {task.name}: decode() compiles nothing; expected a function made by "
                             "tfhf.decoding.compile.compiled")
    for number, (function, specs) in enumerate(calls, 1):
        yield _step(f"generate {number} of {len(calls)}", function, specs, alone, config.eval_batch_size, model)


def _step(name, function, arguments, runtime, examples, model, in_replica=True):
    named = keras.tree.flatten_with_path(arguments)

    def one_core(*tensors):
        packed = keras.tree.pack_sequence_as(arguments, tensors)
        if runtime.strategy is None or not in_replica:
            return function(*packed)
        return runtime.strategy.run(function, args=packed)

    return Step(name, tf.function(one_core, jit_compile=True, autograph=False), tuple(spec for _, spec in named),
                _names(name, named), runtime, examples, model)


def _names(name, named):
    """[((0, "input_values"), spec), ...] -> ("inputs/input_values", ...); a decoding's arguments have numbers only."""
    parts = ("inputs", "targets", "weight") if name in KINDS else ()
    return tuple("/".join(map(str, (parts[path[0]], *path[1:]) if parts else path)) for path, _ in named)


class _OneCoreOfMany(tf.distribute.Strategy):
    """What TPUStrategy is to the program of one core: `replicas` of them, whose sums and numbers the chip knows."""

    def __init__(self, replicas):
        super().__init__(_Extended(self, replicas))


class _ReplicaContext(tf.distribute.ReplicaContext):
    @property
    def devices(self):
        return self.strategy.extended.worker_devices


# The extended part of OneDeviceStrategy has no public name of its own.
class _Extended(type(tf.distribute.OneDeviceStrategy("/cpu:0").extended)):
    def __init__(self, strategy, replicas):
        super().__init__(strategy, "/cpu:0")
        self._replicas, self._zeros = replicas, {}

    def _create_variable(self, next_creator, **kwargs):
        # Values do not matter to a program: variables of one shape share the memory of one tensor, which lets a large
        # model, its moments and the compiler (some 12 GB) into an ordinary machine.
        value = kwargs["initial_value"]
        value = tf.convert_to_tensor(value() if callable(value) else value, kwargs.get("dtype"))
        kind = tuple(value.shape), value.dtype
        if kind not in self._zeros:
            self._zeros[kind] = tf.zeros(*kind)
        return super()._create_variable(next_creator, **{**kwargs, "initial_value": self._zeros[kind]})

    @property
    def _num_replicas_in_sync(self):
        return self._replicas

    def _call_for_each_replica(self, fn, args, kwargs):
        with tf.device(self._device), _ReplicaContext(self._container_strategy(), replica_id()):
            return fn(*args, **kwargs)

    def _reduce_to(self, reduce_op, value, destinations, options):
        total = all_reduce_sum(value, self._replicas)
        return total / self._replicas if reduce_op == tf.distribute.ReduceOp.MEAN else total
