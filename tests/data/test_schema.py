"""Encode and decode of records."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.data.schema import SPEECH_TEXT, Field, RecordError, RecordType


def speech(**changes):
    audio = np.array([0, 1, -1, 32767, -32768, 256, 0, 0], np.int16)   # ends in zero bytes on purpose
    return {"id": "clip/ä", "audio": audio, "text": "नमस्ते, world", "language": "hi", **changes}


@pytest.mark.parametrize("encoding", ["pcm16", "flac"])
@pytest.mark.parametrize("promised", [True, False])
@pytest.mark.parametrize("graph", [True, False])
def test_round_trip_is_exact(encoding, promised, graph):
    serialized = SPEECH_TEXT.encode(speech(), encoding)

    def decode(data):
        return SPEECH_TEXT.decode(data, encoding if promised else None)

    decoded = (tf.function(decode) if graph else decode)(tf.constant(serialized))
    np.testing.assert_array_equal(decoded["audio"].numpy() * 32768, speech()["audio"])
    assert decoded["audio"].dtype == tf.float32 and decoded["audio"].numpy().min() == -1.0
    assert decoded["id"].numpy().decode() == "clip/ä"
    assert decoded["text"].numpy().decode() == "नमस्ते, world"
    assert decoded["language"].numpy() == b"hi"
    assert (decoded["num_samples"].numpy(), decoded["sample_rate_hz"].numpy()) == (8, 16000)


def test_float_audio_is_rounded_and_clipped_not_wrapped():
    packed = SPEECH_TEXT.pack(speech(audio=np.array([1.0, 1.5, -1.5, 0.5, 0.4 / 32768], np.float32)))
    assert packed.length == 5
    samples = SPEECH_TEXT.decode(packed.serialized)["audio"].numpy() * 32768
    np.testing.assert_array_equal(samples, [32767, 32767, -32768, 16384, 0])


@pytest.mark.parametrize("change, message", [
    ({"audio": np.zeros(0, np.int16)}, "0 samples"),
    ({"audio": np.zeros([4, 2], np.float32)}, r"shape \(4, 2\)"),
    ({"audio": np.array([np.nan], np.float32)}, "NaN"),
    ({"audio": np.zeros(4, np.int32)}, "dtype int32"),
    ({"sample_rate_hz": 8000}, "8000 Hz, expected 16000"),
    ({"num_samples": 3}, "num_samples is 3"),
    ({"text": None}, "'text'.*missing"),
    ({"text": 7}, "'text' is a int"),
    ({"id": ""}, "id is empty"),
    ({"speaker": "x"}, r"unknown fields \['speaker'\]"),
])
def test_bad_examples_are_named(change, message):
    with pytest.raises(RecordError, match=message):
        SPEECH_TEXT.encode(speech(**change))


def test_other_record_types_need_only_their_fields():
    tokens = RecordType("tokens", 1, (Field("id", "string"), Field("ids", "ints"), Field("score", "float", 0.5),
                                      Field("image", "bytes"), Field("count", "int")), "count")
    serialized = tokens.encode({"id": "a", "ids": np.array([3, 1, 2]), "image": b"\x00\xff", "count": 3})
    decoded = {key: value.numpy() for key, value in tokens.decode(serialized).items()}
    np.testing.assert_array_equal(decoded["ids"], [3, 1, 2])
    assert decoded["image"] == b"\x00\xff" and decoded["score"] == 0.5 and decoded["count"] == 3
    assert len(tokens.decode(tokens.encode({"id": "a", "ids": [], "image": b"", "count": 0}))["ids"]) == 0


def test_encoding_is_deterministic():
    assert SPEECH_TEXT.encode(speech()) == SPEECH_TEXT.encode(dict(reversed(speech().items())))


@pytest.mark.parametrize("graph", [True, False])
def test_flac_of_any_last_byte(graph):
    """The last bytes of a FLAC stream are a checksum, so zero among 600 of them is likely."""
    def decode(data):
        return SPEECH_TEXT.decode(data)["audio"]

    decode = tf.function(decode) if graph else decode
    for seed in range(600):
        audio = np.random.default_rng(seed).integers(-99, 99, 20).astype(np.int16)
        decoded = decode(tf.constant(SPEECH_TEXT.encode(speech(audio=audio), "flac")))
        np.testing.assert_array_equal(decoded * 32768, audio)
