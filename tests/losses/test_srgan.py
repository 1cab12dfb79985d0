"""SRGAN's losses against the paper's equations in NumPy, and what padding must not change."""

import keras
import numpy as np
import pytest

from tfhf.losses.srgan import PADDING, SRGANLoss, pixel_losses
from tfhf.models.vgg.config import VGGConfig
from tfhf.models.vgg.model import VGGFeatures

RANDOM = np.random.default_rng(0)
TARGETS, FAKES = RANDOM.uniform(-1, 1, (2, 3, 8, 8, 3)).astype("float32")
LOGITS = RANDOM.normal(0, 2, (2, 3, 1)).astype("float32")


def _sigmoid(x):
    return 1 / (1 + np.exp(-x[:, 0].astype("float64")))


def test_padding_does_not_count():
    np.testing.assert_allclose(pixel_losses(TARGETS, FAKES), np.mean((TARGETS - FAKES) ** 2, axis=(1, 2, 3)), rtol=1e-5)
    padded = [np.pad(x, ((0, 0), (0, 3), (0, 5), (0, 0)), constant_values=value)
              for x, value in ((TARGETS, PADDING), (FAKES, 7.0))]
    np.testing.assert_allclose(pixel_losses(*padded), pixel_losses(TARGETS, FAKES), rtol=1e-6)
    nothing = pixel_losses(np.full_like(TARGETS, PADDING), FAKES)
    np.testing.assert_array_equal(nothing, 0.0)


def test_equations_2_and_3():
    loss = SRGANLoss()
    real, fake = (_sigmoid(logits) for logits in LOGITS)
    np.testing.assert_allclose(loss.discriminator(*LOGITS), -np.log(real) - np.log(1 - fake), rtol=1e-5)
    expected = np.mean((TARGETS - FAKES) ** 2, axis=(1, 2, 3)) - 1e-3 * np.log(fake)
    np.testing.assert_allclose(loss.generator(TARGETS, FAKES, *LOGITS), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(TARGETS, FAKES), pixel_losses(TARGETS, FAKES))
    total, count = loss.measures(TARGETS, FAKES)["pixel_loss"]
    assert float(total) / int(count) == pytest.approx(float(np.mean(pixel_losses(TARGETS, FAKES))), rel=1e-5)


def test_equation_5_is_on_features_of_images_in_0_to_1():
    keras.utils.set_random_seed(0)
    features = VGGFeatures(VGGConfig((4, 6), (1, 1)))
    real, fake = (features(0.5 * x + 0.5).numpy() for x in (TARGETS, FAKES))
    expected = np.mean((real / 12.75 - fake / 12.75) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(SRGANLoss(features).content(TARGETS, FAKES), expected, rtol=1e-4)
    assert SRGANLoss(features, 0.0).generator(TARGETS, TARGETS, *LOGITS).numpy().tolist() == [0.0] * 3
