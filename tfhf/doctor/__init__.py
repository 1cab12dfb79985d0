"""What is installed, what clashes, and the line that mends it: the checks behind `tfhf doctor`.

    tfhf doctor [--json] [--bucket gs://BUCKET] [--zone ZONE]      exit status 0: sound, 1: a fault

Nothing here imports TensorFlow, Keras or Google's client: an import that may abort, hang or break is tried in a process
of its own, with a time limit, so that the doctor works where nothing else does.

Each check is a small function from a `Machine` to findings. docs/trouble.md tells of each: its cause and its mending.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from tfhf.doctor import cloud, packages, processor
from tfhf.doctor.machine import NEED_DISK_GB, NEED_RAM_GB, DoctorError, Finding, Machine

CHECKS = (packages.check_python, packages.check_tensorflow, packages.check_files, packages.check_import,
          processor.check_processor, packages.check_keras, packages.check_tensorboard, packages.check_text,
          packages.check_io, packages.check_libtpu, cloud.check_tpu, packages.check_protobuf,
          packages.check_requirements, cloud.check_credentials, cloud.check_bucket, cloud.check_disk,
          cloud.check_memory)


def examine(machine: Machine) -> list[Finding]:
    """Every finding of every check, in the order of CHECKS."""
    findings = []
    for check in CHECKS:
        try:
            findings += check(machine)
        except DoctorError as error:   # what it lacks stops many checks, and is said once
            if any(one.found == str(error) for one in findings):
                continue
            findings.append(Finding(check.__name__.removeprefix("check_"), "fault", str(error), "", error.mend))
    return findings


def report(findings: list[Finding]) -> str:
    """One line per finding; under it, where something is wrong, what was expected and the line that mends it."""
    lines = []
    for one in findings:
        found = one.found.replace("\n", "\n" + " " * 26)
        lines.append(f"{one.level.upper() if one.level == 'fault' else one.level:5}  {one.check:18} {found}")
        told = (("expected:", one.expected), ("mend:", one.mend))
        lines += [f"{'':7}{what:>18} {text}" for what, text in told if text]
    faults, warnings = (sum(one.level == level for one in findings) for level in ("fault", "warn"))
    return "\n".join([*lines, "sound" if not faults + warnings else f"faults: {faults}, warnings: {warnings}"])


def main(argv: list[str] | None = None) -> int:
    """The command `tfhf doctor`; returns the exit status, 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="tfhf doctor", description="What is installed, what clashes, how to mend it.")
    parser.add_argument("--json", action="store_true", help="the findings as JSON, for scripts")
    parser.add_argument("--bucket", metavar="gs://BUCKET", help="compare its region with the TPU's")
    parser.add_argument("--zone", help="the TPU's zone; default: this TPU VM's, or CLOUDSDK_COMPUTE_ZONE")
    parser.add_argument("--disk-gb", type=float, default=NEED_DISK_GB, help="disk that the run needs (%(default)g)")
    parser.add_argument("--ram-gb", type=float, default=NEED_RAM_GB, help="memory that the run needs (%(default)g)")
    options = parser.parse_args(argv)
    if options.bucket and not options.bucket.startswith("gs://"):
        parser.error(f"--bucket: got {options.bucket!r}, expected gs://BUCKET")
    findings = examine(Machine(options.bucket, options.zone, options.disk_gb, options.ram_gb))
    sound = not any(one.level == "fault" for one in findings)
    if options.json:
        print(json.dumps({"sound": sound, "findings": [dataclasses.asdict(one) for one in findings]}, indent=2))
    else:
        print(report(findings))
    return 0 if sound else 1
