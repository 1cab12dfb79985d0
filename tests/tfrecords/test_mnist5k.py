"""The digits' writer, on a small table of the same form and, where they can be had, on the real ones."""

import numpy as np
import pytest

from tfhf.data.image import decode_image
from tfhf.data.schema import RecordError
from tfrecords.mnist5k import Mnist5k


def write(folder, count=40, columns=785):
    table = np.random.default_rng(0).integers(0, 256, (count, columns))
    table[:, -1] = np.arange(count) % 10
    np.savetxt(folder / "mnist_5k.csv", table, "%d", ",")
    return table


def test_pixels_labels_and_an_even_split(tmp_path):
    table = write(tmp_path)
    dataset = Mnist5k(tmp_path, held_out=1)
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert {split: len(found) for split, found in items.items()} == {"train": 30, "test": 10}
    assert sorted(item["label"] for item in items["test"]) == list(range(10))
    assert list(dataset.examples("train", 28)) == items["train"][28:]
    example = dataset.load(items["train"][3])
    row = table[int(example["id"])]
    assert example["label"] == row[-1] and example["pixels"] == 784
    np.testing.assert_array_equal(decode_image(example["image"], channels=1).numpy().reshape(-1), row[:-1])
    assert dataset.options("test")["classes"] == list("0123456789")


def test_the_real_ones(assets):
    dataset = Mnist5k(assets("mnist-5k"))
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert {split: len(found) for split, found in items.items()} == {"train": 4000, "test": 1000}
    assert np.bincount([item["label"] for item in items["test"]]).tolist() == [100] * 10
    # By the pixels' SHA-256, for ever.
    assert [item["id"] for item in items["test"]][:5] == ["0000", "0008", "0009", "0018", "0024"]
    assert not {item["pixels"] for item in items["train"]} & {item["pixels"] for item in items["test"]}


def test_what_is_no_table_of_digits(tmp_path):
    with pytest.raises(RecordError, match="mnist_5k.csv: not there"):
        Mnist5k(tmp_path)
    write(tmp_path, columns=784)
    with pytest.raises(RecordError, match="40 rows of 784 numbers, expected in each 784 pixels"):
        Mnist5k(tmp_path)
    (tmp_path / "mnist_5k.csv").write_text("a,b\n")
    with pytest.raises(RecordError, match="not a table of whole numbers"):
        Mnist5k(tmp_path)
