"""A folder of wav, flac, mp3 or ogg files with transcripts: a CSV, TSV or JSONL table, or a known corpus' own layout.

Layouts, recognised by themselves (--layout forces one):
  librispeech   SPLIT/SPEAKER/CHAPTER/*.flac with SPEAKER-CHAPTER.trans.txt; the splits keep their names
  commonvoice   clips/*.mp3 with train.tsv, dev.tsv (written as validation) and test.tsv
  table         one table per split (train.csv, validation.csv …), or one table, with a split column or all of it train
Licence and origin are the data's own: --licence, --origin.
"""

import csv
import io
import json
import os

from tfhf.data import storage
from tfhf.data.schema import RecordError
from tfhf.data.writing import Dataset, listing_sha256

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
TABLES = (".csv", ".tsv", ".jsonl")
LAYOUTS = ("librispeech", "commonvoice", "table")
COLUMNS = {
    "audio": ("file_name", "path", "audio", "file", "filename", "wav", "audio_path", "audio_filepath", "wav_filename"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "language": ("language", "locale", "lang"),
    "id": ("id",),
    "split": ("split",),
}
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "validation", "validation": "validation",
               "valid": "validation", "val": "validation", "eval": "validation", "test": "test", "testing": "test"}


def add_arguments(parser):
    parser.add_argument("--folder", required=True, help="folder or gs://…")
    parser.add_argument("--layout", choices=LAYOUTS, help="how the folder is laid out (recognised)")
    parser.add_argument("--transcripts", help="the table, in the folder or by path (recognised)")
    parser.add_argument("--column", action="append", default=[], metavar="FIELD=COLUMN",
                        help=f"which column holds a field, one of {', '.join(COLUMNS)} (recognised by common names)")
    parser.add_argument("--language", default="", help="language code where no column says it")
    parser.add_argument("--licence", default="unknown")
    parser.add_argument("--origin", default="")


def open_dataset(arguments):
    return AudioFolder(arguments.folder, layout=arguments.layout, transcripts=arguments.transcripts,
                       columns=parse_columns(arguments.column), language=arguments.language,
                       licence=arguments.licence, origin=arguments.origin)


def parse_columns(pairs):
    """["text=sentence", …] -> {"text": "sentence"}"""
    columns = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not column or field not in COLUMNS:
            raise RecordError(f"--column {pair!r}: expected FIELD=COLUMN, FIELD one of {', '.join(COLUMNS)}")
        columns[field] = column
    return columns


class AudioFolder(Dataset):
    """See the module's docstring. Everything but the sounds is read when this is made."""

    name = "audiofolder"

    def __init__(self, folder, *, layout=None, transcripts=None, columns=None, language="", licence="unknown",
                 origin=""):
        self._folder = os.fspath(folder)
        self._columns = columns or {}
        self._language = language
        self.licence, self.origin = licence, origin
        names = storage.list_names(self._folder)
        if not names:
            raise RecordError(f"{self._folder}: no such folder, or empty; expected sounds and their transcripts")
        # Per folder: what lies in it. Asking for each file on its own would be a request each on gs://.
        self._listings = {}
        self._layout = layout or ("table" if transcripts else self._recognise(names))
        if self._layout == "librispeech":
            self._items = self._librispeech(names)
        elif self._layout == "commonvoice":
            self._items = self._tables([name for name in names if name in ("train.tsv", "dev.tsv", "test.tsv")])
        else:
            self._items = self._tables([transcripts] if transcripts else [n for n in names if n.endswith(TABLES)])
        for split, items in self._items.items():
            refuse_double_ids(self._folder, split, items)

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        items = self._items[split]
        return {"layout": self._layout,
                "listing_sha256": listing_sha256((item["id"], item["text"], item["language"]) for item in items)}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def _recognise(self, names):
        if "clips" in names and any(name in names for name in ("train.tsv", "dev.tsv", "test.tsv")):
            return "commonvoice"
        if any(name.endswith(TABLES) for name in names):
            return "table"
        if self._speakers(names) or any(self._speakers(self._list(storage.join(self._folder, n))) for n in names):
            return "librispeech"
        raise RecordError(f"{self._folder}: no known layout; it holds {names[:8]}. Expected a table {TABLES}, "
                          "LibriSpeech's SPLIT/SPEAKER/CHAPTER or Common Voice's clips/ and *.tsv")

    def _list(self, folder):
        """-> set of names in a folder, remembered."""
        if folder not in self._listings:
            self._listings[folder] = frozenset(storage.list_names(folder))
        return self._listings[folder]

    @staticmethod
    def _speakers(names):
        return sorted((name for name in names if name.isdecimal()), key=int)

    def _librispeech(self, names):
        """-> {split: items}; the folder is the corpus, or one split of it."""
        splits = {}
        if self._speakers(names):
            splits[os.path.basename(self._folder.rstrip("/"))] = self._folder
        else:
            splits = {name: storage.join(self._folder, name) for name in names
                      if self._speakers(self._list(storage.join(self._folder, name)))}
        if not splits:
            raise RecordError(f"{self._folder}: no SPLIT/SPEAKER/CHAPTER in it; it holds {names[:8]}")
        return {split: list(self._librispeech_split(folder)) for split, folder in splits.items()}

    def _librispeech_split(self, folder):
        for speaker in self._speakers(self._list(folder)):
            for chapter in self._speakers(self._list(storage.join(folder, speaker))):
                inside = storage.join(folder, speaker, chapter)
                path = storage.join(inside, f"{speaker}-{chapter}.trans.txt")
                try:
                    lines = storage.read_bytes(path).decode("utf-8").splitlines()
                except FileNotFoundError as error:
                    raise RecordError(f"{path}: missing, expected the chapter's transcripts") from error
                for number, line in enumerate(lines, 1):
                    name, _, text = line.strip().partition(" ")
                    if name + ".flac" not in self._list(inside):
                        raise RecordError(f"{path}, line {number}: {inside}/{name}.flac is missing")
                    yield {"id": name, "audio": storage.join(inside, name + ".flac"), "text": text.strip(),
                           "language": self._language or "en"}

    def _tables(self, names):
        """-> {split: items} from one table per split, or from one table."""
        if not names:
            raise RecordError(f"{self._folder}: no table {TABLES} of transcripts in it; expected one, or --transcripts")
        by_split = {name: SPLIT_NAMES.get(os.path.splitext(os.path.basename(name))[0].lower()) for name in names}
        known = [name for name in names if by_split[name]]
        if not known and len(names) > 1:
            raise RecordError(f"{self._folder}: several tables, {names}; expected one, names like train.csv and "
                              "test.csv, or --transcripts FILE")
        items = {}
        for name in known or names:
            for item, split in self._table(name):
                items.setdefault(split or by_split[name] or "train", []).append(item)
        if not items:
            raise RecordError(f"{self._folder}: no rows in {known or names}")
        return items

    def _table(self, name):
        """Yields (item, split or None) for each row."""
        path = storage.join(self._folder, name)
        if name != os.path.basename(name) and not storage.exists(path):
            path = name
        rows = read_table(path)
        if not rows:
            return
        columns = {field: self._column(field, rows[0], path) for field in COLUMNS}
        for number, row in enumerate(rows, 1):
            file_name, text = row.get(columns["audio"]), row.get(columns["text"])
            if not isinstance(file_name, str) or not file_name or not isinstance(text, str):
                raise RecordError(f"{path}, row {number}: {columns['audio']} is {file_name!r} and {columns['text']} is "
                                  f"{text!r}, expected a file's name and its text")
            key = str(row[columns["id"]]) if columns["id"] else os.path.splitext(file_name)[0]
            language = row.get(columns["language"]) if columns["language"] else ""
            split = row.get(columns["split"]) if columns["split"] else None
            yield {"id": key, "audio": self._sound(file_name, path, number), "text": text.strip(),
                   "language": str(language or self._language)}, SPLIT_NAMES.get(str(split).lower(), split)

    def _column(self, field, row, path):
        if field in self._columns:
            if self._columns[field] not in row:
                raise RecordError(f"{path}: no column {self._columns[field]!r}, it has {list(row)}")
            return self._columns[field]
        found = [name for name in COLUMNS[field] if name in row]
        if not found and field in ("audio", "text"):
            raise RecordError(f"{path}: no column for the {field}; it has {list(row)}, expected one of "
                              f"{COLUMNS[field]} or --column {field}=NAME")
        return found[0] if found else None

    def _sound(self, file_name, table, number):
        """A table's file name -> its path: in the folder, its clips/ or the table's folder, with its ending or not."""
        if storage.is_remote(file_name) or os.path.isabs(file_name):
            return file_name
        for folder in dict.fromkeys((self._folder, storage.join(self._folder, "clips"), os.path.dirname(table))):
            path = storage.join(folder, *file_name.split("/"))
            parent, _, base = path.rpartition("/")
            for ending in ("", *SOUNDS):
                if base + ending in self._list(parent):
                    return path + ending
        raise RecordError(f"{table}, row {number}: no sound {file_name!r} in {self._folder} or its clips/")


def read_table(path):
    """CSV, TSV or JSONL -> list of dicts."""
    try:
        data = storage.read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such table of transcripts") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 (byte {error.start})") from error
    if path.endswith(".jsonl"):
        rows = []
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise RecordError(f"{path}, line {number}: not JSON: {error}") from error
        return rows
    if path.endswith(".tsv"):   # Common Voice's sentences hold bare quotation marks
        return list(csv.DictReader(io.StringIO(data, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    if path.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(data, newline="")))
    raise RecordError(f"{path}: unknown kind of table, expected {TABLES}")


def refuse_double_ids(folder, split, items):
    seen = set()
    for item in items:
        if item["id"] in seen:
            raise RecordError(f"{folder}, split {split}: the id {item['id']!r} occurs twice, expected each once")
        seen.add(item["id"])
