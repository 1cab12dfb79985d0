"""The tested set of packages: writes constraints.txt, and says what has moved away from it.

    python .ci/constraints.py write [EXTRA…]     what is installed here, which passed the tests, becomes the set
    python .ci/constraints.py moved              what is installed here in another version than the set has

Run it with the Python of an environment of the Makefile.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# Every environment has its own; a constraint on them would hold for nothing that tfhf uses.
TOOLS = {"pip", "setuptools", "wheel", "tfhf"}
HEADER = """\
# The tested set: what `make` installs, so that a new release of somebody else's package does not change what the tests
# say. The ranges for users are in setup.py. Tested with Python {python} on {system} and TensorFlow
# {releases}; the Makefile's TENSORFLOW chooses the release. Other Pythons from 3.10 on are not tested: a package
# that does not support Python 3.10 is held from the first Python that it supports.
# Not here: the extras tpu (tpu_scripts/constraints), io, and beam, whose protobuf<7 goes with another set.
# `make constraints` writes this file from an environment in which `make test` passed.
"""


def canonical(name):
    """The name by which PEP 503 compares distributions."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(file=FILE):
    """{canonical name: Requirement} of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    return {canonical(one.name): one for one in map(Requirement, filter(None, lines))}


def installed():
    """{canonical name: (version, the Pythons it supports)} of this environment."""
    found = {}
    for one in importlib.metadata.distributions():
        name = canonical(one.metadata["Name"])
        if name not in TOOLS:
            found[name] = one.version, one.metadata["Requires-Python"] or ""
    return found


def further(extras, held):
    """What the extras would bring beside what is installed, asked of pip, which installs nothing: as `installed`."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder, "report.json"), Path(folder, "held.txt")
        constraints.write_text("".join(f"{name}=={Version(version).public}\n" for name, (version, _) in held.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", report,
                   "--constraint", constraints, f"{ROOT}[{','.join(extras)}]"]
        subprocess.run(command, check=True)
        asked = [one["metadata"] for one in json.loads(report.read_text("utf-8"))["install"]]
    found = {canonical(one["name"]): (one["version"], one.get("requires_python", "")) for one in asked}
    return {name: one for name, one in found.items() if name not in held and name not in TOOLS}


def line(name, version, pythons):
    """One line of the file; the local part of a version ("2.13.0+cpu") is one index's own, and left out."""
    supported = [python for python in PYTHONS if SpecifierSet(pythons).contains(f"{python}.99")]
    marker = f'; python_version >= "{supported[0]}"' if supported and supported[0] != PYTHONS[0] else ""
    return f"{name}=={Version(version).public}{marker}"


def write(extras, releases):
    """Write the file; `releases` are TensorFlow's, of which the Makefile chooses one."""
    held = installed()
    found = {**(further(extras, held) if extras else {}), **held}
    ordered = sorted(releases, key=Version)
    tensorflow = f"tensorflow>={ordered[0]},<={ordered[-1]}"
    lines = [tensorflow if name == "tensorflow" else line(name, *one) for name, one in sorted(found.items())]
    python = ".".join(platform.python_version_tuple()[:2])
    header = HEADER.format(python=python, system=f"{platform.system()} {platform.machine()}",
                           releases=" and ".join(ordered))
    written = FILE.with_suffix(".new")
    written.write_text(header + "\n".join(lines) + "\n", "utf-8")
    os.replace(written, FILE)
    print(f"{FILE.name}: {len(lines)} packages")
    for release in ordered:
        # pip itself says which package does not go with the release.
        print(f"Resolving the set with TensorFlow {release} ...", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                        "--constraint", FILE, f"{ROOT}[tf,hf,test,reference]", f"tensorflow=={release}"], check=True)


def moved(held, found):
    """Lines "name: held -> found" for what is installed outside of the set; new packages too."""
    lines = []
    for name, (version, _) in sorted(found.items()):
        if name not in held:
            lines.append(f"{name}: not in the set -> {version}")
        elif not held[name].specifier.contains(Version(version).public, prereleases=True):
            lines.append(f"{name}: {str(held[name].specifier).removeprefix('==')} -> {version}")
    return lines


def main(argv):
    """The command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="The tested set of packages.")
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write constraints.txt from this environment")
    writing.add_argument("extras", nargs="*", metavar="EXTRA", help="extras of setup.py that are not installed here")
    writing.add_argument("--releases", nargs="+", required=True, help="the tested releases of TensorFlow")
    commands.add_parser("moved", help="print what differs here from constraints.txt")
    options = parser.parse_args(argv)
    if options.command == "write":
        write(options.extras, options.releases)
        return
    lines = moved(read(), installed())
    print(f"{len(lines)} packages are not those of {FILE.name}:" if lines else f"nothing moved from {FILE.name}")
    print("\n".join(f"  {one}" for one in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
