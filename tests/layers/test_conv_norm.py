"""A convolution with its norm: folded into the kernel it is what the two layers give; its padding is torch's."""

import keras
import numpy as np
import pytest

from tfhf.layers.conv_norm import batch_norm, conv, conv_norm, padded

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 9, 8, 6)).astype("float32")


def _layers(depthwise, **options):
    policy = keras.dtype_policies.get("float32")
    one = conv(None if depthwise else 5, 3, "conv", policy, 2, depthwise=depthwise, **options)
    norm = batch_norm("norm", policy, epsilon=1e-3)
    one.build(X.shape)
    norm.build((None, None, None, 6 if depthwise else 5))
    for variable in norm.weights:
        variable.assign(RNG.uniform(0.5, 2.0, variable.shape))
    return one, norm


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_fixed_statistics_are_folded_into_the_kernel(depthwise, padding):
    one, norm = _layers(depthwise, padding=padding)
    expected = norm(one(X), training=False)
    np.testing.assert_allclose(conv_norm(one, norm, X), expected, rtol=1e-4, atol=1e-5)
    norm.trainable = False
    np.testing.assert_allclose(conv_norm(one, norm, X, training=True), expected, rtol=1e-4, atol=1e-5)


def test_training_normalises_by_the_batch():
    one, norm = _layers(False)
    norm.gamma.assign(np.ones(5))
    norm.beta.assign(np.zeros(5))
    y = np.asarray(conv_norm(one, norm, keras.ops.convert_to_tensor(X), training=True))
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1.0, atol=0.02)   # epsilon is in it


def test_padding_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    one, _ = _layers(False)
    kernel = torch.tensor(np.asarray(one.kernel).transpose(3, 2, 0, 1))
    expected = torch.nn.functional.conv2d(torch.tensor(X.transpose(0, 3, 1, 2)), kernel, stride=2, padding=1)
    np.testing.assert_allclose(one(padded(X, 1)), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)
    assert padded(X, 0) is X


def test_kernels_start_with_the_variance_of_he():
    policy = keras.dtype_policies.get("float32")
    full, deep = conv(64, 3, "full", policy), conv(None, 5, "deep", policy, depthwise=True)
    full.build((None, None, None, 32))
    deep.build((None, None, None, 256))
    assert np.asarray(full.kernel).std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert np.asarray(deep.kernel).std() == pytest.approx((2 / 25) ** 0.5, rel=0.05)
