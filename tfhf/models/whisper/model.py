"""Whisper (Radford et al. 2022): log-mel front end, transformer encoder, transformer decoder with tied logits.

Attribute names are Hugging Face's, so that a variable's path is its name in a safetensors file. Read from leaf to
whole: one encoder layer, the encoder, one decoder layer, the decoder, the model with its head.
"""

import json
from dataclasses import asdict, replace

import keras
import numpy as np
from keras import ops

from tfhf.layers import recompute
from tfhf.layers.attention import Attention, causal_bias
from tfhf.layers.convolution import Conv1D
from tfhf.layers.feed_forward import gelu_dense
from tfhf.layers.log_mel import LogMelSpectrogram
from tfhf.layers.spec_augment import SpecAugment
from tfhf.models.pretrained import PreTrainedModel
from tfhf.models.whisper import convert
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.generation import WhisperGenerationMixin
from tfhf.models.whisper.special_tokens import SpecialTokens


def sinusoids(length, channels):
    """The encoder's fixed positions: float32 [length, channels], sines in the first half, cosines in the second."""
    inverse_timescales = np.exp(-np.log(10000.0) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * inverse_timescales[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")


def _dense(width, name, policy):
    return keras.layers.Dense(width, name=name, dtype=policy)


def _norm(name, policy):
    return keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=policy)


class PositionalEmbedding(keras.layers.Layer):
    """A table of positions, learned in the decoder and fixed sinusoids in the encoder."""

    def __init__(self, length, width, trainable, initializer="normal", **kwargs):
        super().__init__(trainable=trainable, **kwargs)
        self.length, self.width, self.initializer = length, width, initializer

    def build(self, input_shape=None):
        self.weight = self.add_weight(shape=(self.length, self.width), initializer=self.initializer, name="weight",
                                      trainable=self.trainable)
        self.built = True

    def call(self, positions):
        """positions int32 [...] -> [..., width]."""
        return ops.take(ops.cast(self.weight, self.compute_dtype), positions, axis=0)


class WhisperEncoderLayer(keras.layers.Layer):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.self_attn = Attention(config.d_model, config.encoder_attention_heads, config.attention_dropout,
                                   key_bias=False, name="self_attn", dtype=policy)
        self.self_attn_layer_norm = _norm("self_attn_layer_norm", policy)
        self.fc1, self.fc2 = _dense(config.encoder_ffn_dim, "fc1", policy), _dense(config.d_model, "fc2", policy)
        self.final_layer_norm = _norm("final_layer_norm", policy)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=policy)
        self.activation_dropout = keras.layers.Dropout(config.activation_dropout, dtype=policy)

    def build(self, input_shape):
        self.self_attn.build(input_shape)
        for layer in (self.self_attn_layer_norm, self.fc1, self.final_layer_norm, self.dropout):
            layer.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))
        self.activation_dropout.build((*input_shape[:-1], self.fc1.units))
        self.built = True

    def call(self, x, training=False):
        """x [batch, frames, d_model] -> the same shape."""
        attended = self.self_attn(self.self_attn_layer_norm(x), training=training)
        return self.feed_forward(x + self.dropout(attended, training=training), training)

    def feed_forward(self, x, training=False):
        """The second half of the layer, residual included."""
        hidden = self.fc1(self.final_layer_norm(x))
        hidden = gelu_dense(hidden, self.activation_dropout, self.fc2, training)
        return x + self.dropout(hidden, training=training)


class WhisperEncoder(keras.layers.Layer):
    """Two convolutions (the second halves the frame rate), fixed positions, the layers, a final norm."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.conv1 = Conv1D(config.d_model, 3, name="conv1", dtype=policy)
        self.conv2 = Conv1D(config.d_model, 3, strides=2, name="conv2", dtype=policy)
        self.embed_positions = PositionalEmbedding(
            config.max_source_positions, config.d_model, trainable=False, name="embed_positions", dtype=policy,
            initializer=lambda shape, dtype=None: ops.cast(sinusoids(*shape), dtype or "float32"))
        self.layers = [WhisperEncoderLayer(config, name=f"layers_{i}", dtype=policy)
                       for i in range(config.encoder_layers)]
        self.layer_norm = _norm("layer_norm", policy)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=policy)

    def build(self, input_shape):
        hidden = (None, self.config.max_source_positions, self.config.d_model)
        self.conv1.build((None, None, self.config.num_mel_bins))
        self.conv2.build((None, None, self.config.d_model))
        self.embed_positions.build()
        for layer in (*self.layers, self.layer_norm, self.dropout):
            layer.build(hidden)
        self.built = True

    def call(self, log_mel, training=False):
        """log_mel [batch, 2 * max_source_positions, num_mel_bins] -> [batch, max_source_positions, d_model]."""
        # Explicit padding: with stride 2, "same" pads on the right only, the reference on both sides.
        x = ops.gelu(self.conv1(ops.pad(log_mel, ((0, 0), (1, 1), (0, 0)))), approximate=False)
        x = ops.gelu(self.conv2(ops.pad(x, ((0, 0), (1, 1), (0, 0)))), approximate=False)
        x = x + self.embed_positions(ops.arange(self.config.max_source_positions))[None]
        x = self.dropout(x, training=training)
        for layer in self.layers:
            x = recompute.run(layer, self.config.recompute_activations and training, x, training=training)
        return self.layer_norm(x)


class WhisperDecoderLayer(WhisperEncoderLayer):
    """An encoder layer with attention to the encoder's output in the middle."""

    def __init__(self, config, **kwargs):
        super().__init__(
            replace(config, encoder_attention_heads=config.decoder_attention_heads,
                    encoder_ffn_dim=config.decoder_ffn_dim), **kwargs)
        policy = self.dtype_policy
        self.encoder_attn = Attention(config.d_model, config.decoder_attention_heads, config.attention_dropout,
                                      key_bias=False, name="encoder_attn", dtype=policy)
        self.encoder_attn_layer_norm = _norm("encoder_attn_layer_norm", policy)

    def build(self, input_shape):
        self.encoder_attn.build(input_shape)
        self.encoder_attn_layer_norm.build(input_shape)
        super().build(input_shape)

    def call(self, x, encoder_hidden=None, self_bias=None, self_keys_values=None, cross_keys_values=None,
             beams=1, training=False):
        """x [batch * beams, target, d_model] -> the same shape.

        Args:
            encoder_hidden: [batch, source, d_model]; or give `cross_keys_values` computed from it before.
            self_bias: float32, broadcastable to [batch, heads, target, keys]: what each position may look at.
            self_keys_values: function from the normalised input to (keys, values), each [batch, heads, keys,
                head_dim]: decoding writes them into its cache here. None: the input's own.
            beams: rows of `x` for one row of the encoder. Beams attend as neighbours in time (target is 1 then), so
                the encoder's keys and values are not copied for each beam.
        """
        normed = self.self_attn_layer_norm(x)
        keys_values = None if self_keys_values is None else self_keys_values(normed)
        attended = self.self_attn(normed, keys_values=keys_values, bias=self_bias, training=training)
        x = x + self.dropout(attended, training=training)
        if cross_keys_values is None:
            cross_keys_values = self.encoder_attn.project_keys_values(encoder_hidden)
        normed = self.encoder_attn_layer_norm(x)
        if beams > 1:
            normed = ops.reshape(normed, (-1, beams, normed.shape[-1]))
        attended = self.encoder_attn(normed, keys_values=cross_keys_values, training=training)
        attended = ops.reshape(attended, (-1, 1, x.shape[-1])) if beams > 1 else attended
        return self.feed_forward(x + self.dropout(attended, training=training), training)


class WhisperDecoder(keras.layers.Layer):
    """Token and learned position embeddings, the layers, a final norm; logits by the token embedding transposed."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.embed_tokens = keras.layers.Embedding(config.vocab_size, config.d_model, name="embed_tokens",
                                                   dtype=policy, embeddings_initializer=_normal())
        self.embed_positions = PositionalEmbedding(config.max_target_positions, config.d_model, trainable=True,
                                                   name="embed_positions", dtype=policy, initializer=_normal())
        self.layers = [WhisperDecoderLayer(config, name=f"layers_{i}", dtype=policy)
                       for i in range(config.decoder_layers)]
        self.layer_norm = _norm("layer_norm", policy)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=policy)

    def build(self, input_shape):
        self.embed_tokens.build()
        self.embed_positions.build()
        for layer in (*self.layers, self.layer_norm, self.dropout):
            layer.build((None, None, self.config.d_model))
        self.built = True

    def embed(self, token_ids, positions):
        """token_ids and positions int32 [batch, target] -> [batch, target, d_model]."""
        return self.embed_tokens(token_ids) + self.embed_positions(positions)

    def call(self, token_ids, encoder_hidden, training=False):
        """Teacher forcing: token_ids int32 [batch, target] -> hidden states [batch, target, d_model]."""
        length = token_ids.shape[1] or ops.shape(token_ids)[1]
        x = self.dropout(self.embed(token_ids, ops.arange(length)[None]), training=training)
        bias = causal_bias(length)
        for layer in self.layers:
            x = recompute.run(layer, self.config.recompute_activations and training, x, encoder_hidden, bias,
                              training=training)
        return self.layer_norm(x)

    def logits(self, hidden):
        """hidden [..., d_model] -> float32 logits [..., vocab_size]."""
        table = ops.cast(self.embed_tokens.embeddings, self.compute_dtype)
        return ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")


class WhisperModel(keras.layers.Layer):
    """Encoder and decoder."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.encoder = WhisperEncoder(config, name="encoder", dtype=self.dtype_policy)
        self.decoder = WhisperDecoder(config, name="decoder", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.encoder.build(input_shape)
        self.decoder.build(input_shape)
        self.built = True

    def call(self, log_mel, decoder_input_ids, training=False):
        """Log-mel frames and decoder ids to the decoder's hidden states [batch, target, d_model]."""
        return self.decoder(decoder_input_ids, self.encoder(log_mel, training=training), training=training)


@keras.saving.register_keras_serializable("tfhf")
class WhisperForConditionalGeneration(WhisperGenerationMixin, PreTrainedModel):
    """Speech to text: a plain Keras model, trained by teacher forcing, that also generates and transcribes.

    `call` takes a dict with `decoder_input_ids` int32 [batch, target] and one of

    - `input_values`: float or int16 waveform at 16 kHz, [batch, config.max_samples] (int16 is divided by 32,768);
    - `input_features`: log-mel in Hugging Face's layout, float32 [batch, num_mel_bins, 2 * max_source_positions];

    and returns float32 logits [batch, target, vocab_size].

    Raises:
        ValueError: neither or both of the inputs, or a length that does not fill the encoder exactly.
    """

    config_class, base_model_prefix, head_prefixes = WhisperConfig, "model", ("proj_out.",)
    generation_config = None   # of a checkpoint: suppressed tokens, languages; a dict
    aliases = convert.ALIASES

    def __init__(self, config: WhisperConfig, **kwargs):
        # Without autocast: mixed_bfloat16 would round the waveform and the log-mel's input to 8 bits.
        super().__init__(config, autocast=False, **kwargs)
        self.log_mel = LogMelSpectrogram(config.num_mel_bins, name="log_mel")
        self.spec_augment = None
        if config.apply_spec_augment:
            self.spec_augment = SpecAugment(
                config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks, config.mask_feature_prob,
                config.mask_feature_length, config.mask_feature_min_masks, name="spec_augment")
        self.model = WhisperModel(config, name="model", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        self.model.build(input_shape)
        self.built = True

    def features(self, inputs, training=False):
        """The encoder's input from a dict of inputs: [batch, frames, num_mel_bins] in the compute dtype."""
        waveform, log_mel = inputs.get("input_values"), inputs.get("input_features")
        if (waveform is None) == (log_mel is None):
            raise ValueError(f"{self.name}: give exactly one of input_values and input_features; got {sorted(inputs)}.")
        if waveform is not None:
            if waveform.shape[-1] != self.config.max_samples:
                raise ValueError(f"{self.name}: input_values has {waveform.shape[-1]} samples; expected exactly "
                                 f"{self.config.max_samples} (pad or cut the waveform).")
            if keras.backend.standardize_dtype(waveform.dtype) == "int16":
                waveform = ops.cast(waveform, "float32") / 32768.0
            log_mel = self.log_mel(waveform)
        else:
            expected = (self.config.num_mel_bins, 2 * self.config.max_source_positions)
            if tuple(log_mel.shape[1:]) != expected:
                raise ValueError(f"{self.name}: input_features has shape {tuple(log_mel.shape)}; expected [batch, "
                                 f"{expected[0]}, {expected[1]}].")
            log_mel = ops.transpose(log_mel, (0, 2, 1))
        if self.spec_augment is not None:
            log_mel = self.spec_augment(log_mel, training=training)
        return ops.cast(log_mel, self.compute_dtype)

    def call(self, inputs, training=False):
        hidden = self.model(self.features(inputs, training), inputs["decoder_input_ids"], training=training)
        return self.model.decoder.logits(hidden)

    def freeze_encoder(self):
        """Leaves the encoder as it is: only the decoder is trained."""
        self.model.encoder.trainable = False

    @classmethod
    def read_folder(cls, folder):
        """See `PreTrainedModel`; a folder of CTranslate2 too."""
        return convert.from_ctranslate2(folder) if convert.is_ctranslate2(folder) else super().read_folder(folder)

    @classmethod
    def from_pretrained(cls, path, new_head=False, **changes):
        """See `PreTrainedModel.from_pretrained`; the path may be a CTranslate2 folder."""
        model = super().from_pretrained(path, new_head, **changes)
        model.set_special_tokens(convert.read_special_tokens(model.pretrained_folder))
        model.generation_config = convert.read_generation_config(model.config, model.pretrained_folder)
        return model

    def get_config(self):
        special = self._special_tokens
        return {**super().get_config(), "generation_config": json.loads(json.dumps(self.generation_config)),
                "special_tokens": None if special is None else asdict(special)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        generation, special = config.pop("generation_config", None), config.pop("special_tokens", None)
        model = super().from_config(config, custom_objects)
        model.generation_config = generation
        model.set_special_tokens(None if special is None else SpecialTokens(**special))
        return model

    def save_pretrained(self, folder):
        """Writes config.json, generation_config.json and model.safetensors, which `transformers` loads."""
        super().save_pretrained(folder)
        convert.write_generation_config(self, folder)


def _normal():
    return keras.initializers.RandomNormal(stddev=0.02)
