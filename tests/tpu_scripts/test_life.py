"""The life of a TPU against the stand-in: created, set up, run, taken away, resumed, capped, killed, deleted."""

import shlex
import signal
import subprocess
import time

import pytest

WAITING = {"states": ["WAITING_FOR_RESOURCES"]}
CAPS = ("--hours", "1", "--price", "2", "--money", "2")


def resume(cloud, *options, **environment):
    return cloud.start("resume.sh", *(options or CAPS), "my-tpu", "hindi", cloud.repository, "train", "whisper",
                       **environment)


def entry(cloud, name="my-tpu", zone="europe-west4-a", project="my-project"):
    """The file of a TPU in the ledger."""
    return cloud.ledger / f"{name}@{zone}@{project}.txt"


def check_named(cloud, text, name="my-tpu"):
    """What may be running is named with the command that deletes it, there and in the ledger; that command does it."""
    assert f"{name} in europe-west4-a may be running" in text
    line = entry(cloud, name).read_text().splitlines()[-1].removeprefix("delete:").strip()
    assert line in text
    check_deleted_by(cloud, line, name)


def check_deleted_by(cloud, line, name="my-tpu"):
    done = subprocess.run(["bash", "-c", line], env=cloud.environment, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0 and not cloud.running(), done.stderr
    assert not entry(cloud, name).exists()


def test_create_waits_and_tells(cloud):
    cloud.plan({"states": ["CREATING", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]})
    result = cloud.call("create.sh", "--spot", "my-tpu", "--internal-ips")
    assert result.returncode == 0, result.stderr_text
    states = [line.split()[1] for line in result.stdout_text.splitlines()[:-1]]
    assert states == ["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert "costs money until it is deleted" in result.stdout_text and "delete.sh --yes my-tpu" in result.stdout_text
    words = cloud.calls[0]
    assert {"--spot", "--internal-ips", "86400s"} <= set(words) and words[words.index("--node-id") + 1] == "my-tpu"
    assert "v3-8" in entry(cloud).read_text()


def test_create_now_and_delete(cloud):
    assert cloud.call("create.sh", "--now", "my-tpu").returncode == 0
    assert cloud.verbs("describe") == ["tpu-vm create"]
    assert cloud.call("delete.sh", "--yes", "my-tpu").returncode == 0 and not cloud.running()
    result = cloud.call("delete.sh", "--yes", "my-tpu")
    assert result.returncode == 0 and "nothing to delete" in result.stdout_text
    assert cloud.verbs("describe") == ["tpu-vm create", "tpu-vm delete"]


def test_create_that_is_refused_leaves_nothing(cloud):
    cloud.plan({"create_fails": "RESOURCE_EXHAUSTED: Quota 'TPUV3sPreemptiblePerProjectPerZone' exceeded"})
    result = cloud.call("create.sh", "my-tpu")
    assert result.returncode == 1 and "Quota" in result.stderr_text and "nothing is left" in result.stderr_text
    assert "may be running" not in result.stderr_text and not list(cloud.ledger.iterdir())


def test_create_whose_request_fails_is_named(cloud):
    cloud.plan({"states": ["WAITING_FOR_RESOURCES", "FAILED"]})
    result = cloud.call("create.sh", "my-tpu")
    assert result.returncode == 1 and "my-tpu: FAILED" in result.stdout_text and "state: FAILED" in result.stderr_text
    check_named(cloud, result.stderr_text)


def test_create_gives_up_at_its_cap_and_deletes_the_request(cloud):
    cloud.plan({"states": ["WAITING_FOR_RESOURCES"]})
    result = cloud.call("create.sh", "--wait-hours", "0.0003", "my-tpu")
    assert result.returncode == 1 and "not there after 0.0003 h" in result.stderr_text
    assert not cloud.running() and cloud.verbs("describe")[-1] == "queued-resources delete"


def test_gcloud_that_does_not_answer_is_not_read_as_gone(cloud):
    cloud.call("create.sh", "my-tpu")
    (cloud.folder / "bin" / "gcloud").write_text("#!/usr/bin/env bash\necho 'ERROR: UNAVAILABLE' >&2; exit 1\n")
    result = cloud.call("delete.sh", "--yes", "my-tpu")
    assert result.returncode == 1 and "UNAVAILABLE" in result.stderr_text and "may be running" in result.stderr_text
    assert entry(cloud).exists()


def test_a_whole_life_script_by_script(cloud):
    cloud.plan({"states": ["WAITING_FOR_RESOURCES", "ACTIVE"]})
    words = ["train", "data.path=gs://b/a b", "it's", 'a "quote" $HOME', "", "line\nbreak"]
    assert cloud.call("create.sh", "my-tpu").returncode == 0
    result = cloud.call("setup.sh", "my-tpu", cloud.repository)
    assert result.returncode == 0 and "worker is set up" in result.stdout_text, result.stderr_text
    asked = (cloud.vm() / "python3.log").read_text()
    assert "constraints/v3.txt --editable .[hf] tensorflow-tpu libtpu" in asked
    assert "--no-deps tensorflow-text" in asked
    result = cloud.call("run.sh", "my-tpu", "hindi", *words)
    assert result.returncode == 0 and result.stdout_text.startswith("hindi: "), result.stderr_text
    log, status = cloud.vm() / "runs" / "hindi.log", cloud.vm() / "runs" / "hindi.status"
    cloud.wait_for(status.exists)
    assert "".join(f"<{word}>" for word in words) in log.read_text() and status.read_text() == "0\n"
    # Once more, with the same words, from where it was.
    cloud.steps(6)
    status.unlink()
    assert cloud.call("run.sh", "my-tpu", "hindi").returncode == 0
    cloud.wait_for(status.exists)
    assert log.read_text().count("".join(f"<{word}>" for word in words)) == 2 and "from step 3" in log.read_text()
    result = cloud.call("run.sh", "my-tpu", "other")
    assert result.returncode == 1 and "no run other" in result.stderr_text
    assert cloud.call("delete.sh", "--yes", "my-tpu").returncode == 0
    assert cloud.verbs("describe") == ["queued-resources create", *["tpu-vm ssh"] * 4, "queued-resources delete"]
    assert not cloud.running() and not list(cloud.ledger.iterdir())


def test_a_run_that_runs_is_not_started_twice(cloud):
    cloud.steps(10_000)
    cloud.call("create.sh", "my-tpu")
    cloud.call("setup.sh", "my-tpu", cloud.repository)
    assert "running" in cloud.call("run.sh", "my-tpu", "hindi", "train").stdout_text
    result = cloud.call("run.sh", "my-tpu", "hindi", "train", "more")
    assert result.returncode == 1 and "is running" in result.stderr_text


def test_a_pod_is_set_up_on_all_workers_and_driven_by_the_first(cloud):
    cloud.call("create.sh", "--type", "v3-32", "my-pod")
    assert cloud.call("setup.sh", "my-pod", cloud.repository).stdout_text.count("worker is set up") == 4
    assert cloud.call("run.sh", "my-pod", "hindi", "train", "whisper", "--strategy", "tpu:my-pod").returncode == 0
    assert not list(cloud.folder.glob("vm/my-pod/[123]/runs/*"))
    log = cloud.vm("my-pod") / "runs" / "hindi.log"
    cloud.wait_for(lambda: "finished" in log.read_text())
    assert "<tpu:my-pod> 0\n" in log.read_text(), "TPU_LOAD_LIBRARY=0: the workers' servers hold the chips"
    assert cloud.call("run.sh", "--worker", "all", "my-pod", "look", "doctor").returncode == 0
    assert len(list(cloud.folder.glob("vm/my-pod/*/runs/look.log"))) == 4


def test_input_servers_on_every_host_of_a_pod(cloud):
    cloud.call("create.sh", "--type", "v3-32", "my-pod")
    result = cloud.call("input.sh", "--port", "6000", "my-pod")
    assert result.returncode != 0 and "input_servers" not in result.stdout_text   # not set up yet
    cloud.call("setup.sh", "my-pod", cloud.repository)
    result = cloud.call("input.sh", "--port", "6000", "my-pod")
    assert result.returncode == 0, result.stderr_text
    assert result.stdout_text.splitlines()[-1] == (
        "input_servers=10.0.0.2:6000,10.0.0.3:6000,10.0.0.4:6000,10.0.0.5:6000")
    for worker in range(4):
        log = cloud.folder / "vm" / "my-pod" / str(worker) / "runs" / "input.log"
        words = f"<data><serve><--port><6000><--host><10.0.0.{2 + worker}> 0\n"   # 0: the chips are not its own
        cloud.wait_for(lambda: words in log.read_text())


def test_setup_of_the_newer_generations_installs_jax(cloud):
    cloud.call("create.sh", "--type", "v5e-8", "my-tpu")
    cloud.call("setup.sh", "my-tpu", cloud.repository)
    assert "constraints/v5e.txt --editable .[hf] tensorflow-cpu jax jaxlib libtpu" in (
        cloud.vm() / "python3.log").read_text()


def test_setup_that_cannot_read_the_repository(cloud):
    cloud.call("create.sh", "my-tpu")
    result = cloud.call("setup.sh", "my-tpu", str(cloud.folder / "nowhere"))
    assert result.returncode != 0 and "nowhere" in result.stderr_text
    result = cloud.call("setup.sh", "--ref", "no-such-branch", "my-tpu", cloud.repository)
    assert result.returncode != 0 and "no-such-branch" in result.stderr_text


def test_logs_follow_the_run(cloud):
    cloud.call("create.sh", "my-tpu")
    (cloud.vm() / "runs").mkdir()
    (cloud.vm() / "runs" / "hindi.log").write_text("".join(f"step {step}\n" for step in range(9)))
    process = cloud.start("logs.sh", "--lines", "2", "my-tpu", "hindi", POLL_SECONDS="60")
    assert [process.stdout.readline(), process.stdout.readline()] == ["step 7\n", "step 8\n"]
    with open(cloud.vm() / "runs" / "hindi.log", "a") as log:
        log.write("step 9\n")
    assert process.stdout.readline() == "step 9\n"
    process.terminate()
    assert process.wait(timeout=10) == 255, "the connection is gone with the script"


def test_preempted_twice_resumed_and_finished(cloud):
    cloud.steps(10_000)
    cloud.plan({"states": ["WAITING_FOR_RESOURCES", "ACTIVE"], "preempt": 4}, {"preempt": 4, "lags": True}, {})
    process = resume(cloud)
    cloud.wait_for(lambda: cloud.verbs().count("queued-resources create") == 3, seconds=40)
    cloud.steps(1)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out.count("SUSPEND") >= 2 and "hindi: finished" in out and "hindi: my-tpu was there for" in out
    creations = [call for call in cloud.calls if call[1] == "create"]
    assert len(creations) == 3 and all("--spot" in call for call in creations)
    assert cloud.verbs("describe", "ssh") == ["queued-resources create", "queued-resources delete"] * 3
    assert int(out.partition("going on from step ")[2].split()[0]) > 0, "from its checkpoint"
    assert not cloud.running() and not list(cloud.ledger.iterdir())


def test_a_run_that_left_with_75_goes_on_where_it_is(cloud):
    cloud.steps(100)
    process = resume(cloud)
    pid = cloud.vm() / "runs" / "hindi.pid"
    cloud.wait_for(lambda: pid.exists() and pid.read_text() and (cloud.folder / "trains").exists())
    subprocess.run(["kill", "-TERM", pid.read_text().strip()], check=True)
    cloud.wait_for(lambda: (cloud.folder / "bucket" / "step").exists())
    cloud.steps(1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "exited 75; it goes on" in out, err
    assert [call[1] for call in cloud.calls].count("create") == 1


def test_a_run_that_fails_ends_the_loop_and_the_tpu(cloud):
    (cloud.folder / "exit_status").write_text("2")
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "exited 2: it failed" in out and "<train><whisper>" in out, err
    assert not cloud.running() and [call[1] for call in cloud.calls].count("create") == 1


def test_a_tpu_that_cannot_be_deleted_is_named(cloud):
    cloud.plan({"delete_fails": True})
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "hindi: finished" in out and "try 3 of 3" in err
    queued = cloud.folder / "queued" / "my-tpu"
    queued.write_text(queued.read_text().replace("delete_fails", "deletes"))
    check_named(cloud, err)


def test_a_tpu_that_ssh_cannot_reach_is_replaced(cloud):
    cloud.plan({"ssh_fails": True}, {})
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "could not be started, 3 times" in out and not cloud.running(), err


def test_a_request_that_fails_again_and_again_is_given_up(cloud):
    cloud.plan(*[{"states": ["FAILED"]}] * 5)
    process = resume(cloud)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "failed 3 times" in out and not cloud.running(), err


def test_a_set_up_that_hangs_does_not_outlast_the_cap(cloud):
    (cloud.folder / "pip_hangs").touch()
    process = resume(cloud, "--hours", "0.0006", "--price", "2", "--money", "100")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "stopped by --hours 0.0006" in out and not cloud.running(), err


@pytest.mark.parametrize("caps, cap", [
    (("--hours", "1", "--price", "2", "--money", "100"), "--hours 1"),
    (("--hours", "9", "--price", "3600", "--money", "3000"), "--money 3000 at 3600 an hour"),
])
def test_caps_are_kept(cloud, caps, cap):
    cloud.steps(10_000)
    process = resume(cloud)
    cloud.wait_for(lambda: list(cloud.folder.glob("vm/my-tpu/0/runs/hindi.pid")))
    time.sleep(0.3)
    process.kill()
    process.wait()
    # As if it had run for most of an hour: so much that STOP_SECONDS before the cap is two seconds from now.
    ago = int(time.time()) - (3600 if cap == "--hours 1" else 3000) + 10 + 2
    bill = cloud.ledger / "my-tpu@europe-west4-a@my-project@hindi.bill"
    bill.write_text(f"begun {ago}\nasked {ago}\nup {ago}\n")
    process = resume(cloud, *caps, STOP_SECONDS="10")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 75 and f"stopped by {cap}" in out and not cloud.running(), err
    assert int((cloud.folder / "bucket" / "step").read_text()) > 0, "it was told to save before the TPU was deleted"
    down = int(bill.read_text().split()[-1])
    assert 0 < down - ago < (3600 if cap == "--hours 1" else 3000), "within the cap"
    # The same command with the same cap asks for nothing; with more it goes on to the end.
    asked = len(cloud.calls)
    assert resume(cloud, *caps, STOP_SECONDS="10").wait(timeout=30) == 75
    assert "create" not in [call[1] for call in cloud.calls[asked:]]
    cloud.steps(1)
    assert resume(cloud, "--hours", "2", "--price", "2", "--money", "100").wait(timeout=30) == 0 and not cloud.running()


def test_a_tpu_that_came_while_nobody_watched_counts_from_its_request(cloud):
    cloud.steps(10_000)
    cloud.plan(WAITING)
    process = resume(cloud)
    cloud.wait_for(lambda: cloud.verbs().count("queued-resources describe") > 1)
    process.kill()
    process.wait()
    bill = cloud.ledger / "my-tpu@europe-west4-a@my-project@hindi.bill"
    begun = int(bill.read_text().split()[1])
    bill.write_text(f"begun {begun - 900}\nasked {begun - 800}\n")
    queued = cloud.folder / "queued" / "my-tpu"
    queued.write_text(queued.read_text().replace("WAITING_FOR_RESOURCES", "ACTIVE"))
    process = resume(cloud, "--hours", "1", "--price", "3600", "--money", "790")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 75 and "stopped by --money 790" in out and not cloud.running(), err


def test_the_time_in_the_queue_counts_for_hours_only(cloud):
    cloud.plan({"states": ["WAITING_FOR_RESOURCES"]})
    process = resume(cloud, "--hours", "0.0008", "--price", "1000000", "--money", "300")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 75 and "stopped by --hours" in out and "0.00 at 1000000" in out, err
    assert not cloud.running()


def test_keep_leaves_the_tpu_and_says_so(cloud):
    process = resume(cloud, *CAPS, "--keep")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "my-tpu is kept, and costs money until it is deleted" in out, err
    assert cloud.running() == ["my-tpu"]
    check_deleted_by(cloud, entry(cloud).read_text().splitlines()[-1].removeprefix("delete:"))


POINTS = {   # where a script is when it is killed: the plan, and what shows that it is there
    "in the queue": (WAITING, lambda cloud: cloud.verbs().count("queued-resources describe") > 2),
    "setting up": ({}, lambda cloud: "tpu-vm ssh" in cloud.verbs()),
    "running": ({}, lambda cloud: list(cloud.folder.glob("vm/my-tpu/0/runs/hindi.pid"))),
    "taken away": ({"preempt": 4}, lambda cloud: cloud.verbs().count("queued-resources create") == 2),
}


@pytest.mark.parametrize("number, point", [
    *((signal.SIGKILL, point) for point in POINTS),
    (signal.SIGTERM, "in the queue"), (signal.SIGTERM, "setting up"), (signal.SIGTERM, "running"),
    (signal.SIGINT, "running"),
])
def test_killed_in_the_middle_it_leaves_nothing_without_a_name(cloud, number, point):
    plan, reached = POINTS[point]
    cloud.plan(plan, WAITING)
    cloud.steps(10_000)
    process = resume(cloud)
    cloud.wait_for(lambda: reached(cloud))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
    if number == signal.SIGKILL:
        text = entry(cloud).read_text()   # all that is left to tell
        check_deleted_by(cloud, text.splitlines()[-1].removeprefix("delete:"))
    else:
        check_named(cloud, err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_create_killed_while_it_waits(cloud, number):
    cloud.plan(WAITING)
    process = cloud.start("create.sh", "my-tpu", POLL_SECONDS="60")
    cloud.wait_for(lambda: len(cloud.calls) >= 2)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number and time.monotonic() - begin < 5, "a signal ends the wait at once"
    check_named(cloud, err)


def test_a_killed_resume_is_taken_up_by_the_same_command(cloud):
    cloud.steps(10_000)
    process = resume(cloud)
    cloud.wait_for(lambda: list(cloud.folder.glob("vm/my-tpu/0/runs/hindi.pid")))
    time.sleep(0.3)
    process.kill()
    process.wait()
    pid = (cloud.vm() / "runs" / "hindi.pid").read_text()
    process = resume(cloud)
    assert f"hindi: running {pid.strip()}" in process.stdout.readline()
    cloud.steps(1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "finished" in out, err
    assert [call[1] for call in cloud.calls].count("create") == 1
    assert shlex.split((cloud.folder / "bucket" / "step").read_text())
