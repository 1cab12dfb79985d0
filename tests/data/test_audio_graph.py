"""WAV decoding and resampling in the graph: equal to `load_audio`, and one error for bytes that are no sound."""

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from tfhf.data import audio_graph
from tfhf.data.audio import load_audio

LIMIT = 32000
_graph = tf.function(lambda wav: audio_graph.decode_to_16khz(wav, LIMIT),
                     input_signature=[tf.TensorSpec([None], tf.string)])
_decode = tf.function(audio_graph.decode_wav, input_signature=[tf.TensorSpec([], tf.string)])
_resample = tf.function(audio_graph.resample, input_signature=[tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)])


def noise(count, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)


def encode(samples, rate_hz, subtype="PCM_16", form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def run(data):
    return _graph([data])[0].numpy()


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def with_chunks(data, *before):
    """The same file with other chunks between RIFF's header and its first chunk."""
    body = data[8:12] + b"".join(before) + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_kind_of_sample_is_what_soundfile_reads(subtype, form, channels):
    data = encode(noise(1001, channels), 16000, subtype, form)
    audio, rate = _decode(data)
    assert rate == 16000 and audio.dtype == tf.float32
    np.testing.assert_allclose(audio, load_audio(data), rtol=0, atol=2e-7)
    padded = run(data)
    assert padded.shape == (LIMIT,) and not padded[1001:].any()
    np.testing.assert_array_equal(padded[:1001], audio)


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11025, 22050, 44100, 44101, 48000, 96000, 192000])
def test_sweeps_are_resampled_as_soxr_does(rate_hz):
    """Up to 7 kHz (88 % of the narrower band) to 1e-3; beyond, where soxr's filter differs between rates, to 1 %."""
    seconds = 1.3
    time = np.arange(int(rate_hz * seconds)) / rate_hz
    for top_hz, tolerance in ((min(rate_hz * 0.44, 7000), 1e-3), (rate_hz / 2, 1e-2)):
        sweep = (0.5 * np.sin(np.pi * top_hz / seconds * time**2) * np.hanning(len(time))).astype(np.float32)
        expected = soxr.resample(sweep, rate_hz, 16000, quality="VHQ")
        got = _resample(sweep, rate_hz).numpy()
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_16_khz_passes_untouched_and_short_sounds_have_soxrs_length():
    audio = noise(777)[:, 0]
    np.testing.assert_array_equal(_resample(audio, 16000), audio)
    for rate_hz in (8000, 11025, 44100, 96000, 192000):
        for count in (6, 7, 19, 100, 1001):
            assert len(_resample(audio[:count], rate_hz)) == len(soxr.resample(audio[:count], rate_hz, 16000))


def test_real_prompts_agree_with_load_audio(assets):
    files = sorted(assets("asterisk-prompts").rglob("*.wav"), key=lambda path: path.stat().st_size)
    files = [path for path in files[::10] if path.stat().st_size < LIMIT]   # 8 kHz, 16 bit: one byte is one sample here
    assert len(files) > 10
    together = _graph([path.read_bytes() for path in files]).numpy()
    for path, got in zip(files, together):
        expected = load_audio(path)
        np.testing.assert_allclose(got, np.pad(expected, (0, LIMIT - len(expected))), rtol=0, atol=1e-3)


def test_other_chunks_are_skipped_also_those_of_odd_size():
    data = encode(noise(500), 16000)
    more = with_chunks(data, chunk(b"LIST", b"abc"), chunk(b"junk", b""), chunk(b"bext", b"x" * 601))
    np.testing.assert_array_equal(run(more), run(data))
    np.testing.assert_array_equal(run(data + b"tag left behind"), run(data))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFDB, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_streamed_file_that_does_not_know_its_size_is_read(size, subtype):
    data = bytearray(encode(noise(501), 16000, subtype))
    plain = run(bytes(data))
    begin = data.index(b"data") + 4
    data[begin:begin + 4] = struct.pack("<I", size)
    np.testing.assert_array_equal(run(bytes(data)), plain)
    if subtype == "PCM_16":
        with pytest.raises(tf.errors.InvalidArgumentError, match="the last 1 of them part of a frame of 2"):
            run(bytes(data[:-1]))


RIFF, FMT, DATA = b"RIFF\0\0\0\0WAVE", *(encode(noise(500), 16000)[part] for part in (slice(12, 36), slice(44, None)))


@pytest.mark.parametrize("data", [
    RIFF + chunk(b"data", DATA) + FMT, RIFF + FMT + chunk(b"data", DATA) + chunk(b"LIST", b"abc"),
    RIFF + b"bext\3\0\0\0odd" + FMT + chunk(b"data", DATA), RIFF + FMT + chunk(b"data", DATA) + bytes(100),
    b"RF64" + b"\xff" * 4 + b"WAVE" + chunk(b"ds64", struct.pack("<QQQI", 0, len(DATA), 500, 0)) + FMT
    + b"data" + b"\xff" * 4 + DATA,
    b"RF64" + b"\xff" * 4 + b"WAVE" + chunk(b"ds64", bytes(28)) + FMT + b"data" + b"\xff" * 4 + DATA,
], ids=["data first", "LIST behind", "odd chunk, not padded", "junk behind", "RF64", "RF64, streamed"])
def test_chunks_in_any_order_as_load_audio_reads_them(data):
    np.testing.assert_array_equal(run(data)[:500], load_audio(data))
    np.testing.assert_array_equal(run(data), run(encode(noise(500), 16000)))


def edited(offset, value, samples=100, subtype="PCM_16", rate_hz=16000):
    data = bytearray(encode(noise(samples), rate_hz, subtype))
    data[offset:offset + len(value)] = value
    return bytes(data)


WHOLE = encode(noise(100), 16000)
BAD = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"R", "only 1 bytes"),
    "a text": (b"this is no sound at all, but a text", "does not begin with RIFF"),
    "flac": (encode(noise(100), 16000, form="FLAC"), "does not begin with RIFF"),
    "cut in the samples": (WHOLE[:-1], "truncated: its header states 200 bytes of samples, the file has 199"),
    "cut in the header": (WHOLE[:30], "no data chunk in its 30 bytes"),
    "cut after RIFF": (WHOLE[:12], "no data chunk"),
    "no fmt": (WHOLE[:12] + chunk(b"data", b"1234"), "no fmt chunk"),
    "short fmt": (WHOLE[:12] + chunk(b"fmt ", b"12") + chunk(b"data", b"1234"), "no fmt chunk of 16 bytes"),
    "chunk of 4 GB": (edited(16, b"\xff\xff\xff\xff"), "no data chunk"),
    "endless empty chunks": (with_chunks(WHOLE, chunk(b"junk", b"") * 5000), "no data chunk"),
    "0 Hz": (edited(24, b"\0\0\0\0"), "the sample rate is 0 Hz"),
    "4 GHz": (edited(24, b"\xff\xff\xff\xff"), "the sample rate is 4294967295 Hz, expected 4000 to 192000"),
    "0 channels": (edited(22, b"\0\0"), "0 channels"),
    "65535 channels": (edited(22, b"\xff\xff"), "65535 channels of 16 bits in frames of 2 bytes"),
    "frame of 0 bytes": (edited(32, b"\0\0"), "in frames of 0 bytes, expected frames of 2"),
    "mu-law of 16 bits": (edited(20, b"\x07\0"), "format code 7 with 16 bits"),
    "ADPCM": (encode(noise(2000), 8000, "MS_ADPCM"), "format code 2 with 4 bits"),
    "two joined": (WHOLE + WHOLE, "more samples behind the first data chunk"),
    "two data chunks": (WHOLE + chunk(b"data", bytes(20)), "more samples behind the first data chunk"),
    "12 bits": (edited(34, b"\x0c\0"), "format code 1 with 12 bits"),
    "no samples": (encode(noise(0), 16000), "0 samples"),
    "NaN": (encode(np.array([0.1, np.nan], np.float32), 16000, "FLOAT"), "NaN"),
    "huge": (encode(np.array([0.1, 1e38], np.float32), 16000, "FLOAT"), "huge samples, expected none beyond 1e+06"),
    "too long": (encode(noise(LIMIT + 1), 16000), "32001 samples at 16000 Hz are 32001 at 16 kHz, expected 32000"),
    "too long when resampled": (encode(noise(LIMIT), 8000), "are 64000 at 16 kHz, expected 32000"),
    "less than a sample": (encode(noise(1), 192000), "1 samples at 192000 Hz are less than one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bytes_are_one_clear_error_that_names_the_file(case):
    data, message = BAD[case]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        _graph([WHOLE, data])
    assert "wav 1 of the batch: " in caught.value.message and message in caught.value.message


def test_an_empty_batch_and_the_longest_sound():
    assert _graph(tf.zeros([0], tf.string)).shape == (0, LIMIT)
    longest = noise(LIMIT)
    np.testing.assert_allclose(run(encode(longest, 16000, "FLOAT")), longest[:, 0])


def test_lengths_are_the_samples_before_each_end():
    files = [encode(noise(900), 16000), encode(noise(441), 44100), encode(noise(1), 8000), encode(0 * noise(50), 16000)]
    audio, lengths = audio_graph.decode_with_lengths(files, 2000)
    assert lengths.dtype == tf.int32 and lengths.numpy().tolist() == [900, 160, 2, 50]
    np.testing.assert_array_equal(audio, audio_graph.decode_to_16khz(files, 2000))
    assert not audio[0, 900:].numpy().any() and audio[1, 150:160].numpy().any()
