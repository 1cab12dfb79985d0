"""Limits bound what is made of a request, a deadline ends its work, and who does not read loses the connection."""

import gzip
import json
import queue
import signal
import socket
import time
import zlib

import grpc
import httpx
import numpy as np
import pytest

from tests.server.running import Process, running
from tfhf.server.batching import Batcher
from tfhf.server.command import _end_within
from tfhf.server.models import RequestError
from tfhf.server.rest import read_request
from tfhf.wire import MESSAGES, to_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def small(models):
    with running([models], deadline_s=20.0, max_request_mb=1.0, max_examples=20, max_values=1000) as server:
        yield server


def post(server, content, headers=None, path="echo:predict"):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpx.post(f"{server.rest}/v1/models/{path}", content=body, headers=headers, timeout=60)


def message(texts, shape=None):
    """A PredictRequest of strings that states a shape."""
    found = MESSAGES["PredictRequest"]()
    found.model_spec.name = "echo"
    found.inputs["text"].CopyFrom(to_tensor(texts))
    if shape is not None:
        del found.inputs["text"].tensor_shape.dim[:]
        for size in shape:
            found.inputs["text"].tensor_shape.dim.add(size=size)
    return found


def call(server, request):
    """-> the code and words of the refusal"""
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=60)
    return error.value.code().name, error.value.details()


def test_many_examples_are_refused_over_both(small):
    answer = post(small, {"instances": ["a"] * 21})
    assert answer.status_code == 400 and "got 21 examples in one request, expected at most 20" in answer.json()["error"]
    raw = {"signature_name": "raw", "inputs": {"x": [[1, 2]] * 21, "n": [1] * 21}}
    assert post(small, raw).status_code == 400
    for shape in ((21,), (2**20,), (2**62,)):   # of one string, stated to stand for all
        code, words = call(small, message(["x" * 1000], shape))
        assert code == "INVALID_ARGUMENT" and "in one request, expected at most 20" in words
    assert len(post(small, {"instances": ["a"] * 20}).json()["predictions"]) == 20


@pytest.mark.parametrize("shape, words", [
    ((1,) * 70, "got the shape of 70 axes, expected [-1]"), ((0, 2**62), "got the shape [0, 4611686018427387904]"),
    ((1, 1), "got the shape [1, 1]"), ((), "got the shape []"), ((2**63 - 1, 2**63 - 1), "expected [-1]"),
    ((0,), "without an example"), ((-1,), "unknown shape (-1,)"), ((3,), "got 2 values for shape (3,)"),
])
def test_shapes_beyond_what_comes(small, shape, words):
    code, told = call(small, message(["a", "b"], shape))
    assert code == "INVALID_ARGUMENT" and words in told


def test_one_string_for_all_fills_no_more_than_a_request_may(small):
    code, words = call(small, message(["x" * 600_000], (3,)))
    assert code == "INVALID_ARGUMENT" and "one value stands for at most" in words


@pytest.mark.parametrize("body", [
    b'{"inputs": [' + b",".join([b"1"] * 1001) + b"]}", b'{"inputs": [' + b",".join([b"[]"] * 600) + b"]}",
    b"[" * 1001, b'{"inputs": {"text": [' + b",".join([b'["a", 1]'] * 400) + b"]}}", b"," * 100_000,
])
def test_many_values_are_refused_before_they_are_made(small, body):
    answer = post(small, body)
    assert answer.status_code == 400 and "by its commas and brackets; expected at most 1000" in answer.json()["error"]


def test_many_objects_are_refused_before_they_are_made():
    with pytest.raises(RequestError, match="100001 objects"):
        read_request(b'{"inputs": [' + b",".join([b'{"b64":""}'] * 100_000) + b"]}", None)


def test_packed_bodies(small):
    body = json.dumps({"instances": ["abc"]}).encode()
    expected = {"predictions": [{"length": 3, "echo": "abc!", "half": 1.5}]}
    stream = zlib.compressobj(wbits=31)
    flushed = stream.compress(body[:5]) + stream.flush(zlib.Z_FULL_FLUSH) + stream.compress(body[5:]) + stream.flush()
    for packed in (gzip.compress(body), gzip.compress(body, 0), gzip.compress(body[:9]) + gzip.compress(body[9:]),
                   flushed):
        for name in ("gzip", "x-gzip", "GZIP"):
            answer = post(small, packed, {"Content-Encoding": name})
            assert (answer.status_code, answer.json()) == (200, expected)
    assert post(small, body, {"Content-Encoding": "identity"}).json() == expected


@pytest.mark.parametrize("packed, status, words", [
    (gzip.compress(bytes(50_000_000)), 413, "unpacked the request is larger than 1 MB"),
    (gzip.compress(b"{}" + b" " * 1_000_000) * 20, 413, "unpacked"), (gzip.compress(b"{}")[:-9], 400, "is cut off"),
    (b"{}", 400, "is not gzip"), (b"", 400, "cut off"), (gzip.compress(b"{}") + b"junk", 400, "is not gzip"),
    (zlib.compress(b"{}"), 400, "is not gzip"), (gzip.compress(b"{"), 400, "not JSON"),
], ids=range(8))   # gzip writes the time, which would make another name of the test in every process
def test_packed_bodies_that_are_refused(small, packed, status, words):
    answer = post(small, packed, {"Content-Encoding": "gzip"})
    assert answer.status_code == status and words in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "compress"])
def test_other_encodings_are_refused(small, encoding):
    answer = post(small, b"{}", {"Content-Encoding": encoding})
    assert answer.status_code == 415 and "expected gzip or none" in answer.json()["error"]


def test_labels_are_unknown_as_in_tf_serving(small):
    words = "Unrecognized servable version label: no-such"
    for answer in (post(small, {"instances": ["a"]}, path="echo/labels/no-such:predict"),
                   httpx.get(f"{small.rest}/v1/models/echo/labels/no-such"),
                   httpx.get(f"{small.rest}/v1/models/echo/labels/no-such/metadata")):
        assert answer.status_code == 400 and answer.json() == {"error": words}
    request = message(["a"])
    request.model_spec.version_label = "no-such"
    assert call(small, request) == ("INVALID_ARGUMENT", words)
    with grpc.insecure_channel(small.grpc.removeprefix("grpc://")) as channel:
        for kind, method in (("GetModelMetadataRequest", "PredictionService/GetModelMetadata"),
                             ("GetModelStatusRequest", "ModelService/GetModelStatus")):
            request = MESSAGES[kind]()
            request.model_spec.name, request.model_spec.version_label = "echo", "no-such"
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/tensorflow.serving.{method}")(request.SerializeToString(), timeout=60)
            assert error.value.details() == words


def test_a_deadline_ends_the_work(models):
    with running([models], deadline_s=1.0) as server:
        for ask in (lambda: post(server, {"instances": ["forever"]}).status_code,
                    lambda: call(server, message(["forever"]))[0],
                    lambda: post(server, {"instances": ["forever"] * 30}).status_code):
            assert ask() in (504, "DEADLINE_EXCEEDED")
            end = time.monotonic() + 15
            while (answer := post(server, {"instances": ["abc"]})).status_code != 200 and time.monotonic() < end:
                pass   # the machine may be busy; work that went on would hold the model for hours
            assert answer.json()["predictions"][0]["length"] == 3


def test_a_call_that_is_given_up_ends_its_work(models):
    with running([models], deadline_s=600.0) as server:
        with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
            asked = channel.unary_unary(PREDICT).future(message(["forever"]).SerializeToString())
            time.sleep(0.5)
            asked.cancel()
        assert post(server, {"instances": ["abc"]}).status_code == 200


def test_sigterm_ends_within_its_grace(models):
    with Process(f"{models}/echo", deadline_s=600, grace_s=4) as process:
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{process.rest}/v1/models/echo:predict", json={"instances": ["forever"]}, timeout=1.0)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert time.monotonic() - begin < 8
        assert "Traceback" not in process.errors()


def test_a_call_that_hangs_does_not_outlast_the_grace(monkeypatch, caplog):
    ended = queue.Queue()
    monkeypatch.setattr("os._exit", ended.put)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    _end_within(0.2)
    assert ended.get(timeout=20) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "work was still going on 0.2 s after the signal; the process ends without it"]


def ask_for_much(server, text, window):
    """A connection that has asked for `text` again."""
    host, port = server.rest.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    body = json.dumps({"instances": [text]}).encode()
    connection.sendall(b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
    connection.sendall(body)
    return connection


def test_who_does_not_read_loses_the_connection(models, monkeypatch):
    monkeypatch.setattr("tfhf.server.command.UNREAD_S", 2.0)
    with running([models], max_request_mb=16.0) as server:
        text = "x" * 12_000_000   # more than the kernel keeps for one connection
        silent, steady = ask_for_much(server, text, 4096), ask_for_much(server, text, 2**18)
        read, begin = 0, time.monotonic()
        while read < len(text) and (part := steady.recv(2**17)):   # slowly, and to the end
            read += len(part)
            time.sleep(0.03)
        assert read > len(text)
        time.sleep(max(0.0, begin + 6.0 - time.monotonic()))
        read = 0
        try:
            while part := silent.recv(2**20):
                read += len(part)
        except ConnectionResetError:
            pass
        assert read < len(text)
        silent.close()
        steady.close()


class Growing:
    """Of each number n of a batch a row with n ones, filled up as far as the longest of its batch."""

    batched = True

    def __init__(self):
        self.sizes = []

    def check(self, given, max_examples):
        return given

    def run(self, inputs, stop):
        self.sizes.append(len(inputs["n"]))
        longest = inputs["n"].max()
        ones = (np.arange(longest)[None] < inputs["n"][:, None]).astype(np.int32)
        return {"ones": ones, "words": np.where(ones, b"w", b"").astype(object), "n": inputs["n"]}


def test_a_large_request_runs_in_parts_between_which_others_have_their_turn():
    signature = Growing()
    batcher = Batcher(signature, max_batch=4, wait_s=0.01, max_waiting=64)
    numbers = np.array([3, 1, 0, 2, 7, 1, 1, 1, 2, 2], np.int32)
    large = batcher.submit({"n": numbers}, time.monotonic() + 20)
    others = [batcher.submit({"n": numbers[:3]}, time.monotonic() + 20) for _ in range(2)]
    answers = large.result(20)
    whole = signature.run({"n": numbers}, None)
    for name in whole:
        assert answers[name].tolist() == whole[name].tolist() and answers[name].dtype == whole[name].dtype
    assert [other.result(20)["ones"].shape for other in others] == [(3, 3)] * 2
    assert max(signature.sizes[:-1]) <= 4 and batcher.waiting == 0
    batcher.close()
