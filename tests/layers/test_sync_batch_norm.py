"""Batch normalisation over replicas: one device's and Keras', in a fresh process, which virtual devices need."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OVER_REPLICAS = """
import numpy as np
from tfhf.strategy import make_runtime
strategy = make_runtime("cpu:2").strategy
import keras, tensorflow as tf
from tfhf.layers.sync_batch_norm import SyncBatchNormalization

x, w = np.random.default_rng(0).normal(1, 2, (2, 8, 5, 4, 6)).astype("float32")   # 8 images, 4 a replica

def outcome(kind, spread):
    norm = kind(synchronized=True)
    norm.build(x.shape)

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x, training=True)
            loss = tf.reduce_sum(y * w)
        return y, tape.gradient(loss, x), norm.moving_mean.value, norm.moving_variance.value

    if not spread:
        return [part.numpy() for part in step(tf.constant(x), tf.constant(w))]
    batches = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, w)).batch(8))
    graph = tf.function(lambda *batch: strategy.run(step, batch))
    y, gradient, mean, variance = map(strategy.experimental_local_results, graph(*next(iter(batches))))
    return [np.concatenate(y), np.concatenate(gradient), mean[-1].numpy(), variance[-1].numpy()]

one = outcome(SyncBatchNormalization, False)
with strategy.scope():
    many, keras_own = outcome(SyncBatchNormalization, True), outcome(keras.layers.BatchNormalization, True)
for a, b, c in zip(one, many, keras_own, strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(b, c)
print("ALL WELL")
"""


def test_replicas_have_the_statistics_and_gradients_of_the_whole_batch():
    """And to the bit those of Keras' layer, which exchanges as much in three parts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, "-c", OVER_REPLICAS], env=environment, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0 and "ALL WELL" in done.stdout, done.stderr[-3000:]
