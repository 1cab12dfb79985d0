"""What large files and blank pictures take of memory, each in a process of its own. Nightly."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipelines.image_classification import ImageClassificationTask
from tfhf.export import export

pytestmark = pytest.mark.nightly

LOAD = """
import sys
import numpy as np
from tfhf.data.audio import load_audio

def peak_mb():   # VmHWM: what getrusage gives begins with the peak of the process that started this one
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

load_audio(sys.argv[1])
before = peak_mb()
print(len(load_audio(sys.argv[2])), peak_mb() - before)
"""
ASK = """
import sys
import tensorflow as tf

def peak_mb():   # VmHWM: what getrusage gives begins with the peak of the process that started this one
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
picture = open(sys.argv[2], "rb").read()
signature(image=tf.constant([picture]))
before = peak_mb()
count = int(sys.argv[3])
print(len(signature(image=tf.constant([picture] * count))["label"]), peak_mb() - before)
"""


def _run(code, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    count, grown_mb = map(int, done.stdout.split())
    print(f"{count}: grown by {grown_mb} MB")
    return count, grown_mb


def test_an_hour_of_silence_in_eight_channels(tmp_path):
    for name, seconds in (("second", 1), ("hour", 3600)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", 16000, 8, "PCM_16", format="FLAC") as file:
            for _ in range(seconds):
                file.write(np.zeros((16000, 8), "int16"))
    count, grown_mb = _run(LOAD, tmp_path / "second.flac", tmp_path / "hour.flac")
    assert count == 3600 * 16000 and grown_mb < 400   # float32 of it is 230 MB


def test_many_blank_pictures(tmp_path):
    folder = export((task := ImageClassificationTask.tiny()), task.build_model(), tmp_path / "export")
    file = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(file, "JPEG")
    (tmp_path / "blank.jpg").write_bytes(file.getvalue())
    count, grown_mb = _run(ASK, folder, tmp_path / "blank.jpg", 24)
    assert count == 24 and grown_mb < 600   # one of them decoded is 50 MB
