"""gRPC as TF Serving's: what `tfhf.client` does not ask for, wrong messages, sizes."""

import grpc
import pytest

from tfhf.wire import MESSAGES, from_tensor, to_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://"),
                               options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def call(channel, data, method=PREDICT):
    return channel.unary_unary(method, request_serializer=lambda data: data,
                               response_deserializer=lambda data: data)(data, timeout=30)


def request():
    message = MESSAGES["PredictRequest"]()
    message.model_spec.name = "echo"
    message.inputs["text"].CopyFrom(to_tensor(["abc"]))
    return message


def test_output_filter_and_version(channel):
    message = request()
    message.output_filter.append("half")
    message.model_spec.version.value = 10
    answer = MESSAGES["PredictResponse"].FromString(call(channel, message.SerializeToString()))
    assert set(answer.outputs) == {"half"} and from_tensor(answer.outputs["half"]).tolist() == [1.5]
    assert answer.model_spec.version.value == 10 and answer.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize("change, code, words", [
    (lambda m: setattr(m.model_spec, "name", "../x"), "NOT_FOUND", "no model '../x'"),
    (lambda m: setattr(m.model_spec.version, "value", 3), "NOT_FOUND", "no version 3"),
    (lambda m: setattr(m.model_spec, "signature_name", "z"), "NOT_FOUND", "no signature 'z'"),
    (lambda m: m.output_filter.append("z"), "INVALID_ARGUMENT", "output_filter"),
    (lambda m: setattr(m.inputs["text"], "dtype", 99), "INVALID_ARGUMENT", "type 99"),
    (lambda m: m.inputs["text"].CopyFrom(to_tensor([""])), "INVALID_ARGUMENT", "RecordError: an empty text"),
])
def test_bad_requests_are_told(channel, change, code, words):
    message = request()
    change(message)
    with pytest.raises(grpc.RpcError) as error:
        call(channel, message.SerializeToString())
    assert error.value.code().name == code and words in error.value.details()


def test_bytes_that_are_no_message_and_sizes(channel):
    for method in (PREDICT, "/tensorflow.serving.PredictionService/GetModelMetadata",
                   "/tensorflow.serving.ModelService/GetModelStatus"):
        with pytest.raises(grpc.RpcError) as error:
            call(channel, b"\xff\xff\xff", method)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    message = request()
    message.inputs["text"].CopyFrom(to_tensor(["x" * 5_000_000]))
    with pytest.raises(grpc.RpcError) as error:
        call(channel, message.SerializeToString())
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        call(channel, b"", "/tensorflow.serving.PredictionService/Nothing")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
