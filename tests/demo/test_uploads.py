"""The page reads only what was uploaded to it, and bounds what it keeps."""

import asyncio
import json
import os
import socket
import time

import numpy as np
import pytest

gr = pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
pytest.importorskip("grpc")

from tests.demo.stub import STUBS, png
from tests.demo.test_command import Listener
from tfhf.client import wav_bytes
from tfhf.demo import uploads as bounds
from tfhf.demo.answers import Answers, DemoError
from tfhf.demo.page import launch, make_page
from tfhf.demo.uploads import REFUSED, BoundedRequests, Uploads

KINDS = {"transcript": ("call.wav", wav_bytes(np.full(16_000, 0.1), 16_000)),
         "image_labels": ("photo.png", png(np.zeros((20, 30, 3), np.uint8)))}


class Page:
    """A page over HTTP. `private`: a file beside its folder that nobody uploaded."""

    def __init__(self, kind, folder):
        name, self.data = KINDS[kind]
        self.private, example = folder / name, folder / f"example-{name}"
        self.private.write_bytes(self.data)
        example.write_bytes(self.data)
        self.uploads = Uploads(str(folder / "uploads"), [str(example)])
        self.page = make_page(Answers(STUBS[kind](), "some"), self.uploads, [str(example)])
        self.uploads.keep()
        address, _ = launch(self.page, self.uploads, "127.0.0.1", _free_port(), False)
        self.client = httpx.Client(base_url=address, timeout=60, trust_env=False)
        parts = self.client.get("config").json()["dependencies"]
        self.run, = [part["id"] for part in parts if part["api_visibility"] == "private"]
        self.loads = [part["id"] for part in parts if part["id"] != self.run]

    def upload(self, data=None, count=1):
        files = [("files", ("mine.bin", self.data if data is None else data))] * count
        return self.client.post("gradio_api/upload", files=files)

    def ask(self, payload, session=None):
        """What the page answers to a file's payload: the error, or None."""
        session = session or f"s{time.time_ns()}"
        joined = self.client.post("gradio_api/queue/join", json={
            "data": [payload], "fn_index": self.run, "session_hash": session})
        assert joined.status_code == 200, joined.text
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                told = json.loads(line[6:]) if line.startswith("data: ") else {}
                if told.get("event_id") == joined.json()["event_id"] and told["msg"] == "process_completed":
                    return None if told["success"] else str(told["output"].get("error"))
        raise AssertionError("no answer")

    def close(self):
        self.client.close()
        self.page.close(verbose=False)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture(scope="module", params=sorted(KINDS))
def page(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = Page(request.param, folder)
        yield page
        page.close()


META = {"meta": {"_type": "gradio.FileData"}}


def test_what_was_uploaded_is_read(page):
    path, = page.upload().json()
    assert page.ask({"path": path, **META}) is None
    examples = [file for file, *_ in page.uploads._files() if "example-" in file]
    assert examples and all(page.ask({"path": file, **META}) is None for file in examples)


def test_nothing_else_is_read(page):
    folder = page.private.parent
    inside = folder / "uploads" / "link"
    inside.unlink(missing_ok=True)
    inside.symlink_to(page.private)
    paths = [str(page.private), f"{folder}/uploads/../{page.private.name}", f"{folder}/uploads", str(folder),
             "/dev/zero", "/proc/self/environ", "/etc/passwd", f"{folder}/uploads/none.wav", str(inside),
             "gs://b/x.wav", f"file://{page.private}", f"{page.private}\0.png", os.path.relpath(page.private),
             "~/.bashrc", "a" * 5000]
    for path in paths:
        assert page.ask({"path": path}) == REFUSED, path
        assert page.ask({"path": path, **META}) == REFUSED, path
    assert page.client.get(f"gradio_api/file={page.private}").status_code in (403, 404)


def test_addresses_are_not_fetched(page):
    listener = Listener()
    for address in (f"{listener.address}/x.png", f"{listener.address.replace('127.0.0.1', 'localhost')}/x.png"):
        for payload in ({"path": address}, {"path": address, **META}, {"path": address, "url": address, **META}):
            assert page.ask(payload) == REFUSED
        for payload in ({"path": None, "url": address, **META}, {"path": "x", "url": address, **META}, {"url": address},
                        address, [address], [{"path": address}], {"video": {"path": address}}):
            assert page.ask(payload) == REFUSED
    assert listener.asked == []


def test_an_example_that_was_clicked_changes_nothing(page):
    session = "clicked"
    for load in page.loads:
        page.client.post("gradio_api/queue/join", json={"data": [0], "fn_index": load, "session_hash": session})
    for more in ({}, META):
        assert page.ask({"path": str(page.private), **more}, session) == REFUSED


def test_large_and_many_uploads_are_refused(page, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_REQUEST_BYTES", 1_000_000)
    assert page.upload(bytes(10_000)).status_code == 200
    assert page.upload(bytes(100_000), 20).status_code == 413   # each is small enough
    chunks = [b"--x\r\ncontent-disposition: form-data; name=files; filename=a\r\n\r\n", *[bytes(100_000)] * 20]
    answer = page.client.post("gradio_api/upload", content=iter(chunks),
                              headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    monkeypatch.setattr(bounds, "MAX_OTHER_BYTES", 10_000)
    assert page.client.post("gradio_api/queue/join", json={"data": ["x" * 20_000]}).status_code == 413
    monkeypatch.setattr(bounds, "KEPT_BYTES", 50_000)
    assert page.upload(bytes(80_000)).status_code == 503        # what is there is young
    monkeypatch.setattr(bounds, "KEPT_BYTES", 512 * 2**20)
    assert page.upload(bytes(80_000)).status_code == 200


def test_the_oldest_go_and_examples_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "KEPT_BYTES", 5000)
    monkeypatch.setattr(bounds, "KEPT_FILES", 8)
    (tmp_path / "example").write_bytes(bytes(1000))
    uploads = Uploads(str(tmp_path))
    uploads.keep()
    for number in range(6):
        (tmp_path / f"old{number}").write_bytes(bytes(700))
        os.utime(tmp_path / f"old{number}", (number, number))
    (tmp_path / "young").write_bytes(bytes(700))
    assert uploads.has_room(2000)
    assert sorted(os.listdir(tmp_path)) == ["example", "old4", "old5", "young"][:1] + ["old5", "young"]
    assert not uploads.has_room(4000) and sorted(os.listdir(tmp_path)) == ["example", "young"]
    for number in range(10):
        (tmp_path / f"small{number}").touch()
    assert not uploads.has_room() and len(os.listdir(tmp_path)) == 12   # too many, all young
    for number in range(10):
        os.utime(tmp_path / f"small{number}", (number, number))
    assert uploads.has_room() and len(os.listdir(tmp_path)) == 8


def test_an_upload_that_never_ends_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(bounds, "ARRIVES_S", 0.2)
    sent = []

    async def app(scope, receive, send):
        while True:
            await receive()

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    uploads = Uploads(str(tmp_path))
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
    asyncio.run(BoundedRequests(app, uploads)(scope, receive, send))
    assert sent[0]["status"] == 408 and uploads.arriving == 0


@pytest.mark.parametrize("path", [None, 5, "", "\0", "/", ".", "..", "https://example.com/a.wav"])
def test_paths_that_are_none(tmp_path, path):
    with pytest.raises(DemoError):
        Uploads(str(tmp_path)).checked(path)
