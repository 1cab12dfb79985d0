"""The objective of wav2vec 2.0's pretraining (Baevski et al. 2020, section 3.2), one value per example.

A masked frame tells its own quantised vector from negatives: those of other masked frames of its clip. The published
code gathers 100 vectors for each masked frame. Here one product per clip gives the similarity of every pair of its
masked frames, and negatives are counted: a frame that was drawn three times is one term with weight three. So nothing
of the size [frames, negatives, width] is read or written, and there is no gather whose gradient would be a scatter.
"""

import keras
from keras import ops

_NEVER = -1e9  # log of a count of zero, finite so that no difference of two gives NaN


def negative_counts(draws, frames):
    """How often each masked frame is a negative of each other one of its clip.

    Args:
        draws: float32 [batch or 1, most, negatives], uniform in [0, 1): one drawn negative each, with replacement.
        frames: int32 [batch], masked frames of each clip, at most `most`; they are numbered from 0.

    Returns:
        int32 [batch, most, most]: [clip, i, j] counts j among the negatives of i. Rows of a clip with fewer than two
        masked frames, and those behind its frames, are zero.
    """
    most = draws.shape[1]
    own = ops.arange(most, dtype="int32")
    others = ops.cast(frames - 1, "float32")[:, None, None]
    drawn = ops.cast(ops.floor(draws * others), "int32")
    drawn = ops.minimum(drawn, ops.maximum(frames - 2, 0)[:, None, None])  # draws * others may round up to others
    drawn = drawn + ops.cast(drawn >= own[:, None], "int32")               # all but the frame itself
    return counts_of(drawn, frames)


def counts_of(drawn, frames):
    """Numbers of drawn frames, int32 [batch, most, negatives], to the counts of `negative_counts`."""
    own = ops.arange(drawn.shape[1], dtype="int32")
    # A chain of additions becomes one fused loop that stores the counts alone. A sum over an axis of [most, negatives,
    # most] does not: measured on a CPU with 510 frames and 100 negatives, 16 times the time and 100 times the bytes.
    counts = sum(ops.cast(drawn[:, :, k, None] == own, "int32") for k in range(drawn.shape[2]))
    inside = own < ops.where(frames > 1, frames, 0)[:, None]
    return ops.where(inside[:, :, None] & inside[:, None, :], counts, 0)


def contrastive_losses(states, targets, codes, counts, temperature):
    """-log softmax of the true target among itself and its negatives, by cosine similarity (equation 3).

    Negatives with the codes of the true target are left out, as in the published code: no state could tell them apart.

    Args:
        states: float [batch, most, width], projected outputs of the transformer at the masked frames.
        targets: float [batch, most, width], projected quantised vectors at the same frames.
        codes: int [batch, most, groups], the code words of the targets.
        counts: int32 [batch, most, most], of `negative_counts`.
        temperature: that the similarities are divided by, 0.1 in the paper.

    Returns:
        losses float32 [batch, most]; correct bool [batch, most]: the true target is nearer than every negative (never
        so where no negative is left, else a collapsed codebook would score full marks).
    """
    logits = ops.matmul(_unit(states), ops.transpose(_unit(targets), (0, 2, 1))) / temperature
    same = ops.all(codes[:, :, None, :] == codes[:, None, :, :], axis=-1)
    counts = ops.where(same, 0, counts)
    itself = ops.eye(counts.shape[1], dtype="bool")
    positive = ops.sum(ops.where(itself, logits, 0.0), axis=-1)
    negatives = ops.where(counts > 0, logits, _NEVER)
    weighted = negatives + ops.log(ops.cast(ops.maximum(counts, 1), "float32"))
    losses = ops.logsumexp(ops.where(itself, logits, weighted), axis=-1) - positive
    nearest = ops.max(negatives, axis=-1)
    return losses, (positive > nearest) & (nearest > 0.5 * _NEVER)


def codebook_perplexity(distributions):
    """Sum over the groups of exp(entropy): how many code words are in use, of groups x words (equation 4).

    Args:
        distributions: float32 [groups, words], each summing to 1 (or to 0: perplexity 1).

    Returns:
        float32 scalar between `groups` and groups x words.
    """
    logs = ops.log(ops.maximum(distributions, 1e-30))
    return ops.sum(ops.exp(-ops.sum(distributions * logs, axis=-1)))


def _unit(x):
    """Vectors of length 1, float32; a vector of zeros stays one."""
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-16))


@keras.saving.register_keras_serializable("tfhf")
class Wav2Vec2PreTrainingLoss(keras.losses.Loss):
    """Contrastive, diversity and feature penalty of `Wav2Vec2ForPreTraining`'s outputs (equation 2).

    The contrastive part of an example is the mean over its masked frames. With sample weights proportional to the
    clip's frames (what the task gives) the batch loss is then, in expectation over the masks, the published one: the
    sum over all masked frames of the batch divided by their number. Equal weights give the mean over clips. The
    diversity is that of the masked frames of the local batch (one device, as published), the same for each example.

    Args:
        diversity_loss_weight: alpha, 0.1 in the paper.
        feature_penalty_weight: of the mean square of the convolutions' outputs; 10 in the published recipe, which the
            paper does not tell of.
    """

    def __init__(self, diversity_loss_weight=0.1, feature_penalty_weight=10.0, name="pretraining_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.diversity_loss_weight, self.feature_penalty_weight = diversity_loss_weight, feature_penalty_weight

    def call(self, y_true, y_pred):
        """y_true is not looked at, y_pred the model's outputs -> float32 [batch]."""
        frames = ops.maximum(ops.cast(y_pred["masked_frames"], "float32"), 1.0)
        words = y_pred["code_distribution"].shape[1] * y_pred["code_distribution"].shape[2]
        diversity = (words - self.perplexity(y_pred)) / words
        return (y_pred["contrastive_loss"] / frames + self.diversity_loss_weight * diversity
                + self.feature_penalty_weight * y_pred["feature_penalty"])

    def perplexity(self, y_pred):
        """Codebook perplexity over the masked frames of the batch, float32 scalar."""
        frames = ops.sum(ops.cast(y_pred["masked_frames"], "float32"))
        return codebook_perplexity(ops.sum(y_pred["code_distribution"], axis=0) / ops.maximum(frames, 1.0))

    def measures(self, y_true, y_pred):
        """Figures of a training batch to be logged: by name a pair of float32 scalars (sum, count), or one scalar."""
        correct, frames = (ops.sum(ops.cast(y_pred[key], "float32")) for key in ("correct_frames", "masked_frames"))
        return {"contrastive_accuracy": (correct, frames), "code_perplexity": self.perplexity(y_pred)}

    def get_config(self):
        return {**super().get_config(), "diversity_loss_weight": self.diversity_loss_weight,
                "feature_penalty_weight": self.feature_penalty_weight}
