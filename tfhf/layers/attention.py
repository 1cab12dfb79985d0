"""Multi-head attention with Hugging Face's projection names, for training and for step-by-step decoding."""

import keras
from keras import ops

from tfhf.layers import recompute

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
        if training and recompute.xla_compiles():
            kept = None
            if self.dropout.rate > 0:
                shape = (*ops.shape(queries)[:3], ops.shape(keys)[2])
                kept = keras.random.uniform(shape, seed=self.dropout.seed_generator) >= self.dropout.rate
            context = attend(queries, keys, values, bias, kept, self.dropout.rate)
        else:
            probabilities = ops.cast(ops.softmax(_scores(queries, keys, bias), axis=-1), self.compute_dtype)
            context = ops.matmul(self.dropout(probabilities, training=training), values)
        context = ops.transpose(context, (0, 2, 1, 3))
        return self.out_proj(ops.reshape(context, (-1, x.shape[1] or ops.shape(x)[1], self.dim)))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "num_heads": self.num_heads, "dropout": self.dropout.rate,
                "key_bias": self.key_bias}


def attend(queries, keys, values, bias=None, kept=None, dropout=0.0):
    """softmax(queries keysᵀ + bias) values, whose gradient keeps no scores: for training.

    Scores are by far the largest thing in a step: 846 MiB a layer for 16 clips of Whisper-small. What is kept is, as in
    FlashAttention (Dao et al. 2022, section 3.1), the logarithm of each row's sum; the backward pass computes the
    scores again, once, and the sum over a row that softmax's gradient needs follows from the result (appendix B.2).

    Args:
        queries: [batch, heads, target, head_dim], scaled.
        keys, values: [batch, heads, source, head_dim].
        bias: as `Attention.call` takes it; a mask, which has no gradient.
        kept: bool [batch, heads, target, source], which probabilities dropout leaves; None: all.
        dropout: the share of them that it takes.

    Returns:
        [batch, heads, target, head_dim] in the dtype of `values`.
    """
    behind = recompute.barrier()

    def dropped(x):
        return x if kept is None else ops.where(kept, x / (1.0 - dropout), 0.0)

    @ops.custom_gradient
    def attended(queries, keys, values):
        scores = _scores(queries, keys, bias)
        largest = ops.max(scores, axis=-1, keepdims=True)
        weights = ops.exp(scores - largest)
        # In float32, which a TPU multiplies as bfloat16 and adds up as float32.
        wide = ops.cast(values, "float32")
        if kept is None:
            # The sum of each row is a column more of the product, not another pass over the scores.
            wide = ops.matmul(weights, ops.concatenate([wide, ops.ones_like(wide[..., :1])], axis=-1))
            context, total = wide[..., :-1], wide[..., -1:]
        else:
            context, total = ops.matmul(dropped(weights), wide), ops.sum(weights, axis=-1, keepdims=True)
        context = context / total
        log_total = largest + ops.log(total)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            q, k, upstream = behind(queries, keys, upstream)
            with keras.name_scope(recompute.AGAIN):
                scores = _scores(q, k, bias)
            probabilities = ops.exp(scores - log_total)
            to_values = ops.matmul(_turned(ops.cast(dropped(probabilities), upstream.dtype)), upstream)
            # Where one score is all, these two are nearly the same; rounded to bfloat16 their difference is noise.
            upstream = ops.cast(upstream, "float32")
            to_probabilities = dropped(ops.matmul(upstream, _turned(ops.cast(values, "float32"))))
            mean = ops.sum(upstream * context, axis=-1, keepdims=True)
            to_scores = ops.cast(probabilities * (to_probabilities - mean), q.dtype)
            return ops.matmul(to_scores, k), ops.matmul(_turned(to_scores), q), to_values

        return ops.cast(context, values.dtype), gradient

    return attended(queries, keys, values)


def _scores(queries, keys, bias):
    """float32 [batch, heads, target, source]: in bfloat16 the softmax loses the tail of 1,500 frames to rounding."""
    scores = ops.cast(ops.matmul(queries, _turned(keys)), "float32")
    return scores if bias is None else scores + ops.cast(bias, "float32")   # autocasting may have lowered it


def _turned(x):
    return ops.transpose(x, (0, 1, 3, 2))


def causal_bias(length):
    """float32 [1, 1, length, length]: 0 where a position may look, MASKED_SCORE at later positions."""
    positions = ops.arange(length)
    return ops.where(positions[None, :] <= positions[:, None], 0.0, MASKED_SCORE)[None, None]
