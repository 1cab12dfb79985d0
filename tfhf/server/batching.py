"""A bounded queue in front of a signature: requests that come together share a batch, and what is too much is refused.

One thread takes what waits, up to `max_batch` examples of equal shapes, and runs it; that is TF Serving's batching with
one batch thread. A request that the model refuses spoils its batch, so the others are then run again each alone.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
import time

import numpy as np

from tfhf.server.models import Overloaded, RequestError, Signature, Stopping


@dataclasses.dataclass
class _Waiting:
    inputs: dict
    size: int
    shapes: tuple
    deadline: float
    answer: concurrent.futures.Future


class Batcher:
    """The queue of one signature, and the thread that empties it.

    Args:
        max_batch: examples that run together at most; a single larger request runs alone.
        wait_s: how long the first of a batch waits for others.
        max_waiting: examples that may wait; 0 and up.
        ran: called with (examples, seconds) after each batch.
    """

    def __init__(self, signature: Signature, max_batch: int, wait_s: float, max_waiting: int, ran=lambda *_: None):
        self._signature, self._max_batch, self._wait_s = signature, max_batch, wait_s
        self._max_waiting, self._ran = max_waiting, ran
        self._queue, self._waiting = collections.deque(), 0
        self._change = threading.Condition()
        self._stopping = False
        self._model = concurrent.futures.ThreadPoolExecutor(1, "tfhf-serve-model")
        self._thread = threading.Thread(target=self._work, daemon=True, name="tfhf-serve-batches")
        self._thread.start()

    def submit(self, given: dict, deadline: float) -> concurrent.futures.Future:
        """Named arrays -> the Future of the answers; `deadline` by time.monotonic(), after which nobody waits for them.

        Raises:
            RequestError: they do not fit; Overloaded: too many wait; Stopping: the server ends.
        """
        inputs = self._signature.check(given)
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

    def close(self) -> None:
        """Takes nothing new, finishes what waits, and comes back."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join()
        self._model.shutdown()

    def _work(self):
        while batch := self._next():
            now = time.monotonic()
            batch = [one for one in batch if one.deadline > now and one.answer.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)
                self._ran(sum(one.size for one in batch), time.monotonic() - now)

    def _next(self):
        """The next batch; [] at the end."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._stopping)
            if not self._queue:
                return []
            first = self._queue[0]
            if self._signature.batched and not self._stopping:
                self._change.wait_for(lambda: self._waiting >= self._max_batch or self._stopping, self._wait_s)
            batch, rest, size = [], collections.deque(), 0
            for one in self._queue:
                if one is first or (one.shapes == first.shapes and size + one.size <= self._max_batch):
                    batch.append(one)
                    size += one.size
                else:
                    rest.append(one)
            self._queue = rest
            self._waiting -= size
        return batch

    def _run(self, batch):
        inputs = batch[0].inputs if len(batch) == 1 else {
            name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}
        ran = self._model.submit(self._signature.run, inputs)
        # Whatever went wrong belongs to whoever waits, and must not end this thread.
        error = ran.exception()
        if isinstance(error, RequestError) and len(batch) > 1:
            for one in batch:
                self._run([one])
            return
        if error is not None:
            for one in batch:
                one.answer.set_exception(error)
            return
        answers, begin = ran.result(), 0
        for one in batch:
            part = answers if len(batch) == 1 else {name: array[begin:begin + one.size]
                                                    for name, array in answers.items()}
            one.answer.set_result(part)
            begin += one.size
