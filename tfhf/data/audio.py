"""Sound files into float32 at one sample rate: libsndfile to decode, soxr to resample, a block at a time.

A frame count in a header is an estimate or a lie in many real files, so blocks are read to the end of the stream, and
lengths are compared only where the format states one exactly. libsndfile reads a cut file without an error and gives
what is left of it. So the sizes that the file itself states are checked here first: the data chunk of WAV (RIFF, RF64)
and AIFF, the end-of-stream page of Ogg, the frame counts of FLAC and, where the file has one, of MP3.
"""

import contextlib
import dataclasses
import io
import math
import os
import struct

import numpy as np
import soundfile
import soxr

from tfhf.data import storage

SAMPLE_RATE_HZ = 16000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 1_000_000   # a file of 1 Hz would grow 16,000 times when it is resampled
MAX_SECONDS = 4 * 3600.0   # of one recording: at 16 kHz 230 million samples, 0.92 GB
LOUDEST = 1e6   # floats of 1e38 are no sound, and turn into NaN when they are resampled; full scale is 1
MIX, LEFT, RIGHT, EACH = CHANNELS = ("mix", "left", "right", "each")
_BLOCK_VALUES = 1 << 18
_ROUNDING_S = 0.05   # tables state ends rounded: so far may a segment reach beyond the recording
_LOSSY = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS", "OPUS")
_UNKNOWN_SIZE = 0xFFFFFFFF   # what a program writes that streams a WAV and cannot go back to its header
_EXPECTED = "expected a whole WAV, FLAC, MP3 or Ogg file"


class AudioError(ValueError):
    """A sound that cannot be used; the message names the file, what was got and what was expected."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """What `read_audio` gives.

    Attributes:
      samples: float32 [n] at sample_rate_hz; [n, channels] with channel="each".
      channels: of the file.
      file_rate_hz: the file's own sample rate.
      file_samples: how many samples of each channel, at the file's own rate, `samples` was made from.
      clipped: how many samples of the channels used a lossy decoder gave beyond full scale. They are set to full
        scale, as every decoder does that gives integers.
    """

    samples: np.ndarray
    sample_rate_hz: int
    channels: int
    file_rate_hz: int
    file_samples: int
    clipped: int


def load_audio(path_or_bytes, sample_rate_hz=SAMPLE_RATE_HZ, name=None):
    """A sound file -> float32 [num_samples], mono (the mean of the channels), at sample_rate_hz, unscaled.

    Args:
      path_or_bytes: a path (local or gs://), or the file's content.
      name: what to call it in an error; the path, if not given.
    Raises AudioError: no such file, empty, not a sound, truncated, a rate outside 1 kHz to 1 MHz, 0 samples, NaN,
    infinite or huge samples, longer than MAX_SECONDS.
    """
    return read_audio(path_or_bytes, sample_rate_hz, name).samples


def read_audio(path_or_bytes, sample_rate_hz=SAMPLE_RATE_HZ, name=None, *, channel=MIX, offset=0.0, duration=None,
               max_seconds=None):
    """A sound file, or a segment of it -> Sound. Memory is bounded by the file, a block and the samples that it gives.

    Args:
      path_or_bytes, sample_rate_hz, name: as for load_audio.
      channel: "mix" (the mean), "left" and "right" (of a file with two channels or more), or "each".
      offset, duration: the segment in seconds, cut at the file's own rate before anything is resampled. It begins at
        sample round(offset * rate) and ends before round((offset + duration) * rate), so that neighbours share no
        sample. duration None: to the end. An end up to 0.05 s behind the recording's is taken for it: tables round.
      max_seconds: the most that one recording may give, all channels that are kept together; None: MAX_SECONDS.
    Raises AudioError: as load_audio; a segment outside the recording; a channel that the file lacks.
    """
    data, name = _content(path_or_bytes, name)
    if channel not in CHANNELS:
        raise ValueError(f"channel={channel!r}, expected one of {CHANNELS}")
    segment = _Segment(name, offset, duration)
    _refuse_truncated(data, name)
    stream = _SoundFile(data, name)
    if not LOWEST_RATE_HZ <= stream.rate_hz <= HIGHEST_RATE_HZ:
        raise AudioError(f"{name}: the sample rate is {stream.rate_hz} Hz, expected {LOWEST_RATE_HZ} to "
                         f"{HIGHEST_RATE_HZ}")
    if channel in (LEFT, RIGHT) and stream.channels < 2:
        raise AudioError(f"{name}: one channel, expected two or more to take the {channel} one")
    kept = stream.channels if channel == EACH else 1
    max_seconds = MAX_SECONDS if max_seconds is None else max_seconds
    most = int(max_seconds * stream.rate_hz / kept)
    output = _Resampled(stream.rate_hz, sample_rate_hz, kept)
    count = clipped = 0
    for block in segment.cut(stream.blocks(), stream.rate_hz):
        count += len(block)
        if count > most:
            raise AudioError(f"{name}: longer than {most} samples at {stream.rate_hz} Hz, expected at most "
                             f"{max_seconds:g} s of sound in one recording: cut it into pieces")
        if channel in (LEFT, RIGHT):
            block = block[:, CHANNELS.index(channel) - 1:][:, :1]
        if not np.all(np.abs(block) <= LOUDEST):   # NaN is not below either
            raise AudioError(f"{name}: holds NaN, infinite or huge samples, expected none beyond {LOUDEST:g} times "
                             "full scale")
        if stream.lossy:
            clipped += np.count_nonzero(np.abs(block) > 1)
            block = np.clip(block, -1, 1)
        if channel == MIX and stream.channels > 1:
            block = block.mean(axis=1, dtype=np.float32, keepdims=True)
        output.add(block)
    if not count:
        raise AudioError(f"{name}: 0 samples, expected at least one")
    samples = output.finish()
    if not len(samples):
        raise AudioError(f"{name}: {count} samples at {stream.rate_hz} Hz are less than one at {sample_rate_hz} Hz")
    return Sound(samples if channel == EACH else samples[:, 0], sample_rate_hz, stream.channels, stream.rate_hz, count,
                 int(clipped))


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


def _content(path_or_bytes, name):
    """-> (the bytes, what errors call them)."""
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
    return data, name


class _Segment:
    """The samples from `offset` seconds on, `duration` seconds of them, out of a stream of blocks."""

    def __init__(self, name, offset, duration):
        for what, value in (("offset", offset), ("duration", duration)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise AudioError(f"{name}: {what} {value} s, expected a number of seconds, 0 or more")
        if duration == 0:
            raise AudioError(f"{name}: duration 0 s, expected more")
        self._name, self._offset, self._duration = name, offset, duration

    def cut(self, blocks, rate_hz):
        """Blocks [n, channels] of the whole -> those of the segment."""
        begin = round(self._offset * rate_hz)
        end = None if self._duration is None else round((self._offset + self._duration) * rate_hz)
        position = 0
        for block in blocks:
            first = max(begin - position, 0)
            last = len(block) if end is None else min(end - position, len(block))
            if first < last:
                yield block[first:last]
            position += len(block)
            if end is not None and position >= end:
                return
        if begin and position <= begin:
            raise AudioError(f"{self._name}: {position / rate_hz:.3f} s of sound, expected more: the segment begins at "
                             f"{self._offset:g} s")
        if end is not None and end - position > _ROUNDING_S * rate_hz:
            raise AudioError(f"{self._name}: {position / rate_hz:.3f} s of sound, expected more: the segment ends at "
                             f"{self._offset + self._duration:g} s")


class _Resampled:
    """Blocks of float32 [n, channels] at one rate, collected at another in one array that grows in its place."""

    def __init__(self, from_hz, to_hz, channels):
        self._stream = None
        if from_hz != to_hz:
            self._stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality="VHQ")
        self._samples, self._count = np.empty((0, channels), np.float32), 0
        self._channels = channels

    def add(self, block):
        """Takes the next block."""
        self._keep(self._stream.resample_chunk(block) if self._stream else block)

    def finish(self):
        """-> float32 [n, channels], all of it."""
        if self._stream:
            self._keep(self._stream.resample_chunk(np.empty((0, self._channels), np.float32), last=True))
        self._grow(self._count)
        return self._samples

    def _keep(self, block):
        count = self._count + len(block)
        if count > len(self._samples):
            self._grow(max(count, len(self._samples) * 5 // 4))
        self._samples[self._count:count] = block
        self._count = count

    def _grow(self, count):
        # resize moves the pages of a large array and copies nothing: list and sum would take the memory twice.
        self._samples.resize((count, self._channels), refcheck=False)


class _Endless(soundfile.SoundFile):
    """A SoundFile that is read to where the decoder ends, not to the frames that the header states.

    soundfile cuts each read at the stated frames of a file that can be sought in, and seeks after each.
    """

    def seekable(self):
        """Not for soundfile's own arithmetic; libsndfile seeks all the same."""
        return False


class _SoundFile:
    """What libsndfile decodes."""

    def __init__(self, data, name):
        self._size, self._name = len(data), name
        self._stated = None
        with self._errors():
            self._file = _Endless(io.BytesIO(data))
        self.rate_hz, self.channels = self._file.samplerate, self._file.channels
        self.lossy = self._file.subtype in _LOSSY
        states_frames = self._file.format == "FLAC" or (self._file.format == "MP3" and
                                                        (b"Xing" in data[:4096] or b"Info" in data[:4096]))
        if states_frames and self._file.frames < 1 << 62:   # libsndfile gives 2^63 - 1 for an unknown number
            self._stated = self._file.frames

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{self._name}: cannot be decoded ({error.error_string} {self._size} bytes), "
                             f"{_EXPECTED}") from error

    def blocks(self):
        """Yields float32 [n, channels] to the end of the stream."""
        size = max(1, _BLOCK_VALUES // self.channels)
        count = 0
        with self._file, self._errors():
            while len(block := self._file.read(size, dtype="float32", always_2d=True)):
                count += len(block)
                yield block
        if self._stated is not None and count < self._stated:
            raise AudioError(f"{self._name}: truncated: {count} of the {self._stated} samples its header states, "
                             f"{_EXPECTED}")


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
