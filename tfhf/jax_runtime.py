"""Where the model runs on Keras' JAX backend: all devices as one mesh, the batch split over them.

With `shard_weights` each device also keeps a part only of every weight, and with it of the optimizer's state (ZeRO,
Rajbhandari et al. 2020, stage 3); the compiler gathers a layer's weights when the layer needs them.
"""

from __future__ import annotations

import jax
import keras
import numpy as np

from tfhf.strategy import Runtime, StrategyError


class ShardedWeights(keras.distribution.DataParallel):
    """Data parallel, the weights split as well: each along its longest axis that the devices divide, others whole."""

    def get_variable_layout(self, variable):
        """The layout of a Keras variable: of its own, or split over the mesh's one axis."""
        if getattr(variable, "_layout", None) is not None:
            return variable._layout
        devices, axes = self.device_mesh.devices.size, [None] * len(variable.shape)
        divisible = [axis for axis, size in enumerate(variable.shape) if size % devices == 0]
        if divisible and "float" in str(variable.dtype):
            axes[max(divisible, key=lambda axis: variable.shape[axis])] = self.batch_dim_name
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def make_jax_runtime(spec: str, shard_weights: bool = False) -> Runtime:
    """Set up "none", "cpu:N" (virtual devices), "gpu" or "tpu" and tell Keras; models are built after this.

    Raises:
        StrategyError: an unknown word, devices that are not there, or weights to be split over a single device.
    """
    kind, _, detail = spec.partition(":")
    if kind == "none" and not detail:
        if shard_weights:
            raise StrategyError("shard_weights=true with strategy 'none': expected several devices")
        keras.distribution.set_distribution(None)
        return Runtime("none", None, 1, True)
    if kind == "cpu":
        devices = _virtual_cpus(detail, spec)
    elif kind in ("gpu", "tpu") and not detail:
        try:
            devices = jax.devices(kind)
        except RuntimeError as error:
            raise StrategyError(f"strategy {spec!r}: JAX sees no {kind.upper()} here: {error}") from error
    else:
        raise StrategyError(f"unknown strategy {spec!r} on the JAX backend; expected none, cpu:N, gpu or tpu")
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], np.array([str(d) for d in devices]))
    split = ShardedWeights if shard_weights else keras.distribution.DataParallel
    # The records are sharded over hosts by the plan; Keras must not shard again.
    keras.distribution.set_distribution(split(device_mesh=mesh, auto_shard_dataset=False))
    return Runtime(kind, None, len(devices), True)


def _virtual_cpus(detail: str, spec: str) -> list:
    if not detail.isdigit() or int(detail) < 1:
        raise StrategyError(f"strategy {spec!r}: expected cpu:N with N virtual devices, for example cpu:8")
    try:
        jax.config.update("jax_num_cpu_devices", int(detail))
    except RuntimeError:
        pass  # JAX is in use already; what it has is looked at below
    devices = jax.devices("cpu")
    if len(devices) < int(detail):
        raise StrategyError(f"strategy {spec!r}: JAX was used before its virtual devices were set; got {len(devices)} "
                            f"CPU device(s), expected {detail}; use a fresh process")
    return devices[:int(detail)]
