"""How far a disparity is off, in pixels, and the depth that it stands for: what stereo benchmarks tell.

Menze and Geiger 2015, "Object Scene Flow for Autonomous Vehicles" (KITTI 2015: D1-all); Godard et al. 2017, section 4.
"""

import numpy as np
import tensorflow as tf

from tfhf.data.image import resize
from tfhf.metrics.depth import DepthErrors


class DisparityErrors:
    """Means over images, of measured pixels only: `epe`, |predicted - measured| in pixels of the measured map;
    `d1_all`, the share of pixels that are off by more than 3 of them and by more than 5 %; and the errors of depth,
    where depth = focal_times_baseline / disparity is asked for.

    An image without a measured pixel is counted as `images_without_disparity` and scored nowhere.

    Args:
        focal_times_baseline: focal length in pixels of the measured map times the distance of the cameras in metres,
            721.5377 * 0.54 = 389.6 for KITTI; None: no errors of depth.
        max_depth: metres; what is farther away is not scored, 80 for KITTI.
        crop: a key of tfhf.metrics.depth.CROPS, for the errors of depth.
    """

    name = "disparity"

    def __init__(self, focal_times_baseline=None, max_depth=80.0, crop="none"):
        self._product = focal_times_baseline
        self._depth = DepthErrors(1e-3, max_depth, crop) if focal_times_baseline else None
        self._epe, self._d1, self._images, self._empty = 0.0, 0.0, 0, 0

    def update(self, reference, prediction):
        """Adds one image.

        Args:
            reference: bytes of `tf.io.serialize_tensor`: float32 [height, width, 1], disparity in pixels, 0 where none
                was measured.
            prediction: float32 [any height, any width], disparity as a part of the width; it is resized.

        Raises:
            ValueError: a prediction is not finite.
        """
        truth = tf.io.parse_tensor(reference, tf.float32).numpy()[..., 0]
        measured = truth > 0
        if not measured.any():
            self._empty += 1
            return
        prediction = resize(np.asarray(prediction, "float32")[..., None], truth.shape).numpy()[..., 0] * truth.shape[1]
        if not np.isfinite(prediction).all():
            raise ValueError(f"disparity: {int((~np.isfinite(prediction)).sum())} predicted pixels are not finite")
        off = np.abs(prediction - truth)[measured].astype("float64")
        self._epe += off.mean()
        self._d1 += np.mean((off > 3.0) & (off > 0.05 * truth[measured]))
        self._images += 1
        if self._depth is not None:
            depth = np.where(measured, self._product / np.maximum(truth, 1e-6), 0.0)
            self._depth.update(depth, self._product / np.maximum(prediction, 1e-6))

    def result(self):
        """{epe, d1_all, images_without_disparity, examples}, and with focal_times_baseline those of `DepthErrors`; NaN
        where no image was scored."""
        count = self._images or float("nan")
        own = {"epe": float(self._epe / count), "d1_all": float(self._d1 / count),
               "images_without_disparity": self._empty, "examples": self._images + self._empty}
        return {**(self._depth.result() if self._depth is not None else {}), **own}
