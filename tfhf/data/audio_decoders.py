"""A Part of a sound file into blocks of samples: by libsndfile, or by the `ffmpeg` program for what it lacks."""

import contextlib
import io
import os
import re
import resource
import shutil
import subprocess
import tempfile
import threading

import numpy as np
import soundfile

from tfhf.data.audio_part import EXPECTED, AudioError

_BLOCK_VALUES = 1 << 18
_LOSSY = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS", "OPUS")
_SEEKABLE = ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_FAR = 1 << 40
_FFMPEG_SECONDS, _FFMPEG_BYTES = 1800, 4 << 30   # of time and of address space for one file


def open_part(part, name):
    """A Part -> an object with rate_hz, channels, lossy and blocks(), which yields float32 [n, channels] to the end.

    skip(n), before blocks(), passes over up to n samples where that costs no decoding, and says over how many. close()
    gives back what it holds; harmless when done twice. Raises AudioError: no decoder can read it.
    """
    return _Ffmpeg(part, name) if part.demuxer else _SoundFile(part, name)


class _ToTheEnd(soundfile.SoundFile):
    """A SoundFile that is read to where the decoder ends.

    soundfile cuts each read of a file that can be sought in at the frames that the header states, and seeks after each.
    """

    def seekable(self):
        """Not for soundfile's own arithmetic; libsndfile seeks all the same."""
        return False


class _SeemsLonger(io.BytesIO):
    """Bytes that seem to be 2^40: libsndfile estimates the frames of an MP3 by its size, and reads no further."""

    def seek(self, offset, whence=os.SEEK_SET):
        """As of a file of 2^40 bytes."""
        if whence == os.SEEK_END:
            offset, whence = offset + _FAR, os.SEEK_SET
        return super().seek(offset, whence)

    def readinto(self, buffer):
        """As of BytesIO; the last 128 bytes, where an MP3 may have a tag, are zeros."""
        place = self.tell()
        if place < _FAR - 128:
            return super().readinto(buffer)
        size = min(len(buffer), _FAR - place)
        buffer[:size] = bytes(size)
        return size


class _SoundFile:
    """What libsndfile decodes."""

    def __init__(self, part, name):
        self._part, self._name = part, name
        content = (_SeemsLonger if part.estimated else io.BytesIO)(part.data)
        with self._errors():
            self._file = _ToTheEnd(content)
        self.rate_hz, self.channels = self._file.samplerate, self._file.channels
        self.lossy = self._file.subtype in _LOSSY
        self._skipped = 0

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except soundfile.SoundFileError as error:
            why = getattr(error, "error_string", "") or str(error)
            raise AudioError(f"{self._name}: cannot be decoded ({why.rstrip('. ')}; {len(self._part.data)} bytes), "
                             f"{EXPECTED}") from error

    def skip(self, count):
        """Passes over `count` samples where each has its place in the file -> how many; else 0."""
        if self._file.subtype in _SEEKABLE and not self._part.estimated and count <= self._file.frames:
            with self._errors():
                self._skipped = self._file.seek(count)
        return self._skipped

    def blocks(self):
        """Yields float32 [n, channels]."""
        most = max(1, _BLOCK_VALUES // self.channels)
        stated, beyond = self._part.samples, self._part.estimated
        if stated is None and not beyond:
            stated = self._file.frames
        count = self._skipped
        while stated is None or count < stated:
            block = self._read(most if stated is None else min(most, stated - count))
            if not len(block):
                break
            count += len(block)
            yield block
        if stated is not None and count < stated:
            raise AudioError(f"{self._name}: truncated: {count} of the {stated} samples it states, {EXPECTED}")
        while beyond and len(block := self._read_beyond(most)):
            yield block
        self.close()

    def _read(self, size):
        with self._errors():
            return self._file.read(size, dtype="float32", always_2d=True)

    def _read_beyond(self, size):
        """As `_read`, behind all that the file states. There, what is no sound ends it."""
        try:
            return self._file.read(size, dtype="float32", always_2d=True)
        except soundfile.SoundFileError:
            return ()

    def close(self):
        """Closes the file."""
        self._file.close()


def ffmpeg_program():
    """The path of the `ffmpeg` program: that on the PATH, or that of the package imageio-ffmpeg; None without both."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg.get_ffmpeg_exe()


class _Ffmpeg:
    """What the `ffmpeg` program decodes, in a process of its own.

    It reads one local file, in the one format that was recognised: no playlist, no address, no second file. It writes
    AU, whose header says rate and channels in 24 bytes.
    """

    def __init__(self, part, name):
        self._part, self._name = part, name
        program = ffmpeg_program()
        if program is None:
            raise AudioError(f"{name}: {part.what} needs the ffmpeg program, which is not on the PATH: install it (apt "
                             "install ffmpeg, or pip install imageio-ffmpeg), or convert the file to WAV or FLAC")
        self.lossy = True
        with contextlib.ExitStack() as stack:
            self._start(program, stack)
            self.rate_hz, self.channels = self._read_header()
            self._resources = stack.pop_all()

    def _start(self, program, stack):
        # A folder, and not a pipe: MP4 keeps its index at the end.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfhf-sound-"))
        self._path = os.path.join(folder, "sound")
        with open(self._path, "wb") as file:
            file.write(self._part.data)
        self._log = stack.enter_context(open(os.path.join(folder, "log"), "w+b"))
        command = [program, "-hide_banner", "-nostdin", "-loglevel", "level+info", "-threads", "1",
                   "-protocol_whitelist", "file,pipe", "-format_whitelist", self._part.demuxer,
                   "-f", self._part.demuxer, "-i", "file:" + self._path,
                   "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log,
                                         cwd=folder)
        stack.callback(self._stop)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)   # may be lowered, not raised
        most = _FFMPEG_BYTES if hard == resource.RLIM_INFINITY else min(_FFMPEG_BYTES, hard)
        resource.prlimit(self._process.pid, resource.RLIMIT_AS, (most, most))
        self._timer = threading.Timer(_FFMPEG_SECONDS, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def _stop(self):
        self._timer.cancel()
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()

    def _read_header(self):
        head = self._process.stdout.read(24)
        if len(head) < 24:
            self._refuse("no sound in it")
        begin, _, _, rate_hz, channels = np.frombuffer(head, ">u4")[1:].tolist()
        self._process.stdout.read(begin - 24)
        tracks = re.findall(r"Stream #0:\d+.*: Audio:", self._logged().split("Output #0")[0])
        if len(tracks) != 1:
            raise AudioError(f"{self._name}: {len(tracks)} sound tracks, expected one: pick it with "
                             "`ffmpeg -i FILE -map 0:a:0 ONE.flac`")
        return rate_hz, channels

    def skip(self, count):
        """Passes over nothing: a pipe cannot be sought in."""
        return 0

    def _logged(self):
        self._log.seek(0)
        return self._log.read(1 << 20).decode("utf-8", "replace")

    def _refuse(self, otherwise):
        self._process.wait()
        found = re.search(r"\[(?:error|fatal|panic)\] (.*)", self._logged())
        why = found[1].replace("file:" + self._path, "file").strip() if found else otherwise
        raise AudioError(f"{self._name}: cannot be decoded (ffmpeg: {why}; {len(self._part.data)} bytes of "
                         f"{self._part.what}), expected a whole file with sound")

    def blocks(self):
        """Yields float32 [n, channels]."""
        frame = 4 * self.channels
        size = max(1, _BLOCK_VALUES // self.channels) * frame
        with self._resources:
            while data := self._process.stdout.read(size):
                whole = len(data) - len(data) % frame
                yield np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, self.channels)
            # ffmpeg says what was damaged or missing, gives the rest, and ends as if nothing had been.
            if self._process.wait() or re.search(r"\[(error|fatal|panic)\]", self._logged()):
                self._refuse(f"it ended with status {self._process.returncode}")

    def close(self):
        """Ends the program and removes its files."""
        self._resources.close()
