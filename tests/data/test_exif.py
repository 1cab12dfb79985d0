"""EXIF orientation against PIL's ImageOps.exif_transpose; damaged blocks; in a graph and through a SavedModel."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.exif import orientation
from tfhf.data.image import decode_image

Image = pytest.importorskip("PIL.Image", reason="the reference; it comes with tensorboard")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype("uint8")
NUMBER = tf.function(orientation, input_signature=[tf.TensorSpec([], tf.string)])


def photo(kind, number=None, **options):
    image, file = Image.fromarray(PIXELS), io.BytesIO()
    if number is not None:
        exif = Image.Exif()
        exif[0x010F], exif[0x0112], exif[0x0132] = "a maker", number, "2026:11:21 12:00:00"
        options["exif"] = exif
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(order, number, entries=1, offset=8):
    pack = {"II": "<", "MM": ">"}[order]
    entry = struct.pack(pack + "HHIHH", 0x0112, 3, 1, number, 0)
    return order.encode() + struct.pack(pack + "HI", 42, offset) + bytes(offset - 8) + struct.pack(
        pack + "H", entries) + entry


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_all_eight_orientations_as_pil_turns_them(kind):
    from PIL import ImageOps

    decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    for number in range(1, 9):
        data = photo(kind, number)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert expected.shape == ((9, 6, 3) if number > 4 else (6, 9, 3)) and int(NUMBER(data)) == number
        np.testing.assert_allclose(decode(data).numpy().astype(int), expected, atol=1)
        assert decode_image(data).shape == expected.shape


def test_files_without_one_and_numbers_outside():
    assert [int(NUMBER(photo(kind))) for kind in ("JPEG", "PNG", "GIF", "BMP")] == [1] * 4
    assert [int(NUMBER(photo("JPEG", number))) for number in (0, 9, 300)] == [1] * 3
    assert [int(NUMBER(data)) for data in (b"", b"\xff", b"Exif\0\0", b"\x89PNGeXIf")] == [1] * 4


@pytest.mark.parametrize("order", ["II", "MM"])
def test_both_orders_of_bytes_and_a_directory_further_on(order):
    for offset in (8, 20):
        assert int(NUMBER(photo("JPEG", exif=b"Exif\0\0" + tiff(order, 6, offset=offset)))) == 6


def test_damaged_blocks_say_nothing():
    whole = tiff("MM", 6)
    for length in range(len(whole) - 3):   # the last two bytes are no part of the number
        data = b"\xff\xd8\xff\xe1" + struct.pack(">H", length + 8) + b"Exif\0\0" + whole[:length]
        assert int(NUMBER(data)) == 1, length
    for wrong in (whole.replace(b"\0\x2a", b"\0\x2b"), tiff("MM", 6)[:4] + b"\x7f\xff\xff\xff" + whole[8:],
                  tiff("II", 6)[:4] + b"\xff\xff\xff\xff" + whole[8:]):
        assert int(NUMBER(photo("JPEG", exif=b"Exif\0\0" + wrong))) == 1
    assert int(NUMBER(photo("JPEG", exif=b"Exif\0\0" + tiff("II", 6, entries=60000)))) == 6   # as many as are there


def test_the_name_in_another_segment_is_not_taken():
    assert int(NUMBER(photo("JPEG", comment=b"Exif\0\0" + tiff("II", 6)))) == 1


def test_in_a_saved_model(tmp_path):
    module = tf.Module()
    module.decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string, name="image")])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.decode(photo("PNG", 6)), np.rot90(PIXELS, -1))
