"""What records were made of: names, sizes and hashes of files, compared when a writer goes on.

A file is read once: `read_source` gives its bytes and notes their SHA-256 for the example that is being made. Beside
each shard lies SHARD.sources, a JSON line for each of its items: [id, digest of its text, label and the like,
[[name, bytes, sha256] …]].
"""

import collections
import contextlib
import contextvars
import functools
import hashlib
import os
import threading

from tfhf.data import storage
from tfhf.data.records import StaleRecords
from tfhf.data.schema import RecordError
from tfhf.data.shards import canonical

_NAMED_ITEMS = 3   # of those that changed; the others are counted
_KEPT_FILES, _KEPT_BYTES = 4, 256 << 20   # recordings whose segments follow one another, and the size of each at most
_kept = collections.OrderedDict()   # (path, what says that it is still the same file): (bytes, [count, sha256])
_reading = threading.Lock()
_notes = contextvars.ContextVar("notes", default=None)


class Notes:
    """What is noted while one example is made. entries: {path: [bytes, sha256]}; clipped: samples beyond full scale."""

    def __init__(self):
        self.entries = {}
        self.clipped = 0


@contextlib.contextmanager
def noting():
    """Inside it, `read_source` and `note_clipped` note what they are called with: -> Notes."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def read_source(path, keep=False):
    """A file that an example is made of, local or gs:// -> its bytes; noted. RecordError where it cannot be read.

    keep: other examples will need the same file soon, as segments of a recording do: it stays in memory for them.
    """
    path = os.fspath(path)
    data, entry = _read_kept(path) if keep else _read(path)
    notes = _notes.get()
    if notes is not None:
        notes.entries[path] = entry
    return data


def note_clipped(count):
    """Notes that so many samples of the example that is being made were beyond full scale, and were set to it."""
    notes = _notes.get()
    if notes is not None:
        notes.clipped += int(count)


def _read_kept(path):
    key = path, _signature(path)
    with _reading:   # held while a file is read: threads with segments of one recording wait for one of them
        if key not in _kept:
            data, entry = _read(path)
            if len(data) > _KEPT_BYTES:
                return data, entry
            _kept[key] = data, entry
        _kept.move_to_end(key)
        while len(_kept) > _KEPT_FILES:
            _kept.popitem(last=False)
        return _kept[key]


def _signature(path):
    try:
        if storage.is_remote(path):
            return storage.size(path)
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _read(path):
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file") from error
    except storage.StorageError:
        raise   # the bucket does not answer: no fault of this file
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error
    return data, [len(data), hashlib.sha256(data).hexdigest()]


def _entries(dataset, sources, noted):
    """What an item is made of -> [[name, bytes, sha256] …]; of a file that is missing [name, None, None]"""
    entries = []
    for source in sources:
        if isinstance(source, tuple):
            name, content = source
            entries.append([name, len(content), hashlib.sha256(content).hexdigest()])
        else:
            entry = noted.get(source)
            entries.append([_name(dataset, source), *(entry or _hash(source))])
    return entries


def _name(dataset, path):
    folder = os.fspath(dataset.folder).rstrip("/") + "/"
    return path.removeprefix(folder) if dataset.folder else path


def _hash(path):
    """A file, in pieces -> (bytes, sha256), (None, None) where it cannot be read"""
    digest, count = hashlib.sha256(), 0
    try:
        for chunk in storage.read_chunks(path):
            digest.update(chunk)
            count += len(chunk)
    except storage.StorageError:
        raise
    except OSError:
        return None, None
    return count, digest.hexdigest()


def file_entry(path):
    """A file that a whole dataset is made of -> [name, bytes, sha256]. RecordError where it cannot be read."""
    count, digest = _hash(path)
    if count is None:
        raise RecordError(f"{path}: no such file, or it cannot be read")
    return [os.path.basename(path), count, digest]


def line_of(dataset, item, noted=None):
    """An item's line in SHARD.sources, or None where nothing of its own is read for it.

    Args:
      noted: entries of Notes: those files need not be read again.
    """
    sources = dataset.sources(item)
    if not sources:
        return None
    paths = {source for source in sources if isinstance(source, str)}
    plain = {key: value for key, value in item.items() if isinstance(value, (str, int, float, type(None)))
             and value not in paths and key not in ("problem", "where")}
    plain["usable"] = "problem" not in item
    digest = hashlib.sha256(canonical(plain)).hexdigest()[:16]
    return [item["id"], digest, _entries(dataset, sources, noted or {})]


def check_sources(dataset, split, writer, in_order):
    """Compares what the kept shards of a RecordWriter were made of with what the dataset has now.

    Args:
      in_order: function (items, convert) -> iterator of (item, convert(item)), as tfhf.data.writing has it.
    Shards that do not say what they were made of are passed over: an earlier version wrote them.
    Raises StaleRecords naming the first items that differ.
    """
    changed, listed = [], writer.sources()
    items = iter(dataset.examples(split))
    present = in_order(_bounded(items, writer.consumed), functools.partial(line_of, dataset))
    for (item, now), (is_listed, before) in zip(present, listed):
        if not is_listed:
            continue
        if before is None or now is None:
            if before != now:
                changed.append(f"{item['id']!r}: can {'not be used any more' if now is None else 'be used now'}")
        elif now[:2] != before[:2] or _contents(now) != _contents(before):
            changed.append(_difference(before, now))
    missing = sum(1 for _ in listed)
    if missing:
        changed.append(f"{missing} items are gone")
    if writer.complete and next(items, None) is not None:
        changed.append("there are more items")
    if changed:
        more = f"; and {len(changed) - _NAMED_ITEMS} more" if len(changed) > _NAMED_ITEMS else ""
        raise StaleRecords(f"{writer.folder}: was made of other sources than there are now: "
                           f"{'; '.join(changed[:_NAMED_ITEMS])}{more}. Use the same sources, another folder, or "
                           "overwrite to start anew")


def _bounded(items, count):
    """The first `count`; unlike itertools.islice it leaves the rest for the caller"""
    for _ in range(count):
        try:
            yield next(items)
        except StopIteration:
            return


def _contents(line):
    return [entry[1:] for entry in line[2]]


def _difference(before, now):
    if now[0] != before[0]:
        return f"item {before[0]!r} is now {now[0]!r}"
    if _contents(now) != _contents(before):
        return f"{before[0]!r}: {_words(before[2])}, now {_words(now[2])}"
    return f"{before[0]!r}: its text, label or place in the recording, or whether it can be used"


def _words(entries):
    return ", ".join(f"{name} (missing)" if count is None else f"{name} ({count:,} bytes, sha256 {digest[:8]}…)"
                     for name, count, digest in entries) or "nothing"
