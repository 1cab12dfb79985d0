"""The King James Bible as token rows: 31,102 verses, 4.1 MB of text; a real book for a small language model.

  tfhf records king_james --train-tokenizer 4096 --length 256 --out DIR
Licence: public domain (1611). Origin: the Debian package bible-kjv-text 4.38. Without --folder it is fetched.
A chapter is a document, a verse a line of it. The split is fixed: of 1,189 chapters, ranked by the SHA-256 of their
names, the first 60 are test, the next 60 validation, the other 1,069 train. Other options as of the writer `text`.
"""

import hashlib
import itertools
import re
import struct
from pathlib import Path

from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, folder_or_asset, listing_sha256
from tfrecords.text import add_token_arguments, tokens_of

CHAPTERS, HELD_OUT = 1189, 60
_VERSE = re.compile(r"(\d?[A-Z][A-Za-z]*\d+):(\d+) (.*)")


def add_arguments(parser):
    parser.add_argument("--folder", help="with bible.data in it (fetched into the cache when not given)")
    add_token_arguments(parser)


def open_dataset(arguments):
    folder = folder_or_asset(arguments.folder, "king-james-bible", "the Bible")
    return tokens_of(KingJames(folder), arguments)


class KingJames(Dataset):
    """The chapters in `folder`/bible.data; see the module's docstring."""

    name = "king_james"
    licence = "public domain"
    origin = "the Authorised Version of 1611; Debian bible-kjv-text 4.38"

    def __init__(self, folder, chapters=CHAPTERS, held_out=HELD_OUT):
        path = Path(folder) / "bible.data"
        if not path.is_file():
            raise RecordError(f"{path}: not there, expected the file of Debian's bible-kjv-text")
        verses = []
        for number, line in enumerate(read_windows(path).decode("ascii").splitlines()[1:], 2):
            match = _VERSE.fullmatch(line)
            if not match:
                raise RecordError(f"{path}, line {number} of the text: {line[:60]!r}, expected BOOK CHAPTER:VERSE TEXT")
            verses.append((match[1], match[3]))
        texts = {name: "\n".join(text for _, text in part) for name, part in itertools.groupby(verses, lambda v: v[0])}
        if len(texts) != chapters:
            raise RecordError(f"{path}: {len(texts)} chapters, expected {chapters}")
        ranked = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        chosen = {"train": set(ranked[2 * held_out:]), "validation": set(ranked[held_out:2 * held_out]),
                  "test": set(ranked[:held_out])}
        self._texts = {split: [(name, text) for name, text in texts.items() if name in names]
                       for split, names in chosen.items()}

    def splits(self):
        return tuple(self._texts)

    def options(self, split):
        return {"listing_sha256": listing_sha256(self._texts[split])}

    def texts(self, split):
        """(chapter, its verses by lines) of a split."""
        return iter(self._texts[split])

    def documents(self, split):
        """The same with no problem to each; see tfrecords.text.TokenRows."""
        return ((name, text, "") for name, text in self._texts[split])


def read_windows(path):
    """The text of a compressed file of bible-kjv: "EC02", at byte 84 the size of a window and their number, where each
    begins and the last ends (u32, big endian); then the windows, each packed by `compress` without its magic number."""
    data = Path(path).read_bytes()
    if data[:4] != b"EC02":
        raise RecordError(f"{path}: begins with {data[:4]!r}, expected b'EC02'")
    count, = struct.unpack_from(">I", data, 88)
    places = struct.unpack_from(f">{count + 1}I", data, 92)
    if places[-1] != len(data):
        raise RecordError(f"{path}: {len(data)} bytes, expected {places[-1]}")
    return b"".join(_uncompress(data[begin:end]) for begin, end in zip(places, places[1:]))


def _uncompress(data):
    """LZW as of the Unix command compress, block mode, 16 bits (Welch 1984)."""
    clear, out, table, width, at, codes, before = 256, [], [], 9, 0, 0, None
    while at + width <= 8 * len(data):
        if not table:
            table = [bytes([byte]) for byte in range(256)] + [b""]
        code = int.from_bytes(data[at // 8:at // 8 + 4], "little") >> (at % 8) & ((1 << width) - 1)
        at, codes = at + width, codes + 1
        if code != clear:
            entry = table[code] if code < len(table) else before + before[:1]
            out.append(entry)
            if before is not None and len(table) < 1 << 16:
                table.append(before + entry[:1])
            before = entry
        if code == clear or (len(table) == 1 << width and width < 16):
            # Codes come in groups of eight; the width changes only at the end of one.
            at, codes = at + (-codes % 8) * width, 0
            width, table, before = (9, [], None) if code == clear else (width + 1, table, before)
    return b"".join(out)
