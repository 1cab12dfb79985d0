"""Shards of records with an index and a manifest, written atomically and read at random.

OUT/SPLIT/
  writing.json               what the writer was asked for, so that a second run can finish the work of a killed one
  SPLIT-00000.tfrecord       an ordinary TFRecord file: per record u64 length, masked crc32c, data, masked crc32c
  SPLIT-00000.sources        what each record was made of: names, sizes and hashes of files, a JSON line for each item
  SPLIT-00000.index          where each record lies, its length and crc; its presence says that the shard is whole
  skipped.jsonl              where items were skipped: the id, source and reason of each
  manifest.json              counts, lengths, checksums of every shard. Written last: without it nothing is readable
"""

import concurrent.futures
import hashlib
import json
import os
import re
import threading

import google_crc32c
import numpy as np

from tfhf.data import storage
from tfhf.data.schema import PCM16, Packed, RecordError, RecordType
from tfhf.data.shards import (
    FRAME_BYTES, JOURNAL, MANIFEST, MANIFEST_FORMAT, SKIPPED, Index, ShardFile, canonical, check_record, check_schema,
    file_crc32c, histogram, index_name, open_index, outgrows, read_manifest, read_sources, shard_name, sources_name,
    stray_shards)

__all__ = ["RecordError", "RecordReader", "RecordWriter", "StaleRecords", "read_manifest"]

DEFAULT_SHARD_BYTES = 150 * 2**20
_OPEN_FILES = 256
_LONGEST_SPLIT = 100
# Options of a dataset that earlier versions did not note.
_LATER_OPTIONS = ("sources", "classes")


class StaleRecords(RecordError):
    """Records that were made with other options, or of other sources, than there are now; overwrite starts anew."""


class RecordWriter:
    """Writes one split. Use as a context manager: a clean exit writes the manifest, an exception leaves none.

    A killed writer leaves whole shards (each with its index) and no manifest. With resume=True a second writer with the
    same options keeps those shards; `consumed` then says how many source items they cover, and the caller goes on from
    there. The same items give byte-identical files, whether or not the writer was killed on the way.

    Args:
      out: local folder or gs://…; records go to out/split.
      writer, options, dataset: who wrote, with what, from what (licence, origin); all go to the manifest. A folder
        begun with other options is refused, unless overwrite=True starts anew.
      shard_bytes: a shard is closed before it would grow beyond this.
    """

    def __init__(self, out, split, record_type: RecordType, *, writer="", options=None, dataset=None,
                 audio_encoding=PCM16, shard_bytes=DEFAULT_SHARD_BYTES, resume=False, overwrite=False):
        self.folder = storage.join(out, split)
        self.split = split
        self.record_type = record_type
        self.audio_encoding = audio_encoding
        self.shard_bytes = shard_bytes
        self.consumed = 0
        self.complete = False
        self.kept_shards = 0
        self._indexes = []
        self._shard = None
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", split) or len(split) > _LONGEST_SPLIT:
            raise RecordError(f"split {split[:200]!r}: expected at most {_LONGEST_SPLIT} letters, digits, '_', '.' and "
                              "'-', the first no '.'")
        self._plan = json.loads(canonical({
            "schema": record_type.describe(), "split": split, "writer": writer, "options": options or {},
            "dataset": dataset or {}, "encoding": audio_encoding if record_type.has_audio else None,
            "shard_bytes": shard_bytes}))
        storage.make_folder(self.folder)
        self._lock = storage.FolderLock(self.folder)
        try:
            self._begin(resume, overwrite)
        except (RecordError, OSError):
            self._lock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        try:
            if error_type is None:
                self.finish()
            elif self._shard is not None:
                self._shard.discard()
        finally:
            self._lock.close()
        return False

    def _begin(self, resume, overwrite):
        names = set(storage.list_names(self.folder))
        if not overwrite and MANIFEST in names:
            manifest = read_manifest(self.folder)
            self._refuse_other_plan({key: manifest.get(key) for key in self._plan}, "already holds complete records")
            if not resume:
                raise RecordError(f"{self.folder}: already holds complete records ({manifest['count']}). Expected an "
                                  "empty folder, or overwrite=True")
            self.complete = True
        elif not overwrite and resume and JOURNAL in names and any(name.endswith(".index") for name in names):
            try:
                begun = json.loads(storage.read_bytes(storage.join(self.folder, JOURNAL)))
            except ValueError as error:
                raise RecordError(f"{self.folder}/{JOURNAL}: not JSON: {error}. Start anew with overwrite") from error
            self._refuse_other_plan(begun, "holds the unfinished work of a run")
        if self.complete:
            # Raises when a shard has gone or changed since the manifest was written.
            with RecordReader(self.folder, self.record_type) as reader:
                self._indexes = reader.indexes
            self.kept_shards = len(self._indexes)
            self.consumed = sum(index.header["consumed"] for index in self._indexes)
            return
        if not overwrite and resume and JOURNAL in names:
            self._keep_whole_shards(names)
        self._remove_leftovers(names)
        if not self._indexes:
            storage.write_bytes(storage.join(self.folder, JOURNAL), canonical(self._plan) + b"\n")

    def _refuse_other_plan(self, begun, what):
        def flat(plan):
            inner = plan.get("options") or {}
            return {**{key: value for key, value in plan.items() if key != "options"}, **inner}

        before, now = flat(begun), flat(self._plan)
        # An option that is empty is as good as one that is missing.
        differing = [_difference(key, before.get(key), now.get(key)) for key in sorted({*before, *now})
                     if (before.get(key) or None) != (now.get(key) or None)
                     and (key in before or key not in _LATER_OPTIONS)]
        if differing:
            raise StaleRecords(f"{self.folder}: {what} with other options: {'; '.join(differing)}. "
                               "Use the same options to finish it, another folder, or overwrite to start anew")

    def _keep_whole_shards(self, names):
        while True:
            name = shard_name(self.split, len(self._indexes))
            if name not in names or index_name(name) not in names:
                break
            path = storage.join(self.folder, name)
            index_path = storage.join(self.folder, index_name(name))
            index = Index.from_bytes(storage.read_bytes(index_path), index_path)
            if storage.size(path) != index.header["bytes"] or file_crc32c(path) != index.header["crc32c"]:
                break
            if "sources" in index.header and sources_name(name) not in names:
                break
            self._indexes.append(index)
        self.kept_shards = len(self._indexes)
        self.consumed = sum(index.header["consumed"] for index in self._indexes)

    def _remove_leftovers(self, names):
        """Removes what an earlier run left, and only what a writer of this split can have written. Manifest first."""
        shards = [index.header["shard"] for index in self._indexes]
        keep = {name for shard in shards for name in (shard, index_name(shard), sources_name(shard))}
        if keep:
            keep.add(JOURNAL)
        ours = re.compile(rf"({re.escape(self.split)}-\d{{5,}}\.(tfrecord|index|sources)"
                          rf"|{MANIFEST}|{JOURNAL}|{SKIPPED})(\.partial)?")
        for name in sorted(names - keep, key=lambda name: (name != MANIFEST, name)):
            if ours.fullmatch(name):
                storage.remove(storage.join(self.folder, name))

    def write(self, example):
        """Encodes and adds one example (see RecordType.pack)."""
        self.add(self.record_type.pack(example, self.audio_encoding))

    def add(self, packed: Packed, source=None):
        """Adds one packed example, in the order of the calls; source: what it was made of, see ShardFile."""
        if self.complete:
            raise RecordError(f"{self.folder}: is complete; nothing can be added")
        if self._shard is not None and outgrows(self._shard.bytes, len(packed.serialized), self.shard_bytes):
            self._close_shard()
        self._open_shard().add(packed, source)
        self.consumed += 1

    def skip(self, name, reason, source=None, file=""):
        """Counts a source item that gives no record; the manifest lists it, and skipped.jsonl with its file."""
        self._open_shard().skip(name, reason, source, file)
        self.consumed += 1

    @property
    def lists_sources(self):
        """Do any of the kept shards say what they were made of?"""
        return any("sources" in index.header for index in self._indexes)

    def sources(self):
        """Yields (is it listed, what it was made of or None) of each item of the kept shards, in order."""
        for index in self._indexes:
            listed = read_sources(self.folder, index.header)
            if listed:
                yield from ((True, line) for line in listed)
            else:
                yield from [(False, None)] * index.header["consumed"]

    def take_up(self):
        """Takes up the whole shards that others have written after those this writer has; see tfrecords/beam.py."""
        self._keep_whole_shards(set(storage.list_names(self.folder)))

    @property
    def skipped(self):
        """Source items skipped so far, those of kept shards included."""
        headers = [index.header for index in self._indexes] + ([self._shard.header] if self._shard else [])
        return sum(len(header["skipped"]) for header in headers)

    @property
    def count(self):
        """Records written so far, kept ones included."""
        return sum(len(index.entries) for index in self._indexes) + (self._shard.count if self._shard else 0)

    def _open_shard(self):
        if self._shard is None:
            self._shard = ShardFile(self.folder, shard_name(self.split, len(self._indexes)))
        return self._shard

    def _close_shard(self):
        self._indexes.append(self._shard.close())
        self._shard = None

    def finish(self):
        """Closes the last shard and writes the manifest, which makes the folder readable. Returns the manifest."""
        if self.complete:
            return read_manifest(self.folder)
        if not self.count:
            if self._shard is not None:
                self._shard.discard()
            raise RecordError(f"{self.folder}: no record was written, expected at least one")
        if self._shard is not None:
            self._close_shard()
        entries = np.concatenate([index.entries for index in self._indexes])
        self._refuse_double_ids(entries)
        lengths = entries["length"]
        manifest = {
            "format": MANIFEST_FORMAT, **self._plan,
            "count": len(entries),
            "bytes": sum(index.header["bytes"] for index in self._indexes),
            "length": {"field": self.record_type.length_field, "min": int(lengths.min()), "max": int(lengths.max()),
                       "sum": int(lengths.sum()), "histogram": histogram(lengths)},
            "skipped": [item[:2] for index in self._indexes for item in index.header["skipped"]],
            **self._account(),
            "shards": [{"name": index.header["shard"], "count": len(index.entries), "bytes": index.header["bytes"],
                        "crc32c": index.header["crc32c"], "index_crc32c": google_crc32c.value(index.to_bytes())}
                       for index in self._indexes],
        }
        manifest["fingerprint"] = hashlib.sha256(canonical([manifest["schema"], manifest["shards"]])).hexdigest()
        manifest["checksum"] = google_crc32c.value(canonical(manifest))
        self._list_skipped()
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        storage.write_bytes(storage.join(self.folder, MANIFEST), text.encode("utf-8", "backslashreplace"))
        self.complete = True
        return read_manifest(self.folder)

    def _account(self):
        """-> what the manifest says of clipped samples, and of what the records were made of."""
        headers = [index.header for index in self._indexes]
        account = {}
        if self.record_type.has_audio:
            samples, records = np.sum([header.get("clipped", [0, 0]) for header in headers], axis=0).tolist()
            account["clipped"] = {"samples": samples, "records": records}
        lists = [[sources_name(header["shard"]), header["sources"]["items"], header["sources"]["sha256"]]
                 for header in headers if "sources" in header]
        if lists:
            account["sources"] = lists
        return account

    def _list_skipped(self):
        lines = [canonical(dict(zip(("id", "reason", "source"), [*item, ""]))) + b"\n"
                 for index in self._indexes for item in index.header["skipped"]]
        if lines:
            storage.write_bytes(storage.join(self.folder, SKIPPED), b"".join(lines))

    def _refuse_double_ids(self, entries):
        hashes, first, counts = np.unique(entries["id"], return_index=True, return_counts=True)
        if len(hashes) == len(entries):
            return
        double = np.flatnonzero(counts > 1)[0]
        numbers = np.flatnonzero(entries["id"] == hashes[double])[:2]
        starts = np.cumsum([0] + [len(index.entries) for index in self._indexes])
        places = [f"{shard_name(self.split, int(np.searchsorted(starts, n, 'right')) - 1)} record "
                  f"{int(n - starts[np.searchsorted(starts, n, 'right') - 1])}" for n in numbers]
        raise RecordError(f"{self.folder}: {len(entries) - len(hashes)} ids occur more than once, the first at "
                          f"{' and '.join(places)}. Expected an id that is unique in its split")


def _difference(key, before, now):
    """An option that differs, in words"""
    if key == "listing_sha256":
        return "the ids, texts or labels that it lists"
    if key == "sources":
        was, has = ({entry[0]: f"{entry[1]:,} bytes, sha256 {entry[2][:8]}…" for entry in entries or ()}
                    for entries in (before, now))
        return "; ".join(f"{name} ({was.get(name, 'missing')}), now ({has.get(name, 'missing')})"
                         for name in sorted({*was, *has}) if was.get(name) != has.get(name)) or "the order of its files"
    return f"{key} {before!r} (now {now!r})"


class RecordReader:
    """Random access to the records of one split; any number of threads may read at once.

    Opening checks the manifest, every index and every shard's size. Reading checks both crcs of the record.

    Attributes: manifest; lengths int64 [count]; record_bytes int64 [count] (framing included).
    """

    def __init__(self, folder, record_type: RecordType | None = None):
        self.folder = os.fspath(folder)
        self.record_type = record_type
        self.manifest = read_manifest(folder)
        if record_type is not None:
            check_schema(self.manifest, record_type, storage.join(folder, MANIFEST))
        self.names = [shard["name"] for shard in self.manifest["shards"]]
        self._paths = [storage.join(folder, name) for name in self.names]
        self._descriptors = {}
        self._lock = threading.Lock()
        problem = stray_shards(self.folder, self.names)
        if problem:
            raise RecordError(problem)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.indexes = list(pool.map(lambda shard: open_index(self.folder, shard), self.manifest["shards"]))
        self._entries = np.concatenate([index.entries for index in self.indexes])
        if len(self._entries) != self.manifest["count"]:
            raise RecordError(f"{self.folder}: the indexes hold {len(self._entries)} records, the manifest says "
                              f"{self.manifest['count']}")
        self._starts = np.cumsum([0] + [len(index.entries) for index in self.indexes])
        self.lengths = self._entries["length"].astype(np.int64)
        self.record_bytes = self._entries["size"].astype(np.int64) + FRAME_BYTES

    def __len__(self):
        return len(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the shards; reading on opens them again."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors = {}

    def locate(self, number):
        """Record number in the split -> (shard number, record number in the shard)."""
        if not 0 <= number < len(self):
            raise RecordError(f"{self.folder}: record {number}, expected 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return shard, int(number - self._starts[shard])

    def read(self, number):
        """Record number in the split -> its serialized bytes, both crcs checked."""
        return self.read_many([number])[0]

    def read_at(self, shard, record):
        """(shard number, record number in it) -> serialized bytes. O(1): one positioned read."""
        return self.read_many([int(self._starts[shard]) + record])[0]

    def read_many(self, numbers):
        """Record numbers in the split, int [n] -> list of n serialized bytes: one positioned read each."""
        return [record for record, _, _ in self._read_each(numbers)]

    def read_audio(self, numbers, rows):
        """Record numbers in the split, int [n] -> list of n serialized records without audio, which goes to `rows`.

        rows: n float32 arrays [max_samples]; see RecordType.take_audio.
        """
        rest, encoding, take_audio = [], self.manifest["encoding"], self.record_type.take_audio
        for (record, shard, place), row in zip(self._read_each(numbers), rows):
            try:
                rest.append(take_audio(record, row, encoding))
            except RecordError as error:
                raise RecordError(f"{self._paths[shard]}: record {place}: {error}") from error
        return rest

    def _read_each(self, numbers):
        """Yields (serialized bytes, shard, record in it), one by one: what is still in the processor's cache is quick
        to go through again."""
        for shard, record, offset, size, crc in self._places(numbers, "offset", "size", "crc"):
            data = self._read_range(shard, offset, size + FRAME_BYTES)
            yield check_record(data, size, crc, self._paths[shard], record), shard, record

    def will_need(self, numbers):
        """Tells the operating system to fetch these records of a local folder into its cache; returns at once."""
        for shard, _, offset, size in self._places(numbers, "offset", "size"):
            descriptor = self._descriptor(shard)
            if descriptor is not None:
                os.posix_fadvise(descriptor, offset, size + FRAME_BYTES, os.POSIX_FADV_WILLNEED)

    def where(self, number):
        """Record number in the split -> "FOLDER/SHARD: record N", for messages."""
        shard, record = self.locate(number)
        return f"{self._paths[shard]}: record {record}"

    def _places(self, numbers, *columns):
        """-> tuples (shard, record in it, columns of its index entry …): Python's numbers, taken by whole columns."""
        numbers = np.asarray(numbers, np.int64)
        outside = (numbers < 0) | (numbers >= len(self))
        if outside.any():
            self.locate(int(numbers[outside][0]))
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        entries = self._entries[numbers]
        return zip(shards.tolist(), (numbers - self._starts[shards]).tolist(),
                   *(entries[column].tolist() for column in columns))

    def _descriptor(self, shard):
        """An open file of a local shard, or None: a bucket, or more shards than files we keep open."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None and not storage.is_remote(self._paths[shard]):
            with self._lock:
                descriptor = self._descriptors.get(shard)
                if descriptor is None and len(self._descriptors) < _OPEN_FILES:
                    descriptor = self._descriptors[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return descriptor

    def _read_range(self, shard, offset, count):
        descriptor = self._descriptor(shard)
        if descriptor is None:
            return storage.read_range(self._paths[shard], offset, count)
        return os.pread(descriptor, count, offset)


class JoinedReader:
    """Several readers as one, for mixtures: the records are numbered on from one reader to the next.

    Attributes: readers; starts int64 [readers], each one's first number; lengths, record_bytes int64 [count];
    encoding: how audio is stored, None where the readers differ; remote: whether any of them reads from a bucket.
    """

    def __init__(self, readers):
        self.readers = list(readers)
        self.starts = np.cumsum([0] + [len(reader) for reader in self.readers])[:-1]
        self.lengths = np.concatenate([reader.lengths for reader in self.readers])
        self.record_bytes = np.concatenate([reader.record_bytes for reader in self.readers])
        encodings = {reader.manifest["encoding"] for reader in self.readers}
        self.encoding = encodings.pop() if len(encodings) == 1 else None
        self.remote = any(storage.is_remote(reader.folder) for reader in self.readers)

    def read_many(self, numbers):
        """Record numbers, int [n] -> list of n serialized bytes, both crcs of each checked."""
        if len(self.readers) == 1:
            return self.readers[0].read_many(numbers)
        found = np.empty(len(numbers), object)
        for reader, places, own in self._by_reader(numbers):
            found[places] = reader.read_many(own)
        return found.tolist()

    def read_audio(self, numbers, rows):
        """See RecordReader.read_audio."""
        if len(self.readers) == 1:
            return self.readers[0].read_audio(numbers, rows)
        found = np.empty(len(numbers), object)
        for reader, places, own in self._by_reader(numbers):
            found[places] = reader.read_audio(own, [rows[place] for place in np.flatnonzero(places)])
        return found.tolist()

    def will_need(self, numbers):
        """See RecordReader.will_need."""
        if len(self.readers) == 1:
            self.readers[0].will_need(numbers)
            return
        for reader, _, own in self._by_reader(numbers):
            reader.will_need(own)

    def where(self, number):
        """Record number -> "FOLDER/SHARD: record N", for messages."""
        (reader, _, own), = self._by_reader(np.array([number]))
        return reader.where(int(own[0]))

    def _by_reader(self, numbers):
        """Yields (reader, places in `numbers` bool [n], its own record numbers) for the readers that are asked."""
        which = np.searchsorted(self.starts, numbers, side="right") - 1
        for index in np.unique(which).tolist():
            yield self.readers[index], which == index, numbers[which == index] - self.starts[index]
