"""Key and value cache of static length for step-by-step decoding."""

from keras import ops


def write(cache, new, index, in_place):
    """The cache with `new` written at time `index`.

    Args:
        cache: [batch, heads, time, head_dim].
        new: [batch, heads, 1, head_dim].
        index: int32 scalar.
        in_place: True where XLA compiles the loop: a dynamic-update-slice, which it does without a copy. False where it
            does not (exports): that op has no kernel in stock TF Serving, so the slot is chosen by a mask.
    """
    if in_place:
        return ops.slice_update(cache, (0, 0, index, 0), new)
    slot = ops.equal(ops.arange(cache.shape[2]), index)[None, None, :, None]
    return ops.where(slot, new, cache)
