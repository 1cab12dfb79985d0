"""How near an image is to its original: PSNR and SSIM (Wang et al. 2004), colour space and crop named in the result.

Super-resolution tells both on the luma, without a strip of `scale` pixels on each side (Ledig et al. 2017, section
3.1). The same settings give scikit-image's numbers: `peak_signal_noise_ratio`, and `structural_similarity` with
gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255.
"""

import math

import numpy as np

from tfhf.data.image import decode_checked

COLOURS = ("y", "rgb")
_SIGMA, _RADIUS = 1.5, 5   # an 11 x 11 window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image):
    """uint8 or float RGB 0..255 [height, width, 3] -> float64 [height, width, 1], 16..235.

    Y of ITU-R BT.601 as MATLAB's `rgb2ycbcr` and scikit-image's give it, not rounded.
    """
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    return 16.0 + np.asarray(image, np.float64) @ weights[:, None]


def psnr(reference, image):
    """10 log10(255^2 / mean squared error) of two arrays of one shape, values 0..255; infinite where both are equal."""
    error = np.mean(np.square(np.asarray(reference, np.float64) - np.asarray(image, np.float64)))
    return math.inf if error == 0 else float(10.0 * np.log10(255.0**2 / error))


def ssim(reference, image):
    """Mean structural similarity of two arrays [height, width, channels] with values 0..255, at least 11 x 11.

    Gaussian windows that lie wholly inside; the mean over places and channels.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(image, np.float64)
    if min(x.shape[:2]) < 2 * _RADIUS + 1:
        raise ValueError(f"ssim: images of {x.shape[0]} x {x.shape[1]} pixels, expected at least 11 x 11, its window")
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x * mean_x, _window(y * y) - mean_y * mean_y
    covariance = _window(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float(np.mean(above / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))))


def _window(x):
    """Gaussian means of 11 x 11 windows without padding, [height - 10, width - 10, channels]"""
    places = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-0.5 * (places / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        size = x.shape[axis] - 2 * _RADIUS
        x = sum(weight * x.take(range(start, start + size), axis) for start, weight in enumerate(weights))
    return x


class _MeanOverImages:
    """The mean of a measure over images, each counted once.

    Args:
        colour: "y", the luma, or "rgb".
        crop: how many pixels of each side do not count.
    """

    measure, name = None, ""

    def __init__(self, colour="y", crop=0):
        if colour not in COLOURS:
            raise ValueError(f"{self.name}: colour {colour!r}, expected one of {COLOURS}")
        self.key = f"{self.name}_{colour}_crop{crop}"
        self.colour, self.crop = colour, crop
        self._values = []

    def update(self, reference, prediction):
        """Adds one image.

        Args:
            reference: bytes of an image file, or uint8 [height, width, 3]; what it has more below and to the right, as
                where a scale does not divide the size, is cut off.
            prediction: uint8 [height, width, 3].

        Raises:
            ValueError: the prediction is larger than the reference, or nothing is left of it.
        """
        if isinstance(reference, bytes):
            reference = decode_checked(reference, f"{self.name}: the reference")
        reference, prediction = np.asarray(reference), np.asarray(prediction)
        height, width = prediction.shape[:2]
        if height > reference.shape[0] or width > reference.shape[1] or min(height, width) <= 2 * self.crop:
            raise ValueError(f"{self.name}: a prediction of {height} x {width} pixels for a reference of "
                             f"{reference.shape[0]} x {reference.shape[1]}; expected at most as many, and more than "
                             f"{2 * self.crop}, which the crop takes")
        inner = slice(self.crop, height - self.crop), slice(self.crop, width - self.crop)
        pair = (reference[inner], prediction[inner])
        if self.colour == "y":
            pair = tuple(map(luma, pair))
        self._values.append(type(self).measure(*pair))

    def result(self):
        """{NAME_COLOUR_cropN: mean over the images}; NaN of none."""
        return {self.key: float(np.mean(self._values)) if self._values else math.nan}


class PeakSignalToNoiseRatio(_MeanOverImages):
    """Mean PSNR in dB, as psnr_y_crop4."""

    measure, name = staticmethod(psnr), "psnr"


class StructuralSimilarity(_MeanOverImages):
    """Mean SSIM, as ssim_y_crop4."""

    measure, name = staticmethod(ssim), "ssim"
