"""The client against a server of ours: REST and gRPC give the same; files, long audio, retries, errors."""

import asyncio
import http.server
import io
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("httpx")
pytest.importorskip("grpc")
pytest.importorskip("fastapi")

from tests.server.running import running, write_models
from tfhf.client import AsyncClient, Client, ClientError, chunks, wav_bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running([write_models(tmp_path_factory.mktemp("client"))]) as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def client(server, request):
    with Client(getattr(server, request.param), "echo", deadline_s=20) as client:
        yield client


def test_predict(client, tmp_path):
    (tmp_path / "clip.bin").write_bytes(b"\x00\xff\x01")
    for inputs in (["ab", tmp_path / "clip.bin"], {"text": ["ab", b"\x00\xff\x01"]}):
        found = client.predict(inputs)
        assert found["length"].tolist() == [2, 3] and found["echo"].tolist() == [b"ab!", b"\x00\xff\x01!"]
    found = client.predict({"x": np.float32([[1, 2]]), "n": np.int32([1])}, signature="raw")
    np.testing.assert_array_equal(next(iter(found.values())), [[3, 5]])
    assert client.ready()


@pytest.mark.parametrize("road", ["rest", "grpc"])
def test_no_proxy_is_asked_for_this_machine(server, road, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:   # which answers nobody
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with Client(getattr(server, road), "echo", deadline_s=20) as client:
            assert client.predict(["ab"])["length"].tolist() == [2]
        proxy.settimeout(0.1)
        with pytest.raises(TimeoutError):
            proxy.accept()
        proxy.settimeout(10)
        with Client(f"{'grpc' if road == 'grpc' else 'http'}://192.0.2.1:80", "echo", deadline_s=1) as client:
            with pytest.raises(ClientError):
                client.predict({"text": ["ab"]})
        proxy.accept()   # for another machine it was


def test_metadata_is_the_same_over_both(server):
    found = []
    for address in (server.rest, server.grpc):
        with Client(address, "echo", version=10) as client:
            found.append(client.metadata())
    assert found[0] == found[1] and found[0]["raw"]["inputs"]["x"] == {"dtype": 1, "shape": [-1, 2]}


def test_errors(client, server):
    with pytest.raises(ClientError, match="INVALID_ARGUMENT: RecordError: an empty text"):
        client.predict([""])
    with pytest.raises(ClientError, match="ragged"):
        client.predict(["a", ["b"]])
    with pytest.raises(ClientError, match="No such file"):
        client.predict([Path("/nowhere/clip.wav")])
    with Client(server.grpc, "other") as other:
        assert not other.ready()
        with pytest.raises(ClientError) as error:
            other.predict({"text": ["a"]})
        assert error.value.code == "NOT_FOUND"
    with pytest.raises(ClientError, match="expected http://"):
        Client("ftp://x", "echo")


def test_nobody_there_is_told_within_the_deadline():
    for address in ("http://127.0.0.1:9", "grpc://127.0.0.1:9"):
        begin = time.monotonic()
        with Client(address, "echo", deadline_s=0.6) as client, pytest.raises(ClientError) as error:
            client.predict({"text": ["a"]})
        assert error.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and time.monotonic() - begin < 5


def test_a_busy_server_is_asked_again():
    asked = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(time.monotonic())
            status = 429 if len(asked) < 4 else 200
            body = json.dumps({"error": "busy"} if status == 429 else {"outputs": [7]}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{busy.server_address[1]}", "m", deadline_s=20) as client:
            assert client.predict([1])["outputs"].tolist() == [7]
        busy.shutdown()
    pauses = np.diff(asked)
    assert len(asked) == 4 and pauses[2] > pauses[0] / 2 and pauses.min() > 0.04


def test_async(server):
    async def both():
        async with AsyncClient(server.grpc, "echo") as one, AsyncClient(server.rest, "echo") as other:
            return await asyncio.gather(*(client.predict([f"{n}"]) for n in range(10) for client in (one, other)))

    found = asyncio.run(both())
    assert [each["echo"][0] for each in found] == [f"{n}!".encode() for n in range(10) for _ in range(2)]


def test_long_audio_is_cut_where_it_is_quiet(client, tmp_path):
    rate, random = 8000, np.random.default_rng(0)
    samples = random.normal(0, 0.1, 70 * rate).astype(np.float32)
    for second in (25, 50):
        samples[second * rate:second * rate + 1600] *= 0.001
    parts = chunks(samples, rate)
    assert parts[0][0] == 0 and parts[-1][1] == len(samples)
    assert [a[1] for a in parts[:-1]] == [b[0] for b in parts[1:]] and max(b - a for a, b in parts) <= 28 * rate
    assert 25 * rate <= parts[0][1] <= 25 * rate + 1600 and 50 * rate <= parts[1][1] <= 50 * rate + 1600
    soundfile.write(tmp_path / "long.flac", samples, rate)
    for audio, hertz in ((tmp_path / "long.flac", 0), ((tmp_path / "long.flac").read_bytes(), 0), (samples, rate)):
        found = client.transcribe(audio, hertz, signature="words")   # the text is the size of the WAV that came
        assert [(part.start_s, part.end_s) for part in found] == [(a / rate, b / rate) for a, b in parts]
        assert [part.text for part in found] == [str(44 + 2 * (b - a)) for a, b in parts]
    with pytest.raises(ClientError, match="expected 'text'"):
        client.transcribe(samples[:rate], rate)
    with pytest.raises(ClientError, match="expected float"):
        client.transcribe(np.zeros((2, 2)), rate)
    with pytest.raises(ClientError, match="INVALID_ARGUMENT"):
        client.transcribe(b"no audio")


def test_wav_bytes():
    samples, rate = soundfile.read(io.BytesIO(wav_bytes(np.float32([0, 0.5, -2]), 16000)))
    assert rate == 16000 and np.abs(samples - [0, 0.5, -1]).max() < 1e-4


def test_the_client_needs_no_tensorflow():
    code = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; import tfhf.client"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
