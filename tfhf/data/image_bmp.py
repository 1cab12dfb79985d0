"""BMP files with a table of colours, 1, 4 or 8 bits a pixel, as Pillow reads them; core TensorFlow ops.

TensorFlow takes the numbers of colours for greys, and knows no fewer than 8 bits. What it decodes rightly, 24 and 32
bits without compression, is left to it; all else is refused: run lengths, 16 bits, OS/2's head of 12 bytes.
BITMAPFILEHEADER: u32 position of the pixels at byte 10. BITMAPINFOHEADER, from byte 14: u32 its size, i32 width and
height, u16 planes, u16 bits a pixel at byte 28, u32 compression, and at byte 46 u32 colours in the table behind it.
"""

import tensorflow as tf

from tfhf.data.image_header import little_endian, numbers

_HEAD_BYTES = 66            # with the masks of the colours, which lie behind BITMAPINFOHEADER
_PLAIN, _BIT_FIELDS = 0, 3  # kinds of compression
_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)


def decode_bmp(data):
    """string [], the bytes of a BMP file whose pixels are bounded -> uint8 [height, width, 3].

    Raises InvalidArgumentError when the graph runs, for what is refused and what is cut off.
    """
    head = numbers(data, 0, _HEAD_BYTES)
    info, width, bits = little_endian(head[14:18]), little_endian(head[18:22]), little_endian(head[28:30])
    compression = little_endian(head[30:34])
    masks = tf.stack([little_endian(head[place:place + 4]) for place in (54, 58, 62)])
    fields = tf.equal(compression, _BIT_FIELDS) & tf.equal(bits, 32) & tf.reduce_all(tf.equal(masks, _MASKS))
    indexed = tf.reduce_any(tf.equal(bits, [1, 4, 8]))
    plain = tf.equal(compression, _PLAIN) & (indexed | tf.reduce_any(tf.equal(bits, [24, 32])))
    known = tf.debugging.Assert((info >= 40) & (width > 0) & (plain | fields), [
        "a BMP with a head of", info, "bytes,", bits, "bits a pixel and compression", compression,
        "expected 40 bytes or more, 1, 4, 8, 24 or 32 bits, uncompressed"])
    with tf.control_dependencies([] if known is None else [known]):
        rows, row_bytes = tf.abs(little_endian(head[22:26])), (width * bits + 31) // 32 * 4
    begin = little_endian(head[10:14])
    needed, there = row_bytes * rows, tf.strings.length(data) - begin
    whole = tf.debugging.Assert((begin >= 14 + info) & (rows > 0) & (there >= needed), [
        "a BMP with", there, "bytes of pixels, expected", needed])
    with tf.control_dependencies([] if whole is None else [whole]):
        # Some writers leave bytes behind the pixels, which TensorFlow refuses.
        data = tf.strings.substr(data, 0, begin + needed)
    return tf.cond(indexed, lambda: _by_table(data, head, info, width, bits, begin, rows, row_bytes),
                   lambda: tf.ensure_shape(tf.io.decode_image(data, 3, expand_animations=False), [None, None, 3]))


def _by_table(data, head, info, width, bits, begin, rows, row_bytes):
    packed = tf.io.decode_raw(tf.strings.substr(data, begin, row_bytes * rows), tf.uint8)
    packed = tf.reshape(packed, [rows, row_bytes])
    indexes = tf.switch_case(bits // 4, [lambda: _unpacked(packed, 1), lambda: _unpacked(packed, 4), lambda: packed])
    used = little_endian(head[46:50])
    used = tf.where((used > 0) & (used < 256), used, tf.bitwise.left_shift(1, bits))
    # Blue, green, red and a zero. A number beyond the table is black.
    table = tf.reshape(numbers(data, 14 + tf.minimum(info, 2**16), 4 * used), [used, 4])[:, 2::-1]
    table = tf.cast(tf.pad(table, [[0, 256 - used], [0, 0]]), tf.uint8)
    image = tf.gather(table, tf.cast(indexes[:, :width], tf.int32))
    from_below = little_endian(head[22:26]) > 0
    return tf.ensure_shape(tf.cond(from_below, lambda: image[::-1], lambda: tf.identity(image)), [None, None, 3])


def _unpacked(packed, bits):
    """uint8 [rows, bytes] -> uint8 [rows, bytes * 8 / bits], the numbers in each byte, the highest first"""
    shifts = tf.constant(list(range(8 - bits, -1, -bits)), tf.uint8)
    parts = tf.bitwise.right_shift(packed[..., None], shifts)
    parts = tf.bitwise.bitwise_and(parts, tf.constant(2**bits - 1, tf.uint8))
    return tf.reshape(parts, [tf.shape(packed)[0], -1])
