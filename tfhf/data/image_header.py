"""What the head of an image file says before a pixel is decoded, read by core TensorFlow ops: its kind and its size.

A file of some hundred bytes may state a picture of gigabytes; whoever decodes it has lost the memory already. PNG:
width and height are u32, big-endian, from byte 16 (third edition, 11.2.1). GIF: u16, little-endian, from byte 6
(GIF89a, section 18). BMP: i32, little-endian, from byte 18; a negative height lies from its top down. WebP (RFC 9649):
the first chunk, from byte 12, is "VP8 " (14 bits each from byte 26), "VP8L" (14 bits each, less one, from byte 21) or
"VP8X" (24 bits each, less one, from byte 24). In a JPEG the frame's header may lie anywhere: TensorFlow has an
operation for it.
"""

import tensorflow as tf

UNKNOWN, JPEG, PNG, GIF, BMP, WEBP = range(6)
_HEAD_BYTES = 32
_PNG_CHANNELS = (1, 0, 3, 1, 2, 0, 4)   # by the type of colour, which is byte 25
_ANIMATED = 2                           # a flag in byte 20 of a VP8X
# Pixels that a byte of the file can hold at the very most. In a JPEG each block of 64 pixels has a code of a bit or
# more, and a sampling of 4 to 1 leaves out a quarter of the blocks; the longest of GIF's codes stands for 3,838 pixels
# and has 12 bits. In a PNG deflate makes 1,032 bytes of one.
_MOST_PIXELS = {JPEG: 2048.0, GIF: 4096.0}
_DEFLATED_BYTES = 1032
MAX_SIDE = 65535  # as in a JPEG and a GIF
MAX_SCANS = 200   # of a progressive JPEG, each of which passes over all blocks; encoders write 10


def kind(data):
    """string [], the bytes of an image file -> int32 []: UNKNOWN, JPEG, PNG, GIF, BMP or WEBP, by its first bytes"""
    found = tf.constant(UNKNOWN)
    for number, begin in ((JPEG, b"\xff\xd8"), (PNG, b"\x89PNG"), (GIF, b"GIF8"), (BMP, b"BM")):
        found = tf.where(tf.equal(tf.strings.substr(data, 0, len(begin)), begin), number, found)
    return tf.where(is_at(data, 0, b"RIFF") & is_at(data, 8, b"WEBP"), WEBP, found)


def size(data):
    """string [], the bytes of an image file -> int32 [2]: (height, width) as its pixels lie; 0, 0 for what is no image.

    Raises InvalidArgumentError, when the graph runs, for a JPEG without a frame's header.
    """
    def of_others():
        which, head = kind(data), numbers(data, 0, _HEAD_BYTES)
        found = tf.zeros([2], tf.int32)
        for number, read in _SIZES.items():
            found = tf.where(tf.equal(which, number), read(head), found)
        return found

    found = tf.cond(is_at(data, 0, b"\xff\xd8"), lambda: tf.io.extract_jpeg_shape(data)[:2], of_others)
    return tf.ensure_shape(found, [2])


def bounded(data, which, max_pixels):
    """The bytes of an image file of the kind `which`, an int -> the same bytes, which are an InvalidArgumentError if
    the head states more pixels than `max_pixels`, or than so few bytes can hold; and for a WebP that is animated."""
    if which == UNKNOWN:
        return data
    length, checks = tf.strings.length(data), []
    head = numbers(data, 0, _HEAD_BYTES)
    height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2] if which == JPEG else _SIZES[which](head))
    # In floats, where neither 2^31 x 2^31 nor the absolute value of -2^31 wraps round.
    pixels = tf.abs(tf.cast(height, tf.float32) * tf.cast(width, tf.float32))

    def check(holds, *said):
        checks.append(tf.debugging.Assert(holds, said))

    check(pixels <= float(max_pixels), f"expected an image of at most {max_pixels} pixels, it has", height, "x", width)
    # Resizing keeps a picture as wide as it was and as high as it shall be: a line of a million pixels is a bomb.
    check((tf.abs(height) <= MAX_SIDE) & (tf.abs(width) <= MAX_SIDE),
          f"expected an image whose sides have at most {MAX_SIDE} pixels, it has", height, "x", width)
    if which in (JPEG, PNG, GIF):
        most = _pixels_of_png(head) if which == PNG else _MOST_PIXELS[which]
        check(pixels <= tf.cast(length, tf.float32) * most, "a file of", length,
              "bytes that states", height, "x", width, "pixels, expected a whole one")
    if which == JPEG:
        parts = tf.raw_ops.StringSplitV2(input=data[None], sep=b"\xff\xda", maxsplit=MAX_SCANS + 1).values
        check(tf.size(parts) <= MAX_SCANS + 1, f"a JPEG of more scans than {MAX_SCANS}")
    if which == WEBP:
        animated = is_at(data, 12, b"VP8X") & tf.not_equal(tf.bitwise.bitwise_and(head[20], _ANIMATED), 0)
        check(~animated, "an animated WebP, expected one that is a single picture")
    with tf.control_dependencies([one for one in checks if one is not None]):   # None: eager, done already
        return tf.identity(data)


def _pixels_of_png(head):
    bits = head[24] * tf.gather(tf.constant(_PNG_CHANNELS), tf.clip_by_value(head[25], 0, len(_PNG_CHANNELS) - 1))
    return 8.0 * _DEFLATED_BYTES / tf.cast(tf.maximum(bits, 1), tf.float32)


def _bmp_size(head):
    short = tf.stack([little_endian(head[20:22]), little_endian(head[18:20])])   # of OS/2, whose head has 12 bytes
    usual = tf.abs(tf.stack([little_endian(head[22:26]), little_endian(head[18:22])]))
    return tf.where(tf.equal(little_endian(head[14:18]), 12), short, usual)


def _webp_size(head):
    chunk = head[15]   # the last letter of "VP8 ", "VP8L", "VP8X"
    lossy = tf.stack([little_endian(head[28:30]), little_endian(head[26:28])]) % 2**14
    bits = little_endian(head[21:25])   # the upper bits are flags; a sign does no harm to the lower 28
    lossless = tf.stack([tf.bitwise.right_shift(bits, 14), bits]) % 2**14 + 1
    extended = tf.stack([little_endian(head[27:30]), little_endian(head[24:27])]) + 1
    return tf.where(tf.equal(chunk, ord("X")), extended, tf.where(tf.equal(chunk, ord("L")), lossless, lossy))


_SIZES = {
    PNG: lambda head: tf.abs(tf.stack([big_endian(head[20:24]), big_endian(head[16:20])])),
    GIF: lambda head: tf.stack([little_endian(head[8:10]), little_endian(head[6:8])]),
    BMP: _bmp_size,
    WEBP: _webp_size,
}


def is_at(data, at, wanted):
    """string [] -> bool []: whether the bytes `wanted` lie at a position"""
    return tf.equal(tf.strings.substr(data, tf.minimum(at, tf.strings.length(data)), len(wanted)), wanted)


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


def little_endian(values):
    """int32 [..., bytes] -> int32 [...]; more than 31 bits wrap round"""
    return big_endian(values[..., ::-1])
