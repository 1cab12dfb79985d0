"""A dataset's examples into records: conversion in parallel, in order, with progress, and again after a kill."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import sys
import time

from tfhf.assets import AssetUnavailable, fetch
from tfhf.data.audio import AudioError, read_audio
from tfhf.data.records import DEFAULT_SHARD_BYTES, SKIPPED, RecordWriter
from tfhf.data.schema import PCM16, SPEECH_TEXT, Packed, RecordError, RecordType
from tfhf.data.sources import check_sources, line_of, note_clipped, noting, read_source
from tfhf.data.storage import StorageError, join

_PROGRESS_EVERY_S = 5.0
_PART = ("offset", "duration", "channel")   # of an item of speech: which part of the sound it is


class Dataset:
    """What a writer in tfrecords/ defines: where examples come from. Everything else is write_split.

    Attributes:
      name: the writer's name. licence, origin: free text, for the manifest.
      folder: where its files lie, "" where that is not one folder: the manifest names them from there.
      record_type: the schema that `load` gives examples of.
    """

    name: str = ""
    licence: str = "unknown"
    origin: str = ""
    folder: str = ""
    record_type: RecordType = SPEECH_TEXT

    def splits(self):
        """-> names of the splits that can be written."""
        raise NotImplementedError

    def options(self, split):
        """-> dict (JSON) of all that decides what `examples` gives; a run with other options is not resumed.

        "classes": the names of the labels in the order of their numbers, for records that have labels; tasks compare
        them with their own. "sources": [[name, bytes, sha256] …] of files that all items are made of.
        """
        raise NotImplementedError

    def examples(self, split, start=0):
        """Iterates over the items of a split from number `start` on: dicts, cheap to make, the same on every call.

        An item that cannot be used, such as a row that names a missing file, has "problem": why; "where": its table
        and row. It counts as one that cannot be loaded.
        """
        raise NotImplementedError

    def sources(self, item):
        """-> what one item is made of: paths of files, or pairs (name, bytes) of what it holds itself.

        `load` reads the files with tfhf.data.sources.read_source, so that the same read gives their hashes. Here for
        speech: the file that "audio" names.
        """
        audio = item.get("audio")
        return [audio] if isinstance(audio, str) else []

    def load(self, item):
        """One item -> the example to encode. The costly part (decoding, resampling); called in threads.

        Here for speech: item is {"id", "audio": a path or the bytes of a sound file, "text", "language"} and, where it
        is a part of the sound, "offset" and "duration" in seconds (None: to the end) and "channel", as for
        tfhf.data.audio.read_audio.
        """
        rest = {key: value for key, value in item.items() if key not in _PART}
        return {**rest, "audio": self.sound(item).samples}

    def sound(self, item, name=None):
        """One item of speech -> its tfhf.data.audio.Sound; see `load`. name: what errors call it."""
        audio = item["audio"]
        part = {key: item[key] for key in _PART if key in item}
        name = name or (audio if isinstance(audio, str) else f"example {item['id']!r}")
        content = read_source(audio, keep=bool(part)) if isinstance(audio, str) else audio
        sound = read_audio(content, self.record_type.sample_rate_hz, name, **part)
        note_clipped(sound.clipped)
        return sound


def folder_or_asset(folder, name, what):
    """`folder` where one is given, otherwise the asset `name` (tfhf/assets.py), fetched into the cache.

    Raises RecordError, which calls it `what`, when it cannot be had.
    """
    if folder:
        return folder
    try:
        return fetch(name)
    except AssetUnavailable as error:
        raise RecordError(f"{what} cannot be had: {error}. Expected a registry, or --folder") from error


def listing_sha256(rows):
    """Fingerprint of a list of tuples of strings, so that a changed source is not taken for the same one."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\x1f".join(row).encode("utf-8", "backslashreplace") + b"\x1e")
    return digest.hexdigest()


def writer_of(dataset, out, split, audio_encoding, shard_bytes, overwrite):
    """The RecordWriter for one split of a Dataset, which goes on where an interrupted one stopped."""
    return RecordWriter(out, split, dataset.record_type, writer=dataset.name, options=dataset.options(split),
                        dataset={"licence": dataset.licence, "origin": dataset.origin}, audio_encoding=audio_encoding,
                        shard_bytes=shard_bytes, resume=True, overwrite=overwrite)


def write_split(dataset, out, split, *, audio_encoding=PCM16, workers=None, skip_bad=0, shard_bytes=DEFAULT_SHARD_BYTES,
                overwrite=False, log=None):
    """Writes one split of a Dataset to out/split and returns its manifest.

    Whole shards that an interrupted run with the same options left are kept and their examples not loaded again.

    Args:
      workers: threads that decode and resample (soundfile and soxr release Python's lock); None: one per core.
      skip_bad: how many items that cannot be used may be left out; they are listed in the manifest under "skipped", and
        with their sources in skipped.jsonl beside it. 0: the first one stops the writing, named.
      log: called with a line of progress; None prints it to stderr.
    Raises RecordError or AudioError naming the item; the folder then has no manifest. StaleRecords: what lies there was
    made with other options, or of other sources.
    """
    log = log or (lambda line: print(line, file=sys.stderr, flush=True))
    workers = workers or os.cpu_count() or 1
    with writer_of(dataset, out, split, audio_encoding, shard_bytes, overwrite) as writer:
        take_up(dataset, split, writer, workers, log)
        if writer.complete:
            return writer.finish()
        progress = _Progress(split, writer, log)
        items = dataset.examples(split, writer.consumed)
        for _, outcome in in_order(items, lambda item: convert(dataset, item, audio_encoding), workers):
            if outcome.error is None:
                writer.add(outcome.packed, outcome.source)
            elif writer.skipped < skip_bad:
                log(f"{split}: skipped: {outcome.error}")
                writer.skip(outcome.id, str(outcome.error), outcome.source, outcome.file)
            else:
                raise outcome.error
            progress.step()
        manifest = writer.finish()
        log(written(manifest, writer.folder))
        return manifest


def take_up(dataset, split, writer, workers, log):
    """Says what a RecordWriter has kept of an earlier run, after comparing what that was made of with what is there."""
    if not writer.consumed:
        return
    same = ""
    if writer.lists_sources:
        log(f"{split}: comparing {writer.consumed} items with what they were made of")
        check_sources(dataset, split, writer, lambda items, function: in_order(items, function, workers))
        same = ", made of the same sources"
    if writer.complete:
        log(f"{split}: already complete, {writer.count} records{same}")
    else:
        log(f"{split}: keeping {writer.kept_shards} whole shards, {writer.count} records, of an interrupted run{same}")


def written(manifest, folder):
    """The line that says what was written."""
    skipped, clipped = len(manifest["skipped"]), manifest.get("clipped", {"samples": 0})
    listed = f", listed in {join(folder, SKIPPED)}" if skipped else ""
    beyond = ""
    if clipped["samples"]:
        beyond = f", {clipped['samples']} samples of {clipped['records']} records clipped at full scale"
    return (f"{manifest['split']}: {manifest['count']} records in {len(manifest['shards'])} shards, "
            f"{manifest['bytes'] / 1e6:.1f} MB{beyond}, {skipped} skipped{listed}: {folder}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an item: a packed record, or the error that says why there is none.

    source: its line in SHARD.sources. file: what it was to be made of, for a person.
    """

    id: str
    packed: Packed | None
    error: Exception | None
    source: list | None
    file: str


def convert(dataset, item, audio_encoding):
    """One item -> Outcome."""
    packed = error = None
    with noting() as notes:
        try:
            packed = _packed(dataset, item, audio_encoding)
        except (AudioError, RecordError) as found:
            error = found
    if packed is not None and notes.clipped:
        packed = dataclasses.replace(packed, clipped=packed.clipped + notes.clipped)
    source = line_of(dataset, item, notes.entries)
    file = "" if error is None else item.get("where") or _files(dataset, item)
    return Outcome(item["id"], packed, error, source, file)


def _packed(dataset, item, audio_encoding):
    """One item -> Packed. Whatever a library raises while one item is read is that item's error, and names it.

    A bucket that does not answer is no fault of the item: StorageError.
    """
    if "problem" in item:
        raise RecordError(item["problem"])
    try:
        return dataset.record_type.pack(dataset.load(item), audio_encoding)
    except (AudioError, RecordError, StorageError):
        raise
    except Exception as error:
        raise RecordError(f"{_called(dataset, item)}: {type(error).__name__}: {_one_line(error)}") from error


def _files(dataset, item):
    return ", ".join(source if isinstance(source, str) else source[0] for source in dataset.sources(item))


def _called(dataset, item):
    """What an error calls an item: its id and, where it has any, its files"""
    files = _files(dataset, item)
    return f"{files} (example {item['id']!r})" if files else f"example {item['id']!r}"


def _one_line(error):
    return " ".join(str(error).split())[:500]


def in_order(items, function, workers):
    """Yields (item, function(item)) in the items' order, a bounded number of them under way in threads."""
    waiting = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, "tfhf-convert")
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= 4 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Progress:
    def __init__(self, split, writer, log):
        self._split, self._writer, self._log = split, writer, log
        self._begin = self._last = time.monotonic()
        self._done = 0

    def step(self):
        self._done += 1
        now = time.monotonic()
        if now - self._last >= _PROGRESS_EVERY_S:
            self._last = now
            rate = self._done / (now - self._begin)
            self._log(f"{self._split}: {self._writer.consumed} examples, {rate:.1f} examples/s")
