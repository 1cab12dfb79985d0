"""`tfhf demo TASK`: a page in the browser where people try an exported model, until SIGTERM or Ctrl-C.

The page asks by `tfhf.client`: a server that somebody runs (`--server`), or one of its own for the export, which is
`tfhf serve`'s gRPC in a thread, on the loopback. So an answer here is what clients of the model get.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from tfhf.client import Client
from tfhf.data.labels import class_names
from tfhf.demo.answers import DEADLINE_S, Answers, DemoError
from tfhf.demo.page import launch, make_page
from tfhf.demo.pictures import landscape
from tfhf.demo.uploads import Uploads
from tfhf.export import DESCRIPTION
from tfhf.server import rpc
from tfhf.server.models import ServeError, find_models, find_versions
from tfhf.server.service import Limits, Service

LIMITS, FIRST_DEADLINE_S = Limits(deadline_s=DEADLINE_S), 10.0


def main(model: str, config, arguments) -> None:
    """Shows the page of a model, its run's configuration being `config`, until a signal.

    Raises:
        DemoError, ServeError, ClientError: see `Demo`.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    folder = None if arguments.server else arguments.export or os.path.join(config.output, "export")
    with Demo(model, folder, arguments.server, names=_names(config.task), files=arguments.files,
              host=arguments.host, port=arguments.port, share=arguments.share) as (here, public):
        for address in filter(None, (here, public)):
            print(f"Running on {address}", flush=True)
        ended.wait()


class Demo:
    """The page of one model, open until `close()` or the end of a `with`, which gives its addresses. In a notebook:

        page = Demo("whisper", "runs/mine/export", share=True)
        print(page.public_address)

    Attributes: address: of the page here. public_address: if `share`, through Gradio's servers; else None.

    Args:
        model: the task's name, which is the model's.
        export: folder of the export, of one version of it, or with the folder `model` in it.
        server: instead of it the address of a server: "http://HOST:PORT" or "grpc://HOST:PORT".
        names: of the classes, where the export does not tell them.
        files: recordings or images that the page offers as examples.
        port: 0: any free one.

    Raises:
        DemoError: no such export, model or file, a model for which there is no page, a port that is taken;
            ServeError, ClientError: the model cannot be loaded, the server does not answer.
    """

    def __init__(self, model: str, export: str | None = None, server: str | None = None, *, names=(), files=(),
                 host: str = "127.0.0.1", port: int = 7860, share: bool = False):
        for path in files:
            if not os.path.isfile(path):
                raise DemoError(f"{path}: no such file, expected a recording or an image to offer as an example")
        with contextlib.ExitStack() as stack:
            page, uploads = _opened(stack, model, export, server, names, files)
            stack.callback(page.close, verbose=False)
            uploads.keep()
            self.address, self.public_address = launch(page, uploads, host, port or _free_port(host), share)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends the page, and the server that it had of its own; uploads are removed."""
        self._stack.close()

    def __enter__(self) -> tuple[str, str | None]:
        return self.address, self.public_address

    def __exit__(self, *_) -> None:
        self.close()


def _opened(stack, model, export, server, names, files):
    """-> (the page before it is launched, its uploads); what it needs is open until `stack` closes."""
    work = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfhf-demo-", ignore_cleanup_errors=True))
    folder_of_uploads = os.path.join(work, "uploads")
    stack.enter_context(_environment(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1",
                                     GRADIO_TEMP_DIR=folder_of_uploads))
    where = "this machine" if server is None else server
    if server is None:
        folder, server = _serve_newest(stack, model, export)
        names = _names_of(model, folder) or names
    else:
        with Client(server, model, deadline_s=FIRST_DEADLINE_S) as first:   # long enough for one that is there
            if not first.ready():
                raise DemoError(f"{server}: has no model {model!r} that is ready")
    client = stack.enter_context(Client(server, model, deadline_s=DEADLINE_S))
    answers = Answers(client, model, names)
    if not files and answers.kind in ("depth", "disparity", "enlarged", "image_labels"):
        files = [os.path.join(work, "landscape.png")]
        Path(files[0]).write_bytes(tf.io.encode_png(landscape()).numpy())
    uploads = Uploads(folder_of_uploads, files)
    return make_page(answers, uploads, files, where), uploads


def find_export(model: str, folder) -> tuple[str, tuple]:
    """-> (the folder of the export's newest version, the names of its classes, () if it has none).

    Raises:
        DemoError: there is none, or that of another task.
    """
    found = find_models([f"{model}={_folder_of(model, folder)}"])[model][1]
    return found, _names_of(model, found)


def _folder_of(model, folder):
    folder = Path(folder)
    folder = folder / model if (folder / model).is_dir() else folder
    if not folder.is_dir():
        raise DemoError(f"{folder}: no export here, expected the folder of `tfhf export {model}`; write it first")
    return folder


def _names_of(model, version):
    """The names of the classes that the description of an export has."""
    description = Path(version, "assets.extra", DESCRIPTION)
    if not description.is_file():
        return ()
    try:
        told = json.loads(description.read_text("utf-8"))
        task, classes = told["task"], tuple(told["config"].get("classes") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DemoError(f"{description}: cannot be read ({error!r}), expected what `tfhf export` writes") from error
    if task != model:
        raise DemoError(f"{version}: an export of {task}, expected one of {model}")
    return classes


def _serve_newest(stack, model, folder):
    """-> (the newest version of an export that can be loaded, the address of its server, which `stack` ends)."""
    versions, errors = find_versions([f"{model}={_folder_of(model, folder)}"])[model], []
    for _, version in sorted(versions.items(), reverse=True):
        try:
            server = stack.enter_context(serving(model, version))
        except ServeError as error:
            errors.append(error)
            continue
        for error in errors:
            print(f"error: {error}; {version} is shown instead", file=sys.stderr)
        return version, server
    raise errors[0]


@contextlib.contextmanager
def serving(model: str, folder: str):
    """A context with the address of a server of that one SavedModel, on the loopback: gRPC, in a thread."""
    service = Service([f"{model}={folder}"], LIMITS)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="tfhf-demo-model")
    thread.start()

    def run(call):
        return asyncio.run_coroutine_threadsafe(call, loop).result()

    async def start():
        server, port = rpc.make_server(service, "127.0.0.1:0")
        await server.start()
        return server, port

    server, port = run(start())
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        run(server.stop(None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        service.close()


def _names(config):
    """The classes of a task's configuration; () where it has none."""
    given, file = getattr(config, "classes", ()), getattr(config, "classes_file", "")
    return class_names(given, file) if given or file else ()


def _free_port(host):
    with socket.create_server((host, 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def _environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
