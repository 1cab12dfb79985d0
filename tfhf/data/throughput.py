"""How fast records come, without a model: read alone, or through a task's whole pipeline into batches for the step."""

import dataclasses
import itertools
import time

import numpy as np

from tfhf.data import storage
from tfhf.data.pipeline import training_batches
from tfhf.data.plan import check_buckets
from tfhf.data.records import RecordReader

_RECORDS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What was measured. stored_bytes: of the records, as they lie in the shards; cpu_s: of all threads together."""

    examples: int
    stored_bytes: float
    wall_s: float
    cpu_s: float

    @property
    def examples_per_s(self):
        """Examples in a second."""
        return self.examples / self.wall_s

    @property
    def mb_per_s(self):
        """Stored megabytes (10^6) in a second."""
        return self.stored_bytes / 1e6 / self.wall_s

    @property
    def cpu_s_per_example(self):
        """Seconds of one core that an example costs."""
        return self.cpu_s / self.examples

    def line(self, name):
        """All of it in one line of text."""
        return (f"{name}: {self.examples_per_s:.0f} examples/s, {self.mb_per_s:.1f} MB/s of records; "
                f"{1e6 * self.cpu_s_per_example:.0f} µs of a core per example")

    def need(self, batch_size, step_s):
        """What a step of `step_s` seconds on a global batch takes, against what was measured, as a line of text."""
        needed = batch_size / step_s
        ratio = self.examples_per_s / needed
        verdict = "enough" if ratio >= 1 else f"too slow: spread the input over {int(np.ceil(1 / ratio))} such hosts"
        return (f"the model: {batch_size} examples in {step_s:g} s need {needed:.0f} examples/s, "
                f"{self.mb_per_s / ratio:.1f} MB/s; here is {ratio:.2g} times that: {verdict}")


def measure(iterator, examples_of, seconds, bytes_per_example, warm_up=5):
    """Runs an iterator for `seconds` after `warm_up` items; -> Throughput. examples_of: item -> how many it holds."""
    for _ in itertools.islice(iterator, warm_up):
        pass
    examples, wall, cpu = 0, time.perf_counter(), time.process_time()
    for item in iterator:
        examples += examples_of(item)
        if time.perf_counter() - wall >= seconds:
            break
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not examples:
        raise ValueError(f"nothing came after {warm_up} batches of warm-up, expected at least one batch more")
    return Throughput(examples, examples * bytes_per_example, wall, cpu)


def measure_reading(path, split, seconds=5.0):
    """Records of path/split in random order, read and checked but not decoded."""
    with RecordReader(storage.join(path, split)) as reader:
        draw = np.random.default_rng(0)

        def read():
            while True:
                yield reader.read_many(draw.integers(0, len(reader), _RECORDS_AT_ONCE))

        return measure(read(), len, seconds, float(reader.record_bytes.mean()))


def measure_batches(task, path, split, batch_size, seconds=5.0, drop_longer=False):
    """The batches of a task's training, from records to padded tensors."""
    dataset = training_batches(task, path, split, batch_size=batch_size, seed=0, drop_longer=drop_longer)
    with RecordReader(storage.join(path, split)) as reader:
        kept = reader.record_bytes[reader.lengths <= check_buckets(task.buckets)[-1]]
    return measure(iter(dataset), lambda batch: batch_size, seconds, float(kept.mean()))
