"""Cross-entropy with label smoothing, of tokens and of whole examples, one value per example."""

import keras
from keras import ops

from tfhf.layers.mixup import partners


def smoothed_cross_entropy(targets, logits, label_smoothing):
    """int [...], float32 [..., classes] -> float32 [...].

    Args:
        label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, section 7).
    """
    # The fused op: its gradient is softmax minus one-hot, where a gather would put a scatter into the TPU program.
    losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    if label_smoothing:
        uniform = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
    return losses


@keras.saving.register_keras_serializable("tfhf")
class TokenCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy over an example's own target tokens.

    With sample weights proportional to the number of tokens (what the input pipeline gives) the batch loss is the mean
    over all tokens of the global batch, which is Hugging Face's loss, exactly, on any number of replicas.

    Args:
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        ignore_index: target that counts for nothing.
    """

    def __init__(self, label_smoothing=0.0, ignore_index=-100, name="token_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def call(self, y_true, y_pred):
        """y_true int [batch, time], y_pred logits [batch, time, vocabulary] of any float -> float32 [batch]."""
        logits = ops.cast(y_pred, "float32")
        labels = ops.cast(y_true, "int32")  # keras.losses.Loss hands labels over as float32
        valid = ops.not_equal(labels, self.ignore_index)
        targets = ops.where(valid, labels, 0)
        losses = smoothed_cross_entropy(targets, logits, self.label_smoothing)
        valid = ops.cast(valid, "float32")
        return ops.sum(losses * valid, axis=-1) / ops.maximum(ops.sum(valid, axis=-1), 1.0)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index}


@keras.saving.register_keras_serializable("tfhf")
class LabelCrossEntropy(keras.losses.Loss):
    """Cross-entropy of one label for each example, with MixUp where the targets say so (tfhf/layers/mixup.py).

    Args:
        label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, label_smoothing=0.0, name="label_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Logits of any float [batch, classes] -> float32 [batch].

        Args:
            y_true: labels int [batch]; or {"label": these, "mixup": float [batch]}, the shares of the own label, where
                the model mixed its inputs by the same shares.
        """
        logits = ops.cast(y_pred, "float32")
        mixed = isinstance(y_true, dict)
        labels = ops.cast(y_true["label"] if mixed else y_true, "int32")
        losses = smoothed_cross_entropy(labels, logits, self.label_smoothing)
        if not mixed:
            return losses
        share = ops.cast(y_true["mixup"], "float32")
        return share * losses + (1 - share) * smoothed_cross_entropy(partners(labels), logits, self.label_smoothing)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
