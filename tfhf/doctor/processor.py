"""The check of the processor: does TensorFlow convolve in bfloat16 on it as in float32?

With AMX, the oneDNN of TensorFlow 2.20 does not, where a kernel has few channels: see tfhf/layers/convolution.py.
"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

from tfhf.doctor.machine import IMPORT_LIMIT_S, Finding, Machine, try_in_process

TOLERANCE = 0.02     # of the largest value; bfloat16 has 8 bits, and wrong values were off by more than 1
CPUINFO = Path("/proc/cpuinfo")
LIMIT = "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
# What is computed: its name, the shape of the images, that of the kernel [height, width, channels of a group, channels
# out], the stride.
CASES = [
    ("4 groups of 8 channels", [2, 1, 80, 32], [1, 16, 8, 32], 1),
    ("16 groups of 4 channels", [2, 1, 200, 64], [1, 128, 4, 64], 1),
    ("8 channels over time", [2, 1, 80, 8], [1, 16, 8, 8], 1),
    ("4 channels over time", [2, 1, 200, 4], [1, 128, 4, 4], 1),
    ("a waveform", [1, 1, 400, 1], [1, 10, 1, 64], 5),
    ("an image of 3 channels", [1, 32, 32, 3], [7, 7, 3, 64], 2),
    ("an image of 8 channels", [1, 24, 24, 8], [3, 3, 8, 16], 1),
    ("16 channels over time", [2, 1, 80, 16], [1, 16, 16, 16], 1),
    ("48 channels over time", [2, 1, 200, 48], [1, 128, 48, 48], 1),
    ("80 channels over time", [2, 1, 100, 80], [1, 3, 80, 96], 1),
    ("an image of 64 channels", [1, 24, 24, 64], [3, 3, 64, 64], 1),
    ("depthwise", [1, 24, 24, 32], [3, 3, 1, 32], 1),
]
RIGHT_CHANNELS = 48   # as in tfhf/layers/convolution.py, which imports Keras
# Prints [name, the largest error of eager mode and graph, relative to the largest value] for each case.
CODE = """
import json, sys
import tensorflow as tf

def convolve(images, kernel, stride):
    return tf.nn.conv2d(images, kernel, stride, "VALID")

in_a_graph, errors = tf.function(convolve), []
with tf.device("CPU:0"):
    for name, images, kernel, stride in json.loads(sys.argv[1]):
        images, kernel = (tf.cast(tf.random.stateless_normal(shape, [1, 2]), tf.bfloat16) for shape in (images, kernel))
        groups = images.shape[-1] // kernel.shape[2]
        # By groups of float32, since a grouped convolution may be what is wrong.
        parts = zip(tf.split(tf.cast(images, tf.float32), groups, 3), tf.split(tf.cast(kernel, tf.float32), groups, 3))
        expected = tf.concat([convolve(part, weights, stride) for part, weights in parts], 3)
        largest = tf.reduce_max(tf.abs(expected))
        found = [compute(images, kernel, stride) for compute in (convolve, in_a_graph)]
        off = [tf.reduce_max(tf.abs(tf.cast(one, tf.float32) - expected)) / largest for one in found]
        errors.append([name, max(map(float, off))])
print(json.dumps(errors))
"""


def name_of_processor() -> str:
    """Its name as the system has it, and whether it has AMX."""
    text = CPUINFO.read_text("utf-8", "replace") if CPUINFO.exists() else ""
    model = re.search(r"^model name\s*: *(.+)$", text, re.M)
    name = model[1].strip() if model else platform.processor() or platform.machine() or "a processor without a name"
    return name + (" with AMX" if re.search(r"^flags\s*:.*\bamx_bf16\b", text, re.M) else "")


def is_narrow(kernel: list[int], name: str) -> bool:
    """Is this a case that tfhf's models compute in float32 on a CPU?"""
    return name != "depthwise" and kernel[2] < RIGHT_CHANNELS and max(kernel[:2]) > 1


def check_processor(machine: Machine) -> list[Finding]:
    """Bfloat16 convolutions on this processor against float32, in a process of its own."""
    if machine.tried["tensorflow"].why or machine.tried["tensorflow"].lines[-1] == "None":
        return [Finding("processor", "warn", f"{name_of_processor()}: not tried, since TensorFlow does not import")]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TPU_SKIP_MDS_QUERY": "1"}
    tried = try_in_process(CODE, IMPORT_LIMIT_S, json.dumps(CASES), environment=quiet)
    if tried.why:
        return [Finding("processor", "warn", f"{name_of_processor()}: bfloat16 could not be tried: {tried.why}",
                        "a convolution in bfloat16")]
    return findings_of(name_of_processor(), dict(json.loads(tried.lines[-1])))


def findings_of(processor: str, errors: dict[str, float]) -> list[Finding]:
    """The finding on {case: error relative to the largest value}; an error that is no number is one as well."""
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    if not wrong:
        return [Finding("processor", "ok", f"{processor}; bfloat16 convolutions are within "
                        f"{100 * max(errors.values()):.1f} % of float32's")]
    kernels = {name: kernel for name, _, kernel, _ in CASES}
    said = ", ".join(f"{name} ({100 * error:.0f} %)" for name, error in wrong.items())
    only_narrow = all(is_narrow(kernels[name], name) for name in wrong)
    kept_away = ": tfhf's models compute these in float32, others may not" if only_narrow else ""
    return [Finding("processor", "warn" if only_narrow else "fault",
                    f"{processor}: TensorFlow gives wrong values in bfloat16, off by so much of the largest: {said}"
                    f"{kept_away}", "the values of float32", f"export {LIMIT}")]
