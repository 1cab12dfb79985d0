"""Strategies: what is refused, and what a strategy does to a step (in fresh processes: virtual devices need one)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from tfhf import strategy
from tfhf.strategy import Runtime, StrategyError, lost_hosts, make_runtime, read_cluster, set_precision, strategy_kind

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("spec", ["cpu", "cpu:0", "cpu:x", "cpus:2", "none:1", "gpu:1", "workers:2", ""])
def test_unknown_words(spec):
    with pytest.raises(StrategyError, match="expected"):
        make_runtime(spec)


def test_none_compiles():
    with pytest.raises(StrategyError, match="jit_compile=true with strategy 'cpu:2'"):
        make_runtime("cpu:2", jit_compile=True)
    assert make_runtime("none", jit_compile=False).jit_compile is False
    runtime = make_runtime("none")
    assert (runtime.strategy, runtime.num_replicas, runtime.jit_compile) == (None, 1, True)
    assert strategy_kind("tpu:name") == "tpu"


def test_too_late_for_virtual_devices():
    tf.constant(1) + 1  # TensorFlow is in use now
    with pytest.raises(StrategyError, match="expected 64.*fresh process"):
        make_runtime("cpu:64")


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_no_gpu():
    with pytest.raises(StrategyError, match="no GPU"):
        make_runtime("gpu")


def cluster(*addresses, kind="worker", index=0, **more):
    return json.dumps({"cluster": {"worker": list(addresses), **more}, "task": {"type": kind, "index": index}})


def test_the_cluster_is_read_from_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster("a:1", "b:2", index=1))
    assert read_cluster() == (["a:1", "b:2"], 1)
    monkeypatch.setenv("TF_CONFIG", cluster("a:1", "b:2", index=1, chief=["[::1]:3"]))
    assert read_cluster() == (["[::1]:3", "a:1", "b:2"], 2)
    monkeypatch.setenv("TF_CONFIG", cluster("a:1", "b:2", kind="chief", chief=["c:3"]))
    assert read_cluster() == (["c:3", "a:1", "b:2"], 0)


@pytest.mark.parametrize("text", [
    None, "", "{", "[]", "{}", cluster(), cluster("a:1", index=1), cluster("a:1", index="0"), cluster("a:1", "a:1"),
    cluster("a"), cluster("a:b"), cluster("a:70000"), cluster("a:1", kind="ps", ps=["b:2"]), cluster(1, 2),
])
def test_a_bad_cluster(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(StrategyError, match="TF_CONFIG holds .* expected .*cluster.*HOST:PORT"):
        make_runtime("workers")


def test_a_port_that_is_taken_and_a_process_that_does_not_come(monkeypatch):
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        mine, other = (f"127.0.0.1:{one.getsockname()[1]}" for one in (taken, free))
        monkeypatch.setattr(strategy, "PEER_WAIT_S", 0.3)
        monkeypatch.setenv("TF_CONFIG", cluster(mine, other))
        with pytest.raises(StrategyError, match=f"process 0 cannot have {mine}, .* in use"):
            make_runtime("workers")
        taken.close()
        with pytest.raises(StrategyError, match=f"no process answers at {other} .* after 0.3 s; .* all 2 hosts"):
            make_runtime("workers")


def test_one_process_has_one_host_and_hears_itself():
    runtime = make_runtime("none", jit_compile=False)
    assert (runtime.num_hosts, runtime.host_index, runtime.is_chief, runtime.gather(7)) == (1, 0, True, [7])
    batches = runtime.distribute(4, lambda hosts, index: tf.data.Dataset.from_tensors((hosts, index)))
    assert [tuple(map(int, batch)) for batch in batches] == [(1, 0)]


def test_only_the_break_of_a_cluster_is_a_lost_host():
    workers = Runtime("workers", None, 2, False, 2, 1)
    broken = tf.errors.UnavailableError(None, None, "Graph error:\nCollective ops is aborted by: Socket closed\nmore\n")
    with pytest.raises(StrategyError, match=r"host 1 lost another process .*\(Socket closed more\); start the same"):
        with lost_hosts(workers):
            raise broken
    for runtime, error in ((make_runtime("none", False), broken), (workers, tf.errors.DataLossError(None, None, "x"))):
        with pytest.raises(tf.errors.OpError), lost_hosts(runtime):
            raise error


def test_precision():
    before = keras.config.dtype_policy()
    set_precision("mixed_bfloat16")
    assert keras.config.dtype_policy().compute_dtype == "bfloat16"
    keras.config.set_dtype_policy(before)
    with pytest.raises(StrategyError, match="float16.*expected one of float32, mixed_bfloat16"):
        set_precision("float16")


IN_A_FRESH_PROCESS = """
import numpy as np
from tfhf.strategy import StrategyError, check_built_in_scope, make_runtime
runtime = make_runtime("cpu:2")
import keras, tensorflow as tf
from tfhf.optimizers import OptimizerConfig, make_optimizer
from tfhf.train_steps import Trainer
assert runtime.num_replicas == 2 and runtime.jit_compile is False

outside = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
try:
    check_built_in_scope(runtime, outside)
except StrategyError as error:
    assert "created outside strategy.scope()" in str(error), error
else:
    raise AssertionError("a model from outside the scope was taken")

# The gradient of a batch with uneven weights: cpu:2 against one device, by tape. SGD of rate 1 shows it.
random = np.random.default_rng(0)
x, y = random.normal(size=(8, 3)).astype("float32"), random.normal(size=(8, 2)).astype("float32")
weight = np.array([0, 5, 1, 0.5, 0, 0, 0.25, 1.25], "float32")  # its sum is the batch size
kernel = random.normal(size=(3, 2)).astype("float32")

def loss(targets, outputs):
    return tf.reduce_sum((targets - outputs) ** 2, axis=-1)

with runtime.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    trainer = Trainer(model, loss, seed=0, num_replicas=2, max_traces=1)
    trainer.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    trainer.optimizer.build(model.trainable_variables)
model.layers[0].kernel.assign(kernel)
dataset = runtime.strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors((x, y, weight)))
step = tf.function(lambda batch: runtime.strategy.run(trainer.train_step, args=(batch,)))
logged = [float(part) for part in runtime.strategy.experimental_local_results(step(next(iter(dataset)))["loss"])]
got = kernel - model.layers[0].kernel.numpy()
with tf.GradientTape() as tape:
    variable = tf.Variable(kernel)
    value = tf.reduce_sum(loss(y, x @ variable) * weight) / tf.reduce_sum(weight)
np.testing.assert_allclose(got, tape.gradient(value, variable), rtol=1e-5)
np.testing.assert_allclose(logged, [float(value)] * 2, rtol=1e-6)  # the global loss, on each replica

# Dropout: each replica draws its own mask, and the next step draws another.
with runtime.scope():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    trainer = Trainer(model, loss, seed=0, num_replicas=2, max_traces=1)
    trainer.compile(optimizer=keras.optimizers.SGD(0.0))
    trainer.optimizer.build(model.trainable_variables)

@tf.function
def masks():
    def replica():
        trainer.begin_micro_batch(0)
        mask = model.layers[0](tf.ones((1, 64)), training=True)
        return mask
    return runtime.strategy.run(replica)

a, b = (part.numpy() for part in runtime.strategy.experimental_local_results(masks()))
again, _ = (part.numpy() for part in runtime.strategy.experimental_local_results(masks()))
trainer.optimizer.iterations.assign_add(1)
later, _ = (part.numpy() for part in runtime.strategy.experimental_local_results(masks()))
assert (a != b).any(), "both replicas drew the same mask"
assert (a == again).all(), "the same step drew another mask"
assert (a != later).any(), "the next step drew the same mask"
print("ALL WELL")
"""


def test_two_replicas():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and "ALL WELL" in done.stdout, done.stderr[-3000:]


TPU_IN_A_FRESH_PROCESS = """
from tfhf.strategy import StrategyError, make_runtime
try:
    make_runtime("tpu:local")
except StrategyError as error:
    print("REFUSED", error)
"""


@pytest.mark.skipif(bool(tf.config.list_physical_devices("TPU")), reason="this machine has a TPU")
def test_no_tpu():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", TPU_IN_A_FRESH_PROCESS], env=environment, capture_output=True, text=True, timeout=200
    )
    assert "REFUSED strategy 'tpu:local': no TPU 'local'" in done.stdout, done.stdout + done.stderr[-3000:]
