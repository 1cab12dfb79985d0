"""Broken sound files of every format through load_audio, in a process of 2 GB: samples or an AudioError, never a crash.

1,000 files of those that libsndfile decodes; with TFHF_NIGHTLY=1 20,000, 1,000 of them for ffmpeg.
"""

import collections
import os
import pickle
import resource
import struct
import subprocess
import sys
import time

import numpy as np

from tests.audio_files import FORMATS, made
from tfhf.data.audio import MAX_SECONDS, AudioError, load_audio
from tfhf.data.audio_streams import _ogg_checksum

NIGHTLY = os.environ.get("TFHF_NIGHTLY") == "1"
COUNT, BY_FFMPEG = (20000, 1000) if NIGHTLY else (1000, 0)
MEMORY, SECONDS = 2 << 30, 20.0
EXTREMES = [0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB,
            0xFFFFFFFE, 0xFFFFFFFF]


def bases():
    """{name: the bytes of a small file}: a third of a second or so of each format, whole."""
    return {name: made(name) for name in FORMATS}


def _place(data, rng):
    reach = min(len(data), 128) if rng.random() < 0.6 else len(data)   # the header is where the bits matter
    return int(rng.integers(0, max(1, reach)))


def _flip_bits(data, rng, others):
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if data:
            data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(data, rng, others):
    return data[:int(rng.integers(0, len(data) + 1))]


def _set_number(data, rng, others):
    place = _place(data, rng)
    kind = ["<H", ">H", "<I", ">I", "<Q", ">Q"][int(rng.integers(6))]
    value = int(rng.choice(EXTREMES)) if rng.random() < 0.8 else int(rng.integers(0, 1 << 32))
    size = struct.calcsize(kind)
    return data[:place] + struct.pack(kind, value & ((1 << 8 * size) - 1)) + data[place + size:]


def _repeat(data, rng, others):
    begin = _place(data, rng)
    end = begin + int(rng.integers(1, 80))
    return data[:end] + data[begin:end] * int(rng.integers(1, 300)) + data[end:]


def _delete(data, rng, others):
    begin = _place(data, rng)
    return data[:begin] + data[begin + int(rng.integers(1, 200)):]


def _insert(data, rng, others):
    begin = _place(data, rng)
    return data[:begin] + rng.bytes(int(rng.integers(1, 200))) + data[begin:]


def _hole(data, rng, others):
    begin = _place(data, rng)
    size = min(len(data) - begin, int(rng.integers(1, 3000)))
    return data[:begin] + bytes(max(0, size)) + data[begin + size:]


def _splice(data, rng, others):
    other = others[int(rng.integers(len(others)))]
    return data[:_place(data, rng)] + other[_place(other, rng):]


def _join(data, rng, others):
    return data + others[int(rng.integers(len(others)))]


MUTATIONS = [_flip_bits, _cut, _set_number, _set_number, _repeat, _delete, _insert, _hole, _splice, _join]


def _with_checksums(data):
    """An Ogg file whose pages, wherever their magic stands, have the checksum of what is in them."""
    data, place = bytearray(data), bytes(data).find(b"OggS")
    while place >= 0 and place + 27 <= len(data):
        end = place + 27 + data[place + 26]
        end += sum(data[place + 27:end])
        page = bytes(data[place:place + 22]) + bytes(4) + bytes(data[place + 26:end])
        data[place + 22:place + 26] = struct.pack("<I", _ogg_checksum(page))
        place = bytes(data).find(b"OggS", place + 4)
    return bytes(data)


def mutated(number, name, files):
    """The same file for the same number, where the same ffmpeg made the bases."""
    rng = np.random.default_rng(number)
    data, others = files[name], list(files.values())
    for _ in range(int(rng.integers(1, 4))):
        data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng, others)
    if b"OggS" in data and rng.random() < 0.8:
        data = _with_checksums(data)
    return data


def names_of(count, by_ffmpeg):
    """Which format each file begins as."""
    kinds = {False: [], True: []}
    for name, kind in FORMATS.items():
        kinds[kind.needs_ffmpeg or name.startswith("MP4")].append(name)
    plain = [kinds[False][number % len(kinds[False])] for number in range(count - by_ffmpeg)]
    return plain + [kinds[True][number % len(kinds[True])] for number in range(by_ffmpeg)]


def test_every_broken_file_is_answered(tmp_path):
    files = bases()
    work = tmp_path / "work"
    work.write_bytes(pickle.dumps((files, names_of(COUNT, BY_FFMPEG))))
    process = subprocess.run([sys.executable, "-m", "tests.data.test_audio_fuzz", str(work)], capture_output=True,
                             check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    last = process.stdout.decode().strip().split("\n")[-1]
    assert process.returncode == 0, (last, process.stderr.decode(errors="replace")[-3000:])
    found = dict(part.split("=") for part in last.split())
    print(last)
    assert int(found["files"]) == COUNT
    assert int(found["read"]) > 0.05 * COUNT and int(found["refused"]) > 0.3 * COUNT   # both roads were taken
    assert float(found["slowest_s"]) < SECONDS


def main(work):
    """Reads the mutated files one by one and prints what came of them; a wrong answer ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with open(work, "rb") as file:
        files, names = pickle.load(file)
    found, slowest = collections.Counter(), 0.0
    for number, name in enumerate(names):
        data = mutated(number, name, files)
        print(f"{number} {name}", flush=True)   # the last line names the file that ended the process
        begin = time.monotonic()
        try:
            samples = load_audio(data, name="clip")
        except AudioError as error:
            assert str(error).startswith("clip: ") and "\n" not in str(error), (number, str(error))
            found["refused"] += 1
        else:
            assert samples.dtype == np.float32 and samples.ndim == 1 and 0 < len(samples) <= 16001 * MAX_SECONDS
            assert np.isfinite(samples).all(), number
            found["read"] += 1
        slowest = max(slowest, time.monotonic() - begin)
    with open("/proc/self/status", encoding="ascii") as status:
        peak_mb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) >> 10
    print(f"files={len(names)} read={found['read']} refused={found['refused']} slowest_s={slowest:.1f} "
          f"peak_mb={peak_mb}")


if __name__ == "__main__":
    main(sys.argv[1])
