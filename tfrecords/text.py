"""Text into records: .txt, .jsonl, .json, .csv, .tsv, .parquet, as token rows for language models or labelled texts.

  tfhf records text --files train=book.txt --held-out 0.05 --train-tokenizer 8000 --length 512 --out DIR
  tfhf records text --files train=a.jsonl b.parquet validation=c.jsonl --tokenizer gpt2/tokenizer.json --out DIR
  tfhf records text --files train=reviews.csv --label-field stars --classes bad,good --out DIR
All but .parquet may be gzipped (.csv.gz). Tables are read as tfrecords/tables.py says.
Tokens: each document ends with the end token; documents are cut and packed into rows of --length. The tokenizer lies
beside the records, DIR/tokenizer.json, and its fingerprint in their manifests. With --label-field, text_label records.
"""

import collections
import glob
import hashlib
import itertools
import os
import re
import tempfile

from tfhf.data import storage
from tfhf.data.schema import TEXT_LABEL, TOKENS, RecordError, utf8
from tfhf.data.sources import file_entry
from tfhf.data.text import TOKENIZER_OPTION, text_label, token_rows
from tfhf.data.writing import Dataset
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.folder import read_tokenizer_json
from tfrecords import tables

END_TOKEN = "<|endoftext|>"
DOCUMENTS = ("file", "paragraph", "line")
ENDINGS = (".txt", *tables.ENDINGS, ".parquet")
_ENCODED_AT_ONCE = 256   # documents: the library shares them among the cores


def add_arguments(parser):
    parser.add_argument("--files", nargs="+", required=True, metavar="[SPLIT=]PATH",
                        help="files or patterns; the split goes on to the files behind it, and begins as train")
    parser.add_argument("--documents", choices=DOCUMENTS, default="file",
                        help="what one document of a .txt is (%(default)s); of the others it is a row")
    parser.add_argument("--text-field", default="text", help="of tables and .parquet (%(default)s)")
    parser.add_argument("--label-field", help="of tables and .parquet: write text_label records")
    parser.add_argument("--classes", help="names of the labels in order, A,B,C; without it labels are numbers")
    parser.add_argument("--held-out", type=float, default=0.0, metavar="SHARE",
                        help="share of the train documents that make the split validation, by their ids")
    parser.add_argument("--licence", default="unknown")
    parser.add_argument("--origin", default="")
    add_token_arguments(parser)


def add_token_arguments(parser):
    """The options of every writer that makes token rows."""
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json")
    parser.add_argument("--train-tokenizer", type=int, metavar="N",
                        help="train a byte-level BPE of N tokens on the split train instead")
    parser.add_argument("--length", type=int, default=1024, help="tokens in a row (%(default)s)")
    parser.add_argument("--no-packing", action="store_true", help="one document, or piece of one, a row")
    parser.add_argument("--end-token", default=END_TOKEN, help="behind each document (%(default)s)")


def open_dataset(arguments):
    classes = [name.strip() for name in arguments.classes.split(",")] if arguments.classes else None
    if classes and (len(set(classes)) < len(classes) or "" in classes):
        raise RecordError(f"--classes {arguments.classes}: expected names, each once")
    source = TextFiles(arguments.files, documents=arguments.documents, text_field=arguments.text_field,
                       label_field=arguments.label_field, classes=classes, held_out=arguments.held_out,
                       licence=arguments.licence, origin=arguments.origin)
    return source if arguments.label_field else tokens_of(source, arguments)


def tokens_of(source, arguments):
    """TokenRows of a dataset with `documents(split)`, by `add_token_arguments`; writes OUT/tokenizer.json."""
    if (arguments.tokenizer is None) == (arguments.train_tokenizer is None):
        raise RecordError("expected one of --tokenizer FILE and --train-tokenizer N: token rows need a tokenizer")
    if arguments.tokenizer is not None:
        try:
            content = read_tokenizer_json(arguments.tokenizer).encode("utf-8")
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            reason = error.strerror or str(error)
            raise RecordError(f"--tokenizer {arguments.tokenizer}: cannot be read: {reason}") from error
        except ValueError as error:
            raise RecordError(f"--tokenizer {arguments.tokenizer}: {error}") from error
    else:
        content = _trained(source, arguments)
    beside = storage.join(arguments.out, "tokenizer.json")
    if storage.exists(beside) and not arguments.overwrite:
        before = fingerprint(storage.read_bytes(beside))
        if before != fingerprint(content):
            raise RecordError(f"{beside}: is another tokenizer, of fingerprint {before[:16]}…, expected "
                              f"{fingerprint(content)[:16]}…: take another --out, or --overwrite")
    storage.make_folder(arguments.out)
    storage.write_bytes(beside, content)
    return TokenRows(source, content.decode("utf-8"), arguments.length, not arguments.no_packing, arguments.end_token)


def _trained(source, arguments):
    """-> the content of a tokenizer.json, trained on the documents of the split train that can be used"""
    from tfhf.tokenizers.training import train_tokenizer

    def texts():
        for _, text, problem in source.documents("train"):
            if not problem:
                yield text
            elif not arguments.skip_bad:   # otherwise the writer counts and lists it
                raise RecordError(problem)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        try:
            train_tokenizer(texts(), path, "bpe", arguments.train_tokenizer, special_tokens=(arguments.end_token,))
        except RecordError:
            raise
        except ValueError as error:
            raise RecordError(f"--train-tokenizer {arguments.train_tokenizer}: {error}") from error
        return storage.read_bytes(path)


class TokenRows(Dataset):
    """The documents of `source` as rows of tokens.

    Args:
      source: a Dataset with `documents(split)` -> iterable of (id, text, problem); problem: why it cannot be used,
        or "".
      tokenizer_json: the text of the file.
    """

    record_type = TOKENS

    def __init__(self, source, tokenizer_json, length, packed=True, end_token=END_TOKEN):
        from tokenizers import Tokenizer

        self._source, self._length, self._packed = source, length, packed
        self.name, self.licence, self.origin = source.name, source.licence, source.origin
        self._fingerprint = fingerprint(tokenizer_json)
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:   # the library has no exception of its own
            raise RecordError(f"the tokenizer.json cannot be read: {error}") from error
        self._tokenizer.encode_special_tokens = True   # the end token inside a text is text
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._end = self._tokenizer.token_to_id(end_token)
        if self._end is None:
            raise RecordError(f"--end-token {end_token!r}: the tokenizer has no such token")

    def splits(self):
        return self._source.splits()

    def options(self, split):
        return {**self._source.options(split), TOKENIZER_OPTION: self._fingerprint, "row_length": self._length,
                "packed": self._packed, "end_token_id": self._end}

    def examples(self, split, start=0):
        return itertools.islice(self._rows(split), start, None)

    def load(self, item):
        return item

    def _rows(self, split):
        """The rows; those documents that cannot be used come before the rows of their window."""
        bad = collections.deque()
        for row in token_rows(self._ids(split, bad), self._length, self._packed):
            while bad:
                yield bad.popleft()
            yield row
        yield from bad

    def _ids(self, split, bad):
        """Yields (id, ids) of the documents; appends to `bad` an item for each that cannot be used."""
        def good():
            for name, text, problem in self._source.documents(split):
                if problem:
                    bad.append({"id": name, "problem": problem, "where": problem.partition(": ")[0]})
                else:
                    yield name, text

        texts = good()
        while chunk := list(itertools.islice(texts, _ENCODED_AT_ONCE)):
            encoded = self._tokenizer.encode_batch_fast([text for _, text in chunk], add_special_tokens=False)
            yield from ((name, [*one.ids, self._end]) for (name, _), one in zip(chunk, encoded))


class TextFiles(Dataset):
    """See the module's docstring. ids are FILE:NUMBER, the number that of the document in its file, from 0."""

    name, record_type = "text", TEXT_LABEL

    def __init__(self, files, *, documents="file", text_field="text", label_field=None, classes=None, held_out=0.0,
                 licence="unknown", origin=""):
        self._documents, self._text_field, self._label_field = documents, text_field, label_field
        self._classes, self._held_out = classes, held_out
        self.licence, self.origin = licence, origin
        self._files, split = {}, "train"
        for word in files:
            found = re.fullmatch(r"([\w.-]+)=(.*)", word)
            split, pattern = found.groups() if found else (split, word)
            paths = sorted(glob.glob(pattern)) or [pattern]
            self._files.setdefault(split, []).extend(paths)
        paths = list(itertools.chain(*self._files.values()))
        for path in paths:
            if tables.ending(path) not in ENDINGS or not os.path.isfile(path):
                raise RecordError(f"--files: {path}: expected a file that exists, one of {', '.join(ENDINGS)}")
            if label_field and tables.ending(path) == ".txt":
                raise RecordError(f"--files: {path}: a .txt has no field {label_field!r}, expected a table")
        names = collections.Counter(os.path.basename(path) for path in set(paths))
        common = os.path.dirname(os.path.commonprefix(paths))
        self._names = {path: os.path.basename(path) if names[os.path.basename(path)] == 1
                       else os.path.relpath(path, common or ".") for path in paths}
        self._entries = {}
        if held_out and ("validation" in self._files or not 0 < held_out < 1 or "train" not in self._files):
            raise RecordError(f"--held-out {held_out}: expected a share between 0 and 1, files for train, and none for "
                              "validation")

    def splits(self):
        return (*self._files, "validation") if self._held_out else tuple(self._files)

    def options(self, split):
        source = "train" if self._held_out and split == "validation" else split
        for path in self._files[source]:
            if path not in self._entries:
                self._entries[path] = file_entry(path)
        return {"files": [[os.path.basename(path), os.path.getsize(path)] for path in self._files[source]],
                "sources": [self._entries[path] for path in self._files[source]],
                "documents": self._documents, "text_field": self._text_field, "label_field": self._label_field,
                "classes": self._classes, "held_out": self._held_out}

    def documents(self, split):
        """Yields (id, text, problem) of each document that is not blank; problem: why it cannot be used, or ""."""
        return ((name, text, problem) for name, text, _, problem in self._rows(split))

    def texts(self, split):
        """Yields (id, text) of each document that is not blank; RecordError at the first that cannot be used."""
        for name, text, problem in self.documents(split):
            if problem:
                raise RecordError(problem)
            yield name, text

    def examples(self, split, start=0):
        for name, text, label, problem in itertools.islice(self._rows(split), start, None):
            if problem:
                yield {"id": name, "problem": problem, "where": problem.partition(": ")[0]}
            else:
                yield {"id": name, "text": text, "label": label}

    def load(self, item):
        if "problem" in item:
            raise RecordError(item["problem"])
        return text_label(item["id"], item["text"], self._label(item["label"], item["id"]))

    def _label(self, value, name):
        value = value.strip() if isinstance(value, str) else value
        if self._classes is None and isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)   # the cells of a CSV table are all text
        if self._classes is not None:
            if value not in self._classes:
                raise RecordError(f"{name}: the label is {value!r}, expected one of --classes "
                                  f"{','.join(self._classes)}")
            return self._classes.index(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise RecordError(f"{name}: the label is {value!r}, expected a number from 0 on, or --classes with "
                              "its name")
        return value

    def _rows(self, split):
        """Yields (id, text, label, problem)."""
        validation = self._held_out and split == "validation"
        for path in self._files["train" if validation else split]:
            for number, (text, label, problem) in enumerate(self._read(path)):
                identity = f"{self._names[path]}:{number}"
                share = int(hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()[:12], 16) / 16**12
                ours = not self._held_out or (split in ("train", "validation")
                                              and (share < self._held_out) == bool(validation))
                if ours and (problem or text.strip()):
                    yield identity, text, label, problem

    def _read(self, path):
        """Yields (text, label, problem) of a file."""
        if tables.ending(path) == ".txt":
            for where, text, problem in self._read_text(path):
                yield text, None, f"{where}: {problem}" if problem else ""
            return
        fields = [self._text_field] + ([self._label_field] if self._label_field else [])
        for row in _parquet_rows(path, fields) if tables.ending(path) == ".parquet" else _table_rows(path, fields):
            problem = row.problem or self._problem(row, fields)
            values = [None, None] if problem else [row.values[field] for field in fields]
            yield values[0], values[1] if self._label_field else None, f"{row.where}: {problem}" if problem else ""

    def _problem(self, row, fields):
        """Why a row has no text or label that could be used; empty where it has."""
        missing = [field for field in fields if row.values.get(field) is None]
        if missing:
            return f"has no {missing[0]!r}, it has {sorted(row.values)[:10]}"
        text = row.values[self._text_field]
        if not isinstance(text, str):
            return f"{self._text_field!r} is a {type(text).__name__}, expected a string"
        try:
            utf8(text, self._text_field)
        except RecordError as error:
            return str(error)
        return ""

    def _read_text(self, path):
        """Yields (where, text, problem) of the documents of a text file."""
        lines = tables.read_lines(path)
        if self._documents == "file":
            parts = [lines]
        elif self._documents == "line":
            parts = ([line] for line in lines)
        else:   # a paragraph is lines up to a blank one
            grouped = itertools.groupby(lines, lambda line: not line.text.strip() and not line.problem)
            parts = (part for blank, part in grouped if not blank)
        for part in parts:
            texts, problem, where = [], "", path
            for line in part:
                texts.append(line.text)
                if line.problem and not problem:
                    problem, where = line.problem, f"{path}, line {line.number}"
            text = "".join(texts)
            yield where, text if self._documents == "file" else text.rstrip("\r\n"), problem


def _table_rows(path, fields):
    """The rows of a table, the fields by the names that were asked for, in whatever case the header has them"""
    table = tables.Table(path, fields)
    if table.columns is None:
        yield from table.rows()
        return
    columns = {field: table.column(field) for field in fields}
    missing = [field for field, column in columns.items() if column is None]
    if missing:
        raise RecordError(f"{path}: has no {missing[0]!r}, it has {table.columns[:10]}")
    for row in table.rows():
        values = {} if row.problem else {field: row.values[column] for field, column in columns.items()}
        yield tables.Row(row.where, values, row.problem)


def _parquet_rows(path, fields):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RecordError(f"{path}: a .parquet needs pyarrow, which comes with the extra hf") from error
    number = 0
    try:
        file = parquet.ParquetFile(path)
        columns = [field for field in fields if field in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield tables.Row(f"{path}, row {number}", row)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{path}: cannot be read as Parquet: {error}") from error
