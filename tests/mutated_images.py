"""Image files of every kind, made by Pillow, and what damage or malice makes of them: the same for the same number."""

import io
import random
import struct
import zlib

import numpy as np

_EXTREMES = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Where a file says how large it is, by its first bytes: (offset, struct format).
_SIZES = {b"\x89P": [(16, ">I"), (20, ">I"), (24, "B"), (25, "B")],
          b"GI": [(6, "<H"), (8, "<H"), (10, "B")],
          b"BM": [(10, "<I"), (14, "<I"), (18, "<I"), (22, "<I"), (28, "<H"), (30, "<I"), (46, "<I")],
          b"RI": [(4, "<I"), (12, "<I"), (16, "<I"), (20, "<I"), (24, "<I"), (26, "<H"), (27, "<I"), (28, "<H")]}
_JPEG_MARKERS = (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xdd", b"\xff\xe1")


def encoded(image, kind, **options):
    """A PIL image -> the bytes of a file"""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bases():
    """-> list of the bytes of whole files"""
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 31, 3)).astype("uint8"))
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (24, 31)).astype("uint8")))
    palette, grey = image.convert("P"), image.convert("L")
    few = image.quantize(13)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(rng.integers(0, 65536, (9, 13)).astype("uint16"))
    more = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    frames = {"save_all": True, "append_images": [palette.rotate(90), palette.resize((5, 5))]}
    gif = encoded(palette, "GIF", transparency=7, comment=b"x" * 600)
    wide = gif[:6] + struct.pack("<HH", 60, 50) + gif[10:]   # the canvas is larger than the frame
    return [
        encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True), encoded(image.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG", exif=exif), encoded(image, "JPEG", subsampling=2, restart_marker_blocks=2),
        encoded(image, "PNG", exif=exif), encoded(palette, "PNG", transparency=3), encoded(few, "PNG", bits=4),
        encoded(image.convert("1"), "PNG"), encoded(alpha, "PNG"), encoded(deep, "PNG"), encoded(image, "PNG", **more),
        gif, wide, encoded(palette, "GIF", interlace=0), encoded(palette, "GIF", **frames),
        encoded(image, "BMP"), encoded(palette, "BMP"), encoded(image.convert("1"), "BMP"), encoded(alpha, "BMP"),
        encoded(grey, "BMP"), encoded(image, "WEBP"), encoded(alpha, "WEBP", lossless=True), encoded(alpha, "WEBP"),
        encoded(image, "WEBP", **more), encoded(image, "WEBP", exif=exif.tobytes())]


class Mutations:
    """Call it with a number for the bytes of a file."""

    def __init__(self):
        self._bases = bases()
        self._ways = [self._flip, self._cut, self._edit, self._edit_size, self._noise, self._repeat, self._remove,
                      self._splice, self._insert, self._edit_segment]

    def __call__(self, number):
        rng = random.Random(number)
        data = self._bases[number % len(self._bases)]
        for _ in range(rng.randint(1, 3)):
            data = bytes(rng.choice(self._ways)(bytearray(data), rng)) or b"\xff\xd8\xff"
        return with_checksums(data) if data[:4] == b"\x89PNG" and rng.random() < 0.7 else data

    @staticmethod
    def _place(data, rng):
        reach = len(data) if data[:1] == b"\xff" or rng.random() < 0.3 else 80   # most of the meaning is in the head
        return rng.randrange(min(len(data), reach))

    def _flip(self, data, rng):
        for _ in range(rng.randint(1, 8)):
            data[self._place(data, rng)] ^= 1 << rng.randrange(8)
        return data

    def _cut(self, data, rng):
        return data[:rng.randrange(len(data) + 1)]

    def _put(self, data, place, form, rng):
        value = rng.choice(_EXTREMES) if rng.random() < 0.7 else rng.getrandbits(rng.randint(1, 32))
        new = struct.pack(form, value % 256 ** struct.calcsize(form))
        data[place:place + len(new)] = new
        return data

    def _edit(self, data, rng):
        return self._put(data, self._place(data, rng), rng.choice(("<I", ">I", "<H", ">H", "B")), rng)

    def _edit_size(self, data, rng):
        places = _SIZES.get(bytes(data[:2]))
        return self._put(data, *rng.choice(places), rng) if places else self._edit(data, rng)

    def _noise(self, data, rng):
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        return data

    def _repeat(self, data, rng):
        begin = rng.randrange(len(data))
        end = min(len(data), begin + rng.randint(1, 60))
        return data[:begin] + data[begin:end] * rng.randint(1, 200) + data[end:]

    def _remove(self, data, rng):
        begin = rng.randrange(len(data))
        return data[:begin] + data[begin + rng.randint(1, 40):]

    def _splice(self, data, rng):
        other = rng.choice(self._bases)
        return data[:rng.randrange(len(data))] + other[rng.randrange(len(other)):]

    def _insert(self, data, rng):
        begin = rng.randrange(len(data))
        return data[:begin] + rng.randbytes(rng.randint(1, 30)) + data[begin:]

    def _edit_segment(self, data, rng):
        place = data.find(rng.choice(_JPEG_MARKERS)) if data[:2] == b"\xff\xd8" else data.find(b",")
        if place < 0 or place + 20 > len(data):
            return self._edit(data, rng)
        data[place + 1 + rng.randrange(18)] = rng.choice((0, 1, 2, 3, 4, 0x11, 0x44, 0x7F, 0xFF, rng.getrandbits(8)))
        return data


def with_checksums(data):
    """The bytes of a PNG with every chunk's checksum as it should be, so that a reader gets beyond it."""
    fixed, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place:place + 4], "big")
        if place + 12 + size > len(data):
            break
        chunk = data[place + 4:place + 8 + size]
        fixed += data[place:place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + size
    return bytes(fixed + data[place:])
