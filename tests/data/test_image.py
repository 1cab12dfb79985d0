"""Decoding, encoding and resizing of images, against PIL; and what cannot be decoded."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data import image_header
from tfhf.data.image import (ImageError, decode_checked, decode_depth, decode_image, depth_size, encode_depth,
                             encode_png, image_size, map_examples, one_by_one, read_image, resize, to_float, to_uint8)

Image = pytest.importorskip("PIL.Image", reason="the reference; it comes with tensorboard")
RANDOM = np.random.default_rng(0)
COLOURS = np.kron(RANDOM.integers(0, 256, (5, 7, 3)), np.ones((4, 4, 1))).astype("uint8")   # 20 x 28, smooth for JPEG
IN_GRAPH = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode, kind", [
    ("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("RGB", "JPEG"),
    ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("L", "GIF"), ("RGB", "BMP"), ("RGBA", "BMP"), ("P", "BMP"),
    ("L", "BMP"), ("1", "BMP"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("L", "WEBP")])
def test_every_kind_of_file_as_pil_reads_it(mode, kind):
    image = Image.fromarray(COLOURS)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(COLOURS[..., 0]))
    data = encoded(image.convert(mode), kind)
    found = IN_GRAPH(data).numpy()
    assert found.dtype == np.uint8 and found.shape == (20, 28, 3)
    np.testing.assert_allclose(found.astype(int), rgb(data), atol=1)
    grey = decode_image(data, channels=1).numpy()[..., 0]
    np.testing.assert_allclose(grey.astype(int), np.asarray(Image.fromarray(found).convert("L")), atol=0)


def test_16_bit_grey_keeps_its_upper_eight():
    values = RANDOM.integers(0, 65536, (6, 9)).astype("uint16")
    data = encoded(Image.fromarray(values), "PNG")
    np.testing.assert_array_equal(IN_GRAPH(data).numpy()[..., 1], values >> 8)


def test_an_animation_gives_its_first_frame_and_one_pixel_is_an_image():
    frames = [Image.fromarray(np.full((6, 5, 3), value, "uint8")) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(IN_GRAPH(data).numpy(), np.full((6, 5, 3), 10))
    pixel = decode_checked(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), "pixel")
    assert pixel.tolist() == [[[1, 2, 3]]]
    assert resize(to_float(pixel), (4, 3), "bicubic").shape == (4, 3, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, kind):
    data = encoded(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3)).astype("uint8")), kind)
    path = tmp_path / f"photo.{kind.lower()}"
    path.write_bytes(data[:len(data) // 2])
    with pytest.raises(ImageError, match=rf"photo.{kind.lower()}: {len(data) // 2} bytes that cannot be decoded"):
        read_image(path)
    path.write_bytes(data)
    assert read_image(path, channels=1).shape == (40, 40, 1)


def test_other_errors(tmp_path):
    with pytest.raises(ImageError, match="text: 5 bytes that cannot be decoded, .*Unknown image file format"):
        image_size(b"hello", "text")
    with pytest.raises(ImageError, match="empty: 0 bytes"):
        image_size(b"", "empty")
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="channels is 4, expected 1 or 3"):
        decode_image(b"", channels=4)
    with pytest.raises(ValueError, match="method is 'lanczos', expected one of"):
        resize(np.zeros((4, 4, 3), "float32"), (2, 2), "lanczos")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        IN_GRAPH(b"hello")


@pytest.mark.parametrize("mode, kind", [("L", "PNG"), ("1", "PNG"), ("L", "JPEG"), ("P", "GIF"), ("1", "BMP"),
                                        ("RGB", "WEBP")])
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(mode, kind):
    """9,000 x 8,000 pixels are 216 MB, and 864 as floats. The size that a head tells is enough: the rest is cut off."""
    data = encoded(Image.new(mode, (9000, 8000)), kind)[:3000]
    with pytest.raises(ImageError, match=r"huge: 3000 bytes .* image of at most 67108864 pixels, it has 8000 x 9000$"):
        image_size(data, "huge")
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 67108864 pixels"):
        IN_GRAPH(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 559 pixels"):
        decode_image(encoded(Image.fromarray(COLOURS).convert(mode), kind), max_pixels=559)
    assert decode_image(encoded(Image.fromarray(COLOURS).convert("RGB"), kind), max_pixels=560).shape == (20, 28, 3)


def test_a_head_that_states_more_than_its_file_can_hold_is_refused():
    """335 bytes that state 4,096 x 4,096 pixels are cut, whoever cut them: nothing is allocated for them."""
    small = Image.new("L", (16, 16))
    data = bytearray(encoded(small, "JPEG"))
    place = data.find(b"\xff\xc0") + 5
    data[place:place + 4] = b"\x10\x00\x10\x00"
    cases = [(bytes(data), "4096 x 4096")]
    data = bytearray(encoded(small, "PNG"))
    data[16:24] = struct.pack(">II", 8000, 4000)
    cases.append((bytes(data), "4000 x 8000"))
    data = bytearray(encoded(small, "GIF"))
    data[6:10] = struct.pack("<HH", 8000, 4000)
    cases.append((bytes(data), "4000 x 8000"))
    for content, stated in cases:
        with pytest.raises(ImageError, match=f"a file of {len(content)} bytes that states {stated} pixels, expected"):
            image_size(content, "lie")
    data = bytearray(encoded(small, "BMP"))
    data[22:26] = struct.pack("<i", -8000)
    with pytest.raises(ImageError, match="a BMP with 256 bytes of pixels, expected 128000"):
        image_size(bytes(data), "lie")
    with pytest.raises(ImageError, match="sides have at most 65535 pixels, it has 1 x 70000"):
        image_size(encoded(Image.new("1", (70000, 1)), "PNG"), "line")
    assert image_size(encoded(Image.new("RGB", (3000, 2000)), "JPEG", progressive=True), "blank") == (2000, 3000)


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(Image.fromarray(COLOURS), "JPEG", progressive=True)
    place = data.rfind(b"\xff\xda")
    with pytest.raises(ImageError, match="a JPEG of more scans than 200"):
        image_size(data[:place] + data[place:-2] * 250 + data[-2:], "scans")


def test_an_animated_webp_is_refused_and_exif_of_a_still_one_is_honoured():
    image = Image.fromarray(COLOURS)
    moving = encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    with pytest.raises(ImageError, match="an animated WebP, expected one that is a single picture"):
        image_size(moving, "moving")
    still = encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)])
    np.testing.assert_array_equal(decode_checked(still, "animated PNG"), COLOURS)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_checked(encoded(image, "WEBP", lossless=True, exif=exif.tobytes()), "turned")
    np.testing.assert_array_equal(turned, np.rot90(COLOURS, -1))


def test_the_images_of_a_call_are_bounded_together():
    large = encoded(Image.new("1", (8192, 8192)), "PNG")
    small = encoded(Image.fromarray(COLOURS), "WEBP")
    alone = tf.function(one_by_one, input_signature=[tf.TensorSpec([None], tf.string)])
    assert not alone([small] * 3) and not alone([large]) and alone([large, small]) and alone([large] * 8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[9\] \[images of this call have\] .* send fewer"):
        alone([large] * 9)
    doubled = map_examples(lambda data: image_header.size(data) * 2, tf.constant([large, small]),
                           tf.TensorSpec([2], tf.int32), tf.constant(True))
    assert doubled.numpy().tolist() == [[16384, 16384], [40, 56]]


def test_a_huge_map_of_depth_is_refused():
    data = encoded(Image.new("I;16", (9000, 8000)), "PNG")[:3000]
    with pytest.raises(ImageError, match="at most 67108864 pixels, it has 8000 x 9000"):
        depth_size(data, "huge")


def test_pngs_come_back_and_pixels_are_rounded():
    for channels in (1, 3):
        image = COLOURS[..., :channels]
        np.testing.assert_array_equal(decode_image(encode_png(image), channels).numpy(), image)
    np.testing.assert_array_equal(to_uint8(to_float(np.arange(256, dtype="uint8"))), np.arange(256))
    assert to_uint8([-1.0, 0.5, 0.1, 2.0]).numpy().tolist() == [0, 128, 26, 255]


def test_depth_keeps_unit_and_invalid_pixels():
    depth = np.array([[0.0, 0.001, 1.2345], [np.inf, 70.0, -1.0], [np.nan, 1e-9, 65.535]], "float32")[..., None]
    data = encode_depth(depth, 0.001).numpy()
    assert np.asarray(Image.open(io.BytesIO(data))).tolist() == [[0, 1, 1234], [0, 65535, 0], [0, 1, 65535]]
    found, valid = decode_depth(data, 0.001)
    assert valid.numpy()[..., 0].tolist() == [[False, True, True], [False, True, False], [False, True, True]]
    np.testing.assert_allclose(found.numpy()[..., 0],
                               [[0, 0.001, 1.234], [0, 65.535, 0], [0, 0.001, 65.535]], rtol=1e-6)


def test_what_is_no_depth():
    grey = Image.fromarray(np.ones((4, 5), "uint16"))
    assert depth_size(encoded(grey, "PNG"), "d") == (4, 5)
    for image, kind, message in (
        (Image.fromarray(COLOURS), "PNG", "d.png: a PNG of 8 bits and colour type 2, expected a 16-bit grey PNG"),
        (Image.fromarray(COLOURS[..., 0]), "PNG", "d.png: a PNG of 8 bits and colour type 0"),
        (Image.fromarray(COLOURS), "JPEG", "d.png: .* bytes that begin with"),
        (Image.fromarray(np.zeros((4, 5), "uint16")), "PNG", "d.png: all 20 pixels are 0, invalid"),
    ):
        with pytest.raises(ImageError, match=message):
            depth_size(encoded(image, kind), "d.png")
    with pytest.raises(ImageError, match="d.png: 50 bytes that cannot be decoded"):
        depth_size(encoded(grey, "PNG")[:50], "d.png")


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resizing_equals_pil(method):
    image = RANDOM.random((48, 60)).astype("float32")
    for height, width in ((12, 15), (31, 20), (96, 90)):
        expected = np.asarray(Image.fromarray(image).resize((width, height), getattr(Image.Resampling, method.upper())))
        found = resize(image[..., None], (height, width), method).numpy()[..., 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_area_and_nearest():
    image = np.arange(16, dtype="float32").reshape(4, 4, 1)
    assert resize(image, (2, 2), "area").numpy()[..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert resize(image, (2, 2), "nearest").numpy()[..., 0].tolist() == [[5, 7], [13, 15]]
    assert resize(image[None].astype("uint8"), (8, 8), "nearest").dtype == tf.float32


def test_real_files(assets):
    folder = assets("scikit-image")
    with pytest.raises(ImageError, match="truncated.jpg: 400 bytes that cannot be decoded"):
        read_image(folder / "truncated.jpg")
    paths = [path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".gif") and path.stem != "truncated"]
    assert len(paths) == 34
    for path in paths:
        np.testing.assert_array_equal(read_image(path), rgb(path.read_bytes()), path.name)
