"""Tiles without a seam: any size of image and tile gives what the whole image gives; bytes in, bytes out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.image import decode_image, encode_png
from tfhf.models.srgan.config import SRGANConfig
from tfhf.models.srgan.model import SRGANGenerator
from tfhf.serving import image_to_image_signatures, tiled

CONFIG = SRGANConfig(2, 4, 1, bicubic_skip=True)


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(0)
    generator = SRGANGenerator(CONFIG)
    generator.tail.kernel.assign(keras.random.normal(generator.tail.kernel.shape, stddev=0.1))   # it begins at zero
    return generator


@pytest.mark.parametrize("height, width, middle", [
    (40, 53, 8), (40, 53, 20), (40, 53, 53), (17, 60, 5), (60, 9, 5), (1, 1, 3), (26, 27, 9), (27, 28, 9),
])
def test_tiles_give_what_the_whole_image_gives(generator, height, width, middle):
    image = np.random.default_rng(0).uniform(size=(height, width, 3)).astype("float32")
    seen = []

    def function(part):
        seen.append(part.shape[1:3])
        return generator(part)

    got = tiled(function, image, 2, middle, CONFIG.receptive_radius)
    np.testing.assert_allclose(got, generator(image[None])[0], atol=1e-5)
    most = middle + 2 * CONFIG.receptive_radius
    assert len({tuple(shape) for shape in seen}) == 1 and max(seen[0]) <= most   # one shape, so one compilation
    assert (len(seen) == 1) == (max(height, width) <= most)


def test_too_small_an_overlap_shows(generator):
    """That the comparison above can fail."""
    image = np.random.default_rng(0).uniform(size=(40, 53, 3)).astype("float32")
    got = tiled(generator, image, 2, 20, 1)
    assert np.abs(got - generator(image[None])[0]).max() > 1e-3


def test_one_graph_takes_every_size_and_files_of_several(generator):
    signatures = image_to_image_signatures(lambda image: tiled(generator, image, 2, 9, CONFIG.receptive_radius))
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 256, (*size, 3)).astype("uint8") for size in ((30, 41), (5, 60), (1, 1))]
    answers = signatures["serving_default"](tf.constant([encode_png(picture).numpy() for picture in pictures]))["image"]
    for picture, answer in zip(pictures, answers, strict=True):
        expected = np.clip(generator(picture[None] / np.float32(255))[0], 0, 1) * 255
        got = decode_image(answer).numpy()
        assert got.shape == (2 * picture.shape[0], 2 * picture.shape[1], 3)
        assert np.abs(got - expected).max() < 0.501
    pixels = random.uniform(size=(2, 12, 30, 3)).astype("float32")
    raw = signatures["raw"](pixels)["image"]
    np.testing.assert_allclose(raw, np.clip(generator(pixels), 0, 1), atol=1e-5)
    empty = signatures["serving_default"](tf.constant([], tf.string))["image"]
    assert empty.shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["serving_default"](tf.constant([b"no image"]))
