"""The pixels of image_depth records, checked: in a graph and outside one."""

import numpy as np
import pytest
import tensorflow as tf

from tests import depth_scenes
from tfhf.data.depth import image_and_depth


def _tensors(example):
    return {name: tf.constant(example[name]) for name in ("id", "image", "depth", "depth_scale")}


@pytest.mark.parametrize("graph", [False, True])
def test_pixels_and_metres(graph):
    read = tf.function(image_and_depth) if graph else image_and_depth
    image, depth = depth_scenes.scene(0, 12, 16)
    got, metres = read(_tensors(depth_scenes.example(0, 12, 16)))
    np.testing.assert_array_equal(got, image)
    known = metres.numpy()[..., 0] > 0
    assert 0.7 < known.mean() < 1.0   # a tenth was not measured
    np.testing.assert_allclose(metres.numpy()[known][:, 0], depth[known], atol=0.51 * depth_scenes.SCALE)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("depth, message", [
    (np.zeros((12, 16, 1), "uint16"), "RecordError: scene-0: no pixel of the depth is valid"),
    (np.ones((12, 17, 1), "uint16"), "RecordError: scene-0: the image has 12 x 16 pixels, the depth 12 x 17"),
])
def test_refusals(graph, depth, message):
    read = tf.function(image_and_depth) if graph else image_and_depth
    example = {**depth_scenes.example(0, 12, 16), "depth": tf.io.encode_png(depth).numpy()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        read(_tensors(example))
