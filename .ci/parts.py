"""Runs the test suite in parts, each in a pytest of its own, all of them whatever fails; then sums them up.

    python .ci/parts.py [--jobs N] PART... [-- PYTEST ARGUMENT...]

A part is one or more paths with commas between them. At the end every failed test is named again, and the last line is
the sum: "N passed, N failed, N skipped". Errors count as failed, and so does a part whose pytest ended without its own
closing line. The exit status is 0 only where nothing failed.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

NO_TESTS_SELECTED = 5   # pytest's exit status


def in_short(part):
    """A part's name for people: its first and last path."""
    paths = part.split(",")
    return part if len(paths) < 3 else f"{paths[0]} … {paths[-1]} ({len(paths)} paths)"


def run_part(part, jobs, report, arguments):
    """Run pytest on one part, with its output on this terminal; returns its exit status."""
    command = [sys.executable, "-m", "pytest", *part.split(","), "-q", "-p", "no:cacheprovider", "--durations=8",
               f"--junitxml={report}", "-o", "junit_family=xunit1"]
    if jobs > 1:
        command += ["-n", str(jobs), "--dist", "loadfile"]
    return subprocess.run([*command, *arguments]).returncode


def read_report(report):
    """-> (how many passed, the names of those that failed, how many were skipped) of one pytest's XML.

    A test that ends its process is tried again by pytest-xdist, and reported each time: it is one failure.
    """
    passed, failed, skipped = 0, [], 0
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            place = case.get("file") or case.get("classname")
            failed.append(f"{place}::{case.get('name')}" if place else case.get("name"))
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, list(dict.fromkeys(failed)), skipped


def how_it_ended(status):
    """A process' exit status in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def failures_of_part(part, status, report, arguments):
    """What `read_report` gives, and a failure more where the part itself broke."""
    if status == NO_TESTS_SELECTED and arguments:
        return 0, [], 0   # -k or -m left nothing of this part
    if not report.exists():
        return 0, [f"{in_short(part)}: pytest {how_it_ended(status)} before its closing line"], 0
    passed, failed, skipped = read_report(report)
    if status and not failed:
        failed.append(f"{in_short(part)}: pytest {how_it_ended(status)}, though none of its tests failed")
    return passed, failed, skipped


def main(argv):
    """Returns the exit status: 1 where something failed or nothing ran."""
    argv, arguments = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description="The test suite in parts, with one closing line.")
    parser.add_argument("parts", nargs="+", metavar="PART", help="paths with commas between them")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the files of a part (%(default)s)")
    options = parser.parse_args(argv)

    passed, failed, skipped = 0, [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(options.parts):
            print(f"== {in_short(part)}", flush=True)
            report, begin = Path(folder) / f"{number}.xml", time.monotonic()
            status = run_part(part, options.jobs, report, arguments)
            print(f"== took {time.monotonic() - begin:.0f} s", flush=True)
            of_part = failures_of_part(part, status, report, arguments)
            passed, failed, skipped = passed + of_part[0], failed + of_part[1], skipped + of_part[2]
    if failed:
        print("== failed:")
    for name in failed:
        print(name)
    print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted: the suite was not finished")
