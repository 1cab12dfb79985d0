"""Stereo records' pixels, checked, and the random changes that keep a pair a pair: for a task's `preprocess`.

Random changes are those of Godard et al. 2017, section 4.1. They draw from the record's seed, as tfhf/data/augment.py.
"""

import tensorflow as tf

from tfhf.data.image import decode_depth, decode_image

_MIRROR, _EXPOSE, _GAMMA, _BRIGHTNESS, _COLOUR = range(100, 105)   # apart from those of tfhf/data/augment.py


def stereo_pair(example):
    """A decoded stereo record -> (left, right), both uint8 [height, width, 3].

    When the graph runs, two of different sizes are an InvalidArgumentError with "RecordError: " and the record's id,
    which the runner makes a RecordError.
    """
    left, right = decode_image(example["left"]), decode_image(example["right"])
    sizes = [tf.strings.reduce_join(tf.strings.as_string(tf.shape(one)[:2]), separator=" x ") for one in (left, right)]
    check = tf.debugging.Assert(tf.equal(*sizes), [tf.strings.join(
        ["RecordError: ", example["id"], ": the left image has ", sizes[0], " pixels, the right one ", sizes[1],
         ", expected one size"])])
    with tf.control_dependencies([] if check is None else [check]):   # None: eager, done already
        return tf.identity(left), tf.identity(right)


def measured_disparity(example):
    """A decoded stereo record -> float32 [height, width, 1], the left image's disparity in pixels, 0 where none was
    measured; [1, 1, 1] with a 0 where the record has none at all."""
    def decoded():
        disparity, valid = decode_depth(example["disparity"], example["disparity_scale"])
        return tf.where(valid, disparity, 0.0)

    there = tf.strings.length(example["disparity"]) > 0
    return tf.ensure_shape(tf.cond(there, decoded, lambda: tf.zeros([1, 1, 1])), [None, None, 1])


def random_mirror(seed, left, right):
    """In half of the draws both are mirrored and change places: the mirrored right image is then the left one."""
    across = _uniform(seed, _MIRROR, 0.0, 1.0) < 0.5
    return tf.cond(across, lambda: (right[:, ::-1], left[:, ::-1]), lambda: (tf.identity(left), tf.identity(right)))


def random_exposure(seed, left, right):
    """In half of the draws, the same for both: gamma from [0.8, 1.2], brightness from [0.5, 2], each colour's from
    [0.8, 1.2]; what leaves [0, 1] is clipped.

    Args:
      left, right: float32 [height, width, 3] in [0, 1].
    """
    gamma, bright = _uniform(seed, _GAMMA, 0.8, 1.2), _uniform(seed, _BRIGHTNESS, 0.5, 2.0)
    factor = bright * _uniform(seed, _COLOUR, 0.8, 1.2, [3])
    changed = _uniform(seed, _EXPOSE, 0.0, 1.0) < 0.5

    def expose(image):
        return tf.where(changed, tf.clip_by_value(image**gamma * factor, 0.0, 1.0), image)

    return expose(left), expose(right)


def _uniform(seed, number, low, high, shape=()):
    return tf.random.stateless_uniform(shape, tf.random.fold_in(tf.cast(seed, tf.int32), number), low, high)
