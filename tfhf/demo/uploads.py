"""The files that visitors of the page upload: which paths it reads, and how much it keeps. Knows no Gradio."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

from tfhf.demo.answers import DemoError

MAX_FILE_MB = 32
MAX_REQUEST_BYTES = (MAX_FILE_MB + 1) * 2**20   # of an upload: gradio bounds each of its files, and takes a thousand
MAX_OTHER_BYTES = 2**20                         # of any other request
MAX_ARRIVING = 4 * MAX_REQUEST_BYTES            # of all uploads that arrive at the same time
ARRIVES_S = 300.0                               # an upload that takes longer is given up
KEPT_BYTES, KEPT_FILES = 512 * 2**20, 2000
YOUNG_S = 120.0                                 # so long a file may be waited for, and is not removed for others
REFUSED = "This page reads only what was uploaded to it, within the last hour. Please upload the file again."


class Uploads:
    """The folder of the uploads, and of the pictures that the page answers with.

    Args:
        folder: of this page alone; it need not be there yet.
        examples: files outside of it that the page may read as well.
    """

    def __init__(self, folder: str, examples=()):
        self.folder = os.path.realpath(folder)
        self._examples = {os.path.realpath(path) for path in examples}
        self._keep = set()
        self.arriving = 0   # bytes of the uploads on their way

    def checked(self, path: str) -> str:
        """The path of an upload or an example, without links.

        Raises:
            DemoError: it is anything else: another file, a folder, a device, an address. Nothing of it is read.
        """
        if not isinstance(path, str) or "\0" in path:
            raise DemoError(REFUSED)
        real = os.path.realpath(path)
        if real not in self._examples and not real.startswith(self.folder + os.sep):
            raise DemoError(REFUSED)
        try:
            regular = stat.S_ISREG(os.stat(real).st_mode)
        except OSError as error:
            raise DemoError(REFUSED) from error
        if not regular:
            raise DemoError(REFUSED)
        return real

    def keep(self) -> None:
        """What is in the folder now stays: the page's own examples."""
        self._keep = {path for path, *_ in self._files()}

    def has_room(self, size: int = 0) -> bool:
        """Whether so many bytes more may come. The oldest files are removed for them; none is that is young."""
        files = sorted(self._files(), key=lambda file: file[1])
        total, count = sum(file[2] for file in files) + size, len(files)
        for path, changed, bytes_ in files:
            if (total <= KEPT_BYTES and count <= KEPT_FILES) or time.time() - changed < YOUNG_S:
                break
            if path not in self._keep:
                Path(path).unlink(missing_ok=True)
                total, count = total - bytes_, count - 1
        return total <= KEPT_BYTES and count <= KEPT_FILES

    def _files(self):
        """[(path, when it was changed, size)]"""
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    told = os.lstat(path)
                except FileNotFoundError:   # removed at this moment
                    continue
                found.append((path, told.st_mtime, told.st_size))
        return found


class BoundedRequests:
    """ASGI middleware: bounds the body of every request, and what all uploads take together."""

    def __init__(self, app, uploads: Uploads):
        self._app, self._uploads = app, uploads

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        uploads, is_upload = self._uploads, scope["path"].rstrip("/").endswith("/upload")
        most = MAX_REQUEST_BYTES if is_upload else MAX_OTHER_BYTES
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() and len(length) < 18 else most
        if size > most:
            await _refuse(send, 413, f"The request is larger than {most >> 20} MB.")
        elif is_upload and (uploads.arriving + size > MAX_ARRIVING or not uploads.has_room(size)):
            await _refuse(send, 503, "Too many uploads at this time: please try later.")
        else:
            uploads.arriving += size if is_upload else 0
            try:
                await self._bounded(scope, receive, send, most)
            finally:
                uploads.arriving -= size if is_upload else 0

    async def _bounded(self, scope, receive, send, most):
        came, begun, end = 0, False, time.monotonic() + ARRIVES_S

        async def counted():
            nonlocal came
            # Afterwards gradio waits here for the client to go.
            message = await asyncio.wait_for(receive(), None if begun else max(0.0, end - time.monotonic()))
            came += len(message.get("body", b""))
            if came > most:
                raise _TooLarge
            return message

        async def noted(message):
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except (_TooLarge, asyncio.TimeoutError):
            if begun:
                raise
            status = 413 if came > most else 408
            await _refuse(send, status, f"The request is larger than {most >> 20} MB, or took too long.")


class _TooLarge(Exception):
    pass


async def _refuse(send, status, text):
    body = text.encode("utf-8")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
