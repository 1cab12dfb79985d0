"""A bounded queue in front of a signature: requests that come together share a batch, and what is too much is refused.

One thread takes what waits, up to `max_batch` examples of equal shapes, and runs it; that is TF Serving's batching with
one batch thread. A request of more examples runs in parts, between which others have their turn. A request that the
model refuses spoils its batch, so the others are then run again each alone. Work that nobody waits for any more is
stopped, in the middle of a batch too.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time

import numpy as np

from tfhf.server.models import Overloaded, RequestError, Signature, Stopping, TooLate, new_stop


@dataclasses.dataclass
class _Waiting:
    """A request. `done`: examples that the model was given; `parts`: its answers to them."""

    inputs: dict
    size: int
    shapes: tuple
    deadline: float
    answer: concurrent.futures.Future
    done: int = 0
    parts: list = dataclasses.field(default_factory=list)

    @property
    def left(self):
        return self.size - self.done


class Batcher:
    """The queue of one signature, and the thread that empties it.

    Args:
        max_batch: examples that run together at most.
        wait_s: how long the first of a batch waits for others.
        max_waiting: examples that may wait; 0 and up.
        max_examples: of one request.
        ran: called with (examples, seconds) after each batch.
    """

    def __init__(self, signature: Signature, max_batch: int, wait_s: float, max_waiting: int, max_examples: int = 128,
                 ran=lambda *_: None):
        self._signature, self._max_batch, self._wait_s = signature, max_batch, wait_s
        self._max_waiting, self._max_examples, self._ran = max_waiting, max_examples, ran
        self._queue, self._waiting = collections.deque(), 0
        self._change = threading.Condition()
        self._stopping, self._given_up = False, False
        self._stop = None   # of the batch that runs
        self._model = concurrent.futures.ThreadPoolExecutor(1, "tfhf-serve-model")
        self._thread = threading.Thread(target=self._work, daemon=True, name="tfhf-serve-batches")
        self._thread.start()

    def submit(self, given: dict, deadline: float) -> concurrent.futures.Future:
        """Named arrays -> the Future of the answers; `deadline` by time.monotonic(), after which nobody waits for them.

        Who cancels the Future waits no longer either.

        Raises:
            RequestError: they do not fit; Overloaded: too many wait; Stopping: the server ends.
        """
        inputs = self._signature.check(given, self._max_examples)
        batched = self._signature.batched
        size = len(next(iter(inputs.values()))) if batched and inputs else 1
        # Each request that cannot share gets a key of its own.
        shapes = (tuple((name, array.shape[1:]) for name, array in sorted(inputs.items())) if batched else object())
        one = _Waiting(inputs, size, shapes, deadline, concurrent.futures.Future())
        with self._change:
            if self._stopping:
                raise Stopping("the server is ending")
            if self._waiting and self._waiting + size > self._max_waiting:
                raise Overloaded(f"{self._waiting} examples wait already, of at most {self._max_waiting}: try later")
            self._queue.append(one)
            self._waiting += size
            self._change.notify()
        return one.answer

    @property
    def waiting(self) -> int:
        """Examples in the queue."""
        return self._waiting

    def close(self, seconds: float | None = None) -> None:
        """Takes nothing new, finishes what waits, and comes back.

        Args:
            seconds: after which what waits and what runs is given up; None: never.
        """
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._change:
                self._given_up, stop = True, self._stop
                left = list(self._queue)
                self._queue.clear()
                self._waiting -= sum(one.left for one in left)
            for one in left:
                _fail(one, Stopping("the server has ended"))
            if stop is not None:
                stop.start_cancel()
            self._thread.join()
        self._model.shutdown()

    def _work(self):
        while batch := self._next():
            begin = time.monotonic()
            wanted = [(one, size) for one, size in batch if one.deadline > begin and not one.answer.done()]
            if wanted:
                self._run(wanted)
                self._ran(sum(size for _, size in wanted), time.monotonic() - begin)
            with self._change:
                for one, _ in batch:
                    if not one.left:
                        continue
                    if one.deadline > time.monotonic() and not one.answer.done() and not self._given_up:
                        self._queue.append(one)   # behind the others
                    else:
                        self._waiting -= one.left
                        _fail(one, Stopping("the server has ended") if self._given_up else TooLate("no answer in time"))

    def _next(self):
        """The next batch: [(request, how many of its examples)]; [] at the end."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._stopping)
            if not self._queue:
                return []
            first = self._queue[0]
            if self._signature.batched and not self._stopping:
                self._change.wait_for(lambda: self._waiting >= self._max_batch or self._stopping, self._wait_s)
            batch, rest, room = [], collections.deque(), self._max_batch
            for one in self._queue:
                if one is first or (one.shapes == first.shapes and one.left <= room):
                    size = min(one.left, self._max_batch)
                    batch.append((one, size))
                    room -= size
                    one.done += size
                    self._waiting -= size
                else:
                    rest.append(one)
            self._queue = rest
        return batch

    def _run(self, batch):
        inputs = [_part(one, size) for one, size in batch]
        inputs = inputs[0] if len(batch) == 1 else {
            name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
        # Whatever went wrong belongs to whoever waits, and must not end this thread.
        ran = self._started(inputs, [one for one, _ in batch])
        error = ran.exception()
        if isinstance(error, RequestError) and not isinstance(error, TooLate) and len(batch) > 1:
            for each in batch:
                self._run([each])
            return
        if error is not None:
            for one, _ in batch:
                _fail(one, error)
            return
        answers, begin = ran.result(), 0
        for one, size in batch:
            part = answers if len(batch) == 1 else {name: array[begin:begin + size] for name, array in answers.items()}
            one.parts.append(part)
            begin += size
            if not one.left:
                _answer(one, _joined(one.parts))

    def _started(self, inputs, requests):
        """The Future of the model's answers, done. The work is stopped once nobody waits for it."""
        stop = new_stop()
        self._stop = stop
        ran = self._model.submit(self._signature.run, inputs, stop)

        def stop_if_alone(_):
            if not ran.done() and all(one.answer.done() for one in requests):
                stop.start_cancel()

        for one in requests:
            one.answer.add_done_callback(stop_if_alone)
        latest = max(one.deadline for one in requests)
        if not concurrent.futures.wait([ran], max(0.0, latest - time.monotonic())).done:
            stop.start_cancel()
        concurrent.futures.wait([ran])
        self._stop = None
        return ran


def _part(one, size):
    """The inputs of the last `size` examples that were taken of a request."""
    if size == one.size:
        return one.inputs
    return {name: array[one.done - size:one.done] for name, array in one.inputs.items()}


def _joined(parts):
    """The answers to the parts of a request, as one. Where their shapes differ, since each batch is as long as its
    longest, the shorter ones are filled up with zeros or empty strings, as the signatures of `tfhf export` do it."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        longest = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
        joined[name] = np.concatenate([_filled(array, longest) for array in arrays])
    return joined


def _filled(array, longest):
    if array.shape[1:] == tuple(longest):
        return array
    filled = np.full((len(array), *longest), b"" if array.dtype == object else 0, array.dtype)
    filled[tuple(map(slice, array.shape))] = array
    return filled


def _answer(one, answers):
    with contextlib.suppress(concurrent.futures.InvalidStateError):   # given up at this moment
        one.answer.set_result(answers)


def _fail(one, error):
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        one.answer.set_exception(error)
