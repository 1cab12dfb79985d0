"""Images: from the bytes of a file to pixels and back, and their size. Core TensorFlow ops, in a graph or eagerly.

So the same lines work in tf.data, in an export and in Python. An image is [height, width, channels]; as uint8 0..255,
as float32 in [0, 1] (`to_float`). Depth and disparity are 16-bit grey PNGs: unit = value * scale, 0 is invalid.
"""

import functools
import re

import numpy as np
import tensorflow as tf

from tfhf.data import exif, image_header, storage
from tfhf.data.image_bmp import decode_bmp
from tfhf.data.image_gif import decode_first_frame
from tfhf.data.schema import RecordError

# The one bucket of image tasks, and the largest image that is written or decoded: 8,192 x 8,192.
MAX_PIXELS = 2**26
# All the images of one call together: 44 photographs of 12 million pixels.
MAX_CALL_PIXELS = 8 * MAX_PIXELS
METHODS = ("bilinear", "bicubic", "area", "nearest")
_DEPTH_MAX = 65535


class ImageError(RecordError):
    """An image that cannot be used; the message names the file."""


def decode_image(data, channels=3, max_pixels=None):
    """The bytes of a JPEG, PNG, GIF, BMP or WebP file, string [] -> uint8 [height, width, channels], upright.

    Grey, palette and 16-bit files, CMYK JPEGs and files with alpha (which is dropped) come out alike. 16 bits lose
    their lower eight; of an animated GIF or PNG the first frame is taken; EXIF orientation is honoured. Anything else,
    a truncated file, an animated WebP and a BMP with compressed pixels are an InvalidArgumentError when the graph runs;
    so is a picture of more than `max_pixels`, before it is decoded: its file may be small.

    Args:
      channels: 3 (RGB) or 1 (grey, the luma of ITU-R BT.601 as PIL's mode L has it).
      max_pixels: MAX_PIXELS where it is None.
    """
    if channels not in (1, 3):
        raise ValueError(f"decode_image: channels is {channels!r}, expected 1 or 3")
    data, most = tf.convert_to_tensor(data, tf.string), max_pixels or MAX_PIXELS
    # The two that most files are come first: what a graph does not take costs it time for each node all the same.
    image = tf.cond(image_header.is_at(data, 0, b"\xff\xd8"), lambda: _decoded(data, image_header.JPEG, most), lambda:
                    tf.cond(image_header.is_at(data, 0, b"\x89PNG"), lambda: _decoded(data, image_header.PNG, most),
                            lambda: _decode_others(data, most)))
    image = exif.upright(tf.ensure_shape(image, [None, None, 3]), exif.orientation(data))
    if channels == 3:
        return image
    # In 16-bit fixed point; the weights add up to 2^16, so that grey stays what it was.
    # A channel after the other: all in one would take three times the memory.
    luma = 32768
    for channel, weight in enumerate((19595, 38470, 7471)):
        luma += tf.cast(image[..., channel:channel + 1], tf.int32) * weight
    return tf.cast(luma // 65536, tf.uint8)


def one_by_one(data, max_pixels=MAX_CALL_PIXELS):
    """string [batch], the bytes of image files -> bool []: whether they are so large together that only one may be in
    memory at a time; see `map_examples`. By what their heads state: nothing is decoded.

    Raises InvalidArgumentError when the graph runs: they have more pixels than `max_pixels` in all.
    """
    sizes = tf.map_fn(image_header.size, data, fn_output_signature=tf.TensorSpec([2], tf.int32))
    pixels = tf.reduce_prod(tf.abs(tf.cast(sizes, tf.float32)), axis=-1)
    largest = tf.pad(sizes, [[0, 1], [0, 0]])[tf.argmax(tf.pad(pixels, [[0, 1]]))]   # 0 x 0 of an empty batch
    most, total = min(max_pixels, MAX_PIXELS), tf.reduce_sum(pixels)
    fits = tf.debugging.Assert(tf.reduce_all(pixels <= float(most)), [
        f"expected an image of at most {most} pixels, it has", largest[0], "x", largest[1]])
    with tf.control_dependencies([] if fits is None else [fits]):   # None: eager, done already
        fits = tf.debugging.Assert(total <= float(max_pixels), [
            "the", tf.shape(data)[0], "images of this call have", total, f"pixels, expected at most {max_pixels} in "
            "all: send fewer at a time"])
    with tf.control_dependencies([] if fits is None else [fits]):
        return total > float(MAX_PIXELS)


def map_examples(function, elements, signature, alone):
    """`tf.map_fn` of a batch's examples, several at once, or, where `alone` (bool []) says so, one after the other: the
    memory is then that of one."""
    return tf.cond(alone,
                   lambda: tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=1),
                   lambda: tf.map_fn(function, elements, fn_output_signature=signature))


def _decoded(data, which, max_pixels):
    return tf.ensure_shape(_DECODERS[which](image_header.bounded(data, which, max_pixels)), [None, None, 3])


# Called, not inlined: one node of the graph where the file is a JPEG or a PNG.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _decode_others(data, max_pixels):
    kinds = (image_header.UNKNOWN, image_header.GIF, image_header.BMP, image_header.WEBP)
    which = tf.argmax(tf.equal(kinds, image_header.kind(data)), output_type=tf.int32)
    return tf.switch_case(which, [lambda which=which: _decoded(data, which, max_pixels) for which in kinds])


_DECODERS = {
    # Of what is no kind, TensorFlow says so.
    image_header.UNKNOWN: lambda data: tf.io.decode_image(data, 3, expand_animations=False),
    # Not decode_image, whose cosine transform is the quick one: up to 4 of 255 off.
    image_header.JPEG: lambda data: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"),
    image_header.PNG: lambda data: tf.io.decode_image(data, 3, expand_animations=False),
    image_header.GIF: decode_first_frame,
    image_header.BMP: decode_bmp,
    # It has three channels or four and is asked for no other number.
    image_header.WEBP: lambda data: tf.io.decode_image(data, 0, expand_animations=False)[..., :3],
}


def decode_depth(data, scale):
    """A 16-bit grey PNG, string [] -> (float32 [height, width, 1] = value * scale, valid bool [height, width, 1]).

    Where the value is 0 there is no measurement: valid is False and the depth 0.
    """
    is_png = tf.debugging.Assert(image_header.is_at(data, 0, b"\x89PNG"), ["expected a 16-bit grey PNG"])
    with tf.control_dependencies([] if is_png is None else [is_png]):   # None: eager, done already
        data = image_header.bounded(data, image_header.PNG, MAX_PIXELS)
    values = tf.io.decode_png(data, channels=1, dtype=tf.uint16)
    values = tf.cast(tf.ensure_shape(values, [None, None, 1]), tf.float32)
    return values * tf.cast(scale, tf.float32), values > 0


def encode_png(image):
    """uint8 [height, width, 1, 3 or 4] -> string [], a PNG."""
    return tf.io.encode_png(image)


def encode_depth(depth, scale):
    """float32 [height, width, 1] -> string [], a 16-bit grey PNG of round(depth / scale).

    What is not finite or not above 0 becomes 0, invalid; a valid depth stays within 1 and 65,535.
    """
    depth = tf.cast(depth, tf.float32)
    valid = tf.math.is_finite(depth) & (depth > 0)
    values = tf.round(tf.where(valid, depth, 0.0) / tf.cast(scale, tf.float32))
    values = tf.where(valid, tf.clip_by_value(values, 1.0, _DEPTH_MAX), 0.0)
    return tf.io.encode_png(tf.cast(values, tf.uint16))


def to_float(image):
    """uint8 0..255 of any shape -> float32 in [0, 1]."""
    return tf.cast(image, tf.float32) * (1.0 / 255.0)


def to_uint8(image):
    """float32 in [0, 1] of any shape -> uint8 0..255, rounded; what lies outside is clipped."""
    return tf.cast(tf.round(tf.clip_by_value(tf.cast(image, tf.float32), 0.0, 1.0) * 255.0), tf.uint8)


def resize(image, size, method="bilinear"):
    """[..., height, width, channels], 3 or 4 axes -> float32 [..., *size, channels] of the same unit.

    Half-pixel centres; when made smaller, bilinear and bicubic (Keys' kernel, a = -0.5) are widened so that nothing
    aliases, as PIL and MATLAB do. Bicubic overshoots: clip where a range is expected. Depth with invalid pixels takes
    "nearest", which mixes nothing.

    Args:
      size: (height, width).
    """
    if method not in METHODS:
        raise ValueError(f"resize: method is {method!r}, expected one of {METHODS}")
    return tf.cast(tf.image.resize(image, size, method=method, antialias=True), tf.float32)


def read_image(path, channels=3):
    """A file, local or gs:// -> uint8 numpy [height, width, channels]; see `decode_image`.

    Raises ImageError, naming the file, where it cannot be decoded; FileNotFoundError.
    """
    return decode_checked(storage.read_bytes(path), str(path), channels)


def decode_checked(data, name, channels=3):
    """bytes -> uint8 numpy [height, width, channels], eagerly; ImageError, which calls it `name`, where that fails."""
    try:
        image = _compiled(decode_image, channels=channels)(data).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{name}: {len(data)} bytes that cannot be decoded, expected a whole JPEG, PNG, GIF, BMP "
                         f"or WebP file: {_reason(error)}") from error
    return image


def image_size(data, name):
    """bytes of an image file -> (height, width), upright, after decoding all of it once; ImageError, naming it."""
    return decode_checked(data, name).shape[:2]


def depth_size(data, name):
    """bytes of a depth or disparity file -> (height, width).

    Raises ImageError, naming it, where it is no whole 16-bit grey PNG, or no pixel of it is valid.
    """
    # The header, IHDR, lies in the first 26 bytes: 16 width, height; 24 bits per sample; 25 kind of colour, 0 is grey.
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != b"\x10\x00":
        raise ImageError(f"{name}: {_kind(data)}, expected a 16-bit grey PNG of depth or disparity")
    try:
        valid = _compiled(decode_depth, scale=1.0)(data)[1].numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{name}: {len(data)} bytes that cannot be decoded: {_reason(error)}") from error
    if not np.any(valid):
        raise ImageError(f"{name}: all {valid.size} pixels are 0, invalid; expected at least one that was measured")
    return valid.shape[:2]


@functools.cache
def _compiled(decode, **options):
    """One graph for all files: eagerly, op by op, a small image would take ten times as long."""
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def run(data):
        with tf.device("CPU:0"):
            return decode(data, **options)

    return run


def _kind(data):
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 26:
        return f"a PNG of {data[24]} bits and colour type {data[25]}"
    return f"{len(data)} bytes that begin with {data[:8]!r}"


def _reason(error):
    """TensorFlow's message without the nodes and lines of code around it"""
    lines = [line for line in error.message.splitlines() if line.strip() and not line.lstrip().startswith("[[")]
    failed = re.fullmatch(r"assertion failed: \[(.*)\]", lines[-1])   # of tf.debugging.Assert
    return failed[1].replace("] [", " ") if failed else re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", lines[-1])
