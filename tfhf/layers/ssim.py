"""Structural similarity over 3 x 3 means, the form that losses use (Wang et al. 2004; Godard et al. 2017, eq. 2)."""

from keras import ops

C1, C2 = 0.01**2, 0.03**2   # for values in [0, 1]


def ssim_map(x, y):
    """SSIM of every 3 x 3 block, by a plain mean instead of a Gaussian.

    Args:
        x, y: float [batch, height, width, channels], values in [0, 1], at least 3 x 3.

    Returns:
        float32 [batch, height - 2, width - 2, channels], 1 where both are equal, -1 at least.

    Raises:
        ValueError: an image without a whole block, whose mean would be no number.
    """
    if x.shape[1] < 3 or x.shape[2] < 3:
        raise ValueError(f"ssim_map: got images of {x.shape[1]} x {x.shape[2]} pixels; expected 3 x 3 at least.")
    x, y = ops.cast(x, "float32"), ops.cast(y, "float32")
    mean_x, mean_y = _mean3(x), _mean3(y)
    variance_x, variance_y = _mean3(x * x) - mean_x * mean_x, _mean3(y * y) - mean_y * mean_y
    covariance = _mean3(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return above / ((mean_x * mean_x + mean_y * mean_y + C1) * (variance_x + variance_y + C2))


def _mean3(x):
    """Means of 3 x 3 blocks without padding."""
    return ops.average_pool(x, 3, 1, "valid")
