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


def to_int16(audio):
    """float audio in [-1, 1), of any shape -> int16, louder samples clipped, as records hold them.

    int16 halves the bytes on the way to the device; models divide by 32,768 themselves.
    """
    return tf.cast(tf.clip_by_value(tf.round(audio * 32768.0), -32768.0, 32767.0), tf.int16)


def int16_window(audio, num_samples):
    """float audio [n] in [-1, 1) that came from int16 -> the same int16 samples [num_samples], silence after them."""
    return fixed_length(to_int16(audio), num_samples, 0)
