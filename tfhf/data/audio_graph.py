"""WAV bytes into float32 mono 16 kHz inside a TensorFlow graph, with core ops only: what an export starts from.

The graph's `load_audio` (tfhf/data/audio.py), for WAV. `tf.audio.decode_wav` knows 16-bit files only, so the chunks are
read here. Each check is a `tf.debugging.Assert` that the next step depends on: bad bytes end in one
InvalidArgumentError that says what was got and what was expected. No loop runs longer, and no tensor is larger, than
the bytes received and `max_samples` allow.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfhf.data.audio import LOUDEST, SAMPLE_RATE_HZ
from tfhf.data.audio_formats import A_LAW, EXTENSIBLE, FLOAT, KNOWN_CHUNKS, MAX_CHUNKS, MU_LAW, PCM

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4000, 192000

# The low pass of soxr's very high quality, read off its answers to single impulses: flat to 91.3 % of the lower Nyquist
# frequency, 175 dB down at 100 %. A sinc cut off at CUTOFF of that frequency, under a Kaiser window of shape BETA that
# reaches HALF_WIDTH samples, at the lower rate, to each side.
_CUTOFF, _BETA, _HALF_WIDTH = 0.955664, 18.4333, 133.0


def _require(condition, value, *message):
    """`value`, unless `condition` is false: then an InvalidArgumentError made of `message`."""
    parts = [tf.as_string(part) if tf.is_tensor(part) and part.dtype != tf.string else part for part in message]
    check = tf.debugging.Assert(condition, [tf.strings.join(parts)])
    with tf.control_dependencies([check] if check is not None else []):   # None: checked at once, outside a graph
        return tf.nest.map_structure(tf.identity, value)


def _integer(data, position, size):
    """The little-endian unsigned integer of `size` bytes at `position`: int64 scalar."""
    parts = tf.cast(tf.io.decode_raw(tf.strings.substr(data, position, size), tf.uint8), tf.int64)
    return tf.reduce_sum(parts * tf.constant([256**power for power in range(size)], tf.int64))


class _Chunks(NamedTuple):
    """What was found of a RIFF file's chunks: int64 scalars; -1 where nothing was."""

    position: tf.Tensor   # of the chunk that comes next
    fmt: tf.Tensor        # where the content of the fmt chunk begins
    fmt_size: tf.Tensor
    begin: tf.Tensor      # where the samples begin
    size: tf.Tensor       # their bytes, as the data chunk states them
    size_64: tf.Tensor    # the same, as RF64's ds64 chunk states them
    more: tf.Tensor       # how many data chunks, and WAV files joined to this one, follow


def _kind(data, length, position):
    """The four letters at `position`; fewer at the end of the file."""
    return tf.strings.substr(data, tf.minimum(position, length), 4)


def _is_one_of(kind, kinds):
    return tf.reduce_any(tf.equal(kind, list(kinds)))


def _find_chunks(data, length, name):
    """(begin of fmt, its size, begin of the samples, their size, whether it is exact); all lie within the file."""
    def searching(count, is_over, chunks):
        return ~is_over & (chunks.position + 8 <= length) & (count < MAX_CHUNKS)

    def step(count, is_over, chunks):
        kind = _kind(data, length, chunks.position)
        stated, inside = _integer(data, chunks.position + 4, 4), chunks.position + 8
        has_samples = chunks.begin >= 0
        is_fmt, is_data = tf.equal(kind, b"fmt ") & (chunks.fmt < 0), tf.equal(kind, b"data")
        is_first, is_ds64 = is_data & ~has_samples, tf.equal(kind, b"ds64") & (inside + 16 <= length)
        joined = _is_one_of(kind, (b"RIFF", b"RF64")) & tf.equal(_kind(data, length, inside), b"WAVE")
        more = has_samples & (is_data | joined)
        # Some programs forget to pad a chunk of odd size.
        end = inside + stated
        unpadded = (_is_one_of(_kind(data, length, end), KNOWN_CHUNKS)
                    & ~_is_one_of(_kind(data, length, end + 1), KNOWN_CHUNKS))
        found = _Chunks(position=end + tf.where(unpadded, tf.zeros_like(stated), stated % 2),
                        fmt=tf.where(is_fmt, inside, chunks.fmt), fmt_size=tf.where(is_fmt, stated, chunks.fmt_size),
                        begin=tf.where(is_first, inside, chunks.begin),
                        size=tf.where(is_first, stated, chunks.size),
                        size_64=tf.cond(is_ds64, lambda: _integer(data, inside + 8, 8), lambda: chunks.size_64),
                        more=chunks.more + tf.cast(more, tf.int64))
        # Behind the samples, what is no chunk is junk, and it is passed over.
        junk = has_samples & ~_is_one_of(kind, KNOWN_CHUNKS)
        position = tf.where(junk, chunks.position, found.position)
        return count + 1, junk | more, found._replace(position=position)

    none, zero = tf.constant(-1, tf.int64), tf.constant(0, tf.int64)
    start = _Chunks(tf.constant(12, tf.int64), none, none, none, none, none, zero)
    _, _, found = tf.while_loop(searching, step, (tf.constant(0), tf.constant(False), start), parallel_iterations=1)
    begin = _require(found.begin >= 0, found.begin, name, ": truncated: no data chunk in its ", length,
                     " bytes, expected a whole WAV file")
    begin = _require(tf.equal(found.more, 0), begin, name, ": more samples behind the first data chunk, expected one "
                     "data chunk and one WAV file")
    whole = (found.fmt >= 0) & (found.fmt_size >= 16) & (found.fmt + found.fmt_size <= length)
    fmt, fmt_size = _require(whole, (found.fmt, found.fmt_size), name,
                             ": no fmt chunk of 16 bytes or more in the file, expected a whole WAV file")
    there = length - begin
    size = tf.where(tf.equal(found.size, 0xFFFFFFFF) & (found.size_64 > 0) & (found.size_64 < 1 << 62), found.size_64,
                    found.size)
    placeholder = _is_placeholder(size) & (size > there)
    # A data chunk of 0 bytes is empty if nothing but other chunks follows it, else its program streamed.
    streamed = tf.equal(size, 0) & ~tf.equal(found.position, length)
    exact = ~(placeholder | streamed)
    size = tf.where(exact, size, there)
    size = _require(size <= there, size, name, ": truncated: its header states ", size,
                    " bytes of samples, the file has ", there, ", expected a whole WAV file")
    return fmt, fmt_size, begin, size, exact


def _is_placeholder(size):
    """As tfhf.data.audio_formats.size_is_unknown, which says why."""
    return (size >= 0x7FFFE000) & (size <= 0x80001000) | (size >= 0xFFFFE000) & (size <= 0xFFFFFFFF)


def _read_24_bit(raw):
    parts = tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, 3]), tf.int32)
    low, middle, high = parts[:, 0], parts[:, 1], parts[:, 2]
    signed = tf.where(high >= 128, high - 256, high)
    return tf.cast(low + 256 * middle + 65536 * signed, tf.float32) / 2.0**23


def _mu_law_values():
    """ITU-T G.711: the value of each of the 256 codes."""
    code = 255 - np.arange(256)
    size = ((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33
    return (np.where(code & 128, -size, size) / 8192).astype(np.float32)


def _a_law_values():
    """ITU-T G.711: the value of each of the 256 codes."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    size = np.where(exponent, (2 * mantissa + 33) << np.maximum(exponent - 1, 0), 2 * mantissa + 1)
    return (np.where(code & 128, size, -size) / 4096).astype(np.float32)


def _look_up(values):
    return lambda raw: tf.gather(tf.constant(values), tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.int32))


_READERS = (   # format code, bits per sample, string scalar -> float32 [values] in [-1, 1)
    (PCM, 8, lambda raw: (tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.float32) - 128.0) / 128.0),
    (PCM, 16, lambda raw: tf.cast(tf.io.decode_raw(raw, tf.int16), tf.float32) / 2.0**15),
    (PCM, 24, _read_24_bit),
    (PCM, 32, lambda raw: tf.cast(tf.io.decode_raw(raw, tf.int32), tf.float32) / 2.0**31),
    (FLOAT, 32, lambda raw: tf.io.decode_raw(raw, tf.float32)),
    (FLOAT, 64, lambda raw: tf.cast(tf.io.decode_raw(raw, tf.float64), tf.float32)),
    (A_LAW, 8, _look_up(_a_law_values())),
    (MU_LAW, 8, _look_up(_mu_law_values())),
)


def decode_wav(data, name="wav"):
    """The bytes of a WAV file -> (float32 [samples] mono, the mean of the channels; sample rate in Hz, int32 scalar).

    8-bit unsigned, 16-, 24- and 32-bit signed PCM, 32- and 64-bit float, A-law and mu-law, plain or
    WAVE_FORMAT_EXTENSIBLE, RIFF or RF64, any number of channels, other chunks skipped. Where the program that wrote it
    could not state a size, samples go to the end of the file.

    Args:
      data: string scalar.
      name: what errors call it; str or string scalar.
    Raises (when the graph runs) InvalidArgumentError: not RIFF/WAVE, truncated, joined files, a kind of sample not
    named above, a rate outside 4 to 192 kHz, 0 samples, NaN, infinite or huge samples.
    """
    data, name = tf.convert_to_tensor(data, tf.string), tf.convert_to_tensor(name, tf.string)
    length = tf.cast(tf.strings.length(data), tf.int64)
    data = _require(length > 0, data, name, ": the file is empty (0 bytes), expected a WAV file")
    data = _require(length >= 12, data, name, ": only ", length, " bytes, expected a whole WAV file")
    is_riff = _is_one_of(tf.strings.substr(data, 0, 4), (b"RIFF", b"RF64"))
    is_wave = is_riff & tf.equal(tf.strings.substr(data, 8, 4), b"WAVE")
    data = _require(is_wave, data, name, ": does not begin with RIFF and WAVE, expected a WAV file")
    fmt, fmt_size, begin, size, exact = _find_chunks(data, length, name)

    code, channels, rate = _integer(data, fmt, 2), _integer(data, fmt + 2, 2), _integer(data, fmt + 4, 4)
    frame_bytes, bits = _integer(data, fmt + 12, 2), _integer(data, fmt + 14, 2)
    # An extensible header keeps the format code in the first two bytes of its sub-format, 24 bytes further on.
    extended = tf.equal(code, EXTENSIBLE) & (fmt_size >= 40)
    code = tf.cond(extended, lambda: _integer(data, fmt + 24, 2), lambda: code)
    rate = _require(rate > 0, rate, name, ": the sample rate is 0 Hz, expected more than 0")
    rate = _require((rate >= LOWEST_RATE_HZ) & (rate <= HIGHEST_RATE_HZ), rate, name, ": the sample rate is ", rate,
                    f" Hz, expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
    known = tf.stack([tf.equal(code, c) & tf.equal(bits, b) for c, b, _ in _READERS])
    which = tf.argmax(tf.cast(known, tf.int32), output_type=tf.int32)
    which = _require(tf.reduce_any(known), which, name, ": format code ", code, " with ", bits, " bits per sample, "
                     "expected PCM (1) with 8, 16, 24 or 32 bits, float (3) with 32 or 64, A-law (6) or mu-law (7) "
                     "with 8")
    channels = _require((channels > 0) & tf.equal(frame_bytes, channels * bits // 8), channels, name, ": ", channels,
                        " channels of ", bits, " bits in frames of ", frame_bytes, " bytes, expected frames of ",
                        channels * bits // 8, " bytes and at least one channel")
    frame_bytes = channels * bits // 8
    odd = size % frame_bytes
    # Of samples to the end of the file, a last byte may be the padding of an odd number.
    padded = tf.equal(odd, 1) & tf.equal(size % 2, 0)
    size = _require(exact | tf.equal(odd, 0) | padded, size, name, ": truncated: ", size,
                    " bytes of samples, the last ", odd, " of them part of a frame of ", frame_bytes,
                    ", expected a whole WAV file")
    frames = size // frame_bytes
    frames = _require(frames > 0, frames, name, ": 0 samples, expected at least one")

    raw = tf.strings.substr(data, begin, frames * frame_bytes)
    # The default argument binds each reader to its own branch.
    values = tf.switch_case(which, [lambda read=read: read(raw) for _, _, read in _READERS])
    audio = tf.reduce_mean(tf.reshape(values, tf.stack([frames, channels])), axis=1)
    audio = _require(tf.reduce_all(tf.abs(audio) <= LOUDEST), audio, name,   # NaN is not below either
                     f": holds NaN, infinite or huge samples, expected none beyond {LOUDEST:g} times full scale")
    return audio, tf.cast(rate, tf.int32)


def resampled_length(samples, from_hz, to_hz):
    """How many samples `resample` gives for `samples`: int64, n * to / from rounded to the nearest."""
    samples, from_hz, to_hz = (tf.cast(value, tf.int64) for value in (samples, from_hz, to_hz))
    return (2 * samples * to_hz + from_hz) // (2 * from_hz)


def _greatest_common_divisor(a, b):
    # Euclid: at most about 40 steps for rates below 2^18.
    return tf.while_loop(lambda a, b: b > 0, lambda a, b: (b, a % b), (a, b), maximum_iterations=64)[0]


def _low_pass(size, from_hz, to_hz):
    """The response of a Kaiser-windowed sinc at the bins of an rfft of `size` samples at from_hz: float32 [size//2+1].

    Zero phase: the taps are laid around sample 0 of the circle, so the transform is real and nothing is delayed.
    """
    lower_hz = tf.cast(tf.minimum(from_hz, to_hz), tf.float64)
    per_input = lower_hz / tf.cast(from_hz, tf.float64)        # samples at the lower rate for each of the input's
    reach = tf.cast(tf.math.ceil(_HALF_WIDTH / per_input), tf.int64)
    cutoff = per_input * _CUTOFF
    time = tf.cast(tf.range(reach + 1), tf.float64)            # the taps are symmetric: one side, then its mirror
    angle = math.pi * cutoff * time
    sinc = cutoff * tf.where(time > 0, tf.sin(angle) / tf.where(time > 0, angle, tf.ones_like(angle)), 1.0)
    inside = tf.sqrt(tf.maximum(1 - tf.square(time * per_input / _HALF_WIDTH), 0))
    taps = sinc * tf.math.special.bessel_i0e(_BETA * inside) * tf.exp(_BETA * (inside - 1))
    taps /= tf.math.special.bessel_i0e(tf.constant(_BETA, tf.float64))
    circle = tf.concat([taps, tf.zeros([size - 2 * reach - 1], tf.float64), tf.reverse(taps[1:], [0])], axis=0)
    return tf.math.real(tf.signal.rfft(tf.cast(circle, tf.float32)))


def resample(audio, rate, to_hz=SAMPLE_RATE_HZ):
    """float32 [n] at `rate` Hz -> float32 [n * to_hz / rate, rounded] at to_hz; at to_hz already, the same samples.

    A Kaiser-windowed sinc with soxr's pass band, multiplied in the frequency domain: the spectrum is cut or widened to
    the new rate. The signal is followed by silence, longer than the filter reaches, up to a whole number of periods of
    both rates (rate / gcd samples: never more than a second), so that the two lengths are exact.

    Args:
      audio: float32 [n], n > 0.  rate: int32 scalar, known only when the graph runs.  to_hz: int.
    """
    rate, to_hz = tf.cast(rate, tf.int64), tf.constant(to_hz, tf.int64)

    def convert():
        count = tf.size(audio, out_type=tf.int64)
        divisor = _greatest_common_divisor(rate, to_hz)
        period_in, period_out = rate // divisor, to_hz // divisor
        reach = tf.cast(_HALF_WIDTH, tf.int64) * (rate // tf.minimum(rate, to_hz) + 1)
        periods = -(-(count + 2 * reach + 2) // period_in)
        # An even number of periods: both transforms have even lengths, and so a bin at their Nyquist frequency.
        periods += periods % 2
        size_in, size_out = periods * period_in, periods * period_out
        spectrum = tf.signal.rfft(tf.concat([audio, tf.zeros([size_in - count], tf.float32)], axis=0))
        spectrum *= tf.cast(_low_pass(size_in, rate, to_hz), tf.complex64)
        bins_in, bins_out = size_in // 2 + 1, size_out // 2 + 1
        spectrum = spectrum[:tf.minimum(bins_in, bins_out)]
        spectrum = tf.concat([spectrum, tf.zeros([tf.maximum(bins_out - bins_in, 0)], tf.complex64)], axis=0)
        wave = tf.signal.irfft(spectrum, [tf.cast(size_out, tf.int32)])
        return wave[:resampled_length(count, rate, to_hz)] * tf.cast(size_out / size_in, tf.float32)

    return tf.cond(tf.equal(rate, to_hz), lambda: tf.identity(audio), convert)


def decode_to_16khz(wav, max_samples=480000):
    """The bytes of WAV files, string [batch] -> float32 [batch, max_samples], mono 16 kHz, zeros after each end.

    Raises (when the graph runs) InvalidArgumentError, which names the file by its place in the batch: what
    `decode_wav` raises, and a sound longer than max_samples or, after resampling, of no sample at all.
    """
    return decode_with_lengths(wav, max_samples)[0]


def decode_with_lengths(wav, max_samples=480000):
    """As `decode_to_16khz` -> (float32 [batch, max_samples], int32 [batch]: the samples before each end)."""
    wav = tf.convert_to_tensor(wav, tf.string)

    def one(item):
        index, data = item
        name = tf.strings.join(["wav ", tf.as_string(index), " of the batch"])
        audio, rate = decode_wav(data, name)
        count = resampled_length(tf.size(audio), rate, SAMPLE_RATE_HZ)
        audio = _require(count <= max_samples, audio, name, ": ", tf.size(audio), " samples at ", rate, " Hz are ",
                         count, " at 16 kHz, expected ", tf.constant(max_samples), " or fewer")
        audio = _require(count > 0, audio, name, ": ", tf.size(audio), " samples at ", rate,
                         " Hz are less than one at 16 kHz, expected at least one")
        audio = resample(audio, rate)
        padded = tf.pad(audio, [[0, max_samples - tf.size(audio)]])
        return tf.ensure_shape(padded, [max_samples]), tf.size(audio)

    return tf.map_fn(one, (tf.range(tf.size(wav)), wav), fn_output_signature=(
        tf.TensorSpec([max_samples], tf.float32), tf.TensorSpec([], tf.int32)))
