"""Streaming for long: many small records over many epochs, and the memory of the process stays where it is."""

import os

import numpy as np
import pytest

from tests import toy_task
from tfhf.data.pipeline import evaluation_batches, training_batches
from tfhf.data.records import RecordWriter

BATCH = 64
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def resident_mb():
    """Resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_MB


def write(folder, count):
    with RecordWriter(folder, "train", toy_task.SERIES, shard_bytes=100_000) as writer:
        for example in toy_task.examples(count):
            writer.write(example)
    return str(folder)


def stream(dataset, every):
    """-> number of batches, resident MiB after every `every` batches"""
    memory = []
    for number, _ in enumerate(dataset, 1):
        if number % every == 0:
            memory.append(resident_mb())
            print(f"{number * BATCH:9d} records: {memory[-1]:.1f} MiB resident", flush=True)
    return number, memory


def check_flat(memory, allowed_mb):
    """The second half's mean is no more than `allowed_mb` above the mean of the quarter before it."""
    quarter = len(memory) // 4
    before, after = np.mean(memory[quarter:2 * quarter]), np.mean(memory[2 * quarter:])
    print(f"second quarter {before:.1f} MiB, second half {after:.1f} MiB, growth {after - before:.1f} MiB")
    assert after - before <= allowed_mb, memory


def check_streaming(folder, count, training_records, evaluations, allowed_mb):
    records, task = write(folder, count), toy_task.BucketedToyTask.tiny()
    steps = training_records // BATCH
    number, memory = stream(
        training_batches(task, records, "train", batch_size=BATCH, seed=0, num_steps=steps), max(steps // 40, 1))
    assert number == steps
    check_flat(memory, allowed_mb)
    memory = []
    for _ in range(evaluations):   # a dataset of its own each time, as evaluation within a long training makes them
        seen = sum(int(batch["real"].numpy().sum()) for batch in
                   evaluation_batches(task, records, "train", batch_size=BATCH))
        assert seen == count
        memory.append(resident_mb())
        print(f"evaluation {len(memory)}: {memory[-1]:.1f} MiB resident", flush=True)
    check_flat(memory, allowed_mb)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc")
def test_memory_is_flat_over_thousands_of_records(tmp_path):
    check_streaming(tmp_path, count=500, training_records=20_000, evaluations=8, allowed_mb=20)


@pytest.mark.nightly
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc")
def test_memory_is_flat_over_hundreds_of_thousands_of_records(tmp_path):
    check_streaming(tmp_path, count=5_000, training_records=400_000, evaluations=40, allowed_mb=15)
