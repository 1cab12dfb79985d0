"""What REST and gRPC have in common: the models with their queues, deadlines, figures for Prometheus."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator

import prometheus_client

from tfhf.server.batching import Batcher
from tfhf.server.models import Model, NotFound, Overloaded, RequestError, TooLate, find_versions, newest_model

log = logging.getLogger("tfhf.server")
# Requests of the largest size that may be here at the same time, whole or in part: many that hang would fill memory.
_MOST_REQUESTS = 4
# Python reads and writes one JSON at a time anyway; each of these has one in memory.
_READERS = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        max_batch: examples that run together at most.
        batch_wait_ms: how long the first of a batch waits for others.
        max_waiting: examples that may wait in a model's queue; more are refused at once.
        max_examples: of one request.
        max_values: numbers, strings and lists in the JSON of one request: each takes Python tens of bytes.
        deadline_s: the longest that a request may take, from its head to its answer.
        max_request_mb: size of a request, unpacked.
        max_connections: connections, and calls in progress, at the same time.
        grace_s: after a SIGTERM, at the latest, the process ends.
    """

    max_batch: int = 8
    batch_wait_ms: float = 5.0
    max_waiting: int = 64
    max_examples: int = 128
    max_values: int = 2**22
    deadline_s: float = 60.0
    max_request_mb: float = 64.0
    max_connections: int = 256
    grace_s: float = 20.0

    @property
    def max_request_bytes(self) -> int:
        """Size of a request."""
        return int(self.max_request_mb * 2**20)

    @property
    def drain_s(self) -> float:
        """How long a server that ends waits for the answers to what it has."""
        return min(self.deadline_s, 0.8 * self.grace_s)


class Held:
    """The bytes of one request that are in memory; see `Service.holding`."""

    def __init__(self, service):
        self._service, self.size = service, 0

    def add(self, size: int) -> None:
        """So many more; fewer if it is negative.

        Raises:
            Overloaded: with them the requests that are here have more than they may; then this one holds none.
        """
        service = self._service
        most = _MOST_REQUESTS * service.limits.max_request_bytes
        service.body_bytes += size
        self.size += size
        if size > 0 and (arriving := service.body_bytes) > most:
            self.add(-self.size)   # at once, or the others that arrive would be refused as well
            raise Overloaded(f"requests of {arriving / 2**20:.0f} MB are here at this time, of at most "
                             f"{most / 2**20:g}: try later")

    def set(self, size: int) -> None:
        """So many from now on. Raises what `add` raises."""
        self.add(size - self.size)


class Service:
    """Loaded models and their queues.

    Args:
        paths: see `find_models`.
        limits: a `Limits`.

    Attributes: models: {name: Model}; failed: {name: {version: reason}} of newer versions that could not be loaded;
        registry: Prometheus' figures; stopping: whether gRPC takes nothing new; body_bytes: of the requests that are
        here, arriving ones included.

    Raises:
        ServeError: there is no model, or one without a version that can be loaded.
    """

    def __init__(self, paths, limits: Limits):
        self.limits = limits
        self.registry = prometheus_client.CollectorRegistry()
        labels = ["model", "signature"]
        self._requests = prometheus_client.Counter(
            "tfhf_requests", "Requests by outcome", [*labels, "outcome"], registry=self.registry)
        self._latency = prometheus_client.Histogram(
            "tfhf_request_seconds", "From request to answer", labels, registry=self.registry)
        self._batches = prometheus_client.Histogram(
            "tfhf_batch_examples", "Examples that ran together", labels, registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128))
        self._seconds = prometheus_client.Histogram(
            "tfhf_batch_seconds", "Time of a batch in the model", labels, registry=self.registry)
        waiting = prometheus_client.Gauge("tfhf_waiting_examples", "In the queue", labels, registry=self.registry)
        self.models, self.failed = {}, {}
        for name, versions in find_versions(paths).items():
            self.models[name], self.failed[name] = newest_model(name, versions)
            for version, reason in self.failed[name].items():
                log.error("model %s: version %d cannot be served, version %d is instead: %s", name, version,
                          self.models[name].version, reason)
        self._batchers, self.stopping, self.body_bytes = {}, False, 0
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "tfhf-serve-read")
        for model in self.models.values():
            for name, signature in model.signatures.items():
                batcher = Batcher(signature, limits.max_batch, limits.batch_wait_ms / 1e3, limits.max_waiting,
                                  limits.max_examples, self._noted(model.name, name))
                self._batchers[model.name, name] = batcher
                waiting.labels(model.name, name).set_function(lambda batcher=batcher: batcher.waiting)

    def _noted(self, *labels):
        def ran(examples, seconds):
            self._batches.labels(*labels).observe(examples)
            self._seconds.labels(*labels).observe(seconds)

        return ran

    def model(self, name: str, version: int | None = None) -> Model:
        """The model of that name.

        Raises:
            NotFound: there is none, or not of that version.
        """
        if name not in self.models:
            raise NotFound(f"no model {name[:80]!r} is served, there are {sorted(self.models)}")
        model = self.models[name]
        if version is not None and version != model.version:
            raise NotFound(f"model {name!r} has no version {version}, it has {model.version}")
        return model

    @contextlib.contextmanager
    def holding(self) -> Iterator[Held]:
        """A context with the `Held` of a request, which holds nothing any more when it ends."""
        held = Held(self)
        try:
            yield held
        finally:
            held.set(0)

    async def read(self, function: Callable, *arguments, deadline: float):
        """A function that takes a request apart, or puts an answer together, in a thread for that.

        Raises:
            TooLate: not before the deadline, by time.monotonic().
        """
        call = asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)
        try:
            return await asyncio.wait_for(call, deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise TooLate("no answer in time") from None

    async def predict(self, model: Model, signature: str, given: dict, deadline: float | None = None) -> dict:
        """Named arrays -> the answers, named arrays. A request that is given up is taken out of the queue, and its work
        is stopped.

        Args:
            deadline: by time.monotonic(); None: `deadline_s` from now.

        Raises:
            RequestError: see its kinds.
        """
        name = signature or "serving_default"
        model.signature(name)
        begin, outcome = time.monotonic(), "INTERNAL"   # what else goes wrong is logged by REST and gRPC
        deadline = begin + self.limits.deadline_s if deadline is None else deadline
        try:
            future = self._batchers[model.name, name].submit(given, deadline)
            answers = await asyncio.wait_for(asyncio.wrap_future(future), deadline - begin)
            outcome = "ok"
            return answers
        except asyncio.TimeoutError:
            outcome = TooLate.code
            raise TooLate(f"no answer within {deadline - begin:.3g} s") from None
        except RequestError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            self._requests.labels(model.name, name, outcome).inc()
            self._latency.labels(model.name, name).observe(time.monotonic() - begin)

    def close(self, seconds: float | None = None) -> None:
        """Finishes what waits.

        Args:
            seconds: after which it is given up; None: never.
        """
        end = None if seconds is None else time.monotonic() + seconds
        for batcher in self._batchers.values():
            batcher.close(None if end is None else max(0.0, end - time.monotonic()))
        self._readers.shutdown(wait=False, cancel_futures=True)
