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

import numpy as np
import soundfile
import soxr

from tfhf.data import storage
from tfhf.data.audio_decoders import open_part
from tfhf.data.audio_formats import sound_parts
from tfhf.data.audio_part import EXPECTED, AudioError

SAMPLE_RATE_HZ = 16000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 1_000_000   # a file of 1 Hz would grow 16,000 times when it is resampled
MAX_SECONDS = 4 * 3600.0   # of one recording: at 16 kHz 230 million samples, 0.92 GB
LOUDEST = 1e6   # floats of 1e38 are no sound, and turn into NaN when they are resampled; full scale is 1
MIX, LEFT, RIGHT, EACH = CHANNELS = ("mix", "left", "right", "each")
_ROUNDING_S = 0.05   # tables state ends rounded: so far may a segment reach beyond the recording


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
    max_seconds = MAX_SECONDS if max_seconds is None else max_seconds
    with contextlib.closing(_Streams(data, name)) as streams:
        return _collect(streams, segment, name, sample_rate_hz, channel, max_seconds)


def _collect(streams, segment, name, sample_rate_hz, channel, max_seconds):
    """Reads the segment out of the streams -> Sound."""
    rate_hz = streams.rate_hz
    if channel in (LEFT, RIGHT) and streams.channels < 2:
        raise AudioError(f"{name}: one channel, expected two or more to take the {channel} one")
    kept = streams.channels if channel == EACH else 1
    most = int(max_seconds * rate_hz / kept)
    output = _Resampled(rate_hz, sample_rate_hz, kept, name)
    count = clipped = 0
    for block in segment.cut(streams):
        count += len(block)
        if count > most:
            raise AudioError(f"{name}: longer than {most} samples at {rate_hz} Hz, expected at most {max_seconds:g} s "
                             "of sound in one recording: cut it into pieces")
        if channel in (LEFT, RIGHT):
            index = (LEFT, RIGHT).index(channel)
            block = block[:, index:index + 1]
        loudest = max(block.max(), -block.min())
        if not loudest <= LOUDEST:   # NaN is not below either
            raise AudioError(f"{name}: holds NaN, infinite or huge samples, expected none beyond {LOUDEST:g} times "
                             "full scale")
        if loudest > 1 and streams.lossy:
            clipped += int(np.count_nonzero(np.abs(block) > 1))
            block = np.clip(block, -1, 1)
        if channel == MIX and streams.channels > 1:
            block = _mean(block)
        output.add(block)
    if not count:
        raise AudioError(f"{name}: 0 samples, expected at least one")
    samples = output.finish()
    return Sound(samples if channel == EACH else samples[:, 0], sample_rate_hz, streams.channels, rate_hz, count,
                 clipped)


def _mean(block):
    """float32 [n, channels] -> [n, 1]. NumPy's own mean over so short an axis takes ten times as long."""
    total = block[:, :1].copy()
    for channel in range(1, block.shape[1]):
        total += block[:, channel:channel + 1]
    total /= block.shape[1]
    return total


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
        except storage.StorageError:
            raise   # a bucket that does not answer is no fault of this file
        except (OSError, ValueError) as error:   # ValueError: a path with a NUL in it
            raise AudioError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}), {EXPECTED}"
                             ) from error
    if not data:
        raise AudioError(f"{name}: the file is empty (0 bytes), {EXPECTED}")
    return data, name


class _Streams:
    """The streams of a file, one behind the other, as one. They must have one rate and one number of channels."""

    def __init__(self, data, name):
        self._name, self._parts = name, sound_parts(data, name)
        self._first = self._open = open_part(self._parts[0], name)
        self.rate_hz, self.channels, self.lossy = self._first.rate_hz, self._first.channels, self._first.lossy
        if not LOWEST_RATE_HZ <= self.rate_hz <= HIGHEST_RATE_HZ:
            raise AudioError(f"{name}: the sample rate is {self.rate_hz} Hz, expected {LOWEST_RATE_HZ} to "
                             f"{HIGHEST_RATE_HZ}")

    def skip(self, count):
        """Passes over up to `count` samples without decoding them, where that is exact -> how many."""
        return self._first.skip(count) if len(self._parts) == 1 else 0

    def blocks(self):
        """Yields float32 [n, channels] to the end of the last stream."""
        yield from self._first.blocks()
        for number, part in enumerate(self._parts[1:], 2):
            stream = self._open = open_part(part, self._name)
            if (stream.rate_hz, stream.channels) != (self.rate_hz, self.channels):
                raise AudioError(f"{self._name}: stream {number} of {len(self._parts)} joined ones has "
                                 f"{stream.channels} channels at {stream.rate_hz} Hz, the first {self.channels} at "
                                 f"{self.rate_hz} Hz, expected all alike")
            yield from stream.blocks()

    def close(self):
        """Closes what is open."""
        self._open.close()


class _Segment:
    """The samples from `offset` seconds on, `duration` seconds of them, out of a stream of blocks."""

    def __init__(self, name, offset, duration):
        for what, value in (("offset", offset), ("duration", duration)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise AudioError(f"{name}: {what} {value} s, expected a number of seconds, 0 or more")
        if duration == 0:
            raise AudioError(f"{name}: duration 0 s, expected more")
        self._name, self._offset, self._duration = name, offset, duration

    def cut(self, streams):
        """Yields the blocks [n, channels] of the segment."""
        rate_hz = streams.rate_hz
        begin = round(self._offset * rate_hz)
        end = None if self._duration is None else round((self._offset + self._duration) * rate_hz)
        position = streams.skip(begin)
        for block in streams.blocks():
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

    def __init__(self, from_hz, to_hz, channels, name):
        self._from_hz, self._to_hz, self._channels, self._name = from_hz, to_hz, channels, name
        self._stream, self._last = None, None
        self._samples, self._count = None, 0

    def add(self, block):
        """Takes the next block."""
        if self._last is not None:
            self._keep(self._last, last=False)
        self._last = block

    def finish(self):
        """-> float32 [n, channels], all of it."""
        if self._samples is None:   # a short sound, of one block: nothing to collect
            return resample(self._last, self._from_hz, self._to_hz, self._name)
        self._keep(self._last, last=True)
        self._grow(self._count)
        return self._samples

    def _keep(self, block, last):
        if self._samples is None:
            self._samples = np.empty((0, self._channels), np.float32)
            if self._from_hz != self._to_hz:
                self._stream = soxr.ResampleStream(self._from_hz, self._to_hz, self._channels, dtype="float32",
                                                   quality="VHQ")
        if self._stream:
            block = self._stream.resample_chunk(block, last=last)
        count = self._count + len(block)
        if count > len(self._samples):
            self._grow(max(count, len(self._samples) * 5 // 4))
        self._samples[self._count:count] = block
        self._count = count

    def _grow(self, count):
        # resize moves the pages of a large array and copies nothing: list and sum would take the memory twice.
        self._samples.resize((count, self._channels), refcheck=False)
