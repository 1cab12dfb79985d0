"""The TPU's compiler on a machine without a TPU; most is skipped where its packages are missing."""

import importlib.metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tfhf.preflight import OutOfMemory, PreflightError, compile_for_tpu, compiler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHF_CACHE", str(tmp_path))


@pytest.fixture
def libtpu():
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    yield
    compiler._jax_names.cache_clear()


def _product(size):
    return tf.function(lambda x, y: tf.matmul(x, y), jit_compile=True), [tf.TensorSpec((size, size))] * 2


def _here():
    """The line of the caller, as errors name it."""
    return f"{__file__}:{inspect.currentframe().f_back.f_lineno}"


def _refused(function, *specs):
    with pytest.raises(PreflightError) as caught:
        compile_for_tpu(tf.function(function, jit_compile=True), list(specs))
    return str(caught.value)


def test_a_product_for_one_core(libtpu):
    compiled = compile_for_tpu(*_product(1024))
    assert compiled.argument_mib == 8 and compiled.output_mib == 4 and compiled.replicas == 1
    assert compiled.costs.flops == 2 * 1024**3
    assert f'source_file="{__file__}"' in compiled.hlo
    assert compiled.total_bytes >= 12 * 2**20


def test_variables_are_updated_in_their_place(libtpu):
    weights = tf.Variable(tf.zeros((512, 512)))

    @tf.function(jit_compile=True)
    def step(x):
        weights.assign_add(tf.matmul(x, x))
        return tf.reduce_sum(x)

    compiled = compile_for_tpu(step, [tf.TensorSpec((512, 512))])
    assert compiled.argument_mib == 2 and compiled.alias_bytes == 2**20
    assert compiled.output_bytes - compiled.alias_bytes < 4096


def test_random_bits_are_the_chips_own(libtpu):
    """A dropout mask of 64 MiB; by Philox, a CPU's algorithm, it would take 600 MiB beside it."""
    drop = tf.function(lambda x, seed: tf.where(tf.random.stateless_uniform(x.shape, seed) > 0.1, x, 0.0),
                       jit_compile=True)
    compiled = compile_for_tpu(drop, [tf.TensorSpec((2, 8, 1024, 1024)), tf.TensorSpec((2,), tf.int32)])
    assert compiled.temporary_mib < 150


def test_a_program_is_compiled_once(libtpu, tmp_path):
    first = compile_for_tpu(*_product(256))
    again = compile_for_tpu(*_product(256))
    assert (first.cached, again.cached) == (False, True)
    assert again.hlo.count("convolution(") == first.hlo.count("convolution(") > 0 and again.seconds == first.seconds
    assert not compile_for_tpu(*_product(256), "v2:2x2").cached
    files = list((tmp_path / "preflight").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"spoilt")
    assert compile_for_tpu(*_product(256)).seconds > 0


def test_topologies_and_replicas_that_are_none(libtpu):
    with pytest.raises(PreflightError, match="topology 'v9:2x2'"):
        compile_for_tpu(*_product(8), "v9:2x2")
    with pytest.raises(PreflightError, match="replicas=9: v3:2x2 has 8 cores"):
        compile_for_tpu(*_product(8), replicas=9)


def test_a_step_that_is_too_large(libtpu):
    def step(x, w):
        with tf.name_scope("first"):
            y = tf.tanh(tf.matmul(x, w))
        with tf.name_scope("second"):
            return tf.tanh(tf.matmul(y, w)) + tf.transpose(y)

    with pytest.raises(OutOfMemory, match=r"v3:2x2: a core needs [\d.]+ GiB, it has 15.48 GiB") as caught:
        compile_for_tpu(tf.function(step, jit_compile=True), [tf.TensorSpec((36000, 36000))] * 2)
    each = 4 * 36000 * 36096  # in tiles of 128 columns
    assert caught.value.needed_bytes > 3 * each > 0.7 * caught.value.available_bytes
    largest = caught.value.largest
    assert [(buffer.bytes, buffer.what) for buffer in largest[:3]] == [
        (each, "argument f32[36000,36000]"), (each, "argument f32[36000,36000]"), (largest[2].bytes, largest[2].what)]
    assert largest[2].op_name.split("/")[0] in ("first", "second")


def test_an_op_that_cannot_be_compiled_is_named_with_its_line(libtpu):
    places = []

    def body(i, y):
        places.append(_here())
        return i + 1, tf.strings.to_number(tf.strings.as_string(y))

    said = _refused(lambda x: tf.while_loop(lambda i, _: i < 5, body, [0, x]), tf.TensorSpec((4,)))
    line = int(places[0].rpartition(":")[2]) + 1
    assert f"AsString 'while/AsString', {__file__}:{line}" in said

    def twice(x):
        tf.py_function(lambda y: y, [x], tf.float32)
        return x

    said = _refused(twice, tf.TensorSpec((4,)))
    assert f"EagerPyFunc 'EagerPyFunc', {__file__}:{twice.__code__.co_firstlineno + 1}" in said


def test_what_only_the_tpus_compiler_refuses_is_named_with_its_line(libtpu):
    def step(x):
        y = tf.cast(x, tf.complex128)
        return tf.signal.fft(y)

    said = _refused(step, tf.TensorSpec((8, 8)))
    assert said.startswith("v3:2x2: INVALID_ARGUMENT")
    assert f"{__file__}:{step.__code__.co_firstlineno + 2}" in said


def test_a_shape_that_only_data_tells_is_named_with_its_line(libtpu):
    def step(x):
        return tf.reshape(x, [tf.cast(x[0], tf.int32), -1])

    said = _refused(step, tf.TensorSpec((8,)))
    assert said.startswith(f"XLA does not compile 'Reshape', {__file__}:{step.__code__.co_firstlineno + 1}: ")
    assert said.endswith("must be a compile-time constant.")


def test_places_of_names_that_were_changed():
    @tf.function
    def step(x):
        with tf.name_scope("encoder"):
            return tf.tanh(x)

    graph = step.get_concrete_function(tf.TensorSpec((8,))).graph
    line = f"{__file__}:{step.python_function.__code__.co_firstlineno + 3}"
    for name in ("encoder/Tanh", "call.7/encoder/Tanh", "copy of encoder/Tanh", "iota for encoder/Tanh"):
        assert compiler.place(graph, name) == line
    assert compiler.place(graph, "encoder/Sigmoid") == "place unknown"


def test_a_size_that_only_data_tells_is_named_with_its_line(libtpu):
    def step(x):
        return tf.reduce_sum(
            tf.boolean_mask(x, x > 0))

    said = _refused(step, tf.TensorSpec((8,)))
    assert "'boolean_mask/Where' has a result whose size is known only when it runs" in said
    assert re.search(rf"{re.escape(__file__)}:{step.__code__.co_firstlineno + 2}$", said)


def test_arguments_that_cannot_be(libtpu):
    def step(x):
        return x

    line = step.__code__.co_firstlineno
    said = _refused(step, tf.TensorSpec((4, None), name="frames"))
    assert said.startswith(f"argument 0 (frames) of {__file__}:{line}: the shape (4, None) has a dynamic dimension")
    assert f"{__file__}:{line}: a string" in _refused(step, tf.TensorSpec((4,), tf.string))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the compiler is installed here")
def test_without_the_compiler():
    with pytest.raises(PreflightError, match=r"libtpu.*expected pip install 'tfhf\[preflight\]'"):
        compile_for_tpu(*_product(8))


def test_other_versions_are_refused(libtpu, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.17" if name == "libtpu" else version(name))
    with pytest.raises(PreflightError, match=r"found libtpu 0.0.17 \(expected 0.0.51\); expected pip install"):
        compile_for_tpu(*_product(8))


def test_the_versions_are_those_of_the_extra():
    extra = re.search(r'"preflight": \[(.*?)\]', (ROOT / "setup.py").read_text("utf-8"))[1]
    assert dict(re.findall(r'"(\w+)==([\d.]+)"', extra)) == compiler.VERSIONS


# A filter of system calls (seccomp) that ends the process when it first connects a socket to an address of IPv4 or IPv6
# (of 16 or 28 bytes), or sends to one; sockets of this machine, such as nscd's, have longer ones.
NO_NETWORK = """
import ctypes, struct, sys
allow, kill = 0x7FFF0000, 0x80000000
program = b"".join(struct.pack("HBBI", *line) for line in [
    (0x20, 0, 0, 0), (0x15, 2, 0, 42), (0x15, 3, 0, 44), (0x05, 0, 0, 5),  # the call's number: connect, sendto
    (0x20, 0, 0, 32), (0x05, 0, 0, 1), (0x20, 0, 0, 56),                   # the length of the address
    (0x15, 2, 0, 16), (0x15, 1, 0, 28), (0x06, 0, 0, allow), (0x06, 0, 0, kill)])
code = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.byref(Program(11, ctypes.addressof(code))), 0, 0):
    sys.exit(77)
"""


def test_nothing_outside_this_machine_is_asked(libtpu, tmp_path):
    """No metadata server, which a machine that is no VM waits for: the process would end at its first connection."""
    script = NO_NETWORK + """
if len(sys.argv) > 1:
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
import tensorflow as tf
from tfhf.preflight import compile_for_tpu
step = tf.function(lambda x: tf.tanh(x), jit_compile=True)
print(compile_for_tpu(step, [tf.TensorSpec((8, 128))], "v3:2x2", 8).output_bytes)
import os
assert not {"TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"} & set(os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_"))}
    command = [sys.executable, "-c", script]

    def run(*arguments):
        return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
                              timeout=150)

    guard = run("socket")
    if guard.returncode == 77:
        pytest.skip("this kernel takes no filter of system calls")
    assert guard.returncode == -31, "the filter lets connections through"  # SIGSYS
    done = run()
    assert "TPU" not in done.stderr.replace("XLA_TPU", ""), done.stderr
    assert (done.returncode, done.stdout.strip()) == (0, "4096"), done.stderr[-2000:]
