"""The example images of scikit-image: eight photographs (image_label, image_pair), or a stereo pair with disparity.

Licence: BSD-3 as the package states; the images themselves are public domain, CC0 or CC-BY (the package's
data/README of its later releases says which). Origin: scikit-image 0.16.2 from PyPI. Without --folder it is fetched.

--kind photographs (default): image_label; the label is the number of the photograph, whose names the manifest has.
--kind originals: image_pair of the target alone, for tasks that make the image of it (super-resolution).
  Both: train has seven, validation one, the cat "chelsea"; the left image of the stereo pair, a moped, is among them.
--kind stereo: one stereo record, in train: "motorcycle" of Middlebury 2014, quarter size, 500 x 741, disparity measured
  for 92.7 % of the left image's pixels (7.2 to 59.9 pixels), stored in steps of 1/512 pixel.
"""

from pathlib import Path

import numpy as np

from tfhf.data.image import encode_depth
from tfhf.data.image_records import image_label, image_pair, stereo
from tfhf.data.schema import IMAGE_LABEL, IMAGE_PAIR, STEREO, RecordError
from tfhf.data.sources import read_source
from tfhf.data.writing import Dataset, folder_or_asset

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
               "retina.jpg", "rocket.jpg")
HELD_OUT = ("chelsea.png",)
PAIR = ("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz")
KINDS = {"photographs": IMAGE_LABEL, "originals": IMAGE_PAIR, "stereo": STEREO}
# 16 bits hold up to 128 pixels; 1/512 is far below what was measured.
DISPARITY_SCALE = 1 / 512


def add_arguments(parser):
    parser.add_argument("--folder", help="with the package's skimage/data (fetched when not given)")
    parser.add_argument("--kind", choices=tuple(KINDS), default="photographs", help="which records (%(default)s)")


def open_dataset(arguments):
    return ScikitImage(folder_or_asset(arguments.folder, "scikit-image", "scikit-image's photographs"), arguments.kind)


class ScikitImage(Dataset):
    """The images in `folder`; see the module's docstring."""

    name = "skimage"
    licence = "BSD-3 (package); the images public domain, CC0 or CC-BY"
    origin = "PyPI scikit-image 0.16.2, skimage/data"

    def __init__(self, folder, kind="photographs"):
        self._folder, self._kind, self.record_type = Path(folder), kind, KINDS[kind]
        self.folder = str(folder)
        for name in PAIR if kind == "stereo" else PHOTOGRAPHS:
            if not (self._folder / name).is_file():
                raise RecordError(f"{self._folder / name}: not there, expected scikit-image's folder of data")

    def splits(self):
        return ("train",) if self._kind == "stereo" else ("train", "validation")

    def options(self, split):
        if self._kind == "stereo":
            return {"kind": self._kind, "disparity": {"unit": "pixel", "scale": DISPARITY_SCALE, "invalid": 0}}
        return {"kind": self._kind, "classes": [_stem(name) for name in PHOTOGRAPHS], "held_out": list(HELD_OUT)}

    def examples(self, split, start=0):
        if self._kind == "stereo":
            names = [PAIR[0]]
        else:
            names = [name for name in PHOTOGRAPHS if (name in HELD_OUT) == (split == "validation")]
        return iter([{"id": _stem(name), "file": name} for name in names[start:]])

    def sources(self, item):
        names = PAIR if self._kind == "stereo" else (item["file"],)
        return [str(self._folder / name) for name in names]

    def load(self, item):
        if self._kind == "stereo":
            return self._pair()
        path = self._folder / item["file"]
        data = read_source(path)
        if self._kind == "originals":
            return image_pair(item["id"], b"", data, (None, str(path)))
        return image_label(item["id"], data, PHOTOGRAPHS.index(item["file"]), str(path))

    def _pair(self):
        left, right, disparity = (self._folder / name for name in PAIR)
        with np.load(disparity, allow_pickle=False) as arrays:
            measured = arrays["arr_0"]   # float32 [height, width], infinite where nothing was measured
        encoded = encode_depth(measured[..., None], DISPARITY_SCALE).numpy()
        return stereo("motorcycle", left.read_bytes(), right.read_bytes(), (str(left), str(right), str(disparity)),
                      encoded, DISPARITY_SCALE)


def _stem(name):
    return Path(name).stem
