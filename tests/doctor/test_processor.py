"""The doctor's check of the processor: on this one, on one that computes wrongly, and what it makes of the errors."""

import json
import os
import subprocess
import sys

import pytest

from tests.doctor.environments import ROOT, TENSORFLOW, expect
from tfhf.doctor import processor
from tfhf.doctor.machine import Machine, Tried

RIGHT = {name: 0.004 for name, *_ in processor.CASES}
MEND = "export ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
# Ahead of the probe: bfloat16 convolutions of few channels whose values have nothing to do with the inputs.
BREAKS = """
import tensorflow as tf
original = tf.nn.conv2d
def conv2d(images, kernel, *arguments):
    right = original(images, kernel, *arguments)
    wrong = images.dtype == tf.bfloat16 and kernel.shape[2] in {channels}
    return tf.reverse(right, [2]) if wrong else right
tf.nn.conv2d = conv2d
"""


def level_and_words(errors):
    found, = processor.findings_of("Some Processor", errors)
    return found.level, found.found, found.mend


def run_probe(before):
    """{case: error} of the real probe behind some lines of Python."""
    done = subprocess.run([sys.executable, "-c", before + processor.CODE, json.dumps(processor.CASES)], text=True,
                          capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_this_processor_as_these_tests_use_it():
    """With ONEDNN_MAX_CPU_ISA as tests/conftest.py sets it, every processor is right."""
    assert os.environ["ONEDNN_MAX_CPU_ISA"]
    here = Machine()
    here.__dict__["tried"] = {"tensorflow": Tried("", ("file", "2.20.0"))}
    found, = processor.check_processor(here)
    assert found.level == "ok", found
    assert found.found.startswith(processor.name_of_processor()) and "within 0." in found.found


@pytest.mark.nightly
@pytest.mark.parametrize("channels, level", [((4, 8), "warn"), ((48,), "fault"), ((1, 3), "fault")])
def test_a_tensorflow_that_computes_wrongly(channels, level):
    errors = run_probe(BREAKS.format(channels=channels))
    assert level_and_words(errors)[0] == level, errors
    kernels = {name: kernel for name, _, kernel, _ in processor.CASES}
    assert {name for name, error in errors.items() if error > 0.5} == {
        name for name, kernel in kernels.items() if kernel[2] in channels}


def test_the_probe_finds_wrong_values_in_both_modes():
    errors = run_probe(BREAKS.format(channels=(4, 8)))
    wrong = {name for name, error in errors.items() if error > 0.5}
    assert wrong == {"4 groups of 8 channels", "16 groups of 4 channels", "8 channels over time",
                     "4 channels over time", "an image of 8 channels"}
    assert all(error < 0.02 for name, error in errors.items() if name not in wrong)


@pytest.mark.parametrize("changes, level, words", [
    ({}, "ok", "within 0.4 % of float32's"),
    ({"4 groups of 8 channels": 1.11, "16 groups of 4 channels": 1.04}, "warn",
     "4 groups of 8 channels (111 %), 16 groups of 4 channels (104 %): tfhf's models compute these in float32"),
    ({"4 groups of 8 channels": 1.11, "48 channels over time": 0.5}, "fault", "48 channels over time (50 %)"),
    ({"depthwise": 0.021}, "fault", "depthwise (2 %)"),
    ({"a waveform": float("nan")}, "warn", "a waveform (nan %)"),
    ({"an image of 64 channels": float("inf")}, "fault", "an image of 64 channels (inf %)"),
])
def test_what_the_errors_mean(changes, level, words):
    got, said, mend = level_and_words({**RIGHT, **changes})
    assert got == level and said.startswith("Some Processor") and words in said
    assert mend == ("" if level == "ok" else MEND)


def test_what_is_narrow_is_what_the_models_keep_away_from():
    from tfhf.layers import convolution

    assert processor.RIGHT_CHANNELS == convolution.RIGHT_CHANNELS
    for name, _, kernel, _ in processor.CASES:
        in_float32 = convolution.conv_dtype("bfloat16", tuple(kernel)) == "float32"
        # A depthwise convolution is another operation, which the models leave in bfloat16.
        assert processor.is_narrow(kernel, name) == (in_float32 and name != "depthwise"), name


@pytest.mark.parametrize("text, name", [
    ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\nflags\t\t: fpu amx_bf16 avx512f amx_tile\n\n"
     "processor\t: 1\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\n", "Intel(R) Xeon(R) Platinum 8481C with AMX"),
    ("model name\t: AMD EPYC 7B12\nflags\t\t: fpu avx2\n", "AMD EPYC 7B12"),
    ("processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n", "aarch64"),
    (None, "aarch64"),
])
def test_the_name_of_the_processor(text, name, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", file)
    monkeypatch.setattr(processor.platform, "processor", lambda: "")
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert processor.name_of_processor() == name


def test_in_the_report(environment):
    environment.tensorflow(code=TENSORFLOW.replace("ERROR = 0.0", "ERROR = 1.11"))
    found = environment.findings()
    expect(found, "processor", "fault", "wrong values in bfloat16", "4 groups of 8 channels (111 %)", MEND)
    assert list(found) == ["processor"]
    environment.tensorflow(code=TENSORFLOW.replace("return ERROR", "raise OSError('no number')"))
    expect(environment.findings(), "processor", "warn", "bfloat16 could not be tried", "OSError: no number")
