"""What makes the virtual tokens: tables, and the networks that only training needs.

Attribute names are those of the `peft` library's modules, so that a variable's path is its name in their state dict.
"""

import keras
from keras import ops

from tfhf.peft.config import PrefixTuningConfig, PromptEncoderConfig


def make_prompt_encoder(config, width, columns, policy, table=False):
    """The built layer that gives the virtual tokens of `config`: int32 [n] -> [n, columns].

    Args:
        config: a `PromptLearningConfig`.
        width: of the model.
        columns: what one virtual token is: `width` numbers, or for a prefix the keys and values of all layers.
        policy: dtype policy.
        table: whether the result itself is to be kept, as a saved adapter has it, and no network that makes it.
    """
    own = dict(name="prompt_encoder", dtype=policy)
    hidden = getattr(config, "encoder_hidden_size", None) or width
    if not table and isinstance(config, PromptEncoderConfig):
        encoder = PromptEncoder(config, width, hidden, **own)
    elif not table and isinstance(config, PrefixTuningConfig) and config.prefix_projection:
        encoder = PrefixEncoder(config.num_virtual_tokens, width, hidden, columns, **own)
    else:
        encoder = PromptEmbedding(config.num_virtual_tokens, columns, **own)
    encoder.build()
    return encoder


class PromptEmbedding(keras.layers.Layer):
    """One learned vector of `width` numbers for each of `count` virtual tokens."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(count, width, name="embedding", dtype=self.dtype_policy,
                                                embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))
        self.linear = []

    def add_linear(self, prefix, *widths):
        """Linear layers from each width to the next, with torch's initial values; a function without weights is between
        two of them there, so they are called prefix_0, prefix_2 …"""
        for before, after in zip(widths, widths[1:]):
            self.linear.append(keras.layers.Dense(
                after, name=f"{prefix}_{2 * len(self.linear)}", dtype=self.dtype_policy,
                kernel_initializer=_uniform(before), bias_initializer=_uniform(before)))
        self.widths = widths

    def build(self, input_shape=None):
        self.embedding.build()
        for layer, width in zip(self.linear, self.widths if self.linear else ()):
            layer.build((None, width))
        self.built = True

    def call(self, indices, training=False):
        """int32 [n] -> [n, width]."""
        return self.embedding(indices)


class PrefixEncoder(PromptEmbedding):
    """The prefix of all layers, `columns` numbers, from a table of the model's width by two linear layers (Li and Liang
    2021, section 4.3)."""

    def __init__(self, count, width, hidden, columns, **kwargs):
        super().__init__(count, width, **kwargs)
        self.add_linear("transform", width, hidden, columns)

    def call(self, indices, training=False):
        """int32 [n] -> [n, columns]."""
        first, second = self.linear
        return second(ops.tanh(first(self.embedding(indices))))


class PromptEncoder(PromptEmbedding):
    """P-tuning's network over a table of the model's width (Liu et al. 2021, section 3.2)."""

    def __init__(self, config, width, hidden, **kwargs):
        super().__init__(config.num_virtual_tokens, width, **kwargs)
        self.lstm_head = None
        if config.encoder_reparameterization_type == "LSTM":
            self.lstm_head = BidirectionalLSTM(width, hidden, config.encoder_num_layers, config.encoder_dropout,
                                               name="lstm_head", dtype=self.dtype_policy)
            self.add_linear("mlp_head", 2 * hidden, 2 * hidden, width)
        else:
            self.add_linear("mlp_head", width, hidden, hidden, width)

    def build(self, input_shape=None):
        if self.lstm_head is not None:
            self.lstm_head.build()
        super().build()

    def call(self, indices, training=False):
        """int32 [n] -> [n, width]."""
        x = self.embedding(indices)
        if self.lstm_head is not None:
            x = self.lstm_head(x, training=training)
        for layer in self.linear[:-1]:
            x = ops.relu(layer(x))
        return self.linear[-1](x)


class BidirectionalLSTM(keras.layers.Layer):
    """torch's LSTM over one sequence, with its two biases: Keras' has one, and another order of gates.

    Args:
        width: of the input.
        hidden: of the state of each direction.
        layers: how many, each over the states of the one before.
        dropout: share of the states dropped between layers while training.
    """

    def __init__(self, width, hidden, layers, dropout, **kwargs):
        super().__init__(**kwargs)
        self.width, self.hidden, self.layers = width, hidden, layers
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.passes = []
        for layer in range(self.layers):
            width = 2 * self.hidden if layer else self.width
            for direction in ("", "_reverse"):
                shapes = dict(weight_ih=(4 * self.hidden, width), weight_hh=(4 * self.hidden, self.hidden),
                              bias_ih=(4 * self.hidden,), bias_hh=(4 * self.hidden,))
                self.passes.append([self.add_weight(shape=shape, initializer=_uniform(self.hidden),
                                                    name=f"{name}_l{layer}{direction}")
                                    for name, shape in shapes.items()])
        self.dropout.build((None, 2 * self.hidden))
        self.built = True

    def call(self, x, training=False):
        """[n, width] -> [n, 2 * hidden], the states of the way forward before those of the way back."""
        for layer in range(self.layers):
            x = self.dropout(x, training=training) if layer else x
            x = ops.concatenate([self._states(x, *self.passes[2 * layer + turn], turn) for turn in (0, 1)], axis=-1)
        return x

    def _states(self, x, weight_ih, weight_hh, bias_ih, bias_hh, backwards):
        """A few dozen steps, written out: a loop of the compiler's would cost more than they do."""
        gates = ops.matmul(x, ops.transpose(weight_ih)) + bias_ih + bias_hh
        weight_hh, states = ops.transpose(weight_hh), []
        state = cell = ops.zeros((1, self.hidden), gates.dtype)
        for row in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
            enter, forget, new, leave = ops.split(gates[row:row + 1] + ops.matmul(state, weight_hh), 4, axis=-1)
            cell = ops.sigmoid(forget) * cell + ops.sigmoid(enter) * ops.tanh(new)
            state = ops.sigmoid(leave) * ops.tanh(cell)
            states.append(state)
        return ops.concatenate(states[::-1] if backwards else states, axis=0)


def _uniform(fan_in):
    return keras.initializers.RandomUniform(-fan_in ** -0.5, fan_in ** -0.5)
