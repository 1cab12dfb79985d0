"""Tables of text for the writers: CSV, TSV and other delimiters, JSON lines and JSON, plain or gzipped.

What cannot be read without a doubt is refused, with the table and the row: surplus cells, a quotation mark that is
never closed, bytes that are no text. A row that is refused is a Row with a problem; the rows behind it are read on.
  .csv            comma, semicolon, tab or bar, by which the header's names are known; a line `sep=;` says it
  .tsv            tabs; quoted as in CSV, or not at all, as Common Voice has it: the whole table decides
  .jsonl .ndjson  an object in each line
  .json           a list of objects, {"data": [objects]}, or JSON lines, as NeMo's manifests are
UTF-8, with a byte order mark or not, or UTF-16 with one; lines end in LF, CRLF or CR.
"""

import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
import re
import zlib

from tfhf.data import storage
from tfhf.data.schema import RecordError

CSV_ENDINGS, JSON_ENDINGS = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
ENDINGS = CSV_ENDINGS + JSON_ENDINGS
MAX_LINE = 64 << 20      # bytes of a line, and characters of a cell
MAX_JSON = 512 << 20     # bytes of a .json that is one document: it is parsed as a whole
_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 200   # a .gz that grows beyond this, and so many times: repeated rows grow 50 times
_DELIMITERS = (",", ";", "\t", "|")
_COMMON_VOICE = {"client_id", "path", "sentence"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclasses.dataclass(frozen=True)
class Row:
    """One row. where: the table and the row, for people. problem: why `values` cannot be used, or ""."""

    where: str
    values: dict
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a text file. text: with its end; problem: why it is no text, or ""."""

    number: int
    text: str
    problem: str = ""


def ending(path):
    """A path -> its ending in lower case, without .gz: "a/B.CSV.gz" -> ".csv"."""
    name = os.path.basename(str(path)).lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def is_table(path):
    """Is it named as a table is?"""
    return ending(path) in ENDINGS


class Table:
    """A table at `path`, local or gs://.

    Args:
      known: names of columns that the caller looks for: they tell which delimiter a CSV file has.
      a_row: function (cells) -> whether a line inside a quoted cell looks like a row of its own: then the quotation
        mark was not closed, though another one ends it.

    Attributes: columns: the header's names, or None for JSON, whose rows each have their own. delimiter: None for JSON.
    """

    def __init__(self, path, known=(), a_row=None):
        self.path, self.columns, self.delimiter = os.fspath(path), None, None
        self._a_row, self._literal = a_row, False
        if ending(path) in CSV_ENDINGS:
            self._read_header({name.casefold() for name in known})
        elif ending(path) not in JSON_ENDINGS:
            raise RecordError(f"{path}: unknown kind of table, expected {ENDINGS}, each also as .gz")

    def rows(self):
        """Yields each Row; blank lines are none."""
        if self.columns is None:
            yield from _json_rows(self.path)
        else:
            for row, _ in self._csv_rows(self._quoted):
                yield row

    def column(self, name):
        """The header's own spelling of a name, in whatever case, or None. RecordError where it has two such columns."""
        found = [column for column in self.columns or () if column.casefold() == name.casefold()]
        exact = [column for column in found if column == name]
        found = exact or found
        if len(found) > 1:
            raise RecordError(f"{self.path}: the column {found[0]!r} occurs {len(found)} times, expected it once")
        return found[0] if found else None

    # CSV and TSV.

    def _read_header(self, known):
        start = [line for line in itertools.islice(read_lines(self.path), 20) if line.text.strip() or line.problem][:2]
        if start and start[0].problem:
            raise RecordError(f"{self.path}, line {start[0].number}: {start[0].problem}")
        said = re.fullmatch(r'"?sep=(.)"?\s*', start[0].text) if start else None
        self._skipped = start.pop(0).number if said else 0
        if not start:
            raise RecordError(f"{self.path}: no rows, not even a header")
        header = start[0].text
        self.delimiter = said[1] if said else self._find_delimiter(header, known)
        self._quoted = True
        for row, cells in self._csv_rows(True, header=True):
            if row.problem:
                raise RecordError(f"{row.where}: {row.problem}")
            self.columns = [cell.strip() for cell in cells]
            break
        if ending(self.path) == ".tsv" and self.delimiter == "\t":
            self._quoted = self._is_quoted(header)

    def _find_delimiter(self, header, known):
        preferred = "\t" if ending(self.path) == ".tsv" else ","
        order = sorted(_DELIMITERS, key=lambda delimiter: delimiter != preferred)

        def fits(delimiter):
            cells = next(csv.reader([header], delimiter=delimiter), [])
            return sum(cell.strip().casefold() in known for cell in cells), len(cells) > 1

        return max(order, key=fits)   # of equal ones the first

    def _is_quoted(self, header):
        """Are a TSV's cells quoted as in CSV? Where both readings are possible nothing is taken away: they are not."""
        if _COMMON_VOICE <= {name.casefold() for name in self.columns}:
            self._literal = True
            return False
        raw = list(itertools.islice((cells for _, cells in self._csv_rows(False)
                                     if any(cell.startswith('"') for cell in cells)), 1))
        if not raw:
            return False
        doubled = uneven = 0
        for _, cells in self._csv_rows(False):
            uneven += len(cells) != len(self.columns)
            doubled += any(_is_doubled(cell) for cell in cells)
        if any(row.problem for row, _ in self._csv_rows(True)):
            return False
        return bool(uneven or doubled or _QUOTED.fullmatch(header.split("\t")[0].strip()))

    def _csv_rows(self, quoted, header=False):
        """Yields (Row, its cells)."""
        lines = (line for line in read_lines(self.path) if line.number > self._skipped)
        parsed = _CsvRows(lines, self.delimiter, quoted)
        number = -1
        for first, count, cells, problem in parsed:
            if not problem and not any(cell.strip() for cell in cells):
                continue   # nothing in it
            number += 1
            if header:
                yield Row(self.path, {}, problem), cells
                continue
            if number == 0:
                continue
            where = f"{self.path}, row {number}" + (f" (line {first})" if first != number + 1 else "")
            problem = problem or self._problem(cells, parsed.lines, quoted)
            yield Row(where, {} if problem else dict(zip(self.columns, cells)), problem), cells

    def _problem(self, cells, lines, quoted):
        if len(cells) != len(self.columns):
            hint = ""
            if len(cells) > len(self.columns):
                name = {",": "comma", ";": "semicolon", "\t": "tab"}.get(self.delimiter, repr(self.delimiter))
                hint = f": is there a {name} in a text without quotation marks?"
            return f"{len(cells)} cells, expected {len(self.columns)} as in the header{hint}"
        if cells == self.columns:
            return "repeats the header"
        for cell in cells:
            if quoted and re.match(r'\s+"', cell):
                return f"white space before the quotation mark of {cell.strip()[:40]!r}, expected none"
            if not quoted and not self._literal and _is_doubled(cell):
                return (f"{cell[:40]!r} is quoted as in CSV, but other rows have bare quotation marks; expected all "
                        "quoted, or none")
        for line in lines[1:]:
            parts = line.text.rstrip("\r\n").split(self.delimiter)
            alike = self._a_row is not None and len(parts) == len(self.columns)
            if alike and self._a_row(dict(zip(self.columns, parts))):
                return f"a quotation mark that is not closed: line {line.number} looks like a row, but lies inside it"
        return ""


def _is_doubled(cell):
    """Is it quoted so that only a CSV writer can have done it: with doubled quotation marks inside?"""
    cell = cell.strip()
    return len(cell) > 2 and '""' in cell[1:-1] and bool(_QUOTED.fullmatch(cell))


class _BadLine(Exception):
    """A line that is no text, found while a row was being parsed."""


class _CsvRows:
    """Lines -> (number of the first line, how many, cells, problem) of each row.

    After a row that cannot be parsed its first line alone is left out, and what follows is parsed anew: a quotation
    mark that is never closed does not take the rest of the table with it.

    Attributes: lines: those of the row that was given last.
    """

    def __init__(self, lines, delimiter, quoted):
        self._source, self._again, self.lines = lines, collections.deque(), []
        quoting = {"strict": True, "doublequote": True} if quoted else {"quoting": csv.QUOTE_NONE}
        self._parse = lambda: csv.reader(self._feed(), delimiter=delimiter, **quoting)

    def __iter__(self):
        csv.field_size_limit(MAX_LINE)
        reader = self._parse()
        while True:
            self.lines = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, _BadLine) as error:
                first, *rest = self.lines
                self._again.extendleft(reversed(rest))
                reader = self._parse()
                yield first.number, 1, [], first.problem or self._words(error, rest)
                continue
            yield self.lines[0].number, len(self.lines), cells, ""

    def _feed(self):
        while True:
            line = self._again.popleft() if self._again else next(self._source, None)
            if line is None:
                return
            self.lines.append(line)
            if line.problem:
                raise _BadLine
            yield line.text

    @staticmethod
    def _words(error, rest):
        if "unexpected end of data" in str(error) or rest:
            return "a quotation mark that is not closed"
        return f"cannot be parsed as CSV: {error}"


# JSON.

def _json_rows(path):
    text = _document(path)
    if text is None:
        for line in read_lines(path):
            where = f"{path}, line {line.number}"
            if line.problem:
                yield Row(where, {}, line.problem)
            elif line.text.strip():
                yield _json_row(where, line.text)
        return
    try:
        document = _parsed(text)
    except ValueError as error:
        raise RecordError(f"{path}: not JSON: {error}") from error
    lists = [value for value in document.values() if _is_rows(value)] if isinstance(document, dict) else []
    rows = document if isinstance(document, list) else lists[0] if len(lists) == 1 else None
    if rows is None:
        held = f"an object of {list(document)[:8]}" if isinstance(document, dict) else f"a {type(document).__name__}"
        raise RecordError(f"{path}: {held}, expected a list of objects, {{\"data\": [objects]}} or an object in each "
                          "line")
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if isinstance(row, dict):
            yield Row(where, row)
        else:
            yield Row(where, {}, f"a {type(row).__name__}, expected an object")


def _document(path):
    """-> the whole text of a .json that is one document, None of JSON lines"""
    if ending(path) != ".json":
        return None
    lines = (line for line in read_lines(path) if line.text.strip() or line.problem)
    first, second = next(lines, None), next(lines, None)
    if first is None or first.problem:
        return None
    with contextlib.suppress(ValueError):
        value = _parsed(first.text)
        if isinstance(value, dict) and (second is not None or not any(_is_rows(part) for part in value.values())):
            return None
    parts, size = [], 0
    for line in read_lines(path):
        if line.problem:
            raise RecordError(f"{path}, line {line.number}: {line.problem}")
        size += len(line.text)
        if size > MAX_JSON:
            raise RecordError(f"{path}: one JSON document of more than {MAX_JSON >> 20} MB, expected JSON lines, an "
                              "object in each line")
        parts.append(line.text)
    return "".join(parts)


def _is_rows(value):
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _json_row(where, text):
    try:
        value = _parsed(text)
    except ValueError as error:
        return Row(where, {}, f"not JSON: {error}")
    if not isinstance(value, dict):
        return Row(where, {}, f"a {type(value).__name__}, expected an object")
    return Row(where, value)


def _parsed(text):
    """JSON -> value; ValueError also for a key that occurs twice, and for what is nested too deep."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        double = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {double!r} occurs twice in one object")
    return value


# Lines of text.

def read_lines(path):
    """Yields each Line of a text file, local or gs://, gzipped or not; a BOM says UTF-16, otherwise it is UTF-8.

    Raises RecordError: no such file, a damaged .gz, a .gz that grows without end, a line of more than MAX_LINE bytes.
    """
    try:
        with _opened(path) as (file, packed):
            yield from _read_lines(path, file, packed)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file") from error
    except storage.StorageError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"{path}: a .gz that is damaged or cut: {error}") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(path):
    """-> (a buffered binary file, unpacked where it is gzipped, and its packed size where it is)"""
    with contextlib.ExitStack() as stack:
        if storage.is_remote(path):
            file = io.BufferedReader(io.BytesIO(storage.read_bytes(path)), 1 << 16)
        else:
            file = stack.enter_context(open(path, "rb", buffering=1 << 16))
        packed = None
        if file.peek(2)[:2] == b"\x1f\x8b":
            packed = storage.size(path)
            file = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=file)), 1 << 16)
        elif str(path).lower().endswith(".gz"):
            raise gzip.BadGzipFile("it does not begin as one")
        yield file, packed


def _read_lines(path, file, packed):
    head = file.peek(1 << 16)
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    only_cr = b"\r" in head and b"\n" not in head
    if wide or only_cr:
        file = io.TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", newline="\r" if only_cr and not wide else "\n")
    number = size = 0
    while True:
        number += 1
        try:
            line = file.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            raise RecordError(f"{path}, about line {number}: not {error.encoding.upper()}: {error.reason}") from error
        if not line:
            return
        if len(line) >= MAX_LINE:
            raise RecordError(f"{path}, line {number}: more than {MAX_LINE >> 20} MB, expected shorter lines")
        size += len(line)
        if packed and size > _BOMB_BYTES and size > _BOMB_RATIO * packed:
            raise RecordError(f"{path}: {packed:,} bytes that unpack to more than {size:,}, expected a table: is it a "
                              "bomb?")
        yield _line(number, line)


def _line(number, line):
    if isinstance(line, bytes):
        try:
            line = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            return Line(number, "", f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}")
    if "\0" in line:
        return Line(number, "", "holds a NUL byte, expected text: UTF-16 without a byte order mark, or no text at all?")
    return Line(number, line)
