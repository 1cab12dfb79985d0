"""Bicubic enlargement by a whole number (Keys 1981, a = -0.5), of any size in one graph."""

import math

from keras import ops


def bicubic_enlarged(x, scale):
    """float [batch, height, width, channels] -> [batch, scale * height, scale * width, channels].

    Half-pixel centres. Beyond an edge stands its last pixel. (`keras.ops.image.resize` needs sizes known in advance.)
    """
    return _enlarged(_enlarged(x, scale, 1), scale, 2)


def _enlarged(x, scale, axis):
    """Each new pixel is a sum of four old ones; its weights go by its place p within the old pixel, of `scale`."""
    size = x.shape[axis] or ops.shape(x)[axis]
    first, last = _part(x, axis, 0, 1), _part(x, axis, size - 1, size)
    x = ops.concatenate([first, first, x, last, last], axis=axis)
    places = []
    for p in range(scale):
        centre = (p + 0.5) / scale - 0.5
        begin = math.floor(centre) - 1
        places.append(sum(_cubic(abs(tap - centre)) * _part(x, axis, tap + 2, tap + 2 + size)
                          for tap in range(begin, begin + 4)))
    shape = [-1, *(x.shape[i] or ops.shape(x)[i] for i in (1, 2, 3))]
    shape[axis] = size * scale
    return ops.reshape(ops.stack(places, axis=axis + 1), shape)


def _part(x, axis, begin, end):
    return x[:, begin:end] if axis == 1 else x[:, :, begin:end]


def _cubic(x):
    """Keys' kernel at a distance of 0 to 2 pixels"""
    return 1.5 * x**3 - 2.5 * x**2 + 1.0 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
