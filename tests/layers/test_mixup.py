"""MixUp within a batch: who is mixed with whom, by how much, and what it says of its share's distribution."""

import numpy as np
import tensorflow as tf

from tfhf.data.augment import mixup_share
from tfhf.layers.mixup import mix, partners


def test_each_example_is_mixed_with_the_next():
    x = np.arange(12, dtype="float32").reshape(3, 2, 2)
    np.testing.assert_array_equal(partners(x), x[[1, 2, 0]])
    np.testing.assert_array_equal(partners(np.array([4, 5, 6])), [5, 6, 4])
    share = np.array([1.0, 0.0, 0.25], "float32")
    np.testing.assert_allclose(mix(x, share), np.stack([x[0], x[2], 0.25 * x[2] + 0.75 * x[0]]))
    np.testing.assert_array_equal(mix(x[:1], share[2:]), x[:1])   # alone there is nobody to mix with


def test_it_compiles_and_keeps_the_type():
    x = tf.cast(tf.reshape(tf.range(24), [4, 3, 2]), tf.bfloat16)
    compiled = tf.function(mix, jit_compile=True)(x, tf.fill([4], 0.5))
    assert compiled.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(compiled, tf.float32), tf.cast(mix(x, tf.fill([4], 0.5)), tf.float32))


def test_shares_are_of_the_beta_distribution():
    seeds = tf.stack([tf.range(1000), tf.ones([1000], tf.int32)], axis=1)
    for alpha in (0.2, 1.0):
        draw = tf.function(lambda: tf.map_fn(lambda seed: mixup_share(seed, alpha), seeds, fn_output_signature="float"))
        shares = draw().numpy()
        assert shares.min() >= 0 and shares.max() <= 1
        # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
        assert abs(shares.mean() - 0.5) < 0.04 and abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.02
    assert mixup_share(tf.constant([3, 1]), 1.0) == shares[3]   # the seed's, and nothing else's
