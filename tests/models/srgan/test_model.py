"""SRGAN's networks: counts, a plain torch network of the same weights, what a pixel depends on, folders, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.layers.bicubic import bicubic_enlarged
from tfhf.models.srgan.config import (
    PARAMETER_COUNTS,
    PER_CHANNEL_COUNTS,
    SRGANConfig,
    SRGANDiscriminatorConfig,
)
from tfhf.models.srgan.model import SRGANDiscriminator, SRGANGenerator
from tfhf.weights import WeightsError

IMAGES = np.random.default_rng(0).uniform(size=(2, 9, 12, 3)).astype("float32")


def _count(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def _scrambled(model):
    """All weights random, norms and slopes too; variances positive."""
    random = np.random.default_rng(1)
    for variable in model.weights:
        noise = random.normal(size=variable.shape).astype("float32")
        variable.assign(np.abs(noise) + 0.5 if "variance" in variable.path else variable.numpy() + 0.1 * noise)
    return model


@pytest.mark.parametrize("size", list(PER_CHANNEL_COUNTS))
def test_generators_have_the_published_counts(size):
    assert _count(SRGANGenerator(SRGANConfig.of_size(size))) == PARAMETER_COUNTS[size]
    assert _count(SRGANGenerator(SRGANConfig.of_size(size, prelu_per_channel=True))) == PER_CHANNEL_COUNTS[size]


def test_the_discriminator_has_the_published_count():
    discriminator = SRGANDiscriminator(SRGANDiscriminatorConfig())
    assert _count(discriminator) == PARAMETER_COUNTS["discriminator-96"]
    with pytest.raises(ValueError, match=r"got images of shape \(64, 96, 3\); expected \(96, 96, 3\)"):
        discriminator(np.zeros((1, 64, 96, 3), "float32"))


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_generator_is_that_of_plain_torch(per_channel):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    config = SRGANConfig(4, 8, 2, per_channel)
    model = _scrambled(SRGANGenerator(config))
    from tests.models.srgan.torch_srgan import generator

    values = {name: torch.tensor(value) for name, value in model.reference_tensors().items()}
    expected = generator(config, values, torch.tensor(IMAGES.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    got = model({"pixel_values": IMAGES}).numpy()
    assert got.shape == (2, 36, 48, 3)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_pixels_of_8_bits_are_those_in_0_to_1():
    model = _scrambled(SRGANGenerator(SRGANConfig(2, 4, 1)))
    pixels = (255 * IMAGES).astype("uint8")
    np.testing.assert_allclose(model(pixels), model(pixels / np.float32(255)), atol=1e-5)


def test_with_the_skip_it_begins_as_bicubic_enlargement():
    model = SRGANGenerator(SRGANConfig(4, 4, 1, bicubic_skip=True))
    expected = 2 * bicubic_enlarged(IMAGES, 4) - 1
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])])   # of any size
    np.testing.assert_allclose(graph(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("upscale", [2, 4, 8])
def test_no_pixel_depends_on_more_than_the_receptive_radius(upscale):
    config = SRGANConfig(upscale, 4, 1, bicubic_skip=upscale == 4)
    model, radius = _scrambled(SRGANGenerator(config)), config.receptive_radius
    image = np.random.default_rng(2).uniform(size=(1, 2 * radius + 5, 3, 3)).astype("float32")
    changed = image.copy()
    changed[:, radius + 2] += 3.0
    rows = np.abs(model(changed) - model(image)).max(axis=(0, 2, 3)) > 0
    reached = np.flatnonzero(rows) // upscale
    assert radius - 1 <= reached.max() - (radius + 2) <= radius and radius - 1 <= radius + 2 - reached.min() <= radius


def test_folders_both_ways_and_configs(tmp_path):
    model = _scrambled(SRGANGenerator(SRGANConfig(2, 4, 1)))
    model.save_pretrained(tmp_path)
    again = SRGANGenerator.from_pretrained(tmp_path)
    np.testing.assert_array_equal(model(IMAGES), again(IMAGES))
    with pytest.raises(WeightsError, match="missing 13 tensors"):
        SRGANGenerator.from_pretrained(tmp_path, num_residual_blocks=2)
    with pytest.raises(ValueError, match="upscale is 3; expected one of 2, 4, 8"):
        SRGANConfig(upscale=3)
    with pytest.raises(ValueError, match="image_size is 40"):
        SRGANDiscriminatorConfig(image_size=40)
    discriminator = SRGANDiscriminator(SRGANDiscriminatorConfig(16, 4, 8))
    assert _count(SRGANDiscriminator.from_config(discriminator.get_config())) == _count(discriminator)


def test_norms_are_over_all_replicas():
    models = (SRGANGenerator(SRGANConfig(2, 4, 1)), SRGANDiscriminator(SRGANDiscriminatorConfig(16, 4, 8)))
    norms = [layer for model in models for layer in model._flatten_layers()
             if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 3 + 7 and all(norm.synchronized for norm in norms)
