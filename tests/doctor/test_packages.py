"""The doctor on whole environments and on broken ones: TensorFlows, files, imports, versions."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.doctor.environments import ABORTS, KERAS, ROOT, TENSORFLOW, UNDEFINED, expect
from tfhf.doctor import machine, packages


def test_a_sound_environment_is_silent(environment):
    assert environment.findings() == {}
    done = environment.run("--disk-gb", "0", "--ram-gb", "0")
    assert done.returncode == 0 and done.stdout.endswith("\nsound\n")
    lines = done.stdout.splitlines()
    assert len(lines) == 18 and all(line.startswith("ok  ") for line in lines[:-1])


def test_sound_with_every_extra(environment):
    environment.install("tensorflow-text", "2.20.1", {"tensorflow_text/__init__.py": TENSORFLOW.format(version="2.20")},
                        ["tensorflow<2.21,>=2.20.0"])
    environment.install("jax", "0.10.2")
    environment.install("datasets", "4.2.0")
    environment.variables = {"KERAS_BACKEND": "jax"}
    assert environment.findings() == {}


def test_a_fault_is_printed_with_the_line_that_mends_it(environment):
    environment.remove("soxr")
    lines = environment.run().stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("FAULT"))
    assert "soxr is not installed" in lines[at]
    assert lines[at + 1].split() == ["expected:", "soxr<2,>=0.5,", "which", "tfhf", "requires"]
    assert lines[at + 2].strip() == "mend: pip install 'soxr<2,>=0.5'" and lines[-1] == "faults: 1, warnings: 0"


def test_two_tensorflows(environment):
    environment.install("tensorflow-cpu", "2.21.0", {"tensorflow/__init__.py": TENSORFLOW.format(version="2.21.0"),
                                                     "tensorflow/core.so": "another one"})
    found = environment.findings()
    expect(found, "tensorflow", "fault", "tensorflow 2.20.0, tensorflow-cpu 2.21.0", "pip uninstall -y tensorflow "
           "tensorflow-cpu && pip install --no-deps --force-reinstall tensorflow==2.20.0")
    expect(found, "files", "fault", "tensorflow and tensorflow-cpu overwrite each other: 2 files")
    expect(found, "import tensorflow", "fault", "2.21.0 is imported", "tensorflow 2.20.0")


def test_two_tensorflows_of_which_one_has_no_record(environment):
    environment.install("tf-nightly", "2.22.0.dev20261101", record=False)
    expect(environment.findings(), "tensorflow", "fault", "tf-nightly 2.22.0.dev20261101")


def test_two_kerases(environment):
    environment.install("keras-nightly", "3.16.0.dev1", {"keras/__init__.py": KERAS + "# tomorrow's\n"})
    expect(environment.findings(), "files", "fault", "keras and keras-nightly overwrite each other: 1 files")


def test_files_that_a_later_uninstall_took(environment):
    (environment.site / "tensorflow/core.so").unlink()
    found = environment.findings()
    expect(found, "files", "fault", "tensorflow 2.20.0: 1 of its files are gone (tensorflow/core.so",
           "pip install --force-reinstall --no-deps tensorflow==2.20.0")
    assert list(found) == ["files"]


def test_files_that_another_package_changed(environment):
    (environment.site / "tensorflow/core.so").write_text("something else")
    expect(environment.findings(), "files", "warn", "tensorflow 2.20.0: 1 of its files are not those it installed")


def test_what_a_broken_pip_leaves(environment):
    (environment.site / "~ensorflow").mkdir()
    environment.install("numpy", "2.4.6")
    (environment.site / "half-1.0.dist-info").mkdir()   # no METADATA: pip ignores it, and so does the doctor
    found = environment.findings()
    expect(found, "files", "fault", "numpy has the metadata of 1.26 and 2.4.6",
           "pip uninstall -y numpy; pip uninstall -y numpy; pip install numpy==")
    assert any("~ensorflow" in line for line in environment.run().stdout.splitlines())


def test_no_tensorflow(environment):
    environment.remove("tensorflow")
    shutil.rmtree(environment.site / "tensorflow")
    found = environment.findings()
    expect(found, "tensorflow", "fault", "not installed", "pip install -e", "[tf]")
    expect(found, "keras", "warn", "not tried")
    assert "import tensorflow" not in found


def test_the_folder_that_an_uninstall_left(environment):
    (environment.site / "tensorflow/__init__.py").unlink()
    found = environment.findings()
    again = "pip install --force-reinstall --no-deps tensorflow==2.20.0"
    expect(found, "import tensorflow", "fault", "site-packages/tensorflow is imported, which is not TensorFlow", again)
    expect(found, "files", "fault", "tensorflow/__init__.py", again)
    expect(found, "keras", "warn", "not tried")


def test_a_file_named_tensorflow(environment):
    (environment.folder / "tensorflow.py").write_text("")
    expect(environment.findings(), "import tensorflow", "fault", "tensorflow.py is imported, which is not TensorFlow",
           "tensorflow.py.away")


@pytest.mark.parametrize("code, words", [
    (ABORTS, "(killed by SIGABRT)\n2026-11-21 15:13:50.2: F tpu.cc:1] ConfigureDistributedTpuOp_DoWork"),
    ("raise ImportError('Traceback (most recent call last):\\n  File x\\nImportError: libx.so: GLIBC_2.34 not found"
     "\\n\\nFailed to load the native TensorFlow runtime.\\nSee the site for causes.')\n", "GLIBC_2.34 not found"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n", "AVX"),
    ("import sys\nsys.exit(3)\n", "(exit status 3)\nit says nothing"),
])
def test_tensorflow_does_not_import(environment, code, words):
    environment.tensorflow(code=code.replace("{", "{{").replace("}", "}}"))
    found = environment.findings()
    expect(found, "import tensorflow", "fault", words, "--force-reinstall tensorflow==2.20.0")
    expect(found, "keras", "warn", "not tried, since TensorFlow does not import")


def test_an_import_that_never_ends():
    begin = time.monotonic()
    tried = machine.try_in_process("import time; time.sleep(60)", 0.5)
    assert tried == machine.Tried("no answer within 0.5 s", ())
    assert time.monotonic() - begin < 5


def test_another_release_of_tensorflow(environment):
    environment.tensorflow("2.16.2")
    expect(environment.findings(), "tensorflow", "warn", "tensorflow 2.16.2", "tensorflow<2.22,>=2.20")


@pytest.mark.parametrize("libtpu", ["0.0.51", "0.0.32", "0.0.12", None])
def test_a_libtpu_that_tensorflow_cannot_load(environment, libtpu):
    environment.tensorflow(name="tensorflow-tpu", code=ABORTS, requires=["libtpu~=0.0.14"])
    if libtpu:
        environment.install("libtpu", libtpu)
    found = environment.findings()
    expect(found, "libtpu", "fault", libtpu or "not installed", "pip install 'libtpu<0.0.32,>=")
    expect(found, "import tensorflow", "fault", "SIGABRT", "pip install 'libtpu<0.0.32,>=")


@pytest.mark.parametrize("libtpu", ["0.0.17", "0.0.31"])
def test_a_libtpu_that_it_can(environment, libtpu):
    environment.tensorflow(name="tensorflow-tpu", requires=["libtpu~=0.0.14"])
    environment.install("libtpu", libtpu)
    assert environment.findings() == {}
    environment.variables = {"TPU_LIBRARY_PATH": "/nowhere/libtpu.so"}
    expect(environment.findings(), "libtpu", "fault", "/nowhere/libtpu.so", "unset TPU_LIBRARY_PATH")


def test_no_tensorboard(environment):
    """TensorFlow 2.21 does not ask for it, 2.20 does: one finding, with the line that brings it."""
    for requires in ((), ("tensorboard~=2.20.0",)):
        environment.remove("tensorboard")
        environment.tensorflow("2.21.0", requires=requires)
        found = environment.findings()
        expect(found, "tensorboard", "fault", "`tfhf train`", "pip install 'tensorboard<3,>=2.20'")
        assert list(found) == ["tensorboard"]
    environment.install("tensorboard", "2.19.0")
    found = environment.findings()
    expect(found, "tensorboard", "warn", "2.19.0", "tensorboard<3,>=2.20")
    expect(found, "requirements", "warn", "tensorboard 2.19.0", "tensorboard~=2.20.0, which tensorflow requires")


def test_text_that_does_not_load(environment):
    environment.install("tensorflow-text", "2.20.1", {"tensorflow_text/__init__.py": UNDEFINED})
    expect(environment.findings(), "tensorflow-text", "fault", "undefined symbol: _ZN10",
           "pip install 'tensorflow-text==2.20.*'")


def test_text_of_another_minor_version(environment):
    environment.tensorflow(name="tensorflow-cpu")
    environment.install("tensorflow-text", "2.19.0", {"tensorflow_text/__init__.py": TENSORFLOW.format(version="2.19")})
    expect(environment.findings(), "tensorflow-text", "fault", "2.19.0 beside TensorFlow 2.20.0",
           "pip install --no-deps 'tensorflow-text==2.20.*'")


def test_io_whose_libraries_do_not_load(environment):
    """Its import only warns, as the real one of 0.37.1 does: the libraries are loaded when an operation is named."""
    lazy = ("class Lazy:\n    def __dir__(self):\n"
            "        raise NotImplementedError('libtensorflow_io.so: undefined symbol: _ZNK10')\ncore_ops = Lazy()\n")
    environment.install("tensorflow-io", "0.37.1", {
        "tensorflow_io/__init__.py": TENSORFLOW.format(version="0.37.1"), "tensorflow_io/python/__init__.py": "",
        "tensorflow_io/python/ops/__init__.py": lazy})
    expect(environment.findings(), "tensorflow-io", "fault", "undefined symbol: _ZNK10",
           "pip uninstall -y tensorflow-io")


def test_keras(monkeypatch, tmp_path):
    for name in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    here = machine.Machine()
    here.__dict__.update(tried=dict.fromkeys(machine.PROBES, machine.Tried("", ("file", "2.20.0"))), distributions={})

    def found():
        return [(one.level, one.found, one.mend) for one in packages.check_keras(here)]

    file, remove = tmp_path / "keras.json", f"rm {tmp_path}/keras.json"
    file.write_text('{"floatx": "float16", "image_data_format": "channels_last", "backend": "tensorflow"}')
    assert found() == [("warn", f"{file}: floatx is 'float16'", remove), ("ok", "None, tensorflow backend", "")]
    for text in ("{", "[]"):
        file.write_text(text)
        assert found() == [("fault", f"{file} is no JSON object", remove)]
    file.write_text('{"backend": "torch"}')
    assert found() == [("fault", f"the backend is 'torch' ({file})", remove)]
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    said = "the backend is 'jax' (KERAS_BACKEND), but jax is not installed"
    assert found() == [("fault", said, "unset KERAS_BACKEND")]
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert [level for level, _, _ in found()] == ["warn", "ok"] and found()[0][2] == "unset TF_USE_LEGACY_KERAS"


def test_keras_that_does_not_import(environment):
    (environment.site / "keras/__init__.py").write_text("raise AttributeError('module optree has no attribute x')\n")
    expect(environment.findings(), "keras", "fault", "AttributeError: module optree has no attribute x")


def test_protobuf_that_somebody_refuses(environment):
    environment.remove("protobuf")
    environment.install("protobuf", "4.25.0")
    environment.install("somebody-else", "1.0", requires=["protobuf<5"])
    found = environment.findings()
    expect(found, "protobuf", "fault", "4.25.0; tensorflow asks for >=5.28.0", "pip install 'protobuf<5,>=5.28.0'")
    environment.remove("protobuf")
    environment.install("protobuf", "6.33.0")
    expect(environment.findings(), "protobuf", "warn", "somebody-else asks for <5")
    environment.remove("somebody-else")
    environment.variables = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    expect(environment.findings(), "protobuf", "warn", "many times slower")


def test_requirements(environment):
    environment.remove("jiwer")
    environment.install("jiwer", "5.1.0")
    expect(environment.findings(), "requirements", "fault", "jiwer 5.1.0", "jiwer<5,>=4.0, which tfhf requires")
    environment.remove("jiwer")
    environment.install("jiwer", "4.1.0", requires=["rapidfuzz>=3", "not a requirement", "numpy<1"])
    text = environment.run().stdout
    assert "rapidfuzz is not installed" in text and "rapidfuzz>=3, which jiwer requires" in text
    assert "warn   requirements       numpy 1.26" in text
    environment.install("rapidfuzz", "unknown")
    environment.install("datasets", "3.0")
    text = environment.run().stdout
    assert "rapidfuzz unknown" in text and "warn   requirements       datasets 3.0" in text


def test_without_packaging(environment):
    (environment.site / "packaging").unlink()
    found = environment.findings()
    expect(found, "python", "fault", "versions cannot be compared", "pip install packaging")
    assert list(found) == ["python"]   # said once


def test_the_copy_of_packaging_in_pip(monkeypatch):
    pytest.importorskip("pip")
    monkeypatch.setitem(sys.modules, "packaging", None)
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert machine.Machine().packaging.__name__ == "pip._vendor.packaging.requirements"


def test_an_installed_tfhf_is_read_from_its_metadata(environment, monkeypatch):
    extras = "".join(f"Provides-Extra: {name}\n" for name in ("tpu", "text", "test"))
    environment.install("tfhf", "0.1.0", requires=[
        "numpy>=1.26", "keras<3.16,>=3.15; python_version >= '3.10'", "tensorflow-tpu==2.20.0; extra == 'tpu'",
        f"{machine.Machine().requirement('tpu', 'libtpu')}; extra == 'tpu'", "msgpack; extra == 'test'"])
    metadata = next(environment.site.glob("tfhf-*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text() + f"Requires-Python: >=3.10\n{extras}")
    here = machine.Machine()
    here.__dict__["all_distributions"] = list(importlib.metadata.distributions(path=[str(environment.site)]))
    from_setup = here.requirement("tpu", "libtpu"), here.python_requires
    here.__dict__.pop("_packaging_of_tfhf")
    monkeypatch.setattr(machine, "ROOT", environment.site)
    assert (here.requirement("tpu", "libtpu"), here.python_requires) == from_setup
    assert [one.name for one in here.requirements()] == ["numpy", "keras"] and here.extras == ["text", "tpu"]
    assert here.install("tf") == "pip install 'tfhf[tf]'"
    del here.distributions["tfhf"]
    here.__dict__.pop("_packaging_of_tfhf")
    with pytest.raises(machine.DoctorError, match="expected setup.py, or the metadata"):
        here.requirements()


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.18")
    found, = packages.check_python(machine.Machine())
    assert found.level == "fault" and "3.9.18" in found.found and found.expected == "Python >=3.10"


def test_the_command_and_the_doctor_import_nothing_heavy():
    code = ("import sys, tfhf, pipelines.__main__ as command\ntry: command.main(['doctor', '--help'])\n"
            "except SystemExit: print(sorted({'tensorflow', 'keras', 'numpy', 'jax', 'google'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n[]\n") and "usage: tfhf doctor" in done.stdout, done


def test_every_check_has_its_place_in_the_page():
    page = (ROOT / "docs/trouble.md").read_text("utf-8")
    for check in ("python", "tensorflow", "files", "import tensorflow", "processor", "keras", "tensorboard",
                  "tensorflow-text", "tensorflow-io", "libtpu", "tpu", "protobuf", "requirements", "credentials",
                  "bucket", "disk", "memory"):
        assert f"\n## {check}\n" in page, check


@pytest.mark.nightly
def test_the_environment_of_these_tests_is_sound(tmp_path):
    done = subprocess.run([sys.executable, "-m", "pipelines", "doctor", "--json", "--disk-gb", "0", "--ram-gb", "0"],
                          cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    bad = [one for one in json.loads(done.stdout)["findings"] if one["level"] != "ok"]
    assert done.returncode == 0 and not bad, bad
