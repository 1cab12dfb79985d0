"""GPT-2 (Radford et al. 2019): token and learned position embeddings, pre-norm decoder layers, logits by the table.

Attribute names are Hugging Face's, so that a variable's path is its name in a safetensors file. Read from leaf to
whole: attention, the feed-forward part, one layer, all layers, the models with their heads.
"""

import re

import keras
from keras import ops

from tfhf.layers import recompute
from tfhf.layers.causal_attention import causal_attention
from tfhf.losses.vocabulary import IGNORED, begins_in, vocabulary_cross_entropy
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.generation import GPT2GenerationMixin
from tfhf.models.pretrained import PreTrainedModel


def _dense(width, config, name, policy, stddev=None, **kwargs):
    return keras.layers.Dense(
        width, name=name, dtype=policy,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev or config.initializer_range), **kwargs)


def _norm(config, name, policy):
    return keras.layers.LayerNormalization(epsilon=config.layer_norm_epsilon, name=name, dtype=policy)


def _residual_stddev(config):
    """Of the layers whose output is added to the residual stream, two a layer (paper, section 2.3)."""
    return config.initializer_range / (2 * config.n_layer) ** 0.5


class GPT2Attention(keras.layers.Layer):
    """Causal self-attention; `c_attn` makes queries, keys and values at once."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.head_dim = config.n_embd // config.n_head
        self.c_attn = _dense(3 * config.n_embd, config, "c_attn", policy)
        self.c_proj = _dense(config.n_embd, config, "c_proj", policy, _residual_stddev(config))
        self.resid_dropout = keras.layers.Dropout(config.resid_pdrop, dtype=policy)
        self.seed_generator = keras.random.SeedGenerator(5)

    def build(self, input_shape=None):
        for layer in (self.c_attn, self.c_proj, self.resid_dropout):
            layer.build((None, None, self.config.n_embd))
        self.built = True

    def project(self, x):
        """x [batch, length, n_embd] -> queries, keys, values, each [batch, heads, length, head_dim]."""
        config, length = self.config, x.shape[1] or ops.shape(x)[1]
        stacked = ops.reshape(self.c_attn(x), (-1, length, 3, config.n_head, self.head_dim))
        queries, keys, values = ops.unstack(ops.transpose(stacked, (2, 0, 3, 1, 4)), 3)
        return queries, keys, values

    def call(self, x, segments=None, past_keys=None, past_values=None, bias=None, keys_values=None, training=False):
        """x [batch, length, n_embd] -> the same shape. See `GPT2Block.call` for the arguments."""
        queries, keys, values = self.project(x)
        if keys_values is not None:
            keys, values = keys_values(keys, values)
        if past_keys is not None:
            keys = ops.concatenate([ops.cast(past_keys, keys.dtype), keys], axis=2)
            values = ops.concatenate([ops.cast(past_values, values.dtype), values], axis=2)
        context = causal_attention(queries, keys, values, segments, bias=bias, training=training,
                                   dropout=self.config.attn_pdrop, seed_generator=self.seed_generator)
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (-1, x.shape[1] or ops.shape(x)[1],
                                                                     self.config.n_embd))
        return self.resid_dropout(self.c_proj(context), training=training)


class GPT2MLP(keras.layers.Layer):
    """Two linear layers with the activation between them."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.c_fc = _dense(config.inner, config, "c_fc", policy)
        self.c_proj = _dense(config.n_embd, config, "c_proj", policy, _residual_stddev(config))
        self.dropout = keras.layers.Dropout(config.resid_pdrop, dtype=policy)

    def build(self, input_shape=None):
        self.c_fc.build((None, None, self.config.n_embd))
        self.c_proj.build((None, None, self.config.inner))
        self.dropout.build((None, None, self.config.n_embd))
        self.built = True

    def call(self, x, training=False):
        """[batch, length, n_embd] -> the same shape."""
        x, kind = self.c_fc(x), self.config.activation_function
        x = ops.gelu(x, approximate=kind == "gelu_new") if kind.startswith("gelu") else getattr(ops, kind)(x)
        return self.dropout(self.c_proj(x), training=training)


class GPT2Block(keras.layers.Layer):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.ln_1, self.ln_2 = _norm(config, "ln_1", policy), _norm(config, "ln_2", policy)
        self.attn = GPT2Attention(config, name="attn", dtype=policy)
        self.mlp = GPT2MLP(config, name="mlp", dtype=policy)

    def build(self, input_shape=None):
        for layer in (self.ln_1, self.attn, self.ln_2, self.mlp):
            layer.build((None, None, self.config.n_embd))
        self.built = True

    def call(self, x, segments=None, past_keys=None, past_values=None, bias=None, keys_values=None, training=False):
        """x [batch, length, n_embd] -> the same shape.

        Args:
            segments: int32 [batch, length]; a position sees those of its own number that are not later. None: one.
            past_keys, past_values: [batch, heads, prefix, head_dim], which every position sees as well.
            bias: float32 [batch, 1, length, keys] in the place of `segments`: what each position may look at.
            keys_values: function from this input's (keys, values) to those attended to: decoding writes its cache here.
        """
        x = x + self.attn(self.ln_1(x), segments=segments, past_keys=past_keys, past_values=past_values, bias=bias,
                          keys_values=keys_values, training=training)
        return x + self.mlp(self.ln_2(x), training=training)


class GPT2Layer(keras.layers.Layer):
    """Embeddings, all layers and the final norm: all but the heads."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        normal = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.wte = keras.layers.Embedding(config.vocab_size, config.n_embd, name="wte", dtype=policy,
                                          embeddings_initializer=normal)
        self.wpe = keras.layers.Embedding(config.n_positions, config.n_embd, name="wpe", dtype=policy,
                                          embeddings_initializer=normal.clone())
        self.drop = keras.layers.Dropout(config.embd_pdrop, dtype=policy)
        self.h = [GPT2Block(config, name=f"h_{i}", dtype=policy) for i in range(config.n_layer)]
        self.ln_f = _norm(config, "ln_f", policy)

    def build(self, input_shape=None):
        for layer in (self.wte, self.wpe):
            layer.build()
        for layer in (self.drop, *self.h, self.ln_f):
            layer.build((None, None, self.config.n_embd))
        self.built = True

    def call(self, inputs, training=False):
        """A dict of inputs as `GPT2PreTrainedModel` takes them -> [batch, length, n_embd] after the final norm."""
        config, past = self.config, inputs.get("past_key_values")
        embeds = inputs.get("inputs_embeds")
        if (embeds is None) == (inputs.get("input_ids") is None):
            raise ValueError(f"{self.name}: give exactly one of input_ids and inputs_embeds; got {sorted(inputs)}.")
        embeds = self.wte(inputs["input_ids"]) if embeds is None else ops.cast(embeds, self.compute_dtype)
        length, before = embeds.shape[1], 0 if past is None else past[0][0].shape[2]
        if before + length > config.n_positions:
            raise ValueError(f"{self.name}: {before + length} positions; the model has n_positions="
                             f"{config.n_positions}.")
        segments = inputs.get("segment_ids")
        segments = inputs.get("attention_mask") if segments is None else segments
        positions = inputs.get("position_ids")
        if positions is None:
            positions = before + (ops.arange(length)[None] if segments is None else positions_in(segments))
        x = self.drop(embeds + self.wpe(positions), training=training)
        if past is not None and segments is None:
            segments = ops.zeros(ops.shape(x)[:2], "int32")
        seen = () if segments is None else (segments,)
        for number, layer in enumerate(self.h):
            x = recompute.run(layer, config.recompute_activations and training, x, *seen,
                              *(() if past is None else past[number]), training=training)
        return self.ln_f(x)

    def logits(self, hidden):
        """hidden [..., n_embd] -> float32 logits [..., vocab_size], by the token table (paper: tied weights)."""
        table = ops.cast(self.wte.embeddings, self.compute_dtype)
        return ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")


def positions_in(segments):
    """segments int32 [batch, length] -> positions int32 of the same shape, from 0 in each segment: how many earlier
    places have the same number. Of an attention mask: the number of own tokens before, on whichever side the padding
    is."""
    places = ops.arange(segments.shape[1])
    same = ops.logical_and(segments[:, :, None] == segments[:, None, :], places[None, :, None] > places[None, None, :])
    return ops.sum(ops.cast(same, "int32"), axis=-1)


class GPT2PreTrainedModel(PreTrainedModel):
    """What the models share: `transformer`, building, saving, loading.

    Inputs, a dict:

    - `input_ids` int32 [batch, length], or `inputs_embeds` [batch, length, n_embd] in their place;
    - `attention_mask` int32 [batch, length], optional: 1 for tokens, 0 for padding, on either side. What a text gives
      does not depend on its padding: positions count tokens only;
    - `segment_ids` int32 [batch, length], optional: documents packed into a row, 1, 2, 3 …, and 0 for padding.
      Attention stays inside a document and positions begin anew in each;
    - `position_ids` int32 [batch, length], optional, in the place of those;
    - `past_key_values`, optional: for each layer a pair [batch, n_head, prefix, head_dim] that every position sees
      (prefix tuning, Li and Liang 2021); positions begin after it.

    The length is static, at most n_positions.

    Args:
        config: a `GPT2Config`.
    """

    config_class, base_model_prefix, head_prefixes = GPT2Config, "transformer", ("lm_head.", "score.")

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.transformer = GPT2Layer(config, name="transformer", dtype=self.dtype_policy)
        self.make_head(config, self.dtype_policy)
        self.build()

    def make_head(self, config, policy):
        """Creates the layers of the head; `heads` is what `build` builds, as (layer, width of its input)."""
        self.heads = []

    def build(self, input_shape=None):
        self.transformer.build()
        for layer, width in self.heads:
            layer.build((None, None, width))
        self.built = True

    def own_tensors(self, tensors, new_head):
        """See `PreTrainedModel`; linear layers the other way round, and old files' masks left out."""
        tensors = {name: value for name, value in tensors.items() if not re.search(r"\.attn\.(masked_)?bias$", name)}
        return _turned(super().own_tensors(tensors, new_head))

    def reference_tensors(self):
        """See `PreTrainedModel`."""
        return _turned(super().reference_tensors())


def _turned(tensors):
    """GPT-2's files keep the inputs of a linear layer before its outputs, the others' the outputs."""
    return {name: value.T.copy() if re.search(r"\.c_(attn|proj|fc)\.weight$", name) else value
            for name, value in tensors.items()}


@keras.saving.register_keras_serializable("tfhf")
class GPT2Model(GPT2PreTrainedModel):
    """The hidden states, [batch, length, n_embd], without a head. Inputs: see `GPT2PreTrainedModel`."""

    is_base = True

    def call(self, inputs, training=False):
        return self.transformer(inputs, training=training)


@keras.saving.register_keras_serializable("tfhf")
class GPT2LMHeadModel(GPT2GenerationMixin, GPT2PreTrainedModel):
    """Next tokens: float32 logits [batch, length, vocab_size], by the token table. Inputs: see `GPT2PreTrainedModel`.

    With `labels` int32 [batch, length] among the inputs, which are the token ids themselves as in Hugging Face, or -100
    where none is to be predicted, the cross-entropy of each token instead: float32 [batch, length], 0 where the label
    is -100, in the first place and where a segment begins. Logits never lie in memory whole then
    (`tfhf.losses.vocabulary`, which also has the labels of packed rows and the loss that takes the mean).
    """

    aliases = {"lm_head.weight": "transformer.wte.weight"}

    def call(self, inputs, training=False):
        inputs = dict(inputs)
        labels, segments = inputs.pop("labels", None), inputs.get("segment_ids")
        hidden = self.transformer(inputs, training=training)
        if labels is None:
            return self.transformer.logits(hidden)
        labels = labels if segments is None else ops.where(begins_in(segments), IGNORED, labels)
        targets = ops.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
        losses = vocabulary_cross_entropy(hidden, self.transformer.wte.embeddings, targets)
        return ops.pad(losses[:, :-1], ((0, 0), (1, 0)))


@keras.saving.register_keras_serializable("tfhf")
class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """One label for a text: float32 logits [batch, num_labels], from the state of its last token.

    The last token is that of `attention_mask`, or else the last one that is not config.pad_token_id. Inputs: see
    `GPT2PreTrainedModel`.
    """

    def make_head(self, config, policy):
        """One linear layer without a bias."""
        self.score = _dense(config.num_labels, config, "score", policy, use_bias=False)
        self.heads = [(self.score, config.n_embd)]

    def call(self, inputs, training=False):
        hidden = self.transformer(inputs, training=training)
        own, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        if own is None and ids is not None and self.config.pad_token_id is not None:
            own = ids != self.config.pad_token_id
        if own is None:
            last = hidden[:, -1]
        else:
            place = ops.max(ops.arange(hidden.shape[1])[None] * ops.cast(own, "int32"), axis=1)
            last = ops.squeeze(ops.take_along_axis(hidden, place[:, None, None], axis=1), 1)
        return ops.cast(self.score(last), "float32")
