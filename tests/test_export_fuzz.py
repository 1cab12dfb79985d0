"""Broken WAV files through an export, in the C API's process: an error or an answer each time, never a crash.

A small task: 1,000 files, and 20,000 with TFHF_NIGHTLY=1. A small Whisper, random weights: 100 and 1,000.
"""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.whisper import WhisperTask
from tests.loudness_task import LoudnessTask, wav
from tfhf.export import export

RUNNER = Path(__file__).with_name("c_api_runner.py")
NIGHTLY = os.environ.get("TFHF_NIGHTLY") == "1"
BASES = [wav(count=300, rate_hz=rate, subtype=subtype, channels=channels)
         for rate, subtype, channels in [(8000, "PCM_16", 1), (44100, "PCM_24", 2), (16000, "PCM_U8", 1),
                                         (96000, "FLOAT", 3), (11025, "PCM_32", 1), (8000, "ULAW", 2),
                                         (8000, "ALAW", 1), (22050, "DOUBLE", 2)]]
EXTREMES = [0, 1, 2, 3, 7, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFE,
            0xFFFFFFFF]


def _flip_bits(data, rng):
    data = bytearray(data)
    reach = 48 if rng.random() < 0.7 else len(data)   # the header is where the bits matter
    for place in rng.integers(0, min(reach, len(data)), rng.integers(1, 6)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _cut(data, rng):
    return data[:int(rng.integers(0, len(data)))]


def _edit_header(data, rng):
    data, place = bytearray(data), int(rng.integers(4, 44))
    kind = "<I" if rng.random() < 0.5 else "<H"
    value = int(rng.choice(EXTREMES)) if rng.random() < 0.7 else int(rng.integers(0, 1 << 32))
    new = struct.pack(kind, value & (0xFFFFFFFF if kind == "<I" else 0xFFFF))
    data[place:place + len(new)] = new
    return data


def _edit_size(data, rng):
    data = bytearray(data)
    name = [b"RIFF", b"fmt ", b"data"][int(rng.integers(3))]
    place = bytes(data).find(name) + 4
    size = int.from_bytes(data[place:place + 4], "little")
    near = (size + int(rng.integers(-9, 10))) & 0xFFFFFFFF
    data[place:place + 4] = struct.pack("<I", int(rng.choice([near, *EXTREMES])))
    return data


def _random_bytes(data, rng):
    noise = rng.bytes(int(rng.integers(0, 200)))
    return noise if rng.random() < 0.5 else data[:12] + noise


def _insert_chunk(data, rng):
    name = [b"LIST", b"fmt ", b"data", b"junk"][int(rng.integers(4))]
    extra = name + struct.pack("<I", int(rng.integers(0, 40))) + rng.bytes(20)
    place = int(rng.choice([12, 36, len(data)]))
    return data[:place] + extra + data[place:]


def _repeat(data, rng):
    begin = int(rng.integers(0, 44))
    return data[:begin] + data[begin:begin + 8] * int(rng.integers(1, 5000)) + data[begin:]


def _join(data, rng):
    return data + BASES[int(rng.integers(len(BASES)))]


MUTATIONS = [_flip_bits, _cut, _edit_header, _edit_size, _random_bytes, _insert_chunk, _repeat, _join]


def mutated(number):
    """The same file for the same number, on every machine."""
    rng = np.random.default_rng(number)
    data = BASES[number % len(BASES)]
    for _ in range(int(rng.integers(1, 3))):
        data = bytes(MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)) or b"R"
    return data


@pytest.mark.parametrize("task_class, count", [(LoudnessTask, 20000 if NIGHTLY else 1000),
                                               (WhisperTask, 1000 if NIGHTLY else 100)], ids=["loudness", "whisper"])
def test_every_broken_file_is_answered(task_class, count, tmp_path):
    task = task_class.tiny()
    folder = export(task, task.build_model(), tmp_path, examples={"serving_default": {"wav": BASES}})
    files = [mutated(number) for number in range(count)]
    process = subprocess.run([sys.executable, "-I", str(RUNNER), folder, "serving_default"],
                             input=pickle.dumps([{"wav": [data]} for data in files]), capture_output=True,
                             env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                             timeout=1800 if NIGHTLY else 300)   # no hang
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-3000:]
    answers, peak_bytes = pickle.loads(process.stdout), int(process.stderr.split()[-1])
    assert len(answers) == count
    print(f"{count} files, peak {peak_bytes >> 20} MB")
    assert peak_bytes < 2 << 30
    errors = [answer for answer in answers if isinstance(answer, str)]
    assert 0.2 * count < len(errors) < 0.95 * count   # both roads were taken
    for number, answer in enumerate(answers):
        if isinstance(answer, str):
            assert "wav 0 of the batch: " in answer and ", expected " in answer, (number, files[number][:64], answer)
        else:
            assert answer["text"].shape == (1,) and np.isfinite(answer.get("level", 0)).all(), (number, answer)
