"""A server of `tfhf serve`, in a thread of the tests or a process of its own, and the small models that it serves."""

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from tfhf.server.command import serve
from tfhf.server.service import Limits, Service

ROOT = Path(__file__).resolve().parents[2]


class Echo(tf.Module):
    """Strings: how long they are, and themselves; an empty one is refused, "wait" takes half a second, "forever" hours.
    """

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serving_default(self, text):
        length = tf.strings.length(text)
        told = ["RecordError: an empty text, expected at least one letter"]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(length > 0), told)]):
            rounds = tf.where(tf.reduce_any(tf.equal(text, "wait")), 100_000, 0)
            rounds = tf.where(tf.reduce_any(tf.equal(text, "forever")), tf.int32.max, rounds)
        waited = tf.while_loop(lambda i, _: i < rounds, lambda i, x: (i + 1, tf.sin(x + 1.0)), [0, 0.0])[1]
        return {"length": length, "echo": tf.strings.join([text, "!"]),
                "half": tf.cast(length, tf.float32) / self.scale + 0.0 * waited}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x"),
                                  tf.TensorSpec([None], tf.int32, name="n")])
    def raw(self, x, n):
        return {"scores": x * self.scale + tf.cast(n, tf.float32)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
    def words(self, wav):
        return {"text": tf.strings.as_string(tf.strings.length(wav))}


def write_models(folder):
    """FOLDER/echo/{1,2,10} and FOLDER/echo2/1; -> FOLDER as str."""
    module = Echo()
    signatures = {"serving_default": module.serving_default, "raw": module.raw, "words": module.words}
    for place in ("echo/1", "echo/2", "echo/10", "echo2/1"):
        tf.saved_model.save(module, str(folder / place), signatures=signatures)
    return str(folder)


class Running:
    """Attributes: service; rest, grpc: addresses for `tfhf.client`."""

    def __init__(self, service):
        self.service, self._lines = service, []
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(60)
        self.rest, self.grpc = _addresses("\n".join(self._lines))

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(serve(self.service, "127.0.0.1", 0, 0, self._ready))
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def _ready(self, line, flush):
        self._lines.append(line)
        if line.startswith("REST"):
            self._up.set()

    def close(self):
        """Ends it as a signal does."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(60)
        self.service.close()


def _addresses(told):
    rest, grpc = re.search(r"http://(\S+?)/v1.*gRPC (\S+)", told).groups()
    return f"http://{rest}", f"grpc://{grpc}"


class Process:
    """`tfhf serve` of the models in `folder`, with `options` such as max_waiting=4.

    It is killed at the end of its context. Attributes: rest, grpc: addresses for `tfhf.client`; pid.
    """

    def __init__(self, folder, **options):
        given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        self._errors = tempfile.TemporaryFile("w+")   # a pipe that nobody reads would stop it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "serve", str(folder), "--rest-port", "0", "--grpc-port", "0", *given],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        line = ""
        while not line.startswith("REST "):
            line = self._process.stdout.readline()
            assert line, self.errors()
        self.pid, (self.rest, self.grpc) = self._process.pid, _addresses(line)

    def memory_mb(self):
        """What of it is in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def send_signal(self, number):
        """To the process."""
        self._process.send_signal(number)

    def wait(self, seconds=60):
        """The exit status."""
        return self._process.wait(seconds)

    def errors(self):
        """Its standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()
        self._errors.close()


@contextlib.contextmanager
def running(paths, **limits):
    """A context with a `Running`."""
    server = Running(Service(paths, Limits(**limits)))
    try:
        yield server
    finally:
        server.close()
