"""Feature maps made twice as high and wide, as decoders of pictures do it."""

from keras import ops


def doubled(x, interpolation="nearest"):
    """[batch, height, width, channels] -> [batch, 2 * height, 2 * width, channels], of any size.

    Args:
        x: float.
        interpolation: "nearest", or "bilinear" by half-pixel centres: pixels are 3/4 of the nearest one and 1/4 of the
            next, the border repeated. `keras.ops.image.resize` is the same where the size is known before the graph
            runs.
    """
    return _bilinear(x) if interpolation == "bilinear" else _nearest(x)


@ops.custom_gradient
def _nearest(x):
    _, height, width, channels = ops.shape(x)
    large = ops.reshape(ops.tile(x[:, :, None, :, None, :], (1, 1, 2, 1, 2, 1)), (-1, 2 * height, 2 * width, channels))

    def gradient(*args, upstream=None):
        # The sum of each four by the pooling's kernel: what TensorFlow makes of the tiles takes ten times as long.
        return 4.0 * ops.average_pool(args[0] if upstream is None else upstream, 2, 2)

    return large, gradient


def _bilinear(x):
    for axis in (1, 2):
        first, all_but_last, all_but_first, last = (
            x[(slice(None),) * axis + (slice(*part),)] for part in ((0, 1), (0, -1), (1, None), (-1, None)))
        before = 0.75 * x + 0.25 * ops.concatenate([first, all_but_last], axis)
        after = 0.75 * x + 0.25 * ops.concatenate([all_but_first, last], axis)
        _, height, width, channels = ops.shape(x)
        size = (2 * height, width) if axis == 1 else (height, 2 * width)
        x = ops.reshape(ops.stack([before, after], axis + 1), (-1, *size, channels))
    return x
