"""MixUp (Zhang et al. 2017, arXiv 1710.09412, section 2) within a batch, on the device.

An example is mixed with the next one of its batch, and its loss is mixed alike: share of its own label, the rest of the
next one's. The share comes with the example, drawn from its own seed when it is prepared (tfhf/data/augment.py), so a
step draws nothing, and model and loss agree without speaking to each other. Batches are shuffled, so the next one is
any one. Under a strategy, and with accumulation, the batch is the part that one replica computes at a time: a part of
one example is not mixed.
"""

from keras import ops


def partners(x):
    """[batch, ...] -> the same with each example's partner in its place: the next one, the first one's for the last."""
    return ops.roll(x, -1, axis=0)


def mix(x, share):
    """x float [batch, ...], share float [batch] in [0, 1] -> share * x + (1 - share) * partners(x), of x's type."""
    share = ops.cast(ops.reshape(share, (-1,) + (1,) * (len(x.shape) - 1)), x.dtype)
    return share * x + (1 - share) * partners(x)
