"""BERT (Devlin et al. 2018): summed embeddings, post-norm encoder layers that see both sides, a pooler, a classifier.

Attribute names are Hugging Face's, so that a variable's path is its name in a safetensors file. Read from leaf to
whole: the embeddings, self-attention, one layer, the encoder, the models.
"""

import keras
from keras import ops

from tfhf.layers import recompute
from tfhf.layers.attention import MASKED_SCORE, KeyProjection, attend
from tfhf.models.bert.config import BertConfig
from tfhf.models.pretrained import PreTrainedModel


def _normal(config):
    return keras.initializers.RandomNormal(stddev=config.initializer_range)


def _dense(width, config, name, policy, kind=keras.layers.Dense):
    return kind(width, name=name, dtype=policy, kernel_initializer=_normal(config))


def _norm(config, policy):
    return keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name="LayerNorm", dtype=policy)


def _length(x):
    """Of [batch, length, ...]: a number, or a tensor in a graph that takes several lengths."""
    return x.shape[1] or ops.shape(x)[1]


class BertEmbeddings(keras.layers.Layer):
    """The sum of a token's, its position's and its part's embedding, normed."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.tables = []
        for name, rows in (("word_embeddings", config.vocab_size), ("token_type_embeddings", config.type_vocab_size),
                           ("position_embeddings", config.max_position_embeddings)):
            self.tables.append(keras.layers.Embedding(rows, config.hidden_size, name=name, dtype=policy,
                                                      embeddings_initializer=_normal(config)))
        self.word_embeddings, self.token_type_embeddings, self.position_embeddings = self.tables
        self.LayerNorm = _norm(config, policy)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=policy)

    def build(self, input_shape=None):
        for table in self.tables:
            table.build()
        self.LayerNorm.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, input_ids, token_type_ids=None, training=False):
        """int32 [batch, length], twice -> [batch, length, hidden_size]; without token_type_ids all are of part 0."""
        if (input_ids.shape[1] or 0) > self.config.max_position_embeddings:
            raise ValueError(f"{self.name}: {input_ids.shape[1]} tokens; the model has max_position_embeddings="
                             f"{self.config.max_position_embeddings}.")
        parts = ops.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(parts)
        x = x + self.position_embeddings(ops.arange(_length(input_ids))[None])
        return self.dropout(self.LayerNorm(x), training=training)


class BertSelfAttention(keras.layers.Layer):
    """Attention of every token to every other, without the linear layer behind it."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = _dense(config.hidden_size, config, "query", policy)
        self.key = _dense(config.hidden_size, config, "key", policy, KeyProjection)
        self.value = _dense(config.hidden_size, config, "value", policy)
        self.seed_generator = keras.random.SeedGenerator(7)

    def build(self, input_shape=None):
        for projection in (self.query, self.key, self.value):
            projection.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, x, bias, training=False):
        """x [batch, length, hidden_size], bias float32 [batch, 1, 1, length] on the scores -> the shape of x."""
        width, dropout = self.config.hidden_size, self.config.attention_probs_dropout_prob

        def heads(projected):
            split = ops.reshape(projected, (-1, _length(projected), width // self.head_dim, self.head_dim))
            return ops.transpose(split, (0, 2, 1, 3))

        queries, keys = heads(self.query(x) * self.head_dim**-0.5), heads(self.key(x))
        kept = None
        if training and dropout:
            shape = (*ops.shape(queries)[:3], ops.shape(keys)[2])
            kept = keras.random.uniform(shape, seed=self.seed_generator) >= dropout
        context = attend(queries, keys, heads(self.value(x)), bias, kept, dropout)
        return ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (-1, _length(x), width))


class BertOutput(keras.layers.Layer):
    """A linear layer, the residual, a norm: what ends both halves of a layer."""

    def __init__(self, config, width, **kwargs):
        super().__init__(**kwargs)
        self.config, self.width, policy = config, width, self.dtype_policy
        self.dense = _dense(config.hidden_size, config, "dense", policy)
        self.LayerNorm = _norm(config, policy)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=policy)

    def build(self, input_shape=None):
        self.dense.build((None, None, self.width))
        self.LayerNorm.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, x, residual, training=False):
        """x [batch, length, width], residual [batch, length, hidden_size] -> the shape of the residual."""
        return self.LayerNorm(self.dropout(self.dense(x), training=training) + residual)


class BertAttention(keras.layers.Layer):
    """The first half of a layer."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.self = BertSelfAttention(config, name="self", dtype=self.dtype_policy)
        self.output_layer = BertOutput(config, config.hidden_size, name="output", dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.self.build()
        self.output_layer.build()
        self.built = True

    def call(self, x, bias, training=False):
        """As `BertSelfAttention.call`."""
        return self.output_layer(self.self(x, bias, training=training), x, training=training)


class BertIntermediate(keras.layers.Layer):
    """The wide linear layer and the activation."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.dense = _dense(config.intermediate_size, config, "dense", self.dtype_policy)

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, x):
        """[batch, length, hidden_size] -> [batch, length, intermediate_size]."""
        x, kind = self.dense(x), self.config.hidden_act
        return ops.relu(x) if kind == "relu" else ops.gelu(x, approximate=kind == "gelu_new")


class BertLayer(keras.layers.Layer):
    """Self-attention and feed-forward, each with its norm behind it."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.attention = BertAttention(config, name="attention", dtype=policy)
        self.intermediate = BertIntermediate(config, name="intermediate", dtype=policy)
        self.output_layer = BertOutput(config, config.intermediate_size, name="output", dtype=policy)

    def build(self, input_shape=None):
        for layer in (self.attention, self.intermediate, self.output_layer):
            layer.build()
        self.built = True

    def call(self, x, bias, training=False):
        """As `BertSelfAttention.call`."""
        x = self.attention(x, bias, training=training)
        return self.output_layer(self.intermediate(x), x, training=training)


class BertEncoder(keras.layers.Layer):
    """The layers."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.layer = [BertLayer(config, name=f"layer_{i}", dtype=self.dtype_policy)
                      for i in range(config.num_hidden_layers)]

    def build(self, input_shape=None):
        for layer in self.layer:
            layer.build()
        self.built = True

    def call(self, x, bias, training=False):
        """As `BertSelfAttention.call`."""
        for layer in self.layer:
            x = recompute.run(layer, self.config.recompute_activations and training, x, bias, training=training)
        return x


class BertPooler(keras.layers.Layer):
    """The first token's state through a linear layer and tanh."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.dense = _dense(config.hidden_size, config, "dense", self.dtype_policy)

    def build(self, input_shape=None):
        self.dense.build((None, self.config.hidden_size))
        self.built = True

    def call(self, hidden):
        """[batch, length, hidden_size] -> [batch, hidden_size]."""
        return ops.tanh(self.dense(hidden[:, 0]))


class BertBody(keras.layers.Layer):
    """All but the heads."""

    def __init__(self, config, pooler=True, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.embeddings = BertEmbeddings(config, name="embeddings", dtype=policy)
        self.encoder = BertEncoder(config, name="encoder", dtype=policy)
        self.pooler = BertPooler(config, name="pooler", dtype=policy) if pooler else None

    def build(self, input_shape=None):
        for layer in filter(None, (self.embeddings, self.encoder, self.pooler)):
            layer.build()
        self.built = True

    def call(self, inputs, training=False):
        """A dict of inputs as `BertPreTrainedModel` takes them -> hidden states [batch, length, hidden_size]."""
        x = self.embeddings(inputs["input_ids"], inputs.get("token_type_ids"), training=training)
        mask = inputs.get("attention_mask")
        mask = ops.ones_like(inputs["input_ids"]) if mask is None else mask
        return self.encoder(x, ops.where(mask > 0, 0.0, MASKED_SCORE)[:, None, None, :], training=training)


def mean_pooled(hidden, attention_mask, normalize=False):
    """A text's embedding: the mean of its tokens' states (Reimers and Gurevych 2019, section 3).

    Args:
        hidden: [batch, length, width].
        attention_mask: int32 [batch, length], 1 for tokens; None: all are.
        normalize: to length 1, as the published MiniLM does, so that a dot product is the cosine.

    Returns:
        float32 [batch, width].
    """
    hidden = ops.cast(hidden, "float32")
    own = ops.ones_like(hidden[:, :, :1]) if attention_mask is None else ops.cast(attention_mask, "float32")[:, :, None]
    mean = ops.sum(hidden * own, axis=1) / ops.maximum(ops.sum(own, axis=1), 1.0)
    return mean / ops.maximum(ops.norm(mean, axis=-1, keepdims=True), 1e-12) if normalize else mean


class BertPreTrainedModel(PreTrainedModel):
    """What the models share: `bert`, building, saving, loading.

    Inputs, a dict, each int32 [batch, length] with a length of at most max_position_embeddings:

    - `input_ids`;
    - `attention_mask`, optional: 1 for tokens, 0 for padding, which is behind them;
    - `token_type_ids`, optional: 0 for the first text of a pair, 1 for the second.

    Args:
        config: a `BertConfig`.
    """

    config_class, base_model_prefix, head_prefixes = BertConfig, "bert", ("cls.", "classifier.")
    has_pooler = True

    def may_lack(self, new_head):
        """See `PreTrainedModel`: the pooler of a model without a head, or in front of one that begins anew."""
        return ("bert.pooler.",) if new_head or self.is_base else ()

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.heads = []
        self.bert = BertBody(config, self.has_pooler, name="bert", dtype=self.dtype_policy)
        self.make_head(config, self.dtype_policy)
        self.build()

    def make_head(self, config, policy):
        """Creates the head; what is in `self.heads`, pairs of a layer and its inputs' width, is built in `build`, where
        its variables get the model's name."""

    def build(self, input_shape=None):
        self.bert.build()
        for layer, width in self.heads:
            layer.build((None, width))
        self.built = True

    def own_tensors(self, tensors, new_head):
        """See `PreTrainedModel`; Google's names of a norm's parts, and without the table 0, 1, 2 … of old files."""
        renamed = {name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): value
                   for name, value in tensors.items() if not name.endswith("embeddings.position_ids")}
        tensors = super().own_tensors(renamed, new_head)
        # A model without the pooler says so in its config; its weights would do nothing.
        return tensors if self.has_pooler else {name: value for name, value in tensors.items()
                                                if not name.startswith("bert.pooler.")}


@keras.saving.register_keras_serializable("tfhf")
class BertModel(BertPreTrainedModel):
    """The states without a head, a dict: `last_hidden_state` [batch, length, hidden_size] and `pooler_output`
    [batch, hidden_size]. Inputs: see `BertPreTrainedModel`. Sentence embeddings: `mean_pooled`."""

    is_base = True

    def call(self, inputs, training=False):
        hidden = self.bert(inputs, training=training)
        return {"last_hidden_state": hidden, "pooler_output": self.bert.pooler(hidden)}


@keras.saving.register_keras_serializable("tfhf")
class BertForSequenceClassification(BertPreTrainedModel):
    """One label for a text: float32 logits [batch, num_labels], from what config.classifier_pooling says. Inputs: see
    `BertPreTrainedModel`."""

    @property
    def has_pooler(self):
        """Whether the body ends with the pooler."""
        return self.config.classifier_pooling == "cls"

    def make_head(self, config, policy):
        """Dropout and one linear layer."""
        share = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = keras.layers.Dropout(share, dtype=policy)
        self.classifier = _dense(config.num_labels, config, "classifier", policy)
        self.heads = [(self.classifier, config.hidden_size)]

    def call(self, inputs, training=False):
        hidden = self.bert(inputs, training=training)
        if self.has_pooler:
            pooled = self.bert.pooler(hidden)
        else:
            pooled = ops.cast(mean_pooled(hidden, inputs.get("attention_mask")), self.compute_dtype)
        return ops.cast(self.classifier(self.dropout(pooled, training=training)), "float32")
