"""The losses of depth: against their definitions in plain numpy, blind to invalid pixels, finite everywhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses import depth


def _case(seed=0, shape=(3, 5, 7, 1), valid=0.7):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 9.0, shape).astype("float32")
    truth[rng.uniform(size=shape) > valid] = 0.0
    return truth, rng.uniform(0.2, 9.5, shape).astype("float32")


def _by_definition(truth, prediction, lam=0.5):
    """The four terms of one image, [height, width], pixel by pixel as the papers have them."""
    known = truth > 0
    n = known.sum()
    d = np.zeros_like(truth, "float64")
    d[known] = np.log(prediction[known], dtype="float64") - np.log(truth[known], dtype="float64")
    silog = (d[known] ** 2).sum() / n - lam / n**2 * d[known].sum() ** 2
    gradient = 0.0
    for i, j in np.argwhere(known):
        for a, b in ((i + 1, j), (i, j + 1)):
            if a < truth.shape[0] and b < truth.shape[1] and known[a, b]:
                gradient += (d[a, b] - d[i, j]) ** 2
    difference = (prediction - truth)[known]
    return {"l1": np.abs(difference).mean(), "mse": (difference**2).mean(), "silog": silog, "gradient": gradient / n}


@pytest.mark.parametrize("term", ["l1", "mse", "silog", "gradient"])
def test_each_term_is_its_definition(term):
    truth, prediction = _case()
    loss = depth.DepthLoss(**{**dict.fromkeys(("l1", "mse", "silog", "gradient"), 0.0), term: 2.0})
    expected = [2 * _by_definition(t[..., 0], p[..., 0])[term] for t, p in zip(truth, prediction)]
    got = loss.call(tf.constant(truth), tf.constant(prediction))
    assert got.shape == (3,)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_sum_of_all_terms():
    truth, prediction = _case(1)
    weights = {"l1": 0.3, "mse": 0.2, "silog": 1.5, "gradient": 0.7}
    loss = depth.DepthLoss(**weights, scale_invariance=0.85)
    expected = [sum(weights[name] * value for name, value in _by_definition(t[..., 0], p[..., 0], 0.85).items())
                for t, p in zip(truth, prediction)]
    np.testing.assert_allclose(loss.call(truth, prediction), expected, rtol=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    np.testing.assert_allclose(again.call(truth, prediction), expected, rtol=1e-5)


def test_one_factor_on_the_whole_depth_costs_nothing_at_full_invariance():
    truth, _ = _case(2)
    np.testing.assert_allclose(depth.scale_invariant_log_error(truth, 3.0 * truth, 1.0), np.zeros(3), atol=1e-9)
    np.testing.assert_allclose(depth.scale_invariant_log_error(truth, 3.0 * truth, 0.0), np.full(3, np.log(3.0) ** 2),
                               rtol=1e-5)
    np.testing.assert_allclose(depth.log_gradient_error(truth, 3.0 * truth), np.zeros(3), atol=1e-9)


ALL = dict(l1=1.0, mse=1.0, silog=1.0, gradient=1.0)


@pytest.mark.parametrize("odd", [0.0, -5.0, 1e15])
@pytest.mark.parametrize("invalid", [0.0, -1.0])
def test_invalid_pixels_are_not_seen(odd, invalid):
    truth, prediction = _case(3)
    loss, known = depth.DepthLoss(**ALL), truth > 0
    spoiled = tf.constant(np.where(known, prediction, odd).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(spoiled)
        values = loss.call(tf.constant(np.where(known, truth, invalid).astype("float32")), spoiled)
    gradient = tape.gradient(values, spoiled).numpy()
    np.testing.assert_allclose(values, loss.call(truth, prediction), rtol=1e-6)
    assert np.isfinite(gradient).all() and not gradient[~known].any() and gradient[known].any()


def test_no_valid_pixel_is_no_loss_and_no_gradient():
    truth, prediction = _case(4)
    truth[1] = 0.0
    prediction = tf.constant(prediction)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        values = depth.DepthLoss(**ALL).call(tf.constant(truth), prediction)
    gradient = tape.gradient(values, prediction).numpy()
    assert values[1] == 0 and values[0] > 0 and not gradient[1].any() and np.isfinite(gradient).all()


def test_float32_under_bfloat16_predictions():
    truth, prediction = _case(5)
    rounded = tf.cast(prediction, tf.bfloat16)
    got = depth.DepthLoss(**ALL).call(truth, rounded)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, depth.DepthLoss(**ALL).call(truth, tf.cast(rounded, tf.float32)), rtol=1e-6)


@pytest.mark.parametrize("weights", [dict(silog=-1.0), dict(silog=0.0, gradient=0.0), dict(scale_invariance=1.5)])
def test_refusals(weights):
    with pytest.raises(ValueError, match="DepthLoss: .*expected"):
        depth.DepthLoss(**weights)
