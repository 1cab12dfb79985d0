"""Segments of recordings: the columns of a table that say where one begins and ends, STM, Praat's TextGrid, Audacity.

A column is known by its words: start, begin, offset, onset, tmin; end, stop, tmax; duration; with or without "time" or
"segment", and a unit: seconds unless it says ms or samples. A column that looks like one of these and is not understood
is an error, so that no recording is taken whole where a part of it was meant.
"""

import dataclasses
import math
import re

from tfhf.data.schema import RecordError
from tfrecords.tables import read_lines

_WORDS = {"start": ("start", "starts", "begin", "begins", "offset", "onset", "tmin", "xmin"),
          "end": ("end", "ends", "stop", "stops", "tmax", "xmax"),
          "duration": ("duration", "dur")}
_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
          "ms": 0.001, "msec": 0.001, "millis": 0.001, "millisecond": 0.001, "milliseconds": 0.001,
          "sample": "samples", "samples": "samples"}
_FILLERS = {"time", "segment", "seg", "audio", "utterance", "utt", "clip", "speech", "in", "recording", "file"}
_SPANS = {"segment", "segments", "timestamp", "timestamps", "timecode", "timecodes", "interval", "span"}
_NUMBER = r"\d+(?:[.,:]\d+)*"
_SPAN = re.compile(rf"\W*{_NUMBER}\s*(?:-->|-|–|,|;|\s|to)\s*{_NUMBER}\W*")
FIELDS = tuple(f"{field}{unit}" for field in _WORDS for unit in ("", "_ms", "_samples"))   # for --column
_AGREE_S = 0.05   # start + duration and end, both in one table, each rounded


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a recording, in seconds. duration None: to its end. stated_s: how long the whole of it should be."""

    offset: float = 0.0
    duration: float | None = None
    stated_s: float | None = None

    @property
    def whole(self):
        """Is it the whole recording?"""
        return self.offset == 0 and self.duration is None


def words_of(name):
    """The words of a column's name in lower case: "startTime", "Start (s)" -> ["start", "time"], ["start", "s"]"""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def meaning(name):
    """A column's name -> (field, unit) of FIELDS' kinds; ("", "") where it only looks like one; None where it does not.

    unit: seconds of one, or "samples".
    """
    words = words_of(name)
    field = [field for field, known in _WORDS.items() for word in words if word in known]
    if not field:
        return None
    rest = [word for word in words if word not in _FILLERS and not any(word in known for known in _WORDS.values())]
    if len(field) > 1 or len(rest) > 1 or (rest and rest[0] not in _UNITS):
        return "", ""
    return field[0], _UNITS[rest[0]] if rest else 1.0


class Columns:
    """Which columns of a table say where a segment lies.

    Args:
      path: the table, for errors. rows: all of its rows, dicts. chosen: {field of FIELDS: column} that the user named.
      ignored: columns that the user says are none of these.
      decimal_comma: may "1,5" be a number? Not in a table that commas part.
    """

    def __init__(self, path, rows, chosen, ignored=(), decimal_comma=True):
        self._path, self._comma = path, decimal_comma
        self._columns = {}    # field: (column, unit)
        for key, column in chosen.items():
            field, _, unit = key.partition("_")
            self._columns[field] = column, _UNITS[unit or "s"]
        names = dict.fromkeys(name for row in rows for name in row)
        for name in names:
            taken = name in ignored or name in chosen.values()
            if not taken and any(row.get(name) not in (None, "") for row in rows):
                self._add(name, rows)
        if "end" in self._columns and "start" not in self._columns:
            raise RecordError(f"{path}: the column {self._columns['end'][0]!r} says where a segment ends, but none "
                              "says where it begins; expected both, --column start=NAME, or --ignore-column NAME")
        self._rate = None
        if "samples" in [unit for _, unit in self._columns.values()]:
            self._rate = next((name for name in names if words_of(name) in (
                ["sample", "rate"], ["sampling", "rate"], ["samplerate"], ["sr"], ["sample", "rate", "hz"])), None)
            if self._rate is None:
                raise RecordError(f"{path}: segments in samples, but no column sample_rate; expected one, or seconds")

    def _add(self, name, rows):
        found = meaning(name)
        if found is None:
            if set(words_of(name)) & _SPANS and any(_is_span(row.get(name)) for row in rows):
                found = "", ""
            else:
                return
        field, unit = found
        before = self._columns.get(field)
        if not field or before is not None:
            other = f", nor which of it and {before[0]!r} counts" if before else ""
            raise RecordError(f"{self._path}: the column {name!r} looks like a place in a recording, but it is not "
                              f"understood{other}; expected names like start, end, duration, offset_ms; say what it "
                              f"is with --column start={name}, or --ignore-column {name}")
        self._columns[field] = name, unit

    def part(self, row):
        """A row, dict -> Part. ValueError says what is wrong."""
        rate = 0.0
        if self._rate is not None:
            rate = self._number(row, self._rate) or 0.0
            if rate <= 0:
                raise ValueError(f"{self._rate} is {row.get(self._rate)!r}, expected the sample rate of its segment")
        start, end, duration = (self._seconds(row, field, rate) for field in ("start", "end", "duration"))
        if duration == -1:   # NeMo's way to say: to the end
            duration = None
        for field, value in (("start", start), ("end", end)):
            if value is not None and value < 0:
                raise ValueError(f"{self._columns[field][0]} is {value:g} s, expected 0 or more")
        if duration is not None and duration <= 0:
            raise ValueError(f"{self._columns['duration'][0]} is {duration:g} s, expected more than 0")
        if start is None:
            if end is not None:
                raise ValueError(f"the segment ends at {end:g} s, but where it begins is empty")
            return Part(stated_s=duration)
        if end is None:
            return Part(start, duration)
        if end <= start:
            raise ValueError(f"the segment ends at {end:g} s, before its begin at {start:g} s")
        if duration is not None and abs(start + duration - end) > _AGREE_S:
            raise ValueError(f"the segment begins at {start:g} s and ends at {end:g} s, but its duration is "
                             f"{duration:g} s")
        return Part(start, end - start)

    def _seconds(self, row, field, rate):
        if field not in self._columns:
            return None
        name, unit = self._columns[field]
        value = self._number(row, name)
        if value is None or value == -1:
            return value
        return value / rate if unit == "samples" else value * unit

    def _number(self, row, name):
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "none")):
            return None
        try:
            return parse_seconds(value, self._comma)
        except ValueError as error:
            raise ValueError(f"{name} is {value!r}, expected a number") from error


def _is_span(value):
    if isinstance(value, (list, dict)):
        return bool(value)
    return isinstance(value, str) and bool(_SPAN.fullmatch(value.strip()))


def parse_seconds(value, decimal_comma=False):
    """1.5, "1.5", "1,5", "00:01:02.5" -> float; ValueError otherwise."""
    if isinstance(value, str):
        text = value.strip()
        if decimal_comma and re.fullmatch(r"[\d:]*,\d+", text):
            text = text.replace(",", ".")
        if re.fullmatch(r"(\d+:)?\d+:\d{1,2}(\.\d+)?", text):
            seconds = 0.0
            for piece in text.split(":"):
                seconds = 60 * seconds + float(piece)
            return seconds
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
            raise ValueError(f"{value!r} is no number")
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def check_stated(part, seconds, name):
    """RecordError where a table says how long a recording is, and it is of another length."""
    stated = part.stated_s
    if stated is None:
        return
    # Whole seconds were rounded.
    tolerance = 1.0 if stated == int(stated) else 0.1 + 0.01 * stated
    if abs(stated - seconds) > tolerance:
        raise RecordError(f"{name}: {seconds:.3f} s of sound, but the table says that it lasts {stated:g} s; expected "
                          "its length, or a column that says where the segment begins (--column duration_ms=NAME where "
                          "it is in milliseconds)")


def stm_rows(path):
    """An STM file -> yields (number of the line, {"file", "channel": 0 …, "speaker", "part", "text"}, problem)."""
    for line in read_lines(path):
        text = line.text.strip()
        if line.problem:
            yield line.number, {}, line.problem
        if not text or text.startswith(";;"):
            continue
        cells = text.split(None, 5)
        try:
            name, channel, speaker, begin, end = cells[:5]
            begin, end = parse_seconds(begin), parse_seconds(end)
            number = {"1": 0, "2": 1, "a": 0, "b": 1}[channel.lower()]
        except (ValueError, KeyError):
            yield line.number, {}, f"{text[:80]!r}, expected FILE CHANNEL SPEAKER BEGIN END [<LABELS>] TEXT"
            continue
        if not 0 <= begin < end:
            yield line.number, {}, f"the segment begins at {begin:g} s and ends at {end:g} s, expected a later end"
            continue
        said = re.sub(r"^<[^>]*>\s*", "", cells[5]) if len(cells) > 5 else ""
        yield line.number, {"file": name, "channel": number, "speaker": speaker, "part": Part(begin, end - begin),
                            "text": said}, ""


def label_rows(text):
    """The content of a file of Audacity's labels -> [(Part, text)], None where it is anything else."""
    found = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip():
            continue
        match = re.fullmatch(r"(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?", line)
        if not match:
            return None
        begin, end = parse_seconds(match[1], True), parse_seconds(match[2], True)
        if end <= begin:
            return None
        found.append((Part(begin, end - begin), (match[3] or "").strip()))
    return found or None


def text_grid(path, tier=None):
    """A TextGrid of Praat, long or short -> [(Part, text)] of the intervals of one tier that have a text.

    Args:
      tier: its name; None: the only one that has texts.
    Raises RecordError: not a TextGrid, no such tier, several tiers to choose from.
    """
    tiers = {}
    try:
        tokens = _praat_tokens(path)
        if (next(tokens), next(tokens)) != ("ooTextFile", "TextGrid"):
            raise ValueError("it does not begin as one")
        next(tokens), next(tokens)
        if next(tokens) != "<exists>":
            raise ValueError("it has no tiers")
        for _ in range(int(next(tokens))):
            kind, name = next(tokens), next(tokens)
            next(tokens), next(tokens)
            for _ in range(int(next(tokens))):
                begin = float(next(tokens))
                end = float(next(tokens)) if kind == "IntervalTier" else begin
                text = str(next(tokens)).strip()
                if text and end > begin:
                    tiers.setdefault(name, []).append((Part(begin, end - begin), text))
    except (ValueError, TypeError, StopIteration) as error:
        raise RecordError(f"{path}: not a whole TextGrid of Praat ({error or 'it ends too early'})") from error
    if tier is None and len(tiers) == 1:
        return next(iter(tiers.values()))
    if tier not in tiers:
        raise RecordError(f"{path}: tiers with texts are {list(tiers)}, expected --tier with one of them")
    return tiers[tier]


def _praat_tokens(path):
    """Yields the free-standing strings (without quotation marks), numbers and <flags>; all else is there for people"""
    lines = []
    for line in read_lines(path):
        if line.problem:
            raise RecordError(f"{path}, line {line.number}: {line.problem}")
        lines.append(line.text)
    for match in re.finditer(r'"((?:[^"]|"")*)"|(?<!\S)(<\w+>|[+-]?[\d.]+(?:[eE][+-]?\d+)?)(?!\S)', "".join(lines)):
        yield match[1].replace('""', '"') if match[1] is not None else match[2]


def part_id(name, part):
    """The id of a part of a recording: "a/talk" -> "a/talk-0001000-0002500", in milliseconds."""
    end = "end" if part.duration is None else f"{round(1000 * (part.offset + part.duration)):07d}"
    return f"{name}-{round(1000 * part.offset):07d}-{end}"
