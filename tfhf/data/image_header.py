"""What the head of an image file tells before a pixel is decoded, read by core TensorFlow ops: its height and width.

A file of some hundred kilobytes may hold a picture of gigabytes, in one colour; who decodes it has lost the memory
already. PNG: width and height are u32, big-endian, from byte 16 (third edition, 11.2.1). GIF: u16, little-endian, from
byte 6 (GIF89a, section 18). BMP: i32, little-endian, from byte 18; a negative height lies from its top down. In a JPEG
the frame's header may lie anywhere: TensorFlow has an operation for it.
"""

import tensorflow as tf

_HEAD_BYTES = 26


def size(data):
    """string [], the bytes of an image file -> int32 [2]: (height, width) as its pixels lie; 0, 0 for what is no image.

    Raises InvalidArgumentError, when the graph runs, for a JPEG without a frame's header.
    """
    def of_jpeg():
        return tf.io.extract_jpeg_shape(data)[:2]

    def of_others():
        head = numbers(data, 0, _HEAD_BYTES)
        found = tf.zeros([2], tf.int32)
        for begin, height, width in ((b"\x89PNG", head[20:24], head[16:20]),
                                     (b"GIF8", head[9:7:-1], head[7:5:-1]),
                                     (b"BM", head[25:21:-1], head[21:17:-1])):
            is_it = tf.equal(tf.strings.substr(data, 0, len(begin)), begin)
            found = tf.where(is_it, tf.abs(tf.stack([big_endian(height), big_endian(width)])), found)
        return found

    return tf.cond(tf.equal(tf.strings.substr(data, 0, 2), b"\xff\xd8"), of_jpeg, of_others)


def numbers(data, at, count):
    """string [] -> int32 [count], the bytes from a position on; zeros beyond the end"""
    at = tf.minimum(at, tf.strings.length(data))
    part = tf.strings.substr(data, at, count)
    values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
    values = tf.pad(values, [[0, count - tf.shape(values)[0]]])
    return tf.ensure_shape(values, [count if isinstance(count, int) else None])


def big_endian(values):
    """int32 [..., bytes] -> int32 [...]; more than 31 bits wrap round"""
    result = tf.zeros_like(values[..., 0])
    for place in range(values.shape[-1]):
        result = result * 256 + values[..., place]
    return result
