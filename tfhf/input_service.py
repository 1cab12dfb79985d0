"""Batches that other machines prepare: tf.data service, for input that one host cannot prepare, and for TPU pods.

`tfhf data serve` runs an input server: in one process a dispatcher and a worker of tf.data service, and the task's own
pipeline (tfhf/data/pipeline.py), Python functions included, which exist in that process alone. A run with
`input_servers` asks each of them, over HTTP, for a slice of every batch, and joins the slices. Slices are those of so
many hosts, so the batches are the ones that the run would have made itself, to the bit, from any step on. What the run
has of them is a graph without Python: each host of a pod reads from its own server, where it would otherwise call back
into the process that drives the pod for every batch.

Ports, from the one that is given: requests (HTTP, JSON), dispatcher, worker (both gRPC). None of them asks who is
there. So they listen on the loopback, unless the server has another address (`--host`): then let only the network of
the run reach them, since whoever reaches the dispatcher can read files of this machine through TensorFlow's graphs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import ipaddress
import json
import os
import socket
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from typing import Any, Callable, Iterable, Iterator

import tensorflow as tf

import tfhf
from tfhf.config import Config
from tfhf.data import storage
from tfhf.data.pipeline import evaluation_batches, finished, normalised, training_batches
from tfhf.run_config import RunConfig, records_of

ANSWER_S = 120.0   # a server opens the records before it answers
HEARTBEAT_MS = 500   # a worker that missed being told of a dataset learns of it then, not after TensorFlow's 30 s
PING_S = 5.0
LOST_S = 60.0
MAX_REQUEST_BYTES, REQUEST_S, MAX_REQUESTS = 2**20, 30.0, 64   # of one; for it to come; at the same time
_service = tf.data.experimental.service


class InputServiceError(ValueError):
    """An input server that cannot be had, is gone, or has other records or another version; the message names it."""


class _Refused(InputServiceError):
    """What whoever asks may know: it names nothing of this machine."""


@dataclasses.dataclass(frozen=True)
class Batches(Config):
    """Which batches: of training from `start_step` on, `num_steps` of them; or, `training` false, of an evaluation."""

    split: str
    training: bool = False
    start_step: int = 0
    num_steps: int = 0


def host_batches(task, config: RunConfig, what: Batches, num_hosts: int = 1, host_index: int = 0,
                 normalise_weights: bool | None = None) -> tf.data.Dataset:
    """The dataset of (inputs, targets, weight) of one host, read and prepared by this process; see `training_batches`
    and `evaluation_batches`."""
    slice_of = {"num_hosts": num_hosts, "host_index": host_index, "drop_longer": config.data.drop_longer}
    if what.training:
        return training_batches(
            task, config.data.training_path, what.split, batch_size=config.batch_size, seed=config.seed,
            start_step=what.start_step, num_steps=what.num_steps, normalise_weights=normalise_weights, **slice_of)
    dataset = evaluation_batches(task, config.data.path, what.split, batch_size=config.eval_batch_size, **slice_of)
    return dataset.map(lambda batch: (batch["inputs"], batch["targets"], batch["weight"]))


def served_batches(task, config: RunConfig, what: Batches, num_hosts: int = 1,
                   host_index: int = 0) -> tf.data.Dataset:
    """The same as `host_batches`, prepared by the `config.input_servers`; the graph of it holds no Python.

    Of several hosts each asks as many servers: the first host the first ones, and so on.

    Raises:
        InputServiceError: the servers cannot be split over the hosts, or the batch over the servers; a server does not
            answer, or refuses.
    """
    servers = config.input_servers
    if len(servers) % num_hosts:
        raise InputServiceError(f"input_servers: got {len(servers)} for {num_hosts} hosts, expected as many for each")
    size = config.batch_size if what.training else config.eval_batch_size
    if size % len(servers):
        raise InputServiceError(f"input_servers: got {len(servers)}, which do not divide the batch of {size}")
    own = range(host_index * len(servers) // num_hosts, (host_index + 1) * len(servers) // num_hosts)
    mine = host_batches(task, config, what, len(servers), own[0], False)   # only to learn the shapes
    spec = (tf.TensorSpec([], tf.int64), mine.element_spec)
    parts = []
    _ask_no_proxy(servers[place].rpartition(":")[0] for place in own)
    for place in own:
        given = _ask(servers[place], {
            "task": task.name, "config": config.to_dict(), "batches": what.to_dict(), "host_index": place,
            "records": records_of(config.data, what.split, what.training), "versions": _versions()})
        # One worker gives its batches in their order; the numbers are checked all the same.
        parts.append(_service.from_dataset_id(_service.ShardingPolicy.OFF, f"grpc://{given['dispatcher']}",
                                              given["dataset_id"], element_spec=spec))

    def join(number, *parts):
        numbers, batches = zip(*parts)
        told = ["RecordError: the input servers gave the batches", *numbers, "where", number, "was expected"]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.stack(numbers) == number), told)]):
            inputs, targets, weight = tf.nest.map_structure(lambda *slices: tf.concat(slices, 0), *batches)
        return inputs, targets, normalised(weight, size) if what.training and num_hosts == 1 else weight

    dataset = tf.data.Dataset.zip(tf.data.Dataset.counter(), *parts).map(join)
    return finished(dataset.apply(tf.data.experimental.assert_cardinality(mine.cardinality())))


def batches_of(task, config: RunConfig, what: Batches, num_hosts: int = 1, host_index: int = 0) -> tf.data.Dataset:
    """What a host feeds: `served_batches` where the run has input servers, or else `host_batches`."""
    give = served_batches if config.input_servers else host_batches
    return give(task, config, what, num_hosts, host_index)


@contextlib.contextmanager
def watched(servers, lost_s: float = LOST_S) -> Iterator[None]:
    """A context in which the input servers are asked every few seconds whether they are there.

    One that was started anew has forgotten what it gave: an InputServiceError. For one that has not answered for
    `lost_s` seconds tf.data service would wait for ever, inside TensorFlow, where nothing can end it: the process ends,
    with a word and exit status 1, and the same command goes on from the last checkpoint.
    """
    done = threading.Event()

    def watch():
        seen = dict.fromkeys(servers, time.monotonic())
        while not done.wait(min(PING_S, lost_s / 4)):
            for server in servers:
                try:
                    _open(f"http://{server}/", timeout=PING_S)
                    seen[server] = time.monotonic()
                except OSError as error:
                    if time.monotonic() - seen[server] > lost_s and not done.is_set():
                        print(f"error: input server {server} has not answered for {lost_s:g} s ({error}); start it, "
                              "and this command again: it goes on from its last checkpoint", file=sys.stderr,
                              flush=True)
                        os._exit(1)

    if servers:
        threading.Thread(target=watch, daemon=True, name="tfhf-input-servers").start()
    try:
        yield
    except tf.errors.NotFoundError as error:
        if "iteration client id" not in error.message:
            raise
        raise InputServiceError(f"one of the input servers {', '.join(servers)} was started anew while this run was "
                                "reading from it; start the same command again, it goes on from the last checkpoint"
                                ) from error
    finally:
        done.set()


class InputServer:
    """An input server in this process; see the module's docstring.

    Args:
        load_task: name of a task -> an object with the Task's class as TASK.
        port: of requests; the two behind it are the dispatcher's and the worker's.
        host: where it listens, the name by which runs reach this machine. One of the loopback: only runs on this
            machine reach it. Otherwise TensorFlow's two ports listen on all addresses; there is no setting for that.
        records: folders, local or gs://, below which the records have to lie that a run may ask for; () for anywhere.

    Raises:
        InputServiceError: one of the ports is taken; TensorFlow's ports cannot be kept on the loopback.
    """

    def __init__(self, load_task: Callable[[str], Any], port: int, host: str, records: Iterable[str] = ()):
        if host in ("", "0.0.0.0", "::"):
            raise InputServiceError(f"--host: got {host!r}, expected the address by which the runs reach this machine")
        self._load_task = load_task
        self._records = [_plain(folder) for folder in records]
        self.address, self.dispatcher = f"{host}:{port}", f"{host}:{port + 1}"
        _ask_no_proxy(["localhost", host])
        try:
            self._http = _Requests((host, port), self._handler())
            self._dispatcher = _service.DispatchServer(_service.DispatcherConfig(port=port + 1, protocol="grpc"))
            self._worker = _service.WorkerServer(_service.WorkerConfig(
                dispatcher_address=f"localhost:{port + 1}", worker_address=f"{host}:{port + 2}", port=port + 2,
                protocol="grpc", heartbeat_interval_ms=HEARTBEAT_MS))
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            raise InputServiceError(f"input server: the ports {port} to {port + 2} cannot be had ({error}); expected "
                                    "three free ports of this machine, --port, and its address, --host") from error
        if _is_loopback(host):
            _keep_on_loopback({port + 1, port + 2})

    def run(self) -> None:
        """Answers until the process ends."""
        self._http.serve_forever()

    def prepare(self, request: dict) -> dict:
        """A request as `served_batches` makes it -> {"dispatcher", "dataset_id"}: where the batches are.

        Raises:
            _Refused: why, in words that anybody may read; other errors: in words that name files of this machine.
        """
        if not isinstance(request, dict) or not isinstance(request.get("task"), str):
            raise _Refused("expected a request of a run with `input_servers`")
        if request["versions"] != _versions():
            raise _Refused(f"got a run with {str(request['versions'])[:200]}, expected {_versions()}, what is here")
        try:
            task_class = self._load_task(request["task"]).TASK
        except ValueError as error:
            raise _Refused(f"unknown task {request['task'][:80]!r}") from error
        config = RunConfig.from_dict(request["config"], task=task_class.Config)
        what = Batches.from_dict(request["batches"])
        for path in (config.data.mixture if what.training else ()) or (config.data.path,):
            folder = storage.join(path, what.split)
            if self._records and not any(_is_below(folder, allowed) for allowed in self._records):
                raise _Refused("the records of the run lie outside of the folders of --records")
        found = records_of(config.data, what.split, what.training)
        if found != request["records"]:
            raise _Refused(f"the records here are {found}, those of the run {request['records']}; expected the same: a "
                           "bucket, or a folder that both mount")
        dataset = host_batches(task_class(config.task), config, what, len(config.input_servers), request["host_index"],
                               False)
        given = _service.register_dataset(f"grpc://{self._local_dispatcher}", dataset.enumerate(), compression=None,
                                          dataset_id=uuid.uuid4().hex)
        print(f"{task_class.name}: {what.split}, slice {request['host_index']} of {len(config.input_servers)}, "
              f"from step {what.start_step}", flush=True)
        return {"dispatcher": self.dispatcher, "dataset_id": given.numpy().decode()}

    @property
    def _local_dispatcher(self):
        return f"localhost:{self.dispatcher.rpartition(':')[2]}"

    def _handler(self):
        server = self

        class _Handler(http.server.BaseHTTPRequestHandler):
            timeout = REQUEST_S   # of each read

            def do_GET(self):
                self._answer(200, {"tfhf": "input server", "versions": _versions()})

            def do_POST(self):
                try:
                    self._answer(200, server.prepare(json.loads(self._body())))
                except _Refused as error:
                    self._refuse(error, str(error))
                except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError,
                        tf.errors.OpError) as error:   # its words may name files
                    self._refuse(error, "the request cannot be served; the log of this input server says why")

            def _body(self):
                length = self.headers.get("Content-Length", "")
                if not length.isascii() or not length.isdigit() or not 0 < int(length[:20]) <= MAX_REQUEST_BYTES:
                    raise _Refused(f"Content-Length: got {length[:40]!r}, expected 1 to {MAX_REQUEST_BYTES}")
                data, end = b"", time.monotonic() + REQUEST_S
                while len(data) < int(length):
                    part = self.rfile.read1(int(length) - len(data))
                    if not part or time.monotonic() > end:
                        raise _Refused(f"got {len(data)} bytes of {length} within {REQUEST_S:g} s")
                    data += part
                return data

            def _refuse(self, error, told):
                print(f"refused: {error!r}", file=sys.stderr, flush=True)
                self._answer(400, {"error": told})

            def _answer(self, status, content):
                data = json.dumps(content).encode("utf-8")
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):   # pings by the thousand
                pass

        return _Handler


class _Requests(http.server.ThreadingHTTPServer):
    """A thread for each request, and so many at most; more are hung up."""

    def __init__(self, *arguments):
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        print(f"a request from {client_address[0]} ended with {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


def _is_loopback(host):
    """Whether a name or address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keep_on_loopback(ports):
    """Makes what listens on these ports in this process take connections of the loopback device only.

    TensorFlow's servers listen on all addresses, and have no setting for it.

    Raises:
        InputServiceError: this system cannot.
    """
    kept = set()
    try:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):   # of listdir itself
                if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                    continue
                with socket.socket(fileno=os.dup(int(name))) as found:
                    if (found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] in ports
                            and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
                        found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
                        kept.add(found.getsockname()[1])
    except (OSError, AttributeError) as error:   # not Linux, or a kernel before 5.7
        raise InputServiceError(_NO_LOOPBACK.format(error)) from error
    if kept != ports:
        raise InputServiceError(_NO_LOOPBACK.format(f"of {sorted(ports)} found {sorted(kept)}"))


_NO_LOOPBACK = ("input server: this system cannot keep TensorFlow's ports on the loopback ({}); expected Linux 5.7 or "
                "later, or --host ADDRESS, behind a firewall")


def _plain(path):
    """A folder without `..` and links, so that what lies below it begins with it."""
    scheme, found, rest = path.partition("://")
    return f"{scheme}://{os.path.normpath(rest)}" if found else os.path.realpath(path)


def _is_below(path, folder):
    plain = _plain(path)
    return plain == folder or plain.startswith(folder.rstrip("/") + "/")


def _ask(server: str, request: dict) -> dict:
    data = json.dumps(request).encode("utf-8")
    try:
        return json.loads(_open(f"http://{server}/", data, timeout=ANSWER_S))
    except urllib.error.HTTPError as error:
        raise InputServiceError(f"input server {server}: {json.loads(error.read())['error']}") from error
    except (OSError, ValueError) as error:
        raise InputServiceError(f"input server {server}: {error}; expected `tfhf data serve` to run there, and "
                                "HOST:PORT") from error


def _ask_no_proxy(hosts: Iterable[str]) -> None:
    """Servers are near: no proxy for TensorFlow's gRPC either, whatever of this process' environment names one."""
    before = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))
    os.environ["no_grpc_proxy"] = ",".join(dict.fromkeys(filter(None, [*before.split(","), *hosts])))


def _open(url: str, data: bytes | None = None, *, timeout: float) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))   # see _ask_no_proxy
    with opener.open(url, data, timeout=timeout) as answer:
        return answer.read()


def _versions() -> dict:
    return {"tfhf": tfhf.__version__, "tensorflow": tf.__version__}
