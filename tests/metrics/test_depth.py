"""The errors of depth: against a plain implementation of their definitions, over valid pixels and the crop only."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfhf.metrics.depth import KEYS, AtOwnSize, DepthErrors, crop_mask


def _plain(truth, prediction, keep, least, most):
    """Pixel by pixel, Eigen et al. 2014, section 4.3; None without a pixel."""
    sums, n = dict.fromkeys(KEYS, 0.0), 0
    for t, p, kept in zip(truth.ravel().tolist(), prediction.ravel().tolist(), keep.ravel().tolist()):
        if not kept or not least < t < most:
            continue
        p, n = min(max(p, least), most), n + 1
        sums["abs_rel"] += abs(t - p) / t
        sums["sq_rel"] += (t - p) ** 2 / t
        sums["rmse"] += (t - p) ** 2
        sums["rmse_log"] += (math.log(t) - math.log(p)) ** 2
        for k in (1, 2, 3):
            sums[f"delta_{k}"] += max(t / p, p / t) < 1.25**k
    return {key: math.sqrt(value / n) if key.startswith("rmse") else value / n for key, value in sums.items()}


def _images(count=3, shape=(24, 32), seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = rng.uniform(0.0, 12.0, shape).astype("float32")
        truth[rng.uniform(size=shape) < 0.3] = 0.0
        yield truth, (truth * rng.uniform(0.6, 1.7, shape) + rng.uniform(0, 2, shape)).astype("float32")


@pytest.mark.parametrize("crop, most", [("none", 10.0), ("nyu_eigen", 10.0), ("kitti_garg", 80.0),
                                        ("kitti_eigen", 80.0)])
def test_equals_the_definitions(crop, most):
    metric, expected = DepthErrors(1e-3, most, crop), []
    for truth, prediction in _images():
        metric.update(truth, prediction)
        expected.append(_plain(truth, prediction, crop_mask(truth.shape, crop), 1e-3, most))
    result = metric.result()
    for key in KEYS:
        assert result[key] == pytest.approx(np.mean([one[key] for one in expected]), rel=1e-6), key
    assert result["examples"] == 3 and result["crop"] == crop and result["images_without_depth"] == 0


def test_known_figures():
    metric = DepthErrors()
    metric.update(np.array([[2.0, 4.0, 0.0]]), np.array([[1.0, 6.0, 9.0]]))
    result = metric.result()
    assert result["abs_rel"] == 0.5 and result["sq_rel"] == 0.75 and result["rmse"] == pytest.approx(math.sqrt(2.5))
    # max(t / p, p / t) is 2 and 1.5: above 1.25; 1.5 below 1.25 ** 2 = 1.5625; 2 above 1.25 ** 3 = 1.953125.
    assert (result["delta_1"], result["delta_2"], result["delta_3"]) == (0.0, 0.5, 0.5)


def test_what_lies_outside_the_crop_or_was_not_measured_does_not_count():
    (truth, prediction), = _images(1)
    keep = crop_mask(truth.shape, "nyu_eigen")
    first, second = DepthErrors(crop="nyu_eigen"), DepthErrors(crop="nyu_eigen")
    first.update(truth, prediction)
    second.update(np.where(keep, truth, 5.0), np.where(keep & (truth > 0), prediction, 1e6))
    assert first.result() == second.result()


def test_eigens_crop_of_nyu():
    rows, columns = np.nonzero(crop_mask((480, 640), "nyu_eigen"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    rows, columns = np.nonzero(crop_mask((375, 1242), "kitti_garg"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (153, 370, 44, 1196)


def test_an_image_without_depth_is_counted_and_not_scored():
    metric = DepthErrors()
    metric.update(np.zeros((4, 4)), np.ones((4, 4)))
    assert math.isnan(metric.result()["rmse"]) and metric.result()["images_without_depth"] == 1
    metric.update(np.full((4, 4), 2.0), np.full((4, 4), 2.0))
    assert metric.result()["rmse"] == 0.0 and metric.result()["delta_1"] == 1.0 and metric.result()["examples"] == 2


def test_at_the_size_of_the_truth():
    (truth, prediction), = _images(1)
    plain, wrapped = DepthErrors(), AtOwnSize(DepthErrors())
    plain.update(truth, prediction)
    serialized = tf.io.serialize_tensor(truth[..., None]).numpy()
    wrapped.update(serialized, prediction)
    assert wrapped.result() == plain.result() and wrapped.name == "depth"
    half = DepthErrors()
    half.update(truth, tf.image.resize(prediction[::2, ::2, None], truth.shape).numpy())
    wrapped = AtOwnSize(DepthErrors())
    wrapped.update(serialized, prediction[::2, ::2])
    assert wrapped.result()["rmse"] == pytest.approx(half.result()["rmse"], rel=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="expected the reference's"):
        DepthErrors().update(np.ones((4, 4)), np.ones((4, 5)))
    with pytest.raises(ValueError, match="2 predicted pixels are not finite"):
        DepthErrors().update(np.ones((1, 3)), np.array([[np.nan, 1.0, np.inf]]))
    with pytest.raises(ValueError, match="crop: got 'eigen'"):
        DepthErrors(crop="eigen")
    with pytest.raises(ValueError, match="expected 0 < min < max"):
        DepthErrors(2.0, 1.0)
