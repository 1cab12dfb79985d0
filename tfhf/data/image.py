"""Images: from the bytes of a file to pixels and back, and their size. Core TensorFlow ops, in a graph or eagerly.

So the same lines work in tf.data, in an export and in Python. An image is [height, width, channels]; as uint8 0..255,
as float32 in [0, 1] (`to_float`). Depth and disparity are 16-bit grey PNGs: unit = value * scale, 0 is invalid.
"""

import functools
import re

import numpy as np
import tensorflow as tf

from tfhf.data import exif, image_header, storage
from tfhf.data.schema import RecordError

# The one bucket of image tasks, and the largest image that is written or decoded: 8,192 x 8,192.
MAX_PIXELS = 2**26
METHODS = ("bilinear", "bicubic", "area", "nearest")
_DEPTH_MAX = 65535


class ImageError(RecordError):
    """An image that cannot be used; the message names the file."""


def decode_image(data, channels=3, max_pixels=None):
    """The bytes of a JPEG, PNG, GIF or BMP file, string [] -> uint8 [height, width, channels], upright.

    Grey, palette and 16-bit files, CMYK JPEGs and files with alpha (which is dropped) come out alike. 16 bits lose
    their lower eight; of an animation the first frame is taken; EXIF orientation is honoured. Anything else, and a
    truncated file, is an InvalidArgumentError when the graph runs; so is a picture of more than `max_pixels`, before it
    is decoded: its file may be small.

    Args:
      channels: 3 (RGB) or 1 (grey, the luma of ITU-R BT.601 as PIL's mode L has it).
      max_pixels: MAX_PIXELS where it is None.
    """
    if channels not in (1, 3):
        raise ValueError(f"decode_image: channels is {channels!r}, expected 1 or 3")
    data = _bounded(tf.convert_to_tensor(data, tf.string), max_pixels or MAX_PIXELS)
    # For JPEG not decode_image, whose cosine transform is the quick one: up to 4 of 255 off.
    image = tf.cond(tf.equal(tf.strings.substr(data, 0, 2), b"\xff\xd8"),
                    lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
                    lambda: tf.io.decode_image(data, channels=3, expand_animations=False))
    image = exif.upright(tf.ensure_shape(image, [None, None, 3]), exif.orientation(data))
    if channels == 3:
        return image
    # In 16-bit fixed point; the weights add up to 2^16, so that grey stays what it was.
    luma = tf.reduce_sum(tf.cast(image, tf.int32) * [19595, 38470, 7471], axis=-1, keepdims=True)
    return tf.cast((luma + 32768) // 65536, tf.uint8)


def _bounded(data, max_pixels):
    """The bytes of an image file, which are an error if its head tells of more pixels than these"""
    height, width = tf.unstack(image_header.size(data))
    # In floats, where neither 2^31 x 2^31 nor the absolute value of -2^31 wraps round.
    fits = tf.abs(tf.cast(height, tf.float32) * tf.cast(width, tf.float32)) <= float(max_pixels)
    check = tf.debugging.Assert(fits, [f"expected an image of at most {max_pixels} pixels, it has", height, "x", width])
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(data)


def decode_depth(data, scale):
    """A 16-bit grey PNG, string [] -> (float32 [height, width, 1] = value * scale, valid bool [height, width, 1]).

    Where the value is 0 there is no measurement: valid is False and the depth 0.
    """
    values = tf.io.decode_png(_bounded(data, MAX_PIXELS), channels=1, dtype=tf.uint16)
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
        raise ImageError(f"{name}: {len(data)} bytes that cannot be decoded, expected a whole JPEG, PNG, GIF or BMP "
                         f"file: {_reason(error)}") from error
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
