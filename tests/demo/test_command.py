"""`tfhf demo`: the command line, the export it finds, the page over HTTP, and nothing that goes elsewhere."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

pytest.importorskip("gradio")
pytest.importorskip("grpc")
httpx = pytest.importorskip("httpx")

from pipelines.__main__ import main, parse
from tfhf.client import Client, ClientError
from tfhf.demo.answers import DemoError
from tfhf.demo.command import Demo, find_export, serving
from tfhf.server.models import ServeError


def test_the_command_line():
    arguments = parse(["demo", "whisper", "a.wav", "--export", "out", "--port", "0", "task.num_beams=2", "b.wav"])
    assert arguments.files == ["a.wav", "b.wav"] and arguments.overrides == ["task.num_beams=2"]
    assert (arguments.host, arguments.port, arguments.share) == ("127.0.0.1", 0, False)
    with pytest.raises(SystemExit):
        parse(["demo", "whisper", "--export", "out", "--server", "grpc://localhost:8500"])


def test_the_export_may_be_named_at_any_depth(labeller):
    version = str(labeller / "text_classification/1")
    for folder in (labeller, labeller / "text_classification", version):
        assert find_export("text_classification", folder) == (version, ("short", "long"))


def test_an_export_that_is_not_there_or_another_tasks(labeller, tmp_path, capsys):
    with pytest.raises(DemoError, match="expected the folder of `tfhf export whisper`"):
        find_export("whisper", tmp_path / "none")
    with pytest.raises(ServeError, match="no SavedModel"):
        find_export("whisper", tmp_path)
    with pytest.raises(DemoError, match="an export of text_classification, expected one of whisper"):
        find_export("whisper", labeller / "text_classification")
    assert main(["demo", "text_classification", "--output", str(tmp_path / "run")]) == 2
    assert re.search(r"^error: \S+run/export: no export here", capsys.readouterr().err, re.M)


def test_an_example_that_is_not_there(labeller):
    with pytest.raises(DemoError, match="clip.wav: no such file"), Demo("text_classification", labeller,
                                                                       files=["clip.wav"]):
        pass


def test_the_page_over_http(labeller, monkeypatch):
    monkeypatch.setattr("tfhf.demo.page.MAX_FILE_SIZE", 1000)
    uploads = os.environ.get("GRADIO_TEMP_DIR")
    with Demo("text_classification", labeller, port=0) as (here, public):
        port = int(here.rstrip("/").rpartition(":")[2])
        assert here.startswith("http://127.0.0.1:") and public is None
        page = httpx.get(here)
        loaded = re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']([^"']+)""", page.text)
        assert page.status_code == 200 and loaded and not [url for url in loaded if "//" in url]
        for size, status in ((900, 200), (5000, 413)):
            answer = httpx.post(f"{here}gradio_api/upload", files={"files": ("a.bin", b"x" * size)})
            assert answer.status_code == status
        with pytest.raises(DemoError, match="expected a free port"), Demo("text_classification", labeller, port=port):
            pass
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert os.path.isdir(folder)
    assert not os.path.exists(folder) and os.environ.get("GRADIO_TEMP_DIR") == uploads
    with pytest.raises(httpx.ConnectError):
        httpx.get(here)


def test_the_models_own_server_answers_as_any_other(labeller):
    with serving("text_classification", str(labeller / "text_classification/1")) as address:
        with Client(address, "text_classification") as client:
            assert client.predict({"text": ["a long one"]})["label"][0] == b"long"


def test_a_server_that_runs_is_asked_instead(labeller, monkeypatch):
    with serving("text_classification", str(labeller / "text_classification/1")) as address:
        with Demo("text_classification", server=address, port=0) as (here, _):
            assert address in httpx.get(here).text   # the page says whose answers it shows
        with pytest.raises(DemoError, match="has no model 'whisper' that is ready"), Demo("whisper", server=address):
            pass
    monkeypatch.setattr("tfhf.demo.command.FIRST_DEADLINE_S", 0.5)
    with pytest.raises(ClientError), Demo("text_classification", server=address):
        pass


class Listener:
    """A proxy that no one should ask; it notes who does."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address, self.asked = f"http://127.0.0.1:{self._socket.getsockname()[1]}", []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            taken, _ = self._socket.accept()
            with taken:
                taken.settimeout(5)
                self.asked.append(taken.recv(200))


@pytest.mark.nightly
def test_the_process_tells_nobody_and_ends_at_sigterm(labeller, tmp_path):
    proxy = Listener()
    names = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy.address)
    environment = {**os.environ, **names, "no_proxy": "localhost,127.0.0.1", "TMPDIR": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)   # what the tests forbid must not be what makes it quiet
    command = [sys.executable, "-m", "pipelines", "demo", "text_classification", "--export", str(labeller), "--port",
               "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        here = re.fullmatch(r"Running on (http://127.0.0.1:\d+/)\n", line)[1]
        assert httpx.get(here, trust_env=False).status_code == 200
        assert [name for name in os.listdir(tmp_path) if name.startswith("tfhf-demo-")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert proxy.asked == [] and not [name for name in os.listdir(tmp_path) if name.startswith("tfhf-demo-")]
