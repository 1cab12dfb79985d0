"""Records into batches for the step.

The order is a function of (seed, epoch, step) (plan.py), so a run that goes on at step k asks for start_step=k and gets
the batches that an uninterrupted run would have had, after reading none of the ones before. Records are read at random
through the index, ahead of their turn and in order; parsing and the task's preprocess run in tf.data's own threads,
in order as well. The only randomness is a seed per example: nothing is drawn inside a traced function.
"""

import collections
import concurrent.futures
import itertools
import os
import weakref

import numpy as np
import tensorflow as tf

from tfhf.data import ending  # noqa: F401  (frees the iterators when Python ends)
from tfhf.data import storage
from tfhf.data.class_weights import class_weights
from tfhf.data.labels import check_records_classes, manifest_classes
from tfhf.data.plan import PaddingStats, TrainingPlan, bucket_members, check_buckets, evaluation_plan, shares_of
from tfhf.data.records import JoinedReader, RecordReader

__all__ = ["PaddingStats", "check_split", "evaluation_batches", "finished", "normalised", "padding_stats",
           "training_batches"]

DEFAULT_READAHEAD_BYTES = 64 * 2**20
_REMOTE_READ_THREADS = 32
_RECORDS_PER_CALL = 128
_ALIGNMENT = 64


def training_batches(task, path, split, *, batch_size, seed, start_step=0, num_steps=None, num_hosts=1, host_index=0,
                     normalise_weights=None, drop_longer=False, readahead_bytes=DEFAULT_READAHEAD_BYTES):
    """Endless shuffled batches: tf.data.Dataset of (inputs, targets, sample_weight).

    What does not fill a batch at the end of an epoch opens the next one (TrainingPlan), so no example is lost. Every
    batch has one bucket; a task with one bucket gets fully static shapes, with more only the padded axis is unknown.
    The example given to task.preprocess holds also "seed", int32 [2], for augmentation: a function of seed, step and
    place in the batch, the same whatever the number of hosts.

    Args:
      path, split: records lie in path/split. A mixture is a list of (path, weight): of all examples each folder gives
        its share weight / sum(weights), in a fixed order as well (TrainingPlan).
      batch_size: the GLOBAL batch. With num_hosts > 1 host `host_index` reads and gives only its slice of each one.
      start_step: the first step to give; num_steps: how many (None: endless).
      normalise_weights: True gives weight_i * B / sum over the global batch, so that sum(loss_i * w_i) / B is the mean
        over all target tokens of the global batch. The weights of the other hosts' examples are not known here, so with
        several hosts it must be False: the weights are then raw, and the step divides by their all-reduced sum. None is
        True on one host, False on several.
      drop_longer: leave out records longer than the largest bucket, with a printed count, instead of RecordError.
      readahead_bytes: how much is read ahead of the step.
    """
    local = _local_slice(batch_size, num_hosts, host_index)
    if normalise_weights is None:
        normalise_weights = num_hosts == 1
    if normalise_weights and num_hosts > 1:
        raise ValueError(f"normalise_weights=True with {num_hosts} hosts: a host does not know the weights of "
                         "the whole global batch. Expected False, and a step that divides by the "
                         "all-reduced sum of weights")
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}, expected 0 or more")
    paths, weights = _sources(path)
    reader, members, buckets = _open(task, paths, split, drop_longer)

    def new_plan():
        return TrainingPlan(members, buckets, batch_size, seed, starts=reader.starts, weights=weights)

    new_plan()   # refuses a bad batch size or seed here, not in a thread
    of_class = class_weights(task, reader, np.concatenate(members), shares_of(weights))

    def batches():
        plan = new_plan()
        step = start_step
        while num_steps is None or step < start_step + num_steps:
            batch = plan.batch(step)
            seeds = example_seeds(seed, step * batch_size + np.arange(batch_size)[local])
            yield batch.numbers[local], batch.bucket, _places(batch.real[local], seeds, batch.bucket)
            step += 1

    def prepare(example, real, bucket):
        del real
        inputs, targets, weight = task.preprocess(example, bucket, True)
        if of_class is not None:
            weight = tf.cast(weight, tf.float32) * tf.gather(tf.constant(of_class), targets)
        return inputs, targets, weight

    def weigh(inputs, targets, weight):
        weight = tf.cast(weight, tf.float32)
        return inputs, targets, normalised(weight, batch_size) if normalise_weights else weight

    dataset = _read_and_map(task, reader, batches, prepare, weigh, buckets, local, readahead_bytes)
    cardinality = tf.data.INFINITE_CARDINALITY if num_steps is None else num_steps
    return finished(dataset.apply(tf.data.experimental.assert_cardinality(cardinality)))


def normalised(weight, batch_size):
    """Weights float32 [batch] -> weight * batch_size / their sum; see `training_batches`."""
    return weight * batch_size / tf.reduce_sum(weight)


def evaluation_batches(task, path, split, *, batch_size, num_hosts=1, host_index=0, drop_longer=False,
                       readahead_bytes=DEFAULT_READAHEAD_BYTES):
    """Every example exactly once: tf.data.Dataset of dict(inputs, targets, weight, real, reference, id), all [batch].

    The last batch of each bucket is filled with repeats: weight 0, real False. weight is raw (the task's), so that the
    caller computes sum(loss * weight) / sum(weight). With several hosts each gives its slice of every batch.
    """
    local = _local_slice(batch_size, num_hosts, host_index)
    reader, members, buckets = _open(task, [path], split, drop_longer)
    plan = evaluation_plan(members, reader.lengths, buckets, batch_size)

    def batches():
        for batch in plan:
            yield batch.numbers[local], batch.bucket, _places(batch.real[local], 0, batch.bucket)

    def prepare(example, real, bucket):
        inputs, targets, weight = task.preprocess(example, bucket, False)
        return {"inputs": inputs, "targets": targets, "weight": tf.where(real, tf.cast(weight, tf.float32), 0.0),
                "real": real, "reference": task.reference(example), "id": example["id"]}

    dataset = _read_and_map(task, reader, batches, prepare, None, buckets, local, readahead_bytes)
    return finished(dataset.apply(tf.data.experimental.assert_cardinality(len(plan))))


def check_split(task, path, split, drop_longer=False):
    """Raises what `evaluation_batches` would of a split: no records, those of another task, longer ones than it takes.
    Reads the index only."""
    reader, _, _ = _open(task, [path], split, drop_longer)
    for source in reader.readers:
        source.close()


def padding_stats(task, path, split):
    """PaddingStats of a split under the task's buckets; reads the index only. Of a mixture: those of one epoch."""
    paths, weights = _sources(path)
    stats = []
    for folder in paths:
        with RecordReader(storage.join(folder, split), task.record_type) as reader:
            stats.append(PaddingStats.of(reader.lengths, check_buckets(task.buckets)))
    return PaddingStats.mixed(stats, shares_of(weights))


def example_seeds(seed, positions):
    """(seed, int [n] number of the example in the run) -> int32 [n, 2], well mixed (SplitMix64)."""
    with np.errstate(over="ignore"):
        golden = np.uint64(0x9E3779B97F4A7C15)
        x = np.asarray(positions, np.uint64) + golden * np.uint64(seed + 1)
        for _ in range(2):
            x = x + golden
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x.astype("<u8").view("<i4").reshape(-1, 2)


def _sources(path):
    """A path, or a mixture [(path, weight), …] -> (paths, weights)"""
    if isinstance(path, (str, os.PathLike)):
        return [path], [1.0]
    paths, weights = zip(*path) if path else ((), ())
    if len(set(map(os.fspath, paths))) < len(paths):
        raise ValueError(f"the mixture names a folder twice: {list(paths)}, expected each once with one weight")
    shares_of(weights)   # refuses bad weights before anything is read
    return list(paths), list(weights)


def _open(task, paths, split, drop_longer):
    """-> (JoinedReader, members per bucket, buckets)"""
    buckets = check_buckets(task.buckets)
    reader = JoinedReader(RecordReader(storage.join(path, split), task.record_type) for path in paths)
    # Of a task that knows numbers alone, the folders of a mixture must agree.
    named = [names for names in (manifest_classes(source.manifest) for source in reader.readers) if names]
    for source in reader.readers:
        check_records_classes(task, source.manifest, source.folder, named[0] if named else ())
        task.check_records(source.manifest, source.folder)

    def name_of(number):
        example = task.record_type.decode(reader.read_many(np.array([number]))[0])
        return f"{reader.where(number)}, id {example['id'].numpy().decode()!r}"

    return reader, bucket_members(reader.lengths, buckets, drop_longer=drop_longer, name_of=name_of), buckets


def _local_slice(batch_size, num_hosts, host_index):
    if not 0 <= host_index < num_hosts:
        raise ValueError(f"host_index is {host_index}, expected 0 to {num_hosts - 1}")
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(f"global batch size {batch_size}: expected a positive multiple of the {num_hosts} hosts")
    size = batch_size // num_hosts
    return slice(host_index * size, (host_index + 1) * size)


def _places(real, seeds, bucket):
    """bool [n], int32 [n, 2], int -> int32 [n, 4]: what is known of each example before it is read, as one array, since
    each array that goes from Python into TensorFlow costs as much as reading a small record."""
    places = np.empty([len(real), 4], np.int32)
    places[:, 0], places[:, 1:3], places[:, 3] = real, seeds, bucket
    return places


def _read_ahead(reader, batches, readahead_bytes, with_audio=False):
    """batches: iterator of (numbers, bucket, …) -> the same in the same order, with two things in front: the list of
    serialized records, and their audio, taken out of them, as float32 [batch, bucket] (None without with_audio).

    Records in a bucket are fetched by threads into memory. For those in a folder the operating system is told what
    will be needed and fetches it into its own cache; one thread then copies from there, which is quicker than several
    that wait for each other. Either way readahead_bytes are under way or waiting, but always two batches.
    """
    pool = concurrent.futures.ThreadPoolExecutor(_REMOTE_READ_THREADS, "tfhf-read") if reader.remote else None
    buffers = _Buffers()

    def read(numbers, samples):
        return reader.read_many(numbers) if samples is None else reader.read_audio(numbers, samples)

    def rows(numbers, bucket):
        return buffers.take(len(numbers), bucket) if with_audio else None

    def now(numbers, bucket):
        samples = rows(numbers, bucket)
        return read(numbers, samples), samples

    def begin(numbers, bucket):
        if pool is None:
            reader.will_need(numbers)
            return lambda: now(numbers, bucket)
        samples = rows(numbers, bucket)
        futures = [pool.submit(read, numbers[[index]], samples if samples is None else samples[index:index + 1])
                   for index in range(len(numbers))]
        return lambda: ([record for future in futures for record in future.result()], samples)

    waiting = collections.deque()
    waiting_bytes = 0
    exhausted = False
    try:
        while True:
            while not exhausted and (len(waiting) < 2 or waiting_bytes < readahead_bytes):
                batch = next(batches, None)
                if batch is None:
                    exhausted = True
                    break
                size = int(reader.record_bytes[batch[0]].sum())
                waiting.append((begin(*batch[:2]), size, batch))
                waiting_bytes += size
            if not waiting:
                return
            finish, size, batch = waiting.popleft()
            waiting_bytes -= size
            yield (*finish(), *batch)
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_and_map(task, reader, batches, prepare, finish, buckets, local, readahead_bytes):
    """Reads, decodes, prepares examples and finishes batches (None: as they are); -> dataset of batches."""
    size = local.stop - local.start
    source = _audio_batches if task.batched and task.record_type.has_audio else _record_batches
    dataset = source(reader, batches, size, readahead_bytes)

    def prepare_one(serialized, places, samples=None):
        real, seed = tf.cast(places[..., 0], tf.bool), places[..., 1:3]
        # One bucket: a Python int, so that every shape is known when the graph is built.
        bucket = buckets[0] if len(buckets) == 1 else tf.reshape(places[..., 3], [-1])[0]
        if samples is not None:
            samples = tf.ensure_shape(samples, [size, bucket if isinstance(bucket, int) else None])
        if task.batched:
            example = task.record_type.decode_batch(serialized, samples)
        else:
            example = task.record_type.decode(serialized, reader.encoding)
        return prepare({**example, "seed": seed}, real, bucket)

    def prepare_all(*batch):
        prepared = prepare_one(*batch)
        return finish(*prepared) if finish else prepared

    if task.batched:
        return dataset.map(prepare_all, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.unbatch().map(prepare_one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(size, drop_remainder=True)
    return dataset.map(finish, num_parallel_calls=1, deterministic=True) if finish else dataset


def _record_batches(reader, batches, size, readahead_bytes):
    """-> dataset of (serialized string [size], places int32 [size, 4])"""
    def generate():
        # A step from Python into TensorFlow costs as much as reading some ten small records: many go at a time.
        read = _read_ahead(reader, batches(), readahead_bytes)
        while chunk := list(itertools.islice(read, max(1, _RECORDS_PER_CALL // size))):
            records, _, _, _, places = zip(*chunk)
            yield _strings([record for part in records for record in part]).reshape(-1, size), np.stack(places)

    return tf.data.Dataset.from_generator(generate, output_signature=(
        tf.TensorSpec([None, size], tf.string), tf.TensorSpec([None, size, 4], tf.int32))).unbatch()


def _audio_batches(reader, batches, size, readahead_bytes):
    """The same for records without their audio, which is a third component: float32 [size, bucket]."""
    def generate():
        for records, samples, _, _, places in _read_ahead(reader, batches(), readahead_bytes, with_audio=True):
            yield _strings(records), places, samples

    return tf.data.Dataset.from_generator(generate, output_signature=(
        tf.TensorSpec([size], tf.string), tf.TensorSpec([size, 4], tf.int32), tf.TensorSpec([size, None], tf.float32)))


def _strings(records):
    # An object array: numpy's own bytes type would strip zero bytes at the end of a record.
    strings = np.empty(len(records), object)
    strings[:] = records
    return strings


class _Buffers:
    """Memory for batches, used again when TensorFlow has let go of it.

    The kernel fills fresh memory with zeros, page by page, which costs as much as filling it with audio.
    """

    def __init__(self):
        self._free = []

    def take(self, rows, columns):
        """float32 [rows, columns] of any content, at an address that TensorFlow takes over without a copy."""
        size = 4 * rows * columns
        fitting = [(len(memory), place) for place, memory in enumerate(self._free) if len(memory) >= size + _ALIGNMENT]
        # By its place: other threads only add at the end.
        memory = self._free.pop(min(fitting)[1]) if fitting else np.empty(size + _ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % _ALIGNMENT
        array = memory[begin:begin + size].view(np.float32).reshape(rows, columns)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array


def finished(dataset):
    """The dataset in its fixed order, not to be sharded by tf.distribute, and prefetched."""
    options = tf.data.Options()
    # The plan shards; tf.distribute must not shard again by files or by data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
