"""The errors that depth is told in (Eigen et al. 2014, section 4.3), over measured pixels only.

Each is computed for an image and averaged over the images, as the published evaluations of KITTI and NYUv2 do since
Godard et al. 2017.
"""

import numpy as np
import tensorflow as tf

from tfhf.data.image import resize

# Rows begin, end, columns begin, end, as shares of height and width: the part of the picture that is scored.
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    # Eigen et al. 2014 on NYUv2: rows 45 to 470, columns 41 to 600 of 480 x 640, where the projected depth is whole.
    "nyu_eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    # On KITTI; Garg et al. 2016 take more of the lower part.
    "kitti_eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    "kitti_garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
KEYS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")


def crop_mask(shape, crop):
    """bool [height, width], True in the part that a crop of CROPS scores."""
    if crop not in CROPS:
        raise ValueError(f"crop: got {crop!r}, expected one of {', '.join(CROPS)}")
    (height, width), (top, bottom, left, right) = shape, CROPS[crop]
    # round() before the cut: 471 / 480 * 480 is 470.99999999999994.
    top, bottom, left, right = (int(round(part, 6)) for part in (top * height, bottom * height, left * width,
                                                                 right * width))
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def depth_errors(truth, prediction):
    """The seven errors of one image's valid pixels.

    Args:
        truth, prediction: float [n], n at least 1, positive, in metres.

    Returns:
        {abs_rel: mean |p - t| / t; sq_rel: mean (p - t)^2 / t, metres; rmse: metres; rmse_log: of natural logarithms;
        delta_1, delta_2, delta_3: share of the pixels with max(p / t, t / p) < 1.25 ** k}.
    """
    truth, prediction = np.asarray(truth, "float64"), np.asarray(prediction, "float64")
    difference, ratio = prediction - truth, np.maximum(prediction / truth, truth / prediction)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / truth)),
        "sq_rel": float(np.mean(difference**2 / truth)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(prediction) - np.log(truth)) ** 2))),
        **{f"delta_{k}": float(np.mean(ratio < 1.25**k)) for k in (1, 2, 3)},
    }


class DepthErrors:
    """Means over images of `depth_errors`, between min_depth and max_depth and within a crop.

    A pixel counts where min_depth < truth < max_depth; predictions are clipped to that range. An image without such a
    pixel is counted as `images_without_depth` and scored nowhere.

    Args:
        min_depth, max_depth: metres; usual are 1e-3 and 10 for NYUv2, 1e-3 and 80 for KITTI.
        crop: a key of CROPS, named in the result.
    """

    name = "depth"

    def __init__(self, min_depth=1e-3, max_depth=10.0, crop="none"):
        if not 0 < min_depth < max_depth:
            raise ValueError(f"min_depth, max_depth: got {min_depth}, {max_depth}, expected 0 < min < max")
        crop_mask((1, 1), crop)
        self.min_depth, self.max_depth, self.crop = min_depth, max_depth, crop
        self._sums, self._images, self._empty = dict.fromkeys(KEYS, 0.0), 0, 0

    def update(self, reference, prediction):
        """Adds one image: the measured depth, 0 where there is none, and the predicted one, both float [height, width]
        or [height, width, 1], in metres.

        Raises:
            ValueError: they differ in size, or a prediction is not finite.
        """
        truth, prediction = (np.asarray(depth, "float64") for depth in (reference, prediction))
        truth, prediction = (depth[..., 0] if depth.ndim == 3 else depth for depth in (truth, prediction))
        if truth.ndim != 2 or truth.shape != prediction.shape:
            raise ValueError(f"depth: the prediction has shape {prediction.shape}, expected the reference's, "
                             f"{truth.shape}, which must be [height, width]")
        if not np.isfinite(prediction).all():
            raise ValueError(f"depth: {int((~np.isfinite(prediction)).sum())} predicted pixels are not finite")
        mask = (truth > self.min_depth) & (truth < self.max_depth) & crop_mask(truth.shape, self.crop)
        if not mask.any():
            self._empty += 1
            return
        errors = depth_errors(truth[mask], np.clip(prediction[mask], self.min_depth, self.max_depth))
        self._images += 1
        for key, value in errors.items():
            self._sums[key] += value

    def result(self):
        """{abs_rel, sq_rel, rmse, rmse_log, delta_1, delta_2, delta_3, images_without_depth, crop, examples}; NaN
        where no image was scored."""
        means = {key: total / self._images if self._images else float("nan") for key, total in self._sums.items()}
        return {**means, "images_without_depth": self._empty, "crop": self.crop,
                "examples": self._images + self._empty}


class AtOwnSize:
    """Another metric of this file for predictions of one size and references of any: the prediction is resized, by
    bilinear interpolation, to the size at which depth was measured.

    Args:
        metric: such as `DepthErrors`.
    """

    def __init__(self, metric):
        self._metric = metric

    def __getattr__(self, name):   # name, result
        return getattr(self._metric, name)

    def update(self, reference, prediction):
        """Adds one image: the reference, float32 [height, width, 1] as `tf.io.serialize_tensor` gives it, and the
        prediction, float32 [any height, any width], in metres."""
        truth = tf.io.parse_tensor(reference, tf.float32).numpy()
        prediction = np.asarray(prediction, "float32")
        if prediction.shape != truth.shape[:2]:
            prediction = resize(prediction[..., None], truth.shape[:2]).numpy()[..., 0]
        self._metric.update(truth, prediction)
