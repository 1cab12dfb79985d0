"""Bicubic enlargement against TensorFlow's, which differs at the edges alone, in any size."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.image import resize
from tfhf.layers.bicubic import bicubic_enlarged

X = np.random.default_rng(0).uniform(size=(2, 7, 9, 3)).astype("float32")


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_is_the_usual_bicubic(scale):
    expected, edge = resize(X, (7 * scale, 9 * scale), "bicubic").numpy(), 2 * scale
    graph = tf.function(lambda x: bicubic_enlarged(x, scale), input_signature=[tf.TensorSpec([None, None, None, 3])])
    for got in (bicubic_enlarged(X, scale), graph(X)):
        np.testing.assert_allclose(got[:, edge:-edge, edge:-edge], expected[:, edge:-edge, edge:-edge], atol=1e-5)
        assert np.abs(got - expected).max() < 0.3


def test_edges_are_repeated():
    np.testing.assert_allclose(bicubic_enlarged(np.full((1, 1, 1, 3), 0.25, "float32"), 4), 0.25, atol=1e-6)
    padded = np.pad(X, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    np.testing.assert_allclose(bicubic_enlarged(X, 2), bicubic_enlarged(padded, 2)[:, 6:-6, 6:-6], atol=1e-5)
