"""The EXIF orientation of a JPEG, PNG or WebP file, read by core TensorFlow ops, so that an export honours it too.

In a JPEG, EXIF (CIPA DC-008, section 4.7) is a segment before the pixels: FF E1, u16 length, "Exif\\0\\0" and a TIFF
file. In a PNG (third edition, 11.3.4.5) it is the chunk eXIf: u32 length, type, the TIFF file; in a WebP the chunk
EXIF: type, u32 length, the TIFF file, mostly behind the picture. That is "II" or "MM" for
the order of bytes, u16 42, u32 position of the directory, which is u16 count and entries of 12 bytes; tag 0x0112 is the
orientation. The block is searched for by its name, not segment by segment: a loop in a graph would take longer than to
decode a small image.
"""

import tensorflow as tf

from tfhf.data.image_header import big_endian, is_at, numbers

_ORIENTATION = 0x0112
# Metadata come first; EXIF is 64 KB at most, and only a large colour profile may lie before it.
_HEAD_BYTES = 2**18


def orientation(data):
    """string [], the bytes of an image file -> int32 []: the EXIF orientation, 1 to 8; 1 where the file says none.

    1: as it lies. 2: mirrored. 3: turned by 180 degrees. 4: upside down. 5: transposed. 6: to be turned clockwise by
    90 degrees. 7: transposed across the other diagonal. 8: to be turned counter-clockwise by 90 degrees.
    A damaged EXIF block says none, as for PIL: the picture itself may well be whole.
    """
    is_png, is_jpeg, is_webp = is_at(data, 0, b"\x89PNG"), is_at(data, 0, b"\xff\xd8"), is_at(data, 8, b"WEBPVP8X")
    head = tf.strings.substr(data, 0, tf.where(is_webp, tf.strings.length(data), _HEAD_BYTES))
    name = tf.where(is_png, b"eXIf", tf.where(is_webp, b"EXIF", b"Exif\0\0"))
    parts = tf.strings.split(head, name, maxsplit=1)

    def read():
        begins = tf.strings.substr(parts[0], tf.maximum(tf.strings.length(parts[0]) - 4, 0), 2)
        is_exif = is_png | is_webp | tf.equal(begins, b"\xff\xe1")
        # Behind the name WebP has the size, and then, of some writers, JPEG's name.
        size = tf.strings.length(parts[1])
        tiff = tf.strings.substr(parts[1], tf.where(is_webp, tf.minimum(4, size), 0), size)
        tiff = tf.strings.substr(tiff, tf.where(is_at(tiff, 0, b"Exif\0\0"), 6, 0), _HEAD_BYTES)
        return tf.where(is_exif, _read_tiff(tiff), 1)

    return tf.cond((tf.size(parts) == 2) & (is_png | is_jpeg | is_webp), read, lambda: tf.constant(1))


def upright(image, number):
    """[height, width, channels] and its orientation, int32 [] -> the image as it should be looked at."""
    def turn():
        turned = tf.cond(number >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: tf.identity(image))
        across = tf.reduce_any(tf.equal(number, [2, 3, 6, 7]))
        down = tf.reduce_any(tf.equal(number, [3, 4, 7, 8]))
        turned = tf.cond(across, lambda: tf.reverse(turned, [1]), lambda: turned)
        return tf.cond(down, lambda: tf.reverse(turned, [0]), lambda: turned)

    turned = tf.cond(number > 1, turn, lambda: tf.identity(image))
    return tf.ensure_shape(turned, [None, None, image.shape[-1]])


def _read_tiff(tiff):
    """string [], what begins with a TIFF file -> int32 [], the orientation; 1 where it says none"""
    little = tf.equal(tf.strings.substr(tiff, 0, 1), b"I")

    def number(values):
        """int32 [..., bytes] -> int32 [...] in the file's order of bytes"""
        return big_endian(tf.cond(little, lambda: tf.reverse(values, [-1]), lambda: tf.identity(values)))

    head = numbers(tiff, 0, 8)
    size = tf.strings.length(tiff)
    begin = tf.clip_by_value(number(head[4:]), 0, size)
    count = number(numbers(tiff, begin, 2))
    count = tf.minimum(count, (size - begin - 2) // 12)   # what a truncated directory still holds
    count = tf.where(tf.equal(number(head[2:4]), 42), tf.maximum(count, 0), 0)
    entries = tf.reshape(numbers(tiff, begin + 2, count * 12), [-1, 12])
    found = tf.equal(number(entries[:, :2]), _ORIENTATION)
    value = tf.reduce_max(tf.where(found, number(entries[:, 8:10]), 0))   # a short lies in the first half of four bytes
    return tf.where((value >= 1) & (value <= 8), value, 1)
