"""What the doctor looks at: installed distributions, imports tried in other processes, the machine's own description.

It needs the standard library and `packaging` (or the copy inside pip), and imports nothing that may be broken. What is
expected of versions is read from setup.py (in a checkout) or from the metadata of the installed tfhf: no second list
of pins stands here.
"""

from __future__ import annotations

import ast
import concurrent.futures
import csv
import dataclasses
import functools
import glob
import importlib
import importlib.metadata
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
IMPORT_LIMIT_S = 180.0     # a first import from the network disk of a fresh TPU VM takes a minute and more
METADATA_LIMIT_S = 1.0
NEED_DISK_GB = 6.0         # a checkpoint of Whisper-small is 12 B x 242 M = 2.9 GB, and the next comes beside it
NEED_RAM_GB = 4.0          # TensorFlow takes 0.6 GB; the pipeline's buffers and the model the rest

# All of these install the package `tensorflow`. Asked only where a RECORD is missing (conda, Debian).
TENSORFLOWS = {"tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-tpu", "tensorflow-rocm",
               "tensorflow-macos", "tensorflow-intel", "intel-tensorflow", "tensorflow-cpu-aws", "tf-nightly",
               "tf-nightly-cpu", "tf-nightly-gpu", "tf-nightly-tpu", "tf-nightly-intel"}
TPU_TENSORFLOWS = {"tensorflow-tpu", "tf-nightly-tpu"}
PROBES = {   # what is imported -> the code that shows that it really works: its file, then its version
    "tensorflow": "import tensorflow as m",
    "keras": "import keras as m",
    "tensorflow-text": "import tensorflow_text as m",
    # Its import only warns when the libraries do not load; the names of the operations need them.
    "tensorflow-io": "import tensorflow_io as m; from tensorflow_io.python.ops import core_ops; dir(core_ops)",
}
_SHOW = "; print(getattr(m, '__file__', None) or list(m.__path__)[0]); print(getattr(m, '__version__', None))"
# Lines of stderr that say why: the last of a traceback, and what C++ says before it aborts.
_TELLING = re.compile(r"^[\w.]*(Error|Exception)\b|^F\d{4}|^[-\d]+ [\d:.]+: F |undefined symbol|Check failed|"
                      r"terminate called|what\(\)|Fatal|GLIBC|caused by")
# How JAX knows TPU chips (jax/_src/hardware_utils.py): PCI vendor and devices, v2/v3, v4, v5p, v5e, v6e, 7x.
TPU_PCI_VENDOR = "0x1ae0"
TPU_PCI_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


class DoctorError(ValueError):
    """The doctor itself cannot look: the message says what it lacks, `mend` is the line that brings it."""

    def __init__(self, message: str, mend: str):
        super().__init__(message)
        self.mend = mend


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: the check's name, a word or two.
        level: "ok", "warn" (it may work; look at it) or "fault" (it does not, or costs money for nothing).
        found: what is there, in one line; the reason of a failed import may have several.
        expected: what should be there; empty where all is well.
        mend: the shell line that mends it; empty where all is well or nothing is known.
    """

    check: str
    level: str
    found: str
    expected: str = ""
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class Tried:
    """The end of a process that tried something: `why` is empty when it went well, `lines` are those of its stdout."""

    why: str
    lines: tuple[str, ...]


def try_in_process(code: str, limit_s: float, *arguments: str, environment: dict | None = None) -> Tried:
    """Run Python code in a process of its own, with this interpreter and environment; it may abort or hang.

    Args:
        limit_s: seconds after which it is killed.
        arguments: sys.argv[1:] of the code.
        environment: variables set beside those of this process.
    """
    command = [sys.executable, "-c", code, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s,
                              stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired:
        return Tried(f"no answer within {limit_s:g} s", ())
    if done.returncode == 0:
        return Tried("", tuple(done.stdout.splitlines()))
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = list(dict.fromkeys(filter(_TELLING.search, lines)))[-3:] or lines[-3:] or ["it says nothing"]
    how = f"exit status {done.returncode}"
    if done.returncode < 0:
        how = f"killed by {signal.Signals(-done.returncode).name}"
        if done.returncode == -signal.SIGILL:
            last.append("the processor lacks an instruction (AVX) that this build uses")
    return Tried("\n".join([f"({how})", *(line if len(line) < 400 else line[:400] + " …" for line in last)]), ())


def canonical(name: str) -> str:
    """The name by which PEP 503 compares distributions."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_code(path):
    """Is this file of a RECORD one that an import needs? Tests and caches are often removed to save space."""
    parts = path.split("/")
    return (re.search(r"\.(py|so|pyd|dylib)(\.\d+)*$", path) and not path.startswith(("..", "/"))
            and not parts[0].endswith(".dist-info") and not {"tests", "test", "testing", "__pycache__"} & set(parts))


class Machine:
    """What the checks look at; each thing is read once, when it is first asked for.

    Args:
        bucket: gs://BUCKET[/…] whose region to compare with the TPU's, or None.
        zone: the TPU's zone; default: that of the TPU VM, or CLOUDSDK_COMPUTE_ZONE.
        need_disk_gb, need_ram_gb: what the run needs here, in 1e9 bytes.
        folder: the folder whose disk is meant.
    """

    def __init__(self, bucket: str | None = None, zone: str | None = None, need_disk_gb: float = NEED_DISK_GB,
                 need_ram_gb: float = NEED_RAM_GB, folder: str = "."):
        self.bucket, self._zone = bucket, zone
        self.need_disk_gb, self.need_ram_gb, self.folder = need_disk_gb, need_ram_gb, folder
        self._metadata_answers = True

    @functools.cached_property
    def all_distributions(self) -> list:
        """Every installed distribution that has metadata, in the order of the import path."""
        whole = (found for found in importlib.metadata.distributions()
                 if (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").strip())
        return [found for found in whole if found.metadata["Name"] and found.metadata["Version"]]

    @functools.cached_property
    def distributions(self) -> dict:
        """Canonical name -> distribution; the first on the path, as with imports."""
        first = {}
        for found in self.all_distributions:
            first.setdefault(canonical(found.metadata["Name"]), found)
        return first

    def version(self, name: str) -> str | None:
        """Version of an installed distribution, or None."""
        found = self.distributions.get(canonical(name))
        return found.version if found else None

    @functools.cached_property
    def packaging(self):
        """The module packaging.requirements; DoctorError where neither packaging nor pip is installed."""
        for name in ("packaging", "pip._vendor.packaging"):
            try:
                return importlib.import_module(f"{name}.requirements")
            except ImportError:
                continue
        raise DoctorError("versions cannot be compared: neither `packaging` nor pip is installed",
                          "python -m ensurepip && pip install packaging")

    def accepts(self, requirement, version: str) -> bool:
        """Does a requirement take this version? A version that is none is not taken."""
        try:
            return requirement.specifier.contains(version, prereleases=True)
        except ValueError:   # packaging's InvalidVersion
            return False

    @functools.cached_property
    def _packaging_of_tfhf(self):
        """-> (python_requires, {extra, or "": its requirements}); the extras of the tests are left out."""
        setup, found = ROOT / "setup.py", self.distributions.get("tfhf")
        if setup.exists():
            tree = ast.parse(setup.read_text("utf-8"))
            values = {node.targets[0].id: node.value for node in tree.body
                      if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
            python = next(word.value.value for node in ast.walk(tree) if isinstance(node, ast.Call)
                          for word in node.keywords if word.arg == "python_requires")
            lists = {"": values["REQUIRES"], **{key.value: value for key, value in
                                                zip(values["EXTRAS"].keys, values["EXTRAS"].values)}}
            return python, {key: self._held(ast.literal_eval(value)) for key, value in lists.items()
                            if isinstance(value, ast.List)}
        if found is None:
            raise DoctorError(f"{ROOT}: expected setup.py, or the metadata of an installed tfhf; neither is here",
                              "pip install -e .   # in the checkout of tfhf")
        extras = set(found.metadata.get_all("Provides-Extra") or ()) - {"test", "reference", "dev"}
        own = [text for text in found.requires or () if "extra ==" not in text]
        rest = [text for text in found.requires or () if text not in own]
        return found.metadata["Requires-Python"], {"": self._held(own), **{
            extra: self._held(rest, [extra]) for extra in sorted(extras)}}

    def _held(self, texts, extras=()):
        """The requirements whose markers hold here, without the markers."""
        held, read = [], self.packaging.Requirement
        for text in texts:
            try:
                one = read(text)
            except ValueError:   # packaging's InvalidRequirement, in the metadata of old releases
                continue
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                one.marker = None
                held.append(one)
        return held

    @property
    def python_requires(self) -> str:
        """What tfhf asks of Python, such as ">=3.10"."""
        return self._packaging_of_tfhf[0]

    def requirements(self, extra: str = "") -> list:
        """tfhf's own requirements, or those of one of its extras, as far as their markers hold here."""
        return self._packaging_of_tfhf[1].get(extra, [])

    def requirement(self, extra: str, name: str):
        """The requirement on one distribution in an extra of tfhf."""
        return next(one for one in self.requirements(extra) if canonical(one.name) == name)

    @property
    def extras(self) -> list[str]:
        """The extras of tfhf, those of the tests left out."""
        return [name for name in self._packaging_of_tfhf[1] if name]

    def install(self, extra: str) -> str:
        """The line that installs tfhf with an extra."""
        return f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}" if (ROOT / "setup.py").exists() else (
            f"pip install 'tfhf[{extra}]'")

    def record(self, name: str) -> dict[str, tuple[str, int | None]]:
        """The code files that a distribution installed: path -> (hash, bytes); empty where there is no RECORD."""
        rows = csv.reader((self.distributions[name].read_text("RECORD") or "").splitlines())
        return {row[0]: (row[1], int(row[2]) if row[2].isdigit() else None) for row in rows
                if len(row) == 3 and _is_code(row[0])}

    @functools.cached_property
    def tensorflows(self) -> list[str]:
        """Names of the installed distributions that bring the package `tensorflow`."""
        return sorted(name for name in self.distributions if "tensorflow" in name or name.startswith("tf-nightly")
                      if (name in TENSORFLOWS if self.distributions[name].read_text("RECORD") is None
                          else "tensorflow/__init__.py" in self.record(name)))

    @functools.cached_property
    def edges(self) -> list[tuple]:
        """Every requirement in reach of tfhf and its TensorFlow, as (who requires, Requirement)."""
        waiting = [("tfhf", one) for one in self.requirements()]
        waiting += [("tfhf", self.packaging.Requirement(name)) for name in self.tensorflows]
        edges, seen = [], set()
        while waiting:
            edges.append(waiting.pop(0))
            required, name = edges[-1][1], canonical(edges[-1][1].name)
            key = (name, frozenset(required.extras))
            if name in self.distributions and key not in seen:
                seen.add(key)
                waiting += [(name, one) for one in self.requirements_of(name, required.extras)]
        return edges

    def requirements_of(self, name: str, extras=()) -> list:
        """Requirements of an installed distribution whose markers hold here."""
        return self._held(self.distributions[name].requires or (), extras)

    @functools.cached_property
    def used(self) -> set[str]:
        """Canonical names of the installed distributions that tfhf uses, its extras included."""
        named = [one for extra in self.extras for one in self.requirements(extra)]
        names = {canonical(one.name) for _, one in self.edges} | {canonical(one.name) for one in named}
        return (names | set(self.tensorflows) | {"keras-nightly", "libtpu-nightly"}) & set(self.distributions)

    @functools.cached_property
    def tried(self) -> dict[str, Tried]:
        """The imports of PROBES, those of installed extras only, tried side by side in processes of their own."""
        wanted = [name for name in PROBES if name in ("tensorflow", "keras") or self.version(name)]
        # Elsewhere than on a TPU VM libtpu would ask a metadata server that is not there, for minutes.
        quiet = {} if self.is_tpu_vm else {"TPU_SKIP_MDS_QUERY": "1"}
        with concurrent.futures.ThreadPoolExecutor(len(PROBES)) as pool:
            tried = {name: pool.submit(try_in_process, PROBES[name] + _SHOW, IMPORT_LIMIT_S, environment=quiet)
                     for name in wanted}
            return {name: done.result() for name, done in tried.items()}

    @functools.cached_property
    def on_google(self) -> bool:
        """Is this a machine of Google's cloud? Told by its board, without a question over the network."""
        board = Path("/sys/class/dmi/id/product_name")
        return bool(os.environ.get("GCE_METADATA_HOST")) or board.exists() and board.read_text().startswith("Google")

    def metadata(self, key: str) -> str:
        """A value of the metadata server, "" where there is none; never asked outside Google's cloud."""
        if not self.on_google or not self._metadata_answers:
            return ""
        import urllib.request   # half of the doctor's own start, needed on Google's machines only

        host = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
        request = urllib.request.Request(f"http://{host}/computeMetadata/v1/instance/{key}",
                                         headers={"Metadata-Flavor": "Google"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))   # a proxy would tell of its own machine
        try:
            with opener.open(request, timeout=METADATA_LIMIT_S) as answer:
                return answer.read().decode("utf-8").strip()
        except urllib.error.HTTPError:
            return ""
        except OSError:
            self._metadata_answers = False   # one wait is enough
            return ""

    @functools.cached_property
    def tpu_environment(self) -> dict[str, str]:
        """The TPU VM's own description, the metadata attribute tpu-env: ACCELERATOR_TYPE, ZONE and more."""
        lines = (line.partition(":") for line in self.metadata("attributes/tpu-env").splitlines())
        return {key.strip(): value.strip().strip("'\"") for key, _, value in lines}

    @functools.cached_property
    def accelerator(self) -> str:
        """Accelerator type, such as "v3-8"; "" where this is no TPU VM, "TPU" where only the chips tell."""
        told = os.environ.get("TPU_ACCELERATOR_TYPE") or os.environ.get("ACCELERATOR_TYPE")
        told = told or self.tpu_environment.get("ACCELERATOR_TYPE") or self.metadata("attributes/accelerator-type")
        if re.match(r"v\d", told):
            return told
        cards = [[Path(folder, name).read_text().strip() for name in ("vendor", "device")]
                 for folder in glob.glob("/sys/bus/pci/devices/*")]
        return "TPU" if any(vendor == TPU_PCI_VENDOR and device in TPU_PCI_DEVICES for vendor, device in cards) else ""

    @property
    def is_tpu_vm(self) -> bool:
        """Has this machine TPU chips?"""
        return bool(self.accelerator)

    @property
    def drives_tpu_by_tensorflow(self) -> bool:
        """Is it a TPU that TensorFlow reaches, v2 to v4? The newer ones are reached through JAX (`--backend jax`)."""
        return bool(re.match(r"v[234]-|TPU$", self.accelerator)) and os.environ.get("KERAS_BACKEND") != "jax"

    @property
    def zone(self) -> str:
        """The TPU's zone, such as "europe-west4-a", or ""."""
        return (self._zone or self.tpu_environment.get("ZONE") or self.metadata("zone").rpartition("/")[2]
                or os.environ.get("CLOUDSDK_COMPUTE_ZONE", ""))
