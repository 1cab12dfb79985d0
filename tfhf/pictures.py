"""Pictures for people: images side by side, depth and errors in colours; NumPy in, uint8 [height, width, 3] out."""

import numpy as np

# Nine of the 256 colours of matplotlib's "plasma" (CC0), evenly spaced, from dark blue to yellow; its lightness rises
# evenly, so that equal steps look equal, in grey as well.
_PLASMA = np.array([
    (13, 8, 135), (76, 2, 161), (126, 3, 168), (170, 35, 149), (204, 71, 120), (230, 108, 92), (248, 149, 64),
    (253, 197, 39), (240, 249, 33)], np.float64)
_INVALID = (0, 0, 0)
_GAP = 4
# Letters of 3 x 5 dots: a digit per row, whose bits 4, 2, 1 are the dots.
_GLYPHS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:-+/=()%", (
    "25755 65656 34443 65556 74647 74644 34553 55755 72227 11152 55655 44447 57755 65555 25552 65644 25563 65655 34216 "
    "72222 55557 55552 55775 55255 55222 71247 75557 26227 71747 71717 55711 74717 74757 71111 75757 75717 00000 00002 "
    "00024 02020 00700 02720 11244 07070 12221 42224 51245").split()))
_DOT, _TITLE_HEIGHT = 2, 16


def side_by_side(images, titles=None):
    """Images of any sizes next to each other, at their own size, on white.

    Args:
      images: uint8 [height, width], [height, width, 1 or 3], or float of these shapes in [0, 1].
      titles: a text over each, of letters, digits and .,:-+/=()%; cut where the image ends.
    Returns uint8 [height, width, 3].
    Raises ValueError: no image, another shape or dtype, or not one title for each.
    """
    images = [as_rgb(image) for image in images]
    if not images:
        raise ValueError("side_by_side: no images, expected at least one")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"side_by_side: {len(titles)} titles, expected {len(images)}, one per image")
    top = 0 if titles is None else _TITLE_HEIGHT
    height = top + max(len(image) for image in images)
    width = sum(image.shape[1] for image in images) + _GAP * (len(images) - 1)
    canvas = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for number, image in enumerate(images):
        canvas[top:top + len(image), left:left + image.shape[1]] = image
        if titles is not None:
            text = _text(titles[number])[:, :image.shape[1]]
            canvas[3:3 + len(text), left:left + text.shape[1]][text] = 0
        left += image.shape[1] + _GAP
    return canvas


def colour_depth(depth, valid=None):
    """Depth in colours: near is warm (yellow), far is cold (dark blue), invalid is black.

    The scale goes by 1 / depth, in which what is near is told apart best, from the 5th to the 95th percentile of what
    is valid.

    Args:
      depth: float [height, width] or [height, width, 1], of any unit.
      valid: bool of that shape; None: where the depth is finite and above 0.
    Returns uint8 [height, width, 3].
    """
    depth = _flat(depth, "colour_depth: depth")
    known = np.isfinite(depth) & (depth > 0)
    if valid is not None:
        known &= _flat(valid, "colour_depth: valid").astype(bool)
    inverse = np.zeros(depth.shape)
    inverse[known] = 1.0 / depth[known]
    low, high = np.percentile(inverse[known], (5, 95)) if known.any() else (0.0, 1.0)
    return coloured((inverse - low) / max(high - low, 1e-12), known)


def error_map(prediction, truth, valid=None):
    """How far a prediction is off, pixel by pixel: |prediction - truth|, the mean over channels, from dark blue (0) to
    yellow (the 99th percentile and above); invalid is black.

    Args:
      prediction, truth: of one shape, [height, width] or [height, width, channels], and of one unit.
      valid: bool [height, width] or [height, width, 1]; None: where both are finite.
    Returns uint8 [height, width, 3].
    """
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if prediction.shape != truth.shape or prediction.ndim not in (2, 3):
        raise ValueError(f"error_map: a prediction of shape {prediction.shape} and a truth of {truth.shape}, expected "
                         "both [height, width] or [height, width, channels]")
    error = np.abs(prediction - truth).reshape(*prediction.shape[:2], -1).mean(axis=-1)
    known = np.isfinite(error)
    if valid is not None:
        known &= _flat(valid, "error_map: valid").astype(bool)
    error[~known] = 0.0
    high = np.percentile(error[known], 99) if known.any() else 1.0
    return coloured(error / max(high, 1e-12), known)


def coloured(values, known=None):
    """Values in colours, from 0 (dark blue) to 1 (yellow), clipped; what is not known is black.

    Args:
      values: float [height, width].
      known: bool of that shape; None: all are.
    Returns uint8 [height, width, 3].
    """
    places = np.clip(values, 0, 1) * (len(_PLASMA) - 1)
    colours = np.rint(np.stack([np.interp(places, range(len(_PLASMA)), channel) for channel in _PLASMA.T], axis=-1))
    return (colours if known is None else np.where(known[..., None], colours, _INVALID)).astype(np.uint8)


def as_rgb(image):
    """uint8 or float in [0, 1], [height, width] or [height, width, 1 or 3] -> uint8 [height, width, 3]."""
    image = np.asarray(image)
    shaped = image[..., None] if image.ndim == 2 else image
    if shaped.ndim != 3 or shaped.shape[-1] not in (1, 3) or (image.dtype != np.uint8 and image.dtype.kind != "f"):
        raise ValueError(f"a picture of {image.dtype} {image.shape}, expected uint8, or float in [0, 1], of [height, "
                         "width] or [height, width, 1 or 3]")
    if image.dtype != np.uint8:
        shaped = np.rint(np.clip(np.nan_to_num(shaped.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    return np.broadcast_to(shaped, (*shaped.shape[:2], 3))


def _flat(array, what):
    """[height, width] or [height, width, 1] -> [height, width]"""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise ValueError(f"{what} has shape {array.shape}, expected [height, width] or [height, width, 1]")
    return array.astype(np.float64) if array.dtype != bool else array


def _text(text):
    """-> bool [height, width], True where there is ink; a letter that is not known is a blank"""
    rows = [[] for _ in range(5)]
    for letter in text.upper():
        for row, digit in zip(rows, _GLYPHS.get(letter, "00000")):
            row += [bool(int(digit) & bit) for bit in (4, 2, 1)] + [False]
    return np.kron(np.array(rows, bool).reshape(5, -1), np.ones((_DOT, _DOT), bool))
