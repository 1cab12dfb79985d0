"""Sound files: what must work, and what must be refused by name."""

import io
import struct

import numpy as np
import pytest
import soundfile

from tfhf.data.audio import AudioError, load_audio, read_audio, resample

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


def test_left_right_mix_and_each():
    left, right = tone(16000), np.zeros(16000, np.float32)
    call = encode(np.stack([left, right], axis=1), 16000, "WAV", "FLOAT")
    np.testing.assert_array_equal(read_audio(call, channel="left").samples, left)
    np.testing.assert_array_equal(read_audio(call, channel="right").samples, right)
    np.testing.assert_array_equal(read_audio(call).samples, left / 2)
    np.testing.assert_array_equal(read_audio(call, channel="each").samples, np.stack([left, right], axis=1))
    assert read_audio(call).channels == 2
    assert read_audio(call, 8000, channel="each").samples.shape == (8000, 2)
    for channel in ("left", "right"):
        with pytest.raises(AudioError, match=f"one channel, expected two or more to take the {channel} one"):
            read_audio(encode(left, 16000), channel=channel)
    with pytest.raises(ValueError, match="channel='both'"):
        read_audio(call, channel="both")


@pytest.mark.parametrize("form, subtype", [("WAV", "PCM_16"), ("WAV", "DOUBLE"), ("WAV", "MS_ADPCM"),
                                           ("AIFF", "PCM_24"), ("CAF", "ULAW"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
                                           ("MP3", None)])
@pytest.mark.parametrize("offset, duration", [(0, 0.25), (0.1, 0.333), (0.75, None), (0.3, 1 / 44100), (0.9, 0.14)])
def test_a_segment_is_cut_at_the_files_own_rate(form, subtype, offset, duration):
    data = encode(tone(44100), 44100, form, subtype)
    whole = read_audio(data, 44100).samples
    end = len(whole) if duration is None else round((offset + duration) * 44100)
    segment = read_audio(data, 44100, offset=offset, duration=duration)
    np.testing.assert_array_equal(segment.samples, whole[round(offset * 44100):end])
    assert segment.file_samples == len(segment.samples) and segment.file_rate_hz == 44100


def test_neighbouring_segments_share_no_sample_and_lose_none():
    data = encode(np.random.default_rng(0).uniform(-1, 1, 44100), 44100, subtype="PCM_24")
    edges = [0, 0.1001, 0.25555, 0.7, 1.0]
    parts = [read_audio(data, 44100, offset=begin, duration=end - begin).samples
             for begin, end in zip(edges, edges[1:])]
    np.testing.assert_array_equal(np.concatenate(parts), load_audio(data, 44100))


@pytest.mark.parametrize("offset, duration, message", [
    (1.0, 0.3, r"1.000 s of sound, expected more: the segment begins at 1 s"),
    (0.5, 0.6, r"1.000 s of sound, expected more: the segment ends at 1.1 s"),
    (-0.5, 0.6, "offset -0.5 s"), (0.5, 0.0, "duration 0 s"), (0.5, float("nan"), "duration nan s"),
    (float("inf"), None, "offset inf s"),
])
def test_a_segment_outside_the_recording_is_named(offset, duration, message):
    with pytest.raises(AudioError, match="call.wav: " + message):
        read_audio(encode(tone(16000), 16000), name="call.wav", offset=offset, duration=duration)


def test_the_overshoot_of_a_lossy_decoder_is_clipped_and_counted():
    square = np.sign(tone(16000, seconds=0.5))
    sound = read_audio(encode(square, 16000, "MP3"))
    assert sound.clipped > 100 and np.abs(sound.samples).max() == 1.0
    loud_float = read_audio(encode(1.5 * square, 16000, "WAV", "FLOAT"))   # no decoder's doing: the caller decides
    assert loud_float.clipped == 0 and np.abs(loud_float.samples).max() == 1.5


def test_one_recording_gives_no_more_than_the_stated_seconds():
    data = encode(tone(16000), 16000)
    assert len(read_audio(data, max_seconds=1.0).samples) == 16000
    with pytest.raises(AudioError, match="longer than 15984 samples at 16000 Hz, expected at most 0.999 s"):
        read_audio(data, max_seconds=0.999)
    stereo = encode(tone(16000, 2), 16000)
    with pytest.raises(AudioError, match="expected at most 1.5 s"):
        read_audio(stereo, max_seconds=1.5, channel="each")
    assert len(read_audio(stereo, max_seconds=1.5).samples) == 16000


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_recorder_has_is_refused(rate_hz):
    with pytest.raises(AudioError, match=f"the sample rate is {rate_hz} Hz, expected 1000 to 1000000"):
        load_audio(encode(np.zeros(100), rate_hz))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 96000])
def test_blocks_are_resampled_as_the_whole_is(rate_hz):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 700_000).astype(np.float32)
    np.testing.assert_array_equal(load_audio(encode(samples, rate_hz, subtype="FLOAT")),
                                  resample(samples, rate_hz, 16000))
