"""Plain text into records: .txt, .jsonl and .parquet files, as token rows for language models or as labelled texts.

  tfhf records text --files train=book.txt --held-out 0.05 --train-tokenizer 8000 --length 512 --out DIR
  tfhf records text --files train=a.jsonl b.parquet validation=c.jsonl --tokenizer gpt2/tokenizer.json --out DIR
  tfhf records text --files train=reviews.jsonl --label-field stars --classes bad,good --out DIR
Tokens: each document ends with the end token; documents are cut and packed into rows of --length. The tokenizer lies
beside the records, DIR/tokenizer.json, and its fingerprint in their manifests. With --label-field, text_label records.
"""

import glob
import hashlib
import itertools
import json
import os
import re
import tempfile

from tfhf.data import storage
from tfhf.data.schema import TEXT_LABEL, TOKENS, RecordError
from tfhf.data.text import TOKENIZER_OPTION, text_label, token_rows
from tfhf.data.writing import Dataset
from tfhf.tokenizers.fingerprint import fingerprint

END_TOKEN = "<|endoftext|>"
DOCUMENTS = ("file", "paragraph", "line")
_ENCODED_AT_ONCE = 256   # documents: the library shares them among the cores


def add_arguments(parser):
    parser.add_argument("--files", nargs="+", required=True, metavar="[SPLIT=]PATH",
                        help="files or patterns; the split goes on to the files behind it, and begins as train")
    parser.add_argument("--documents", choices=DOCUMENTS, default="file",
                        help="what one document of a .txt is (%(default)s); of the others it is a row")
    parser.add_argument("--text-field", default="text", help="of .jsonl and .parquet (%(default)s)")
    parser.add_argument("--label-field", help="of .jsonl and .parquet: write text_label records")
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
    classes = arguments.classes.split(",") if arguments.classes else None
    source = TextFiles(arguments.files, documents=arguments.documents, text_field=arguments.text_field,
                       label_field=arguments.label_field, classes=classes, held_out=arguments.held_out,
                       licence=arguments.licence, origin=arguments.origin)
    return source if arguments.label_field else tokens_of(source, arguments)


def tokens_of(source, arguments):
    """TokenRows of a dataset with `texts(split)`, by `add_token_arguments`; writes OUT/tokenizer.json."""
    if (arguments.tokenizer is None) == (arguments.train_tokenizer is None):
        raise RecordError("expected one of --tokenizer FILE and --train-tokenizer N: token rows need a tokenizer")
    if arguments.tokenizer is not None:
        content = storage.read_bytes(arguments.tokenizer)
    else:
        from tfhf.tokenizers.training import train_tokenizer

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.json")
            train_tokenizer((text for _, text in source.texts("train")), path, "bpe", arguments.train_tokenizer,
                            special_tokens=(arguments.end_token,))
            content = storage.read_bytes(path)
    beside = storage.join(arguments.out, "tokenizer.json")
    if storage.exists(beside) and not arguments.overwrite:
        before = fingerprint(storage.read_bytes(beside))
        if before != fingerprint(content):
            raise RecordError(f"{beside}: is another tokenizer, of fingerprint {before[:16]}…, expected "
                              f"{fingerprint(content)[:16]}…: take another --out, or --overwrite")
    storage.make_folder(arguments.out)
    storage.write_bytes(beside, content)
    return TokenRows(source, content.decode("utf-8"), arguments.length, not arguments.no_packing, arguments.end_token)


class TokenRows(Dataset):
    """The texts of `source` as rows of tokens.

    Args:
      source: a Dataset with `texts(split)` -> iterable of (id, text).
      tokenizer_json: the text of the file.
    """

    record_type = TOKENS

    def __init__(self, source, tokenizer_json, length, packed=True, end_token=END_TOKEN):
        from tokenizers import Tokenizer

        self._source, self._length, self._packed = source, length, packed
        self.name, self.licence, self.origin = source.name, source.licence, source.origin
        self._fingerprint = fingerprint(tokenizer_json)
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
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
        return itertools.islice(token_rows(self._ids(split), self._length, self._packed), start, None)

    def load(self, item):
        return item

    def _ids(self, split):
        texts = iter(self._source.texts(split))
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
        for path in itertools.chain(*self._files.values()):
            if not path.endswith((".txt", ".jsonl", ".parquet")) or not os.path.isfile(path):
                raise RecordError(f"--files: {path}: expected a file that is there, .txt, .jsonl or .parquet")
            if label_field and path.endswith(".txt"):
                raise RecordError(f"--files: {path}: a .txt has no field {label_field!r}, expected .jsonl or .parquet")
        if held_out and ("validation" in self._files or not 0 < held_out < 1 or "train" not in self._files):
            raise RecordError(f"--held-out {held_out}: expected a share between 0 and 1, files for train, and none for "
                              "validation")

    def splits(self):
        return (*self._files, "validation") if self._held_out else tuple(self._files)

    def options(self, split):
        source = "train" if self._held_out and split == "validation" else split
        return {"files": [[os.path.basename(path), os.path.getsize(path)] for path in self._files[source]],
                "documents": self._documents, "text_field": self._text_field, "label_field": self._label_field,
                "classes": self._classes, "held_out": self._held_out}

    def texts(self, split):
        """Yields (id, text) of each document that is not blank."""
        return ((name, text) for name, text, _ in self._rows(split))

    def examples(self, split, start=0):
        rows = itertools.islice(self._rows(split), start, None)
        return ({"id": name, "text": text, "label": label} for name, text, label in rows)

    def load(self, item):
        return text_label(item["id"], item["text"], self._label(item["label"], item["id"]))

    def _label(self, value, name):
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
        """Yields (id, text, label)."""
        validation = self._held_out and split == "validation"
        for path in self._files["train" if validation else split]:
            name = os.path.basename(path)
            for number, (text, label) in enumerate(self._read(path)):
                identity = f"{name}:{number}"
                share = int(hashlib.sha256(identity.encode()).hexdigest()[:12], 16) / 16**12
                if text.strip() and (not self._held_out or (split in ("train", "validation")
                                                            and (share < self._held_out) == bool(validation))):
                    yield identity, text, label

    def _read(self, path):
        """Yields (text, label) of a file."""
        if path.endswith(".txt"):
            yield from ((text, None) for text in self._read_text(path))
            return
        fields = [self._text_field] + ([self._label_field] if self._label_field else [])
        for where, row in (_json_rows if path.endswith(".jsonl") else _parquet_rows)(path, fields):
            missing = [field for field in fields if row.get(field) is None]
            if missing:
                raise RecordError(f"{where}: has no {missing[0]!r}, it has {sorted(row)[:10]}")
            if not isinstance(row[self._text_field], str):
                kind = type(row[self._text_field]).__name__
                raise RecordError(f"{where}: {self._text_field!r} is a {kind}, expected a string")
            yield row[self._text_field], row[self._label_field] if self._label_field else None

    def _read_text(self, path):
        lines = (line for _, line in _lines(path))
        if self._documents == "file":
            yield "".join(lines)
        elif self._documents == "line":
            yield from (line.rstrip("\r\n") for line in lines)
        else:   # a paragraph is lines up to a blank one
            for blank, part in itertools.groupby(lines, lambda line: not line.strip()):
                if not blank:
                    yield "".join(part).rstrip("\r\n")


def _lines(path):
    """Yields (number, line) of a text file in UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise RecordError(f"{path}, line {number}: not UTF-8: byte {error.object[error.start]:#04x} at "
                                  f"{error.start}") from error


def _json_rows(path, fields):
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RecordError(f"{where}: a {type(row).__name__}, expected an object with {fields}")
        yield where, row


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
                yield f"{path}, row {number}", row
                number += 1
    except pyarrow.ArrowException as error:
        raise RecordError(f"{path}: cannot be read as Parquet: {error}") from error
