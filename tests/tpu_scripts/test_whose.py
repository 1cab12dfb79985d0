"""Whose TPU it is: one name in several zones and projects, TPUs of other people, stopped ones, and two watchers."""

import json
import signal
import time

import pytest

from tests.tpu_scripts.test_life import CAPS, WAITING, entry, resume

ZONE, OTHER = "europe-west4-a", "us-central1-a"


def names(cloud):
    return sorted(file.name for file in cloud.ledger.iterdir())


def set_state(cloud, state, name="my-tpu"):
    node = cloud.folder / "nodes" / name
    node.write_text(json.dumps({**json.loads(node.read_text()), "state": state}))


def work(cloud):
    """Something of its owner on the TPU."""
    file = cloud.vm() / "my-work.txt"
    file.write_text("weeks of work")
    return file


@pytest.mark.parametrize("elsewhere", [{"ZONE": OTHER}, {"PROJECT": "other"}, {"ZONE": OTHER, "PROJECT": "other"}])
def test_one_name_in_two_places(cloud, elsewhere):
    zone, project = elsewhere.get("ZONE", ZONE), elsewhere.get("PROJECT", "my-project")
    assert cloud.call("create.sh", "--now", "my-tpu").returncode == 0
    assert cloud.call("create.sh", "--now", "my-tpu", **elsewhere).returncode == 0
    assert names(cloud) == sorted([entry(cloud).name, entry(cloud, zone=zone, project=project).name])
    result = cloud.call("delete.sh", "--yes", "my-tpu", **elsewhere)
    assert result.returncode == 0 and f"in {zone} of project {project} is deleted" in result.stdout_text
    assert names(cloud) == [entry(cloud).name] and cloud.running() == ["my-tpu"]
    # Once more there: what runs elsewhere is named, and is left alone.
    result = cloud.call("delete.sh", "--yes", "my-tpu", **elsewhere)
    assert result.returncode == 1 and "maybe running" in result.stderr_text and entry(cloud).name in result.stderr_text
    assert "nothing to delete" not in result.stdout_text + result.stderr_text and cloud.running() == ["my-tpu"]


@pytest.mark.parametrize("kind, wrong", [("PROJECTS", {"PROJECT": "typo"}), ("ZONES", {"ZONE": "europe-west4-z"})])
def test_what_cannot_be_seen_is_not_called_gone(cloud, kind, wrong):
    (cloud.folder / kind).write_text(f"my-project {ZONE}")
    cloud.call("create.sh", "--now", "my-tpu")
    result = cloud.call("delete.sh", "--yes", "my-tpu", **wrong)
    assert result.returncode == 1 and "cannot be seen" in result.stderr_text and entry(cloud).name in result.stderr_text
    assert "nothing to delete" not in result.stdout_text and entry(cloud).exists() and cloud.running() == ["my-tpu"]


@pytest.mark.parametrize("answer", ["NOT_FOUND: Resource was not found", "PERMISSION_DENIED: tpu.nodes.get on my-tpu",
                                    "NOT_FOUND: Requested entity was not found.", "You do not have an active account",
                                    "NOT_FOUND: Resource 'projects/p/nodes/my-tpu-2' was not found"])
def test_no_clear_answer_removes_nothing(cloud, answer):
    cloud.call("create.sh", "--now", "my-tpu")
    (cloud.folder / "bin" / "gcloud").write_text(f'#!/usr/bin/env bash\necho "ERROR: (gcloud) {answer}" >&2; exit 1\n')
    result = cloud.call("delete.sh", "--yes", "my-tpu")
    assert result.returncode == 1 and answer in result.stderr_text and "may be running" in result.stderr_text
    assert entry(cloud).exists() and "nothing to delete" not in result.stdout_text


def test_a_list_without_it_is_a_clear_answer(cloud):
    """Should Google no longer name what it does not find."""
    gcloud = cloud.folder / "bin" / "gcloud"
    real = gcloud.rename(cloud.folder / "bin" / "real")
    gcloud.write_text(f'#!/usr/bin/env bash\ncase " $* " in *" describe "*) "{real}" "$@" 2> /dev/null && exit; '
                      f'echo "NOT_FOUND: Requested entity" >&2; exit 1 ;; esac\nexec "{real}" "$@"\n')
    gcloud.chmod(0o755)
    cloud.call("create.sh", "--now", "my-tpu")
    assert cloud.call("delete.sh", "--yes", "my-tpu").returncode == 0 and not cloud.running() and not names(cloud)
    result = cloud.call("delete.sh", "--yes", "my-tpu")
    assert result.returncode == 0 and f"there is no my-tpu in {ZONE} of project my-project" in result.stdout_text


def test_an_entry_stays_until_the_tpu_is_seen_to_be_gone(cloud):
    cloud.call("create.sh", "my-tpu")
    gcloud = cloud.folder / "bin" / "gcloud"
    real = gcloud.rename(cloud.folder / "bin" / "real")
    gcloud.write_text(f'#!/usr/bin/env bash\ncase " $* " in *" delete "*) exit 0 ;; esac\nexec "{real}" "$@"\n')
    gcloud.chmod(0o755)   # it says that it deleted
    result = cloud.call("delete.sh", "--yes", "my-tpu")
    assert result.returncode == 1 and "was to be deleted, and is" in result.stderr_text and entry(cloud).exists()


def test_an_entry_of_the_older_form(cloud):
    def old(project, zone=ZONE):
        cloud.ledger.mkdir(parents=True, exist_ok=True)
        file = cloud.ledger / "my-tpu.txt"
        file.write_text(f"asked for: my-tpu, v3-8, {zone}, project {project}, 2026-11-21T10:00:00Z\ndelete: x\n")
        return file

    file = old("my-project")
    assert cloud.call("delete.sh", "--yes", "my-tpu").returncode == 0 and not file.exists()
    for project, zone in (("of gcloud", ZONE), ("other", ZONE), ("my-project", OTHER)):
        file = old(project, zone)
        result = cloud.call("delete.sh", "--yes", "my-tpu")
        assert result.returncode == 1 and str(file) in result.stderr_text and file.exists()
    file = old("of gcloud")
    cloud.call("create.sh", "--now", "my-tpu")
    assert cloud.call("delete.sh", "--yes", "my-tpu").returncode == 0 and not file.exists() and not names(cloud)


def test_a_bill_of_the_older_form_goes_on(cloud):
    cloud.steps(10_000)
    process = resume(cloud)
    cloud.wait_for(lambda: list(cloud.folder.glob("vm/my-tpu/0/runs/hindi.pid")))
    process.kill()
    process.wait()
    bill = cloud.ledger / f"my-tpu@{ZONE}@my-project@hindi.bill"
    text = bill.read_text()
    for file in cloud.ledger.iterdir():
        file.unlink()
    (cloud.ledger / "my-tpu.hindi.bill").write_text(text)
    (cloud.ledger / "my-tpu.txt").write_text(f"asked for: my-tpu, v3-8, {ZONE}, project of gcloud, 2026\ndelete: x\n")
    cloud.steps(1)
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "goes on counting from" in out and "finished" in out, err
    assert not cloud.running() and not names(cloud) and [call[1] for call in cloud.calls].count("create") == 1


@pytest.mark.parametrize("state", ["READY", "STOPPED", "PREEMPTED", "CREATING"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_tpu_that_it_did_not_create_is_left_alone(cloud, state, listed):
    cloud.call("create.sh", "--now", "my-tpu")
    if not listed:
        entry(cloud).unlink()
    file = work(cloud)
    set_state(cloud, state)
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "this script did not create" in err and "--take-over" in err
    assert file.exists() and cloud.verbs("describe") == ["tpu-vm create"] and entry(cloud).exists() == listed


def test_one_that_comes_in_between_is_left_alone(cloud):
    gcloud = cloud.folder / "bin" / "gcloud"
    real = gcloud.rename(cloud.folder / "bin" / "real")
    gcloud.write_text(f'#!/usr/bin/env bash\ncase " $* " in *" create "*) "{real}" "$@"; echo "ERROR: ALREADY_EXISTS: '
                      f'my-tpu" >&2; exit 1 ;; esac\nexec "{real}" "$@"\n')
    gcloud.chmod(0o755)
    for start in (resume, lambda cloud: cloud.start("create.sh", "my-tpu")):
        process = start(cloud)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1 and "is in europe-west4-a already" in err
        assert cloud.running() == ["my-tpu"] and not entry(cloud).exists()


def test_asked_to_it_takes_over(cloud):
    cloud.call("create.sh", "--now", "my-tpu")
    process = resume(cloud, *CAPS, "--take-over")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "finished" in out and not cloud.running() and not names(cloud), err
    assert [call[1] for call in cloud.calls].count("create") == 1


def test_a_stopped_one_of_its_own_is_left_unless_asked(cloud):
    cloud.steps(10_000)
    process = resume(cloud)
    cloud.wait_for(lambda: list(cloud.folder.glob("vm/my-tpu/0/runs/hindi.pid")))
    file = work(cloud)
    set_state(cloud, "STOPPED")   # by its owner, in the middle
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "was stopped by somebody and is left as it is" in out, err
    assert file.exists() and entry(cloud).exists() and "delete" not in [call[1] for call in cloud.calls]
    cloud.steps(1)
    process = resume(cloud, *CAPS, "--replace-stopped")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "my-tpu: STOPPED; deleted" in out and not cloud.running(), err


def test_two_watchers_exclude_each_other(cloud):
    cloud.plan(WAITING)
    first = resume(cloud)
    cloud.wait_for(lambda: cloud.verbs().count("queued-resources create") == 1)
    second = cloud.start("resume.sh", *CAPS, "my-tpu", "other", cloud.repository, "train", "whisper")
    elsewhere = cloud.start("resume.sh", *CAPS, "my-tpu", "hindi", cloud.repository, "train", "whisper", ZONE=OTHER)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 1 and f"is watched already, by process {first.pid} on" in err and "hindi" in err
    assert elsewhere.communicate(timeout=60) and elsewhere.returncode == 0   # another TPU
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.5)   # until the gcloud that it had started has ended, which would write the old state once more
    queued = cloud.folder / "queued" / "my-tpu"
    queued.write_text(queued.read_text().replace("WAITING_FOR_RESOURCES", "ACTIVE"))
    process = resume(cloud)   # the lock is gone with its holder
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "finished" in out and not names(cloud), err
