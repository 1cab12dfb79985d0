"""The second half of a transformer's feed-forward."""

from keras import ops

from tfhf.layers import recompute


def gelu_dense(hidden, dropout, dense, training=False):
    """dense(dropout(gelu(hidden))), with the exact GELU, by the error function.

    Compiled by XLA, training keeps `hidden` alone and takes GELU and its slope from it once more: of the widest
    activation of a layer one is written instead of two, and 1.4 GB are moved in the place of 2.0 (24,000 x 3,072).

    Args:
        hidden: [..., wide].
        dropout, dense: built layers.
        training: whether dropout acts.

    Returns:
        [..., dense.units].
    """
    def second_half(hidden):
        return dense(dropout(ops.gelu(hidden, approximate=False), training=training))

    return recompute.keep_inputs(second_half, [dropout, dense], hidden) if training else second_half(hidden)
