"""The shell scripts for TPU VMs, against a gcloud that runs the remote command here, in a home made for it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "tpu_scripts"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.sh"))


@pytest.fixture
def call(tmp_path):
    """call("run.sh", "arg", ...) -> the finished process; gcloud and tfhf write down what they were given."""
    home, bin_folder = tmp_path / "home", tmp_path / "bin"
    tfhf = home / "tfhf" / ".venv" / "bin" / "tfhf"
    for path, text in ((bin_folder / "gcloud", """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$HOME/gcloud.log"
while [ $# -gt 0 ]; do [ "$1" = --command ] && { bash -c "$2"; exit; }; shift; done
"""), (tfhf, """#!/usr/bin/env bash
printf '<%s>' "$@"; echo
""")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)

    def call(script, *arguments):
        environment = {"HOME": str(home), "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run([str(SCRIPTS / script), *arguments], capture_output=True, text=True, env=environment)

    call.home = home
    return call


def wait_for(path, text):
    """The command runs on in the background; give it ten seconds to write."""
    for _ in range(100):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path.name} never held {text!r}: {path.read_text() if path.exists() else 'no such file'}")


@pytest.mark.parametrize("script", NAMES)
def test_usage(call, script):
    for arguments in ([], ["--help"]):
        result = call(script, *arguments)
        assert result.returncode == 2 and result.stderr.startswith(f"usage: {script}")
    assert not (call.home / "gcloud.log").exists()


@pytest.mark.parametrize("script", NAMES)
def test_dry_run_touches_nothing(call, script):
    result = call(script, "--dry-run", "my-tpu", "run-1", "train", "whisper")
    if script in ("create.sh",):  # takes the name alone
        result = call(script, "--dry-run", "my-tpu")
    assert result.returncode == 0 and result.stdout.startswith("gcloud compute tpus tpu-vm ")
    assert "my-tpu" in result.stdout and not (call.home / "gcloud.log").exists()


def test_run_and_resume_keep_the_arguments_as_given(call):
    arguments = ["train", "whisper", "data.path=gs://b/a b", "it's", 'a "quote" $HOME']
    shown = "".join(f"<{argument}>" for argument in arguments)
    result = call("run.sh", "my-tpu", "hindi", *arguments)
    assert result.returncode == 0 and "started hindi" in result.stdout, result.stderr
    log = call.home / "runs" / "hindi.log"
    wait_for(log, shown + "\n")
    assert call("resume.sh", "my-tpu", "hindi").returncode == 0
    wait_for(log, f"{shown}\n{shown}\n")


def test_resume_of_a_run_that_is_not_there(call):
    result = call("resume.sh", "my-tpu", "other")
    assert result.returncode == 1 and "no run other" in result.stderr


@pytest.mark.parametrize("script", ["run.sh", "resume.sh", "logs.sh"])
def test_a_run_name_that_would_reach_the_shell(call, script):
    result = call(script, "my-tpu", "a;b", "train")
    assert result.returncode == 2 and "RUN is a;b" in result.stderr and not (call.home / "gcloud.log").exists()
