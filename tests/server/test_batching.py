"""The queue: who shares a batch, who is refused, and whose error is whose."""

import time

import numpy as np
import pytest

from tfhf.server.batching import Batcher
from tfhf.server.models import Overloaded, RequestError, Signature, Stopping


class Slow(Signature):
    """Doubles x [n, k]; a batch takes 50 ms, one with a negative number is refused, with a 13 something breaks."""

    batched = True

    def __init__(self):
        self.sizes = []

    def check(self, given, max_examples):
        return given

    def run(self, inputs, stop):
        self.sizes.append(len(inputs["x"]))
        time.sleep(0.05)
        if (inputs["x"] < 0).any():
            raise RequestError("negative")
        if (inputs["x"] == 13).any():
            raise ZeroDivisionError
        return {"y": 2 * inputs["x"]}


def soon():
    return time.monotonic() + 10


def x(*rows):
    return {"x": np.array(rows, np.float32)}


@pytest.fixture
def batcher():
    made = Batcher(Slow(), max_batch=4, wait_s=0.01, max_waiting=16)
    yield made
    made.close()


def test_requests_share_batches_and_keep_their_answers(batcher):
    given = [x([n], [n + 0.5]) if n % 3 else x([n]) for n in range(8)]
    futures = [batcher.submit(each, soon()) for each in given]
    for each, future in zip(given, futures):
        np.testing.assert_array_equal(future.result(5)["y"], 2 * each["x"])
    sizes = batcher._signature.sizes
    assert sum(sizes) == 13 and max(sizes) <= 4 and len(sizes) <= 5


def test_other_shapes_run_apart_and_one_larger_than_a_batch_in_parts(batcher):
    futures = [batcher.submit(x(*([1.0] * k,) * n), soon()) for k, n in ((1, 1), (2, 1), (1, 1), (1, 6))]
    assert [future.result(5)["y"].shape for future in futures] == [(1, 1), (1, 2), (1, 1), (6, 1)]
    assert sorted(batcher._signature.sizes) in ([1, 2, 2, 4], [1, 1, 1, 2, 4])


def test_too_many_are_refused_at_once(batcher):
    futures = [batcher.submit(x([1]), soon())]
    time.sleep(0.03)
    begin = time.monotonic()
    with pytest.raises(Overloaded, match="of at most 16"):
        for _ in range(30):
            futures.append(batcher.submit(x([1]), soon()))
    assert time.monotonic() - begin < 0.05
    assert all(future.result(5) for future in futures)


def test_an_error_is_its_senders_alone(batcher):
    futures = [batcher.submit(x([n]), soon()) for n in (1, -1, 2)]
    assert futures[0].result(5)["y"][0, 0] == 2 and futures[2].result(5)["y"][0, 0] == 4
    with pytest.raises(RequestError, match="negative"):
        futures[1].result(5)
    with pytest.raises(ZeroDivisionError):
        batcher.submit(x([13]), soon()).result(5)
    assert batcher.submit(x([3]), soon()).result(5)["y"][0, 0] == 6   # the thread lives


def test_what_nobody_waits_for_is_not_run(batcher):
    first = batcher.submit(x([1]), soon())
    time.sleep(0.03)
    late = batcher.submit(x([2], [2]), time.monotonic() + 0.001)
    given_up = batcher.submit(x([3], [3]), soon())
    given_up.cancel()
    first.result(5), batcher.submit(x([4]), soon()).result(5)
    assert not late.done() and batcher._signature.sizes == [1, 1] and batcher.waiting == 0


def test_closing_finishes_what_waits():
    batcher = Batcher(Slow(), max_batch=2, wait_s=0.01, max_waiting=50)
    futures = [batcher.submit(x([n]), soon()) for n in range(6)]
    batcher.close()
    assert [future.result(0)["y"][0, 0] for future in futures] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(Stopping):
        batcher.submit(x([1]), soon())
