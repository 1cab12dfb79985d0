"""Tensors of one example brought to the static shape of the step."""

import tensorflow as tf


def fixed_length(values, length, padding):
    """values [n] -> [length], filled up with `padding`.

    `length` is a Python int, and then the static shape is known, or an int32 scalar.

    Raises:
        tf.errors.InvalidArgumentError: n is more than `length`.
    """
    padded = tf.pad(values, [[0, length - tf.size(values)]], constant_values=padding)
    return tf.ensure_shape(padded, [length if isinstance(length, int) else None])


def fixed_size(image, size, padding):
    """image [height, width, channels] -> [*size, channels], filled up with `padding` below and to the right.

    `size` is (height, width), Python ints.

    Raises:
        tf.errors.InvalidArgumentError, when the graph runs: the image is higher or wider.
    """
    own = tf.shape(image)[:2]
    check = tf.debugging.Assert(tf.reduce_all(own <= size), [
        "RecordError: an image of", own, "pixels (height, width), expected at most", list(size)])
    with tf.control_dependencies([] if check is None else [check]):   # None: eager, done already
        missing = tf.maximum(size - own, 0)
    padded = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]], constant_values=padding)
    return tf.ensure_shape(padded, [*size, image.shape[-1]])


def to_int16(audio):
    """float audio in [-1, 1), of any shape -> int16, louder samples clipped, as records hold them.

    int16 halves the bytes on the way to the device; models divide by 32,768 themselves.
    """
    return tf.cast(tf.clip_by_value(tf.round(audio * 32768.0), -32768.0, 32767.0), tf.int16)


def int16_window(audio, num_samples):
    """float audio [n] in [-1, 1) that came from int16 -> the same int16 samples [num_samples], silence after them."""
    return fixed_length(to_int16(audio), num_samples, 0)
