"""TF Serving's REST API (tensorflow.org/tfx/serving/api_rest): predict, metadata, status; health and Prometheus."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import math
import time
import zlib

import fastapi
import numpy as np
import prometheus_client
from starlette.requests import ClientDisconnect

from tfhf.server.models import NotFound, RequestError, Stopping, TooLate, UnknownLabel, signature_def
from tfhf.server.service import Service, log
from tfhf.wire import TYPE_NAMES, WireError, to_array

_DEEPEST = 64
_MOST_OBJECTS = 2**16   # {"b64": …} and rows with names: an empty one takes Python 200 bytes
_GZIP, _AT_ONCE = 31, 2**16   # zlib's name of gzip; bytes that are unpacked at a time


class TooLarge(RequestError):
    """The body is larger than `max_request_mb`."""

    status, code = 413, "INVALID_ARGUMENT"


class UnknownEncoding(RequestError):
    """The body is packed in another way than gzip."""

    status = 415


def make_app(service: Service) -> fastapi.FastAPI:
    """The application; it serves until its server ends it."""
    app = fastapi.FastAPI(title="tfhf serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Exception)
    async def failed(request, error):
        log.exception("request failed", exc_info=error)
        return _answer({"error": "internal error; the server's log has it"}, 500)

    @app.exception_handler(RequestError)
    async def refused(request, error):
        return _answer({"error": str(error)}, error.status)

    @app.exception_handler(404)
    async def nowhere(request, error):
        return _answer({"error": "no such address; expected /v1/models/NAME[/versions/N][:predict or /metadata]"}, 404)

    @app.exception_handler(405)
    async def wrong_method(request, error):
        return _answer({"error": f"method {request.method} is not allowed here"}, 405)

    @app.get("/healthz")
    async def health():
        return _answer({"status": "ok", "models": sorted(service.models)})

    @app.get("/monitoring/prometheus/metrics")
    async def metrics():
        return fastapi.Response(prometheus_client.generate_latest(service.registry),
                                media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/v1/models/{name}")
    @app.get("/v1/models/{name}/versions/{version}")
    @app.get("/v1/models/{name}/labels/{label}")
    async def status(name: str, version: str | None = None, label: str | None = None):
        model = _model(service, name, version, label)
        failed = service.failed[name] if version is None else {}
        return _answer({"model_version_status": [
            *(_version_status(number, "END", "UNKNOWN", reason) for number, reason in failed.items()),
            _version_status(model.version, "AVAILABLE", "OK", "")]})

    @app.get("/v1/models/{name}/metadata")
    @app.get("/v1/models/{name}/versions/{version}/metadata")
    @app.get("/v1/models/{name}/labels/{label}/metadata")
    async def metadata(name: str, version: str | None = None, label: str | None = None):
        model = _model(service, name, version, label)
        signatures = {key: _json_signature(signature_def(each)) for key, each in model.signatures.items()}
        return _answer({"model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
                        "metadata": {"signature_def": {"signature_def": signatures}}})

    @app.post("/v1/models/{name}:predict")
    @app.post("/v1/models/{name}/versions/{version}:predict")
    @app.post("/v1/models/{name}/labels/{label}:predict")
    async def predict(request: fastapi.Request, name: str, version: str | None = None, label: str | None = None):
        deadline = time.monotonic() + service.limits.deadline_s
        model = _model(service, name, version, label)
        packed = _is_packed(request)
        with service.holding() as held, _ended(service):
            body = await _read_body(request, service.limits, held, deadline)

            def read():
                return read_request(_unzipped(body, service.limits) if packed else body, model,
                                    service.limits.max_values)

            name, given, row_format = await service.read(read, deadline=deadline)
            held.set(sum(map(_bytes_of, given.values())))
            del body, read   # nobody needs it while the model works
            answers = await service.predict(model, name, given, deadline)
        return fastapi.Response(await service.read(write_answer, answers, row_format, deadline=deadline),
                                media_type="application/json")

    return app


def read_request(body, model, max_values: int = 2**22) -> tuple[str, dict, bool]:
    """The JSON of a predict request, bytes or bytearray -> (signature name, named arrays, whether in the row format).

    Raises:
        RequestError: no JSON, too many values, neither `instances` nor `inputs`, values that make no array.
    """
    # Before Python makes an object of each; a text may have commas as well, so this is an upper bound.
    values, objects = 1 + body.count(b",") + body.count(b"["), body.count(b"{")
    if values > max_values or objects > _MOST_OBJECTS:
        raise RequestError(f"the body has {values} values and {objects} objects, by its commas and brackets; expected "
                           f"at most {max_values} and {_MOST_OBJECTS}")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {str(error)[:100]}") from error
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise RequestError('got no JSON object with either "instances" or "inputs"')
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(f'"signature_name" is {str(name)[:60]!r}, expected a string')
    inputs, row_format = model.signature(name).inputs, "instances" in request
    given = request["instances" if row_format else "inputs"]
    if row_format:
        if not isinstance(given, list) or not given:
            raise RequestError('"instances" is empty or no list, expected a list with one element for each example')
        if isinstance(given[0], dict) and set(given[0]) != {"b64"}:
            if any(not isinstance(row, dict) or set(row) != set(given[0]) for row in given):
                raise RequestError('"instances" differ in their names, expected the same in all')
            given = {key: [row[key] for row in given] for key in given[0]}
        else:
            given = _only(inputs, given)
    elif not isinstance(given, dict) or set(given) == {"b64"}:
        given = _only(inputs, given)
    arrays = {}
    for key, values in given.items():
        try:
            arrays[key] = to_array(_unpacked(values))
        except WireError as error:
            raise RequestError(f"input {str(key)[:60]!r}: {error}") from error
        if key in inputs and inputs[key].dtype.kind == "f" and arrays[key].dtype.kind in "iu":
            arrays[key] = arrays[key].astype(inputs[key].dtype)
    return name, arrays, row_format


def _only(inputs, values):
    if len(inputs) != 1:
        raise RequestError(f"got values without names, expected the inputs {sorted(inputs)}")
    return {next(iter(inputs)): values}


def _unpacked(values, depth=0):
    """{"b64": …} -> bytes, wherever it stands"""
    if isinstance(values, dict):
        if set(values) != {"b64"} or not isinstance(values["b64"], str):
            raise WireError('got an object, expected values, lists, or {"b64": "…"}')
        try:
            return base64.b64decode(values["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise WireError(f"b64: {error}") from error
    if isinstance(values, list):
        if depth >= _DEEPEST:
            raise WireError(f"lists deeper than {_DEEPEST}")
        if not set(map(type, values)) & {dict, list, type(None)}:   # a row of numbers, at the speed of C
            return values
        return [_unpacked(value, depth + 1) for value in values]
    if values is None:
        raise WireError("got null, expected a value")
    return values


def write_answer(answers: dict, row_format: bool) -> bytes:
    """Named arrays -> JSON: "predictions" for the row format, otherwise "outputs"; a sole output goes without its name.

    Strings that are no UTF-8, and those of outputs called ..._bytes, are {"b64": ...}."""
    values = {name: _plain(array, name) for name, array in answers.items()}
    sole = next(iter(values.values())) if len(values) == 1 else None
    if not row_format:
        content = {"outputs": values if sole is None else sole}
    elif sole is not None:
        content = {"predictions": sole}
    else:
        content = {"predictions": [dict(zip(values, row)) for row in zip(*values.values())]}
    return json.dumps(content, ensure_ascii=False).encode("utf-8")


def _plain(array, name):
    if array.dtype == object:
        return _strings(array.tolist(), name.endswith("_bytes"))
    if array.dtype.kind == "f":
        return _finite(array.astype(np.float64).tolist()) if not np.isfinite(array).all() else array.tolist()
    return array.tolist()


def _strings(values, as_bytes):
    if isinstance(values, list):
        return [_strings(value, as_bytes) for value in values]
    if not as_bytes:
        try:
            return values.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(values).decode("ascii")}


def _finite(values):
    """JSON has no NaN: null, as strict readers can take it."""
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if math.isfinite(values) else None


def _json_signature(told):
    def tensors(given):
        return {name: {"dtype": TYPE_NAMES[each["dtype"]], "name": each["name"], "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in each["shape"] or ()],
            "unknown_rank": each["shape"] is None}} for name, each in given.items()}

    return {"inputs": tensors(told["inputs"]), "outputs": tensors(told["outputs"]),
            "method_name": told["method_name"]}


@contextlib.contextmanager
def _ended(service):
    """A context whose cancelling, once the server ends, is an answer."""
    try:
        yield
    except asyncio.CancelledError:
        if not service.stopping:
            raise
        raise Stopping("the server has ended") from None


def _model(service, name, version, label):
    model = service.model(name, _number(version))
    if label is not None:
        raise UnknownLabel(label)
    return model


def _number(version):
    if version is None:
        return None
    if not version.isdecimal() or len(version) > 18:
        raise NotFound(f"version {version[:40]!r}: expected a number")
    return int(version)


def _version_status(version, state, code, message):
    return {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}


def _is_packed(request):
    """Whether the body is packed by gzip, as TF Serving takes it."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise UnknownEncoding(f"Content-Encoding: {encoding[:40]!r}, expected gzip or none")
    return encoding.endswith("gzip")


def _unzipped(body, limits):
    """The unpacked body: gzip's members one after the other, no larger than a request may be."""
    unpacked, member = bytearray(), zlib.decompressobj(wbits=_GZIP)
    try:
        for begin in range(0, len(body), _AT_ONCE):
            packed = bytes(body[begin:begin + _AT_ONCE])
            while packed:
                if member.eof:
                    member = zlib.decompressobj(wbits=_GZIP)
                unpacked += member.decompress(packed, _AT_ONCE)
                packed = member.unused_data if member.eof else member.unconsumed_tail
                if len(unpacked) > limits.max_request_bytes:
                    raise TooLarge(f"unpacked the request is larger than {limits.max_request_mb:g} MB")
            while not member.eof and (more := member.decompress(b"", _AT_ONCE)):   # what it still holds
                unpacked += more
    except zlib.error as error:
        raise RequestError(f"the body is not gzip: {error}") from error
    if not member.eof:
        raise RequestError("the body is cut off, expected all of gzip's bytes")
    return unpacked


def _bytes_of(array):
    return sum(map(len, array.reshape(-1).tolist())) if array.dtype == object else array.nbytes


async def _read_body(request, limits, held, deadline) -> bytearray:
    """The body, which must be here in time and no larger than it may be."""
    body = bytearray()

    async def read():
        async for chunk in request.stream():
            held.add(len(chunk))
            body.extend(chunk)
            if len(body) > limits.max_request_bytes:
                raise TooLarge(f"the request is larger than {limits.max_request_mb:g} MB")

    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_request_bytes:
        raise TooLarge(f"the request has {int(length) / 2**20:.1f} MB, expected at most {limits.max_request_mb:g}")
    try:
        await asyncio.wait_for(read(), deadline - time.monotonic())
    except asyncio.TimeoutError:
        raise TooLate(f"the request did not arrive within {limits.deadline_s:g} s") from None
    except ClientDisconnect as error:
        raise RequestError("the client went before its request had arrived") from error   # told to nobody
    return body


def _answer(content, status=200):
    return fastapi.Response(json.dumps(content, ensure_ascii=False), status, media_type="application/json")
