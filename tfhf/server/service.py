"""What REST and gRPC have in common: the models with their queues, deadlines, figures for Prometheus."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

import prometheus_client

from tfhf.server.batching import Batcher
from tfhf.server.models import Model, NotFound, RequestError, TooLate, find_models

log = logging.getLogger("tfhf.server")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        max_batch: examples that run together at most.
        batch_wait_ms: how long the first of a batch waits for others.
        max_waiting: examples that may wait in a model's queue; more are refused at once.
        deadline_s: the longest that a request may take, and its body to arrive.
        max_request_mb: size of a request.
        max_connections: connections, and calls in progress, at the same time.
    """

    max_batch: int = 8
    batch_wait_ms: float = 5.0
    max_waiting: int = 64
    deadline_s: float = 60.0
    max_request_mb: float = 64.0
    max_connections: int = 256

    @property
    def max_request_bytes(self) -> int:
        """Size of a request."""
        return int(self.max_request_mb * 2**20)


class Service:
    """Loaded models and their queues.

    Args:
        paths: see `find_models`.
        limits: a `Limits`.

    Attributes: models: {name: Model}; registry: Prometheus' figures; stopping: whether gRPC takes nothing new;
        body_bytes: of the bodies that REST has read or is reading.

    Raises:
        ServeError: there is no model.
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
        self.models = {name: Model(name, *found) for name, found in find_models(paths).items()}
        self._batchers, self.stopping, self.body_bytes = {}, False, 0
        for model in self.models.values():
            for name, signature in model.signatures.items():
                batcher = Batcher(signature, limits.max_batch, limits.batch_wait_ms / 1e3, limits.max_waiting,
                                  self._noted(model.name, name))
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

    async def predict(self, model: Model, signature: str, given: dict, deadline_s: float | None = None) -> dict:
        """Named arrays -> the answers, named arrays. A request that is given up is taken out of the queue.

        Raises:
            RequestError: see its kinds.
        """
        name = signature or "serving_default"
        model.signature(name)
        allowed = min(deadline_s or self.limits.deadline_s, self.limits.deadline_s)
        begin, outcome = time.monotonic(), "INTERNAL"   # what else goes wrong is logged by REST and gRPC
        try:
            future = self._batchers[model.name, name].submit(given, begin + allowed)
            answers = await asyncio.wait_for(asyncio.wrap_future(future), allowed)
            outcome = "ok"
            return answers
        except asyncio.TimeoutError:
            outcome = TooLate.code
            raise TooLate(f"no answer within {allowed:g} s") from None
        except RequestError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            self._requests.labels(model.name, name, outcome).inc()
            self._latency.labels(model.name, name).observe(time.monotonic() - begin)

    def close(self) -> None:
        """Finishes what waits."""
        for batcher in self._batchers.values():
            batcher.close()
