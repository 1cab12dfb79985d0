"""Bytes are normalised, floats are taken as they are."""

import numpy as np

from tfhf.layers.pixel_values import normalized

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def test_bytes_and_floats():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype("uint8")
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    got = normalized(pixels, MEAN, STD, "float32")
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(normalized(expected.astype("float32"), MEAN, STD, "float32"),
                                  expected.astype("float32"))
    assert normalized(pixels, MEAN, STD, "bfloat16").dtype == "bfloat16"


def test_grey_takes_the_mean_of_the_numbers():
    pixels = np.full((1, 1, 1, 1), 51, "uint8")
    np.testing.assert_allclose(normalized(pixels, MEAN, STD, "float32"), np.reshape((0.2 - 0.4) / 0.95 * 3, (1,) * 4),
                               rtol=1e-5)
