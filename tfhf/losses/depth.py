"""Losses of predicted depth against measured depth, over the pixels that were measured, one value per example.

Depth is [batch, height, width, 1] in metres (or any unit of which both sides are); a truth of 0 or less is an invalid
pixel, which no term sees: no value and no gradient. All is computed in float32.
"""

import keras
from keras import ops

# Below this the logarithm of a prediction, in metres, goes no further.
LEAST_DEPTH = 1e-6


def valid_pixels(truth):
    """[batch, height, width, 1] -> float32 of the same shape, 1 where depth was measured and 0 elsewhere."""
    return ops.cast(truth > 0, "float32")


def masked_mean(values, mask):
    """Mean of each example's values where the mask is 1; 0 where it is so nowhere: [batch, ...], twice -> [batch]."""
    axes = tuple(range(1, len(values.shape)))
    return ops.sum(values * mask, axis=axes) / ops.maximum(ops.sum(mask, axis=axes), 1.0)


def absolute_error(truth, prediction):
    """Mean |p - t|, in metres: float [batch, height, width, 1], twice -> float32 [batch]."""
    truth, prediction = ops.cast(truth, "float32"), ops.cast(prediction, "float32")
    return masked_mean(ops.abs(prediction - truth), valid_pixels(truth))


def squared_error(truth, prediction):
    """Mean (p - t)^2, in square metres: float [batch, height, width, 1], twice -> float32 [batch]."""
    truth, prediction = ops.cast(truth, "float32"), ops.cast(prediction, "float32")
    return masked_mean(ops.square(prediction - truth), valid_pixels(truth))


def log_difference(truth, prediction):
    """d = log p - log t where the truth is valid, 0 elsewhere: float [batch, height, width, 1], twice -> float32."""
    truth, prediction = ops.cast(truth, "float32"), ops.cast(prediction, "float32")
    # The logarithm of 1 stands in for invalid pixels: their gradient is then 0, not 0 times infinity.
    known = truth > 0
    truth, prediction = ops.where(known, truth, 1.0), ops.where(known, prediction, 1.0)
    return ops.log(ops.maximum(prediction, LEAST_DEPTH)) - ops.log(truth)


def scale_invariant_log_error(truth, prediction, scale_invariance=0.5):
    """mean(d^2) - scale_invariance * mean(d)^2, d = log p - log t (Eigen et al. 2014, equation 4).

    Args:
        truth, prediction: float [batch, height, width, 1].
        scale_invariance: the paper's lambda: 0 is the squared error of logarithms, 1 does not see one factor on the
            whole depth, 0.5 is what they train with.

    Returns:
        float32 [batch].
    """
    difference, mask = log_difference(truth, prediction), valid_pixels(truth)
    mean = masked_mean(difference, mask)
    # mean(d^2) = mean((d - mean)^2) + mean^2: the same number, which rounding cannot make negative.
    variance = masked_mean(ops.square(difference - mean[:, None, None, None]), mask)
    return variance + (1.0 - scale_invariance) * ops.square(mean)


def log_gradient_error(truth, prediction):
    """Mean over valid pixels of (d_x)^2 + (d_y)^2, where d_x and d_y are the differences of d = log p - log t between
    neighbours (Eigen and Fergus 2015, equation 1): the edges of the prediction shall be where those of the truth are.

    Only pairs of two valid neighbours count. float [batch, height, width, 1], twice -> float32 [batch].
    """
    difference, mask = log_difference(truth, prediction), valid_pixels(truth)
    across = ops.square(difference[:, :, 1:] - difference[:, :, :-1]) * mask[:, :, 1:] * mask[:, :, :-1]
    down = ops.square(difference[:, 1:] - difference[:, :-1]) * mask[:, 1:] * mask[:, :-1]
    total = ops.sum(across, axis=(1, 2, 3)) + ops.sum(down, axis=(1, 2, 3))
    return total / ops.maximum(ops.sum(mask, axis=(1, 2, 3)), 1.0)


@keras.saving.register_keras_serializable("tfhf")
class DepthLoss(keras.losses.Loss):
    """A weighted sum of the terms above; the defaults are those of Eigen and Fergus 2015, equation 1.

    Args:
        l1, mse, silog, gradient: weights of `absolute_error`, `squared_error`, `scale_invariant_log_error` and
            `log_gradient_error`; a term of weight 0 is not computed.
        scale_invariance: of `scale_invariant_log_error`.

    Raises:
        ValueError: a negative weight, or none above 0.
    """

    def __init__(self, l1=0.0, mse=0.0, silog=1.0, gradient=1.0, scale_invariance=0.5, name="depth_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.weights = {"l1": l1, "mse": mse, "silog": silog, "gradient": gradient}
        self.scale_invariance = scale_invariance
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError(f"DepthLoss: got the weights {self.weights}; expected none below 0 and one above.")
        if not 0 <= scale_invariance <= 1:
            raise ValueError(f"DepthLoss: scale_invariance is {scale_invariance}; expected 0 to 1.")

    def call(self, y_true, y_pred):
        """y_true float [batch, height, width, 1], invalid pixels 0; y_pred likewise, positive -> float32 [batch]."""
        terms = {
            "l1": lambda: absolute_error(y_true, y_pred),
            "mse": lambda: squared_error(y_true, y_pred),
            "silog": lambda: scale_invariant_log_error(y_true, y_pred, self.scale_invariance),
            "gradient": lambda: log_gradient_error(y_true, y_pred),
        }
        return sum(weight * terms[name]() for name, weight in self.weights.items() if weight)

    def get_config(self):
        return {**super().get_config(), **self.weights, "scale_invariance": self.scale_invariance}
