"""Stereo records' pixels: checked, and changed at random as a pair."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.image import encode_depth
from tfhf.data.schema import STEREO
from tfhf.data.stereo import measured_disparity, random_exposure, random_mirror, stereo_pair

RNG = np.random.default_rng(0)


def _record(**changes):
    left, right = RNG.integers(0, 256, (2, 4, 6, 3)).astype("uint8")
    example = {"id": "street", "left": tf.io.encode_png(left).numpy(), "right": tf.io.encode_png(right).numpy(),
               "pixels": 24, **changes}
    return left, right, STEREO.decode(tf.constant(STEREO.encode(example)))


def test_a_pair_and_its_disparity():
    truth = np.array([[[3.5], [0.0], [1.25]]], "float32")
    left, right, record = _record(disparity=encode_depth(truth, 1 / 64).numpy(), disparity_scale=1 / 64)
    for got, expected in zip(stereo_pair(record), (left, right), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(measured_disparity(record), truth)
    assert tf.function(measured_disparity)(_record()[2]).numpy().tolist() == [[[0.0]]]   # none was measured


def test_a_pair_of_different_sizes_is_named():
    _, _, record = _record(right=tf.io.encode_png(np.zeros((4, 7, 3), "uint8")).numpy())
    message = "RecordError: street: the left image has 4 x 6 pixels, the right one 4 x 7, expected one size"
    for function in (stereo_pair, tf.function(stereo_pair)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            function(record)


def test_mirrored_images_change_places():
    left, right = RNG.random((2, 4, 6, 3)).astype("float32")
    count = 0
    for number in range(40):
        a, b = random_mirror(tf.constant([number, 7]), left, right)
        if not np.array_equal(a, left):
            left_of_mirrored, right_of_mirrored = right[:, ::-1], left[:, ::-1]
            np.testing.assert_array_equal(a, left_of_mirrored)
            np.testing.assert_array_equal(b, right_of_mirrored)
            count += 1
        else:
            np.testing.assert_array_equal(b, right)
    assert 8 < count < 32


def test_exposure_is_the_same_for_both_and_stays_in_range():
    image = RNG.random((4, 6, 3)).astype("float32")
    changed, brightest = 0, 0.0
    for number in range(40):
        seed = tf.constant([number, 3])
        a, b = (part.numpy() for part in random_exposure(seed, image, image))
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, random_exposure(seed, image, image)[0])
        assert a.min() >= 0 and a.max() <= 1
        changed += not np.array_equal(a, image)
        brightest = max(brightest, (a / image).max())
    assert 8 < changed < 32 and brightest > 1.5
