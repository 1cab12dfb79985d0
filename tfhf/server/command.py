"""`tfhf serve`: REST and gRPC in one process until SIGTERM, which ends it once what it has is answered."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import termios
import threading

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tfhf.server import rest, rpc
from tfhf.server.models import ServeError
from tfhf.server.service import Limits, Service, log

# Bytes of its answer that a client has to read in so many seconds, or within the deadline, or lose its connection.
LEAST_READ, UNREAD_S = 2**16, 30.0
DRAIN_S = 0.2   # from the signal, in which those who still ask are told to go elsewhere
NOTE = "for a laptop, Colab and tests; in production let TF Serving serve the same folders (tpu_scripts/serve.sh)"


def parser() -> argparse.ArgumentParser:
    """The options of `tfhf serve`."""
    parser = argparse.ArgumentParser(prog="tfhf serve", description=f"{__doc__.splitlines()[0]} It is {NOTE}.")
    parser.add_argument("models", metavar="MODEL", nargs="+",
                        help="folder of a SavedModel, of its versions, or of models; NAME=FOLDER to name it")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too: it knows no passwords")
    parser.add_argument("--rest-port", type=int, default=8501, help="0: any free one")
    parser.add_argument("--grpc-port", type=int, default=8500, help="0: any free one")
    defaults = Limits()
    for name, text in (("max_batch", "examples that run together at most"),
                       ("batch_wait_ms", "how long the first of a batch waits for others"),
                       ("max_waiting", "examples that may wait for a model; more are refused with 429"),
                       ("max_examples", "examples of one request"),
                       ("max_values", "numbers, strings and lists in one request's JSON"),
                       ("deadline_s", "the longest that a request may take"),
                       ("max_request_mb", "size of a request, unpacked"),
                       ("max_connections", "connections at the same time"),
                       ("grace_s", "from SIGTERM to the end of the process, at the latest")):
        value = getattr(defaults, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value,
                            help=f"{text} (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal; returns the exit status: 2 after one line for what the user can mend."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    limits = Limits(**{name: getattr(arguments, name) for name in Limits.__dataclass_fields__})
    try:
        service = Service(arguments.models, limits)
        asyncio.run(serve(service, arguments.host, arguments.rest_port, arguments.grpc_port,
                          stopping=lambda: _end_within(limits.grace_s)))
    except ServeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    service.close(1.0)   # nobody waits for an answer any more
    # Python would take seconds of a core to take TensorFlow's modules down, and more of a busy machine.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _end_within(grace_s):
    """Ends this process after so many seconds, whatever it does then: TensorFlow may be in a call that hangs."""
    def end():
        log.error("work was still going on %g s after the signal; the process ends without it", grace_s)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(grace_s, end)
    timer.daemon = True
    timer.start()


async def serve(service: Service, host: str, rest_port: int, grpc_port: int, ready=print,
                stopping=lambda: None) -> None:
    """Serves until SIGTERM or SIGINT, or until cancelled; `ready` gets the addresses in one line each.

    Args:
        stopping: is called at the signal.

    Raises:
        ServeError: an address cannot be had.
    """
    limits = service.limits
    try:
        rest_socket = socket.create_server((host, rest_port), backlog=1024)
        # Connections inherit it. asyncio sets it for sockets that were made for TCP by number, which these are not;
        # without it a small answer waits 40 ms for the client's delayed acknowledgement of its head.
        rest_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rpc_server, grpc_port = rpc.make_server(service, f"{host}:{grpc_port}")
    except (OSError, RuntimeError) as error:
        raise ServeError(f"{host}, ports {rest_port} and {grpc_port}: {error}; expected free ones") from error
    web = _Web(uvicorn.Config(
        rest.make_app(service), http=_Http, ws="none", lifespan="off", log_level="warning", access_log=False,
        limit_concurrency=limits.max_connections, timeout_keep_alive=min(30.0, limits.deadline_s),
        timeout_graceful_shutdown=limits.drain_s))
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):   # not the main thread: no signals
            loop.add_signal_handler(number, lambda: (ended.set(), stopping()))
    await rpc_server.start()
    serving = asyncio.create_task(web.serve([rest_socket]))
    for model in service.models.values():
        ready(f"model {model.name}, version {model.version}: {', '.join(sorted(model.signatures))}", flush=True)
    ready(f"REST http://{host}:{rest_socket.getsockname()[1]}/v1/models/NAME:predict   gRPC {host}:{grpc_port}",
          flush=True)
    ready(NOTE, flush=True)
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        service.stopping = web.should_exit = True
        await asyncio.sleep(DRAIN_S)
        await asyncio.gather(serving, rpc_server.stop(limits.drain_s))


class _Http(H11Protocol):
    """uvicorn's, which waits for ever: for the first request of a connection, for the rest of its head, and until its
    answer is read."""

    _timer = _reading = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self):
        super().on_response_complete()
        self._expect_request()
        if self._reading is None and self.transport.get_write_buffer_size():
            self._expect_reading()

    def connection_lost(self, exc):
        self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def _expect_reading(self):
        unread = self.transport.get_write_buffer_size() + _unread_of(self.transport)
        self._reading = self.loop.call_later(min(UNREAD_S, self.timeout_keep_alive), self._unread, unread, self.cycle)

    def _unread(self, before, cycle):
        self._reading = None
        if not self.transport.get_write_buffer_size():
            return
        unread = self.transport.get_write_buffer_size() + _unread_of(self.transport)
        if unread > before - LEAST_READ and cycle is self.cycle:   # a later answer shows that it reads
            self.transport.abort()   # close() would wait until all is written
        else:
            self._expect_reading()

    def _expect_request(self):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._late, self.cycle)

    def _late(self, last):
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()


def _unread_of(transport):
    """Bytes that the kernel still has to deliver. It takes no more until a third of what it holds has been read."""
    count = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


class _Web(uvicorn.Server):
    """uvicorn without its own handling of signals, which are ours."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield
