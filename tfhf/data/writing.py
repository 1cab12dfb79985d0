"""A dataset's examples into records: conversion in parallel, in order, with progress, and again after a kill."""

import collections
import concurrent.futures
import hashlib
import os
import sys
import time

from tfhf.assets import AssetUnavailable, fetch
from tfhf.data.audio import AudioError, load_audio
from tfhf.data.records import DEFAULT_SHARD_BYTES, RecordWriter
from tfhf.data.schema import PCM16, SPEECH_TEXT, RecordError, RecordType

_PROGRESS_EVERY_S = 5.0


class Dataset:
    """What a writer in tfrecords/ defines: where examples come from. Everything else is write_split.

    Attributes:
      name: the writer's name. licence, origin: free text, for the manifest.
      record_type: the schema that `load` gives examples of.
    """

    name: str = ""
    licence: str = "unknown"
    origin: str = ""
    record_type: RecordType = SPEECH_TEXT

    def splits(self):
        """-> names of the splits that can be written."""
        raise NotImplementedError

    def options(self, split):
        """-> dict (JSON) of all that decides what `examples` gives; a run with other options is not resumed."""
        raise NotImplementedError

    def examples(self, split, start=0):
        """Iterates over the items of a split from number `start` on: dicts, cheap to make, the same on every call."""
        raise NotImplementedError

    def load(self, item):
        """One item -> the example to encode. The costly part (decoding, resampling); called in threads.

        Here for speech: item is {"id", "audio": a path or the bytes of a sound file, "text", "language"}.
        """
        audio = item["audio"]
        name = None if isinstance(audio, str) else f"example {item['id']!r}"
        return {**item, "audio": load_audio(audio, self.record_type.sample_rate_hz, name)}


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
        digest.update("\x1f".join(row).encode("utf-8") + b"\x1e")
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
      skip_bad: how many items that cannot be used may be left out; they are listed in the manifest under "skipped".
        0: the first one stops the writing, named.
      log: called with a line of progress; None prints it to stderr.
    Raises RecordError or AudioError naming the item; the folder then has no manifest.
    """
    log = log or (lambda line: print(line, file=sys.stderr, flush=True))
    workers = workers or os.cpu_count() or 1
    with writer_of(dataset, out, split, audio_encoding, shard_bytes, overwrite) as writer:
        if writer.complete:
            log(f"{split}: already complete, {writer.count} records")
            return writer.finish()
        if writer.kept_shards:
            log(f"{split}: keeping {writer.kept_shards} whole shards, {writer.count} records, of an interrupted run")
        progress = _Progress(split, writer, log)
        items = dataset.examples(split, writer.consumed)
        for item, outcome in _convert(items, dataset, audio_encoding, workers):
            if isinstance(outcome, Exception):
                if writer.skipped >= skip_bad:
                    raise outcome
                log(f"{split}: skipped: {outcome}")
                writer.skip(item["id"], str(outcome))
            else:
                writer.add(outcome)
            progress.step()
        manifest = writer.finish()
        log(f"{split}: {manifest['count']} records in {len(manifest['shards'])} shards, "
            f"{manifest['bytes'] / 1e6:.1f} MB, {len(manifest['skipped'])} skipped: {writer.folder}")
        return manifest


def _convert(items, dataset, audio_encoding, workers):
    """Yields (item, Packed or the error) in the items' order, a bounded number of them under way."""
    def convert(item):
        try:
            return dataset.record_type.pack(dataset.load(item), audio_encoding)
        except (AudioError, RecordError) as error:
            return error

    waiting = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, "tfhf-convert")
    try:
        for item in items:
            waiting.append((item, pool.submit(convert, item)))
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
