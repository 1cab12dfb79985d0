"""Static shapes of examples."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.shapes import fixed_length, fixed_size, int16_window, to_int16


def test_fixed_length_pads_and_refuses_more():
    pad = tf.function(lambda x: fixed_length(x, 4, -100), input_signature=[tf.TensorSpec([None], tf.int32)])
    assert pad.get_concrete_function().structured_outputs.shape == [4]
    np.testing.assert_array_equal(pad([1, 2]), [1, 2, -100, -100])
    with pytest.raises(tf.errors.InvalidArgumentError):
        pad([1, 2, 3, 4, 5])


def test_int16_window_gives_the_samples_back():
    samples = np.arange(-32768, 32767, 97, dtype="int16")
    window = int16_window(tf.constant(samples / np.float32(32768)), len(samples) + 3).numpy()
    assert window.dtype == np.int16
    np.testing.assert_array_equal(window, np.pad(samples, (0, 3)))


def test_to_int16_clips_what_is_louder():
    audio = tf.constant([[0.0, 0.5, -1.0], [1.0, -1.5, 2.0]])
    np.testing.assert_array_equal(to_int16(audio), [[0, 16384, -32768], [32767, -32768, 32767]])


def test_images_are_filled_up_to_one_size():
    image = tf.ones([2, 3, 1])
    padded = fixed_size(image, (4, 3), -7.0)
    assert padded.shape == (4, 3, 1) and padded.numpy()[:, 0, 0].tolist() == [1, 1, -7, -7]
    graph = tf.function(lambda image: fixed_size(image, (4, 3), 0.0),
                        input_signature=[tf.TensorSpec([None, None, 1])])
    assert graph.get_concrete_function().structured_outputs.shape == (4, 3, 1)
    for function in (graph, lambda image: fixed_size(image, (4, 3), 0.0)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="RecordError: an image of"):
            function(tf.ones([2, 4, 1]))
