"""The tested set, constraints.txt: it goes with setup.py, and holds all that the extras bring."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
# TPU VMs have sets of their own (tpu_scripts/constraints); io loads on TensorFlow 2.16 only; beam asks for protobuf<7.
ELSEWHERE = {"tpu", "io", "beam"}


def _module():
    specification = importlib.util.spec_from_file_location("constraints", ROOT / ".ci/constraints.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


constraints = _module()
HELD = constraints.read()


def _declared():
    """{extra, or "" for all: its requirements} of setup.py, which is run with a setup() that only looks."""
    found = {}
    import setuptools

    original = setuptools.setup
    setuptools.setup = found.update
    try:
        code = compile((ROOT / "setup.py").read_text("utf-8"), "setup.py", "exec")
        exec(code, {"__file__": str(ROOT / "setup.py")})
    finally:
        setuptools.setup = original
    lists = {"": found["install_requires"], **found["extras_require"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in lists.items()}


DECLARED = {extra: texts for extra, texts in _declared().items() if extra not in ELSEWHERE}


def _versions(name):
    """The versions that the set allows of a package: one, or both ends of TensorFlow's range."""
    return [Version(part.version) for part in HELD[name].specifier]


@pytest.mark.parametrize("extra", DECLARED)
def test_every_requirement_is_held_within_its_range(extra):
    for one in DECLARED[extra]:
        name = constraints.canonical(one.name)
        if one.marker is not None and not one.marker.evaluate({"python_version": "3.11"}):
            continue   # Keras for Python 3.10
        assert name in HELD, f"{extra}: {name} is not in constraints.txt"
        outside = [str(version) for version in _versions(name) if not one.specifier.contains(version)]
        assert not outside, f"{extra}: {one}, but constraints.txt has {outside}"


def test_every_line_is_one_version_of_one_package():
    lines = [line for line in constraints.FILE.read_text("utf-8").splitlines() if not line.startswith("#")]
    names = [constraints.canonical(Requirement(line).name) for line in lines]
    assert len(names) == len(set(names)) == len(HELD) and names == sorted(names)
    for line, name in zip(lines, names):
        pinned = r"[a-z0-9-]+==[\w.]+(; python_version >= \"3\.\d+\")?"
        ranged = r"tensorflow>=[\d.]+,<=[\d.]+"   # the Makefile's TENSORFLOW chooses
        assert re.fullmatch(ranged if name == "tensorflow" else pinned, line), line
    assert not set(names) & constraints.TOOLS


def test_the_makefile_tests_the_releases_of_the_set():
    releases = re.search(r"^RELEASES +:= (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)[1].split()
    assert sorted(map(Version, releases)) == sorted(_versions("tensorflow"))


def test_the_peers_of_the_parity_tests_are_those_the_suite_was_written_against():
    """Prefix tuning of peft 0.21.2 breaks with transformers 5.24."""
    assert str(HELD["transformers"].specifier).startswith("==5.23.") and str(HELD["peft"].specifier) == "==0.21.2"


def test_what_is_held_needs_nothing_that_is_not():
    """As far as it is installed here: each requirement of a held package is held too, and in a version it takes."""
    wrong = []
    for name in HELD:
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if importlib.metadata.version(name) not in map(str, _versions(name)):
            continue   # an environment of newer packages, as `make nightly-newest` makes
        for one in map(Requirement, texts):
            needed = constraints.canonical(one.name)
            if one.marker is not None and not one.marker.evaluate({"extra": ""}) or needed in constraints.TOOLS:
                continue
            if needed not in HELD:
                wrong.append(f"{name} needs {one}, which is not held")
            elif not all(one.specifier.contains(version, prereleases=True) for version in _versions(needed)):
                wrong.append(f"{name} needs {one}, held is {HELD[needed]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("version, pythons, expected", [
    ("1.2", "", "a==1.2"), ("1.2", ">=3.8", "a==1.2"), ("2.13.0+cpu", ">=3.10", "a==2.13.0"),
    ("1.2", ">=3.11", 'a==1.2; python_version >= "3.11"'), ("1.2", "<4,>3.10", "a==1.2"),
    ("1.2", "!=3.9.*,>=3.12", 'a==1.2; python_version >= "3.12"'), ("26.10.19.post1", "~=3.9", "a==26.10.19.post1"),
])
def test_lines(version, pythons, expected):
    assert constraints.line("a", version, pythons) == expected


def test_what_has_moved_is_said():
    held = {name: Requirement(text) for name, text in {
        "transformers": "transformers==5.23.0", "torch": "torch==2.13.0", "tensorflow": "tensorflow>=2.20.0,<=2.21.0",
        "absent": "absent==1.0"}.items()}
    found = {"transformers": ("5.24.0", ""), "torch": ("2.13.0+cpu", ""), "tensorflow": ("2.21.0", ""),
             "newcomer": ("0.1", "")}
    assert constraints.moved(held, found) == ["newcomer: not in the set -> 0.1", "transformers: 5.23.0 -> 5.24.0"]
    assert constraints.moved(held, {**found, "tensorflow": ("2.22.0", "")})[1] == (
        "tensorflow: <=2.21.0,>=2.20.0 -> 2.22.0")
