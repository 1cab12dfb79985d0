"""Sound files into float32 mono at one sample rate: libsndfile to decode, soxr to resample.

libsndfile reads a cut file without a word and gives what is left of it. So the sizes that the file itself states are
checked here first: the data chunk of WAV (RIFF, RF64) and AIFF, the end-of-stream page of Ogg, the frame counts of FLAC
and, where the file has one, of MP3.
"""

import io
import os
import struct

import numpy as np
import soundfile
import soxr

from tfhf.data import storage

SAMPLE_RATE_HZ = 16000
LOUDEST = 1e6   # floats of 1e38 are no sound, and turn into NaN when they are resampled; full scale is 1
_UNKNOWN_SIZE = 0xFFFFFFFF   # what a program writes that streams a WAV and cannot go back to its header
_EXPECTED = "expected a whole WAV, FLAC, MP3 or Ogg file"


class AudioError(ValueError):
    """A sound that cannot be used; the message names the file, what was got and what was expected."""


def load_audio(path_or_bytes, sample_rate_hz=SAMPLE_RATE_HZ, name=None):
    """A sound file -> float32 [num_samples], mono (the mean of the channels), at sample_rate_hz, unscaled.

    Args:
      path_or_bytes: a path (local or gs://), or the file's content.
      name: what to call it in an error; the path, if not given.
    Raises AudioError: no such file, empty, not a sound, truncated, 0 Hz, 0 samples, NaN, infinite or huge samples.
    """
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        name, data = name or "audio bytes", bytes(path_or_bytes)
    else:
        name = name or os.fspath(path_or_bytes)
        try:
            data = storage.read_bytes(os.fspath(path_or_bytes))
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror or error}), {_EXPECTED}") from error
    if not data:
        raise AudioError(f"{name}: the file is empty (0 bytes), {_EXPECTED}")
    _refuse_truncated(data, name)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            stated, rate, kind = file.frames, file.samplerate, file.format
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: cannot be decoded ({error.error_string} {len(data)} bytes), {_EXPECTED}") from error
    if rate <= 0:
        raise AudioError(f"{name}: the sample rate is {rate} Hz, expected more than 0")
    if kind in ("FLAC", "MP3") and len(samples) < stated:
        raise AudioError(f"{name}: truncated: {len(samples)} of the {stated} samples its header states, {_EXPECTED}")
    if not len(samples):
        raise AudioError(f"{name}: 0 samples, expected at least one")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.all(np.abs(mono) <= LOUDEST):   # NaN is not below either
        raise AudioError(f"{name}: holds NaN, infinite or huge samples, expected none beyond {LOUDEST:g} times full "
                         "scale")
    return resample(mono, rate, sample_rate_hz, name)


def tone_wav(seconds=1.0, sample_rate_hz=SAMPLE_RATE_HZ) -> bytes:
    """A quiet 440 Hz tone as the bytes of a 16-bit mono WAV file: a request of which no answer is expected."""
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(2 * np.pi * 440.0 * time), sample_rate_hz, "PCM_16", format="WAV")
    return file.getvalue()


def resample(audio, from_hz, to_hz, name="audio"):
    """float32 [n] at from_hz -> float32 [about n * to_hz / from_hz] at to_hz, soxr's very high quality."""
    if from_hz == to_hz:
        return np.ascontiguousarray(audio)
    resampled = soxr.resample(audio, from_hz, to_hz, quality="VHQ")
    if not len(resampled):
        raise AudioError(f"{name}: {len(audio)} samples at {from_hz} Hz are less than one at {to_hz} Hz")
    return resampled


def _refuse_truncated(data, name):
    magic = data[:4]
    if magic in (b"RIFF", b"RF64", b"RIFX") and data[8:12] == b"WAVE":
        _check_chunks(data, name, ">" if magic == b"RIFX" else "<", b"data")
    elif magic == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        _check_chunks(data, name, ">", b"SSND")
    elif magic == b"OggS":
        last = data.rfind(b"OggS")
        # Byte 5 of a page: 4 is end of stream. Byte 26 counts the lacing values that give the page's size.
        if len(data) < last + 27 or not data[last + 5] & 4:
            raise AudioError(f"{name}: truncated: the last Ogg page is not the end of the stream, {_EXPECTED}")
        lacing = data[last + 27:last + 27 + data[last + 26]]
        if len(data) < last + 27 + data[last + 26] + sum(lacing):
            raise AudioError(f"{name}: truncated in its last Ogg page, {_EXPECTED}")


def _check_chunks(data, name, order, wanted):
    """Walks the chunks of a RIFF or FORM file up to `wanted`, which must lie in the file as large as it says."""
    position, size_64 = 12, None
    while position + 8 <= len(data):
        chunk, size = data[position:position + 4], struct.unpack_from(order + "I", data, position + 4)[0]
        begin = position + 8
        if chunk == b"ds64" and begin + 16 <= len(data):
            size_64 = struct.unpack_from("<Q", data, begin + 8)[0]
        if chunk == b"fmt " and begin + 8 <= len(data) and struct.unpack_from(order + "I", data, begin + 4)[0] == 0:
            raise AudioError(f"{name}: the sample rate is 0 Hz, expected more than 0")
        if chunk == wanted:
            if size == _UNKNOWN_SIZE:
                if size_64 is None:
                    return
                size = size_64
            if size > len(data) - begin:
                raise AudioError(f"{name}: truncated: its header states {size} bytes of samples, the file has "
                                 f"{len(data) - begin}, {_EXPECTED}")
            if size == 0:
                raise AudioError(f"{name}: 0 samples, expected at least one")
            return
        position = begin + size + (size & 1)
    raise AudioError(f"{name}: truncated: no {wanted.decode()} chunk in its {len(data)} bytes, {_EXPECTED}")
