"""The King James writer: its decompression against what `compress` is, on made files and on the real one."""

import random
import struct

import pytest

from tfhf.data.schema import RecordError
from tfrecords.king_james import KingJames, _uncompress, read_windows


def _compress(text):
    """`compress -b 16` without its three bytes of header, written from the format: codes in groups of eight."""
    table, codes, prefix = {bytes([i]): i for i in range(256)}, [], b""
    widths, width, free, out, filled, group = [], 9, 257, 0, 0, 0
    for byte in text:
        if prefix + bytes([byte]) in table:
            prefix += bytes([byte])
            continue
        codes.append(table[prefix])
        table[prefix + bytes([byte])] = free
        free += 1
        prefix = bytes([byte])
    codes.append(table[prefix])
    for number, code in enumerate(codes):
        out |= code << filled
        filled, group = filled + width, group + 1
        widths.append(width)
        # The reader's table has as many entries as codes read, but one, on top of 257.
        if 257 + number == 1 << width and width < 16:
            filled, group, width = filled + (-group % 8) * width, 0, width + 1
    return out.to_bytes((filled + 7) // 8, "little")


def _write(path, text, window=3000):
    parts = [_compress(text[i:i + window]) for i in range(0, len(text), window)]
    places = [92 + 4 * (len(parts) + 1)]
    for part in parts:
        places.append(places[-1] + len(part))
    head = b"EC02Compressed Data File".ljust(84, b"\0") + struct.pack(">II", window, len(parts))
    path.write_bytes(head + struct.pack(f">{len(places)}I", *places) + b"".join(parts))


def test_windows_go_round(tmp_path):
    rng = random.Random(0)
    text = "".join(rng.choice("abc \n") for _ in range(9000)).encode()
    _write(tmp_path / "bible.data", text, 4000)
    assert read_windows(tmp_path / "bible.data") == text
    assert _uncompress(_compress(b"aaaaaaaaaaaaaaaaaaaa")) == b"a" * 20   # a code that is made while it is read


def _book(folder, chapters):
    lines = ["A textfile."] + [f"Ge{c}:{v} Verse {v} of {c}." for c in range(1, chapters + 1) for v in (1, 2)]
    _write(folder / "bible.data", ("\n".join(lines) + "\n").encode())


def test_chapters_and_the_fixed_split(tmp_path):
    _book(tmp_path, 9)
    book = KingJames(tmp_path, chapters=9, held_out=2)
    texts = {split: dict(book.texts(split)) for split in book.splits()}
    assert {split: len(found) for split, found in texts.items()} == {"train": 5, "validation": 2, "test": 2}
    assert {**texts["train"], **texts["validation"], **texts["test"]}["Ge3"] == "Verse 1 of 3.\nVerse 2 of 3."
    with pytest.raises(RecordError, match="9 chapters, expected 1189"):
        KingJames(tmp_path)
    with pytest.raises(RecordError, match="bible.data: not there"):
        KingJames(tmp_path / "nowhere")
    (tmp_path / "bible.data").write_bytes(b"PK" + bytes(200))
    with pytest.raises(RecordError, match="expected b'EC02'"):
        KingJames(tmp_path)


def test_the_real_one(assets):
    book = KingJames(assets("king-james-bible"))
    texts = {split: dict(book.texts(split)) for split in book.splits()}
    assert {split: len(found) for split, found in texts.items()} == {"train": 1069, "validation": 60, "test": 60}
    whole = {name: text for part in texts.values() for name, text in part.items()}
    assert sum(text.count("\n") + 1 for text in whole.values()) == 31_102
    assert whole["Ge1"].startswith("In the beginning God created the heaven and the earth.\nAnd the earth was")
    assert whole["Rev22"].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
