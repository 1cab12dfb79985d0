"""A folder of sound files with transcripts: a table, or a known corpus' own layout.

Layouts, recognised by themselves (--layout forces one):
  commonvoice   clips/*.mp3 with train.tsv, dev.tsv (written as validation) and test.tsv
  table         one table per split (train.csv, val_manifest.json …), or one table, with a split column or all of it
                train: CSV, TSV, JSON lines, JSON, gzipped or not; Hugging Face's metadata.csv; NeMo's manifests
  audiofolder   SPLIT/metadata.csv (or .jsonl, .tsv) beside the sounds of each split, as Hugging Face has it
  stm           *.stm, whose lines cut the recordings of their names: FILE CHANNEL SPEAKER BEGIN END <LABELS> TEXT
  librispeech   SPLIT/SPEAKER/CHAPTER/*.flac with SPEAKER-CHAPTER.trans.txt; the splits keep their names
  beside        NAME.txt or NAME.lab beside NAME.wav, in any folder below; a NAME.txt of Audacity's labels and a
                NAME.TextGrid of Praat cut the recording (--tier); a folder of a split's name is the split
  classes       [SPLIT/]CLASS/*.wav: the class is the language where all are codes of languages, otherwise the text
                (--label)
Columns of start and end, offset and duration cut the recording; a duration alone is compared with its length.
Sounds are mixed to one channel (--channel). Licence and origin are the data's own: --licence, --origin.
"""

import os
import re

from tfhf.data import storage
from tfhf.data.audio import CHANNELS, EACH, LEFT, MIX, RIGHT
from tfhf.data.schema import RecordError, utf8
from tfhf.data.writing import Dataset, listing_sha256
from tfrecords import segments, tables
from tfrecords.sounds import Sounds, is_sound

LAYOUTS = ("commonvoice", "table", "audiofolder", "stm", "librispeech", "beside", "classes")
COLUMNS = {
    "audio": ("file_name", "path", "audio", "file", "filename", "wav", "audio_path", "audio_filepath", "wav_filename"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "language": ("language", "locale", "lang"),
    "id": ("id",),
    "split": ("split",),
}
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "validation", "validation": "validation",
               "valid": "validation", "val": "validation", "eval": "validation", "test": "test", "testing": "test"}
_COMMON_VOICE = ("train.tsv", "dev.tsv", "test.tsv")
_BESIDE = (".txt", ".lab", ".TextGrid", ".normalized.txt")
_NO_TRANSCRIPTS = {"readme", "license", "licence", "copying", "changelog", "notes", "info", "speakers"}
# Segments that a scorer leaves out; they have no transcript.
_NO_UTTERANCES = {"ignore_time_segment_in_scoring", "inter_segment_gap"}


def add_arguments(parser):
    parser.add_argument("--folder", required=True, help="folder or gs://…")
    parser.add_argument("--layout", choices=LAYOUTS, help="how the folder is laid out (recognised)")
    parser.add_argument("--transcripts", help="the table, in the folder or by path (recognised)")
    parser.add_argument("--column", action="append", default=[], metavar="FIELD=COLUMN",
                        help="which column holds a field (recognised by common names): "
                             f"{', '.join([*COLUMNS, *segments.FIELDS])}")
    parser.add_argument("--ignore-column", action="append", default=[], metavar="COLUMN",
                        help="a column that looks like a place in the recording, and is none")
    parser.add_argument("--channel", choices=CHANNELS, default=MIX,
                        help="of sounds with several: their mean, one, or a record of each of two (%(default)s)")
    parser.add_argument("--tier", help="the tier of TextGrids to take (the only one with texts)")
    parser.add_argument("--label", choices=("language", "text"), help="what the folders of the layout classes say")
    parser.add_argument("--language", default="", help="language code where no column says it")
    parser.add_argument("--licence", default="unknown")
    parser.add_argument("--origin", default="")


def open_dataset(arguments):
    return AudioFolder(arguments.folder, layout=arguments.layout, transcripts=arguments.transcripts,
                       columns=parse_columns(arguments.column), ignored=arguments.ignore_column,
                       channel=arguments.channel, tier=arguments.tier, label=arguments.label,
                       language=arguments.language, licence=arguments.licence, origin=arguments.origin)


def parse_columns(pairs):
    """["text=sentence", …] -> {"text": "sentence"}"""
    fields, columns = [*COLUMNS, *segments.FIELDS], {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not column or field not in fields:
            raise RecordError(f"--column {pair!r}: expected FIELD=COLUMN, FIELD one of {', '.join(fields)}")
        columns[field] = column
    return columns


class AudioFolder(Dataset):
    """See the module's docstring. Everything but the sounds is read when this is made.

    What is wrong with one row or clip is its item's problem: it stops the writer, or is skipped, when it is reached.
    """

    name = "audiofolder"

    def __init__(self, folder, *, layout=None, transcripts=None, columns=None, ignored=(), channel=MIX, tier=None,
                 label=None, language="", licence="unknown", origin=""):
        self.folder = os.fspath(folder)
        self._columns, self._ignored = columns or {}, tuple(ignored)
        self._channel, self._tier, self._label, self._language = channel, tier, label, language
        self.licence, self.origin = licence, origin
        self._sounds = Sounds(self.folder)
        names = self._sounds.names(self.folder)
        if not names:
            raise RecordError(f"{self.folder}: no such folder, or empty; expected sounds and their transcripts")
        self._layout = layout or ("table" if transcripts else self._recognise(names))
        self._items = {}
        for split, item in self._rows(names, transcripts):
            self._items.setdefault(split, []).extend(self._of_channels(item))
        if not self._items:
            raise RecordError(f"{self.folder}: nothing in layout {self._layout}; it holds {sorted(names)[:8]}")
        for items in self._items.values():
            _mark_double_ids(items)

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        options = {"layout": self._layout, "listing_sha256": listing_sha256(
            (item["id"], item.get("text", ""), item.get("language", "")) for item in self._items[split])}
        return options if self._channel == MIX else {**options, "channel": self._channel}

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        if "problem" in item:
            raise RecordError(item["problem"])
        rest = {key: item[key] for key in ("id", "text", "language")}
        number = item.get("channel_number")
        sound = self.sound(item if number is None else {**item, "channel": EACH})
        name = item["audio"]
        if self._channel == EACH and sound.channels != 2:
            raise RecordError(f"{name}: {sound.channels} channels, expected two for --channel each")
        part = segments.Part(stated_s=item.get("stated_s"))
        segments.check_stated(part, sound.file_samples / sound.file_rate_hz, name)
        samples = sound.samples
        if number is not None:
            if number >= sound.channels:
                raise RecordError(f"{name}: one channel, expected two for {item['id']!r}")
            samples = samples[:, number]
        return {**rest, "audio": samples}

    def _of_channels(self, item):
        """An item -> the items that the option --channel makes of it"""
        if "problem" in item or "channel_number" in item or self._channel == MIX:
            return [item]
        if self._channel == EACH:
            return [{**item, "id": f"{item['id']}-{side}", "channel": side} for side in (LEFT, RIGHT)]
        return [{**item, "channel": self._channel}]

    # Which layout it is.

    def _recognise(self, names):
        below = {name: storage.join(self.folder, name) for name in self._sounds.folders(self.folder)}
        if "clips" in names and any(name in names for name in _COMMON_VOICE):
            return "commonvoice"
        if any(map(_is_transcripts, names)):
            return "table"
        if any(self._metadata(folder) for folder in below.values()):
            return "audiofolder"
        if self._speakers(names) or any(self._speakers(self._sounds.names(folder)) for folder in below.values()):
            return "librispeech"
        found = list(self._sounds.walk())
        if any(name.lower().endswith(".stm") for _, files in found for name in files):
            return "stm"
        for _, files in found:
            stems = {os.path.splitext(name)[0] for name in files if is_sound(name)}
            if any(stem + ending in files for stem in stems for ending in _BESIDE):
                return "beside"
        if not any(map(is_sound, names)) and any(is_sound(name) for _, files in found for name in files):
            return "classes"
        raise RecordError(f"{self.folder}: no known layout; it holds {sorted(names)[:8]}. Expected a table "
                          f"{tables.ENDINGS}, NAME.txt beside NAME.wav, folders of classes, LibriSpeech's "
                          "SPLIT/SPEAKER/CHAPTER, Common Voice's clips/ and *.tsv, or *.stm")

    def _rows(self, names, transcripts):
        """-> iterator of (split, item)"""
        if self._layout == "commonvoice":
            return self._tables([name for name in _COMMON_VOICE if name in names])
        if self._layout == "table":
            return self._tables([transcripts] if transcripts else sorted(filter(_is_transcripts, names)))
        return {"audiofolder": self._split_tables, "stm": self._stm, "librispeech": self._librispeech,
                "beside": self._beside, "classes": self._classes}[self._layout]()

    # Tables.

    def _tables(self, names):
        """One table per split, or one table."""
        if not names:
            raise RecordError(f"{self.folder}: no table {tables.ENDINGS} of transcripts in it; expected one, or "
                              "--transcripts")
        known = {name: split for name in names if (split := SPLIT_NAMES.get(_stem(name).lower()))}
        if not known:
            known = {name: split for name in names if (split := _split_in(_stem(name)))}
        if not known and len(names) > 1:
            raise RecordError(f"{self.folder}: several tables, {names}; expected one, names like train.csv and "
                              "test.csv, or --transcripts FILE")
        count = 0
        for name in known or names:
            path = storage.join(self.folder, name)
            if name != os.path.basename(name) and not storage.exists(path):
                path = name
            for item, split in self._table(path):
                count += 1
                yield split or known.get(name) or "train", item
        if not count:
            raise RecordError(f"{self.folder}: no rows in {list(known or names)}")

    def _split_tables(self):
        """Hugging Face's: a metadata file in the folder of each split."""
        for name in self._sounds.folders(self.folder):
            folder = storage.join(self.folder, name)
            found = self._metadata(folder)
            if len(found) > 1:
                raise RecordError(f"{folder}: several tables, {found}; expected one")
            for item, split in self._table(storage.join(folder, found[0]), beside=True) if found else ():
                yield split or SPLIT_NAMES.get(name.lower(), name), item

    def _metadata(self, folder):
        return sorted(name for name in self._sounds.names(folder)
                      if tables.is_table(name) and _stem(name).lower() in ("metadata", "transcripts"))

    def _table(self, path, beside=False):
        """Yields (item, split or None) for each row."""
        known = [name for names in COLUMNS.values() for name in names]
        table = tables.Table(path, [*known, *self._columns.values()],
                             lambda cells: any(is_sound(cell.strip().strip('"')) for cell in cells.values()))
        rows = list(table.rows())
        good = [row.values for row in rows if not row.problem]
        columns = {field: self._column(field, table, good) for field in COLUMNS} if good else {}
        chosen = {field: column for field, column in self._columns.items() if field in segments.FIELDS}
        for column in (*chosen.values(), *self._ignored):
            if good and not any(column in values for values in good):
                raise RecordError(f"{path}: no column {column!r}, it has {list(good[0])}")
        places = segments.Columns(path, good, chosen, self._ignored, table.delimiter != ",")
        by_folders = _stem(path).lower() == "metadata" and not columns.get("split")
        for row in rows:
            split = None
            try:
                if row.problem:
                    raise RecordError(row.problem)
                item, split = self._item(row.values, columns, places, os.path.dirname(path), beside)
                if by_folders and split is None and not beside:   # metadata.csv above train/ and test/
                    split = SPLIT_NAMES.get(self._sounds.inside(item["audio"]).split("/")[0].lower())
            except ValueError as error:
                named = row.values.get(columns.get("audio"))
                key = (os.path.splitext(named)[0] if isinstance(named, str) and named
                       else row.where.removeprefix(os.path.dirname(path) + "/"))
                item = {"id": key, "problem": f"{row.where}: {error}", "where": row.where}
            yield item, split

    def _item(self, row, columns, places, folder, beside):
        """A row -> (item, split or None). ValueError says what is wrong, not where."""
        file_name, text = row.get(columns["audio"]), row.get(columns["text"])
        if not isinstance(file_name, str) or not file_name.strip() or not isinstance(text, str):
            raise RecordError(f"{columns['audio']} is {file_name!r} and {columns['text']} is {text!r}, expected a "
                              "file's name and its text")
        file_name = file_name.strip()
        for value, field in ((file_name, "audio"), (text, "text")):
            utf8(value, columns[field])
        part = places.part(row)
        audio = self._sounds.find(file_name, folder, first=beside)
        key = row.get(columns["id"]) if columns["id"] else None
        if columns["id"] and key in (None, ""):
            raise RecordError(f"{columns['id']} is {key!r}, expected an id")
        if key is None:
            key = os.path.splitext(self._sounds.inside(file_name).replace("\\", "/").lstrip("/"))[0]
            key = key if part.whole else segments.part_id(key, part)
        item = {"id": utf8(str(key), "id").decode(), "audio": audio, "text": text.strip(),
                "language": str((row.get(columns["language"]) if columns["language"] else "") or self._language)}
        split = row.get(columns["split"]) if columns["split"] else None
        if split and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", str(split)):
            raise RecordError(f"{columns['split']} is {split!r}, expected a name like train, validation or test")
        return _with_part(item, part), SPLIT_NAMES.get(str(split).lower(), split) or None

    def _column(self, field, table, rows):
        names = table.columns or list(dict.fromkeys(name for row in rows for name in row))
        if field in self._columns:
            if self._columns[field] not in names:
                raise RecordError(f"{table.path}: no column {self._columns[field]!r}, it has {names}")
            return self._columns[field]
        by_case = {name.casefold(): name for name in reversed(names)}
        found = [by_case[name] for name in COLUMNS[field] if name in by_case]
        if not found and field in ("audio", "text"):
            hint = ": is the header missing?" if any(map(is_sound, names)) else ""
            raise RecordError(f"{table.path}: no column for the {field}; it has {names}, expected one of "
                              f"{COLUMNS[field]} or --column {field}=NAME{hint}")
        return (table.column(found[0]) or found[0]) if found else None

    # Other layouts.

    def _stm(self):
        by_stem = {}
        for folder, files in self._sounds.walk():
            for name in filter(is_sound, files):
                by_stem.setdefault(os.path.splitext(name)[0], []).append(storage.join(folder, name))
        for folder, files in self._sounds.walk():
            for name in files:
                if not name.lower().endswith(".stm"):
                    continue
                path = storage.join(folder, name)
                above = self._sounds.inside(path).split("/")[0].lower()
                split = SPLIT_NAMES.get(above) or _split_in(_stem(name)) or "train"
                for number, row, problem in segments.stm_rows(path):
                    if not problem and row["text"].lower() in _NO_UTTERANCES:
                        continue
                    found = by_stem.get(row.get("file"), [])
                    if not problem and len(found) != 1:
                        problem = f"{len(found)} sounds are named {row['file']!r}, expected one"
                    if problem:
                        where = f"{path}, line {number}"
                        yield split, {"id": f"{name}, line {number}", "problem": f"{where}: {problem}", "where": where}
                        continue
                    key = f"{row['file']}-{row['channel'] + 1}"
                    item = {"id": segments.part_id(key, row["part"]), "audio": found[0], "text": row["text"],
                            "language": self._language, "channel_number": row["channel"]}
                    yield split, _with_part(item, row["part"])

    @staticmethod
    def _speakers(names):
        return sorted((name for name in names if name.isdecimal()), key=int)

    def _librispeech(self):
        """The folder is the corpus, or one split of it."""
        names = self._sounds.names(self.folder)
        splits = {}
        if self._speakers(names):
            splits[os.path.basename(self.folder.rstrip("/"))] = self.folder
        else:
            splits = {name: storage.join(self.folder, name) for name in sorted(names)
                      if self._speakers(self._sounds.names(storage.join(self.folder, name)))}
        if not splits:
            raise RecordError(f"{self.folder}: no SPLIT/SPEAKER/CHAPTER in it; it holds {sorted(names)[:8]}")
        for split, folder in splits.items():
            for item in self._librispeech_split(folder):
                yield split, item

    def _librispeech_split(self, folder):
        for speaker in self._speakers(self._sounds.names(folder)):
            for chapter in self._speakers(self._sounds.names(storage.join(folder, speaker))):
                inside = storage.join(folder, speaker, chapter)
                path = storage.join(inside, f"{speaker}-{chapter}.trans.txt")
                if os.path.basename(path) not in self._sounds.names(inside):
                    raise RecordError(f"{path}: missing, expected the chapter's transcripts")
                for line in tables.read_lines(path):
                    where = f"{path}, line {line.number}"
                    name, _, text = line.text.strip().partition(" ")
                    problem = line.problem
                    if not problem and not name:
                        continue
                    if not problem and name + ".flac" not in self._sounds.names(inside):
                        problem = f"{inside}/{name}.flac is missing"
                    if problem:
                        yield {"id": name or f"{speaker}-{chapter}, line {line.number}",
                               "problem": f"{where}: {problem}", "where": where}
                    else:
                        yield {"id": name, "audio": storage.join(inside, name + ".flac"), "text": text.strip(),
                               "language": self._language or "en"}

    def _beside(self):
        for folder, files in self._sounds.walk():
            inside = self._sounds.inside(folder + "/")
            split = SPLIT_NAMES.get(inside.split("/")[0].lower(), "train")
            stems = [os.path.splitext(name)[0] for name in files if is_sound(name)]
            for name in filter(is_sound, files):
                key = inside + os.path.splitext(name)[0]
                audio = storage.join(folder, name)
                try:
                    yield from ((split, item) for item in self._with_transcript(key, audio, files))
                except RecordError as error:
                    yield split, {"id": key, "audio": audio, "problem": str(error), "where": audio}
            for name in files if stems else ():
                stem, ending = os.path.splitext(name)
                stem = stem.removesuffix(".normalized").removesuffix(".original")
                alone = stem not in stems and stem.lower() not in _NO_TRANSCRIPTS
                if alone and ending in (".txt", ".lab", ".TextGrid"):
                    where = storage.join(folder, name)
                    yield split, {"id": inside + name, "problem": f"{where}: no sound {stem!r} beside it",
                                  "where": where}

    def _with_transcript(self, key, audio, files):
        """A sound -> its items"""
        stem = os.path.splitext(os.path.basename(audio))[0]
        found = [stem + ending for ending in _BESIDE if stem + ending in files]
        if not found:
            raise RecordError(f"{audio}: no transcript beside it, expected {stem}.txt")
        if len(found) > 1:
            raise RecordError(f"{audio}: several transcripts, {found}; expected one")
        path = storage.join(os.path.dirname(audio), found[0])
        if found[0].endswith(".TextGrid"):
            parts = segments.text_grid(path, self._tier)
        else:
            lines = list(tables.read_lines(path))
            problem = next((f"{path}, line {line.number}: {line.problem}" for line in lines if line.problem), "")
            if problem:
                raise RecordError(problem)
            text = "".join(line.text for line in lines)
            parts = segments.label_rows(text) or [(segments.Part(), " ".join(text.split()))]
        for part, text in parts:
            item = {"id": key if part.whole else segments.part_id(key, part), "audio": audio, "text": text,
                    "language": self._language}
            yield _with_part(item, part)

    def _classes(self):
        found = {}   # (split, class): paths
        tops = [name for name in self._sounds.folders(self.folder)]
        split_tops = all(name.lower() in SPLIT_NAMES for name in tops)
        for folder, files in self._sounds.walk():
            parts = self._sounds.inside(folder + "/").strip("/").split("/")
            split = SPLIT_NAMES[parts[0].lower()] if split_tops and parts[0] else "train"
            label = parts[1:2] if split_tops else parts[:1]
            for name in filter(is_sound, files):
                if not label or not label[0]:
                    raise RecordError(f"{storage.join(folder, name)}: a sound beside folders of classes, expected it "
                                      "in one of them")
                found.setdefault((split, label[0]), []).append(storage.join(folder, name))
        labels = {label for _, label in found}
        kind = self._label or ("language" if all(map(_is_language, labels)) else "text")
        for (split, label), paths in found.items():
            for path in paths:
                said = {"text": "", "language": label} if kind == "language" else {"text": label,
                                                                                   "language": self._language}
                yield split, {"id": self._sounds.inside(path), "audio": path, **said}


def _stem(path):
    """The name of a table without its folder and its endings: a/train.csv.gz -> train"""
    name = os.path.basename(path)
    return os.path.splitext(name.removesuffix(".gz") if name.lower().endswith(".gz") else name)[0]


def _split_in(stem):
    """an4_val_manifest -> validation; None where no word, or more than one, is a split's name"""
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z0-9]+", stem.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _is_transcripts(name):
    """Is it a table of transcripts? A .json only where its name says so: many others lie about."""
    if not tables.is_table(name) or name.startswith("."):
        return False
    words = re.split(r"[^a-z0-9]+", _stem(name).lower())
    named = _split_in(_stem(name)) or {"manifest", "metadata", "transcripts", "transcript"} & set(words)
    return bool(named) or tables.ending(name) != ".json"


def _is_language(name):
    from tfhf.models.whisper.special_tokens import LANGUAGES

    return re.split("[-_]", name)[0] in LANGUAGES


def _with_part(item, part):
    if not part.whole:
        item |= {"offset": part.offset, "duration": part.duration}
    if part.stated_s is not None:
        item["stated_s"] = part.stated_s
    return item


def _mark_double_ids(items):
    """A second item of the same id cannot be used."""
    seen = set()
    for number, item in enumerate(items):
        if "problem" in item:
            continue
        if item["id"] in seen:
            problem = f"{item['audio']}: the id {item['id']!r} occurs twice, expected each once"
            items[number] = {**item, "problem": problem}
        seen.add(item["id"])


def refuse_double_ids(folder, split, items):
    """RecordError where two items of a split have one id."""
    seen = set()
    for item in items:
        if item["id"] in seen:
            raise RecordError(f"{folder}, split {split}: the id {item['id']!r} occurs twice, expected each once")
        seen.add(item["id"])
