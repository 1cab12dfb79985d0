"""Every byte of a small shard flipped in turn, every length cut: found by verify and by training, and named.

tests/data/test_records.py does the same to the reader; tests/test_checkpoints.py to a checkpoint's files.
"""

import json
import os

import numpy as np
import pytest

from tests import toy_task
from tfhf.data import verify
from tfhf.data.pipeline import training_batches
from tfhf.data.records import RecordReader, RecordWriter

FILES = ("train-00000.tfrecord", "train-00000.index", "manifest.json")


@pytest.fixture
def records(tmp_path):
    with RecordWriter(tmp_path, "train", toy_task.SERIES) as writer:
        for example in toy_task.examples(5):
            writer.write(example)
    return str(tmp_path)


def damaged_forms(path):
    """Writes one damaged form of the file after the other; yields (what was done, position), then mends it."""
    with open(path, "rb") as file:
        whole = file.read()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        for what, data in (("flipped", bytes(flipped)), ("cut", whole[:position])):
            if path.endswith(".json") and same_json(data, whole):
                continue   # white space
            with open(path, "wb") as file:
                file.write(data)
            yield what, position
    with open(path, "wb") as file:
        file.write(whole)


def same_json(data, whole):
    try:
        return json.loads(data) == json.loads(whole)
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_and_names_it(records, name):
    folder = os.path.join(records, "train")
    with RecordReader(folder) as reader:
        ends = np.cumsum(reader.record_bytes)
    count = 0
    for what, position in damaged_forms(os.path.join(folder, name)):
        found = verify.problems(folder)
        assert len(found) == 1 and name in found[0], (what, position, found)
        if name.endswith(".tfrecord"):
            record = int(np.searchsorted(ends, position, "right"))
            words = f"record {record}: " if what == "flipped" else f"cut in record {record} of 5"
            assert words in found[0], (what, position, found)
        count += 1
    assert count > 500 and verify.problems(folder) == []
    print(f"\n{name}: {count} damaged forms, each found and named")


@pytest.mark.parametrize("name", FILES)
def test_training_never_goes_on_with_it(records, name):
    """Every 97th form: an epoch of batches either is the undamaged one or ends with the error that names the file."""
    task = toy_task.ToyTask.tiny()

    def epoch():
        dataset = training_batches(task, records, "train", batch_size=5, seed=0, num_steps=1)
        return [inputs["values"].numpy() for inputs, _, _ in dataset]

    whole = epoch()
    for number, (what, position) in enumerate(damaged_forms(os.path.join(records, "train", name))):
        if number % 97:
            continue
        with pytest.raises(Exception) as caught:
            epoch()
        assert "RecordError" in f"{caught.type.__name__}: {caught.value}"   # tf.data wraps what its threads raise
        assert name in str(caught.value), (what, position)
    np.testing.assert_array_equal(epoch(), whole)
