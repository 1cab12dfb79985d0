"""Pictures sampled along their rows at places between pixels (Jaderberg et al. 2015, section 3.3, in one dimension)."""

from keras import ops

WRAP_MODES = ("border", "edge")


def bilinear_sampler(images, offsets, wrap_mode="border"):
    """Each pixel from `offsets` pixels to its right in the same row, between two pixels by linear interpolation.

    Args:
        images: float [batch, height, width, channels].
        offsets: float32 [batch, height, width], in pixels, negative to the left.
        wrap_mode: what lies outside: "border": zeros, as in monodepth's published code, so that a pixel that is not
            seen cannot be matched; "edge": the nearest pixel of the row.

    Returns:
        float32 [batch, height, width, channels], differentiable with respect to images and offsets.

    Raises:
        ValueError: an unknown wrap_mode.
    """
    if wrap_mode not in WRAP_MODES:
        raise ValueError(f"wrap_mode: got {wrap_mode!r}; expected one of {', '.join(WRAP_MODES)}.")
    height, width, channels = images.shape[1:]
    images, offsets = ops.cast(images, "float32"), ops.cast(offsets, "float32")
    mode = "constant" if wrap_mode == "border" else "symmetric"   # symmetric by one pixel repeats the last one
    padded = ops.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)), mode)
    # Both neighbours side by side: one gather, whose rows are twice as long, instead of two.
    pairs = ops.concatenate([padded[:, :, :-1], padded[:, :, 1:]], axis=-1)   # [batch, height, width + 1, 2 * channels]
    x = ops.arange(width, dtype="float32") + offsets
    left = ops.clip(ops.floor(x), -1.0, width - 1.0)
    part = ops.clip(x - left, 0.0, 1.0)[..., None]   # 0 or 1 outside, where no gradient is
    rows = ops.reshape(ops.arange(ops.shape(images)[0] * height), (-1, height, 1)) * (width + 1)
    found = ops.take(ops.reshape(pairs, (-1, 2 * channels)), rows + ops.cast(left, "int32") + 1, axis=0)
    return (1.0 - part) * found[..., :channels] + part * found[..., channels:]
