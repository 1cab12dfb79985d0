"""Are these records still what was written, and what are they? `tfhf data verify PATH`, `tfhf data stats PATH`."""

import concurrent.futures

import google_crc32c
import numpy as np

from tfhf.data import schema, storage
from tfhf.data.plan import PaddingStats, check_buckets
from tfhf.data.records import RecordReader
from tfhf.data.schema import RecordError
from tfhf.data.shards import (
    FRAME_BYTES, JOURNAL, MANIFEST, check_record, check_schema, open_index, read_manifest, read_sources, stray_shards)

_BLOCK_BYTES = 16 * 2**20
_THREADS = 8
_NAMED_RECORDS = 5   # of a damaged shard; the others are counted


def split_folders(path):
    """OUT or OUT/SPLIT -> folders of the splits in it, also of those that have lost their manifest."""
    if not storage.exists(path):
        raise RecordError(f"{path}: no such folder; expected OUT or OUT/SPLIT as `tfhf records` writes it")
    if _is_split(storage.list_names(path)):
        return [path]
    folders = [storage.join(path, name) for name in storage.list_names(path)]
    found = [folder for folder in folders if _is_split(storage.list_names(folder))]
    if not found:
        raise RecordError(f"{path}: no records here or one folder below; expected OUT or OUT/SPLIT as `tfhf records` "
                          "writes it")
    return found


def _is_split(names):
    return any(name in (MANIFEST, JOURNAL) or name.endswith(".tfrecord") for name in names)


def problems(folder, record_type=None, progress=None):
    """Reads everything in OUT/SPLIT -> list of what is wrong, each line naming the file and, within one, the record.

    Checked: the manifest's checksum, the names and sizes of the shards, every index's crc32c, every shard's crc32c,
    both crcs of every record, that record, index and manifest belong together, that ids are unique, that the lists of
    sources are those that were written.

    Args:
      record_type: what the records must be, or None for any type.
      progress: called with (bytes read, bytes in all) after each shard.
    """
    try:
        manifest = read_manifest(folder)
        if record_type is not None:
            check_schema(manifest, record_type, storage.join(folder, MANIFEST))
    except RecordError as error:
        return [str(error)]
    shards = manifest["shards"]
    stray = stray_shards(folder, [shard["name"] for shard in shards])
    found, ids, done = [stray] if stray else [], [], 0
    there = set(storage.list_names(folder))
    with concurrent.futures.ThreadPoolExecutor(_THREADS, "tfhf-verify") as pool:
        waiting = [pool.submit(_check_shard, folder, shard) for shard in shards if shard["name"] in there]
        for shard, future in zip([shard for shard in shards if shard["name"] in there], waiting):
            of_shard, index = future.result()
            found += of_shard
            ids += [] if index is None else [index.entries["id"]]
            done += shard["bytes"]
            if progress is not None:
                progress(done, manifest["bytes"])
    count, different = sum(map(len, ids)), len(np.unique(np.concatenate(ids))) if ids else 0
    if count != different:
        found.append(f"{folder}: {count - different} ids occur more than once")
    if not found and count != manifest["count"]:
        found.append(f"{folder}: the indexes hold {count} records, the manifest says {manifest['count']}")
    return found


def verify(folder, record_type=None):
    """Like `problems`, but raises RecordError with the first one; returns {"records", "shards", "bytes"}."""
    found = problems(folder, record_type)
    if found:
        raise RecordError(found[0])
    manifest = read_manifest(folder)
    return {"records": manifest["count"], "shards": len(manifest["shards"]), "bytes": manifest["bytes"]}


def _check_shard(folder, shard):
    """-> (problems, Index or None), after reading the shard once."""
    try:
        index = open_index(folder, shard)
        read_sources(folder, index.header)
    except RecordError as error:
        return [str(error)], None
    path = storage.join(folder, shard["name"])
    crc, number, bad = 0, 0, []
    for sizes in _blocks(index.entries["size"].astype(np.int64) + FRAME_BYTES):
        data = storage.read_range(path, int(index.entries["offset"][number]), int(sizes.sum()))
        crc = google_crc32c.extend(crc, data)
        ends = np.cumsum(sizes)
        for start, end in zip(ends - sizes, ends):
            try:
                entry = index.entries[number]
                check_record(data[start:end], int(entry["size"]), int(entry["crc"]), path, number)
            except RecordError as error:
                bad.append(str(error))
            number += 1
    if crc != shard["crc32c"] and not bad:
        bad = [f"{path}: its crc32c is not the one in the manifest, though every record is sound"]
    more = [f"{path}: {len(bad) - _NAMED_RECORDS} more records like these"] if len(bad) > _NAMED_RECORDS else []
    return bad[:_NAMED_RECORDS] + more, index


def _blocks(sizes):
    """int [n] bytes of records -> yields runs of them of about _BLOCK_BYTES, at least one record each."""
    blocks = np.cumsum(sizes) // _BLOCK_BYTES
    return np.split(sizes, np.flatnonzero(np.diff(blocks)) + 1)


def stats(folder, buckets=None):
    """OUT/SPLIT -> what is in it, as JSON values; from the manifest and the index, no record is read.

    Args:
      buckets: ascending lengths to tell the padding for; None: the longest record as the only one.
    Returns {"records", "bytes", "shards", "shard_bytes", "type", "length", "padding", "skipped", "licence", "origin",
    "fingerprint"}, and "hours" where the type has a sample rate.
    """
    with RecordReader(folder) as reader:
        manifest, lengths = reader.manifest, reader.lengths
    shards = [shard["bytes"] for shard in manifest["shards"]]
    buckets = check_buckets(buckets or [lengths.max()])
    padding = PaddingStats.of(lengths, buckets)
    per_bucket, _ = np.histogram(lengths, [0, *(bucket + 0.5 for bucket in buckets)])
    result = {
        "records": manifest["count"],
        "bytes": manifest["bytes"],
        "shards": len(shards),
        "shard_bytes": {"min": min(shards), "max": max(shards)},
        "type": f"{manifest['schema']['name']} version {manifest['schema']['version']}",
        "length": {"field": manifest["length"]["field"], "sum": int(lengths.sum()), "mean": float(lengths.mean()),
                   **{f"p{p}": int(np.percentile(lengths, p)) for p in (0, 50, 90, 99, 100)}},
        "padding": {"buckets": list(buckets), "fraction": padding.fraction,
                    "examples_per_bucket": per_bucket.tolist(), "longer": len(lengths) - padding.examples},
        "skipped": len(manifest["skipped"]),
        "licence": manifest["dataset"].get("licence", "unknown"),
        "origin": manifest["dataset"].get("origin", ""),
        "fingerprint": manifest["fingerprint"],
    }
    rate_hz = next((known.sample_rate_hz for known in vars(schema).values() if isinstance(known, schema.RecordType)
                    and known.name == manifest["schema"]["name"]), None)
    if rate_hz and manifest["encoding"]:
        result["hours"] = int(lengths.sum()) / rate_hz / 3600
    return result
