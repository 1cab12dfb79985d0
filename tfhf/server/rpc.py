"""TF Serving's gRPC services: PredictionService's Predict and GetModelMetadata, ModelService's GetModelStatus."""

from __future__ import annotations

import asyncio
import time

import grpc
from google.protobuf.message import DecodeError

from tfhf.server.models import RequestError, Stopping, UnknownLabel, signature_def
from tfhf.server.service import Limits, Service, log
from tfhf.wire import AVAILABLE, END, MESSAGES, WireError, from_tensor, to_tensor

_INVALID = object()   # bytes that are no such message


def make_server(service: Service, address: str) -> tuple[grpc.aio.Server, int]:
    """-> (the server, not started; its port). Call it within the event loop.

    Raises:
        OSError, RuntimeError: the address cannot be had.
    """
    limits: Limits = service.limits
    # A call whose message never comes counts as one in progress and has no deadline but its connection's end; no single
    # connection may hold them all.
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", limits.max_request_bytes),
                                      ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0),
                                      ("grpc.max_concurrent_streams", max(1, limits.max_connections // 4)),
                                      ("grpc.max_connection_age_ms", int(10_000 * limits.deadline_s)),
                                      ("grpc.max_connection_age_grace_ms", int(1000 * limits.deadline_s))],
                             maximum_concurrent_rpcs=limits.max_connections)
    calls = {"tensorflow.serving.PredictionService": {
                 "Predict": ("PredictRequest", _predict), "GetModelMetadata": ("GetModelMetadataRequest", _metadata)},
             "tensorflow.serving.ModelService": {"GetModelStatus": ("GetModelStatusRequest", _status)}}
    for name, methods in calls.items():
        handlers = {method: grpc.unary_unary_rpc_method_handler(
            _handler(service, function), _parser(message), lambda answer: answer.SerializeToString())
            for method, (message, function) in methods.items()}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    return server, server.add_insecure_port(address)


def _parser(message):
    def parse(data):
        try:
            return MESSAGES[message].FromString(data)
        except DecodeError:
            return _INVALID

    return parse


def _handler(service, function):
    async def handle(request, context):
        try:
            if service.stopping:   # of its own accord gRPC would say CANCELLED, as if the client had
                raise Stopping("the server is ending")
            if request is _INVALID:
                raise RequestError("the request is no message of this call")
            return await function(service, request, context)
        except RequestError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception:   # a client is told no trace
            log.exception("call failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")
            raise

    return handle


def _model(service, spec):
    if spec.version_label:
        raise UnknownLabel(spec.version_label)
    return service.model(spec.name, spec.version.value if spec.HasField("version") else None)


def _fill_spec(spec, model, signature=""):
    spec.name, spec.signature_name = model.name, signature
    spec.version.value = model.version


async def _predict(service, request, context):
    model, signature = _model(service, request.model_spec), request.model_spec.signature_name
    limits, left_s = service.limits, context.time_remaining()
    deadline = time.monotonic() + min(limits.deadline_s, limits.deadline_s if left_s is None else left_s)

    def read():
        tensors = request.inputs
        model.signature(signature).check_stated(
            {name: tuple(dim.size for dim in tensor.tensor_shape.dim) for name, tensor in tensors.items()},
            limits.max_examples)
        return {name: from_tensor(tensor, limits.max_request_bytes) for name, tensor in tensors.items()}

    with service.holding() as held:
        held.set(request.ByteSize())
        answers = await service.predict(model, signature, await service.read(read, deadline=deadline), deadline)
    wanted = list(request.output_filter) or list(answers)
    if set(wanted) - set(answers):
        raise RequestError(f"output_filter: got {sorted(wanted)[:8]}, expected some of {sorted(answers)}")
    response = MESSAGES["PredictResponse"]()
    _fill_spec(response.model_spec, model, signature or "serving_default")

    def write():
        for name in wanted:
            response.outputs[name].CopyFrom(to_tensor(answers[name]))
        return response

    return await service.read(write, deadline=deadline)


async def _metadata(service, request, context):
    model = _model(service, request.model_spec)
    if list(request.metadata_field) != ["signature_def"]:
        raise RequestError(f"metadata_field: got {list(request.metadata_field)[:4]}, expected ['signature_def']")
    defined = MESSAGES["SignatureDefMap"]()
    for key, signature in model.signatures.items():
        told = signature_def(signature)
        entry = defined.signature_def[key]
        entry.method_name = told["method_name"]
        for side in ("inputs", "outputs"):
            for name, each in told[side].items():
                info = getattr(entry, side)[name]
                info.name, info.dtype = each["name"], each["dtype"]
                info.tensor_shape.unknown_rank = each["shape"] is None
                for size in each["shape"] or ():
                    info.tensor_shape.dim.add(size=size)
    response = MESSAGES["GetModelMetadataResponse"]()
    _fill_spec(response.model_spec, model)
    response.metadata["signature_def"].Pack(defined)
    return response


async def _status(service, request, context):
    model = _model(service, request.model_spec)
    response = MESSAGES["GetModelStatusResponse"]()
    if not request.model_spec.HasField("version"):
        for version, reason in service.failed[model.name].items():
            entry = response.model_version_status.add(version=version, state=END)
            entry.status.error_code, entry.status.error_message = grpc.StatusCode.UNKNOWN.value[0], reason
    entry = response.model_version_status.add(version=model.version, state=AVAILABLE)
    entry.status.SetInParent()
    return response
