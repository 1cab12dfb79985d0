"""Any Hugging Face `datasets` dataset: the hub, a save_to_disk folder, or a builder over files; streamed or not.

--records speech_text (default), image_label or image_pair: what is written, and so which fields are looked for.
--source NAME[,KEY=VALUE…]; several --source are interleaved. Keys: config, revision, data_files, data_dir;
  text, audio, language, image, label, target, id (which column holds the field); lang (a constant language code).
  A label is a whole number; the names of a ClassLabel column go into the manifest.
  Arrays of integer samples are scaled by their column's type; samples=int16 says it of plain numbers.
  Columns of places in a recording are an error where the audio column holds paths: the writer audiofolder cuts by them;
  ignore=COLUMN+COLUMN says that they are none.
--splits OUT=SOURCE…, for example --splits train=train+validation test=test. A + joins splits.
--filter "COLUMN OP VALUE", OP one of == != >= <= > < ~ (contains); all must hold; applied to every source.
Examples:
  --source mozilla-foundation/common_voice_11_0,config=hi,text=sentence --splits train=train+validation test=test
  --source json,data_files=a.jsonl --source parquet,data_files=b.parquet --probabilities 0.7 0.3
  --records image_label --source food101 --splits train test=validation
"""

import contextlib
import os
import re

import numpy as np

from tfhf.data.audio import resample
from tfhf.data.image_records import image_label, image_pair
from tfhf.data.schema import IMAGE_LABEL, IMAGE_PAIR, SPEECH_TEXT, RecordError, refuse_integers
from tfhf.data.sources import read_source
from tfhf.data.writing import Dataset
from tfrecords import audiofolder, segments

STOPPING = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")
_SOURCE_KEYS = ("config", "revision", "data_files", "data_dir", "lang", "samples", "ignore")
# Types of integer samples -> (what silence is, full scale).
_SCALES = {"uint8": (128, 2**7), "int8": (0, 2**7), "int16": (0, 2**15), "uint16": (2**15, 2**15), "int24": (0, 2**23),
           "int32": (0, 2**31)}
# Record type -> its fields here, and of these the files: columns of bytes, of paths, or of the library's own types.
RECORDS = {SPEECH_TEXT: ("audio", "text", "language", "id"), IMAGE_LABEL: ("image", "label", "id"),
           IMAGE_PAIR: ("image", "target", "id")}
_FILES = ("audio", "image", "target")
_OPTIONAL = ("language", "id")
_FIELDS = tuple(dict.fromkeys(field for fields in RECORDS.values() for field in fields))
COLUMNS = {**audiofolder.COLUMNS, "image": ("image", "img", "picture", "jpg", "png", "input_image"),
           "label": ("label", "labels", "fine_label", "class", "cls"),
           "target": ("target", "ground_truth", "gt", "hr", "output_image", "edited_image")}
_FILTER = re.compile(r"\s*([\w.\- ]+?)\s*(==|!=|>=|<=|>|<|~)\s*(.*?)\s*")
_COMPARE = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, "<": lambda a, b: a < b,
}


def add_arguments(parser):
    parser.add_argument("--source", action="append", required=True, metavar="NAME[,KEY=VALUE…]")
    parser.add_argument("--records", choices=[kind.name for kind in RECORDS], default=SPEECH_TEXT.name,
                        help="type of the records (%(default)s)")
    parser.add_argument("--filter", action="append", default=[], metavar="'COLUMN OP VALUE'")
    parser.add_argument("--probabilities", nargs="+", type=float, help="how often each source is drawn (all alike)")
    parser.add_argument("--stopping", choices=STOPPING, default=STOPPING[0], help="when interleaving ends")
    parser.add_argument("--seed", type=int, default=0, help="of the interleaving (%(default)s)")
    parser.add_argument("--streaming", action="store_true", help="do not download the whole dataset first")
    parser.add_argument("--max-examples", type=int, help="write no more than this many of a split")
    parser.add_argument("--licence", default="unknown")
    parser.add_argument("--origin", default="")


def open_dataset(arguments):
    dataset = HuggingFace(arguments.source, splits=arguments.splits or ["train"], filters=arguments.filter,
                          probabilities=arguments.probabilities, stopping=arguments.stopping, seed=arguments.seed,
                          streaming=arguments.streaming, max_examples=arguments.max_examples, records=arguments.records,
                          licence=arguments.licence, origin=arguments.origin)
    arguments.splits = None   # --splits was OUT=SOURCE here; all of them are written
    return dataset


def parse_source(text):
    """"NAME,config=hi,text=sentence" -> {"name": "NAME", "config": "hi", "text": "sentence"}"""
    name, *pairs = text.split(",")
    source = {"name": name}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in _SOURCE_KEYS + _FIELDS:
            raise RecordError(f"--source {text!r}: {pair!r}, expected KEY=VALUE, KEY one of {_SOURCE_KEYS + _FIELDS}")
        source[key] = value
    if source.get("samples", "int16") not in _SCALES:
        raise RecordError(f"--source {text!r}: samples={source['samples']}, expected one of {tuple(_SCALES)}")
    return source


def parse_filter(text):
    """"age >= 18" -> (column, operator, value as text)"""
    match = _FILTER.fullmatch(text)
    if not match:
        raise RecordError(f"--filter {text!r}: expected 'COLUMN OP VALUE', OP one of {' '.join(_COMPARE)} ~")
    return match.groups()


def passes(value, operator, wanted):
    """Does a column's value pass? Numbers are compared as numbers, the rest as text; a missing value never passes."""
    if value is None:
        return False
    if operator == "~":
        return wanted in str(value)
    if isinstance(value, bool):
        return _COMPARE[operator](str(value).lower(), wanted.lower())
    if isinstance(value, (int, float)):
        try:
            return _COMPARE[operator](value, float(wanted))
        except ValueError as error:
            raise RecordError(f"--filter: the column holds the number {value}, got {wanted!r} for it") from error
    return _COMPARE[operator](str(value), wanted)


class HuggingFace(Dataset):
    """See the module's docstring. ids are the id column's, or else the running number in the written split."""

    name = "hf"

    def __init__(self, sources, *, splits=("train",), filters=(), probabilities=None, stopping=STOPPING[0], seed=0,
                 streaming=False, max_examples=None, records=SPEECH_TEXT.name, licence="unknown", origin=""):
        self.record_type, self._fields = next((kind, RECORDS[kind]) for kind in RECORDS if kind.name == records)
        self._sources = [parse_source(source) for source in sources]
        self._splits = {out: source or out for out, _, source in (split.partition("=") for split in splits)}
        self._filters = [parse_filter(text) for text in filters]
        self._probabilities, self._stopping, self._seed = probabilities, stopping, seed
        self._streaming, self._max_examples = streaming, max_examples
        self.licence = licence
        self.origin = origin or " + ".join(source["name"] for source in self._sources)
        if probabilities and (len(probabilities) != len(self._sources) or abs(sum(probabilities) - 1) > 1e-6
                              or min(probabilities) < 0):
            raise RecordError(f"--probabilities {probabilities}: expected {len(self._sources)}, one per source, sum 1")
        if stopping not in STOPPING:
            raise RecordError(f"--stopping {stopping!r}: expected one of {STOPPING}")

    def splits(self):
        return tuple(self._splits)

    def options(self, split):
        options = {"sources": self._sources, "split": self._splits[split], "filters": self._filters, "seed": self._seed,
                   "probabilities": self._probabilities, "stopping": self._stopping,
                   "max_examples": self._max_examples,
                   "streaming": self._streaming}   # the library interleaves a stream in another order
        return {**options, "classes": self._classes(split) or None} if "label" in self._fields else options

    def examples(self, split, start=0):
        import datasets

        parts = [self._open(source, self._splits[split]) for source in self._sources]
        if len(parts) > 1:   # an id column counts only where every source has one
            shared = set.intersection(*(set(part.column_names) for part in parts))
            parts = [part.select_columns(sorted(shared)) for part in parts]
            joined = datasets.interleave_datasets(parts, probabilities=self._probabilities, seed=self._seed,
                                                  stopping_strategy=self._stopping)
        else:
            joined = parts[0]
        if self._max_examples is not None:
            joined = joined.take(self._max_examples)
        types = {_type_of_samples(part) for part in parts} if "audio" in self._fields else {None}
        stated = {source.get("samples") for source in self._sources}
        if len(types) > 1 or len(stated) > 1:
            raise RecordError(f"the sources hold arrays of different types of samples, {sorted(map(str, types))} "
                              f"(samples= {sorted(map(str, stated))}), expected one")
        for number, row in enumerate(_rows(joined.skip(start) if start else joined, self.origin, start), start):
            key = row.get("id")
            item = {field: row[field] for field in self._fields if field not in _OPTIONAL}
            if isinstance(item.get("audio"), dict) and "array" in item["audio"]:
                item["audio"] = {**item["audio"], "type": min(stated) or min(types)}
            if "language" in self._fields:
                item["language"] = row.get("language") or ""
            yield {"id": f"{number:08d}" if key is None else str(key), **item}

    def sources(self, item):
        """Files by their local path; what the dataset holds itself by its content. See Dataset.sources."""
        found = []
        for field in (field for field in _FILES if isinstance(item.get(field), dict)):
            value = item[field]
            path = value.get("path")
            if "array" in value:
                found.append((field, np.asarray(value["array"]).tobytes()))
            elif value.get("bytes"):
                found.append((path or field, value["bytes"]))
            elif path and "://" in path:
                found.append((path, path.encode("utf-8")))   # read from afar: only its name is compared
            elif path:
                found.append(path)
        return found

    def load(self, item):
        name = f"example {item['id']!r}"
        if self.record_type is SPEECH_TEXT:
            return self._speech(item, name)
        images, names = zip(*(_image(item[field], name, field) for field in ("image", "target") if field in item))
        if self.record_type is IMAGE_PAIR:
            return image_pair(item["id"], *images, names)
        if not isinstance(item["label"], int):
            raise RecordError(f"{name}: the label is {item['label']!r}, expected a whole number")
        return image_label(item["id"], images[0], item["label"], names[0])

    def _speech(self, item, name):
        audio, rate_hz = item["audio"], self.record_type.sample_rate_hz
        if isinstance(audio, dict) and "array" in audio:
            rate = audio.get("sampling_rate")
            if not isinstance(rate, (int, float)) or rate <= 0:
                raise RecordError(f"{name}: its sampling_rate is {rate!r}, expected a number of Hz")
            audio = resample(_samples(audio["array"], audio.get("type"), name), rate, rate_hz, name)
        elif isinstance(audio, dict):
            called = f"{name} ({audio.get('path') or 'bytes'})"
            audio = self.sound({"audio": _content(audio, name, "audio")}, called).samples
        else:
            raise RecordError(f"{name}: the audio column holds a {type(audio).__name__}, expected a sound "
                              "file's bytes, its path, or {'array', 'sampling_rate'}")
        if not isinstance(item["text"], str):
            raise RecordError(f"{name}: the text is {item['text']!r}, expected str")
        return {**item, "audio": audio, "text": item["text"].strip()}

    def _open(self, source, split):
        """-> dataset of the columns that the record type has here, files as dicts; filtered. The optional ones may be
        missing, but for the language."""
        import datasets

        where = f"source {source['name']}, split {split}"
        parts = [self._load_split(source, part) for part in split.split("+")]
        with _library_errors(where):
            dataset = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
            if dataset.features is None:   # streamed files say what they hold only when read
                dataset = dataset._resolve_features()
            features = dataset.features
            dataset = _undecoded(dataset)
        for column, operator, wanted in self._filters:
            if column not in features:
                raise RecordError(f"--filter: {where} has no column {column!r}, it has {list(features)}")
            dataset = dataset.filter(lambda value, operator=operator, wanted=wanted: passes(value, operator, wanted),
                                     input_columns=[column])
        columns = {field: found for field in self._fields if (found := _column(source, field, features, where))}
        if "audio" in columns:
            _refuse_places(features, columns["audio"], source.get("ignore", "").split("+"), where)
        if len(set(columns.values())) < len(columns):
            raise RecordError(f"{where}: one column is taken for two fields: {columns}; name them in --source")
        dataset = dataset.select_columns(list(columns.values()))
        dataset = dataset.rename_columns({column: field for field, column in columns.items() if column != field})
        if "language" in self._fields and "language" not in columns:
            known = datasets.Features({field: dataset.features[field] for field in columns})
            known["language"] = datasets.Value("string")
            dataset = dataset.map(_Constant("language", source.get("lang", "")), features=known)
        for field in _FILES:
            if field in columns:
                dataset = _as_structs(dataset, field)
        return dataset

    def _classes(self, split):
        """-> names of the labels, [] where the column holds bare numbers; RecordError where sources differ."""
        import datasets

        kinds = [self._open(source, self._splits[split]).features["label"] for source in self._sources]
        names = [list(kind.names) if isinstance(kind, datasets.ClassLabel) else [] for kind in kinds]
        if any(other != names[0] for other in names):
            raise RecordError(f"the sources name their labels differently: {names}, expected the same names in each")
        return names[0]

    def _load_split(self, source, split):
        import datasets

        name = source["name"]
        where = f"source {name}, split {split}"
        with _library_errors(f"{where}: cannot be opened"):
            if os.path.isdir(name) and any(os.path.exists(os.path.join(name, known))
                                           for known in ("state.json", "dataset_dict.json")):
                loaded = datasets.load_from_disk(name)
                if isinstance(loaded, datasets.DatasetDict):
                    if split not in loaded:
                        raise RecordError(f"{where}: no such split, it has {list(loaded)}")
                    loaded = loaded[split]
                return loaded.to_iterable_dataset() if self._streaming else loaded
            data_files = source.get("data_files")
            if data_files is not None and split != "train":
                data_files = {split: data_files}   # a builder over plain files calls its only split train
            return datasets.load_dataset(name, source.get("config"), split=split, streaming=self._streaming,
                                         revision=source.get("revision"), data_files=data_files,
                                         data_dir=source.get("data_dir"))


@contextlib.contextmanager
def _library_errors(where):
    """Whatever the library or a builder raises becomes a RecordError that says where"""
    try:
        yield
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _rows(dataset, origin, start):
    """A dataset's rows; what the library raises while it reads one names it"""
    rows, number = iter(dataset), start
    while True:
        with _library_errors(f"{origin}: row {number}"):
            row = next(rows, None)
        if row is None:
            return
        yield row
        number += 1


def _type_of_samples(dataset):
    """The type of a column of {"array", "sampling_rate"}, such as "int16", or None"""
    kind = (dataset.features or {}).get("audio")
    array = kind.get("array") if isinstance(kind, dict) else None
    return getattr(getattr(array, "feature", None), "dtype", None)


def _samples(array, kind, name):
    """A column's array -> float32 [n] in [-1, 1]; integers are scaled by their type."""
    values = np.asarray(array)
    if values.dtype.kind == "f":
        refuse_integers(values, name)
        return values.astype(np.float32)
    if values.dtype.kind not in "iu" or kind not in _SCALES:
        raise RecordError(f"{name}: its samples are {kind or values.dtype}, expected floats in [-1, 1], or integers "
                          "whose type says their full scale, or samples=TYPE in --source, TYPE one of "
                          f"{', '.join(_SCALES)}")
    silence, full = _SCALES[kind]
    values = values.astype(np.int64) - silence
    if values.size and not -full <= values.min() <= values.max() < full:
        raise RecordError(f"{name}: samples from {values.min() + silence} to {values.max() + silence}, expected those "
                          f"of {kind}")
    return (values / full).astype(np.float32)


class _Constant:
    """Adds a column that is the same in every row; a class, since `datasets` hashes what it maps by pickling it."""

    def __init__(self, column, value):
        self._row = {column: value}

    def __call__(self, row):
        return self._row


def _struct():
    import datasets

    return {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def _undecoded(dataset):
    """Audio and image columns as plain {"bytes", "path"}: we decode; the library's Audio type would need torchcodec,
    and its Image type would give pixels, not the file.

    Before anything else is done with the dataset: a streamed one decodes as soon as rows are selected or filtered.
    """
    import datasets

    for column, kind in dataset.features.items():
        if isinstance(kind, (datasets.Audio, datasets.Image)):
            dataset = dataset.cast_column(column, type(kind)(decode=False)).cast_column(column, _struct())
    return dataset


def _as_structs(dataset, column):
    """A column of paths or of bytes as {"bytes", "path"} too, so that sources that differ can be interleaved."""
    import datasets

    kind = dataset.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string", "binary", "large_binary"):
        return dataset
    field = "path" if kind.dtype.endswith("string") else "bytes"
    features = datasets.Features({**dataset.features, column: _struct()})
    return dataset.map(_as_struct, input_columns=[column], fn_kwargs={"column": column, "field": field},
                       features=features)


def _as_struct(value, column, field):
    return {column: {"bytes": None, "path": None, field: value}}


def _column(source, field, features, where):
    if field in source:
        if source[field] not in features:
            raise RecordError(f"{where}: no column {source[field]!r}, it has {list(features)}")
        return source[field]
    if field == "language" and "lang" in source:
        return None
    found = [name for name in COLUMNS[field] if name in features]
    if field in ("audio", "image"):   # a column that says it is audio goes before one that is called path
        own = [name for name, kind in features.items() if type(kind).__name__ == field.capitalize()]
        found = [name for name in found if name in own] + own + found
    if not found and field not in _OPTIONAL:
        raise RecordError(f"{where}: no column for the {field}; it has {list(features)}, expected one of "
                          f"{COLUMNS[field]} or {field}=COLUMN in --source")
    return found[0] if found else None


def _refuse_places(features, audio, ignored, where):
    """RecordError where files are named by their paths, and another column says which part of them a row is"""
    if getattr(features[audio], "dtype", None) not in ("string", "large_string"):
        return   # sounds inside the dataset were cut when it was made
    for name in features:
        meant = segments.meaning(name)
        if meant is not None and meant[0] != "duration" and name not in ignored:
            raise RecordError(f"{where}: the column {name!r} looks like a place in a recording; expected whole "
                              "recordings, or `tfhf records audiofolder`, which cuts them, or ignore=COLUMN in "
                              "--source")


def _image(value, name, field):
    """A row's image column -> (bytes of the file, what to call it)"""
    if not isinstance(value, dict) or "bytes" not in value:
        raise RecordError(f"{name}: the {field} column holds a {type(value).__name__}, expected an image file's bytes, "
                          "or its path")
    content = _content(value, name, field)
    where = f"{name} ({field}, {value.get('path') or 'bytes'})"
    try:
        return (content if isinstance(content, bytes) else read_source(content)), where
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from error


def _content(value, name, field):
    """{"bytes", "path"} -> the file's bytes, or its local path."""
    if value.get("bytes"):
        return value["bytes"]
    path = value.get("path")
    if not path:
        raise RecordError(f"{name}: neither bytes nor a path in its {field} column")
    if "://" not in path:
        return path
    import fsspec   # comes with datasets; streamed archives have paths like zip://a.wav::https://…

    with fsspec.open(path, "rb") as file:
        return file.read()
