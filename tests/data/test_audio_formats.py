"""Every format of docs/audio_formats.md: read as ffmpeg reads it or refused in one line, and refused when it is cut."""

import numpy as np
import pytest

from tests.audio_files import FORMATS, encoder, ffmpeg_samples, made
from tfhf.data import audio_decoders
from tfhf.data.audio import AudioError, read_audio


@pytest.fixture(autouse=True)
def _one_ffmpeg(monkeypatch):
    """The program that the samples are compared with decodes too: versions trim the end of AAC differently."""
    monkeypatch.setattr(audio_decoders, "ffmpeg_program", encoder)


@pytest.mark.parametrize("name", FORMATS)
def test_samples_are_those_of_ffmpeg(name):
    kind, data = FORMATS[name], made(name)
    if kind.records == "refused":
        with pytest.raises(AudioError, match=r"\Aclip: [^\n]*expected[^\n]*\Z"):
            read_audio(data, name="clip")
        return
    sound = read_audio(data, kind.rate_hz, name="clip", channel="each")
    assert (sound.file_rate_hz, sound.channels) == (kind.rate_hz, kind.channels)
    assert len(sound.samples) >= 0.96 * kind.times * 1.2 * kind.rate_hz   # WMA drops its last, short frame
    if kind.tolerance is not None:
        expected = ffmpeg_samples(data, kind.channels)
        assert len(sound.samples) - len(expected) == kind.longer
        np.testing.assert_allclose(sound.samples[:len(expected)], expected.clip(-1, 1), rtol=0, atol=kind.tolerance)


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.records != "refused"])
def test_a_cut_file_is_refused_or_nothing_is_missing(name):
    """Where the format states no length, a cut between two frames leaves a whole, shorter file."""
    kind, data = FORMATS[name], made(name)
    whole = read_audio(data, kind.rate_hz, channel="each").samples
    lengths = [20, 60, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 1]
    if kind.needs_ffmpeg:
        lengths = lengths[2:5]   # half a second each
    for length in lengths:
        try:
            samples = read_audio(data[:length], kind.rate_hz, name="clip", channel="each").samples
        except AudioError as error:
            assert str(error).startswith("clip: ") and "\n" not in str(error)
        else:
            assert len(samples) == len(whole) or not kind.sees_cut, length
            np.testing.assert_array_equal(samples, whole[:len(samples)])
