"""What real files do to their own headers: estimates, lies, streams that were joined, tags and junk between them."""

import io
import struct

import numpy as np
import pytest
import soundfile

from tests.audio_files import FORMATS, encoder, made, source
from tfhf.data import audio_decoders
from tfhf.data.audio import AudioError, load_audio, read_audio
from tfhf.data.audio_streams import _ogg_checksum

ID3 = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 72]) + b"\xff\xfb\x90\x00" * 50   # 200 bytes that look like MPEG headers
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 2000, 1, 0xA0000000) + bytes(8)
APE_FOOTER = b"APETAGEX" + struct.pack("<IIII", 2000, 2000, 1, 0x80000000) + bytes(8)


def encode(samples, rate_hz, form="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def read(data):
    return read_audio(data, name="clip").samples


def expect_refusal(data, message):
    with pytest.raises(AudioError, match=r"\Aclip: [^\n]*" + message):
        read(data)


# -- MP3 -------------------------------------------------------------------------------------------------------------

def mp3(rate_hz=16000, seconds=1.2):
    """An MP3 with a Xing frame, by libsndfile's LAME -> (that frame, the others)."""
    data = encode(source(rate_hz, seconds=seconds), rate_hz, "MP3")
    assert b"Info" in data[:64] or b"Xing" in data[:64]
    second = data.index(data[:2], 4)
    return data[:second], data[second:]


def test_an_mp3_without_a_xing_frame_is_read_to_its_last_frame():
    info, frames = mp3()
    whole, bare = read(info + frames), read(frames)
    assert len(whole) == 19200
    assert len(bare) % 576 == 0 and 0 < len(bare) - len(whole) < 3000   # with the encoder's delay and padding
    delay = len(bare) - len(whole)
    offsets = [start for start in range(delay + 1) if np.allclose(bare[start:start + 19200], whole, atol=1e-4)]
    assert len(offsets) == 1


@pytest.mark.parametrize("name", ["MP3 from a pipe", "MP3 from a pipe, variable bit rate"])
def test_an_mp3_that_ffmpeg_writes_to_a_pipe(name):
    data = made(name)
    assert b"Xing" not in data and b"Info" not in data
    assert len(read(data)) % 576 == 0 and len(read(data)) >= 19200


@pytest.mark.parametrize("between", [b"", ID3, ID3V1, APE + bytes(1968) + APE_FOOTER, bytes(1000)],
                         ids=["nothing", "ID3v2", "ID3v1", "APE", "zeros"])
def test_joined_mp3_files_are_read_on(between):
    data = b"".join(mp3())
    whole = read(data)
    np.testing.assert_array_equal(read(data + between + data), np.concatenate([whole, whole]))
    bare = mp3()[1]
    if between == bytes(1000):
        expect_refusal(bare + between + bare, "damaged: no MPEG frame and no tag")   # a hole, for all that one can tell
    else:
        assert len(read(bare + between + bare)) == 2 * len(read(bare))
    if not between:
        np.testing.assert_array_equal(read(data + bare), np.concatenate([whole, read(bare)]))


@pytest.mark.parametrize("tags", [ID3V1, APE + bytes(1968) + APE_FOOTER + ID3V1, b"behind the last frame" * 20,
                                  bytes(5000)], ids=["ID3v1", "APE and ID3v1", "junk", "zeros"])
def test_what_stands_around_an_mp3_is_no_sound(tags):
    data = b"".join(mp3())
    np.testing.assert_array_equal(read(ID3 + ID3 + data + tags), read(data))
    assert len(read(ID3 + mp3()[1] + tags)) == len(read(mp3()[1]))


def test_a_cut_or_damaged_mp3_is_named():
    info, frames = mp3()
    expect_refusal(info + frames[:len(frames) // 2], "truncated")
    expect_refusal(frames[:len(frames) // 2 + 3], "truncated: the last MPEG frame has")
    expect_refusal(frames + frames[:2], "truncated: 2 of the 4 bytes of the last MPEG header")
    expect_refusal(frames + frames[:5], "truncated: the last MPEG frame has 5 of")
    second = frames.index(frames[:2], 4)
    expect_refusal(info + frames[:second] + bytes(5) + frames[second:], "damaged: no MPEG frame and no tag at byte")
    expect_refusal(info + frames[:second] + b"no frame" + frames[second:], "damaged: no MPEG frame and no tag at byte")
    expect_refusal(ID3 + ID3V1, "cannot be decoded")
    lying = bytearray(info)
    place = max(info.find(b"Info"), info.find(b"Xing")) + 8
    lying[place:place + 4] = struct.pack(">I", 1 << 20)
    expect_refusal(bytes(lying) + frames, "of the 1048576 MPEG frames its header states")


def test_a_xing_frame_that_counts_itself_loses_nothing():
    info, frames = mp3()
    place = max(info.find(b"Info"), info.find(b"Xing")) + 8
    count = struct.unpack_from(">I", info, place)[0]
    counts_itself = info[:place] + struct.pack(">I", count + 1) + info[place + 4:]
    np.testing.assert_array_equal(read(counts_itself + frames), read(frames))
    too_few = info[:place] + struct.pack(">I", count - 10) + info[place + 4:]
    assert len(read(too_few + frames)) >= 19200


def test_joined_streams_of_different_rates_are_refused():
    expect_refusal(b"".join(mp3(16000)) + b"".join(mp3(24000)),
            "stream 2 of 2 joined ones has 1 channels at 24000 Hz, the first 1 at 16000 Hz")


def test_an_mp3_named_wav_is_read_by_its_content(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(b"".join(mp3()))
    assert len(load_audio(path)) == 19200


# -- FLAC ------------------------------------------------------------------------------------------------------------

FLAC = encode(source(16000), 16000, "FLAC")


def flac_stating(total):
    fields = int.from_bytes(FLAC[18:26], "big")
    return FLAC[:18] + (fields >> 36 << 36 | total).to_bytes(8, "big") + FLAC[26:]


def test_flac_of_unknown_length_joined_or_stating_too_little_is_read_to_its_end():
    whole = read(FLAC)
    unknown = flac_stating(0)
    for data in (unknown, flac_stating(5000), ID3 + FLAC, FLAC + ID3V1, unknown + ID3V1, FLAC + b"junk"):
        np.testing.assert_array_equal(read(data), whole)
    for data in (FLAC + FLAC, flac_stating(0) + flac_stating(0), FLAC + flac_stating(0)):
        np.testing.assert_array_equal(read(data), np.concatenate([whole, whole]))


def test_a_cut_flac_is_named_also_where_its_length_is_unknown():
    expect_refusal(flac_stating(2**36 - 1), "truncated: 19200 of the 68719476735 samples")
    for cut in (1, 2, 100, 3000, len(FLAC) // 2):
        expect_refusal(FLAC[:-cut], "truncated|cannot be decoded")
        expect_refusal(flac_stating(0)[:-cut], "truncated: the last FLAC frame is not whole")


# -- Ogg -------------------------------------------------------------------------------------------------------------

VORBIS = encode(source(16000), 16000, "OGG", "VORBIS")
OPUS = encode(source(48000), 48000, "OGG", "OPUS")


def pages_of(data):
    places = [place for place in range(len(data)) if data[place:place + 4] == b"OggS"]
    return [data[begin:end] for begin, end in zip(places, [*places[1:], len(data)])]


def numbered(page, serial):
    """The page with another stream's number, and the checksum that goes with it."""
    page = page[:14] + struct.pack("<I", serial) + page[18:22] + bytes(4) + page[26:]
    return page[:22] + struct.pack("<I", _ogg_checksum(page)) + page[26:]


def test_chained_ogg_is_read_on():
    for data, rate_hz in ((VORBIS, 16000), (OPUS, 48000)):
        whole = load_audio(data, rate_hz)
        np.testing.assert_array_equal(load_audio(data * 3, rate_hz), np.concatenate([whole] * 3))
    expect_refusal(VORBIS + OPUS, "joined ones has 1 channels at 48000 Hz")


def test_ogg_with_a_page_cut_damaged_or_lost_is_named():
    pages = pages_of(VORBIS)
    assert len(pages) > 3
    expect_refusal(VORBIS[:-1], "truncated in its last Ogg page")
    expect_refusal(b"".join(pages[:-1]), "truncated: the last Ogg page is not the end of the stream")
    expect_refusal(b"".join(pages[:-2] + pages[-1:]), "damaged: the Ogg page at byte .* has number")
    damaged = bytearray(VORBIS)
    damaged[len(VORBIS) // 2] ^= 1
    expect_refusal(bytes(damaged), "damaged: ")
    np.testing.assert_array_equal(read(VORBIS + b"junk behind"), read(VORBIS))


def test_of_several_ogg_streams_the_one_of_sound_is_read():
    text = numbered(pages_of(VORBIS)[0][:28] + b"\x01nosound".ljust(len(pages_of(VORBIS)[0]) - 28, b"\0"), 77)
    pages = pages_of(VORBIS)
    np.testing.assert_array_equal(read(pages[0] + text + b"".join(pages[1:])), read(VORBIS))
    expect_refusal(pages[0] + numbered(pages[0], 77) + b"".join(pages[1:]), "2 streams of sound")


# -- WAV and its relatives -------------------------------------------------------------------------------------------

SAMPLES = source(16000)
WAV = encode(SAMPLES, 16000)


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(*chunks):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FMT, DATA = WAV[12:36], WAV[44:]
LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0")


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFDB, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB])
def test_a_streams_placeholder_for_its_size(size):
    head = b"RIFF" + struct.pack("<I", (size + 36) & 0xFFFFFFFF) + b"WAVE" + FMT
    for extra in (b"", LIST):
        np.testing.assert_array_equal(read(head + extra + b"data" + struct.pack("<I", size) + DATA), read(WAV))
    expect_refusal(head + b"data" + struct.pack("<I", size) + DATA[:-1],
                   "truncated: 38399 bytes of samples, the last 1")
    expect_refusal(head + b"data" + struct.pack("<I", size), "0 samples|truncated")


@pytest.mark.parametrize("data", [
    riff(FMT, chunk(b"data", DATA), LIST), riff(chunk(b"data", DATA), FMT), riff(LIST, FMT, LIST, chunk(b"data", DATA)),
    riff(chunk(b"bext", b"odd"), FMT, chunk(b"data", DATA)),
    riff(b"bext" + struct.pack("<I", 3) + b"odd", FMT, chunk(b"data", DATA)),   # not padded
    riff(FMT, chunk(b"data", DATA[:10000]), LIST, chunk(b"data", DATA[10000:])), WAV + b"junk behind it",
    riff(FMT, chunk(b"data", b""), chunk(b"data", DATA)),
], ids=["LIST behind", "data first", "LISTs", "odd chunk", "odd, not padded", "two data chunks", "junk", "empty data"])
def test_chunks_in_any_order(data):
    np.testing.assert_array_equal(read(data), read(WAV))


def test_joined_wav_files_are_read_on():
    np.testing.assert_array_equal(read(WAV + riff(FMT, LIST, chunk(b"data", DATA))), np.tile(read(WAV), 2))
    expect_refusal(WAV + WAV[:-100], "truncated")
    expect_refusal(riff(FMT, chunk(b"data", b""), LIST), "0 samples")


def test_short_last_blocks_of_adpcm_and_gsm():
    for subtype, block, short in (("IMA_ADPCM", 256, 100), ("MS_ADPCM", 256, 101), ("GSM610", 65, 65)):
        data = encode(SAMPLES[:8000], 8000, "WAV", subtype)
        begin = data.index(b"data") + 8
        size = (struct.unpack_from("<I", data, begin - 4)[0] // block - 1) * block + short
        cut = data[:begin - 4] + struct.pack("<I", size) + data[begin:begin + size]
        each, got = len(read(data)) // 2, len(read(cut)) // 2
        assert 0 <= each - got < 520
        np.testing.assert_allclose(read(cut)[:2 * got - 500], read(data)[:2 * got - 500], atol=1e-3)
        unknown = data[:begin - 4] + b"\xff\xff\xff\xff" + data[begin:begin + 2 * block + 30]
        expect_refusal(unknown, "truncated: the last block has 30 of")


@pytest.mark.parametrize("form, place, order", [("AIFF", -4, ">"), ("AU", None, ">"), ("W64", None, "<")])
def test_other_streams_that_do_not_know_their_size(form, place, order):
    data = bytearray(encode(SAMPLES, 16000, form, "PCM_16"))
    if form == "AIFF":
        place = data.index(b"SSND") + 4
        data[place:place + 4] = bytes(4)
    elif form == "AU":
        data[8:12] = b"\xff\xff\xff\xff"
    else:
        place = data.index(b"data") + 16
        data[place:place + 8] = b"\xff" * 7 + b"\x7f"
    np.testing.assert_array_equal(read(bytes(data[:-8] if form == "W64" else data))[:19000], read(WAV)[:19000])


@pytest.mark.parametrize("data", [
    encode(SAMPLES, 16000, "VOC", "PCM_16")[:30] + b"\xff" * 4 + encode(SAMPLES, 16000, "VOC", "PCM_16")[34:],
    encode(SAMPLES, 16000, "AIFF")[:22], encode(SAMPLES, 16000, "AU")[:20], encode(SAMPLES, 16000, "CAF")[:50],
    b"caff\0\1\0\0data" + b"\xff" * 8, b"FORM\0\0\0\0AIFFCOMM\0\0\0\0SSND" + b"\x7f\xff\xff\xff", b"fLaC\0\0\0\x22",
    b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", b"OggS" + bytes(30), b"riff" + bytes(20) + b"wave" + bytes(12) + b"data",
    b"Creative Voice File\x1a\x1a\0", b"NIST_1A\n   1024\nsample_count -i x\n", b"ID3\4\0\0\x7f\x7f\x7f\x7f",
], ids=range(13))
def test_a_header_that_is_not_whole_or_not_possible(data):
    expect_refusal(data[:200] if len(data) < 500 else data, "expected")


def test_sphere_in_shorten_is_named():
    data = encode(SAMPLES, 16000, "NIST", "PCM_16")
    assert b"sample_coding" in data[:1024]
    line = data[data.index(b"sample_coding"):].split(b"\n")[0]
    shorten = data.replace(line, b"sample_coding -s26 pcm,embedded-shorten-v2.00")[:1024] + data[1024:]
    expect_refusal(shorten, "SPHERE with pcm,embedded-shorten-v2.00, expected it uncompressed")


# -- What ffmpeg reads -----------------------------------------------------------------------------------------------

def test_without_ffmpeg_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    expect_refusal(b"\0\0\0\x20ftypM4A " + bytes(100),
                   "MP4, M4A, MOV or 3GP needs the ffmpeg program, which is not on the PATH")
    assert len(read(WAV)) == 19200


@pytest.fixture
def _ffmpeg(monkeypatch):
    monkeypatch.setattr(audio_decoders, "ffmpeg_program", encoder)


@pytest.mark.usefixtures("_ffmpeg")
def test_a_segment_of_what_ffmpeg_reads_and_its_channels():
    data = made("M4A, ALAC")
    whole = read_audio(data, 16000).samples
    part = read_audio(data, 16000, offset=0.2, duration=0.5)
    np.testing.assert_array_equal(part.samples, whole[3200:11200])


@pytest.mark.usefixtures("_ffmpeg")
@pytest.mark.parametrize("hostile", [
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>", b"v=0\r\nc=IN IP4 127.0.0.1\r\n",
    b"\0\0\0\x20ftypM4A \n#EXTM3U\nfile:///etc/passwd\n", b"\x1a\x45\xdf\xa3#EXTM3U\n/etc/passwd",
], ids=["hls", "concat", "dash", "sdp", "hls as mp4", "hls as webm"])
def test_no_playlist_is_opened(hostile):
    expect_refusal(hostile, "cannot be decoded")


@pytest.mark.usefixtures("_ffmpeg")
def test_a_program_that_hangs_is_ended(monkeypatch, tmp_path):
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(audio_decoders, "ffmpeg_program", lambda: str(slow))
    monkeypatch.setattr(audio_decoders, "_FFMPEG_SECONDS", 0.3)
    expect_refusal(made("M4A, AAC"), r"cannot be decoded \(ffmpeg: ")


@pytest.mark.usefixtures("_ffmpeg")
def test_nothing_is_left_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = [name for name, kind in FORMATS.items() if kind.ending == "m4a" or name == "MP4, two sound tracks"]
    files = [made(name) for name in names]
    before = sorted(tmp_path.iterdir())
    for data in files:
        for cut in (data, data[:len(data) // 2]):
            try:
                read_audio(cut, duration=0.1)
            except AudioError:
                pass
    assert sorted(tmp_path.iterdir()) == before
