"""The TPU's compiler on a machine without a TPU; skipped where its packages are missing."""

import importlib.util

import pytest
import tensorflow as tf

from tfhf.preflight import PreflightError, compile_for_tpu


def _product(size):
    return tf.function(lambda x, y: tf.matmul(x, y), jit_compile=True), [tf.TensorSpec((size, size))] * 2


def test_a_product_for_one_core():
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    compiled = compile_for_tpu(*_product(1024))
    assert compiled.argument_mib == 8 and compiled.output_mib == 4
    assert compiled.gflop == pytest.approx(2 * 1024**3 / 1e9, rel=0.01)


def test_random_bits_are_the_chips_own():
    """A dropout mask of 64 MiB; by Philox, a CPU's algorithm, it would take 600 MiB beside it."""
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    drop = tf.function(lambda x, seed: tf.where(tf.random.stateless_uniform(x.shape, seed) > 0.1, x, 0.0),
                       jit_compile=True)
    compiled = compile_for_tpu(drop, [tf.TensorSpec((2, 8, 1024, 1024)), tf.TensorSpec((2,), tf.int32)])
    assert compiled.temporary_mib < 150


def test_what_cannot_be_is_told():
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    with pytest.raises(PreflightError, match="topology 'v9:2x2'"):
        compile_for_tpu(*_product(8), "v9:2x2")
    with pytest.raises(PreflightError, match="v3:2x2: RESOURCE_EXHAUSTED"):
        compile_for_tpu(*_product(60000))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the compiler is installed here")
def test_without_the_compiler():
    with pytest.raises(PreflightError, match=r"expected pip install 'tfhf\[preflight\]'"):
        compile_for_tpu(*_product(8))
