"""GIFs as Pillow reads them: the first frame on its canvas; and what is no whole one."""

import io
import struct

import numpy as np
import pytest

from tfhf.data.image import ImageError, decode_checked

Image = pytest.importorskip("PIL.Image", reason="the reference")
RANDOM = np.random.default_rng(0)
PALETTE = Image.fromarray(RANDOM.integers(0, 256, (24, 31, 3)).astype("uint8")).convert("P")


def gif(image=PALETTE, **options):
    file = io.BytesIO()
    image.save(file, "GIF", **options)
    return bytearray(file.getvalue())


def frame_at(data):
    """Where the descriptor of the first frame lies."""
    return data.find(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))


def placed(data, canvas, place=(0, 0)):
    """The GIF with another canvas (width, height), its frame at (left, top)."""
    data[6:10] = struct.pack("<HH", *canvas)
    at = frame_at(data)
    data[at + 1:at + 5] = struct.pack("<HH", *place)
    return data


def own_table(data):
    """The GIF with its table of colours in the frame instead of in front."""
    table, at = data[13:13 + 768], frame_at(data)
    head = data[:10] + bytes([data[10] & 0x7F]) + data[11:13]
    return head + data[13 + 768:at + 9] + b"\x87" + table + data[at + 10:]


MORE = {"save_all": True, "append_images": [PALETTE.rotate(90), PALETTE.resize((5, 5))]}
FILES = {
    "plain": gif(), "interlaced": gif(interlace=1), "not interlaced": gif(interlace=0),
    "transparent": gif(transparency=7), "animated": gif(**MORE, duration=50, loop=0),
    "long comment": gif(comment=b"x" * 2000),
    "grey": gif(PALETTE.convert("L")), "two colours": gif(PALETTE.convert("1")),
    "small frame": placed(gif(), (60, 50)), "moved frame": placed(gif(), (60, 50), (5, 7)),
    "small transparent frame": placed(gif(transparency=77), (60, 50), (3, 0)),
    "small first frame of several": placed(gif(**MORE), (40, 40), (1, 2)),
    "own table": own_table(gif(interlace=0)), "own table, moved": placed(own_table(gif()), (33, 30), (2, 6))}


@pytest.mark.parametrize("name", FILES)
def test_as_pillow_reads_it(name):
    data = bytes(FILES[name])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_checked(data, name), expected)


def test_frames_behind_the_first_are_not_looked_at():
    """A thousand frames, and then bytes that are none: the file is cut behind the first."""
    data = gif()
    at = frame_at(data)
    many = bytes(data[:at] + data[at:-1] * 1000 + b"nonsense")
    np.testing.assert_array_equal(decode_checked(many, "many"), np.asarray(PALETTE.convert("RGB")))


def test_what_is_no_whole_gif():
    data = gif()
    at = frame_at(data)
    endless = data[:at] + b"!\xfe\0" * 2000 + data[at:]
    for content, message in (
            (placed(gif(), (30, 24)), "first frame of 24 x 31 pixels at 0 0 leaves its canvas of 24 x 30"),
            (placed(gif(), (31, 24), (1, 0)), "leaves its canvas"), (data[:at], "a GIF without a picture"),
            (data[:10], "a GIF without a picture"), (data[:at + 5], "cannot be decoded"),
            (data[:at + 100], "cannot be decoded"), (data[:-20], "cannot be decoded"),
            (endless, "a GIF without a picture"), (b"GIF89a", "a GIF without a picture")):
        with pytest.raises(ImageError, match=f"odd: .*{message}"):
            decode_checked(bytes(content), "odd")
