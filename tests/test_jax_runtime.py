"""The devices of the JAX backend: what is refused. What they do is in test_jax_steps.py, in processes of their own."""

import pytest

pytest.importorskip("jax", reason="the JAX backend needs jax")

from tfhf.jax_runtime import make_jax_runtime  # noqa: E402  after the skip
from tfhf.strategy import StrategyError, make_runtime  # noqa: E402


@pytest.mark.parametrize("spec, message", [
    ("cpu", "expected cpu:N"), ("cpu:0", "expected cpu:N"), ("cpu:x", "expected cpu:N"),
    ("workers", "unknown strategy 'workers' on the JAX backend"), ("tpu:name", "unknown strategy"),
    ("tpu", "JAX sees no TPU here"), ("cpu:64", "got 1 CPU device.*expected 64; use a fresh process"),
])
def test_what_cannot_be(spec, message):
    import jax

    jax.devices("cpu")   # in use: too late for virtual devices
    with pytest.raises(StrategyError, match=message):
        make_jax_runtime(spec)


def test_weights_are_not_split_over_one_device():
    with pytest.raises(StrategyError, match="expected several devices"):
        make_jax_runtime("none", shard_weights=True)


def test_weights_are_not_split_by_the_tensorflow_backend():
    with pytest.raises(StrategyError, match="expected --backend jax"):
        make_runtime("none", shard_weights=True)
