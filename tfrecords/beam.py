"""The writers as an Apache Beam pipeline, for sources that one machine does not finish: `tfhf records WRITER --beam`.

The shards, their indexes and the manifest are byte for byte those of tfhf.data.writing.write_split. What lies in which
shard follows from the encoded sizes in the items' order, so the pipeline encodes every item, gathers the sizes in one
place, deals the items out and writes all shards at the same time. The manifest comes last, from this process. A killed
run goes on after the whole shards at the beginning of the split; --runner and all other options that are not the
writer's own go to Beam, for example --runner DataflowRunner --project P --region R --temp_location gs://…
"""

import os
import re

from tfhf.data.records import DEFAULT_SHARD_BYTES
from tfhf.data.schema import PCM16, RecordError
from tfhf.data.shards import FRAME_BYTES, ShardFile, outgrows, shard_name
from tfhf.data.storage import StorageError
from tfhf.data.writing import convert, take_up, writer_of, written


def write_split_with_beam(dataset, out, split, beam_options=(), *, audio_encoding=PCM16, skip_bad=0,
                          shard_bytes=DEFAULT_SHARD_BYTES, overwrite=False, log=print):
    """Writes one split of a Dataset to out/split and returns its manifest; see tfhf.data.writing.write_split.

    Args:
      beam_options: Beam's own command line, list of str; none: the local runner.
    Raises RecordError, also where Beam is not installed, or AudioError's text in a RecordError, naming the item;
    StaleRecords as there.
    """
    try:
        import apache_beam
    except ImportError as error:
        raise RecordError(f"--beam: Apache Beam cannot be imported ({error}). Expected the extra: "
                          "pip install 'tfhf[beam]'") from error
    from apache_beam.options.pipeline_options import PipelineOptions

    with writer_of(dataset, out, split, audio_encoding, shard_bytes, overwrite) as writer:
        take_up(dataset, split, writer, os.cpu_count() or 1, log)
        if writer.complete:
            return writer.finish()
        items = list(enumerate(dataset.examples(split, writer.consumed)))
        total = writer.consumed + len(items)
        folder, first, spare = writer.folder, writer.kept_shards, skip_bad - writer.skipped
        log(f"{split}: keeping {first} whole shards; {len(items)} items to write")
        try:
            with apache_beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
                packed = (pipeline | "Items" >> apache_beam.Create(items)
                          | "Spread" >> apache_beam.Reshuffle()   # else one worker gets them all, fused with Create
                          | "Encode" >> apache_beam.Map(_encode, dataset=dataset, encoding=audio_encoding)
                          | "Keep" >> apache_beam.Reshuffle())    # encoded once, though it is used twice
                shards = (packed | "Sizes" >> apache_beam.Map(_size)
                          | "All" >> apache_beam.combiners.ToList()
                          | "Deal" >> apache_beam.Map(_deal, shard_bytes=shard_bytes, spare=spare))
                (packed | "Number" >> apache_beam.Map(_with_shard, shards=apache_beam.pvalue.AsSingleton(shards))
                 | "Gather" >> apache_beam.GroupByKey()
                 | "Write" >> apache_beam.Map(_write_shard, folder=folder, split=split, first=first))
        except (RuntimeError, RecordError) as error:   # Beam wraps what a worker raises, with the worker's whole trace
            found = re.search(r"(?:RecordError: |^)([^\n]*?)(?: \[while running|\n|$)", str(error))
            raise RecordError(found[1] or str(error)) from error
        writer.take_up()
        if writer.consumed != total:
            raise RecordError(f"{folder}: the shards hold {writer.consumed} items, expected {total}: another writer?")
        manifest = writer.finish()
        log(written(manifest, folder))
        return manifest


def _encode(numbered, dataset, encoding):
    """(number, item) -> (number, Outcome)"""
    number, item = numbered
    try:
        return number, convert(dataset, item, encoding)
    except StorageError as error:   # Beam would try the whole bundle again; its text is what a person needs
        raise RecordError(str(error)) from error


def _size(numbered):
    """(number, outcome) -> (number, encoded bytes, "") or, of an item that cannot be used, (number, None, why)"""
    number, outcome = numbered
    if outcome.error is not None:
        return number, None, str(outcome.error)
    return number, len(outcome.packed.serialized), ""


def _deal(sizes, shard_bytes, spare):
    """-> list: item number -> shard number, as RecordWriter fills shards."""
    shards, shard, filled, problems = [], 0, 0, []
    for _, size, why in sorted(sizes):
        if size is None:
            problems.append(why)
        else:
            # The first item opens the first shard, whatever its size; a skipped one opens it as well.
            if shards and outgrows(filled, size, shard_bytes):
                shard, filled = shard + 1, 0
            filled += size + FRAME_BYTES
        shards.append(shard)
    if len(problems) > spare:
        raise RecordError(problems[spare])
    return shards


def _with_shard(numbered, shards):
    return shards[numbered[0]], numbered


def _write_shard(gathered, folder, split, first):
    """Writes one shard and its index; what Beam does twice gives the same bytes twice."""
    shard, members = gathered
    file = ShardFile(folder, shard_name(split, first + shard))
    for _, outcome in sorted(members, key=lambda member: member[0]):
        if outcome.error is None:
            file.add(outcome.packed, outcome.source)
        else:
            file.skip(outcome.id, str(outcome.error), outcome.source, outcome.file)
    file.close()
