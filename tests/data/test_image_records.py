"""Examples of the image record types: there and back; what does not go together is refused, with the file's name."""

import io

import numpy as np
import pytest

from tfhf.data.image import ImageError
from tfhf.data.image_records import image_depth, image_label, image_pair, stereo
from tfhf.data.schema import IMAGE_DEPTH, IMAGE_LABEL, IMAGE_PAIR, STEREO

Image = pytest.importorskip("PIL.Image", reason="writes PNGs for the test")


def png(height, width, dtype="uint8", value=7):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), value, dtype)).save(file, "PNG")
    return file.getvalue()


def test_each_type_there_and_back():
    image, depth = png(4, 6), png(4, 6, "uint16")
    for kind, example, pixels in (
        (IMAGE_LABEL, image_label("a", image, 3, "a.png"), 24),
        (IMAGE_PAIR, image_pair("a", image, png(8, 12), ("a.png", "b.png")), 24),
        (IMAGE_PAIR, image_pair("a", b"", png(8, 12), (None, "b.png")), 96),
        (STEREO, stereo("a", image, image, ("l.png", "r.png")), 24),
        (STEREO, stereo("a", image, image, ("l.png", "r.png", "d.png"), depth, 1 / 256), 24),
        (IMAGE_DEPTH, image_depth("a", image, depth, 0.001, ("a.png", "d.png")), 24),
    ):
        packed = kind.pack(example)
        decoded = {name: value.numpy() for name, value in kind.decode(packed.serialized).items()}
        assert packed.length == decoded["pixels"] == pixels
        assert decoded == {**example, "id": b"a", **{k: np.float32(v) for k, v in example.items() if "scale" in k}}


@pytest.mark.parametrize("make, message", [
    (lambda: image_label("a", png(4, 6)[:40], 0, "a.png"), "a.png: 40 bytes that cannot be decoded"),
    (lambda: image_pair("a", png(4, 6), png(4, 5), ("a.png", "b.png")), "a.png has 4 x 6 pixels and b.png 4 x 5"),
    (lambda: image_pair("a", png(4, 6), png(8, 18), ("a.png", "b.png")), "a.png has 4 x 6 pixels and b.png 8 x 18"),
    (lambda: image_pair("a", png(4, 6), png(2, 3), ("a.png", "b.png")), "a whole multiple"),
    (lambda: stereo("a", png(4, 6), png(4, 5), ("l.png", "r.png")), "l.png has 4 x 6 pixels and r.png 4 x 5"),
    (lambda: stereo("a", png(4, 6), png(4, 6), ("l.png", "r.png", "d.png"), png(4, 6)), "d.png: a PNG of 8 bits"),
    (lambda: stereo("a", png(4, 6), png(4, 6), ("l.png", "r.png", "d.png"), png(2, 3, "uint16")), "and d.png 2 x 3"),
    (lambda: image_depth("a", png(4, 6), png(6, 4, "uint16"), 0.1, ("a.png", "d.png")), "and d.png 6 x 4"),
    (lambda: image_depth("a", png(4, 6), png(4, 6, "uint16", 0), 0.1, ("a.png", "d.png")), "d.png: all 24 pixels"),
])
def test_what_is_refused(make, message):
    with pytest.raises(ImageError, match=message):
        make()
