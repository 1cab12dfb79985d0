"""Augmentation: the same draw for a list, a function of the seed alone, in tf.data, and spread as it should be."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.augment import random_colour, random_crop, random_flip, random_resized_crop
from tfhf.data.image import to_float

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype("uint8")
# Each pixel holds its place, so that a crop tells where it was taken.
PLACES = np.stack(np.meshgrid(np.arange(12), np.arange(17), indexing="ij"), axis=-1).astype("float32")


def over_seeds(function, count):
    """function(seed) for `count` seeds, in one graph through tf.data, as training has it"""
    dataset = tf.data.Dataset.range(count).map(lambda number: function(tf.stack([tf.cast(number, tf.int32), 7])))
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), found) for found in dataset]


def test_flips_go_together_and_half_the_time():
    found = over_seeds(lambda seed: tuple(random_flip(seed, [IMAGE, PLACES])), 400)
    flipped = []
    for image, places in found:
        flipped.append(places[0, 0, 1] == 16)
        np.testing.assert_array_equal(image, IMAGE[:, ::-1] if flipped[-1] else IMAGE)
        np.testing.assert_array_equal(places, PLACES[:, ::-1] if flipped[-1] else PLACES)
    assert 160 < sum(flipped) < 240
    again = over_seeds(lambda seed: random_flip(seed, IMAGE), 400)
    assert all(np.array_equal(one, two) for (one, _), two in zip(found, again))


def test_crops_are_of_one_place_in_every_scale_and_reach_every_place():
    large = np.kron(PLACES, np.ones((4, 4, 1), "float32"))
    found = over_seeds(lambda seed: tuple(random_crop(seed, [PLACES, large], (9, 15), scales=(1, 4))), 300)
    begins = set()
    for small, big in found:
        assert small.shape == (9, 15, 2) and big.shape == (36, 60, 2)
        top, left = small[0, 0].astype(int)
        np.testing.assert_array_equal(small, PLACES[top:top + 9, left:left + 15])
        np.testing.assert_array_equal(big, np.kron(small, np.ones((4, 4, 1))))
        begins.add((top, left))
    assert begins == {(top, left) for top in range(4) for left in range(3)}
    np.testing.assert_array_equal(random_crop(tf.constant([1, 2]), IMAGE, (12, 17)), IMAGE)


def test_a_crop_that_cannot_be_is_an_error():
    seed = tf.constant([1, 2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="an image of 12 x 17 pixels, expected at least 13 x 4"):
        random_crop(seed, IMAGE, (13, 4))
    with pytest.raises(tf.errors.InvalidArgumentError, match="of 12 x 17 pixels, expected 24 x 34, 2 times the oth"):
        random_crop(seed, [IMAGE, IMAGE], (4, 4), (1, 2))
    with pytest.raises(ValueError, match="1 scales, expected 2, one per image"):
        random_crop(seed, [IMAGE, IMAGE], (4, 4), (1,))


def test_resized_crops_keep_to_their_area_and_ratio():
    places = np.stack(np.meshgrid(np.arange(200), np.arange(300), indexing="ij"), axis=-1).astype("float32")
    found = over_seeds(lambda seed: random_resized_crop(seed, places, (32, 32), area=(0.2, 0.5), ratio=(0.5, 2.0)), 200)
    spans = np.array([image[-1, -1] - image[0, 0] for image in found]) * 32 / 31   # (height, width) of what was cut
    areas, ratios = spans.prod(axis=1) / 60000, spans[:, 1] / spans[:, 0]
    assert 0.18 < areas.min() < 0.25 and 0.45 < areas.max() < 0.52
    assert 0.45 < ratios.min() < 0.7 and 1.6 < ratios.max() < 2.1
    assert len({image[0, 0].tobytes() for image in found}) > 190
    assert random_resized_crop(tf.constant([1, 2]), IMAGE[:1, :1], (5, 6)).shape == (5, 6, 3)


def test_colours_change_together_and_stay_in_range():
    image = to_float(IMAGE)
    found = over_seeds(lambda seed: tuple(random_colour(seed, [image, image], 0.4, 0.4, 0.4, 0.1)), 20)
    for one, two in found:
        np.testing.assert_array_equal(one, two)
        assert 0.0 <= one.min() and one.max() <= 1.0
    assert len({one.tobytes() for one, _ in found}) == 20
    np.testing.assert_array_equal(random_colour(tf.constant([1, 2]), image), image)
    with pytest.raises(ValueError, match="an image of uint8, expected float32"):
        random_colour(tf.constant([1, 2]), tf.constant(IMAGE), brightness=0.1)


def test_each_change_of_colour_by_hand():
    image = to_float(IMAGE) * 0.5   # nothing is clipped
    grey = tf.image.rgb_to_grayscale(image).numpy()
    for seed in range(5):
        draw = {name: random_colour(tf.constant([seed, 0]), image, **{name: 0.5}).numpy()
                for name in ("brightness", "contrast", "saturation", "hue")}
        factor = draw["brightness"].sum() / image.numpy().sum()
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(draw["brightness"], image * factor, atol=1e-6)
        np.testing.assert_allclose(draw["contrast"].mean() - grey.mean(), 0, atol=0.05)
        np.testing.assert_allclose(tf.image.rgb_to_grayscale(draw["saturation"]), grey, atol=0.03)
        np.testing.assert_allclose(draw["hue"].max(axis=-1), np.max(image, axis=-1), atol=1e-5)   # the value stays


def test_draws_of_one_seed_are_independent():
    """Mirrored or not says nothing of where the crop is."""
    found = over_seeds(lambda seed: (random_flip(seed, PLACES), random_crop(seed, PLACES, (12, 3))), 600)
    flipped = np.array([first[0, 0, 1] == 16 for first, _ in found])
    left = np.array([second[0, 0, 1] for _, second in found])
    assert abs(np.corrcoef(flipped, left)[0, 1]) < 0.12
