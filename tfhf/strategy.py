"""Where the model runs: no strategy, virtual CPU replicas, GPUs, a TPU, or several processes; and the precision policy.

Keras' own choice of XLA ("auto") notices a strategy only inside its scope, and compiling under MirroredStrategy fails
on variables of another device. So `Runtime.jit_compile` is always explicit: true without a strategy, false under one
(TPUStrategy compiles its steps by itself), and `check_built_in_scope` refuses a model from outside the scope.

"workers" is one process of a cluster (TF_CONFIG), which runs the same command on every host. Each host feeds its own
replicas; whatever is decided between steps is decided by all of them at the same place, since a collective operation
that only some reach never ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import socket
import time
from typing import Any, Callable, Iterator

import keras
import tensorflow as tf

PRECISIONS = ("float32", "mixed_bfloat16")
PEER_WAIT_S = 300.0  # how long the processes of a cluster wait for each other at the start


class StrategyError(ValueError):
    """A strategy that cannot be had on this machine, or a model that does not belong to it."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A strategy that is ready to use.

    Attributes:
        kind: "none", "cpu", "gpu", "tpu" or "workers".
        strategy: the tf.distribute strategy, or None for kind "none".
        num_replicas: how many replicas a global batch is split over.
        jit_compile: what to pass to `compile` and `tf.function`.
        num_hosts: machines that feed the replicas. Of "workers" each runs a process of its own; those of a TPU pod are
            all driven by this one.
        host_index: the number of this process's host; 0 is the chief.
    """

    kind: str
    strategy: Any
    num_replicas: int
    jit_compile: bool
    num_hosts: int = 1
    host_index: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what the run writes: checkpoints, history, TensorBoard."""
        return self.host_index == 0

    def distribute(self, batch_size: int, batches: Callable[[int, int], tf.data.Dataset]):
        """What `fit` or a loop over `strategy.run` takes its batches from.

        Args:
            batch_size: examples over all replicas.
            batches: (num_hosts, host_index) -> the dataset of that host: its slice of every global batch.
        """
        if self.strategy is None:
            return batches(self.num_hosts, self.host_index)

        def of_host(context):
            dataset = batches(context.num_input_pipelines, context.input_pipeline_id)
            return dataset.rebatch(batch_size // self.num_replicas, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(of_host)

    def gather(self, number: int) -> list[int]:
        """`number` of every process, by host; a collective: every process must get to the same call."""
        if self.kind != "workers":
            return [number]
        total = self._sum_of_replicas(tf.constant(number, tf.int64)).numpy()
        return (total * self.num_hosts // self.num_replicas).tolist()

    @functools.cached_property
    def _sum_of_replicas(self):
        def mine(number):
            numbers = tf.one_hot(self.host_index, self.num_hosts, dtype=tf.int64) * number
            return sum_over_replicas(numbers)

        return tf.function(
            lambda number: self.strategy.experimental_local_results(self.strategy.run(mine, args=(number,)))[0]
        )

    def scope(self):
        """The context in which models, optimizers and metrics must be created."""
        return self.strategy.scope() if self.strategy is not None else contextlib.nullcontext()


class StopOfAnyHost:
    """The signals of all hosts, so that they end at the same step: every host asks at the same places."""

    def __init__(self, stop, runtime: Runtime):
        self._stop, self._runtime, self._agreed = stop, runtime, ""

    @property
    def requested(self) -> str:
        """What stopped the run, or ""; a collective until it did."""
        if not self._agreed and any(asked := self._runtime.gather(int(bool(self._stop.requested)))):
            self._agreed = self._stop.requested or f"a signal to host {asked.index(1)}"
        return self._agreed


@contextlib.contextmanager
def lost_hosts(runtime: Runtime) -> Iterator[None]:
    """A context in which a collective that broke off, since a process of the cluster is gone, is a StrategyError."""
    try:
        yield
    except tf.errors.OpError as error:
        if runtime.kind != "workers" or "Collective ops is aborted" not in error.message:
            raise
        reason = error.message.partition("Collective ops is aborted by: ")[2].strip().splitlines()
        raise StrategyError(
            f"strategy 'workers': host {runtime.host_index} lost another process of the cluster ({' '.join(reason[:2])}"
            "); start the same command on all hosts again, it goes on from the last checkpoint"
        ) from error


def strategy_kind(spec: str) -> str:
    """The part of "kind[:detail]" that decides how a run computes; a TPU's name does not."""
    return spec.partition(":")[0]


def sum_over_replicas(tensors):
    """The sum of every tensor of a structure over all replicas, in each of them; no gradient goes through it.

    Stopped for that: otherwise TensorFlow looks for what each sum depends on through the graphs of all replicas, in
    each of them, which takes a good part of the time that tracing takes.
    """
    tensors = tf.nest.map_structure(tf.stop_gradient, tensors)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def make_runtime(spec: str, jit_compile: bool | None = None, shard_weights: bool = False) -> Runtime:
    """Set up "none", "cpu:N", "gpu", "tpu[:name]" or "workers".

    `jit_compile` None: XLA for "none", not under a strategy (a TPU compiles by itself).

    "cpu:N" splits the CPU into N virtual devices, which must happen before TensorFlow is first used. "tpu" is the TPU
    of the environment variable TPU_NAME, or else the one this machine is attached to ("local"). "workers" is one
    process of the cluster in the environment variable TF_CONFIG, with its GPUs, or else its CPU as one replica; it
    waits for the others, and must come before any other use of TensorFlow.

    Raises:
        StrategyError: an unknown word, devices that are not there, or jit_compile under a strategy; for "workers" a
            TF_CONFIG that is missing or malformed, a port that is taken, a process that does not come.
    """
    if keras.backend.backend() == "jax":
        from tfhf.jax_runtime import make_jax_runtime  # JAX is not needed otherwise

        return make_jax_runtime(spec, shard_weights)
    if shard_weights:
        raise StrategyError("shard_weights=true on the TensorFlow backend, which keeps every weight whole on every "
                            "replica; expected --backend jax")
    kind, _, detail = spec.partition(":")
    if kind == "none" and not detail:
        return Runtime("none", None, 1, jit_compile is not False)
    if jit_compile:
        raise StrategyError(f"jit_compile=true with strategy {spec!r}: expected null or false; XLA fails there on "
                            "variables of another device")
    if kind == "cpu":
        if not detail.isdigit() or int(detail) < 1:
            raise StrategyError(f"strategy {spec!r}: expected cpu:N with N virtual replicas, for example cpu:8")
        strategy = _mirrored(_virtual_cpus(int(detail), spec))
    elif kind == "gpu" and not detail:
        gpus = tf.config.list_logical_devices("GPU")
        if not gpus:
            raise StrategyError("strategy 'gpu': TensorFlow sees no GPU here; expected at least one")
        strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(gpus))])
    elif kind == "tpu":
        strategy = _tpu(detail, spec)
    elif kind == "workers" and not detail:
        return _workers()
    else:
        raise StrategyError(f"unknown strategy {spec!r}; expected none, cpu:N, gpu, tpu[:name] or workers")
    hosts = strategy.extended.num_hosts if kind == "tpu" else 1
    return Runtime(kind, strategy, strategy.num_replicas_in_sync, False, hosts)


def set_precision(precision: str) -> None:
    """Set Keras' global dtype policy; must come before the model is built.

    Raises:
        StrategyError: a policy other than those in PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise StrategyError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    keras.config.set_dtype_policy(precision)


def check_built_in_scope(runtime: Runtime, model) -> None:
    """Raise StrategyError unless every variable of `model` was created inside `runtime.scope()`."""
    if runtime.strategy is None:
        return
    outside = [v.path for v in model.variables if not runtime.strategy.extended.variable_created_in_scope(v.value)]
    if outside:
        raise StrategyError(
            f"{len(outside)} variables of {model.name} were created outside strategy.scope(), first {outside[0]}; "
            f"build the model inside `with runtime.scope():`"
        )


def _mirrored(devices: list[str]):
    # Without NCCL TensorFlow picks this reduction anyway, after a warning.
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def _virtual_cpus(count: int, spec: str) -> list[str]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    wanted = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    configured = tf.config.get_logical_device_configuration(cpu)
    if configured is None or len(configured) < count:
        try:
            tf.config.set_logical_device_configuration(cpu, wanted)
        except RuntimeError as error:
            raise StrategyError(
                f"strategy {spec!r}: TensorFlow was used before its virtual devices were set; got "
                f"{len(tf.config.list_logical_devices('CPU'))} CPU device(s), expected {count}. Call make_runtime "
                f"before any other TensorFlow operation, in a fresh process"
            ) from error
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < count:
        raise StrategyError(
            f"strategy {spec!r}: got {len(devices)} CPU device(s), expected {count}; use a fresh process"
        )
    return [f"CPU:{i}" for i in range(count)]


def _workers() -> Runtime:
    addresses, index = read_cluster()
    _meet(addresses, index)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise StrategyError(
            f"strategy 'workers': process {index} of {len(addresses)} could not join the cluster: {error}. Call "
            "make_runtime before any other TensorFlow operation, in a fresh process"
        ) from error
    return Runtime("workers", strategy, strategy.num_replicas_in_sync, False, len(addresses), index)


def read_cluster() -> tuple[list[str], int]:
    """The cluster of TF_CONFIG: ("HOST:PORT" of every process, the chief first; the number of this one).

    Raises:
        StrategyError: it is missing, no JSON, or names no such process.
    """
    text = os.environ.get("TF_CONFIG", "")
    wanted = ('expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}, the index '
              "another one in each process")
    try:
        config = json.loads(text or "null")
        cluster = config["cluster"]
        kind, index = config["task"]["type"], config["task"]["index"]
        addresses = [*cluster.get("chief", []), *cluster["worker"]]
        good = (kind in ("chief", "worker") and isinstance(index, int) and 0 <= index < len(cluster[kind])
                and set(cluster) <= {"chief", "worker"} and len(cluster.get("chief", [])) <= 1
                and all(_address(address) for address in addresses) and len(set(addresses)) == len(addresses))
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        got = f"{text!r}" if text else "nothing"
        raise StrategyError(f"strategy 'workers': the environment variable TF_CONFIG holds {got}; {wanted}")
    return addresses, index + (len(cluster.get("chief", [])) if kind == "worker" else 0)


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() and 0 < int(port) < 65536 else None


def _meet(addresses: list[str], index: int) -> None:
    """Come back once every process has been seen at its port; TensorFlow itself would wait in silence, for an hour."""
    host, port = _address(addresses[index])
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen(len(addresses))
        except OSError as error:
            raise StrategyError(f"strategy 'workers': process {index} cannot have {addresses[index]}, its address in "
                                f"TF_CONFIG ({error.strerror}); expected a free port of this machine") from error
        deadline, absent = time.monotonic() + PEER_WAIT_S, [a for a in addresses if a != addresses[index]]
        while absent and time.monotonic() < deadline:
            absent = [address for address in absent if not _answers(address)]
            time.sleep(0.1 if absent else 0)
    if absent:
        raise StrategyError(f"strategy 'workers': no process answers at {', '.join(absent)} (in TF_CONFIG) after "
                            f"{PEER_WAIT_S:g} s; expected the same command to run on all {len(addresses)} hosts")


def _answers(address: str) -> bool:
    try:
        socket.create_connection(_address(address), timeout=1).close()
        return True
    except OSError:
        return False


def _tpu(name: str, spec: str):
    name = name or os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise StrategyError(f"strategy {spec!r}: no TPU {name!r} could be initialised: {error}") from error
