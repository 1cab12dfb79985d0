"""What a classifier sees: the middle of an image, and random parts that its seed decides."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.config import ConfigError
from tfhf.data.image_view import ImageView

PICTURE = np.zeros((40, 60, 3), "uint8")
PICTURE[10:30, 20:40] = (200, 100, 50)   # the middle square of half the height
DATA = tf.io.encode_png(PICTURE)


def test_the_middle():
    view = ImageView(8, fraction=0.5)
    got = view.middle(DATA)
    assert got.shape == (8, 8, 3) and got.dtype == tf.uint8
    np.testing.assert_array_equal(got, np.broadcast_to(PICTURE[15, 25], (8, 8, 3)))
    np.testing.assert_array_equal(view.middle_of(PICTURE), got)
    whole = ImageView(40, fraction=1.0).middle(DATA)
    np.testing.assert_array_equal(whole, PICTURE[:, 10:50])   # nothing is resized, so nothing changes
    assert ImageView(3, fraction=0.01).middle(tf.io.encode_png(PICTURE[:1, :1])).shape == (3, 3, 3)   # 1 x 1 pixels


def test_grey():
    view = ImageView(8, 1, fraction=0.5)
    assert view.middle(DATA).shape == (8, 8, 1)
    assert view.middle(DATA)[0, 0, 0] == 124   # 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert view.random(DATA, tf.constant([1, 2])).shape == (8, 8, 1)


def test_random_parts_go_by_the_seed():
    view = ImageView(16, colour=0.3)
    random = tf.function(view.random)
    first, again, other = (random(DATA, tf.constant([seed, 0])).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and first.dtype == np.uint8
    still = ImageView(16, area=(1.0, 1.0), ratio=(1.5, 1.5), flip=False)
    np.testing.assert_array_equal(still.random(DATA, tf.constant([1, 0])), still.random(DATA, tf.constant([2, 0])))


def test_shapes_are_static():
    dataset = tf.data.Dataset.from_tensors(DATA).map(lambda data: (ImageView(8).middle(data),
                                                                   ImageView(8).random(data, tf.zeros([2], tf.int32))))
    assert [spec.shape.as_list() for spec in dataset.element_spec] == [[8, 8, 3]] * 2


def test_refusals():
    for wrong, message in ((dict(size=0), "got size 0"), (dict(channels=4), "channels 4"), (dict(fraction=1.5), "1.5"),
                           (dict(area=(0.0, 1.0)), "image.area"), (dict(ratio=(2.0, 1.0)), "image.ratio"),
                           (dict(area=(0.5,)), "image.area"), (dict(channels=1, colour=0.1), "grey has no colour")):
        with pytest.raises(ConfigError, match=message):
            ImageView(**wrong)
