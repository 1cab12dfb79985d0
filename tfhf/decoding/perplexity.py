"""Perplexity of a long text under a model of fixed context, by a window that slides over it."""

import numpy as np
from keras import ops

from tfhf.decoding.compile import compiled_once


def token_losses(model, ids, window=None, stride=None, batch_size=8, jit_compile=True):
    """-log p of each token of a text, given what stands before it in its window.

    The window moves on by `stride` tokens, and only those that no window has had before count: each then has at least
    window - stride tokens before it, but for the beginning. A short stride costs more and takes less of the context.

    Args:
        model: a language model, called with input_ids and labels, such as `GPT2LMHeadModel`.
        ids: int [tokens], at least two.
        window: tokens in a window; None: config.n_positions.
        stride: tokens that it moves on; None: half of a window.
        batch_size: windows at a time.
        jit_compile: whether XLA compiles the model.

    Returns:
        float32 [tokens - 1]: of all tokens but the first.

    Raises:
        ValueError: a text of fewer than two tokens, a stride that leaves tokens out, or a window the model cannot take.
    """
    ids, most = np.asarray(ids, "int32"), model.config.n_positions
    window = most if window is None else window
    stride = window // 2 if stride is None else stride
    if ids.ndim != 1 or ids.size < 2:
        raise ValueError(f"ids: got shape {ids.shape}; expected [tokens], at least two.")
    if not 2 <= window <= most or not 1 <= stride < window:
        raise ValueError(f"window={window}, stride={stride}; expected a window of 2 to {most} tokens and a stride of "
                         "at least 1, below the window.")
    begins = range(0, max(ids.size - window, 0) + stride, stride)
    rows = np.zeros((-(-len(begins) // batch_size) * batch_size, window), "int32")
    labels, places = np.full_like(rows, -100), []
    counted = 1
    for row, begin in enumerate(begins):
        end = min(begin + window, ids.size)
        rows[row, :end - begin] = ids[begin:end]
        labels[row, counted - begin:end - begin] = ids[counted:end]
        places.append((row, counted - begin, end - begin))
        counted = end
    run = compiled_once(model, "token losses", lambda rows, labels: model({"input_ids": rows, "labels": labels}),
                        jit_compile)
    losses = np.concatenate([ops.convert_to_numpy(run(ops.convert_to_tensor(rows[i:i + batch_size]),
                                                      ops.convert_to_tensor(labels[i:i + batch_size])))
                             for i in range(0, len(rows), batch_size)])
    return np.concatenate([losses[row, first:last] for row, first, last in places])


def perplexity(model, ids, window=None, stride=None, batch_size=8, jit_compile=True) -> float:
    """exp of the mean of `token_losses`, which has the arguments and errors."""
    return float(np.exp(token_losses(model, ids, window, stride, batch_size, jit_compile).astype("float64").mean()))
