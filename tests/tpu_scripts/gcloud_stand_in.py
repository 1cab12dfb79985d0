"""A gcloud for tests: queued resources and nodes are files, and what ssh is given runs in a home on this machine.

$CLOUD is its folder: calls.jsonl, what it was asked; plan.json, a list of lives, one for each queued resource that is
created, {"states": what describe answers one after the other, the last for good, "preempt": after so many ACTIVE
the node is taken away, "lags": true: of which the queued resource knows nothing; "create_fails": text; "ssh_fails",
"delete_fails": true}; vm/NAME/N, the home of worker N; ZONES and PROJECTS, if they are there, all
that there are. The flags are those of Google Cloud SDK 528; others are refused.
"""

import json
import os
import pathlib
import signal
import sys
import time

HERE = CLOUD = pathlib.Path(os.environ["CLOUD"])
PROJECT, ZONE = "my-project", "europe-west4-a"   # those of $CLOUD itself; others have folders in it
EVERYWHERE = {"--zone", "--project", "--quiet", "--no-user-output-enabled"}
FLAGS = {
    ("queued-resources", "create"): {"--node-id", "--accelerator-type", "--runtime-version", "--spot", "--labels",
                                     "--valid-until-duration", "--internal-ips", "--service-account"},
    ("queued-resources", "describe"): {"--format"},
    ("queued-resources", "delete"): {"--force"},
    ("tpu-vm", "create"): {"--accelerator-type", "--version", "--spot", "--labels", "--internal-ips"},
    ("tpu-vm", "describe"): {"--format"},
    ("tpu-vm", "delete"): set(),
    ("queued-resources", "list"): {"--format"},
    ("tpu-vm", "list"): {"--format"},
    ("tpu-vm", "ssh"): {"--worker", "--ssh-flag", "--command"},
}
BARE = {"--quiet", "--no-user-output-enabled", "--spot", "--force", "--internal-ips"}


def fail(text, status=1):
    print(f"ERROR: (gcloud.compute.tpus) {text}", file=sys.stderr)
    sys.exit(status)


def parse(words):
    """["compute", "tpus", GROUP, VERB, ...] -> (group, verb, name, {flag: value})."""
    known = FLAGS.get(tuple(words[2:4]))
    if words[:2] != ["compute", "tpus"] or known is None:
        fail(f"Invalid choice: {words}", 2)
    names, flags, rest = [], {}, list(words[4:])
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            names.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in known | EVERYWHERE:
            fail(f"unrecognized arguments: {word}", 2)
        flags[flag] = True if flag in BARE else value if equals else rest.pop(0)
    if len(names) != (words[3] != "list") or "--zone" not in flags:
        fail(f"expected one name and --zone, got {words}", 2)
    return words[2], words[3], names[0] if names else "", flags


def enter(flags):
    """Into the folder of a project and zone. A mistake in one is told without the name of a TPU."""
    global CLOUD
    project, zone = flags.get("--project", PROJECT), flags["--zone"]
    for kind, name in (("PROJECTS", project), ("ZONES", zone)):
        known = HERE / kind
        if known.exists() and name not in known.read_text().split():
            fail(f"NOT_FOUND: {kind.title()[:-1]} '{name}' was not found or deleted")
    if (project, zone) != (PROJECT, ZONE):
        CLOUD = HERE / "elsewhere" / project.replace("/", "_") / zone.replace("/", "_")
        CLOUD.mkdir(parents=True, exist_ok=True)


def load(path):
    return json.loads(path.read_text()) if path.exists() else None


def save(path, what):
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = HERE / f".{path.name}.{os.getpid()}"   # another process never sees half of it
    beside.write_text(json.dumps(what))
    beside.replace(path)


def start_node(name, accelerator):
    chips = int(accelerator.split("-")[1])
    for worker in range(max(1, chips // 8)):
        (CLOUD / "vm" / name / str(worker)).mkdir(parents=True)
    save(CLOUD / "nodes" / name, {"state": "READY", "type": accelerator})


def end_node(name):
    """SIGTERM to what runs there, as at a shutdown; then nothing of it is left."""
    for file in (CLOUD / "vm" / name).glob("*/runs/*.pid"):
        pid = int(file.read_text())
        for number in [signal.SIGTERM] + [0] * 100 + [signal.SIGKILL]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            time.sleep(0.02)
    time.sleep(0.05)   # the shell around the run writes its status
    import shutil  # here, and subprocess below: this starts hundreds of times

    shutil.rmtree(CLOUD / "vm" / name, ignore_errors=True)


def queued_state(name):
    """The next state in the plan of a queued resource, and what happens with it."""
    file = CLOUD / "queued" / name
    queued = load(file)
    if queued is None:
        fail(f"NOT_FOUND: Resource 'projects/{PROJECT}/queuedResources/{name}' was not found")
    state = queued["states"].pop(0) if len(queued["states"]) > 1 else queued["states"][0]
    node = load(CLOUD / "nodes" / name)
    if state == "ACTIVE" and node is None:
        start_node(name, queued["type"])
    elif state == "ACTIVE" and queued.get("preempt"):
        queued["preempt"] -= 1
        if queued["preempt"] == 0:
            end_node(name)
            save(CLOUD / "nodes" / name, {**node, "state": "PREEMPTED"})
            queued["states"] = ["ACTIVE"] if queued.get("lags") else ["SUSPENDING", "SUSPENDED"]
    save(file, queued)
    return state


def ssh(name, flags):
    import subprocess

    node = load(CLOUD / "nodes" / name)
    if node is None or node["state"] != "READY":
        fail(f"TPU {name} is not READY", 255)
    if "ssh_fails" in (load(CLOUD / "queued" / name) or {}):
        fail("Connection timed out", 255)
    homes = sorted((CLOUD / "vm" / name).iterdir())
    worst = 0
    for home in homes if flags["--worker"] == "all" else [homes[int(flags["--worker"])]]:
        environment = {"HOME": str(home), "PATH": f"{HERE / 'vm-bin'}{os.pathsep}{os.environ['PATH']}",
                       "CLOUD": str(HERE), "ACCELERATOR": node["type"], "STOP_SECONDS": "5"}
        group = []

        def hang_up(number, frame, group=group):
            for process in group:
                os.killpg(process, signal.SIGKILL)
            os._exit(255)

        signal.signal(signal.SIGTERM, hang_up)   # before anything is said that somebody may answer with a signal
        remote = subprocess.Popen(["bash", "-c", flags["--command"]], env=environment, cwd=home, start_new_session=True)
        group.append(remote.pid)
        worst = max(worst, remote.wait())
    sys.exit(worst)


def main(words):
    if words == ["config", "get-value", "project"]:
        print(PROJECT)
        return
    with open(CLOUD / "calls.jsonl", "a") as log:
        log.write(json.dumps(words) + "\n")
    group, verb, name, flags = parse(words)
    enter(flags)
    queued, node = CLOUD / "queued" / name, CLOUD / "nodes" / name
    place = queued if group == "queued-resources" else node
    if verb == "create":
        if place.exists():
            fail(f"ALREADY_EXISTS: {name}")
        plan = load(CLOUD / "plan.json") or [{}]
        life = plan.pop(0)
        save(CLOUD / "plan.json", plan)
        if "create_fails" in life:
            fail(life["create_fails"])
        if group == "tpu-vm":
            start_node(name, flags["--accelerator-type"])
        else:
            save(queued, {"states": ["ACTIVE"], "type": flags["--accelerator-type"], **life})
    elif verb == "describe":
        if group == "queued-resources":
            state = queued_state(name)
        elif node.exists():
            state = load(node)["state"]
        else:
            fail(f"NOT_FOUND: Resource 'projects/{PROJECT}/nodes/{name}' was not found")
        if "ipAddress" in flags["--format"]:
            print(";".join(f"10.0.0.{2 + worker}" for worker, _ in enumerate((CLOUD / "vm" / name).iterdir())))
        else:
            print(f"state: {state}" if "yaml" in flags["--format"] else state)
    elif verb == "list":
        print(*sorted(file.name for file in place.glob("*")), sep="\n")
    elif verb == "delete":
        if not place.exists():
            fail(f"NOT_FOUND: {name} was not found")
        if (load(queued) or {}).get("delete_fails"):
            fail("INTERNAL: try again")
        place.unlink()
        if node.exists() and "--force" in flags:
            node.unlink()
        end_node(name)
    else:
        ssh(name, flags)


main(sys.argv[1:])
