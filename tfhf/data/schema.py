"""What a record holds. Each record type stands here once: how it is encoded and how it is decoded, in one place.

A record is a serialized tf.train.Example, so any TFRecord tool reads it. Audio lies in it as little-endian int16 PCM or
as a FLAC stream of the same int16 samples, mono, never padded and never normalised; padding and features belong to the
task and the model. Images lie in it as the bytes of their files.
"""

import dataclasses
import functools
import hashlib
import io

import numpy as np
import tensorflow as tf

PCM16 = "pcm16"
FLAC = "flac"
AUDIO_ENCODINGS = (PCM16, FLAC)
# int16 -32768..32767 over 32768 is [-1, 1); a power of two, so the division is exact.
INT16_SCALE = 32768.0
_LOUDEST = 16.0   # 24 dB above full scale: louder floats are no sound in [-1, 1], but integers that were never scaled


class RecordError(ValueError):
    """A record, shard, index or manifest that is not what it should be; the message names file and record."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field. kind: string | bytes | int | float | ints | floats | audio. A field without a default is required."""

    name: str
    kind: str
    default: object = None

    def __post_init__(self):
        if self.kind not in _FEATURES:
            raise ValueError(f"field {self.name!r}: kind {self.kind!r}, expected one of {sorted(_FEATURES)}")


@dataclasses.dataclass(frozen=True)
class Packed:
    """An encoded record with what the index needs of it. length: in the unit of the type's length field."""

    id: str
    length: int
    serialized: bytes
    clipped: int = 0    # samples of audio beyond full scale, which were set to it

    @property
    def id_hash(self):
        """The first 8 bytes of the BLAKE2b of the id, as an integer."""
        return int.from_bytes(hashlib.blake2b(self.id.encode("utf-8"), digest_size=8).digest(), "little")


@dataclasses.dataclass(frozen=True)
class RecordType:
    """A named, versioned set of fields. length_field: the int field that length buckets go by."""

    name: str
    version: int
    fields: tuple
    length_field: str
    sample_rate_hz: int | None = None

    def __post_init__(self):
        names = [field.name for field in self.fields]
        for needed in ("id", self.length_field):
            if needed not in names:
                raise ValueError(f"record type {self.name!r} has no field {needed!r}; it has {names}")

    def describe(self):
        """The part of a manifest that says which schema the records follow."""
        return {"name": self.name, "version": self.version, "fields": [[f.name, f.kind] for f in self.fields]}

    @property
    def has_audio(self):
        """Whether one of the fields is audio."""
        return any(field.kind == "audio" for field in self.fields)

    def pack(self, example, audio_encoding=PCM16):
        """Checks and encodes one example.

        Args:
          example: a dict of the fields. audio: float [num_samples] in [-1, 1] or int16 [num_samples], mono, at the
            type's sample rate. num_samples and sample_rate_hz are filled in where there is audio.
          audio_encoding: "pcm16" or "flac".
        Raises RecordError, naming the example and the field.
        """
        example = dict(example)
        where = f"{self.name} example {example.get('id', '?')!r}"
        clipped = 0
        for field in self.fields:
            if field.kind == "audio" and field.name in example:
                example[field.name], beyond = _int16(example[field.name], f"{where}, field {field.name!r}")
                clipped += beyond
                example.setdefault("num_samples", len(example[field.name]))
                example.setdefault("sample_rate_hz", self.sample_rate_hz)
                if example["num_samples"] != len(example[field.name]):
                    raise RecordError(f"{where}: num_samples is {example['num_samples']}, but the audio has "
                                      f"{len(example[field.name])} samples")
                if example["sample_rate_hz"] != self.sample_rate_hz:
                    raise RecordError(f"{where}: sample rate {example['sample_rate_hz']} Hz, expected "
                                      f"{self.sample_rate_hz} Hz: resample it first (tfhf.data.audio.load_audio does)")
        unknown = sorted(set(example) - {field.name for field in self.fields})
        if unknown:
            raise RecordError(f"{where}: unknown fields {unknown}, expected {[field.name for field in self.fields]}")
        features = {}
        for field in self.fields:
            value = example.get(field.name, field.default)
            if value is None:
                raise RecordError(f"{where}: field {field.name!r} ({field.kind}) is missing")
            features.update(_encode_field(field, value, where, audio_encoding, self.sample_rate_hz))
        if not example["id"]:
            raise RecordError(f"{where}: the id is empty, expected a name that is unique in its split")
        proto = tf.train.Example(features=tf.train.Features(feature=features))
        # deterministic: map order is otherwise free, and a writer that runs again must produce the same bytes.
        serialized = proto.SerializeToString(deterministic=True)
        return Packed(example["id"], int(example[self.length_field]), serialized, clipped)

    def encode(self, example, audio_encoding=PCM16):
        """One example (see pack) -> serialized bytes."""
        return self.pack(example, audio_encoding).serialized

    def decode(self, serialized, audio_encoding=None):
        """Scalar string tensor -> dict of tensors; works in a graph.

        audio: float32 [num_samples] in [-1, 1); string and bytes: string []; int: int64 []; float: float32 [];
        ints: int64 [n]; floats: float32 [n].
        audio_encoding: the one encoding that the manifest promises, or None when a record may have either. PCM is
        decoded by core operations; FLAC by soundfile, through a numpy_function (core TensorFlow has no FLAC).
        """
        parsed = tf.io.parse_single_example(serialized, self._features())
        return {field.name: _decode_audio(parsed[field.name], parsed[field.name + "_encoding"], audio_encoding)
                if field.kind == "audio" else parsed[field.name] for field in self.fields}

    def take_audio(self, serialized, row, audio_encoding):
        """Moves a record's audio into a row of a batch, so that no later step has to carry it.

        Args:
          serialized: bytes, as `encode` gives them.
          row: float32 [max_samples], overwritten: the samples in [-1, 1), then zeros.
          audio_encoding: the one encoding that the manifest promises.
        Returns the record without its audio, bytes, as decode_batch takes it.
        Raises RecordError: the audio is longer than the row, or the record is not laid out as `encode` does it.
        """
        begin, data, end = _find_bytes(serialized, self._audio_key)
        samples = (np.frombuffer(serialized, "<i2", (end - data) // 2, data) if audio_encoding == PCM16
                   else _unflac(serialized[data:end]))
        if len(samples) > len(row):
            raise RecordError(f"{len(samples)} samples of audio, expected at most {len(row)}, the bucket")
        own = row[:len(samples)]
        own[:] = samples
        own *= 1.0 / INT16_SCALE
        row[len(samples):].fill(0.0)
        rest = serialized[len(serialized) - _content_size(len(serialized)):begin] + serialized[end:]
        return b"\x0a" + _varint(len(rest)) + rest

    def decode_batch(self, serialized, samples=None):
        """String tensor [batch] -> dict of tensors, each decoded for the whole batch by one operation.

        audio: `samples`; string and bytes: string [batch]; int: int64 [batch]; float: float32 [batch];
        ints, floats: RaggedTensor [batch, (n)].
        samples: float32 [batch, max_samples], the audio that `take_audio` took out of the records; None: of types
        without audio.
        """
        audio = {field.name for field in self.fields if field.kind == "audio"}
        features = {name: feature for name, feature in self._features().items() if name not in audio}
        parsed = {**tf.io.parse_example(serialized, features), **dict.fromkeys(audio, samples)}
        return {field.name: parsed[field.name] for field in self.fields}

    @functools.cached_property
    def _audio_key(self):
        name, = (field.name.encode() for field in self.fields if field.kind == "audio")
        return b"\x0a" + _varint(len(name)) + name + b"\x12"

    def _features(self):
        """What tf.io's parsers are told of the fields."""
        features = {field.name: _FEATURES[field.kind] for field in self.fields}
        audio = [field.name for field in self.fields if field.kind == "audio"]
        return {**features, **{name + "_encoding": _FEATURES["string"] for name in audio}}


_FEATURES = {
    "string": tf.io.FixedLenFeature([], tf.string),
    "bytes": tf.io.FixedLenFeature([], tf.string),
    "audio": tf.io.FixedLenFeature([], tf.string),
    "int": tf.io.FixedLenFeature([], tf.int64),
    "float": tf.io.FixedLenFeature([], tf.float32),
    "ints": tf.io.RaggedFeature(tf.int64),
    "floats": tf.io.RaggedFeature(tf.float32),
}


def _encode_field(field, value, where, audio_encoding, sample_rate_hz):
    """-> {feature name: tf.train.Feature} for one field."""
    if field.kind == "audio":
        if audio_encoding not in AUDIO_ENCODINGS:
            raise RecordError(f"{where}: audio encoding {audio_encoding!r}, expected one of {AUDIO_ENCODINGS}")
        data = value.astype("<i2").tobytes() if audio_encoding == PCM16 else _flac(value, sample_rate_hz, where)
        return {field.name: _bytes_feature(data), field.name + "_encoding": _bytes_feature(audio_encoding.encode())}
    if field.kind == "string":
        if not isinstance(value, str):
            raise RecordError(f"{where}: field {field.name!r} is a {type(value).__name__}, expected str")
        return {field.name: _bytes_feature(utf8(value, f"{where}, field {field.name!r}"))}
    if field.kind == "bytes":
        if not isinstance(value, bytes):
            raise RecordError(f"{where}: field {field.name!r} is a {type(value).__name__}, expected bytes")
        return {field.name: _bytes_feature(value)}
    values = np.asarray(value)
    whole = field.kind.startswith("int")
    scalar = not field.kind.endswith("s")
    if values.dtype.kind not in ("iu" if whole else "iuf") and values.size:
        raise RecordError(f"{where}: field {field.name!r} has dtype {values.dtype}, expected {field.kind}")
    if values.ndim != (0 if scalar else 1):
        expected = "[]" if scalar else "[n]"
        raise RecordError(f"{where}: field {field.name!r} has shape {values.shape}, expected {expected}")
    if whole:
        return {field.name: tf.train.Feature(int64_list=tf.train.Int64List(value=values.reshape(-1).tolist()))}
    return {field.name: tf.train.Feature(float_list=tf.train.FloatList(value=values.reshape(-1).tolist()))}


def _bytes_feature(data):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


def utf8(text, where):
    """str -> its bytes. RecordError, naming `where`, for half of a surrogate pair: JSON can hold one, UTF-8 cannot."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(f"{where}: holds {text[error.start]!r} at {error.start}, half of a character (a lone "
                          "surrogate), expected text that UTF-8 can hold") from error


def _int16(audio, where):
    """float [n] in [-1, 1] or int16 [n] -> (int16 [n], how many samples were beyond full scale).

    Louder samples, as a resampler's overshoot gives, are clipped. Floats that hold integer samples are refused: they
    would be clipped to noise.
    """
    audio = np.asarray(audio)
    if audio.ndim != 1:
        raise RecordError(f"{where}: audio has shape {audio.shape}, expected [num_samples], mono")
    if audio.size == 0:
        raise RecordError(f"{where}: audio has 0 samples, expected at least one")
    if audio.dtype == np.int16:
        return audio, 0
    if audio.dtype.kind != "f":
        raise RecordError(f"{where}: audio has dtype {audio.dtype}, expected float in [-1, 1] or int16")
    if not np.isfinite(audio).all():
        raise RecordError(f"{where}: audio holds NaN or infinite samples")
    refuse_integers(audio, where)
    clipped = int(np.count_nonzero(np.abs(audio) > 1))
    return np.clip(np.rint(audio * INT16_SCALE), -32768, 32767).astype(np.int16), clipped


def refuse_integers(audio, where):
    """RecordError for floats [n] that hold integer samples, such as 16-bit ones that nobody divided by 32768."""
    peak = float(np.abs(audio).max(initial=0))
    if peak > _LOUDEST or (peak >= 2 and np.array_equal(audio, np.rint(audio))):
        raise RecordError(f"{where}: audio reaches {peak:g}, expected floats in [-1, 1]: these look like integer "
                          "samples; divide them by their full scale (32768 for 16 bits)")


def _flac(samples, sample_rate_hz, where):
    import soundfile

    file = io.BytesIO()
    try:
        soundfile.write(file, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise RecordError(f"{where}: the audio cannot be written as FLAC: {error}") from error
    return file.getvalue()


def _unflac(data):
    import soundfile

    try:
        return soundfile.read(io.BytesIO(data), dtype="int16")[0]
    except soundfile.LibsndfileError as error:
        raise RecordError(f"a record's FLAC audio ({len(data)} bytes) cannot be decoded: {error}") from error


def _decode_audio(data, encoding, promised):
    """string [] -> float32 [num_samples]"""
    def pcm():
        return tf.io.decode_raw(data, tf.int16, little_endian=True)

    def flac():
        if tf.executing_eagerly():   # an eager numpy_function would strip zero bytes at the end of the data
            return tf.constant(_unflac(data.numpy()))
        samples = tf.numpy_function(_unflac, [data], tf.int16, stateful=False)
        samples.set_shape([None])
        return samples

    if promised is None:
        samples = tf.cond(tf.equal(encoding, FLAC), flac, pcm)
    elif promised in AUDIO_ENCODINGS:
        samples = pcm() if promised == PCM16 else flac()
    else:
        raise RecordError(f"audio encoding {promised!r}, expected one of {AUDIO_ENCODINGS}")
    return tf.cast(samples, tf.float32) * (1.0 / INT16_SCALE)


# Records go through here by the ten thousand in a second: what depends on a size only is remembered.
_REMEMBERED_SIZES = 2**16


def _find_bytes(serialized, key):
    """Where a bytes feature lies in a serialized tf.train.Example; key: how the entry for it in the map begins.

    -> (begin of the entry, begin of the bytes, end of both): positions. All lengths of the messages around the bytes
    must fit, so the name inside some other field is no match.
    """
    at = serialized.find(key)
    while at >= 0:
        head, back, size = _bytes_entry(key, _read_varint(serialized, at + len(key)))
        begin = at - back
        data = begin + len(head)
        if begin >= 0 and serialized.startswith(head, begin) and data + size <= len(serialized):
            return begin, data, data + size
        at = serialized.find(key, at + 1)
    raise RecordError(f"a record of {len(serialized)} bytes holds no audio laid out as tfhf writes it: was it written "
                      "by something else?")


@functools.lru_cache(_REMEMBERED_SIZES)
def _bytes_entry(key, feature_size):
    """An entry of the map of features whose Feature has that size -> (what stands before the bytes, how much of it
    before the key, number of bytes)"""
    list_size = _content_size(feature_size)
    size = _content_size(list_size)
    rest = key + _varint(feature_size) + b"\x0a" + _varint(list_size) + b"\x0a" + _varint(size)
    head = b"\x0a" + _varint(len(rest) + size)
    return head + rest, len(head), size


@functools.lru_cache(_REMEMBERED_SIZES)
def _content_size(message_size):
    """The size of the one field, of bytes, that a message of `message_size` consists of."""
    size = message_size - 2
    while size > 0 and 1 + len(_varint(size)) + size > message_size:
        size -= 1
    return max(size, 0)


def _read_varint(data, at):
    """protobuf's integer that begins at a position"""
    value = shift = 0
    for byte in data[at:at + 10]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value


def _varint(value):
    """What `_read_varint` reads"""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


SPEECH_SAMPLE_RATE_HZ = 16000

SPEECH_TEXT = RecordType(
    name="speech_text",
    version=1,
    fields=(
        Field("id", "string"),
        Field("audio", "audio"),            # mono, 16 kHz
        Field("sample_rate_hz", "int"),
        Field("num_samples", "int"),
        Field("text", "string"),
        Field("language", "string", ""),    # ISO 639-1 where known, else empty
    ),
    length_field="num_samples",
    sample_rate_hz=SPEECH_SAMPLE_RATE_HZ,
)

TOKENS = RecordType(
    name="tokens",
    version=1,
    fields=(
        Field("id", "string"),
        Field("input_ids", "ints"),
        Field("segment_ids", "ints"),       # as many: 1, 2, 3 … for the documents of a row; no padding in the record
        Field("length", "int"),             # number of input_ids
    ),
    length_field="length",
)

TEXT_LABEL = RecordType(
    name="text_label",
    version=1,
    fields=(
        Field("id", "string"),
        Field("text", "string"),
        Field("label", "int"),              # number of the class
        Field("length", "int"),             # number of bytes of the text in UTF-8
    ),
    length_field="length",
)

# Images lie in records as the bytes of their files, JPEG, PNG, GIF, BMP or WebP, never encoded again.
# `pixels` is height * width of the first image. tfhf/data/image_records.py makes and checks these at write time.
IMAGE_LABEL = RecordType(
    name="image_label",
    version=1,
    fields=(
        Field("id", "string"),
        Field("image", "bytes"),
        Field("label", "int"),              # number of the class
        Field("pixels", "int"),
    ),
    length_field="pixels",
)

IMAGE_PAIR = RecordType(
    name="image_pair",
    version=1,
    fields=(
        Field("id", "string"),
        Field("image", "bytes"),            # what the model gets; empty where the task makes it of the target
        Field("target", "bytes"),           # what it should make of it; of another size in super-resolution
        Field("pixels", "int"),
    ),
    length_field="pixels",
)

STEREO = RecordType(
    name="stereo",
    version=1,
    fields=(
        Field("id", "string"),
        Field("left", "bytes"),             # rectified, both of one size
        Field("right", "bytes"),
        Field("disparity", "bytes", b""),   # of the left image, a 16-bit grey PNG; empty where none was measured
        Field("disparity_scale", "float", 1.0),   # pixels of disparity = value * scale; the value 0 is invalid
        Field("pixels", "int"),
    ),
    length_field="pixels",
)

IMAGE_DEPTH = RecordType(
    name="image_depth",
    version=1,
    fields=(
        Field("id", "string"),
        Field("image", "bytes"),
        Field("depth", "bytes"),            # a 16-bit grey PNG of the image's size
        Field("depth_scale", "float"),      # metres = value * scale; the value 0 is invalid
        Field("pixels", "int"),
    ),
    length_field="pixels",
)
