"""The checks of what is installed: one TensorFlow, whole files, imports, versions that go together."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from pathlib import Path

from tfhf.doctor.machine import TENSORFLOWS, TPU_TENSORFLOWS, Finding, Machine, canonical


def _pip(*requirements):
    return " ".join(["pip install", *(shlex.quote(one) for one in requirements)])


def _reinstall(machine, names):
    """The line that leaves one TensorFlow where several overwrote each other, or one that lost files."""
    wanted = [name for name in names if (name in TPU_TENSORFLOWS) == machine.drives_tpu_by_tensorflow] or names
    keep = "tensorflow" if "tensorflow" in wanted else wanted[0]
    return (f"pip uninstall -y {' '.join(names)} && pip install --no-deps --force-reinstall "
            f"{keep}=={machine.version(keep)}")


def check_python(machine: Machine) -> list[Finding]:
    """Python's version against setup.py's python_requires."""
    here, wanted = platform.python_version(), machine.python_requires
    if machine.accepts(machine.packaging.Requirement(f"python{wanted}"), here):
        return [Finding("python", "ok", f"{here} ({sys.executable})")]
    return [Finding("python", "fault", f"{here} ({sys.executable})", f"Python {wanted}",
                    "python3.11 -m venv .venv && . .venv/bin/activate && " + machine.install("tf"))]


def check_tensorflow(machine: Machine) -> list[Finding]:
    """Which TensorFlow is installed, whether it is the only one, and whether tfhf was made for its version."""
    names = machine.tensorflows
    said = ", ".join(f"{name} {machine.version(name)}" for name in names)
    if not names:
        return [Finding("tensorflow", "fault", "not installed", "one TensorFlow",
                        machine.install("tpu" if machine.drives_tpu_by_tensorflow else "tf"))]
    if len(names) > 1:
        return [Finding("tensorflow", "fault", f"{said}: they install the same files, the last overwrote the others",
                        "one of them", _reinstall(machine, names))]
    extra, wanted = ("tpu", "tensorflow-tpu") if names[0] in TPU_TENSORFLOWS else ("tf", "tensorflow")
    requirement = machine.requirement(extra, wanted)
    if not machine.accepts(requirement, machine.version(names[0])):
        return [Finding("tensorflow", "warn", said, str(requirement), _pip(str(requirement)))]
    return [Finding("tensorflow", "ok", said)]


def check_files(machine: Machine) -> list[Finding]:
    """The code files of what tfhf uses: owned twice, gone, of another size than was installed, left by a broken pip."""
    findings, owners, places, altered = [], {}, set(), {}
    for name in sorted(machine.used):
        distribution, gone, changed = machine.distributions[name], [], []
        places.add(Path(distribution.locate_file("")))
        for path, (digest, count) in machine.record(name).items():
            file = distribution.locate_file(path)
            owners.setdefault(str(file), []).append((name, digest))
            if not os.path.exists(file):
                gone.append(path)
            elif count is not None and os.path.getsize(file) != count:
                changed.append(path)
        altered[name] = ((gone, "fault", "are gone"), (changed, "warn", "are not those it installed"))
    pairs = {}
    for path, owned in owners.items():
        if len({digest for _, digest in owned}) > 1:   # the same bytes twice (google/__init__.py) do no harm
            pairs.setdefault(tuple(sorted({name for name, _ in owned})), []).append(path)
    for names, paths in pairs.items():
        findings.append(Finding("files", "fault", f"{' and '.join(names)} overwrite each other: {len(paths)} files "
                                f"({paths[0]}, …)", "one owner for each file", _reinstall(machine, list(names))))
    for name in sorted(set(altered) - {name for names in pairs for name in names}):
        said = f"{name} {machine.version(name)}"
        findings += [Finding("files", level, f"{said}: {len(paths)} of its files {what} ({paths[0]}, …)",
                             "the files of its RECORD", _pip("--force-reinstall", "--no-deps", said.replace(" ", "==")))
                     for paths, level, what in altered[name] if paths]
    for place in sorted(places):
        for left in sorted(place.glob("~*")):
            findings.append(Finding("files", "warn", f"{left}: left by a pip that was interrupted", "",
                                    f"rm -r {shlex.quote(str(left))}"))
    versions = {}
    for one in machine.all_distributions:
        versions.setdefault((canonical(one.metadata["Name"]), str(one.locate_file(""))), set()).add(one.version)
    for (name, place), several in sorted(versions.items()):
        if len(several) > 1 and name in machine.used:
            findings.append(Finding("files", "fault", f"{name} has the metadata of {' and '.join(sorted(several))} in "
                                    f"{place}", "one version", f"pip uninstall -y {name}; pip uninstall -y {name}; "
                                    f"pip install {name}=={machine.version(name)}"))
    return findings or [Finding("files", "ok", f"{len(owners)} code files of {len(machine.used)} packages are there")]


def check_import(machine: Machine) -> list[Finding]:
    """Does TensorFlow import, and is it the one that is installed?"""
    if not machine.tensorflows and machine.tried["tensorflow"].why:
        return []   # check_tensorflow has said it
    tried, name = machine.tried["tensorflow"], (machine.tensorflows or ["tensorflow"])[0]
    installed = machine.version(name)
    # Where another check knows the cause, its line mends this too.
    causes = (one.mend for check in (check_libtpu, check_protobuf, check_files, check_requirements)
              for one in check(machine) if one.level == "fault")
    if tried.why:
        return [Finding("import tensorflow", "fault", tried.why, "it imports",
                        next(causes, _reinstall(machine, [name])))]
    place, version = tried.lines[-2:]
    if version == "None":   # somebody's tensorflow.py, or the folder that an uninstall left
        away = f"mv {shlex.quote(place)} {shlex.quote(place + '.away')}"
        mend = away if place.endswith(".py") else next(causes, away)
        return [Finding("import tensorflow", "fault", f"{place} is imported, which is not TensorFlow",
                        f"{name} {installed or ''}", mend)]
    if installed and version.split(".")[:2] != installed.split(".")[:2]:
        return [Finding("import tensorflow", "fault", f"{version} is imported, from {place}", f"{name} {installed}",
                        "unset PYTHONPATH   # and look for .pth files beside it")]
    return [Finding("import tensorflow", "ok", f"{version} from {place}")]


def check_keras(machine: Machine) -> list[Finding]:
    """Keras' backend, number format and image layout as configured, and whether it imports."""
    file = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    remove = f"rm {shlex.quote(str(file))}"
    findings = []
    try:
        configured = json.loads(file.read_text("utf-8")) if file.exists() else {}
    except ValueError:
        configured = None
    if not isinstance(configured, dict):
        findings.append(Finding("keras", "fault", f"{file} is no JSON object", "one, or no such file", remove))
        configured = {}
    source, backend = (("KERAS_BACKEND", os.environ["KERAS_BACKEND"]) if os.environ.get("KERAS_BACKEND") else
                       (str(file), configured.get("backend", "tensorflow")))
    mend = "unset KERAS_BACKEND" if source == "KERAS_BACKEND" else remove
    if backend not in ("tensorflow", "jax"):
        findings.append(Finding("keras", "fault", f"the backend is {backend!r} ({source})", "tensorflow or jax", mend))
    elif backend == "jax" and not machine.version("jax"):
        findings.append(Finding("keras", "fault", f"the backend is 'jax' ({source}), but jax is not installed",
                                "jax, or the backend tensorflow", mend))
    for key, wanted in (("floatx", "float32"), ("image_data_format", "channels_last")):
        if configured.get(key, wanted) != wanted:
            findings.append(Finding("keras", "warn", f"{file}: {key} is {configured[key]!r}", repr(wanted), remove))
    if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() not in ("", "0", "false"):
        findings.append(Finding("keras", "warn", "TF_USE_LEGACY_KERAS is set: tf.keras is Keras 2", "Keras 3",
                                "unset TF_USE_LEGACY_KERAS"))
    if not any(one.level == "fault" for one in findings):
        findings += _loaded(machine, "keras", f"{backend} backend", machine.install("tf"))
    return findings


def _loaded(machine, name, said, mend):
    """The finding of one of PROBES beside TensorFlow's own."""
    tensorflow = machine.tried["tensorflow"]
    if tensorflow.why or tensorflow.lines[-1] == "None":
        return [Finding(name, "warn", f"{machine.version(name)}: not tried, since TensorFlow does not import")]
    if machine.tried[name].why:
        return [Finding(name, "fault", f"{machine.version(name)}: {machine.tried[name].why}", "it imports", mend)]
    return [Finding(name, "ok", f"{machine.version(name)}, {said}")]


def check_tensorboard(machine: Machine) -> list[Finding]:
    """tensorboard, which `tfhf train` writes its summaries with; TensorFlow 2.21 does not bring it."""
    found, requirement = machine.version("tensorboard"), machine.requirement("tf", "tensorboard")
    if not found:
        return [Finding("tensorboard", "fault", "not installed: `tfhf train` cannot write its summaries",
                        str(requirement), _pip(str(requirement)))]
    if not machine.accepts(requirement, found):
        return [Finding("tensorboard", "warn", found, str(requirement), _pip(str(requirement)))]
    return [Finding("tensorboard", "ok", found)]


def check_text(machine: Machine) -> list[Finding]:
    """tensorflow-text: its minor version is TensorFlow's, and its operations load."""
    found, base = machine.version("tensorflow-text"), next(map(machine.version, machine.tensorflows), None)
    if not found:
        return [Finding("tensorflow-text", "ok", "not installed (an extra)")]
    if not base:
        return _loaded(machine, "tensorflow-text", "its operations load", "")
    minor = ".".join(base.split(".")[:2])
    # Its own requirement is the package `tensorflow`, which would overwrite any other build.
    mend = _pip(*([] if machine.tensorflows == ["tensorflow"] else ["--no-deps"]), f"tensorflow-text=={minor}.*")
    if ".".join(found.split(".")[:2]) != minor:
        return [Finding("tensorflow-text", "fault", f"{found} beside TensorFlow {base}", f"{minor}.*", mend)]
    return _loaded(machine, "tensorflow-text", "its operations load", mend)


def check_io(machine: Machine) -> list[Finding]:
    """tensorflow-io: its operations load (0.37.1 does on TensorFlow 2.16 only)."""
    if not machine.version("tensorflow-io"):
        return [Finding("tensorflow-io", "ok", "not installed (an extra, which nothing needs)")]
    return _loaded(machine, "tensorflow-io", "its operations load", "pip uninstall -y tensorflow-io")


def check_libtpu(machine: Machine) -> list[Finding]:
    """libtpu's version against what the installed tensorflow-tpu can load."""
    found, path = machine.version("libtpu"), os.environ.get("TPU_LIBRARY_PATH")
    if path and not os.path.exists(path):
        return [Finding("libtpu", "fault", f"TPU_LIBRARY_PATH names {path}, which is not there",
                        "a libtpu.so, or unset", "unset TPU_LIBRARY_PATH")]
    if not TPU_TENSORFLOWS & set(machine.tensorflows):
        return [Finding("libtpu", "ok", f"{found or 'not installed'}; this TensorFlow does not load it")]
    requirement = machine.requirement("tpu", "libtpu")
    if not found or not machine.accepts(requirement, found):
        return [Finding("libtpu", "fault", f"{found or 'not installed'} beside {machine.tensorflows[0]}",
                        f"{requirement}: with others the import of TensorFlow aborts", _pip(str(requirement)))]
    return [Finding("libtpu", "ok", found + (f", TPU_LIBRARY_PATH={path}" if path else ""))]


def check_protobuf(machine: Machine) -> list[Finding]:
    """protobuf's version against everything installed that asks for one."""
    found = machine.version("protobuf")
    asked = {name: one for name in machine.distributions for one in machine.requirements_of(name)
             if canonical(one.name) == "protobuf"}
    refused = {name: one for name, one in asked.items() if not found or not machine.accepts(one, found)}
    mend = _pip("protobuf" + ",".join(sorted({str(part) for one in asked.values() for part in one.specifier})))
    if refused:
        said = "; ".join(f"{name} asks for {one.specifier or 'any'}" for name, one in sorted(refused.items()))
        return [Finding("protobuf", "fault" if set(refused) & machine.used else "warn",
                        f"{found or 'not installed'}; {said}", "a version that all accept", mend)]
    if os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION") == "python":
        return [Finding("protobuf", "warn", f"{found}, read by Python code, many times slower", "its C library",
                        "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")]
    return [Finding("protobuf", "ok", f"{found or 'not installed'}; {len(asked)} packages ask for it")]


def check_requirements(machine: Machine) -> list[Finding]:
    """What tfhf and its TensorFlow require, directly and further off; and the installed extras' versions."""
    findings = []
    for name, one in machine.edges:
        found = machine.version(one.name)
        if canonical(one.name) in ("protobuf", "libtpu") or found and (one.url or machine.accepts(one, found)):
            continue   # those two have checks of their own
        if canonical(one.name) == "tensorboard" and not found:
            continue   # check_tensorboard reports it
        level = "warn" if found and name != "tfhf" else "fault"
        wanted = f"{one.name}{one.specifier}"
        findings.append(Finding("requirements", level, f"{one.name} {found or 'is not installed'}",
                                f"{wanted}, which {name} requires", _pip(wanted)))
    ranges = {}
    for extra in machine.extras:
        for one in machine.requirements(extra):
            ranges.setdefault(canonical(one.name), []).append(one)
    checked = {"libtpu", "tensorboard", "tensorflow-text", "tensorflow-io", *TENSORFLOWS}
    for name in sorted(set(ranges) & set(machine.distributions) - checked):
        if not any(machine.accepts(one, machine.version(name)) for one in ranges[name]):
            findings.append(Finding("requirements", "warn", f"{name} {machine.version(name)}",
                                    str(ranges[name][0]), _pip(str(ranges[name][0]))))
    return list(dict.fromkeys(findings)) or [Finding("requirements", "ok", f"{len(machine.edges)} are met")]
