"""Pixel shuffle against TensorFlow's and torch's, in any size, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers.pixel_shuffle import PixelShuffle

X = np.random.default_rng(0).normal(size=(2, 3, 5, 36)).astype("float32")


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_is_depth_to_space(scale):
    expected = tf.nn.depth_to_space(X, scale) if scale > 1 else X
    np.testing.assert_array_equal(PixelShuffle(scale)(X), expected)


def test_is_torchs_with_its_channels_in_our_order():
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    expected = torch.nn.PixelShuffle(3)(torch.tensor(X.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    ours = X.reshape(2, 3, 5, 4, 9).swapaxes(3, 4).reshape(X.shape)   # c * 9 + k -> k * 4 + c
    np.testing.assert_array_equal(PixelShuffle(3)(ours), expected)


def test_takes_any_size_in_one_graph():
    image = keras.Input((None, None, 36))
    model = keras.Model(image, PixelShuffle(2)(image))
    assert model.output_shape == (None, None, None, 9)
    for cut in (X, X[:1, :2, :2]):
        np.testing.assert_array_equal(model(cut), tf.nn.depth_to_space(cut, 2))
    assert PixelShuffle.from_config(PixelShuffle(2).get_config()).scale == 2


def test_refusals():
    with pytest.raises(ValueError, match="scale is 0"):
        PixelShuffle(0)
    with pytest.raises(ValueError, match="36 channels; expected a multiple of scale.2 = 25"):
        PixelShuffle(5)(X)
