"""The bytes of a shard, its index and its manifest: what RecordWriter and RecordReader have in common."""

import dataclasses
import functools
import hashlib
import json
import re
import struct

import google_crc32c
import numpy as np

from tfhf.data import storage
from tfhf.data.schema import RecordError

MANIFEST = "manifest.json"
JOURNAL = "writing.json"
SKIPPED = "skipped.jsonl"
MANIFEST_FORMAT = 1

_INDEX_MAGIC = b"TFHFIDX1"
INDEX_ENTRY = np.dtype([
    ("offset", "<u8"),   # of the record's 12-byte header in the shard
    ("size", "<u4"),     # bytes of data, without header and footer
    ("crc", "<u4"),      # masked crc32c of the data: a shard put in another's place is noticed
    ("length", "<u8"),   # the example's length, in the unit of the schema's length field
    ("id", "<u8"),       # first 8 bytes of BLAKE2b of the id
])
HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
FRAME_BYTES = HEADER.size + CRC.size
_HISTOGRAM_BINS = 20


def masked_crc32c(data):
    """TFRecord's checksum: crc32c, rotated and offset so that a crc of data holding crcs stays strong."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def shard_name(split, number):
    """(split, shard number) -> SPLIT-00000.tfrecord"""
    return f"{split}-{number:05d}.tfrecord"


def index_name(name):
    """A shard's file name -> its index's."""
    return name[: -len(".tfrecord")] + ".index"


def sources_name(name):
    """A shard's file name -> that of the list of what its records were made of."""
    return name[: -len(".tfrecord")] + ".sources"


def canonical(value):
    """A JSON value -> the bytes that checksums are taken over: sorted keys, no spaces, UTF-8."""
    # A lone surrogate, as of a file's name that is not UTF-8, becomes what it is in JSON: an escape.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class Index:
    """What a shard's records are and where they lie.

    header: shard, bytes, crc32c (of the whole shard), count, consumed (source items, skipped ones too), skipped ([id,
    reason, source] of each), clipped (of audio: samples, records) and, where the items are made of files, sources:
    items, bytes and sha256 of SHARD.sources.
    """

    header: dict
    entries: np.ndarray

    def to_bytes(self):
        """The index as it lies on disk, its crc32c last."""
        header = canonical(self.header)
        body = _INDEX_MAGIC + struct.pack("<I", len(header)) + header + self.entries.tobytes()
        return body + CRC.pack(masked_crc32c(body))

    @classmethod
    def from_bytes(cls, data, where):
        """What `to_bytes` wrote; `where` names the file in a RecordError about damage."""
        if len(data) < 16 or data[:8] != _INDEX_MAGIC:
            raise RecordError(f"{where}: not a record index (first bytes {data[:8]!r}, expected {_INDEX_MAGIC!r})")
        if CRC.unpack(data[-4:])[0] != masked_crc32c(data[:-4]):
            raise RecordError(f"{where}: the index is damaged (its crc32c does not match). Write the records again")
        end = 12 + struct.unpack_from("<I", data, 8)[0]
        header = json.loads(data[12:end])
        entries = np.frombuffer(data[end:-4], INDEX_ENTRY)
        if len(entries) != header["count"]:
            raise RecordError(f"{where}: {len(entries)} entries, but the header says {header['count']}")
        return cls(header, entries)


class ShardFile:
    """One shard that is being written, in order; close() puts it under its name, whole, and its index beside it.

    `source`, of `add` and `skip`, is what an item was made of: [id, digest, [[name, bytes, sha256] …]], see
    tfhf/data/sources.py. The lines of SHARD.sources are these.

    Attributes: header: see Index; count, bytes: of the records so far.
    """

    def __init__(self, folder, name):
        self.header = {"shard": name, "consumed": 0, "skipped": [], "clipped": [0, 0]}
        self._sources, self._listed = [], False
        self.bytes = 0
        self._folder = folder
        self._file = storage.AtomicFile(storage.join(folder, name))
        self._entries, self._crc = [], 0

    @property
    def count(self):
        """Records so far."""
        return len(self._entries)

    def add(self, packed, source=None):
        """Adds one `Packed` example."""
        self._note(source)
        size = len(packed.serialized)
        crc = masked_crc32c(packed.serialized)
        self._entries.append((self.bytes, size, crc, packed.length, packed.id_hash))
        for part in (_frame_header(size), packed.serialized, CRC.pack(crc)):
            self._file.write(part)
            self._crc = google_crc32c.extend(self._crc, part)
        self.bytes += size + FRAME_BYTES
        self.header["consumed"] += 1
        clipped = getattr(packed, "clipped", 0)
        if clipped:
            samples, records = self.header["clipped"]
            self.header["clipped"] = [samples + clipped, records + 1]

    def skip(self, name, reason, source=None, file=""):
        """Counts a source item that gives no record; file: what it was to be made of, for a person."""
        self._note(source)
        self.header["consumed"] += 1
        self.header["skipped"].append([name, reason, file])

    def _note(self, source):
        # A line for each item, null where it names no source: line and item have one number.
        self._sources.append(canonical(source) + b"\n")
        self._listed = self._listed or source is not None

    def close(self):
        """-> Index"""
        entries = np.array(self._entries, INDEX_ENTRY)
        if self._listed:
            content = b"".join(self._sources)
            self.header["sources"] = {"items": len(self._sources), "bytes": len(content),
                                      "sha256": hashlib.sha256(content).hexdigest()}
            storage.write_bytes(storage.join(self._folder, sources_name(self.header["shard"])), content)
        index = Index({**self.header, "bytes": self.bytes, "crc32c": self._crc, "count": len(entries)}, entries)
        self._file.commit()
        storage.write_bytes(storage.join(self._folder, index_name(self.header["shard"])), index.to_bytes())
        return index

    def discard(self):
        """Leave nothing behind."""
        self._file.discard()


def outgrows(shard_size, size, shard_bytes):
    """Would a record of `size` bytes make a shard of `shard_size` bytes larger than `shard_bytes`?"""
    return shard_size + size + FRAME_BYTES > shard_bytes


def file_crc32c(path):
    """crc32c of a whole file, which need not fit into memory."""
    crc = 0
    total = storage.size(path)
    for start in range(0, total, 1 << 24):
        crc = google_crc32c.extend(crc, storage.read_range(path, start, 1 << 24))
    return crc


def stray_shards(folder, names):
    """What is wrong with the shards that lie in a folder, whose manifest lists `names`, or "".

    A shard that the manifest does not know (doubled, renamed) would be read by anybody who lists *.tfrecord.
    """
    there = {name for name in storage.list_names(folder) if name.endswith(".tfrecord")}
    missing = [name for name in names if name not in there]
    strays = sorted(there - set(names))
    if not missing and not strays:
        return ""
    return (f"{folder}: the shards are not those of the manifest: missing {missing[:5]}, unknown {strays[:5]}; "
            f"expected {len(names)} shards")


def read_sources(folder, header):
    """An index's header -> [[id, digest, [[name, bytes, sha256] …]] or None …] of the shard's items; [] without a list.

    RecordError when the list is missing or another one.
    """
    stated = header.get("sources")
    if stated is None:
        return []
    path = storage.join(folder, sources_name(header["shard"]))
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: missing, expected the list of what the shard was made of") from error
    if hashlib.sha256(content).hexdigest() != stated["sha256"]:
        raise RecordError(f"{path}: not the list that was written with its shard (another sha256)")
    return [json.loads(line) for line in content.splitlines()]


def open_index(folder, shard):
    """The Index of a shard (its entry in the manifest). RecordError when it, or the shard's size, is another one."""
    path = storage.join(folder, index_name(shard["name"]))
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: the index of shard {shard['name']} is missing") from error
    index = Index.from_bytes(data, path)
    if google_crc32c.value(data) != shard["index_crc32c"]:
        raise RecordError(f"{path}: not the index that the manifest describes (another shard's, or of another run)")
    size = storage.size(storage.join(folder, shard["name"]))
    if size != shard["bytes"]:
        whole = int(np.sum(index.entries["offset"] + index.entries["size"] + FRAME_BYTES <= size))
        what = f"cut in record {whole} of {shard['count']}" if size < shard["bytes"] else "longer than written"
        raise RecordError(f"{folder}/{shard['name']}: {what}: {size} bytes, the manifest says {shard['bytes']}")
    return index


@functools.lru_cache(2**16)
def _frame_header(size):
    length = _LENGTH.pack(size)
    return length + CRC.pack(masked_crc32c(length))


def check_record(data, size, crc, path, number):
    """A record's bytes, framing included, its size and crc by the index -> its serialized bytes, both crcs checked.

    path, number: the shard and the record's number in it, for errors.
    """
    record = data[HEADER.size:-CRC.size]
    # The frame is known beforehand but for the record itself: comparisons only, on the way that all records go.
    if (data.startswith(_frame_header(size)) and data.endswith(CRC.pack(crc)) and len(record) == size
            and masked_crc32c(record) == crc):
        return record
    raise RecordError(f"{path}: record {number}: {_damage(data, size, record)}")


def _damage(data, size, record):
    """What is wrong with a record that `check_record` refuses."""
    if len(data) != size + FRAME_BYTES:
        return f"the shard is cut inside it ({len(data)} of {size + FRAME_BYTES} bytes)"
    got_size, got_crc = HEADER.unpack_from(data)
    if got_crc != masked_crc32c(data[:_LENGTH.size]):
        return "its length field is damaged (crc32c does not match)"
    if got_size != size:
        return f"{got_size} bytes long, the index says {size}: not the shard it was written as"
    if masked_crc32c(record) != CRC.unpack_from(data, len(data) - CRC.size)[0]:
        return "its data are damaged (crc32c does not match)"
    return "sound, but not the record that the index describes: another shard's?"


def read_manifest(folder):
    """OUT/SPLIT -> its manifest as a dict. RecordError when it is missing, damaged or of another format."""
    path = storage.join(folder, MANIFEST)
    try:
        data = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        names = storage.list_names(folder)
        hint = "a writer was interrupted here; run the same command again to finish" if JOURNAL in names else (
            f"the folder holds {names[:8] or 'nothing'}; expected OUT/SPLIT, for example records/train")
        raise RecordError(f"{path}: no manifest, so these are not readable records: {hint}") from error
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise RecordError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        got = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise RecordError(f"{path}: manifest format {got!r}, expected {MANIFEST_FORMAT}: "
                          "written by another version of tfhf?")
    claimed = manifest.pop("checksum", None)
    if claimed != google_crc32c.value(canonical(manifest)):
        raise RecordError(f"{path}: damaged or edited (checksum {claimed!r} does not match its content)")
    for shard in manifest["shards"]:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tfrecord", str(shard["name"])):
            raise RecordError(f"{path}: names the shard {shard['name']!r}, expected the name of a file in its folder")
    return manifest


def check_schema(manifest, record_type, where):
    """RecordError, naming `where`, unless the manifest is of this record type, version and fields."""
    got, expected = manifest["schema"], record_type.describe()
    if got["name"] != expected["name"]:
        raise RecordError(f"{where}: records of type {got['name']!r}, expected {expected['name']!r}")
    if got["version"] != expected["version"]:
        raise RecordError(f"{where}: schema {got['name']} version {got['version']}, expected "
                          f"version {expected['version']}: write the records again with this version of tfhf")
    if got["fields"] != expected["fields"]:
        raise RecordError(f"{where}: schema fields {got['fields']}, expected {expected['fields']}")


def histogram(lengths):
    """int [n] -> {"edges": [bins + 1], "counts": [bins]}, evenly spaced from the least to the greatest."""
    counts, edges = np.histogram(lengths, bins=_HISTOGRAM_BINS)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


