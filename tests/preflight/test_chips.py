"""The facts of the TPUs, the names of slices, and bounds computed by hand."""

import dataclasses

import pytest

from tfhf.preflight.chips import CHIPS, UnknownTpu, tpu_named
from tfhf.preflight.compiler import OutOfMemory, PreflightError, compile_for_tpu
from tfhf.preflight.hlo import Costs

pytestmark = pytest.mark.usefixtures("own_cache")
NOTHING = Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (), (), (), (), ())


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHF_CACHE", str(tmp_path))


@pytest.mark.parametrize("name, topology, chips, cores", [
    ("v2-8", "v2:2x2", 4, 8), ("v3-8", "v3:2x2", 4, 8), ("v3-32", "v3:4x4", 16, 32),
    ("v3-2048", "v3:32x32", 1024, 2048),
    ("v4-8", "v4:2x2x1", 4, 8), ("v4-32", "v4:2x2x4", 16, 32), ("v5e-8", "v5e:2x4", 8, 8),
    ("v5litepod-256", "v5e:16x16", 256, 256), ("v6e-1", "v6e:1x1", 1, 1), ("v3:4x8", "v3:4x8", 32, 64),
])
def test_names(name, topology, chips, cores):
    tpu = tpu_named(name)
    assert (tpu.topology, tpu.chips, tpu.cores) == (topology, chips, cores)


@pytest.mark.parametrize("name, said", [
    ("v9-8", "expected one of v2, v3, v4, v5e, v6e"), ("v3", "such as v3-8"), ("v3-9", "v3 comes as v3-8, v3-32"),
    ("v3:two", "expected chips such as 2x2"), ("", "TPU ''"),
])
def test_names_that_are_none(name, said):
    with pytest.raises(UnknownTpu, match=said):
        tpu_named(name)


def test_the_compiler_knows_every_slice():
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    import tensorflow as tf

    function = tf.function(lambda x: x + 1.0, jit_compile=True)
    for name in ("v2-8", "v2-32", "v3-8", "v3-128", "v4-8", "v4-64", "v5e-8", "v5e-64", "v6e-8", "v6e-16"):
        tpu = tpu_named(name)
        assert compile_for_tpu(function, [tf.TensorSpec((8,))], tpu.topology, tpu.cores).replicas == tpu.cores
        with pytest.raises(PreflightError, match=f"has {tpu.cores} cores"):
            compile_for_tpu(function, [tf.TensorSpec((8,))], tpu.topology, tpu.cores + 1)


@pytest.mark.parametrize("name", CHIPS)
def test_the_memory_is_what_the_compiler_leaves(name):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    import tensorflow as tf

    function = tf.function(lambda x: tf.tanh(x), jit_compile=True)
    with pytest.raises(OutOfMemory) as caught:
        compile_for_tpu(function, [tf.TensorSpec((70000, 65536))], tpu_named(f"{name}-8").topology)
    assert caught.value.available_bytes == pytest.approx(CHIPS[name].hbm_bytes, rel=0.002)


def test_bounds():
    tpu = tpu_named("v3-8")
    costs = dataclasses.replace(NOTHING, flops=61.5e9, bytes=450e6, cycles=940e3)
    bound = tpu.bound(costs, 8)
    assert (bound.arithmetic, bound.memory, bound.all_reduce) == pytest.approx((1e-3, 1e-3, 0.0))
    assert bound.compiler == pytest.approx(1e-3)
    slow = tpu.bound(dataclasses.replace(costs, bytes=900e6), 8)
    assert (slow.by, slow.seconds) == ("memory", pytest.approx(2e-3))
    assert tpu.mfu(61.5e9, slow.seconds) == pytest.approx(0.5)


def test_the_all_reduce():
    """Four chips in a square: each sends 2 x 3/4 of the bytes, over its two links of 82 GB/s."""
    costs = dataclasses.replace(NOTHING, all_reduce_bytes=1e9)
    bound = tpu_named("v3-8").bound(costs, 8)
    assert (bound.by, bound.seconds) == ("all_reduce", pytest.approx(1.5 / 164))
    assert tpu_named("v3-8").bound(costs, 2).all_reduce == 0.0  # the two cores of one chip


def test_facts_hold_together():
    for chip in CHIPS.values():
        assert 7 < chip.hbm_bytes / 2**30 < 32 and chip.cores in (1, 2)
        # From 66 (v2) to 560 (v6e) FLOP for each byte.
        assert 50 < chip.peak_flops / (chip.hbm_gb_per_second * 1e9) < 600
    v3 = CHIPS["v3"]
    # Two matrix units of 128 x 128, a multiply-add a cycle.
    assert v3.peak_flops == pytest.approx(2 * 2 * 128 * 128 * v3.mhz * 1e6, rel=0.01)
