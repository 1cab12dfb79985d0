"""`cloud`: the scripts of tpu_scripts/ against a gcloud, TPU VMs and a tfhf that are stand-ins, in a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"

# What a TPU VM has on its PATH. `python3 -m uv venv` makes the environment, with a tfhf that trains by counting steps
# in $CLOUD/bucket: 20 a second up to $CLOUD/steps, saved on SIGTERM, then status 75 as tfhf/preemption.py has it.
PYTHON3 = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >> "$HOME/python3.log"
if [ -e "$CLOUD/pip_hangs" ]; then exec sleep 300; fi
[ "$*" = "-m uv venv --quiet --python 3.11 .venv" ] || exit 0
mkdir -p .venv/bin
printf '#!/usr/bin/env bash\ncat > /dev/null; echo "worker is set up as $2"\n' > .venv/bin/python
cat > .venv/bin/tfhf <<'TFHF'
#!/usr/bin/env bash
printf '<%s>' "$@"; echo " ${TPU_LOAD_LIBRARY:-}"
[ "$1" = train ] || exit 0
[ -z "${EXIT_STATUS:=$(cat "$CLOUD/exit_status" 2> /dev/null)}" ] || exit "$EXIT_STATUS"
mkdir -p "$CLOUD/bucket"
step=$(cat "$CLOUD/bucket/step" 2> /dev/null || echo 0)
echo "going on from step $step"
trap 'echo "$step" > "$CLOUD/bucket/step"; echo "saved step $step"; exit 75' TERM
touch "$CLOUD/trains"   # from here on a signal is heeded
while [ "$step" -lt "$(cat "$CLOUD/steps")" ]; do sleep 0.05; step=$((step + 1)); done
echo "$step" > "$CLOUD/bucket/step"; echo finished
TFHF
chmod +x .venv/bin/*
"""
CURL = '#!/usr/bin/env bash\necho "$ACCELERATOR"\n'


class Cloud:
    """A made cloud. `call(script, ...)` runs a script to its end; `start` does not wait."""

    def __init__(self, folder: Path, repository: str):
        self.folder, self.home, self.repository = folder, folder / "home", repository
        self.ledger = self.home / ".tfhf" / "tpus"
        self.home.mkdir()
        gcloud = f'#!/usr/bin/env bash\nexec {sys.executable} -IS "{Path(__file__).parent}/gcloud_stand_in.py" "$@"\n'
        docker = '#!/usr/bin/env bash\nprintf "<%s>" "$@"\n'
        for path, text in (("bin/gcloud", gcloud), ("bin/docker", docker), ("vm-bin/python3", PYTHON3),
                           ("vm-bin/curl", CURL)):
            file = folder / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        self.steps(3)
        self.environment = {"HOME": str(self.home), "CLOUD": str(folder), "POLL_SECONDS": "0.05", "STOP_SECONDS": "0",
                            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_NOSYSTEM": "1"}

    def plan(self, *lives):
        (self.folder / "plan.json").write_text(json.dumps(lives))

    def steps(self, number):
        (self.folder / "steps").write_text(str(number))

    def start(self, script, *arguments, **environment):
        # A pytest in the background, or under nohup, would pass on that these are ignored: a shell cannot trap them
        # then.
        def heed():
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

        return subprocess.Popen([str(SCRIPTS / script), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=self.environment | environment,
                                preexec_fn=heed)

    def call(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        process.stdout_text, process.stderr_text = process.communicate(timeout=30)
        return process

    @property
    def calls(self) -> list:
        """What gcloud was asked: argument lists, without "compute tpus"."""
        log = self.folder / "calls.jsonl"
        return [json.loads(line)[2:] for line in log.read_text().splitlines()] if log.exists() else []

    def verbs(self, *without) -> list:
        """The calls as "GROUP VERB", those in `without` left out."""
        return [verb for verb in (" ".join(call[:2]) for call in self.calls) if verb.split()[1] not in without]

    def running(self) -> list:
        """The TPUs, and requests for one, that there are."""
        return sorted({file.name for kind in ("queued", "nodes") for file in (self.folder / kind).glob("*")})

    def vm(self, name="my-tpu", worker=0) -> Path:
        return self.folder / "vm" / name / str(worker)

    def wait_for(self, what, seconds=15):
        """Until what() is true."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"not within {seconds} s; calls: {self.verbs()[-5:]}"
            time.sleep(0.02)

    def close(self):
        for file in self.folder.glob("vm/*/*/runs/*.pid"):
            try:
                os.kill(int(file.read_text() or 0), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A git repository with tpu_scripts/, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("git") / "it's a repository"
    shutil.copytree(SCRIPTS, folder / "tpu_scripts")
    (folder / ".gitignore").write_text(".venv\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return str(folder)


@pytest.fixture
def cloud(tmp_path, repository):
    made = Cloud(tmp_path, repository)
    yield made
    made.close()
