"""TF Serving's REST API (tensorflow.org/tfx/serving/api_rest): predict, metadata, status; health and Prometheus."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math

import fastapi
import numpy as np
import prometheus_client
from starlette.requests import ClientDisconnect

from tfhf.server.models import NotFound, Overloaded, RequestError, TooLate, signature_def
from tfhf.server.service import Service, log
from tfhf.wire import TYPE_NAMES, WireError, to_array

_DEEPEST = 64
# Bodies of the largest size that may be here at the same time, whole or in part: many that hang would fill the memory.
_MOST_BODIES = 4


class TooLarge(RequestError):
    """The body is larger than `max_request_mb`."""

    status, code = 413, "INVALID_ARGUMENT"


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
    async def status(name: str, version: str | None = None):
        model = service.model(name, _number(version))
        return _answer({"model_version_status": [{"version": str(model.version), "state": "AVAILABLE",
                                                  "status": {"error_code": "OK", "error_message": ""}}]})

    @app.get("/v1/models/{name}/metadata")
    @app.get("/v1/models/{name}/versions/{version}/metadata")
    async def metadata(name: str, version: str | None = None):
        model = service.model(name, _number(version))
        signatures = {key: _json_signature(signature_def(each)) for key, each in model.signatures.items()}
        return _answer({"model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
                        "metadata": {"signature_def": {"signature_def": signatures}}})

    @app.post("/v1/models/{name}:predict")
    @app.post("/v1/models/{name}/versions/{version}:predict")
    async def predict(request: fastapi.Request, name: str, version: str | None = None):
        model = service.model(name, _number(version))
        loop, body = asyncio.get_running_loop(), bytearray()
        try:
            await _read_body(request, service, body)
            name, given, row_format = await loop.run_in_executor(None, read_request, body, model)
        finally:
            service.body_bytes -= len(body)
        del body   # nobody needs it while the model works
        answers = await service.predict(model, name, given)
        return fastapi.Response(await loop.run_in_executor(None, write_answer, answers, row_format),
                                media_type="application/json")

    return app


def read_request(body, model) -> tuple[str, dict, bool]:
    """The JSON of a predict request, bytes or bytearray -> (signature name, named arrays, whether in the row format).

    Raises:
        RequestError: no JSON, neither `instances` nor `inputs`, values that make no array.
    """
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


def _number(version):
    if version is None:
        return None
    if not version.isdecimal() or len(version) > 18:
        raise NotFound(f"version {version[:40]!r}: expected a number")
    return int(version)


async def _read_body(request, service, body) -> None:
    """Into `body`, which must be there in time and no larger than it may; all that are here count in `body_bytes`."""
    limits = service.limits

    async def read():
        async for chunk in request.stream():
            body.extend(chunk)
            service.body_bytes += len(chunk)
            if len(body) > limits.max_request_bytes:
                raise TooLarge(f"the request is larger than {limits.max_request_mb:g} MB")
            if (arriving := service.body_bytes) > _MOST_BODIES * limits.max_request_bytes:
                service.body_bytes -= len(body)   # at once, or the others that arrive would be refused as well
                body.clear()
                raise Overloaded(f"requests of {arriving / 2**20:.0f} MB arrive at this time, of at most "
                                 f"{_MOST_BODIES * limits.max_request_mb:g}: try later")

    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_request_bytes:
        raise TooLarge(f"the request has {int(length) / 2**20:.1f} MB, expected at most {limits.max_request_mb:g}")
    try:
        await asyncio.wait_for(read(), limits.deadline_s)
    except asyncio.TimeoutError:
        raise TooLate(f"the request did not arrive within {limits.deadline_s:g} s") from None
    except ClientDisconnect as error:
        raise RequestError("the client went before its request had arrived") from error   # told to nobody


def _answer(content, status=200):
    return fastapi.Response(json.dumps(content, ensure_ascii=False), status, media_type="application/json")
