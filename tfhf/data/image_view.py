"""What a network for classification sees of an image: one square of one size, as in the papers on ImageNet."""

import dataclasses

import tensorflow as tf

from tfhf.config import Config, ConfigError
from tfhf.data.augment import random_colour, random_flip, random_resized_crop
from tfhf.data.image import decode_image, resize, to_float, to_uint8


@dataclasses.dataclass(frozen=True)
class ImageView(Config):
    """How the bytes of an image file become uint8 [size, size, channels].

    Attributes:
        size: height and width in pixels.
        channels: 3 (RGB) or 1 (grey).
        fraction: outside training, the side of the square in the middle that is seen, as a share of the shorter side.
        area, ratio: in training, the range of the share of the area that is cut out, and of its width over its height,
            before it is resized (`random_resized_crop`).
        flip: whether half of the images are mirrored in training.
        colour: how far brightness, contrast and saturation are changed in training (`random_colour`).
    """

    size: int = 224
    channels: int = 3
    fraction: float = 0.875
    area: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: bool = True
    colour: float = 0.0

    def __post_init__(self):
        if self.size < 1 or self.channels not in (1, 3) or not 0 < self.fraction <= 1:
            raise ConfigError(f"image: got size {self.size}, channels {self.channels} and fraction {self.fraction}, "
                              "expected 1 pixel or more, 1 or 3 channels, and more than 0 up to 1")
        for name, most in (("area", 1.0), ("ratio", float("inf"))):
            low, high = (*getattr(self, name), 0.0, 0.0)[:2]
            if len(getattr(self, name)) != 2 or not 0 < low <= high <= most:
                raise ConfigError(f"image.{name}: got {getattr(self, name)}, expected a lower and an upper limit "
                                  f"above 0" + (", at most 1" if most == 1 else ""))
        if self.colour and self.channels == 1:
            raise ConfigError(f"image.colour: got {self.colour} with one channel, expected 0: grey has no colour")

    def middle(self, data):
        """string [] -> uint8 [size, size, channels], the same at every call."""
        return self.middle_of(decode_image(data, self.channels))

    def middle_of(self, image):
        """uint8 [any height, any width, channels] -> uint8 [size, size, channels]"""
        shape = tf.shape(image)[:2]
        side = tf.cast(tf.round(tf.cast(tf.reduce_min(shape), tf.float32) * self.fraction), tf.int32)
        side = tf.maximum(side, 1)
        top, left = tf.unstack((shape - side) // 2)
        square = image[top:top + side, left:left + side]
        return self._pixels(resize(square, (self.size, self.size), "bicubic") / 255.0)

    def random(self, data, seed):
        """string [], the example's seed int32 [2] -> uint8 [size, size, channels]"""
        image = to_float(decode_image(data, self.channels))
        image = random_resized_crop(seed, image, (self.size, self.size), self.area, self.ratio)
        image = random_flip(seed, image) if self.flip else image
        if self.colour:
            image = random_colour(seed, image, self.colour, self.colour, self.colour)
        return self._pixels(image)

    def _pixels(self, image):
        return tf.ensure_shape(to_uint8(image), [self.size, self.size, self.channels])
