"""The objective of left-right consistency (Godard et al. 2017, section 3.2), one value per example."""

import keras
from keras import ops

from tfhf.layers.bilinear_sampler import bilinear_sampler
from tfhf.layers.ssim import ssim_map

TERMS = ("appearance", "smoothness", "left_right")


def warped(image, disparity, width=None, to_right=False):
    """The left image rebuilt from the right one; `to_right`: the right one from the left.

    Args:
        image: float [batch, height, width, channels]: what is sampled, a picture or a disparity map of the other view.
        disparity: float [batch, height, width, 1] of the view that is rebuilt, as a part of `width`.
        width: in pixels; None: that of the image.
    """
    pixels = disparity[..., 0] * (width or image.shape[2])
    return bilinear_sampler(image, pixels if to_right else -pixels)


def appearance(rebuilt, image, alpha):
    """alpha * (1 - SSIM) / 2 + (1 - alpha) * L1 (equation 2): float32 [batch]."""
    dissimilar = ops.mean(ops.clip((1.0 - ssim_map(rebuilt, image)) / 2.0, 0.0, 1.0), axis=(1, 2, 3))
    return alpha * dissimilar + (1.0 - alpha) * ops.mean(ops.abs(rebuilt - image), axis=(1, 2, 3))


def smoothness(disparity, image):
    """Mean gradients of the disparity, less where the image has an edge (equation 3): float32 [batch].

    Along rows and along columns, as the paper has it; its published code adds the first only.
    """
    total = 0.0
    for axis in (1, 2):
        steps, edges = _steps(disparity, axis), ops.mean(ops.abs(_steps(image, axis)), axis=-1, keepdims=True)
        total = total + ops.mean(ops.abs(steps) * ops.exp(-edges), axis=(1, 2, 3))
    return total


def _changed_places(views):
    """[2 * batch, ...], the left ones first -> the right ones first."""
    left, right = ops.split(views, 2, axis=0)
    return ops.concatenate([right, left], axis=0)


def _steps(x, axis):
    return x[:, 1:] - x[:, :-1] if axis == 1 else x[:, :, 1:] - x[:, :, :-1]


@keras.saving.register_keras_serializable("tfhf")
class MonodepthLoss(keras.losses.Loss):
    """Appearance + smoothness_weight / 2^i * smoothness + left_right_weight * consistency, over four scales i and both
    views (equations 1 to 4). Computed in float32.

    Args:
        alpha: share of SSIM in the appearance, 0.85.
        smoothness_weight: 0.1; divided by 2^i at scale i.
        left_right_weight: 1.
        width: what disparities are parts of, in pixels of the finest scale. None: the width of the images. Crops of
            images of that width have the disparities of the whole.
    """

    def __init__(self, alpha=0.85, smoothness_weight=0.1, left_right_weight=1.0, width=None, name="monodepth_loss",
                 **kwargs):
        super().__init__(name=name, **kwargs)
        self.alpha, self.smoothness_weight, self.left_right_weight = alpha, smoothness_weight, left_right_weight
        self.width = width

    def terms(self, y_true, y_pred):
        """(appearance, smoothness, left-right) without their weights, each float32 [batch].

        Args:
            y_true: {"left", "right"}: [batch, height, width, 3], float in [0, 1] or uint8.
            y_pred: a `MonodepthModel`'s disparities.
        """
        # Both views go through every operation together, the right ones behind the left ones: half the operations.
        views = ops.concatenate([y_true["left"], y_true["right"]], axis=0)
        whole = "int" in keras.backend.standardize_dtype(views.dtype)
        views = ops.cast(views, "float32") / (255.0 if whole else 1.0)
        looks, smooth, consistency = [], [], []
        for scale, pair in enumerate(y_pred):
            if scale:
                views = ops.average_pool(views, 2, 2)   # the area mean of an exact half
            left, right = pair[..., :1], pair[..., 1:]
            own, other = ops.concatenate([left, right], axis=0), ops.concatenate([right, left], axis=0)
            width = (self.width or y_true["left"].shape[2]) / 2**scale
            offsets = ops.concatenate([-left, right], axis=0)[..., 0] * width
            seen = ops.concatenate([_changed_places(views), other], axis=-1)
            rebuilt = bilinear_sampler(seen, offsets)
            looks.append(appearance(rebuilt[..., :3], views, self.alpha))
            smooth.append(smoothness(own, views) / 2**scale)
            consistency.append(ops.mean(ops.abs(rebuilt[..., 3:] - own), axis=(1, 2, 3)))
        return tuple(ops.sum(ops.reshape(sum(term), (2, -1)), axis=0) for term in (looks, smooth, consistency))

    def call(self, y_true, y_pred):
        """Targets and outputs as `terms` takes them -> float32 [batch]."""
        looks, smooth, consistency = self.terms(y_true, y_pred)
        return looks + self.smoothness_weight * smooth + self.left_right_weight * consistency

    def measures(self, y_true, y_pred):
        """The mean of each term, without its weight, to be logged: {name: float32 scalar}."""
        return {name: ops.mean(term) for name, term in zip(TERMS, self.terms(y_true, y_pred))}

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "smoothness_weight": self.smoothness_weight,
                "left_right_weight": self.left_right_weight, "width": self.width}
