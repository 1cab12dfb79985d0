"""Low resolution from high: blur, MATLAB's bicubic down-scaling, noise, rounding to 8 bits. Core TensorFlow ops.

Published super-resolution results stand on images that MATLAB's `imresize` made small: Keys' cubic kernel (a = -0.5)
widened by the scale so that nothing aliases, half-pixel centres, edges mirrored, the result rounded to 8 bits.
PIL's BICUBIC is the same but at the edges, where it leaves out what lies outside.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import tensorflow as tf

from tfhf.config import Config, ConfigError
from tfhf.data.augment import random_crop, random_flip
from tfhf.data.image import decode_image, resize, to_float

_BLUR, _NOISE = 101, 102   # mixed into the example's seed; tfhf/data/augment.py counts from 0


@dataclasses.dataclass(frozen=True)
class DegradationConfig(Config):
    """Where the low-resolution image comes from.

    Attributes:
        source: "target": made from the record's target, as below; "image": the record's own image is taken.
        blur: the largest standard deviation of a Gaussian blur before down-scaling, in pixels of the large image.
        noise: the largest standard deviation of white noise after it, in units of white (8 / 255 is visible). Both are
            drawn uniformly from 0 on; 0: none.
    """

    source: Literal["target", "image"] = "target"
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        for name in ("blur", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"degradation.{name}: got {getattr(self, name)}, expected 0 or more")
            if getattr(self, name) and self.source == "image":
                raise ConfigError(f"degradation.{name}: got {getattr(self, name)} with source=image, expected 0: the "
                                  "record's own image is taken as it is")


def super_resolution_pair(example, scale, config, piece=None):
    """A decoded image_pair record -> (small, large), float32 [height, width, 3] in [0, 1], large `scale` times small.

    Args:
        example: `image`, `target` and `seed` are looked at.
        scale: whole number.
        config: a `DegradationConfig`.
        piece: height and width of a random piece of the small image, mirrored or not; None: all of it. What a scale
            does not divide is cut off below and to the right.

    Raises:
        InvalidArgumentError when the graph runs: an image smaller than a piece, or with a target of another size.
    """
    names, scales = (("target", "image"), (scale, 1)) if config.source == "image" else (("target",), (scale,))
    pair = [to_float(decode_image(example[name])) for name in names]
    pair[0] = whole_blocks(pair[0], scale)
    if piece is not None:
        pair = random_flip(example["seed"], random_crop(example["seed"], pair, (piece, piece), scales))
    large = pair[0]
    small = pair[1] if config.source == "image" else degrade(example["seed"], large, scale, config)
    expected = tf.shape(small)[:2] * scale
    tf.debugging.Assert(tf.reduce_all(tf.equal(expected, tf.shape(large)[:2])), [
        "RecordError: a target of", tf.shape(large)[:2], "pixels (height, width), expected", scale, "times its image:",
        expected])
    return small, large


def degrade(seed, image, scale, config=DegradationConfig()):
    """float32 [height, width, channels] in [0, 1] -> [height / scale, width / scale, channels] in steps of 1/255.

    Args:
        seed: int32 [2], of the example; blur and noise are drawn from it by stateless ops.
        scale: whole number that divides height and width (`whole_blocks` sees to it).
        config: a `DegradationConfig`; `source` is not looked at.
    """
    if config.blur:
        image = gaussian_blur(image, _uniform(seed, _BLUR) * config.blur, radius=int(4 * config.blur + 0.5))
    small = downscale(image, scale)
    if config.noise:
        deviation = _uniform(seed, _NOISE) * config.noise
        small += deviation * tf.random.stateless_normal(tf.shape(small), _own(seed, _NOISE + 1))
    return tf.round(tf.clip_by_value(small, 0.0, 1.0) * 255.0) / 255.0


def downscale(image, scale):
    """MATLAB's `imresize(image, 1 / scale, 'bicubic')`, before its rounding.

    Args:
        image: float [height, width, channels] of any range.
        scale: whole number that divides height and width.

    Returns:
        float32 [height / scale, width / scale, channels]; the kernel overshoots at edges of contrast.

    Raises:
        ValueError, or InvalidArgumentError when the graph runs: scale does not divide the size.
    """
    height, width = (_divided(image.shape[axis] or tf.shape(image)[axis], scale, name)
                     for axis, name in enumerate(("height", "width")))
    # The kernel reaches 2 * scale pixels to each side of a centre; three blocks of mirrored edge hold that.
    padded = _mirrored(tf.cast(image, tf.float32), 3 * scale)
    return resize(padded, (height + 6, width + 6), "bicubic")[3:-3, 3:-3]


def whole_blocks(image, scale):
    """Cuts [height, width, channels] below and to the right, to multiples of `scale`."""
    height, width = (tf.shape(image)[axis] // scale * scale for axis in (0, 1))
    return image[:height, :width]


def gaussian_blur(image, deviation, radius):
    """float [height, width, channels] blurred by a Gaussian cut off at `radius` pixels, edges mirrored; float32.

    Args:
        deviation: standard deviation in pixels, float scalar, may be a tensor and 0.
        radius: whole number.
    """
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(places / tf.maximum(tf.cast(deviation, tf.float32), 1e-3)))
    weights /= tf.reduce_sum(weights)
    padded = _mirrored(tf.cast(image, tf.float32), radius)
    # Channels are the batch here: each is one grey image.
    grey = tf.transpose(padded, [2, 0, 1])[..., None]
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        grey = tf.nn.conv2d(grey, tf.reshape(weights, shape), 1, "VALID")
    return tf.transpose(grey[..., 0], [1, 2, 0])


def _mirrored(image, border):
    """`border` more pixels on each side, mirrored with the edge pixel repeated, again and again in a small image"""
    for axis in (0, 1):
        size = tf.shape(image)[axis]
        places = tf.math.floormod(tf.range(-border, size + border), 2 * size)
        image = tf.gather(image, tf.minimum(places, 2 * size - 1 - places), axis=axis)
    return image


def _divided(size, scale, name):
    if tf.is_tensor(size):
        tf.debugging.Assert(tf.equal(size % scale, 0), [
            f"RecordError: downscale: {name}", size, "is no multiple of the scale", scale])
    elif size % scale:
        raise ValueError(f"downscale: {name} {size} is no multiple of the scale {scale}")
    return size // scale


def _own(seed, number):
    """A seed for one of the draws, int32 [2]"""
    return tf.random.fold_in(tf.cast(seed, tf.int32), number)


def _uniform(seed, number):
    return tf.random.stateless_uniform([], _own(seed, number))
