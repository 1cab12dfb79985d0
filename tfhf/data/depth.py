"""An image_depth record's pixels, checked: what the tasks that learn depth begin with."""

import tensorflow as tf

from tfhf.data.image import decode_depth, decode_image


def image_and_depth(example):
    """A decoded image_depth record -> (uint8 [height, width, 3], float32 [height, width, 1], metres, 0 where invalid).

    When the graph runs, a depth of another size than the image, or without one valid pixel, is an
    InvalidArgumentError with "RecordError: " and the record's id, which the runner makes a RecordError.
    """
    image = decode_image(example["image"])
    depth, valid = decode_depth(example["depth"], example["depth_scale"])
    sizes = [tf.strings.reduce_join(tf.strings.as_string(tf.shape(one)[:2]), separator=" x ") for one in (image, depth)]
    where = tf.strings.join(["RecordError: ", example["id"], ": "])
    checks = [
        tf.debugging.Assert(tf.reduce_all(tf.equal(tf.shape(image)[:2], tf.shape(depth)[:2])), [tf.strings.join(
            [where, "the image has ", sizes[0], " pixels, the depth ", sizes[1], ", expected one size"])]),
        tf.debugging.Assert(tf.reduce_any(valid), [tf.strings.join(
            [where, "no pixel of the depth is valid, expected at least one value above 0"])]),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):   # None: eager, done already
        return tf.identity(image), tf.where(valid, depth, 0.0)
