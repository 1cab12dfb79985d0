"""What kind of sound file is this, is all of it there, and which decoder reads it? Decided by content, not by name.

Of the formats that libsndfile reads, those that state sizes are walked here, chunk by chunk, and handed on as a plain
file with the right sizes: a stream's placeholder for a size becomes what is there, and a cut file is refused.
"""

import re
import struct

from tfhf.data.audio_part import EXPECTED, AudioError, Part
from tfhf.data.audio_streams import find_mpeg, flac_parts, mpeg_parts, ogg_parts, skip_id3

MAX_CHUNKS = 4096   # real files have fewer than ten

PCM, MS_ADPCM, FLOAT, A_LAW, MU_LAW, IMA_ADPCM, GSM = 1, 2, 3, 6, 7, 0x11, 0x31
EXTENSIBLE = 0xFFFE
_MPEG_CODES = (0x50, 0x55)
_SNDFILE_CODES = (PCM, MS_ADPCM, FLOAT, A_LAW, MU_LAW, IMA_ADPCM, GSM)

# (what errors call it, ffmpeg's demuxer, how the file begins). Formats of which ffmpeg, or a check below, notices that
# the file was cut. It does not notice it in AC-3, DTS, MPEG program and transport streams.
_FFMPEG = [
    ("MP4, M4A, MOV or 3GP", "mov", re.compile(rb"....(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL)),
    ("Matroska or WebM", "matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("WMA or ASF", "asf", re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
    ("AMR", "amr", re.compile(rb"#!AMR")),
    ("AAC", "aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    ("AVI", "avi", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("FLV", "flv", re.compile(rb"FLV\x01")),
    ("WavPack", "wv", re.compile(rb"wvpk")),
    ("Monkey's Audio", "ape", re.compile(rb"MAC ")),
    ("True Audio", "tta", re.compile(rb"TTA[12]")),
    ("Musepack", "mpc8", re.compile(rb"MPCK")),
]


def sound_parts(data, name):
    """The content of a file -> Parts, in order, each read by one decoder from its beginning to its end.

    Raises AudioError: a format that nothing here reads, a cut or damaged file, no sound in it.
    """
    try:
        return _parts(data, name)
    except (struct.error, IndexError) as error:   # a header that ends before its last field
        raise AudioError(f"{name}: damaged: a header that is not whole ({error}), {EXPECTED}") from error


def _parts(data, name):
    magic, kind = data[:4], data[8:12]
    if magic in _RIFF_ORDER and kind == b"WAVE":
        return _wav_parts(data, name)
    if magic == b"riff" and data[24:28] == b"wave":
        return _w64_parts(data, name)
    if magic == b"FORM" and kind in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _form_parts(data, name)
    if magic == b"OggS":
        return ogg_parts(data, name)
    if magic == b"caff":
        return _caf_parts(data, name)
    if magic in (b".snd", b"dns."):
        return _au_parts(data, name)
    if data.startswith(b"NIST_1A\n"):
        return _sphere_parts(data, name)
    if data.startswith(b"Creative Voice File\x1a"):
        return _voc_parts(data, name)
    if _NO_SIZE.match(data):
        return [Part(data)]
    begin = skip_id3(data)
    if data.startswith(b"fLaC", begin):
        return flac_parts(data, name)
    for what, demuxer, start in _FFMPEG:
        if start.match(data, begin):
            return [_ffmpeg_part(data[begin:], name, demuxer, what)]
    frames = find_mpeg(data)
    if frames is not None:
        return mpeg_parts(data, name, frames)
    raise AudioError(f"{name}: cannot be decoded ({len(data)} bytes of no format that is known here), {EXPECTED}")


# -- RIFF: WAV, RF64, W64 --------------------------------------------------------------------------------------------

_RIFF_ORDER = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
KNOWN_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"bext", b"cue ", b"id3 ", b"JUNK", b"PEAK", b"smpl")


def size_is_unknown(size):
    """Is this what a program writes that streams a WAV and cannot go back to its header? (0 is decided elsewhere.)

    2^31 and 2^32 - 1, and a little below, are in use: 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, each also less
    the size of the header.
    """
    return 0x7FFFE000 <= size <= 0x80001000 or 0xFFFFE000 <= size


def _whole(name, size, there):
    """`size`, if as many bytes are there."""
    if size > there:
        raise AudioError(f"{name}: truncated: its header states {size} bytes of samples, the file has {there}, "
                         f"{EXPECTED}")
    return size


def _whole_frames(name, size, frame):
    """Refuses samples of unknown length that end within a frame of `frame` bytes."""
    odd = size % frame if frame else 0
    # A pad byte makes an odd number of bytes even.
    if odd and not (odd == 1 and size % 2 == 0):
        raise AudioError(f"{name}: truncated: {size} bytes of samples, the last {odd} of them part of a frame of "
                         f"{frame}, {EXPECTED}")


def _wav_parts(data, name):
    """One Part for each data chunk, also of WAV files that were joined."""
    parts, place = [], 0
    while place is not None:
        more, place = _one_wav(data, name, place)
        parts += more
    return parts


def _one_wav(data, name, start):
    """The WAV at `start` -> (its Parts, where another begins behind it or None)."""
    order = _RIFF_ORDER[data[start:start + 4]]
    place, fmt, size_64, samples = start + 12, None, None, []
    following = None
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            break
        chunk, size = data[place:place + 4], struct.unpack_from(order + "I", data, place + 4)[0]
        begin = place + 8
        if samples and chunk in _RIFF_ORDER and data[begin:begin + 4] == b"WAVE":
            following = place
            break
        if chunk == b"ds64" and begin + 16 <= len(data):
            size_64 = struct.unpack_from("<Q", data, begin + 8)[0]
        elif chunk == b"fmt " and fmt is None:
            fmt = data[begin:begin + size]
        elif chunk == b"data":
            size, exact = _data_size(data, name, begin, size, size_64)
            if size or not samples:
                samples.append((begin, size, exact))
        place = _next_chunk(data, begin, size)
    if not samples:
        raise AudioError(f"{name}: truncated: no data chunk in its {len(data)} bytes, {EXPECTED}")
    if fmt is None or len(fmt) < 16:
        raise AudioError(f"{name}: no fmt chunk of 16 bytes or more in its {len(data)} bytes, {EXPECTED}")
    parts = []
    for begin, size, exact in samples:
        parts += _wave_part(data, name, order, fmt, begin, size, exact)
    return parts, following


def _next_chunk(data, begin, size):
    """Where the chunk behind this one begins. A chunk of odd size is padded; some programs forget it."""
    end = begin + size
    if size & 1 and data[end + 1:end + 5] not in KNOWN_CHUNKS and data[end:end + 4] in KNOWN_CHUNKS:
        return end
    return end + (size & 1)


def _data_size(data, name, begin, size, size_64):
    """What a data chunk states -> (its bytes, whether it states them exactly)."""
    there = len(data) - begin
    if size == 0xFFFFFFFF and size_64 not in (None, 0) and size_64 < 1 << 62:
        return _whole(name, size_64, there), True
    if size_is_unknown(size) and size > there:
        return there, False
    if size == 0 and there and not _are_chunks(data, begin):
        return there, False
    return _whole(name, size, there), True


def _are_chunks(data, place):
    """Is what begins at `place` nothing but chunks up to the end of the file?"""
    while place + 8 <= len(data) and data[place:place + 4] in KNOWN_CHUNKS:
        place = _next_chunk(data, place + 8, int.from_bytes(data[place + 4:place + 8], "little"))
    return place == len(data)


def _wave_part(data, name, order, fmt, begin, size, exact):
    """Samples as a WAV's fmt chunk describes them -> [Part], or [] where there are none."""
    code, channels, rate_hz, _, block, bits = struct.unpack_from(order + "HHIIHH", fmt)
    if code == EXTENSIBLE and len(fmt) >= 40:
        code = struct.unpack_from(order + "H", fmt, 24)[0]
    if rate_hz == 0:
        raise AudioError(f"{name}: the sample rate is 0 Hz, expected more than 0")
    if code in _MPEG_CODES:
        body = data[begin:begin + size]
        frames = find_mpeg(body)
        if frames is None:
            raise AudioError(f"{name}: no MPEG frame in its data chunk of {size} bytes, {EXPECTED}")
        return mpeg_parts(body, name, frames)
    if code not in _SNDFILE_CODES:
        return [Part(data, demuxer="wav", what=f"WAV with format code {code:#x}")]
    if code in (PCM, FLOAT, A_LAW, MU_LAW):
        frame = channels * bits // 8
        odd = size % frame if frame else 0
        if not exact:
            _whole_frames(name, size, frame)
        return [_plain_wav(data, order, fmt, begin, size - odd, None)]
    if block == 0:
        raise AudioError(f"{name}: damaged: blocks of 0 bytes, {EXPECTED}")
    blocks, odd = divmod(size, block)
    if odd > 1 and not exact:
        raise AudioError(f"{name}: truncated: the last block has {odd} of {block} bytes, {EXPECTED}")
    samples = blocks * _block_samples(code, channels, block) + _block_samples(code, channels, odd)
    if odd and samples:   # libsndfile passes over a short block: make it a whole one, of which `samples` are taken
        data, begin, size = data[begin:begin + size] + bytes(block - odd), 0, (blocks + 1) * block
    return [_plain_wav(data, order, fmt, begin, size, samples)]


def _block_samples(code, channels, size):
    """The samples of each channel in a block of `size` bytes. The last one of an ADPCM file may be short."""
    if code == GSM:
        return 320 if size == 65 else 0
    head, in_head = (7, 2) if code == MS_ADPCM else (4, 1)
    if not channels or size <= head * channels:
        return 0
    return (size - head * channels) * 2 // channels + in_head


def _plain_wav(data, order, fmt, begin, size, samples):
    """A WAV of nothing but a fmt and a data chunk -> Part."""
    if size > 0xFFFFFF00 - len(fmt):
        return Part(data, samples)   # RF64 or W64, of 4 GB and more, as it is
    head = struct.pack(order + "4sI", b"fmt ", len(fmt)) + fmt + b"\0" * (len(fmt) & 1)
    head += struct.pack(order + "4sI", b"data", size)
    magic = b"RIFF" if order == "<" else b"RIFX"
    riff = struct.pack(order + "4sI4s", magic, 4 + len(head) + size, b"WAVE")
    # No pad byte: libsndfile takes it for another block of GSM.
    return Part(b"".join([riff, head, data[begin:begin + size]]), samples)


def _w64_parts(data, name):
    place, fmt = 40, None
    for _ in range(MAX_CHUNKS):
        if place + 24 > len(data):
            break
        chunk, size = data[place:place + 4], struct.unpack_from("<Q", data, place + 16)[0]
        begin, there = place + 24, len(data) - place - 24
        if chunk == b"fmt ":
            fmt = data[begin:begin + size - 24]
        if chunk == b"data":
            if fmt is None or len(fmt) < 16:
                raise AudioError(f"{name}: no fmt chunk of 16 bytes or more before its samples, {EXPECTED}")
            exact = 24 <= size < 1 << 62
            body = _whole(name, size - 24, there) if exact else there
            return _wave_part(data, name, "<", fmt, begin, body, exact)
        place += max(24, size + 7 & ~7)
    raise AudioError(f"{name}: truncated: no data chunk in its {len(data)} bytes, {EXPECTED}")


# -- AIFF, CAF, AU, SPHERE, VOC --------------------------------------------------------------------------------------

# Bytes that do not state their size; nothing to compare with. IRCAM, PVF and Ensoniq PARIS.
_NO_SIZE = re.compile(rb"\x64\xa3[\x00-\x04]\x00|\x00[\x00-\x04]\xa3\x64|PVF1\n| paf|fap ")
_AIFC_SNDFILE = (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32", b"42ni", b"23ni", b"fl32", b"FL32", b"fl64",
                 b"FL64", b"ulaw", b"ULAW", b"alaw", b"ALAW", b"ima4", b"GSM ", b"DWVW")


def _form_parts(data, name):
    """AIFF, AIFC and Amiga's 8SVX: the chunk with the samples must be as large as it states."""
    kind = data[8:12]
    wanted = b"SSND" if kind in (b"AIFF", b"AIFC") else b"BODY"
    place, common = 12, None
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            break
        chunk, size = struct.unpack_from(">4sI", data, place)
        begin, there = place + 8, len(data) - place - 8
        if chunk == b"COMM":
            common = data[begin:begin + size]
        if chunk == wanted:
            unknown = size == 0 and there > 8 or size_is_unknown(size) and size > there
            if not unknown:
                _whole(name, size, there)
            if wanted == b"BODY" or common is None:
                return [Part(data)]
            return [_aiff_part(data, name, kind, common, begin, there if unknown else size, unknown)]
        place = begin + size + (size & 1)
    raise AudioError(f"{name}: truncated: no {wanted.decode()} chunk in its {len(data)} bytes, {EXPECTED}")


def _aiff_part(data, name, kind, common, begin, size, unknown):
    if kind == b"AIFC" and common[18:22] not in _AIFC_SNDFILE:
        return Part(data, demuxer="aiff", what=f"AIFC with {common[18:22].decode('latin-1')}")
    if unknown and len(common) >= 18:
        channels, bits = struct.unpack_from(">H4xH", common)
        frame = channels * bits // 8
        _whole_frames(name, size - 8, frame)
        common = common[:2] + struct.pack(">I", max(0, size - 8) // max(1, frame)) + common[6:]
    common = b"COMM" + struct.pack(">I", len(common)) + common + b"\0" * (len(common) & 1)
    samples = b"SSND" + struct.pack(">I", size) + data[begin:begin + size] + b"\0" * (size & 1)
    return Part(b"FORM" + struct.pack(">I", 4 + len(common) + len(samples)) + kind + common + samples)


def _caf_parts(data, name):
    place, codec = 8, b""
    for _ in range(MAX_CHUNKS):
        if place + 12 > len(data):
            break
        chunk, size = struct.unpack_from(">4sq", data, place)
        begin, there = place + 12, len(data) - place - 12
        if chunk == b"desc":
            codec = data[begin + 8:begin + 12]
        if chunk == b"data":
            if size == -1:   # to the end of the file
                data = data[:place + 4] + struct.pack(">q", there) + data[begin:]
            else:
                _whole(name, size, there)
            if codec in (b"lpcm", b"alac", b"ulaw", b"alaw"):
                return [Part(data)]
            return [Part(data, demuxer="caf", what=f"CAF with {codec.decode('latin-1')}")]
        if size < 0:
            break
        place = begin + size
    raise AudioError(f"{name}: truncated: no data chunk in its {len(data)} bytes, {EXPECTED}")


_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}   # of a sample, by the encoding


def _au_parts(data, name):
    if len(data) < 24:
        raise AudioError(f"{name}: truncated: a header of {len(data)} bytes, {EXPECTED}")
    order = ">" if data[:4] == b".snd" else "<"
    begin, size, encoding, _, channels = struct.unpack_from(order + "IIIII", data, 4)
    there = max(0, len(data) - begin)
    if size == 0 or size_is_unknown(size) and size > there:
        size = there
        _whole_frames(name, size, channels * _AU_BYTES.get(encoding, 1))
    _whole(name, size, there)
    return [Part(data[:8] + struct.pack(order + "I", size) + data[12:begin + size])]


def _sphere_parts(data, name):
    """NIST SPHERE: its header is text. Raises AudioError for shorten, which the LDC's older corpora come in."""
    fields = dict(re.findall(rb"(?m)^(\w+) -[irs]\d* (.*?)\s*$", data[:1024]))
    coding = fields.get(b"sample_coding", b"pcm").decode("latin-1")
    if "," in coding:
        raise AudioError(f"{name}: SPHERE with {coding}, expected it uncompressed: convert it with sph2pipe")
    try:
        head = int(data[8:16])
        size = (int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
                * int(fields.get(b"sample_n_bytes", 2)))
    except (KeyError, ValueError) as error:
        raise AudioError(f"{name}: damaged: a SPHERE header without sizes ({error}), {EXPECTED}") from error
    _whole(name, size, len(data) - head)
    return [Part(data)]


def _voc_parts(data, name):
    """Creative Voice: its blocks of samples, put together as a WAV."""
    place = int.from_bytes(data[20:22], "little")
    described, pieces = None, []
    while place < len(data) and data[place]:
        kind, size = data[place], int.from_bytes(data[place + 1:place + 4], "little")
        begin, there = place + 4, len(data) - place - 4
        if kind == 9 and size + 8 + 1 == there:
            size += 8   # SoX states 8 bytes too few
        _whole(name, size, there)
        head = _voc_head(data, name, kind, begin, size)
        if head:
            description, skip = head
            if described and described != description:
                raise AudioError(f"{name}: blocks of different kinds, {described} and {description}, expected one kind")
            described, begin, size = description, begin + skip, size - skip
        if kind in (1, 2, 9):
            pieces.append(data[begin:begin + size])
        place = begin + size
    if not described:
        raise AudioError(f"{name}: 0 samples, expected at least one")
    code, channels, rate_hz, bits = described
    frame = channels * bits // 8
    body = b"".join(pieces)
    fmt = struct.pack("<HHIIHH", code, channels, rate_hz, 0, frame, bits)
    return _wave_part(body, name, "<", fmt, 0, len(body), True)


def _voc_head(data, name, kind, begin, size):
    """A VOC block with a description -> ((format code, channels, rate in Hz, bits), bytes of it), or None."""
    codecs = {0: (PCM, 8), 4: (PCM, 16), 6: (A_LAW, 8), 7: (MU_LAW, 8)}
    if kind == 1 and size >= 2:
        codec, found = data[begin + 1], (1, 1_000_000 // (256 - data[begin]))
        skip = 2
    elif kind == 9 and size >= 12:
        rate_hz, _, channels, codec = struct.unpack_from("<IBBH", data, begin)
        found, skip = (channels, rate_hz), 12
    elif kind in (2, 4, 5):
        return None
    else:
        raise AudioError(f"{name}: a VOC block of kind {kind}, expected samples only")
    if codec not in codecs:
        raise AudioError(f"{name}: VOC with codec {codec}, expected PCM, A-law or mu-law: convert it to WAV")
    code, bits = codecs[codec]
    return (code, *found, bits), skip


# -- What ffmpeg reads, also where the end is missing ----------------------------------------------------------------

_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_BROADCAST = 1


def _ffmpeg_part(data, name, demuxer, what):
    """-> Part. Raises AudioError: the container states more bytes than there are."""
    stated = {"asf": _asf_size, "avi": _avi_size, "flv": _flv_size}.get(demuxer, len)(data)
    if stated > len(data):
        raise AudioError(f"{name}: truncated: its header states {stated} bytes, the file has {len(data)}, expected a "
                         f"whole file of {what}")
    return Part(data, demuxer=demuxer, what=what)


def _asf_size(data):
    """What the properties of an ASF file state; a recorded broadcast does not know its size."""
    place = data.find(_ASF_PROPERTIES, 0, 1 << 16)
    if place < 0 or place + 92 > len(data):
        return len(data) + 1
    size, flags = struct.unpack_from("<40xQ40xI", data, place)
    return 0 if flags & _ASF_BROADCAST else size


def _avi_size(data):
    """An AVI is one RIFF chunk, or several of about a gigabyte."""
    place = 0
    while data[place:place + 4] == b"RIFF" and place + 8 <= len(data):
        place += 8 + int.from_bytes(data[place + 4:place + 8], "little")
    return place


def _flv_size(data):
    """An FLV is a row of tags, each followed by its size in four bytes."""
    place = int.from_bytes(data[5:9], "big") + 4
    while 9 < place < len(data):
        place += 15 + int.from_bytes(data[place + 1:place + 4], "big")
    return place
