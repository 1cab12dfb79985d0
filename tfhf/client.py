"""A client of TF Serving, and of `tfhf serve`, over REST or gRPC: files, bytes or arrays in, answers out.

    pip install 'tfhf[client]'          # no TensorFlow

    with Client("grpc://localhost:8500", "whisper") as client:
        client.predict([Path("clip.wav")])                      # {"text": array([b"..."], dtype=object), ...}
        client.transcribe("lecture.wav")                        # [Segment(start_s=0.0, end_s=28.4, text="..."), ...]

What the server was too busy for, and what the network lost, is tried again until the deadline.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import ipaddress
import json
import os
import random
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np

from tfhf.wire import AVAILABLE, MESSAGES, TYPE_NAMES, WireError, from_tensor, to_array, to_tensor

DEADLINE_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 0.1, 5.0
CHUNK_S, SEARCH_S = 28.0, 6.0        # a chunk fits Whisper's window; a pause is looked for in its last seconds
SAMPLE_RATE_HZ = 16_000
MAX_MESSAGE_BYTES = 2**31 - 1
_AGAIN_HTTP = (429, 502, 503)
_AGAIN_GRPC = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED")   # the last: by a server that ends


class ClientError(ValueError):
    """No answer. Attributes: code: gRPC's name of the reason, such as NOT_FOUND, also over REST; message."""

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a long recording, in seconds from its beginning, and its text."""

    start_s: float
    end_s: float
    text: str


class AsyncClient:
    """`Client`, to be awaited; `async with`, or `await close()`.

    Args:
        address: "http://HOST:PORT", "https://HOST:PORT" or "grpc://HOST:PORT".
        model: its name on the server.
        version: None: the server's newest.
        deadline_s: for a call with all its tries.

    Raises:
        ClientError: an address of another kind.
    """

    def __init__(self, address: str, model: str, *, version: int | None = None, deadline_s: float = DEADLINE_S):
        scheme, _, rest = address.partition("://")
        if scheme not in ("http", "https", "grpc") or not rest:
            raise ClientError("INVALID_ARGUMENT",
                              f"address {address!r}: expected http://, https:// or grpc://HOST:PORT")
        self.model, self.version, self.deadline_s = model, version, deadline_s
        kind = _Grpc if scheme == "grpc" else _Rest
        self._road = kind(rest if scheme == "grpc" else address.rstrip("/"), model, version)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        await self._road.close()

    async def predict(self, inputs, signature: str = "") -> dict:
        """One request.

        Args:
            inputs: {input name: values}, or the values of the only input. Values are arrays, lists of numbers, or lists
                of str and bytes; a `pathlib.Path` among them stands for its file's bytes.
            signature: "": serving_default.

        Returns: {output name: array}; strings are bytes in an object array. Over REST a sole output is called
            "outputs", since TF Serving leaves its name out, and strings that came as text are UTF-8 again.

        Raises:
            ClientError: the server refuses, or there is no answer in time.
        """
        try:
            given = {name: to_array(_read(values)) for name, values in
                     (inputs.items() if isinstance(inputs, dict) else [("", inputs)])}
        except WireError as error:
            raise ClientError("INVALID_ARGUMENT", str(error)) from error
        return await self._tried(lambda left: self._road.predict(given, signature, left))

    async def metadata(self) -> dict:
        """{signature name: {"inputs" and "outputs": {name: {"dtype": TensorFlow's number, "shape": list}}}}."""
        return await self._tried(self._road.metadata)

    async def ready(self) -> bool:
        """Whether the server has the model, and it is loaded."""
        return await self._tried(self._road.ready)

    async def transcribe(self, audio, sample_rate_hz: int = SAMPLE_RATE_HZ, *, signature: str = "",
                         output: str = "text", parallel: int = 4) -> list[Segment]:
        """A recording of any length -> its segments in order.

        It is cut at the quietest place in the last seconds of each chunk; chunks go to the server side by side.

        Args:
            audio: path or bytes of a file that soundfile reads, or float [samples] in [-1, 1] of a microphone.
            sample_rate_hz: of an array.
            output: the answer's field with the text.
            parallel: requests at the same time.

        Raises:
            ClientError: as `predict`, or no such audio.
        """
        samples, rate = _audio(audio, sample_rate_hz)
        limit = asyncio.Semaphore(parallel)

        async def one(start, end):
            async with limit:
                answer = await self.predict([wav_bytes(samples[start:end], rate)], signature)
            values = answer.get(output, answer.get("outputs"))
            if values is None:
                raise ClientError("INVALID_ARGUMENT", f"the answer has {sorted(answer)}, expected {output!r}")
            return Segment(start / rate, end / rate, np.asarray(values).reshape(-1)[0].decode("utf-8").strip())

        return list(await asyncio.gather(*(one(start, end) for start, end in chunks(samples, rate))))

    async def _tried(self, call):
        """call(seconds left), again after growing pauses while the server is busy or away."""
        end, pause = time.monotonic() + self.deadline_s, FIRST_PAUSE_S
        while True:
            try:
                return await call(max(end - time.monotonic(), 0.001))
            except _TryAgain as error:
                wait = pause * random.uniform(0.5, 1.5)   # clients that were refused together come back apart
                if time.monotonic() + wait > end:
                    raise ClientError(error.code, f"{error} (tried for {self.deadline_s:g} s)") from error
                await asyncio.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE_S)


class Client:
    """A model on a server. Arguments and methods are those of `AsyncClient`, without await; any thread may call."""

    def __init__(self, address: str, model: str, **options):
        self._loop = asyncio.new_event_loop()   # of its own: in a notebook this thread's loop is busy
        threading.Thread(target=self._loop.run_forever, daemon=True, name="tfhf-client").start()
        try:
            self._client = self._run(self._make(address, model, options))
        except ClientError:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise

    @staticmethod
    async def _make(address, model, options):
        return AsyncClient(address, model, **options)

    def _run(self, call):
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def predict(self, inputs, signature: str = "") -> dict:
        """See `AsyncClient.predict`."""
        return self._run(self._client.predict(inputs, signature))

    def metadata(self) -> dict:
        """See `AsyncClient.metadata`."""
        return self._run(self._client.metadata())

    def ready(self) -> bool:
        """See `AsyncClient.ready`."""
        return self._run(self._client.ready())

    def transcribe(self, audio, sample_rate_hz: int = SAMPLE_RATE_HZ, **options) -> list[Segment]:
        """See `AsyncClient.transcribe`."""
        return self._run(self._client.transcribe(audio, sample_rate_hz, **options))


class _TryAgain(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def _is_here(address):
    """Whether a URL names this machine: a proxy, which the environment may well name, would look for it in itself."""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Rest:
    """Over HTTP, by httpx."""

    def __init__(self, address, model, version):
        import httpx

        self._httpx = httpx
        self._path = f"{address}/v1/models/{model}" + (f"/versions/{version}" if version is not None else "")
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=64), trust_env=not _is_here(address))

    async def close(self):
        await self._client.aclose()

    async def predict(self, given, signature, left_s):
        inputs = {name: _json(array) for name, array in given.items()}
        content = {"inputs": inputs[""] if set(inputs) == {""} else inputs}
        if signature:
            content["signature_name"] = signature
        answer = (await self._send("POST", ":predict", left_s, json.dumps(content).encode("utf-8")))["outputs"]
        answer = answer if isinstance(answer, dict) and set(answer) != {"b64"} else {"outputs": answer}
        return {name: _array_of_json(values) for name, values in answer.items()}

    async def metadata(self, left_s):
        found = (await self._send("GET", "/metadata", left_s))["metadata"]["signature_def"]["signature_def"]
        return {key: {side: {name: {"dtype": _number_of(each["dtype"]),
                                    "shape": [int(dim["size"]) for dim in each["tensor_shape"].get("dim", ())]}
                             for name, each in signature.get(side, {}).items()} for side in ("inputs", "outputs")}
                for key, signature in found.items() if not key.startswith("__")}

    async def ready(self, left_s):
        try:
            found = await self._send("GET", "", left_s)
        except ClientError as error:
            if error.code == "NOT_FOUND":
                return False
            raise
        return any(version["state"] == "AVAILABLE" for version in found["model_version_status"])

    async def _send(self, method, path, left_s, body=None):
        try:
            answer = await self._client.request(method, self._path + path, content=body, timeout=left_s)
        except self._httpx.TimeoutException as error:
            raise ClientError("DEADLINE_EXCEEDED", f"{self._path}: no answer in time") from error
        except self._httpx.TransportError as error:
            raise _TryAgain("UNAVAILABLE", f"{self._path}: {error or type(error).__name__}") from error
        try:
            content = answer.json()
        except ValueError:
            content = {"error": answer.text[:200]}
        if answer.status_code == 200:
            return content
        message = content.get("error", "") if isinstance(content, dict) else str(content)[:200]
        code = {404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
                504: "DEADLINE_EXCEEDED"}.get(answer.status_code, "INVALID_ARGUMENT" if answer.status_code < 500
                                              else "INTERNAL")
        raise (_TryAgain if answer.status_code in _AGAIN_HTTP else ClientError)(code, message)


class _Grpc:
    """Over gRPC."""

    def __init__(self, address, model, version):
        import grpc

        self._grpc, self._model, self._version = grpc, model, version
        self._channel = grpc.aio.insecure_channel(address, options=[
            ("grpc.enable_http_proxy", int(not _is_here(f"grpc://{address}"))),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])

    async def close(self):
        await self._channel.close()

    def _request(self, kind, signature=""):
        request = MESSAGES[kind]()
        request.model_spec.name, request.model_spec.signature_name = self._model, signature
        if self._version is not None:
            request.model_spec.version.value = self._version
        return request

    async def predict(self, given, signature, left_s):
        if set(given) == {""}:
            names = list((await self.metadata(left_s)).get(signature or "serving_default", {"inputs": {}})["inputs"])
            if len(names) != 1:
                raise ClientError("INVALID_ARGUMENT", f"got values without a name, expected the inputs {sorted(names)}")
            given = {names[0]: given[""]}
        request = self._request("PredictRequest", signature)
        for name, array in given.items():
            request.inputs[name].CopyFrom(to_tensor(array))
        response = await self._call("PredictionService", "Predict", request, "PredictResponse", left_s)
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    async def metadata(self, left_s):
        request = self._request("GetModelMetadataRequest")
        request.metadata_field.append("signature_def")
        response = await self._call("PredictionService", "GetModelMetadata", request, "GetModelMetadataResponse",
                                    left_s)
        found = MESSAGES["SignatureDefMap"].FromString(response.metadata["signature_def"].value)
        return {key: {side: {name: {"dtype": info.dtype, "shape": [dim.size for dim in info.tensor_shape.dim]}
                             for name, info in getattr(signature, side).items()} for side in ("inputs", "outputs")}
                for key, signature in found.signature_def.items() if not key.startswith("__")}

    async def ready(self, left_s):
        try:
            response = await self._call("ModelService", "GetModelStatus", self._request("GetModelStatusRequest"),
                                        "GetModelStatusResponse", left_s)
        except ClientError as error:
            if error.code == "NOT_FOUND":
                return False
            raise
        return any(status.state == AVAILABLE for status in response.model_version_status)

    async def _call(self, service, method, request, answer, left_s):
        call = self._channel.unary_unary(f"/tensorflow.serving.{service}/{method}",
                                         request_serializer=lambda message: message.SerializeToString(),
                                         response_deserializer=MESSAGES[answer].FromString)
        try:
            return await call(request, timeout=left_s)
        except self._grpc.aio.AioRpcError as error:
            code = error.code().name
            # What is larger than the server takes will be so the next time.
            again = code in _AGAIN_GRPC and "message larger than max" not in error.details()
            raise (_TryAgain if again else ClientError)(code, error.details()) from error


def chunks(samples: np.ndarray, rate_hz: int, chunk_s: float = CHUNK_S, search_s: float = SEARCH_S) -> list:
    """float [samples] -> [(start, end), …], parts of at most `chunk_s`, cut where 50 ms are the quietest."""
    parts, start, size, window = [], 0, round(chunk_s * rate_hz), max(1, rate_hz // 20)
    while len(samples) - start > size:
        begin = start + size - round(search_s * rate_hz)
        energy = np.square(samples[begin:start + size], dtype=np.float64)
        energy = energy[:len(energy) // window * window].reshape(-1, window).sum(axis=1)
        end = begin + int(energy.argmin()) * window + window // 2
        parts.append((start, end))
        start = end
    return [*parts, (start, len(samples))]


def wav_bytes(samples: np.ndarray, rate_hz: int) -> bytes:
    """float [samples] in [-1, 1] -> a WAV file of 16 bits."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _audio(audio, rate_hz):
    """-> float32 [samples], mono; rate"""
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1 or audio.dtype.kind != "f" or not audio.size:
            raise ClientError("INVALID_ARGUMENT", f"audio: got {audio.dtype} {audio.shape}, expected float [samples]")
        return audio.astype(np.float32), rate_hz
    import soundfile

    name = "audio" if isinstance(audio, bytes) else os.fspath(audio)
    try:
        samples, rate = soundfile.read(io.BytesIO(audio) if isinstance(audio, bytes) else name, dtype="float32",
                                       always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ClientError("INVALID_ARGUMENT", f"{name}: {error}") from error
    if not len(samples):
        raise ClientError("INVALID_ARGUMENT", f"{name}: has no samples")
    return samples.mean(axis=1), rate


def _read(values):
    """Paths -> the bytes of their files, wherever they stand in lists."""
    if isinstance(values, (list, tuple)):
        return [_read(value) for value in values]
    if isinstance(values, Path):
        try:
            return values.read_bytes()
        except OSError as error:
            raise ClientError("INVALID_ARGUMENT", str(error)) from error
    return values


def _json(array):
    if array.dtype != object:
        return array.tolist()

    def plain(values):
        if isinstance(values, list):
            return [plain(value) for value in values]
        return {"b64": base64.b64encode(values).decode("ascii")}

    return plain(array.tolist())


def _array_of_json(values):
    def plain(values):
        if isinstance(values, list):
            return [plain(value) for value in values]
        if isinstance(values, dict):
            return base64.b64decode(values["b64"])
        return float("nan") if values is None else values

    return to_array(plain(values))


def _number_of(type_name):
    return {name: number for number, name in TYPE_NAMES.items()}.get(type_name, 0)
