"""The whole environment that the tests of the doctor copy and break."""

import shutil
import venv
from pathlib import Path

import packaging
import pytest

from tests.doctor.environments import KERAS, Environment
from tfhf.doctor import machine


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A whole environment: what setup.py requires, each in the least version that it takes."""
    folder = tmp_path_factory.mktemp("doctor")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "venv")
    (folder / "home").mkdir()
    environment = Environment(folder)
    (environment.site / "packaging").symlink_to(Path(packaging.__file__).parent)
    for one in machine.Machine().requirements():
        least = next(part.version for part in one.specifier if part.operator == ">=")
        if one.name != "keras":
            environment.install(one.name, least)
    environment.install("keras", "3.15.1", {"keras/__init__.py": KERAS}, ["numpy", "absl-py; python_version < '3'"])
    environment.install("protobuf", "6.33.0")
    environment.install("tensorboard", "2.20.0")
    environment.tensorflow(requires=["numpy>=1.26", "protobuf>=5.28.0", "keras>=3.10.0", "rich; extra == 'pretty'"])
    return folder


@pytest.fixture
def environment(made, tmp_path):
    """A copy of the whole one, to be broken."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    return Environment(tmp_path / "copy")
