"""SpecAugment masks (Park et al. 2019, section 2), drawn afresh inside the graph at every step."""

import keras
from keras import ops


class SpecAugment(keras.layers.Layer):
    """Sets random spans of time steps and of feature channels to zero while training.

    The draw comes from a SeedGenerator, whose state is a variable: NumPy randomness here would be frozen into the
    traced graph and repeat one mask for ever. The number of spans is fixed by the static shape, as in Hugging Face's
    `_compute_mask_indices` in expectation: probability x length / span length, at least `min_masks`.

    Args:
        time_prob: share of time steps masked in expectation (spans may overlap); 0 switches it off.
        time_length: steps in one span.
        feature_prob: the same for channels.
        feature_length: channels in one span.
        seed: of the draws.
    """

    def __init__(self, time_prob=0.05, time_length=10, time_min_masks=2, feature_prob=0.0, feature_length=10,
                 feature_min_masks=0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.time_prob, self.time_length, self.time_min_masks = time_prob, time_length, time_min_masks
        self.feature_prob, self.feature_length = feature_prob, feature_length
        self.feature_min_masks, self.seed = feature_min_masks, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def _kept(self, batch, size, prob, length, min_masks):
        """float [batch, size]: 0 inside the masked spans, 1 elsewhere; None when nothing is masked."""
        spans = max(int(prob * size / length + 0.5), min_masks)
        if prob <= 0 or spans <= 0 or length > size:
            return None
        starts = keras.random.uniform((batch, spans, 1), 0.0, float(size - length + 1), seed=self.seed_generator)
        offsets = ops.cast(ops.arange(size), "float32")[None, None] - ops.floor(starts)
        masked = ops.any(ops.logical_and(offsets >= 0, offsets < length), axis=1)
        return ops.cast(ops.logical_not(masked), self.compute_dtype)

    def call(self, x, training=False):
        """x [batch, time, features] -> the same shape; untouched outside training."""
        if not training:
            return x
        batch = ops.shape(x)[0]
        time = self._kept(batch, x.shape[1], self.time_prob, self.time_length, self.time_min_masks)
        if time is not None:
            x = x * time[:, :, None]
        feature = self._kept(batch, x.shape[2], self.feature_prob, self.feature_length, self.feature_min_masks)
        return x if feature is None else x * feature[:, None, :]

    def get_config(self):
        return {**super().get_config(), "time_prob": self.time_prob, "time_length": self.time_length,
                "time_min_masks": self.time_min_masks, "feature_prob": self.feature_prob,
                "feature_length": self.feature_length, "feature_min_masks": self.feature_min_masks, "seed": self.seed}
