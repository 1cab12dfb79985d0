"""A GIF's first picture, on its canvas, as Pillow shows it; core TensorFlow ops, so that an export reads it too.

TensorFlow decodes all frames of an animation, gives the largest of them as the picture's size, and knows no canvas. So
the file is cut after the first frame before it is decoded: a head, a table of colours, then blocks (GIF89a, sections 17
to 27). An extension begins with 21, a frame with 2C; both end with a chain of sub-blocks, each a length and so many
bytes, up to one of length 0.
"""

import tensorflow as tf

from tfhf.data.image_header import little_endian, numbers

_EXTENSION, _CONTROL, _FRAME = 0x21, 0xF9, 0x2C
# What is looked through for the end of the first frame. It bounds the memory: 12 bytes for each of these.
_HEAD_BYTES = 2**24
_MAX_EXTENSIONS = 1000   # before the first frame


def decode_first_frame(data):
    """string [], the bytes of a GIF file whose canvas is bounded -> uint8 [height, width, 3], the canvas.

    What the frame does not cover has the transparent colour, or the table's first, as Pillow has it.
    Raises InvalidArgumentError when the graph runs: no frame, one that is cut off, or one that leaves the canvas.
    """
    file = tf.strings.substr(data, 0, _HEAD_BYTES)
    values = tf.io.decode_raw(file, tf.uint8)
    count = tf.shape(values)[0]
    ends = _chain_ends(values, count)
    shared = _table_bytes(numbers(file, 10, 1)[0])

    def byte(at):
        return tf.cast(tf.gather(values, tf.minimum(at, count - 1)), tf.int32)

    def is_extension(at, _, number):
        return tf.equal(byte(at), _EXTENSION) & (at < count) & (number < _MAX_EXTENSIONS)

    def skip(at, transparent, number):
        head = numbers(file, at, 8)   # 21, F9, 04, flags, delay (2), index of the transparent colour
        told = tf.equal(head[1], _CONTROL) & tf.equal(tf.bitwise.bitwise_and(head[3], 1), 1)
        return _after_chain(ends, at + 2), tf.where(told, head[6], transparent), number + 1

    at, transparent, _ = tf.while_loop(is_extension, skip, (13 + shared, 0, 0))
    head = numbers(file, at, 10)   # 2C, then left, top, width, height, two bytes each, and flags
    left, top, width, height = (little_endian(head[place:place + 2]) for place in (1, 3, 5, 7))
    own = _table_bytes(head[9])
    screen = numbers(file, 6, 4)
    canvas_width, canvas_height = little_endian(screen[:2]), little_endian(screen[2:])
    begins = tf.debugging.Assert(tf.equal(head[0], _FRAME) & (at < count), [
        "a GIF without a picture, expected a frame after its head"])
    within = tf.debugging.Assert((left + width <= canvas_width) & (top + height <= canvas_height), [
        "a GIF whose first frame of", height, "x", width, "pixels at", top, left, "leaves its canvas of",
        canvas_height, "x", canvas_width])
    with tf.control_dependencies([check for check in (begins, within) if check is not None]):
        end = _after_chain(ends, at + 11 + own)
        # The frame alone, at the upper left of a canvas of its own size.
        alone = tf.strings.join([
            tf.strings.substr(file, 0, 6), tf.strings.substr(file, at + 5, 4), tf.strings.substr(file, 10, 3 + shared),
            b",\0\0\0\0", tf.strings.substr(file, at + 5, end - at - 5), b";"])
    frame = tf.ensure_shape(tf.io.decode_image(alone, channels=3, expand_animations=False), [None, None, 3])
    table = tf.where(own > 0, at + 10, 13)
    outside = numbers(file, table + 3 * transparent, 3)
    outside = tf.where(3 * transparent < tf.where(own > 0, own, shared), outside, 0)

    def on_canvas():
        sides = [[top, canvas_height - top - height], [left, canvas_width - left - width]]
        around = [tf.pad(frame[..., channel], sides, constant_values=tf.cast(outside[channel], tf.uint8))
                  for channel in range(3)]
        return tf.stack(around, -1)

    whole = tf.equal(width, canvas_width) & tf.equal(height, canvas_height)
    return tf.ensure_shape(tf.cond(whole, lambda: tf.identity(frame), on_canvas), [None, None, 3])


def _table_bytes(flags):
    """int32 [] -> int32 []: the bytes of the table of colours that these flags state; 0 for none"""
    colours = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
    return tf.where(flags >= 128, 3 * colours, 0)


def _chain_ends(values, count):
    """uint8 [count] -> int32 [count + 1]: where the chain of sub-blocks that begins at each byte has its last, empty
    one; `count` where it has none. Each round doubles the sub-blocks that are jumped over."""
    places = tf.range(count + 1)
    lengths = tf.pad(tf.cast(values, tf.int32), [[0, 1]])
    jumps = tf.where(lengths > 0, tf.minimum(places + lengths + 1, count), places)

    def goes_on(_, changed):
        return changed

    def double(jumps, _):
        farther = tf.gather(jumps, jumps)
        return farther, tf.reduce_any(tf.not_equal(farther, jumps))

    return tf.while_loop(goes_on, double, (jumps, tf.constant(True)))[0]


def _after_chain(ends, at):
    """The position behind the chain of sub-blocks that begins at `at`"""
    last = tf.shape(ends)[0] - 1
    return tf.minimum(tf.gather(ends, tf.minimum(at, last)) + 1, last)
