"""The 3 x 3 structural similarity against its formula over blocks, its bounds."""

import numpy as np
import pytest
from keras import ops

from tfhf.layers.ssim import ssim_map

RNG = np.random.default_rng(0)


def test_equals_the_formula_block_by_block():
    x, y = RNG.random((2, 2, 6, 7, 3))
    got = ops.convert_to_numpy(ssim_map(x.astype("float32"), y.astype("float32")))
    assert got.shape == (2, 4, 5, 3) and got.dtype == "float32"
    for i, row, column, channel in np.ndindex(got.shape):
        a, b = (one[i, row:row + 3, column:column + 3, channel].ravel() for one in (x, y))
        covariance = np.mean(a * b) - a.mean() * b.mean()
        expected = ((2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
                    / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)))
        assert abs(got[i, row, column, channel] - expected) < 1e-4


def test_equal_and_opposite_pictures():
    x = RNG.random((1, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(ssim_map(x, x)), 1.0, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(ssim_map(0 * x, 0 * x + 0.5)), 1e-4 / (0.25 + 1e-4), rtol=1e-3)
    board = np.indices((8, 8)).sum(0)[None, ..., None] % 2
    assert ops.convert_to_numpy(ssim_map(board, 1 - board)).max() < -0.9


def test_a_picture_without_a_block():
    with pytest.raises(ValueError, match="ssim_map: got images of 2 x 4 pixels; expected 3 x 3 at least"):
        ssim_map(np.zeros((1, 2, 4, 3), "float32"), np.zeros((1, 2, 4, 3), "float32"))
