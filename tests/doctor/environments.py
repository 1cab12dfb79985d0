"""Environments for the doctor that are made in throw-away venvs, to be broken on purpose.

A distribution here is a folder NAME-VERSION.dist-info with METADATA and RECORD, and a module of a few lines that
imports, raises or aborts as the real one does. Nothing is downloaded, no TensorFlow imported.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TENSORFLOW = """__version__ = {version!r}
ERROR = 0.0


class Anything:
    # Whatever is computed with it is itself; as a number it is what the doctor reads as the error of a convolution.
    def __call__(self, *arguments, **options):
        return self

    __getattr__ = __getitem__ = __sub__ = __truediv__ = __floordiv__ = __enter__ = __call__

    def __exit__(self, *raised):
        return False

    def __iter__(self):
        return iter([])

    def __float__(self):
        return ERROR


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything()
"""
KERAS = "import tensorflow\n__version__ = '3.15.1'\n"
ABORTS = ("import os, sys\nsys.stderr.write('2026-11-21 15:13:50.2: F tpu.cc:1] ConfigureDistributedTpuOp_DoWork not "
          "available in this library\\n')\nsys.stderr.flush()\nos.abort()\n")
UNDEFINED = "raise ImportError('libtext.so: undefined symbol: _ZN10tensorflow8OpKernel')\n"


class Environment:
    """A venv of fake distributions, and the doctor run by its interpreter."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.python = self.folder / "venv/bin/python"
        self.site = next((self.folder / "venv").glob("lib/python*")) / "site-packages"
        self.home = self.folder / "home"
        self.variables = {}

    def install(self, name, version, files=None, requires=(), record=True):
        """As pip does: the files, then METADATA and RECORD beside them."""
        rows = []
        for path, text in (files or {}).items():
            (self.site / path).parent.mkdir(parents=True, exist_ok=True)
            (self.site / path).write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text.encode())}\n")
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        required = "".join(f"Requires-Dist: {one}\n" for one in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        if record:
            (info / "RECORD").write_text("".join(rows) + f"{info.name}/RECORD,,\n")

    def remove(self, name):
        """Only what says that it is installed, not its files."""
        for info in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(info)

    def tensorflow(self, version="2.20.0", name="tensorflow", code=TENSORFLOW, **options):
        """Install a TensorFlow in place of the one that is there."""
        self.remove("tensorflow")
        self.install(name, version, {"tensorflow/__init__.py": code.format(version=version),
                                     "tensorflow/core.so": f"{name} {version}"}, **options)

    def run(self, *arguments):
        """-> the finished `tfhf doctor`."""
        return subprocess.run([self.python, "-m", "pipelines", "doctor", *arguments], capture_output=True, text=True,
                              cwd=self.folder, env={"PYTHONPATH": str(ROOT), "HOME": str(self.home),
                                                    "PATH": os.environ["PATH"], **self.variables})

    def findings(self, *arguments):
        """What is not "ok", by check: (level, all of its text); each mending line is one that bash can read."""
        done = self.run("--json", "--disk-gb", "0", "--ram-gb", "0", *arguments)
        assert done.returncode in (0, 1) and not done.stderr, done.stderr
        answer = json.loads(done.stdout)
        assert answer["sound"] == (done.returncode == 0) == all(one["level"] != "fault" for one in answer["findings"])
        bad = [one for one in answer["findings"] if one["level"] != "ok"]
        for one in bad:
            assert subprocess.run(["bash", "-nc", one["mend"]]).returncode == 0, one["mend"]
        return {one["check"]: (one["level"], " | ".join([one["found"], one["expected"], one["mend"]])) for one in bad}


def expect(found, check, level, *words):
    """The check found something of this level, and says these words."""
    assert check in found, found
    assert found[check][0] == level and all(word in found[check][1] for word in words), found[check]
