"""3,000 labelled sentences of reviews on Amazon, IMDb and Yelp: text_label records, 0 negative and 1 positive.

Licence: MIT as the package states. Origin: "Sentiment Labelled Sentences" (Kotzias et al. 2015, UCI), as it lies in the
npm package sentiment 5.0.2. Without --folder it is fetched.

The split is fixed: of each site's sentences of each label, ranked by the SHA-256 of the text, the first 100 are test,
600 in all; the other 2,400 are train. Equal sentences rank alike, so hardly one is on both sides.
"""

import hashlib
import json
from pathlib import Path

from tfhf.data.schema import TEXT_LABEL, RecordError
from tfhf.data.text import text_label
from tfhf.data.writing import Dataset, folder_or_asset, listing_sha256

SITES = ("amazon", "imdb", "yelp")
CLASSES = ("negative", "positive")
HELD_OUT = 100


def add_arguments(parser):
    parser.add_argument("--folder", help="with amazon.json, imdb.json and yelp.json (fetched when not given)")


def open_dataset(arguments):
    return Reviews(folder_or_asset(arguments.folder, "reviews", "the reviews"))


class Reviews(Dataset):
    """The sentences in `folder`; see the module's docstring."""

    name, record_type = "reviews", TEXT_LABEL
    licence = "MIT (package); UCI Sentiment Labelled Sentences"
    origin = "npm sentiment 5.0.2, test/fixtures; Kotzias et al. 2015"

    def __init__(self, folder, held_out=HELD_OUT):
        groups = {}
        for site in SITES:
            path = Path(folder) / f"{site}.json"
            if not path.is_file():
                raise RecordError(f"{path}: not there, expected the fixtures of the package sentiment")
            for number, row in enumerate(json.loads(path.read_text("utf-8"))):
                if row["class"] is None:   # a row without a text ends each file
                    continue
                if row["class"] not in (0, 1) or not row["text"].strip():
                    raise RecordError(f"{path}, row {number}: {row!r}, expected a text and class 0 or 1")
                example = text_label(f"{site}-{number:04d}", row["text"].strip(), row["class"])
                groups.setdefault((site, row["class"]), []).append(example)
        self._items = {"train": [], "test": []}
        for group in groups.values():
            group.sort(key=lambda item: hashlib.sha256(item["text"].lower().encode()).hexdigest())
            self._items["test"] += group[:held_out]
            self._items["train"] += group[held_out:]
        for items in self._items.values():
            items.sort(key=lambda item: item["id"])

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        rows = ((item["id"], item["text"]) for item in self._items[split])
        return {"classes": list(CLASSES), "listing_sha256": listing_sha256(rows)}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        return item
