"""Multi-head attention with Hugging Face's projection names, for training and for step-by-step decoding."""

import keras
from keras import ops

# Large enough to silence a masked score, small enough for bfloat16 and for sums of two masks in float32.
MASKED_SCORE = -1e9


class KeyProjection(keras.layers.Dense):
    """A linear layer whose bias is kept and not trained.

    A key bias adds the same to all scores of a query, and softmax does not see it: its gradient is zero but for
    rounding, which Adam would blow up to full steps. Checkpoints have the bias, so it is there.
    """

    def __init__(self, units, **kwargs):
        super().__init__(units, use_bias=False, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", trainable=False, name="bias")


class Attention(keras.layers.Layer):
    """Scaled dot-product attention ("Attention Is All You Need", section 3.2) over `num_heads` heads.

    Weights are named `q_proj`, `k_proj`, `v_proj`, `out_proj`, as in Hugging Face's speech models.

    Args:
        dim: width of the input and of the output.
        num_heads: number of heads; must divide `dim`.
        dropout: share of attention probabilities dropped while training.
        key_bias: whether `k_proj` has a bias (Whisper's has none); see `KeyProjection`.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(self, dim, num_heads, dropout=0.0, key_bias=True, **kwargs):
        super().__init__(**kwargs)
        if dim % num_heads:
            raise ValueError(f"Attention '{self.name}': dim={dim} is not a multiple of num_heads={num_heads}.")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.q_proj = keras.layers.Dense(dim, name="q_proj", dtype=self.dtype_policy)
        self.key_bias = key_bias
        self.k_proj = (KeyProjection(dim, name="k_proj", dtype=self.dtype_policy) if key_bias else
                       keras.layers.Dense(dim, use_bias=False, name="k_proj", dtype=self.dtype_policy))
        self.v_proj = keras.layers.Dense(dim, name="v_proj", dtype=self.dtype_policy)
        self.out_proj = keras.layers.Dense(dim, name="out_proj", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            projection.build((None, None, self.dim))
        self.dropout.build((None, self.num_heads, None, None))
        self.built = True

    def split_heads(self, x):
        """[batch, time, dim] -> [batch, heads, time, head_dim]."""
        x = ops.reshape(x, (-1, x.shape[1] or ops.shape(x)[1], self.num_heads, self.head_dim))
        return ops.transpose(x, (0, 2, 1, 3))

    def project_keys_values(self, x):
        """Keys and values of `x` [batch, source, dim], each [batch, heads, source, head_dim]."""
        return self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))

    def call(self, x, keys_values=None, bias=None, training=False):
        """Attends from `x` to `keys_values`, or to itself.

        Args:
            x: [batch, target, dim].
            keys_values: pair of [batch, heads, source, head_dim] from `project_keys_values`; None means `x` itself.
            bias: float32, broadcastable to [batch, heads, target, source], added to the scores (0 or MASKED_SCORE).
            training: whether dropout acts.

        Returns:
            [batch, target, dim] in the layer's compute dtype.
        """
        queries = self.split_heads(self.q_proj(x) * self.head_dim**-0.5)
        keys, values = keys_values if keys_values is not None else self.project_keys_values(x)
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))
        # The softmax runs in float32: in bfloat16 the tail of 1,500 frames is lost to rounding.
        scores = ops.cast(scores, "float32")
        if bias is not None:
            scores = scores + ops.cast(bias, "float32")  # autocasting may have lowered it
        probabilities = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        probabilities = self.dropout(probabilities, training=training)
        context = ops.transpose(ops.matmul(probabilities, values), (0, 2, 1, 3))
        return self.out_proj(ops.reshape(context, (-1, x.shape[1] or ops.shape(x)[1], self.dim)))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "num_heads": self.num_heads, "dropout": self.dropout.rate,
                "key_bias": self.key_bias}


def causal_bias(length):
    """float32 [1, 1, length, length]: 0 where a position may look, MASKED_SCORE at later positions."""
    positions = ops.arange(length)
    return ops.where(positions[None, :] <= positions[:, None], 0.0, MASKED_SCORE)[None, None]
