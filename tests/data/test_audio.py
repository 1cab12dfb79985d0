"""Sound files: what must work, and what must be refused by name."""

import io
import struct

import numpy as np
import pytest
import soundfile

from tfhf.data.audio import AudioError, load_audio, resample

SECONDS = 1.0


def tone(rate_hz, channels=1, seconds=SECONDS):
    """440 Hz at half of full scale: float32 [n] or [n, channels]"""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate_hz * seconds)) / rate_hz).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def encode(samples, rate_hz, form="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


GOOD = {
    "wav-16": (16000, 1, "WAV", "PCM_16"), "wav-24": (16000, 1, "WAV", "PCM_24"), "wav-u8": (16000, 1, "WAV", "PCM_U8"),
    "wav-float": (16000, 1, "WAV", "FLOAT"), "wav-extensible": (16000, 1, "WAVEX", "PCM_16"),
    "wav-stereo-96k-24": (96000, 2, "WAV", "PCM_24"), "wav-8k": (8000, 1, "WAV", "PCM_16"),
    "wav-ulaw": (8000, 1, "WAV", "ULAW"), "rf64": (16000, 1, "RF64", "PCM_16"), "aiff": (44100, 1, "AIFF", "PCM_16"),
    "flac": (44100, 2, "FLAC", "PCM_16"), "ogg": (48000, 1, "OGG", "VORBIS"), "opus": (48000, 1, "OGG", "OPUS"),
    "mp3": (48000, 2, "MP3", None),
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_rates_and_channels(name):
    rate_hz, channels, form, subtype = GOOD[name]
    audio = load_audio(encode(tone(rate_hz, channels), rate_hz, form, subtype))
    assert audio.dtype == np.float32 and audio.shape == (16000,)
    middle = slice(2000, 14000)   # a resampler and a codec blur the ends
    np.testing.assert_allclose(audio[middle], tone(16000)[middle], atol=0.03)


def test_pcm_is_exact_and_24_bit_is_not_rounded_to_16():
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    np.testing.assert_array_equal(load_audio(encode(samples, 16000)) * 32768, samples)
    fine = np.array([1, -3, 5], np.int32) << 8
    np.testing.assert_array_equal(load_audio(encode(fine, 16000, "WAV", "PCM_24")) * 2**23, [1, -3, 5])


def test_resampling_keeps_frequency_and_removes_what_aliases():
    high = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000).astype(np.float32)   # above 8 kHz
    assert np.abs(resample(high, 48000, 16000)[1000:-1000]).max() < 1e-4


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_file_is_refused_whatever_the_format(name):
    rate_hz, channels, form, subtype = GOOD[name]
    whole = encode(tone(rate_hz, channels), rate_hz, form, subtype)
    for length in [*range(1, 100, 5), len(whole) // 2, len(whole) - 1000, len(whole) - 1]:
        with pytest.raises(AudioError, match="cut.wav: "):
            load_audio(whole[:length], name="cut.wav")


def wav_with(**changes):
    data = bytearray(encode(np.zeros(100, np.int16), 16000))
    for offset, value in changes.values():
        data[offset:offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("data, message", [
    (b"", "empty"),
    (b"this is no sound at all, but a text" * 10, "cannot be decoded"),
    (wav_with(rate=(24, b"\0\0\0\0")), "sample rate is 0 Hz"),
    (encode(np.zeros(0, np.int16), 16000), "0 samples"),
    (wav_with(size=(40, struct.pack("<I", 10**6))), "states 1000000 bytes of samples, the file has 200"),
    (encode(np.array([0.0, np.nan]), 16000, "WAV", "FLOAT"), "NaN"),
    (encode(np.zeros(1), 192000), "1 samples at 192000 Hz"),
], ids=lambda value: value if isinstance(value, str) else "")   # a float WAV has the time of its making in it
def test_bad_files_are_named(data, message, tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)


def test_a_streamed_wav_that_does_not_know_its_size_is_read():
    assert len(load_audio(wav_with(size=(40, b"\xff\xff\xff\xff")))) == 100


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nothing.wav", tmp_path):
        with pytest.raises(AudioError, match="cannot be read"):
            load_audio(path)


def test_mutated_files_give_sound_or_an_audio_error():
    rng = np.random.default_rng(0)
    wholes = [encode(tone(*GOOD[name][:2], seconds=0.05), GOOD[name][0], *GOOD[name][2:])
              for name in ("wav-16", "wav-float", "flac", "ogg", "aiff")]
    outcomes = set()
    for number in range(400):
        data = bytearray(wholes[number % len(wholes)])
        for position in rng.integers(0, min(len(data), 80), 3):
            data[position] = rng.integers(256)
        try:
            audio = load_audio(bytes(data))
            outcomes.add("sound")
            assert audio.ndim == 1 and len(audio) and np.isfinite(audio).all()
        except AudioError:
            outcomes.add("error")
    assert outcomes == {"sound", "error"}
