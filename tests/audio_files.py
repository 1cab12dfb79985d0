"""Sound files of every format, as ffmpeg and libsndfile write them: what the tests of audio read, cut and damage.

ffmpeg is that of the package imageio-ffmpeg, so that each machine has the same encoders. A test that needs it is
skipped, with the reason, where the package is missing.
"""

import dataclasses
import functools
import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ, SECONDS = 16000, 1.2


@dataclasses.dataclass(frozen=True)
class Format:
    """A row of the table in docs/audio_formats.md.

    Attributes:
      ffmpeg: the arguments behind the input that write it; None: `sndfile` does.
      ending: of the file. A "pipe" cannot be sought in: the program never comes back to the header.
      sndfile: (format, subtype) of libsndfile.
      times: how often the file stands in the file: 2 is `cat a a`.
      records: "read", "read, by ffmpeg" or "refused".
      export: "read" or "refused".
      tolerance: the largest difference from ffmpeg's samples; None: ffmpeg does not read it or not all of it.
      longer: samples more (or fewer) than ffmpeg gives.
      sees_cut: whether every cut of the file is noticed: not where no length is stated.
      remark: for the page.
    """

    ffmpeg: tuple | None = None
    ending: str = "wav"
    sndfile: tuple | None = None
    rate_hz: int = RATE_HZ
    channels: int = 1
    times: int = 1
    records: str = "read"
    export: str = "refused"
    tolerance: float | None = 1e-6
    longer: int = 0
    sees_cut: bool = True
    remark: str = ""

    @property
    def needs_ffmpeg(self):
        """Whether reading it takes the program."""
        return self.records == "read, by ffmpeg"


_BY_FFMPEG = {"records": "read, by ffmpeg"}
_PIPED = {"sees_cut": False}
_VIDEO = ("-f", "lavfi", "-i", "testsrc=size=64x48:duration=1.2:rate=10", "-map", "0:a", "-map", "1:v")

FORMATS = {
    "WAV, PCM of 8 bits": Format(("-c:a", "pcm_u8"), export="read"),
    "WAV, PCM of 16 bits": Format(("-c:a", "pcm_s16le"), export="read"),
    "WAV, PCM of 24 bits, stereo": Format(("-c:a", "pcm_s24le"), channels=2, export="read"),
    "WAV, PCM of 32 bits": Format(("-c:a", "pcm_s32le"), export="read"),
    "WAV, float of 32 bits": Format(("-c:a", "pcm_f32le"), export="read"),
    "WAV, float of 64 bits": Format(("-c:a", "pcm_f64le"), export="read"),
    "WAV, A-law": Format(("-c:a", "pcm_alaw"), rate_hz=8000, export="read"),
    "WAV, mu-law": Format(("-c:a", "pcm_mulaw"), rate_hz=8000, export="read"),
    "WAV, WAVE_FORMAT_EXTENSIBLE": Format(sndfile=("WAVEX", "PCM_16"), export="read"),
    "WAV, IMA ADPCM": Format(("-c:a", "adpcm_ima_wav"), tolerance=2e-3),
    "WAV, Microsoft ADPCM": Format(("-c:a", "adpcm_ms")),
    "WAV, GSM 6.10": Format(sndfile=("WAV", "GSM610"), rate_hz=8000),
    "WAV, G.726": Format(("-c:a", "g726"), rate_hz=8000, **_BY_FFMPEG, sees_cut=False),
    "WAV, MP3 inside": Format(("-c:a", "libmp3lame"), tolerance=1e-5, sees_cut=False,
                              remark="read to its last frame, whatever the header states"),
    "WAV from a pipe": Format(("-f", "wav"), "pipe", export="read", **_PIPED,
                              remark="sizes of 0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000 or 0xFFFFFFFF: to the end"),
    "WAV, big endian (RIFX)": Format(sndfile=("WAV", "PCM_16", "BIG"), tolerance=None,
                                      remark="ffmpeg takes it for little endian"),
    "WAV, two joined": Format(("-c:a", "pcm_s16le"), times=2, longer=int(RATE_HZ * SECONDS), sees_cut=False,
                              remark="ffmpeg reads the first only"),
    "RF64": Format(("-rf64", "always"), export="read"),
    "Wave64": Format(ending="w64"),
    "Wave64 from a pipe": Format(("-f", "w64"), "pipe", tolerance=None, **_PIPED),
    "AIFF": Format(("-c:a", "pcm_s16be"), "aiff"),
    "AIFF of 24 bits, stereo": Format(("-c:a", "pcm_s24be"), "aiff", channels=2),
    "AIFF from a pipe": Format(("-f", "aiff"), "pipe", tolerance=None, **_PIPED),
    "AIFC, little endian": Format(("-c:a", "pcm_s16le", "-f", "aiff"), "aifc"),
    "AIFC, mu-law": Format(("-c:a", "pcm_mulaw", "-f", "aiff"), "aifc", rate_hz=8000),
    "AU": Format(("-c:a", "pcm_s16be"), "au", **_PIPED, remark="ffmpeg states no length in an AU"),
    "AU, mu-law": Format(sndfile=("AU", "ULAW"), rate_hz=8000),
    "CAF, PCM": Format(("-c:a", "pcm_s16be"), "caf"),
    "CAF, ALAC": Format(sndfile=("CAF", "ALAC_16"), longer=1280, remark="ffmpeg loses the last packet"),
    "CAF from a pipe": Format(("-c:a", "pcm_s16be", "-f", "caf"), "pipe", **_PIPED),
    "NIST SPHERE, PCM": Format(sndfile=("NIST", "PCM_16")),
    "Creative VOC": Format(("-c:a", "pcm_s16le"), "voc"),
    "IRCAM": Format(sndfile=("IRCAM", "PCM_16"), **_PIPED, remark="the format states no length"),
    "Portable Voice Format": Format(sndfile=("PVF", "PCM_16"), **_PIPED, remark="the format states no length"),
    "Ensoniq PARIS": Format(sndfile=("PAF", "PCM_16"), **_PIPED, remark="the format states no length"),
    "Amiga 8SVX": Format(sndfile=("SVX", "PCM_16"), tolerance=None),
    "FLAC": Format(("-c:a", "flac"), "flac"),
    "FLAC of 24 bits, stereo": Format(("-c:a", "flac", "-sample_fmt", "s32"), "flac", channels=2),
    "FLAC from a pipe": Format(("-c:a", "flac", "-f", "flac"), "pipe", remark="its length is unknown: to the end"),
    "FLAC, two joined": Format(("-c:a", "flac"), "flac", times=2, tolerance=None, sees_cut=False,
                               remark="ffmpeg loses samples at the seam"),
    "FLAC in Ogg": Format(("-c:a", "flac"), "oga"),
    "Ogg Vorbis": Format(("-c:a", "libvorbis"), "ogg"),
    "Ogg Opus": Format(("-c:a", "libopus"), "opus", rate_hz=48000),
    "Ogg Vorbis, two joined": Format(("-c:a", "libvorbis"), "ogg", times=2, tolerance=None, sees_cut=False,
                                     remark="each ends where it states; ffmpeg adds samples at the seam"),
    "Ogg Opus, two joined": Format(("-c:a", "libopus"), "opus", rate_hz=48000, times=2, tolerance=None, sees_cut=False,
                                   remark="each ends where it states; ffmpeg adds samples at the seam"),
    "Ogg with Theora and Vorbis": Format((*_VIDEO, "-c:v", "libtheora", "-c:a", "libvorbis"), "ogv"),
    "MP3, constant bit rate": Format(("-c:a", "libmp3lame", "-b:a", "64k"), "mp3", tolerance=1e-5),
    "MP3, variable bit rate": Format(("-c:a", "libmp3lame", "-q:a", "4"), "mp3", tolerance=1e-5),
    "MP3 from a pipe": Format(("-c:a", "libmp3lame", "-b:a", "64k", "-f", "mp3"), "pipe", tolerance=1e-5,
                              sees_cut=False,
                              remark="no Xing frame: the encoder's delay stays, as in ffmpeg (Common Voice)"),
    "MP3 from a pipe, variable bit rate": Format(("-c:a", "libmp3lame", "-q:a", "4", "-f", "mp3"), "pipe",
                                                 tolerance=1e-5, sees_cut=False, remark="no Xing frame"),
    "MP3, two joined": Format(("-c:a", "libmp3lame", "-q:a", "4"), "mp3", times=2, tolerance=None, sees_cut=False,
                              remark="delay and padding of each are cut off; ffmpeg keeps those of the second"),
    "MP3 of 44.1 kHz, stereo": Format(("-c:a", "libmp3lame"), "mp3", rate_hz=44100, channels=2, tolerance=1e-5),
    "MP2": Format(("-c:a", "mp2"), "mp2", tolerance=1e-4, sees_cut=False),
    "M4A, AAC": Format(("-c:a", "aac"), "m4a", **_BY_FFMPEG),
    "M4A, AAC, index first": Format(("-c:a", "aac", "-movflags", "+faststart"), "m4a", **_BY_FFMPEG),
    "M4A, ALAC": Format(("-c:a", "alac"), "m4a", **_BY_FFMPEG),
    "MP4, Opus": Format(("-c:a", "libopus"), "mp4", rate_hz=48000, **_BY_FFMPEG),
    "MP4, video with AAC": Format((*_VIDEO, "-c:v", "mpeg4", "-c:a", "aac"), "mp4", **_BY_FFMPEG),
    "3GP, AMR": Format(("-c:a", "libopencore_amrnb"), "3gp", rate_hz=8000, **_BY_FFMPEG),
    "AAC (ADTS)": Format(("-c:a", "aac"), "aac", **_BY_FFMPEG, sees_cut=False),
    "WebM, Opus": Format(("-c:a", "libopus"), "webm", rate_hz=48000, **_BY_FFMPEG),
    "WebM, Vorbis": Format(("-c:a", "libvorbis"), "webm", **_BY_FFMPEG),
    "Matroska, video with MP3": Format((*_VIDEO, "-c:v", "mpeg4", "-c:a", "libmp3lame"), "mkv", **_BY_FFMPEG),
    "WMA": Format(("-c:a", "wmav2"), "wma", rate_hz=44100, **_BY_FFMPEG),
    "AMR": Format(("-c:a", "libopencore_amrnb"), "amr", rate_hz=8000, **_BY_FFMPEG, sees_cut=False),
    "WavPack": Format(("-c:a", "wavpack"), "wv", **_BY_FFMPEG),
    "True Audio": Format(("-c:a", "tta"), "tta", **_BY_FFMPEG),
    "AVI, video with MP3": Format((*_VIDEO, "-c:v", "mpeg4", "-c:a", "libmp3lame"), "avi", **_BY_FFMPEG),
    "FLV, video with AAC": Format((*_VIDEO, "-c:v", "flv", "-c:a", "aac"), "flv", rate_hz=44100, **_BY_FFMPEG),
    "AC-3": Format(("-c:a", "ac3"), "ac3", rate_hz=48000, records="refused", remark="no cut would be noticed"),
    "MPEG transport stream": Format((*_VIDEO, "-c:v", "mpeg2video", "-c:a", "mp2"), "ts", records="refused",
                                    remark="no cut would be noticed"),
    "MPEG program stream": Format((*_VIDEO, "-r", "25", "-c:v", "mpeg2video", "-c:a", "mp2"), "mpg", rate_hz=44100,
                                  records="refused", remark="no cut would be noticed"),
    "MP4, two sound tracks": Format(("-map", "0:a", "-map", "0:a", "-c:a", "aac"), "mp4", records="refused",
                                    remark="which one?"),
    "MP4, video without sound": Format((*_VIDEO[:-4], "-map", "1:v", "-c:v", "mpeg4"), "mp4", records="refused"),
    "MATLAB 5": Format(sndfile=("MAT5", "PCM_16"), records="refused", remark="no cut would be noticed"),
    "HTK": Format(sndfile=("HTK", "PCM_16"), records="refused", remark="no cut would be noticed"),
    "raw samples without a header": Format(("-f", "s16le"), "raw", records="refused", remark="rate and kind unknown"),
}


def encoder():
    """The path of imageio-ffmpeg's program; the test is skipped without it."""
    return pytest.importorskip("imageio_ffmpeg", reason="ffmpeg comes with imageio-ffmpeg").get_ffmpeg_exe()


def source(rate_hz, channels=1, seconds=SECONDS):
    """A sweep with a little noise: float32 [n, channels], no two stretches and no two channels alike."""
    count = int(rate_hz * seconds)
    time = np.arange(count) / rate_hz
    sweep = 0.4 * np.sin(2 * np.pi * (200 * time + 400 * time**2))
    noise = 0.05 * np.random.default_rng(0).uniform(-1, 1, (count, channels))
    return (sweep[:, None] * (1 - 0.3 * np.arange(channels)) + noise).astype(np.float32)


@functools.lru_cache(maxsize=None)
def made(name):
    """The bytes of a file of the format of that name."""
    kind = FORMATS[name]
    samples = source(kind.rate_hz, kind.channels)
    if kind.ffmpeg is None and kind.sndfile is None:
        kind = dataclasses.replace(kind, ffmpeg=())
    file = io.BytesIO()
    if kind.ffmpeg is None:
        form, subtype, *endian = kind.sndfile
        soundfile.write(file, samples, kind.rate_hz, format=form, subtype=subtype, endian=endian[0] if endian else None)
        return file.getvalue() * kind.times
    soundfile.write(file, samples, kind.rate_hz, format="WAV", subtype="FLOAT")
    with tempfile.TemporaryDirectory() as folder:
        original, out = Path(folder, "in.wav"), Path(folder, "out." + kind.ending)
        original.write_bytes(file.getvalue())
        target = "pipe:1" if kind.ending == "pipe" else str(out)
        command = [encoder(), "-v", "error", "-nostdin", "-i", str(original), *kind.ffmpeg, target]
        process = subprocess.run(command, capture_output=True, check=False)
        assert process.returncode == 0, process.stderr.decode()[-1000:]
        return (process.stdout if kind.ending == "pipe" else out.read_bytes()) * kind.times


def ffmpeg_samples(data, channels):
    """What ffmpeg itself makes of a file, at the file's rate: float32 [n, channels]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sound")
        path.write_bytes(data)
        command = [encoder(), "-v", "quiet", "-nostdin", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "pipe:1"]
        process = subprocess.run(command, capture_output=True, check=False)
    return np.frombuffer(process.stdout, np.float32).reshape(-1, channels)
