"""The measuring of records: the arithmetic of the figures, and the command."""

import itertools

import pytest

from pipelines.__main__ import main
from tests import toy_task
from tfhf.data.throughput import Throughput, measure, measure_batches, measure_reading


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return toy_task.write_records(tmp_path_factory.mktemp("records"))


def test_figures_and_what_a_model_needs():
    found = Throughput(examples=1000, stored_bytes=4e6, wall_s=2.0, cpu_s=1.0)
    assert (found.examples_per_s, found.mb_per_s, found.cpu_s_per_example) == (500, 2, 0.001)
    assert found.line("all") == "all: 500 examples/s, 2.0 MB/s of records; 1000 µs of a core per example"
    assert "16 examples in 0.1 s need 160 examples/s, 0.6 MB/s; here is 3.1 times that: enough" in found.need(16, 0.1)
    assert found.need(128, 0.1).endswith("here is 0.39 times that: too slow: spread the input over 3 such hosts")


def test_measuring_counts_what_came_after_the_warm_up():
    found = measure(iter([7] * 9), lambda item: item, seconds=60, bytes_per_example=2.0, warm_up=5)
    assert (found.examples, found.stored_bytes) == (28, 56) and found.wall_s > 0
    assert measure(itertools.repeat(1), lambda item: 1, 0.05, 1.0).wall_s < 5
    with pytest.raises(ValueError, match="nothing came after 5 batches"):
        measure(iter([7] * 5), lambda item: item, 1.0, 1.0)


def test_records_are_measured_with_a_task_and_without(records):
    read = measure_reading(records, "train", seconds=0.1)
    batches = measure_batches(toy_task.ToyTask.tiny(), records, "train", batch_size=8, seconds=0.1)
    assert read.examples % 64 == 0 and batches.examples % 8 == 0
    assert read.examples_per_s > 1000 and batches.examples_per_s > 10
    assert read.stored_bytes / read.examples == pytest.approx(batches.stored_bytes / batches.examples)


def test_the_command(records, capsys):
    assert main(["data", "bench", records, "--seconds", "0.1", "--step-seconds", "0.5", "--batch-size", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("read and checked: ") and "4 examples in 0.5 s need 8 examples/s" in lines[1]
    assert main(["data", "bench", records, "--split", "nothing"]) == 2
    assert "nothing/manifest.json: no manifest" in capsys.readouterr().err
