"""Damaged and hostile image files, through records and through an export: used or refused, in bounded memory.

200 of the files in the quick suite, all 20,000 with TFHF_NIGHTLY=1, each way in a process of its own, whose address
space may grow by 2 GB from when it has worked once.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.image_classification import ImageClassificationTask
from tests.mutated_images import Mutations
from tfhf.export import export

pytest.importorskip("PIL.Image", reason="writes the images that are damaged")

COUNT = 20_000 if os.environ.get("TFHF_NIGHTLY") == "1" else 200
GROWTH_BYTES = 2 << 30
LIMITED = f"""
import os, pickle, resource, sys

def limit():
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + {GROWTH_BYTES}
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

def peak_kb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
# argv: the export, a file of requests, where the answers go.
ASK = LIMITED + """
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
files = pickle.load(open(sys.argv[2], "rb"))
answers = []
for number, data in enumerate([files[0], *files]):
    if number == 1:
        limit()
        before = peak_kb()
    try:
        answer = served(image=tf.constant([data]))
        answers.append(bool(tf.reduce_all(tf.math.is_finite(answer["probabilities"]))))
    except tf.errors.InvalidArgumentError as error:
        answers.append(error.message)
pickle.dump((answers[1:], peak_kb() - before), open(sys.argv[3], "wb"))
"""
# argv: a folder of images, where the records go.
WRITE = LIMITED + """
from tfhf.data.writing import write_split
from tfrecords.imagefolder import ImageFolder
first, dataset = ImageFolder(sys.argv[1] + "/first"), ImageFolder(sys.argv[1] + "/mutated", layout="classes")
write_split(first, sys.argv[2] + "/first", "train", log=lambda line: None)
limit()
before = peak_kb()
write_split(dataset, sys.argv[2] + "/mutated", "train", skip_bad=10**6, workers=2, log=lambda line: None)
print(peak_kb() - before)
"""


def _run(code, *arguments):
    # glibc's arenas would take address space, 64 MB for each thread, that holds nothing.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "2",
                   "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True,
                             text=True, errors="replace", timeout=3000)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_each_is_answered_by_an_export(tmp_path):
    task, make = ImageClassificationTask.tiny(), Mutations()
    folder = export(task, task.build_model(), tmp_path / "export")
    files = [make(number) for number in range(COUNT)]
    (tmp_path / "files").write_bytes(pickle.dumps(files))
    _run(ASK, folder, tmp_path / "files", tmp_path / "answers")
    answers, grown_kb = pickle.loads((tmp_path / "answers").read_bytes())
    errors = [answer for answer in answers if isinstance(answer, str)]
    assert len(answers) == COUNT and all(answer is True or answer in errors for answer in answers)
    assert 0.2 * COUNT < len(errors) < 0.9 * COUNT   # both roads were taken
    assert grown_kb < 1 << 20
    for error in errors:
        assert "Traceback" not in error


def test_each_is_written_or_listed_as_skipped(tmp_path):
    make = Mutations()
    for folder, numbers in (("first", range(1)), ("mutated", range(COUNT))):
        path = tmp_path / "in" / folder / "class"
        path.mkdir(parents=True)
        for number in numbers:
            (path / f"{number:05d}.jpg").write_bytes(make(number) if folder == "mutated" else make._bases[0])
    grown_kb = int(_run(WRITE, tmp_path / "in", tmp_path / "out").split()[-1])
    manifest = json.loads((tmp_path / "out" / "mutated" / "train" / "manifest.json").read_text("utf-8"))
    skipped = manifest["skipped"]
    assert manifest["count"] + len(skipped) == COUNT and 0.2 * COUNT < len(skipped) < 0.9 * COUNT
    assert grown_kb < 1 << 20
    for one in skipped:
        assert "jpg: " in str(one) and "Traceback" not in str(one)
