"""BMPs with a table of colours as Pillow reads them, and what is refused."""

import io
import struct

import numpy as np
import pytest

from tfhf.data.image import ImageError, decode_checked

Image = pytest.importorskip("PIL.Image", reason="the reference")
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.integers(0, 256, (256, 3)).astype("uint8")


def bmp(bits, width, height, colours=None, head=40, compression=0, masks=b"", top_down=False, used=None):
    """-> bytes of a BMP of random pixels."""
    colours = min(2**bits, 256) if colours is None and bits <= 8 else colours or 0
    table = b"".join(bytes([*color[::-1], 0]) for color in TABLE[:colours])
    row = (width * bits + 31) // 32 * 4
    if bits < 8:
        pixels = RANDOM.integers(0, colours, (height, row * 8 // bits)).astype("uint8")
        pixels = sum(pixels[:, place::8 // bits] << (8 - bits - place * bits) for place in range(8 // bits))
    else:
        pixels = RANDOM.integers(0, colours or 256, (height, row)).astype("uint8")
    begin = 14 + head + len(masks) + len(table)
    info = struct.pack("<IiiHHIIiiII", head, width, -height if top_down else height, 1, bits, compression, 0, 0, 0,
                       colours if used is None else used, 0) + masks
    info += bytes(max(0, head + (len(masks) if head == 40 else 0) - len(info)))
    return b"BM" + struct.pack("<IHHI", begin + pixels.size, 0, 0, begin) + info + table + pixels.tobytes()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("changes", [{}, {"top_down": True}, {"head": 124}, {"used": 0}])
def test_a_table_of_colours(bits, changes):
    for width, height in ((1, 1), (13, 5), (32, 3), (33, 4)):
        data = bmp(bits, width, height, **changes)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode_checked(data, "table"), expected)


def test_a_short_table_of_colours_and_those_of_other_bits():
    for data in (bmp(24, 9, 4) + b"\0\0", bmp(8, 9, 4) + b"padding", bmp(4, 9, 4, colours=11),
                 bmp(8, 9, 4, colours=100), bmp(24, 9, 4), bmp(24, 9, 4, top_down=True),
                 bmp(32, 9, 4), bmp(32, 9, 4, compression=3,
                                    masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF))):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode_checked(data, "other"), expected)


@pytest.mark.parametrize("data, message", [
    (bmp(8, 9, 4, compression=1), "8 bits a pixel and compression 1"),
    (bmp(16, 9, 4), "16 bits a pixel"),
    (bmp(32, 9, 4, compression=3, masks=struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)), "32 bits a pixel and"),
    (bmp(8, 9, 4)[:-10], "a BMP with 38 bytes of pixels, expected 48"),
    (bmp(4, 9, 4)[:60], "bytes of pixels, expected"),
    (bmp(2, 9, 4), "2 bits a pixel"),
    (b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 9, 4, 1, 24) + bytes(200), "12 bytes"),
    (b"BM", "a BMP with a head of 0 bytes"),
    (bmp(8, 9, 0), "cannot be decoded"),
])
def test_what_is_refused(data, message):
    with pytest.raises(ImageError, match=f"odd: .*{message}"):
        decode_checked(data, "odd")
