"""wav2vec 2.0 (Baevski et al. 2020): a transformer over the frames of `feature_encoder`, and heads.

Attribute names are Hugging Face's, so that a variable's path is its name in a safetensors file. Read from leaf to
whole: the projection, the positional convolution, one layer, the encoder, the models.
"""

import keras
from keras import ops

from tfhf.layers import recompute
from tfhf.layers.attention import MASKED_SCORE, Attention
from tfhf.layers.convolution import conv_dtype
from tfhf.layers.feed_forward import gelu_dense
from tfhf.layers.span_mask import span_mask
from tfhf.losses.ctc import PADDING_LOGIT
from tfhf.models.pretrained import PreTrainedModel
from tfhf.models.wav2vec2 import convert
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.feature_encoder import Wav2Vec2FeatureEncoder, gelu, own_waveform, uniform


def _dense(width, config, name, policy):
    return keras.layers.Dense(width, name=name, dtype=policy,
                              kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range))


def _norm(config, name, policy):
    return keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name=name, dtype=policy)


class Wav2Vec2FeatureProjection(keras.layers.Layer):
    """Norm and linear layer to the transformer's width."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.layer_norm = _norm(config, "layer_norm", policy)
        self.projection = keras.layers.Dense(config.hidden_size, name="projection", dtype=policy,
                                             kernel_initializer=uniform(config.conv_dim[-1]),
                                             bias_initializer=uniform(config.conv_dim[-1]))
        self.dropout = keras.layers.Dropout(config.feat_proj_dropout, dtype=policy)

    def build(self, input_shape=None):
        self.layer_norm.build((None, None, self.config.conv_dim[-1]))
        self.projection.build((None, None, self.config.conv_dim[-1]))
        self.built = True

    def call(self, features, training=False):
        """[batch, frames, conv_dim[-1]] -> (projected [batch, frames, hidden_size], the normed features)."""
        normed = self.layer_norm(features)
        return self.dropout(self.projection(normed), training=training), normed


@ops.custom_gradient
def wide_conv(x, kernel):
    """Convolution of x [batch, time, channels] with kernel [taps, channels, width] -> [batch, time - taps + 1, width].

    Both gradients are convolutions forward. TensorFlow's own on a CPU are some 100 times slower with 128 taps.
    """
    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        margin = kernel.shape[0] - 1
        turned = ops.transpose(ops.flip(kernel, axis=0), (0, 2, 1))
        to_x = ops.conv(ops.pad(upstream, ((0, 0), (margin, margin), (0, 0))), turned, padding="valid")
        # For the kernel the batch is summed over, as channels are, and the channels stand for the batch.
        to_kernel = ops.conv(ops.transpose(x, (2, 1, 0)), ops.transpose(upstream, (1, 0, 2)), padding="valid")
        return to_x, ops.transpose(to_kernel, (1, 0, 2))

    return ops.conv(x, kernel, padding="valid"), gradient


class WeightNormConv(keras.layers.Layer):
    """Grouped convolution over time, its weight kept as direction and length per tap (Salimans & Kingma 2016).

    The groups are convolved one by one: TensorFlow on a CPU has no gradient of a grouped convolution.
    """

    def __init__(self, width, kernel, groups, **kwargs):
        super().__init__(**kwargs)
        self.width, self.kernel, self.groups = width, kernel, groups

    def build(self, input_shape=None):
        group = self.width // self.groups
        deviation = 2 * (self.kernel * self.width) ** -0.5
        self.weight_v = self.add_weight(shape=(self.width, group, self.kernel), name="weight_v",
                                        initializer=keras.initializers.RandomNormal(stddev=deviation))
        length = deviation * (self.width * group) ** 0.5   # what the norms of weight_v are about
        self.weight_g = self.add_weight(shape=(1, 1, self.kernel), name="weight_g",
                                        initializer=keras.initializers.Constant(length))
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        """[batch, frames, width] -> the same shape; an even kernel sees one frame more of the past."""
        v = ops.cast(self.weight_v, "float32")
        weight = v * (ops.cast(self.weight_g, "float32") * ops.rsqrt(ops.sum(v * v, axis=(0, 1), keepdims=True)))
        weight = ops.cast(ops.transpose(weight, (2, 1, 0)), self.compute_dtype)       # [kernel, group, width]
        frames = x.shape[1]
        x = ops.pad(x, ((0, 0), (self.kernel // 2, (self.kernel - 1) // 2), (0, 0)))
        # Small groups are those that some processors compute wrongly in bfloat16.
        dtype = conv_dtype(self.compute_dtype, weight.shape)
        x, weight = ops.cast(x, dtype), ops.cast(weight, dtype)
        parts = zip(ops.split(x, self.groups, axis=2), ops.split(weight, self.groups, axis=2))
        x = ops.concatenate([wide_conv(part, kernel) for part, kernel in parts], axis=2)
        return ops.cast(x[:, :frames], self.compute_dtype) + ops.cast(self.bias, self.compute_dtype)


class Wav2Vec2PositionalConvEmbedding(keras.layers.Layer):
    """Positions relative to each other, by a wide convolution."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.conv = WeightNormConv(config.hidden_size, config.num_conv_pos_embeddings,
                                   config.num_conv_pos_embedding_groups, name="conv", dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.conv.build()
        self.built = True

    def call(self, x):
        """[batch, frames, hidden_size] -> the same shape."""
        return gelu(self.conv(x))


class Wav2Vec2FeedForward(keras.layers.Layer):
    """Two linear layers with GELU between them."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.intermediate_dense = _dense(config.intermediate_size, config, "intermediate_dense", policy)
        self.output_dense = _dense(config.hidden_size, config, "output_dense", policy)
        self.intermediate_dropout = keras.layers.Dropout(config.activation_dropout, dtype=policy)
        self.output_dropout = keras.layers.Dropout(config.hidden_dropout, dtype=policy)

    def build(self, input_shape=None):
        self.intermediate_dense.build((None, None, self.config.hidden_size))
        self.output_dense.build((None, None, self.config.intermediate_size))
        self.built = True

    def call(self, x, training=False):
        """[batch, frames, hidden_size] -> the same shape."""
        x = gelu_dense(self.intermediate_dense(x), self.intermediate_dropout, self.output_dense, training)
        return self.output_dropout(x, training=training)


class Wav2Vec2EncoderLayer(keras.layers.Layer):
    """Self-attention and feed-forward, norms behind them, or before them if `do_stable_layer_norm`."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.attention = Attention(config.hidden_size, config.num_attention_heads, config.attention_dropout,
                                   name="attention", dtype=policy)
        self.dropout = keras.layers.Dropout(config.hidden_dropout, dtype=policy)
        self.layer_norm = _norm(config, "layer_norm", policy)
        self.feed_forward = Wav2Vec2FeedForward(config, name="feed_forward", dtype=policy)
        self.final_layer_norm = _norm(config, "final_layer_norm", policy)

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_size)
        for layer in (self.attention, self.dropout, self.layer_norm, self.feed_forward, self.final_layer_norm):
            layer.build(shape)
        self.built = True

    def call(self, x, bias, training=False):
        """x [batch, frames, hidden_size], bias float32 [batch, 1, 1, frames] on the scores -> the shape of x."""
        if self.config.do_stable_layer_norm:
            attended = self.attention(self.layer_norm(x), bias=bias, training=training)
            x = x + self.dropout(attended, training=training)
            return x + self.feed_forward(self.final_layer_norm(x), training=training)
        x = self.layer_norm(x + self.dropout(self.attention(x, bias=bias, training=training), training=training))
        return self.final_layer_norm(x + self.feed_forward(x, training=training))


class Wav2Vec2Encoder(keras.layers.Layer):
    """Positions, the layers with stochastic depth (Huang et al. 2016), a norm at the end or at the beginning."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config, name="pos_conv_embed", dtype=policy)
        self.layer_norm = _norm(config, "layer_norm", policy)
        self.dropout = keras.layers.Dropout(config.hidden_dropout, dtype=policy)
        self.layers = [Wav2Vec2EncoderLayer(config, name=f"layers_{i}", dtype=policy)
                       for i in range(config.num_hidden_layers)]
        self.seed_generator = keras.random.SeedGenerator(3)

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_size)
        for layer in (self.pos_conv_embed, self.layer_norm, self.dropout, *self.layers):
            layer.build(shape)
        self.built = True

    def call(self, x, lengths, training=False):
        """x [batch, frames, hidden_size], own frames int32 [batch] -> the states before each layer and the last one, a
        tuple of num_hidden_layers + 1."""
        config = self.config
        own = ops.arange(x.shape[1]) < lengths[:, None]
        bias = ops.where(own, 0.0, MASKED_SCORE)[:, None, None, :]
        x = ops.where(own[:, :, None], x, ops.zeros_like(x))     # the positional convolution must see silence there
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if config.do_stable_layer_norm else self.layer_norm(x), training=training)
        states = [x]
        for layer in self.layers:
            after = recompute.run(layer, config.recompute_activations and training, x, bias, training=training)
            if training and config.layerdrop:
                kept = keras.random.uniform((), seed=self.seed_generator) >= config.layerdrop
                after = ops.where(kept, after, x)
            x = after
            states.append(x)
        if config.do_stable_layer_norm:
            states[-1] = self.layer_norm(x)
        return tuple(states)


class Wav2Vec2Layer(keras.layers.Layer):
    """Convolutions, projection, SpecAugment on time and features (Park et al. 2019), encoder: all but the heads.

    `always_masks`: frames are masked whatever the config says of SpecAugment, as in pretraining.
    """

    def __init__(self, config, always_masks=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the waveform must not be rounded to bfloat16
        self.config, policy = config, self.dtype_policy
        self.masks = always_masks or (config.apply_spec_augment and config.mask_time_prob > 0)
        self.feature_extractor = Wav2Vec2FeatureEncoder(config, name="feature_extractor", dtype=policy, autocast=False)
        self.feature_projection = Wav2Vec2FeatureProjection(config, name="feature_projection", dtype=policy)
        self.encoder = Wav2Vec2Encoder(config, name="encoder", dtype=policy)
        self.seed_generator = keras.random.SeedGenerator(4)

    def build(self, input_shape=None):
        if self.config.mask_time_prob > 0 or self.config.mask_feature_prob > 0:
            self.masked_spec_embed = self.add_weight(
                shape=(self.config.hidden_size,), name="masked_spec_embed", trainable=self.masks,
                initializer=keras.initializers.RandomUniform(0.0, 1.0))
        for layer in (self.feature_extractor, self.feature_projection, self.encoder):
            layer.build()
        self.built = True

    def call(self, input_values, input_lengths=None, mask_time_indices=None, feature_grad_mult=1.0, training=False):
        """See `Wav2Vec2Model` for the inputs and `outputs` for what comes back.

        Args:
            mask_time_indices: bool [batch, frames] to mask, in the place of a draw.
            feature_grad_mult: the gradient that reaches the convolutions is scaled by this.
        """
        config = self.config
        waveform, lengths = own_waveform(input_values, input_lengths, config.do_normalize)
        features = self.feature_extractor(waveform, lengths)
        if feature_grad_mult != 1.0:
            features = features * feature_grad_mult + ops.stop_gradient(features) * (1.0 - feature_grad_mult)
        frames = features.shape[1]
        frame_lengths = ops.clip(ops.cast(config.feature_lengths(lengths), "int32"), 0, frames)
        hidden, normed = self.feature_projection(features, training=training)
        augment = training and config.apply_spec_augment
        if mask_time_indices is None and augment and config.mask_time_prob > 0:
            mask_time_indices = span_mask(self.seed_generator, frame_lengths, frames, config.mask_time_prob,
                                          config.mask_time_length, config.mask_time_min_masks)
        if mask_time_indices is not None:
            hidden = ops.where(mask_time_indices[:, :, None], ops.cast(self.masked_spec_embed, hidden.dtype), hidden)
        if augment and config.mask_feature_prob > 0:
            widths = ops.full_like(frame_lengths, config.hidden_size)
            masked = span_mask(self.seed_generator, widths, config.hidden_size, config.mask_feature_prob,
                               config.mask_feature_length, config.mask_feature_min_masks)
            hidden = ops.where(masked[:, None, :], ops.zeros_like(hidden), hidden)
        states = self.encoder(hidden, frame_lengths, training=training)
        return {"last_hidden_state": states[-1], "extract_features": normed, "conv_features": features,
                "hidden_states": states, "lengths": frame_lengths}


class Wav2Vec2PreTrainedModel(PreTrainedModel):
    """What the models share: `wav2vec2`, building, saving, loading.

    Inputs, a dict: `input_values` [batch, samples], floats normalised as `Wav2Vec2FeatureExtractor` does or int16, raw
    PCM at 16 kHz, which the model normalises itself; and optionally `input_lengths` int32 [batch], own samples of each
    clip. What a clip gives depends neither on its batch nor on what it was filled up to. The number of samples is
    static.

    Args:
        config: a `Wav2Vec2Config`.
    """

    config_class, base_model_prefix, head_prefixes = Wav2Vec2Config, "wav2vec2", convert.HEADS
    # Frames are masked in training alone, with this in their place.
    dispensable = ("wav2vec2.masked_spec_embed",)
    head_is_vocabulary = True

    def __init__(self, config, **kwargs):
        super().__init__(config, autocast=False, **kwargs)  # the waveform must not be rounded to bfloat16
        self.wav2vec2 = Wav2Vec2Layer(config, name="wav2vec2", dtype=self.dtype_policy)
        self.make_head(config, self.dtype_policy)
        self.build()

    def make_head(self, config, policy):
        """Creates the layers of the head; `heads` is what `build` builds, as (layer, width of its input)."""
        self.heads = []

    def build(self, input_shape=None):
        self.wav2vec2.build()
        for layer, width in self.heads:
            layer.build((None, None, width))
        self.built = True

    def states(self, inputs, training=False):
        """What `Wav2Vec2Layer` gives for a dict of inputs."""
        return self.wav2vec2(inputs["input_values"], inputs.get("input_lengths"), training=training)

    def freeze_feature_encoder(self):
        """Leaves the convolutions as they are, as every published fine-tuning does."""
        self.wav2vec2.feature_extractor.trainable = False

    @classmethod
    def read_folder(cls, folder):
        """See `PreTrainedModel`; do_normalize stands with the feature extractor."""
        config, tensors = super().read_folder(folder)
        return convert.with_extractor_settings(config, folder), tensors

    def own_tensors(self, tensors, new_head):
        """See `PreTrainedModel`; with our spelling of the weight norm, and a mask vector only where frames are masked.
        """
        tensors = super().own_tensors(convert.our_spelling(tensors), new_head)
        embed = "wav2vec2.masked_spec_embed"
        if not hasattr(self.wav2vec2, "masked_spec_embed"):   # transformers keeps it where nothing is ever masked
            tensors.pop(embed, None)
        return tensors

    def reference_tensors(self):
        """See `PreTrainedModel`."""
        return convert.their_spelling(super().reference_tensors())

    def save_pretrained(self, folder):
        """Writes config.json, preprocessor_config.json and model.safetensors, which `transformers` loads."""
        super().save_pretrained(folder)
        convert.write_extractor_settings(self.config, folder)


@keras.saving.register_keras_serializable("tfhf")
class Wav2Vec2Model(Wav2Vec2PreTrainedModel):
    """The states of the transformer, without a head.

    Outputs, a dict: `last_hidden_state` [batch, frames, hidden_size], `extract_features` [batch, frames, conv_dim[-1]],
    `hidden_states`, a tuple of num_hidden_layers + 1. Inputs: see `Wav2Vec2PreTrainedModel`.
    """

    is_base = True

    def call(self, inputs, training=False):
        outputs = self.states(inputs, training)
        return {name: outputs[name] for name in ("last_hidden_state", "extract_features", "hidden_states")}


@keras.saving.register_keras_serializable("tfhf")
class Wav2Vec2ForCTC(Wav2Vec2PreTrainedModel):
    """Speech to symbols: float32 logits [batch, frames, vocab_size].

    In frames behind a clip's own end they say blank with certainty, so a CTC loss or a decoder needs no lengths beside
    them (`tfhf.losses.ctc.logit_lengths_of`). Inputs: see `Wav2Vec2PreTrainedModel`.
    """

    def make_head(self, config, policy):
        """One linear layer to the symbols."""
        self.dropout = keras.layers.Dropout(config.final_dropout, dtype=policy)
        self.lm_head = _dense(config.vocab_size, config, "lm_head", policy)
        self.heads = [(self.lm_head, config.hidden_size)]

    def call(self, inputs, training=False):
        outputs = self.states(inputs, training)
        logits = self.lm_head(self.dropout(outputs["last_hidden_state"], training=training))
        own = ops.arange(logits.shape[1]) < outputs["lengths"][:, None]
        blank = ops.arange(self.config.vocab_size) == self.config.pad_token_id
        return ops.where(own[:, :, None], ops.cast(logits, "float32"), ops.where(blank, 0.0, PADDING_LOGIT))


@keras.saving.register_keras_serializable("tfhf")
class Wav2Vec2ForSequenceClassification(Wav2Vec2PreTrainedModel):
    """One label for a clip: float32 logits [batch, num_labels] from the mean over its own frames.

    Inputs: see `Wav2Vec2PreTrainedModel`.
    """

    def make_head(self, config, policy):
        """Projector and classifier; with `use_weighted_layer_sum` also the weight of each layer's states."""
        self.projector = _dense(config.classifier_proj_size, config, "projector", policy)
        self.classifier = _dense(config.num_labels, config, "classifier", policy)
        self.heads = [(self.projector, config.hidden_size), (self.classifier, config.classifier_proj_size)]
        if config.use_weighted_layer_sum:
            self.layer_weights = self.add_weight(shape=(config.num_hidden_layers + 1,), initializer="ones",
                                                 name="layer_weights")

    def call(self, inputs, training=False):
        outputs = self.states(inputs, training)
        hidden = outputs["last_hidden_state"]
        if self.config.use_weighted_layer_sum:
            weights = ops.softmax(ops.cast(self.layer_weights, "float32"))
            hidden = sum(ops.cast(weights[i], hidden.dtype) * state
                         for i, state in enumerate(outputs["hidden_states"]))
        projected = ops.cast(self.projector(hidden), "float32")
        own = ops.cast(ops.arange(hidden.shape[1]) < outputs["lengths"][:, None], "float32")[:, :, None]
        pooled = ops.sum(projected * own, axis=1) / ops.maximum(ops.sum(own, axis=1), 1.0)
        return ops.cast(self.classifier(ops.cast(pooled, self.compute_dtype)), "float32")
