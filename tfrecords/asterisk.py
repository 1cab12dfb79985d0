"""The English prompts of Asterisk: 568 recordings of one voice, 25.5 minutes, 8 kHz, with transcripts.

Licence: CC-BY-SA-3.0 (Digium; voice Allison Smith). Origin: the Debian packages asterisk-core-sounds-en-wav and
asterisk-core-sounds-en 1.6.1-1. Without --folder they are fetched.

The split is fixed: clips are ranked by the SHA-256 of their names; the first 50 are test, the next 50 validation, the
other 468 train. Transcripts stand as in the file, typing errors, tones ("[ascending tones]") and silences included.
"""

import gzip
import hashlib
from pathlib import Path

from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, folder_or_asset, listing_sha256

CLIPS = 568
HELD_OUT = 50
_TEXT_NAMES = ("core-sounds-en.txt", "core-sounds-en.txt.gz")


def add_arguments(parser):
    parser.add_argument("--folder", help="the unpacked packages (fetched into the cache when not given)")


def open_dataset(arguments):
    return Asterisk(folder_or_asset(arguments.folder, "asterisk-prompts", "the Asterisk prompts"))


class Asterisk(Dataset):
    """The prompts in `folder`: a tree of wav files with digits/1.wav in it, and core-sounds-en.txt or .txt.gz."""

    name = "asterisk"
    licence = "CC-BY-SA-3.0"
    origin = "Debian asterisk-core-sounds-en-wav and asterisk-core-sounds-en 1.6.1-1"

    def __init__(self, folder, clips=CLIPS, held_out=HELD_OUT):
        folder = Path(folder)
        self.folder = str(folder)
        texts = _transcripts(folder)
        root = _only(sorted(folder.rglob("digits/1.wav")), folder, "digits/1.wav").parent.parent
        wavs = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.wav")}
        silent = sorted(set(wavs) - set(texts))
        if silent or len(wavs) != clips:
            raise RecordError(f"{root}: {len(wavs)} wav files, {len(silent)} of them without a transcript "
                              f"({silent[:5]}); expected {clips}, each with one")
        ranked = sorted(wavs, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        names = {"train": ranked[2 * held_out:], "validation": ranked[held_out:2 * held_out], "test": ranked[:held_out]}
        self._items = {split: [{"id": name, "audio": str(wavs[name]), "text": texts[name], "language": "en"}
                               for name in sorted(chosen)] for split, chosen in names.items()}

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        return {"listing_sha256": listing_sha256((item["id"], item["text"]) for item in self._items[split])}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])


def _transcripts(folder):
    """-> {clip name: text} from lines `name: text`; lines that begin with ; are comments."""
    path = _only(sorted(path for name in _TEXT_NAMES for path in folder.rglob(name)), folder, _TEXT_NAMES[0])
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").split("\n")
    texts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";"):
            continue
        name, colon, text = line.partition(":")
        if not colon or not text.strip() or name.strip() in texts:
            raise RecordError(f"{path}, line {number}: {line!r}, expected `name: text`, each name once")
        texts[name.strip()] = text.strip()
    return texts


def _only(paths, folder, what):
    if not paths:
        raise RecordError(f"{folder}: no {what} in it or below, expected the unpacked Asterisk packages")
    return paths[0]
