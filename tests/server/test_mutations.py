"""Broken requests of every kind: errors of the proper code that tell nothing of the machine, and never a crash.

200 of them, and 5,000 with TFHF_NIGHTLY=1. Each has a number, which makes the same request on every machine.
"""

import copy
import json
import logging
import os
import re
import socket
import tempfile
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from tests.server.running import ROOT
from tfhf.client import Client
from tfhf.wire import MESSAGES, to_tensor

NIGHTLY = os.environ.get("TFHF_NIGHTLY") == "1"
COUNT = 5000 if NIGHTLY else 200
SERVICE = "/tensorflow.serving."
CALLS = {"PredictRequest": "PredictionService/Predict", "GetModelMetadataRequest": "PredictionService/GetModelMetadata",
         "GetModelStatusRequest": "ModelService/GetModelStatus"}
BODIES = [{"signature_name": "raw", "inputs": {"x": [[1, 2.5], [3, 4]], "n": [3, 4]}}, {"instances": ["abc", "é"]},
          {"instances": [{"text": {"b64": "w6k="}}, {"text": "x"}]}, {"inputs": {"text": ["a"]}},
          {"signature_name": "words", "instances": [{"b64": "UklGRg=="}]}]
TOKENS = [b"[", b"]", b"{", b"}", b"null", b"1e400", b'"', b"-", b",", b":", b"\x00", b"\xff", b"NaN", b"\\ud800",
          b"9" * 5000, b"[" * 2000, b"true", b"Infinity"]
VALUES = [None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, -1e308, 1e-320, "", "é" * 500, "\ud800", "\x00", "../etc",
          [], [[]], [[[]], []], {}, {"b64": "?"}, {"b64": 3}, {"b64": "AA=="}, {"b64": "AA==", "x": 1}, [1, "a"],
          [None], [[1], [1, 2]], {"x": {"x": {}}}, [True, 2], ["a", {"b64": "AA=="}], float("nan"), float("inf")]
NAMES = ["..", "../..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2fecho", "%2fetc%2fpasswd", "/etc/passwd",
         "%00", "echo%00", "echo%2f1", "echo/1", "ECHO", "echo ", "%20echo", "%C0%AE%C0%AE", "%E2%80%AE", "%ED%A0%80",
         "\N{FULLWIDTH FULL STOP}", "echo;x", "%25", "%", "%zz", "x" * 3000, "echo:predict", "", "echo?x", "echo#x",
         "*", "~", "%0a", "ech%6f%00"]
PATHS = ["/v1/models/{}:predict", "/v1/models/{}", "/v1/models/{}/metadata", "/v1/models/{}/versions/1:predict",
         "/v1/models/echo/versions/{}:predict", "/v1/models/echo/versions/{}", "/v1/{}", "/{}", "{}",
         "/monitoring/{}", "/v1/models/echo/../{}"]
GOOD = {200, 400, 404, 405, 413, 431, 501, 505}


def mutated_bytes(data, random):
    """`data` with some bytes changed, lost, doubled, cut off or put in."""
    data = bytearray(data)
    for _ in range(random.integers(1, 6)):
        place, kind = int(random.integers(len(data) + 1)), int(random.integers(6))
        if kind == 0 and place < len(data):
            data[place] = int(random.integers(256))
        elif kind == 1:
            del data[place:place + int(random.integers(1, 4))]
        elif kind == 2:
            data[place:place] = data[place:place + 20]
        elif kind == 3 and random.random() < 0.3:
            del data[place:]
        else:
            data[place:place] = TOKENS[int(random.integers(len(TOKENS)))]
    return bytes(data)


def mutated_json(random):
    """A request with values of another kind in some place, or names that are missing, new or twice."""
    content = copy.deepcopy(BODIES[int(random.integers(len(BODIES)))])
    for _ in range(random.integers(1, 4)):
        holder = content
        while True:   # down into it, by chance as far as it goes
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = keys[int(random.integers(len(keys)))]
            if isinstance(holder[key], (dict, list)) and random.random() < 0.7:
                holder = holder[key]
                continue
            value = copy.deepcopy(VALUES[int(random.integers(len(VALUES)))])
            kind = int(random.integers(5))
            if kind == 0:
                del holder[key]
            elif kind == 1 and isinstance(holder, dict):
                holder[["x", "", "text", "inputs", "instances", "signature_name", "\x00/etc"][
                    int(random.integers(7))]] = value
            elif kind == 2 and isinstance(holder, list):
                holder.append(value)
            else:
                holder[key] = value
            break
    return json.dumps(content).encode()


def mutated_message(random):
    """(kind of the request, its bytes): fields of a sound one set to what does not fit."""
    kind = list(CALLS)[int(random.choice([0, 0, 0, 0, 1, 2]))]
    message = MESSAGES[kind]()
    message.model_spec.name = "echo"
    if kind == "PredictRequest":
        if random.random() < 0.5:
            message.inputs["text"].CopyFrom(to_tensor(["abc", "é"]))
        else:
            message.model_spec.signature_name = "raw"
            message.inputs["x"].CopyFrom(to_tensor(np.ones((2, 2), np.float32)))
            message.inputs["n"].CopyFrom(to_tensor(np.ones(2, np.int32)))
    elif kind == "GetModelMetadataRequest":
        message.metadata_field.append("signature_def")
    edits = int(random.integers(0, 4))
    for _ in range(edits):
        tensor = message.inputs[sorted(message.inputs)[0]] if kind == "PredictRequest" and message.inputs else None
        number = int(random.choice([0, 1, -1, 2, 7, 99, 2**31 - 1, -2**31]))
        large = int(random.choice([0, 1, 3, -1, 2**20, 2**31, 2**62, -2**63]))
        choices = [lambda: setattr(message.model_spec, "name", NAMES[int(random.integers(len(NAMES)))]),
                   lambda: setattr(message.model_spec, "signature_name", NAMES[int(random.integers(len(NAMES)))]),
                   lambda: setattr(message.model_spec.version, "value", large)]
        if tensor is not None:
            choices += [lambda: setattr(tensor, "dtype", number), lambda: tensor.tensor_shape.dim.add(size=large),
                        lambda: setattr(tensor, "tensor_content", random.bytes(int(random.integers(40)))),
                        lambda: tensor.float_val.append(1.5), lambda: tensor.string_val.append(b"x"),
                        lambda: tensor.int_val.append(number), lambda: tensor.half_val.append(number),
                        lambda: tensor.bool_val.append(True), lambda: tensor.ClearField("tensor_shape"),
                        lambda: tensor.ClearField("string_val"), lambda: message.output_filter.append("../x"),
                        lambda: setattr(tensor.tensor_shape, "unknown_rank", True),
                        lambda: [setattr(dim, "size", large) for dim in tensor.tensor_shape.dim],
                        lambda: message.inputs["/etc/passwd"].CopyFrom(tensor)]
        choices[int(random.integers(len(choices)))]()
    data = message.SerializeToString()
    return kind, mutated_bytes(data, random) if edits == 0 or random.random() < 0.3 else data


def mutated_head(random):
    """The bytes of a request of HTTP: another path, or a broken head."""
    body = json.dumps(BODIES[1]).encode()
    method = random.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"])
    name = NAMES[int(random.integers(len(NAMES)))]
    path = PATHS[int(random.integers(len(PATHS)))].format(name)
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    if random.random() < 0.5:
        head = mutated_bytes(f"POST /v1/models/echo:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
                             "content-type: application/json\r\n\r\n".encode(), random)
    return head + body


class Asked:
    """What the server said to the mutated requests. `codes`: {(road, code): how many}."""

    def __init__(self, server, models):
        self.server, self.codes = server, {}
        self._http = httpx.Client(timeout=60)
        self._address = server.rest.removeprefix("http://").split(":")
        self._channel = grpc.insecure_channel(server.grpc.removeprefix("grpc://"))
        # Folders of this machine, and what gives away a trace. A name may come back to whoever sent it.
        self._secret = re.compile("|".join(map(re.escape, (
            "Traceback", ".py\"", ".py:", "File \"", "site-packages", "{{node", str(ROOT), str(Path.home()) + "/",
            tempfile.gettempdir() + "/", models, "root:x:"))))

    def rest(self, body):
        answer = self._http.post(f"{self.server.rest}/v1/models/echo:predict", content=body)
        self._check("rest", answer.status_code, answer.text, body)
        assert (answer.status_code == 200) != ("error" in answer.json()), body

    def rpc(self, kind, data):
        try:
            self._channel.unary_unary(SERVICE + CALLS[kind])(data, timeout=60)
            self._check("grpc", 200, "", data)
        except grpc.RpcError as error:
            code = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404}.get(error.code().name, error.code().name)
            self._check("grpc", code, error.details(), data)

    def http(self, data):
        with socket.create_connection((self._address[0], int(self._address[1])), timeout=60) as connection:
            connection.settimeout(0.5)   # a head may promise more than comes; then there is no answer
            answer = b""
            try:
                connection.sendall(data)
                while part := connection.recv(65536):
                    answer += part
                    if b"\r\n\r\n" in answer and b"\r\n0\r\n" not in answer:
                        connection.settimeout(0.05)
            except (TimeoutError, ConnectionError):
                pass
        status = re.match(rb"HTTP/1\.[01] (\d+)", answer)
        self._check("http", int(status[1]) if status else 400, answer.decode("utf-8", "replace"), data)

    def _check(self, road, code, text, request):
        assert code in GOOD, (road, code, text, request)
        found = self._secret.search(text)
        assert not found, (road, found[0], text, request)
        self.codes[road, code] = self.codes.get((road, code), 0) + 1

    def close(self):
        self._http.close()
        self._channel.close()


@pytest.fixture
def asked(server, models):
    asked = Asked(server, models)
    yield asked
    asked.close()


def test_every_broken_request_is_answered(asked, server, caplog):
    with caplog.at_level(logging.ERROR):
        for number in range(COUNT):
            random = np.random.default_rng(number)
            road = number % 5
            if road == 0:
                asked.rest(mutated_bytes(json.dumps(BODIES[number // 5 % len(BODIES)]).encode(), random))
            elif road in (1, 2):
                asked.rest(mutated_json(random))
            elif road == 3:
                asked.rpc(*mutated_message(random))
            else:
                asked.http(mutated_head(random))
    print({f"{road} {code}": count for (road, code), count in sorted(asked.codes.items())})
    assert not caplog.records, caplog.text   # what is logged as an error was one of ours
    assert sum(asked.codes.values()) == COUNT
    for road in ("rest", "grpc", "http"):
        wanted = {400, 404} if road == "http" else {200, 400, 404}
        assert wanted <= {code for one, code in asked.codes if one == road}
    for address in (server.rest, server.grpc):   # and it goes on
        with Client(address, "echo") as client:
            assert client.predict({"text": ["abc"]})["length"].tolist() == [3]


@pytest.mark.parametrize("name", NAMES)
def test_names_reach_nothing_else(asked, name):
    """Neither in a path nor in a message; what is there is `echo` and `echo2`."""
    for template in PATHS[:5]:
        body = b'{"instances": ["a"]}'
        method = "POST" if template.endswith("predict") else "GET"
        asked.http(f"{method} {template.format(name)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: "
                   f"{len(body)}\r\n\r\n".encode() + body)
    for kind in CALLS:
        message = MESSAGES[kind]()
        message.model_spec.name = name
        asked.rpc(kind, message.SerializeToString())
    assert sum(count for (road, code), count in asked.codes.items() if road == "grpc" and code == 404) == len(CALLS)
