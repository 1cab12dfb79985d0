"""REST as TF Serving's: formats, status, metadata, errors of every kind, and bodies that are too large or slow."""

import json
import select
import socket
import time

import httpx
import pytest

from tests.server.running import running


def post(server, content, path="echo:predict"):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpx.post(f"{server.rest}/v1/models/{path}", content=body, timeout=30)


def test_row_and_column_formats(server):
    rows = [{"length": 3, "echo": "abc!", "half": 1.5}, {"length": 2, "echo": "é!", "half": 1.0}]
    columns = {"length": [3, 2], "echo": ["abc!", "é!"], "half": [1.5, 1.0]}
    for instances in (["abc", "é"], [{"text": "abc"}, {"text": {"b64": "w6k="}}], [{"b64": "YWJj"}, "é"]):
        assert post(server, {"instances": instances}).json() == {"predictions": rows}
    for inputs in (["abc", "é"], {"text": ["abc", {"b64": "w6k="}]}):
        assert post(server, {"inputs": inputs}).json() == {"outputs": columns}
    raw = {"signature_name": "raw", "inputs": {"x": [[1, 2.5]], "n": [3]}}
    assert post(server, raw).json() == {"outputs": [[5.0, 8.0]]}     # a sole output goes without its name
    raw["inputs"] = {"x": [[1, 2]], "n": [3]}                        # whole numbers for floats
    assert post(server, raw, "echo/versions/10:predict").json() == {"outputs": [[5.0, 7.0]]}


def test_bytes_that_are_no_text_come_as_base64(server):
    assert post(server, {"instances": [{"b64": "/w=="}]}).json()["predictions"][0]["echo"] == {"b64": "/yE="}


def test_numbers_that_json_lacks_are_null(server):
    body = b'{"signature_name": "raw", "inputs": {"x": [[1e999, 1.0]], "n": [0]}}'
    assert post(server, body).json() == {"outputs": [[None, 2.0]]}


def test_status_metadata_health_and_metrics(server):
    get = lambda path: httpx.get(server.rest + path, timeout=30)
    assert get("/v1/models/echo").json()["model_version_status"][0]["state"] == "AVAILABLE"
    found = get("/v1/models/echo/versions/10/metadata").json()
    assert found["model_spec"]["version"] == "10"
    signature = found["metadata"]["signature_def"]["signature_def"]["raw"]
    assert signature["inputs"]["x"] == {"dtype": "DT_FLOAT", "name": "x", "tensor_shape": {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False}}
    assert get("/healthz").json() == {"status": "ok", "models": ["echo", "echo2"]}
    post(server, {"instances": ["a"]})
    assert 'tfhf_requests_total{model="echo",outcome="ok",signature="serving_default"}' in get(
        "/monitoring/prometheus/metrics").text


@pytest.mark.parametrize("content, status, words", [
    (b"{", 400, "not JSON"), (b"[" * 100_000, 400, ""), (b"", 400, "not JSON"), ({}, 400, "either"),
    ({"instances": []}, 400, "is empty"), ({"instances": ["a"], "inputs": ["a"]}, 400, "either"),
    ({"instances": [{"text": "a"}, {"other": "a"}]}, 400, "differ in their names"),
    ({"instances": [1]}, 400, "got int64, expected strings"), ({"instances": [{"b64": "?"}]}, 400, "b64"),
    ({"instances": [{"other": "a"}]}, 400, "got the inputs ['other'], expected ['text']"),
    ({"instances": [None]}, 400, "null"), ({"instances": [["a"], ["b"]]}, 400, "got the shape [2, 1]"),
    ({"instances": ["a", ["b"]]}, 400, "ragged"), ({"inputs": {"text": {"a": 1}}}, 400, "an object"),
    ({"signature_name": "raw", "inputs": ["a"]}, 400, "without names"),
    ({"signature_name": 3, "inputs": ["a"]}, 400, "expected a string"),
    ({"signature_name": "none", "inputs": ["a"]}, 404, "has no signature 'none'"),
    ({"instances": ["", "a"]}, 400, "an empty text, expected at least one letter"),
])
def test_bad_requests_are_told(server, content, status, words):
    answer = post(server, content)
    assert answer.status_code == status and words in answer.json()["error"]
    assert "Traceback" not in answer.text and "site-packages" not in answer.text and "{{" not in answer.text


@pytest.mark.parametrize("path", ["none:predict", "..%2f..%2fetc:predict", "echo/versions/7:predict", "%00:predict",
                                  "echo/versions/x:predict", "echo/versions/99999999999999999999:predict", "../../etc"])
def test_names_reach_nothing_else(server, path):
    answer = post(server, {"instances": ["a"]}, path)
    assert answer.status_code in (404, 405) and "error" in answer.json()


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    host, port = server.rest.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n{")
        assert b"413" in connection.recv(1000).split(b"\r\n")[0]
    with socket.create_connection((host, int(port)), timeout=10) as connection:   # without telling how much comes
        connection.sendall(b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass   # it hung up, or answers soon
        try:
            assert b"413" in connection.recv(1000).split(b"\r\n")[0]
        except ConnectionResetError:
            pass
    assert post(server, {"instances": ["a"]}).status_code == 200


def test_many_large_bodies_at_once_are_refused(models):
    with running([models], max_request_mb=0.25) as server:
        host, port = server.rest.removeprefix("http://").split(":")
        head = b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 250000\r\n\r\n"
        held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(5)]
        for each in held:
            each.sendall(head + b"x" * 240_000)
        readable, _, _ = select.select(held, [], [], 10)
        assert len(readable) == 1 and b" 429 " in readable[0].recv(1000).split(b"\r\n")[0]
        for each in held:
            each.close()
        end = time.monotonic() + 10
        while server.service.body_bytes and time.monotonic() < end:
            time.sleep(0.05)
        assert server.service.body_bytes == 0 and post(server, {"instances": ["a"]}).status_code == 200


def test_a_slow_body_and_a_slow_model_end_at_the_deadline(models):
    with running([models], deadline_s=0.4) as server:
        host, port = server.rest.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 30\r\n\r\n{")
            begin = time.monotonic()
            assert b"504" in connection.recv(1000) and time.monotonic() - begin < 3
        answers = [post(server, {"instances": ["wait"] * 8}) for _ in range(2)]
        assert {answer.status_code for answer in answers} <= {200, 504}
