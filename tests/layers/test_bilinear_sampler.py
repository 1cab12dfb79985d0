"""Sampling along rows: against torch, both borders, the gradient against finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfhf.layers.bilinear_sampler import bilinear_sampler

RNG = np.random.default_rng(0)


def _problem(batch=2, height=5, width=9, channels=3):
    """Images and offsets of which some lead far outside."""
    images = RNG.random((batch, height, width, channels)).astype("float32")
    return images, RNG.uniform(-1.4 * width, 1.4 * width, (batch, height, width)).astype("float32")


def test_whole_pixels():
    images = np.arange(1, 6, dtype="float32").reshape(1, 1, 5, 1)
    for offset, border, edge in ((2, [3, 4, 5, 0, 0], [3, 4, 5, 5, 5]), (-1, [0, 1, 2, 3, 4], [1, 1, 2, 3, 4])):
        offsets = np.full((1, 1, 5), offset, "float32")
        assert ops.convert_to_numpy(bilinear_sampler(images, offsets)).ravel().tolist() == border
        assert ops.convert_to_numpy(bilinear_sampler(images, offsets, "edge")).ravel().tolist() == edge
    half = bilinear_sampler(images, np.full((1, 1, 5), 0.25, "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(half).ravel(), [1.25, 2.25, 3.25, 4.25, 3.75], rtol=1e-6)


@pytest.mark.parametrize("ours, theirs", [("border", "zeros"), ("edge", "border")])
def test_equals_grid_sample(ours, theirs):
    torch = pytest.importorskip("torch")
    images, offsets = _problem()
    _, height, width, _ = images.shape
    x = torch.arange(width) + torch.tensor(offsets)
    y = torch.arange(height)[:, None].expand(x.shape)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    expected = torch.nn.functional.grid_sample(torch.tensor(images).permute(0, 3, 1, 2), grid, padding_mode=theirs,
                                               align_corners=True).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ops.convert_to_numpy(bilinear_sampler(images, offsets, ours)), expected, atol=2e-6)


@pytest.mark.parametrize("mode", ["border", "edge"])
def test_gradients_equal_finite_differences(mode):
    images, offsets = _problem(1, 3, 7, 2)
    offsets = np.where(np.abs(offsets - np.round(offsets)) < 0.1, offsets + 0.2, offsets).astype("float32")
    direction = RNG.random(images.shape).astype("float32")   # of the sum that is differentiated

    def total(images, offsets):
        sampled = ops.convert_to_numpy(bilinear_sampler(images, offsets, mode))
        return float(np.sum(sampled.astype("float64") * direction))

    with tf.GradientTape() as tape:
        tensors = tf.constant(images), tf.constant(offsets)
        tape.watch(tensors)
        value = tf.reduce_sum(bilinear_sampler(*tensors, mode) * direction)
    gradients = [gradient.numpy() for gradient in tape.gradient(value, tensors)]
    step = 0.05   # between whole pixels the value is linear: any step is exact
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            changed = [[images.copy(), offsets.copy()] for _ in range(2)]
            changed[0][which][place] += step
            changed[1][which][place] -= step
            slope = (total(*changed[0]) - total(*changed[1])) / (2 * step)
            assert abs(slope - gradient[place]) < 2e-4, (which, place, slope, gradient[place])
    assert np.abs(gradients[1]).max() > 0.1


def test_compiled_with_an_unknown_batch():
    images, offsets = _problem()
    function = tf.function(bilinear_sampler, jit_compile=True)
    expected = ops.convert_to_numpy(bilinear_sampler(images, offsets))
    np.testing.assert_allclose(function(images, offsets), expected, atol=1e-6)
    free = tf.function(bilinear_sampler, input_signature=[tf.TensorSpec([None, 5, 9, 3]), tf.TensorSpec([None, 5, 9])])
    np.testing.assert_allclose(free(images, offsets), expected, atol=1e-6)
    assert bilinear_sampler(ops.cast(images, "bfloat16"), offsets).dtype == "float32"


def test_an_unknown_mode():
    assert keras.backend.backend() == "tensorflow"
    with pytest.raises(ValueError, match="wrap_mode: got 'wrap'; expected one of border, edge"):
        bilinear_sampler(*_problem(), "wrap")
