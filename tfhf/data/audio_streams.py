"""Streams that are made of frames or pages: MPEG audio, Ogg and FLAC, each alone or several joined end to end.

libsndfile reads the first of joined streams only, guesses the length of an MP3 without a Xing frame, and takes a cut
file for a shorter one. So the frames and pages are walked here, by their own headers, before anything is decoded.
"""

import functools
import re
import struct
import zlib
from typing import NamedTuple

from tfhf.data.audio_part import EXPECTED, AudioError, Part

_SEARCH_BYTES = 1 << 16   # how far into a file the first MPEG frame may lie
_KBIT_1 = {1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
           2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
           3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
_KBIT_2 = {1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
           2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
           3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}
_RATES_HZ = (44100, 48000, 32000)
_ZEROS = re.compile(b"\0+")


def skip_id3(data, begin=0):
    """Where the ID3v2 tags end that stand at `begin`."""
    while data[begin:begin + 3] == b"ID3" and begin + 10 <= len(data):
        size = 0
        for byte in data[begin + 6:begin + 10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if data[begin + 5] & 0x10 else 0
        begin += 10 + size + footer
    return begin


def before_tags(data, end=None):
    """Where the ID3v1, APE and Lyrics3 tags begin that stand before `end` (None: the file's); `end` without any."""
    end = len(data) if end is None else end
    while True:
        if end >= 128 and data[end - 128:end - 125] == b"TAG":
            end -= 128
        elif end >= 32 and data[end - 32:end - 24] == b"APETAGEX":
            size, _, flags = struct.unpack_from("<III", data, end - 20)
            end = max(0, end - size - (32 if flags & 1 << 31 else 0))
        elif end >= 15 and data[end - 9:end] == b"LYRICS200" and data[end - 15:end - 9].isdigit():
            end = max(0, end - 15 - int(data[end - 15:end - 9]))
        else:
            return end


# -- MPEG audio ------------------------------------------------------------------------------------------------------

@functools.lru_cache(4096)
def _mpeg_header(word):
    """The 32 bits of a frame's header -> (its bytes, its samples, (version, layer, rate in Hz, channels)), or None.

    Version 0 is MPEG 2.5, 2 is MPEG 2, 3 is MPEG 1.
    """
    version, layer, rate_index = word >> 19 & 3, 4 - (word >> 17 & 3), word >> 10 & 3
    bitrate_index = word >> 12 & 15
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    rate_hz = _RATES_HZ[rate_index] >> (3 - version if version else 2)
    bits = 1000 * (_KBIT_1 if version == 3 else _KBIT_2)[layer][bitrate_index - 1]
    padding = word >> 9 & 1
    if layer == 1:
        size, samples = (12 * bits // rate_hz + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bits // rate_hz + padding
    channels = 1 if word >> 6 & 3 == 3 else 2
    return size, samples, (version, layer, rate_hz, channels)


def _mpeg_frame(data, place):
    """The frame at `place` as `_mpeg_header` gives it, or None."""
    # The bits left out (private, mode extension, copyright, emphasis) change neither size nor kind: few words differ.
    word = int.from_bytes(data[place:place + 4], "big") & 0xFFFFFEC0
    return _mpeg_header(word) if word >= 0xFFE00000 else None


def find_mpeg(data):
    """Where MPEG audio begins, or None: at its first frame, or behind what a recording of a broadcast began with."""
    begin, end = skip_id3(data), before_tags(data)
    place = _next_frames(data, begin, min(end, begin + _SEARCH_BYTES), end)
    # A frame at the very beginning is the first one, also where damage follows it.
    return begin if place and _mpeg_frame(data, begin) else place


def _next_frames(data, begin, limit, end):
    """The first place from `begin` to `limit` where frames follow each other, or None."""
    place = data.find(b"\xff", begin, limit)
    while place >= 0:
        if _frames_follow(data, place, end):
            return place
        place = data.find(b"\xff", place + 1, limit)
    return None


def _frames_follow(data, place, end, wanted=4):
    """Do `wanted` frames of one kind follow each other, or fewer and then the end of the file or a tag?"""
    kind = None
    for _ in range(wanted):
        if kind and (place == end or data[place:place + 3] in (b"ID3", b"TAG")):
            return True
        frame = _mpeg_frame(data, place)
        if frame is None or kind not in (None, frame[2][:3]):
            return False
        kind = frame[2][:3]
        place += frame[0]
    return True


class _MpegStream:
    """Frames of one kind, up to the end of the file or to the first frame of another stream."""

    def __init__(self, kind, frame_samples, info):
        self.kind, self._frame_samples, self._info = kind, frame_samples, info
        self._frames, self._pieces = 0, []

    @property
    def complete(self):
        """Has it as many frames as its Xing frame states?"""
        return self._info is not None and self._frames == self._info.frames

    def add(self, place, size):
        """Takes the frame of `size` bytes at `place`."""
        self._frames += 1
        if self._pieces and self._pieces[-1][1] == place:
            self._pieces[-1][1] += size
        else:
            self._pieces.append([place, place + size])

    def part(self, data, name):
        """-> the Part to decode, or None where nothing but a Xing frame is there."""
        info = self._info
        stated = info.frames if info else None
        # Some programs count the Xing frame with the others.
        if stated is not None and self._frames < stated - 1:
            raise AudioError(f"{name}: truncated: {self._frames} of the {stated} MPEG frames its header states, "
                             f"{EXPECTED}")
        if not self._frames:
            return None
        pieces = [data[begin:end] for begin, end in self._pieces]
        if info and info.gapless and self._frames == stated:
            # With its Xing frame the decoder knows the encoder's delay and padding, and cuts them off.
            return Part(b"".join([data[info.begin:info.end], *pieces]))
        return Part(b"".join(pieces), samples=self._frames * self._frame_samples, estimated=True)


class _Info(NamedTuple):
    """A frame that holds a Xing, Info or VBRI header and no sound."""

    begin: int
    end: int
    frames: int | None   # as it states
    gapless: bool        # whether libsndfile's decoder reads it


_INFO = re.compile(rb"Xing|Info|VBRI")


def _info(data, place, size, kind):
    """The _Info in the frame at `place`, or None."""
    version, layer, _, channels = kind
    if layer != 3:
        return None
    side = {True: (17, 32), False: (9, 17)}[version == 3][channels - 1]
    for begin in (place + 4 + side, place + 6 + side):   # two bytes of a checksum may come first
        if data[begin:begin + 4] in (b"Xing", b"Info"):
            has_frames = data[begin + 7] & 1
            frames = int.from_bytes(data[begin + 8:begin + 12], "big") if has_frames else None
            return _Info(place, place + size, frames, begin == place + 4 + side)
    if data[place + 36:place + 40] == b"VBRI":
        return _Info(place, place + size, int.from_bytes(data[place + 50:place + 54], "big"), False)
    return None


def mpeg_parts(data, name, begin):
    """MPEG audio, Layer I to III, from its first frame on -> Parts: one, or one for each of the joined streams.

    Raises AudioError: the last frame is cut, fewer frames than a Xing frame states, between two frames something that
    is neither a frame nor a tag.
    """
    place, end = begin, before_tags(data)
    streams, next_info = [], -1
    while place < end:
        frame = _mpeg_frame(data, place)
        if frame is None:
            place = _behind_tag(data, place, end, name)
            continue
        size, frame_samples, kind = frame
        if place + size > end:
            raise AudioError(f"{name}: truncated: the last MPEG frame has {end - place} of {size} bytes, {EXPECTED}")
        if next_info < place:
            found = _INFO.search(data, place)
            next_info = found.start() if found else len(data)
        info = _info(data, place, size, kind) if next_info < place + size else None
        if info or not streams or kind != streams[-1].kind or streams[-1].complete:
            streams.append(_MpegStream(kind, frame_samples, info))
        if not info:
            streams[-1].add(place, size)
        place += size
    parts = [stream.part(data, name) for stream in streams]
    return [part for part in parts if part]


def _behind_tag(data, place, end, name):
    """The end of the tag, the zeros or, behind the last frame, whatever else begins at `place`."""
    if data[place:place + 3] == b"ID3":
        return skip_id3(data, place)
    if data[place:place + 3] == b"TAG":
        return place + 128
    if data[place:place + 8] == b"APETAGEX" and place + 32 <= end:
        return place + 32 + int.from_bytes(data[place + 12:place + 16], "little")
    if data[place:place + 11] == b"LYRICSBEGIN" and (found := data.find(b"LYRICS200", place, end)) > 0:
        return found + 9
    if data[place] == 0:
        begin = _ZEROS.match(data, place, end).end()
        # Padding of the last stream. Zeros before a frame of the same stream are a hole in it.
        if begin == end or data[begin:begin + 3] in (b"ID3", b"TAG", b"APE") or _INFO.search(data, begin, begin + 64):
            return begin
    if data[place] == 0xFF and end - place < 4:
        raise AudioError(f"{name}: truncated: {end - place} of the 4 bytes of the last MPEG header, {EXPECTED}")
    limit = min(end, place + _SEARCH_BYTES)
    following = _next_frames(data, place, limit, end)
    if following is not None or limit < end:
        raise AudioError(f"{name}: damaged: no MPEG frame and no tag at byte {place} of {len(data)}, {EXPECTED}")
    return end


# -- Ogg -------------------------------------------------------------------------------------------------------------

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OGG_SOUND = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex"}


class _Page(NamedTuple):
    begin: int
    end: int
    payload: int
    flags: int      # 2: the first of its stream, 4: the last
    serial: int
    sequence: int


def _ogg_checksum(page):
    """Ogg's CRC-32 is zlib's with the bits in the other order, and begins and ends with other constants."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _ogg_pages(data, name):
    place, end = 0, before_tags(data)
    while place < end:
        if data[place:place + 4] != b"OggS" or place + 27 > end:
            if place and b"OggS" not in data[place:]:
                # A page cut in its first bytes is the beginning of the magic, anything else is junk behind the last.
                if b"OggS".startswith(data[place:place + 4]) or data[place:place + 4] == b"OggS":
                    raise AudioError(f"{name}: truncated in its last Ogg page, {EXPECTED}")
                return
            what = "truncated" if data[place:place + 4] == b"OggS" else "damaged"
            raise AudioError(f"{name}: {what}: no whole Ogg page at byte {place} of {len(data)}, {EXPECTED}")
        segments = data[place + 26]
        payload = place + 27 + segments
        size = 27 + segments + sum(data[place + 27:payload])
        if place + size > end:
            raise AudioError(f"{name}: truncated in its last Ogg page, {EXPECTED}")
        page = data[place:place + 22] + b"\0\0\0\0" + data[place + 26:place + size]
        serial, sequence, stated = struct.unpack_from("<III", data, place + 14)
        if _ogg_checksum(page) != stated:
            raise AudioError(f"{name}: damaged: the Ogg page at byte {place} of {len(data)} does not give its "
                             f"checksum, {EXPECTED}")
        yield _Page(place, place + size, payload, data[place + 5], serial, sequence)
        place += size


def ogg_parts(data, name):
    """Ogg -> Parts, one for each link of the chain: its one stream of sound, without those of pictures.

    Raises AudioError: a page is cut, damaged or missing, a stream has no last page, no sound or two sounds in a link.
    """
    links = []   # each: {serial: its pages}
    beginning = False
    for page in _ogg_pages(data, name):
        if page.flags & 2:
            if not beginning:
                links.append({})
            if page.serial in links[-1]:
                raise AudioError(f"{name}: damaged: two Ogg streams with the number {page.serial}, {EXPECTED}")
            links[-1][page.serial] = []
        beginning = bool(page.flags & 2)
        if not links or page.serial not in links[-1]:
            raise AudioError(f"{name}: damaged: the Ogg page at byte {page.begin} belongs to no stream, {EXPECTED}")
        pages = links[-1][page.serial]
        if pages and page.sequence != pages[-1].sequence + 1:
            raise AudioError(f"{name}: damaged: the Ogg page at byte {page.begin} has number {page.sequence}, expected "
                             f"{pages[-1].sequence + 1}")
        pages.append(page)
    return [_ogg_part(data, name, link, len(links)) for link in links]


def _ogg_part(data, name, link, links):
    sounds = [(codec, pages) for pages in link.values() if (codec := _ogg_codec(data, pages[0]))]
    if len(sounds) != 1:
        raise AudioError(f"{name}: {len(sounds)} streams of sound in an Ogg file of {len(link)} streams, expected one")
    (codec, pages), = sounds
    if not pages[-1].flags & 4:
        raise AudioError(f"{name}: truncated: the last Ogg page is not the end of the stream, {EXPECTED}")
    if codec == "speex":
        if links > 1:
            raise AudioError(f"{name}: {links} joined streams of Speex, expected one")
        return Part(data, demuxer="ogg", what="Speex")
    if codec == "flac":
        # The packets are a FLAC file in pieces, behind 9 bytes of Ogg's own.
        flac = b"".join(data[page.payload:page.end] for page in pages)[9:]
        return _flac_part(flac, name)
    if pages[-1].end - pages[0].begin == sum(page.end - page.begin for page in pages):
        return Part(data[pages[0].begin:pages[-1].end])
    return Part(b"".join(data[page.begin:page.end] for page in pages))


def _ogg_codec(data, page):
    packet = data[page.payload:page.payload + 8]
    return next((codec for magic, codec in _OGG_SOUND.items() if packet.startswith(magic)), None)


# -- FLAC ------------------------------------------------------------------------------------------------------------

_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
_FRAME_TRIES, _LARGEST_FRAME_BYTES = 32, 1 << 20


def flac_parts(data, name):
    """FLAC -> Parts, one for each of the files that were joined. Raises AudioError: the last frame is cut."""
    begins = [match.start() for match in _FLAC_START.finditer(data)]
    if not begins:
        raise AudioError(f"{name}: damaged: no stream information behind fLaC, {EXPECTED}")
    return [_flac_part(data[begin:before_tags(data, end)], name) for begin, end in zip(begins, begins[1:] + [None])]


def _flac_part(data, name):
    """One FLAC file -> Part. Where it does not state its length, its last frame must be whole."""
    if len(data) < 42:
        raise AudioError(f"{name}: truncated in its FLAC header, {EXPECTED}")
    fields = int.from_bytes(data[18:26], "big")
    stated = fields & (1 << 36) - 1
    if not stated and not _ends_with_flac_frame(data):
        raise AudioError(f"{name}: truncated: the last FLAC frame is not whole, {EXPECTED}")
    # libsndfile ends where the header says; with 0, "unknown", it reads all that is there.
    unknown = (fields - stated).to_bytes(8, "big")
    return Part(b"".join([data[:18], unknown, data[26:]]), samples=stated or None, estimated=True)


def _ends_with_flac_frame(data):
    """Does a whole frame end where the data ends? A frame's own CRC-16 behind it makes the CRC-16 of both 0."""
    place = len(data)
    for _ in range(_FRAME_TRIES):
        place = data.rfind(b"\xff", max(0, len(data) - _LARGEST_FRAME_BYTES), place)
        while place >= 0 and data[place + 1:place + 2] not in (b"\xf8", b"\xf9"):
            place = data.rfind(b"\xff", max(0, len(data) - _LARGEST_FRAME_BYTES), place)
        if place < 0:
            return False
        if _crc_16(data[place:]) == 0:
            return True
    return False


def _crc_16_of(byte):
    value = byte << 8
    for _ in range(8):
        value = value << 1 ^ (0x8005 if value & 0x8000 else 0)
    return value & 0xFFFF


_CRC_16 = [_crc_16_of(byte) for byte in range(256)]


def _crc_16(data):
    value = 0
    for byte in data:
        value = value << 8 & 0xFFFF ^ _CRC_16[value >> 8 ^ byte]
    return value
