"""Errors of disparity and of the depth behind it, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.metrics.disparity import DisparityErrors


def _reference(rows):
    return tf.io.serialize_tensor(np.array(rows, "float32")[..., None]).numpy()


def test_pixels_off_and_kittis_outliers():
    metric = DisparityErrors()
    # Of a width of 4: the prediction is 10 pixels everywhere. The measured 100 is off by 90 %, 13 by exactly 3 pixels.
    metric.update(_reference([[10, 12, 0, 100], [13, 4, 0, 0]]), np.full((2, 4), 2.5, "float32"))
    result = metric.result()
    assert result["epe"] == pytest.approx((0 + 2 + 90 + 3 + 6) / 5) and result["d1_all"] == pytest.approx(2 / 5)
    metric.update(_reference([[10, 10, 10, 10]]), np.full((3, 8), 2.5, "float32"))   # of another size: resized
    assert metric.result()["epe"] == pytest.approx((101 / 5 + 0) / 2)
    assert "abs_rel" not in metric.result() and metric.result()["examples"] == 2


def test_depth_behind_it():
    metric = DisparityErrors(focal_times_baseline=20.0, max_depth=10.0)
    metric.update(_reference([[10, 4, 1, 0]]), np.full((1, 4), 2.0, "float32"))   # 8 pixels: 2.5 m; 20 m is too far
    result = metric.result()
    assert result["abs_rel"] == pytest.approx((abs(2.5 - 2) / 2 + abs(2.5 - 5) / 5) / 2)
    assert result["epe"] == pytest.approx((2 + 4 + 7) / 3)


def test_nothing_measured_and_nothing_finite():
    metric = DisparityErrors()
    assert np.isnan(metric.result()["epe"])
    metric.update(_reference([[0]]), np.full((2, 4), 2.5, "float32"))
    assert metric.result() | {"epe": 0, "d1_all": 0} == {"epe": 0, "d1_all": 0, "images_without_disparity": 1,
                                                         "examples": 1}
    with pytest.raises(ValueError, match="disparity: 2 predicted pixels are not finite"):
        metric.update(_reference([[1, 2]]), np.full((1, 2), np.nan, "float32"))
