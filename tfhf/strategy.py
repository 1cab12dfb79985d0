"""Where the model runs: no strategy, virtual CPU replicas, GPUs or a TPU; and the precision policy.

Keras' own choice of XLA ("auto") notices a strategy only inside its scope, and compiling under MirroredStrategy fails
on variables of another device. So `Runtime.jit_compile` is always explicit: true without a strategy, false under one
(TPUStrategy compiles its steps by itself), and `check_built_in_scope` refuses a model from outside the scope.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import keras
import tensorflow as tf

PRECISIONS = ("float32", "mixed_bfloat16")


class StrategyError(ValueError):
    """A strategy that cannot be had on this machine, or a model that does not belong to it."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A strategy that is ready to use.

    Attributes:
        kind: "none", "cpu", "gpu" or "tpu".
        strategy: the tf.distribute strategy, or None for kind "none".
        num_replicas: how many replicas a global batch is split over.
        jit_compile: what to pass to `compile` and `tf.function`.
    """

    kind: str
    strategy: Any
    num_replicas: int
    jit_compile: bool

    def scope(self):
        """The context in which models, optimizers and metrics must be created."""
        return self.strategy.scope() if self.strategy is not None else contextlib.nullcontext()


def strategy_kind(spec: str) -> str:
    """The part of "kind[:detail]" that decides how a run computes; a TPU's name does not."""
    return spec.partition(":")[0]


def make_runtime(spec: str, jit_compile: bool | None = None) -> Runtime:
    """Set up "none", "cpu:N", "gpu" or "tpu[:name]".

    `jit_compile` None: XLA for "none", not under a strategy (a TPU compiles by itself).

    "cpu:N" splits the CPU into N virtual devices, which must happen before TensorFlow is first used. "tpu" is the TPU
    of the environment variable TPU_NAME, or else the one this machine is attached to ("local").

    Raises:
        StrategyError: an unknown word, devices that are not there, or jit_compile under a strategy.
    """
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
    else:
        raise StrategyError(f"unknown strategy {spec!r}; expected none, cpu:N, gpu or tpu[:name]")
    return Runtime(kind, strategy, strategy.num_replicas_in_sync, False)


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
