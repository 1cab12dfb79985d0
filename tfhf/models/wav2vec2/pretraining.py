"""wav2vec 2.0's self-supervised pretraining (Baevski et al. 2020, sections 2 and 3).

The transformer sees the convolutions' features with spans masked and has to tell, at each masked frame, the quantised
feature that stood there from those of other masked frames. Attribute names are Hugging Face's. Whatever concerns only
masked frames (quantiser, projections, similarities) runs on those alone, brought to the static number of frames that
the spans can cover at most: about half of all.
"""

import keras
import numpy as np
from keras import ops

from tfhf.layers.span_mask import most_spans, span_mask, span_mask_of
from tfhf.losses.contrastive import contrastive_losses, counts_of, negative_counts
from tfhf.models.wav2vec2.model import Wav2Vec2PreTrainedModel


class Wav2Vec2GumbelVectorQuantizer(keras.layers.Layer):
    """Product quantisation with a straight-through Gumbel softmax (section 2; Jang et al. 2016).

    Temperature at training step n: max(max_temperature * temperature_decay^n, min_temperature).

    Weights: `weight_proj` (linear), `codevectors` [1, groups * words, codevector_dim / groups], and `step`, an int32
    that counts the calls in training.

    Raises:
        ValueError: `codevector_dim` is not a multiple of `num_codevector_groups`.
    """

    def __init__(self, config, max_temperature=2.0, min_temperature=0.5, temperature_decay=0.999995, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.words = config.num_codevector_groups, config.num_codevectors_per_group
        self.codevector_dim, self.feature_dim = config.codevector_dim, config.conv_dim[-1]
        if self.codevector_dim % self.groups:
            raise ValueError(f"codevector_dim is {self.codevector_dim}; expected a multiple of num_codevector_groups="
                             f"{self.groups}.")
        self.max_temperature, self.min_temperature = max_temperature, min_temperature
        self.temperature_decay = temperature_decay
        self.weight_proj = keras.layers.Dense(
            self.groups * self.words, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="weight_proj", dtype=self.dtype_policy)
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        self.weight_proj.build((None, None, self.feature_dim))
        self.codevectors = self.add_weight(
            shape=(1, self.groups * self.words, self.codevector_dim // self.groups), name="codevectors",
            initializer=keras.initializers.RandomUniform(0.0, 1.0))
        # Every replica counts its own copy: all count alike, and no replica waits for another.
        self.step = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step")
        self.built = True

    def temperature(self):
        """The temperature of the step that comes next, float32 scalar."""
        decayed = self.max_temperature * self.temperature_decay ** ops.cast(self.step, "float32")
        return ops.maximum(decayed, self.min_temperature)

    def call(self, features, training=False):
        """Quantises features [batch, frames, feature_dim].

        Returns:
            vectors [batch, frames, codevector_dim]; distributions float32 [batch, frames, groups, words], the softmax
            without noise in training and the chosen word outside; codes int32 [batch, frames, groups].
        """
        logits = ops.cast(self.weight_proj(features), "float32")
        logits = ops.reshape(logits, (-1, features.shape[1] or ops.shape(features)[1], self.groups, self.words))
        noisy = logits
        if training:
            uniform = keras.random.uniform(ops.shape(logits), 1e-20, 1.0, dtype="float32", seed=self.seed_generator)
            noisy = (logits - ops.log(-ops.log(uniform))) / self.temperature()
            self.step.assign(self.step + 1)
        codes = ops.argmax(noisy, axis=-1)
        chosen = ops.one_hot(codes, self.words, dtype="float32")
        choice = chosen
        if training:  # forward the chosen word alone, backward the softmax
            soft = ops.softmax(noisy, axis=-1)
            choice = ops.stop_gradient(chosen - soft) + soft
        words = ops.reshape(ops.cast(self.codevectors, self.compute_dtype), (self.groups, self.words, -1))
        vectors = ops.einsum("bfgw,gwd->bfgd", ops.cast(choice, self.compute_dtype), words)
        vectors = ops.reshape(vectors, (-1, logits.shape[1] or ops.shape(logits)[1], self.codevector_dim))
        return vectors, ops.softmax(logits, axis=-1) if training else chosen, ops.cast(codes, "int32")


@keras.saving.register_keras_serializable("tfhf")
class Wav2Vec2ForPreTraining(Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 with its quantiser: what `Wav2Vec2PreTrainingLoss` needs of a batch, in figures per clip.

    Inputs, beside those of `Wav2Vec2PreTrainedModel`, both optional: `mask_time_indices` bool [batch, frames], the
    frames to mask (none behind a clip's end), and `sampled_negative_indices` int [batch, frames, negatives] in Hugging
    Face's convention: frame t of clip b is b * frames + t. What is not given is drawn, by the config's `mask_time_*`
    and `num_negatives`: in training from the model's seed generators; outside the same draw serves every clip of every
    batch, so that a clip's figures depend on no other and come again.

    Outputs, a dict; "masked" stands for the static number of masked frames that a clip can have at most:
        contrastive_loss: float32 [batch], sum over the clip's masked frames.
        correct_frames, masked_frames: int32 [batch], masked frames told rightly, and all of them.
        code_distribution: float32 [batch, groups, words], summed over the clip's masked frames.
        feature_penalty: float32 [batch], mean square of the convolutions' outputs over the clip's own frames.
        codes: int32 [batch, masked, groups], the code words at the masked frames in order, -1 behind them.
        projected_states, projected_quantized_states: [batch, masked, proj_codevector_dim], at the masked frames.

    Args:
        config: a `Wav2Vec2Config`.
        feature_grad_mult: the gradient that reaches the convolutions is scaled by this (0.1 in the published base).
        max_gumbel_temperature, min_gumbel_temperature, gumbel_temperature_decay: see the quantiser.

    Raises:
        ValueError: the config masks nothing, or its codebook cannot be made.
    """

    def __init__(self, config, feature_grad_mult=1.0, max_gumbel_temperature=2.0, min_gumbel_temperature=0.5,
                 gumbel_temperature_decay=0.999995, **kwargs):
        if not config.mask_time_prob > 0:
            raise ValueError(f"mask_time_prob is {config.mask_time_prob}; expected more than 0: pretraining tells what "
                             "stood at masked frames.")
        self.feature_grad_mult = feature_grad_mult
        self.gumbel = (max_gumbel_temperature, min_gumbel_temperature, gumbel_temperature_decay)
        super().__init__(config, **kwargs)

    def make_head(self, config, policy):
        """Adds the quantiser and the two projections (Baevski et al. 2020, section 3)."""
        self.dropout_features = keras.layers.Dropout(config.feat_quantizer_dropout, dtype=policy)
        self.quantizer = Wav2Vec2GumbelVectorQuantizer(config, *self.gumbel, name="quantizer", dtype=policy)
        self.project_hid = _linear(config.hidden_size, config.proj_codevector_dim, "project_hid", policy)
        self.project_q = _linear(config.codevector_dim, config.proj_codevector_dim, "project_q", policy)
        self.heads = [(self.quantizer, config.conv_dim[-1]), (self.project_hid, config.hidden_size),
                      (self.project_q, config.codevector_dim)]
        self.mask_seed_generator = keras.random.SeedGenerator(1)
        self.negatives_seed_generator = keras.random.SeedGenerator(2)

    def call(self, inputs, training=False):
        mask, most = self._mask(inputs, training)
        outputs = self.wav2vec2(inputs["input_values"], inputs.get("input_lengths"), mask_time_indices=mask,
                                feature_grad_mult=self.feature_grad_mult, training=training)
        ranks = ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1                       # [batch, frames]
        masked = ops.sum(ops.cast(mask, "int32"), axis=1)                             # [batch]
        places = ops.arange(most, dtype="int32")
        own = places < masked[:, None]                                                # [batch, most]
        # A product with rows of zeros and one 1 takes the masked frames: on a TPU it costs next to nothing and its
        # gradient is a product too, where a gather's would be a scatter.
        chosen = ops.cast(mask[:, None, :] & (ranks[:, None, :] == places[:, None]), self.compute_dtype)
        states = self.project_hid(ops.matmul(chosen, outputs["last_hidden_state"]))
        features = self.dropout_features(ops.matmul(chosen, outputs["extract_features"]), training=training)
        vectors, distributions, codes = self.quantizer(features, training=training)
        targets = self.project_q(vectors)

        counts = self._negatives(inputs, masked, most, ranks, chosen, training)
        losses, correct = contrastive_losses(states, targets, codes, counts,
                                             self.config.contrastive_logits_temperature)
        return {"contrastive_loss": ops.sum(ops.where(own, losses, 0.0), axis=1),
                "correct_frames": ops.sum(ops.cast(correct & own, "int32"), axis=1),
                "masked_frames": masked,
                "code_distribution": ops.sum(ops.where(own[:, :, None, None], distributions, 0.0), axis=1),
                "feature_penalty": _mean_square(outputs["conv_features"], outputs["lengths"]),
                "codes": ops.where(own[:, :, None], codes, -1),
                "projected_states": states, "projected_quantized_states": targets}

    def _mask(self, inputs, training):
        """The frames to mask, bool [batch, frames], and how many a clip can have at most."""
        config, waveform = self.config, inputs["input_values"]
        frames = config.feature_lengths(waveform.shape[1])
        given, lengths = inputs.get("mask_time_indices"), inputs.get("input_lengths")
        if given is not None:
            return ops.cast(given, "bool"), frames
        if lengths is None:
            lengths = ops.full((ops.shape(waveform)[0],), waveform.shape[1], "int32")
        lengths = ops.clip(ops.cast(config.feature_lengths(lengths), "int32"), 0, frames)
        options = (config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
        mask = (span_mask(self.mask_seed_generator, lengths, frames, *options) if training
                else span_mask_of(_same_draws(1, frames + 1), lengths, *options))
        return mask, min(most_spans(frames, *options) * config.mask_time_length, frames)

    def _negatives(self, inputs, masked, most, ranks, chosen, training):
        """How often each masked frame is a negative of each other one, int32 [batch, most, most]."""
        given, negatives = inputs.get("sampled_negative_indices"), self.config.num_negatives
        if given is None and training:
            shape = (ops.shape(masked)[0], most, negatives)
            return negative_counts(
                keras.random.uniform(shape, dtype="float32", seed=self.negatives_seed_generator), masked)
        if given is None:
            return negative_counts(_same_draws(1, most, negatives), masked)
        frames, negatives = ranks.shape[1], given.shape[2]
        drawn = ops.reshape(ops.cast(given, "int32") % frames, (-1, frames * negatives))
        drawn = ops.reshape(ops.take_along_axis(ranks, drawn, axis=1), (-1, frames, negatives))
        rows = ops.argmax(chosen, axis=-1)                                            # [batch, most]: their frames
        return counts_of(ops.take_along_axis(drawn, rows[:, :, None], axis=1), masked)

    def get_config(self):
        names = ("max_gumbel_temperature", "min_gumbel_temperature", "gumbel_temperature_decay")
        return {**super().get_config(), "feature_grad_mult": self.feature_grad_mult, **dict(zip(names, self.gumbel))}


def _same_draws(*shape):
    """Uniform numbers, float32, that are meant to be a constant of the graph: evaluation's, on every backend alike."""
    return ops.convert_to_tensor(np.random.default_rng(0).random(shape, "float32"))


def _mean_square(features, lengths):
    """Mean over own frames and channels of the squared features [batch, frames, channels]: float32 [batch]."""
    own = ops.arange(features.shape[1]) < lengths[:, None]
    squares = ops.mean(ops.square(ops.cast(features, "float32")), axis=-1)
    return ops.sum(ops.where(own, squares, 0.0), axis=1) / ops.maximum(ops.cast(lengths, "float32"), 1.0)


def _linear(inputs, outputs, name, policy):
    """A linear layer with the initial values that the published code gives these two, uniform in 1 / sqrt(inputs)."""
    uniform = keras.initializers.RandomUniform(-inputs**-0.5, inputs**-0.5)
    return keras.layers.Dense(outputs, kernel_initializer=uniform, bias_initializer=uniform, name=name, dtype=policy)
