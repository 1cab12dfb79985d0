"""Batches from input servers on the loopback: those of the run itself to the bit, on hosts without Python too."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests import image_toy_task, input_server, toy_task
from tfhf import run
from tfhf.data.schema import RecordError
from tfhf.input_service import Batches, InputServer, InputServiceError, batches_of, host_batches, served_batches

ROOT = Path(__file__).resolve().parent.parent


def free_ports(count):
    """The first of `count` ports in a row that are free."""
    for first in range(20000 + os.getpid() % 10000, 32000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


NO_PROXY_THERE = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """The environment names a proxy, as a company's may, which nobody should ask for a server that is near."""
    monkeypatch.delenv("no_proxy", raising=False)
    for name, address in NO_PROXY_THERE.items():
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("no_grpc_proxy", "")   # what a test adds goes with it


def start(port):
    """A server in a process of its own, ready."""
    process = subprocess.Popen([sys.executable, "-m", "tests.input_server", str(port)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, **NO_PROXY_THERE, "no_grpc_proxy": ""})
    assert process.stdout.readline() == "serving\n"
    return process


@pytest.fixture(scope="module")
def servers():
    """HOST:PORT of two servers."""
    first = free_ports(6)
    processes = [start(first), start(first + 3)]
    yield f"localhost:{first}", f"localhost:{first + 3}"
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    toy_task.write_records(folder / "records")
    return folder


def config_of(folder, **changes):
    return toy_task.run_config(folder, **{"steps": 12, **changes})


def arrays(dataset):
    return [[leaf.numpy() for leaf in tf.nest.flatten(batch)] for batch in dataset]


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        for x, y in zip(one, other, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("task_class", [toy_task.ToyTask, toy_task.BucketedToyTask])
@pytest.mark.parametrize("what", [Batches("train", True, 0, 25), Batches("train", True, 17, 6), Batches("validation")],
                         ids=["from the start", "from step 17", "evaluation"])
def test_batches_are_those_of_the_run_itself(servers, folder, task_class, what):
    name = next(name for name, found in input_server.TASKS.items() if found is task_class)
    task = task_class(toy_task.ToyConfig())
    task.name = name
    config = config_of(folder)
    expected = arrays(host_batches(task, config, what))
    for count in (1, 2):
        served = served_batches(task, dataclasses.replace(config, input_servers=servers[:count]), what)
        assert served.element_spec == host_batches(task, config, what).element_spec
        assert_same(arrays(served), expected)


def test_each_of_two_hosts_asks_its_own_server(servers, folder):
    task, config, what = toy_task.ToyTask.tiny(), config_of(folder, input_servers=servers), Batches("train", True, 3, 5)
    for host in range(2):
        assert_same(arrays(batches_of(task, config, what, 2, host)), arrays(host_batches(task, config, what, 2, host)))
    with pytest.raises(InputServiceError, match="got 2 for 3 hosts"):
        batches_of(task, config, what, 3, 0)
    with pytest.raises(InputServiceError, match="got 3, which do not divide the batch of 16"):
        batches_of(task, dataclasses.replace(config, batch_size=16, input_servers=(*servers, "x:1")), what)


def test_training_ends_with_the_same_weights(servers, tmp_path):
    image_toy_task.write_records(tmp_path / "records", 40, 9)
    results = []
    for name, changes in (("own", {}), ("served", {"input_servers": servers})):
        config = image_toy_task.run_config(tmp_path, output=str(tmp_path / name), steps=6, evaluate_every=3, **changes)
        results.append(run.train(image_toy_task.ImageTask, config))
    own, served = results
    assert own["loss"] == served["loss"] and own["eval_loss"] == served["eval_loss"]
    weights = [load_file(Path(each["checkpoint"]) / "weights.safetensors") for each in results]
    for one, other in zip(*(sorted(each) for each in weights), strict=True):   # Keras numbers its layers on
        np.testing.assert_array_equal(weights[0][one], weights[1][other])


def test_an_error_in_a_servers_pipeline_reaches_the_run(servers, folder):
    config = config_of(folder, input_servers=servers[:1], steps=40)
    with pytest.raises(RecordError, match=r"series-0-13: label \d, expected another one"):
        run.train(input_server.PythonTask, dataclasses.replace(config, output=str(folder / "wrong")))


def test_another_host_reads_them_without_python(servers, folder, monkeypatch):
    """As the other hosts of a pod: a server of TensorFlow's, in a process without our code, does the reading."""
    for name in NO_PROXY_THERE:   # TensorFlow's own cluster, which is not ours to steer round it
        monkeypatch.delenv(name)
    port = free_ports(1)
    code = f"""
        import tensorflow as tf
        server = tf.distribute.Server({{"worker": ["localhost:{port}"]}}, job_name="worker", task_index=0, start=True)
        print("up", flush=True)
        server.join()
    """
    reader = f"""
        import dataclasses, sys
        import tensorflow as tf
        from tests import input_server, test_input_service as here, toy_task
        calls, checked = [], input_server.PythonTask._checked
        input_server.PythonTask._checked = staticmethod(lambda *given: calls.append(given) or checked(*given))
        tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({{"worker": ["localhost:{port}"]}}))
        task = input_server.PythonTask(toy_task.ToyConfig())
        config = here.config_of(here.Path({str(folder)!r}), input_servers={servers!r})
        what = here.Batches("validation")
        expected = here.arrays(here.host_batches(task, config, what))
        for make in (here.served_batches, here.host_batches):
            calls.clear()
            with tf.device("/job:worker/replica:0/task:0/device:CPU:0"):   # as tf.distribute does it
                dataset = make(task, config, what).map(
                    lambda *batch: (*batch, tf.strings.split(tf.io.read_file("/proc/self/stat"))[0]))
                *found, process = zip(*here.arrays(dataset))
            here.assert_same(list(zip(*found)), expected)
            print(make.__name__, process[0].decode(), bool(calls))
    """
    host = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd="/", text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)
    try:
        assert host.stdout.readline() == "up\n"
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(reader)], cwd=ROOT, text=True, capture_output=True,
                              timeout=120)
    finally:
        host.kill()
        host.wait()
    # TensorFlow calls a host's Python functions in the process that drives it; of served batches there are none.
    assert done.stdout.splitlines() == [f"served_batches {host.pid} False", f"host_batches {host.pid} True"], (
        done.stderr[-2000:])


def test_what_cannot_be_served_is_told(servers, folder, tmp_path):
    task, what = toy_task.ToyTask.tiny(), Batches("train", True, 0, 4)
    begin = time.monotonic()
    with pytest.raises(InputServiceError, match=r"localhost:9: .*expected `tfhf data serve` to run there"):
        batches_of(task, config_of(folder, input_servers=("localhost:9",)), what)
    assert time.monotonic() - begin < 10
    with pytest.raises(InputServiceError, match=f"input server {servers[0]}: unknown task 'elsewhere'"):
        task.name = "elsewhere"
        batches_of(task, config_of(folder, input_servers=servers[:1]), what)


def test_a_server_refuses_other_records_and_versions(folder):
    server = object.__new__(InputServer)   # without its ports
    server._load_task, server._records = input_server.load_task, []
    config = config_of(folder, input_servers=("a:1",))
    request = {"task": "toy", "config": json.loads(json.dumps(config.to_dict())), "host_index": 0,
               "batches": Batches("train", True, 0, 4).to_dict(), "records": {}, "versions": {"tfhf": "0.0"}}
    with pytest.raises(InputServiceError, match="got a run with {'tfhf': '0.0'}, expected"):
        server.prepare(request)
    with pytest.raises(InputServiceError, match="the records here are .*, those of the run {}; expected the same"):
        server.prepare(request | {"versions": {"tfhf": run._versions()["tfhf"], "tensorflow": tf.__version__}})


def test_a_taken_port_is_told():
    port = free_ports(3)
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        with pytest.raises(InputServiceError, match=f"the ports {port} to {port + 2} cannot be had"):
            InputServer(input_server.load_task, port, "localhost")


def reading_run(folder, port, lost_s):
    """A process that reads slowly, watched; -> Popen that has begun."""
    code = f"""
        import time
        from tests import test_input_service as here, toy_task
        from tfhf.input_service import watched
        config = here.config_of(here.Path({str(folder)!r}), input_servers=("localhost:{port}",))
        try:
            with watched(config.input_servers, {lost_s}):
                for number, batch in enumerate(here.served_batches(
                        toy_task.ToyTask.tiny(), config, here.Batches("train", True, 0, 100_000))):
                    print(number, flush=True)
                    time.sleep(0.01)
        except here.InputServiceError as error:
            print("error:", error, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "0\n"
    return process


@pytest.mark.nightly
@pytest.mark.parametrize("again", [False, True], ids=["lost", "started anew"])
def test_a_server_that_goes_ends_the_run_with_a_word(folder, again):
    port = free_ports(3)
    server = start(port)
    process = reading_run(folder, port, 60 if again else 4)
    try:
        server.send_signal(signal.SIGKILL)
        server.wait()
        if again:
            server = start(port)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        server.kill()
        server.wait()
    if again:
        assert "error: one of the input servers" in out and "was started anew while this run was reading" in out, err
    else:
        assert process.returncode == 1 and f"input server localhost:{port} has not answered for 4 s" in err


def post(port, body, headers=None):
    """What a stranger is answered: the status and the error's words."""
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    try:
        connection.request("POST", "/", body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]
    finally:
        connection.close()


def request_for(path, split):
    config = {"output": "x", "data": {"path": path}, "task": {}}
    return json.dumps({"versions": {"tfhf": run._versions()["tfhf"], "tensorflow": tf.__version__}, "task": "toy",
                       "config": config, "batches": {"split": split}, "host_index": 0, "records": {}})


@pytest.mark.parametrize("path, split", [("/root", "."), ("/etc", "ssl"), ("/", "home"), ("/etc/passwd", "x"),
                                         ("/proc/self", "environ"), ("x\0y", "train"), ("../..", "..")])
def test_a_stranger_learns_no_names(servers, path, split):
    status, words = post(int(servers[0].rpartition(":")[2]), request_for(path, split))
    assert (status, words) == (400, "the request cannot be served; the log of this input server says why")


@pytest.mark.parametrize("body, headers, words", [
    (b"[" * 100_000, None, "the request cannot be served"), (b"[]", None, "expected a request"),
    (b"5", None, "expected a request"), (b"\xff", None, "the request cannot be served"), (b"", None, "Content-Length"),
    (b"{}", {"Content-Length": "-1"}, "Content-Length"), (b"{}", {"Content-Length": "1" + "0" * 30}, "Content-Length"),
    (b"{}", {"Content-Length": "2000000"}, "Content-Length"),
    (b'{"task": "toy"}', None, "the request cannot be served"),
])
def test_requests_of_a_stranger_are_refused(servers, body, headers, words):
    status, told = post(int(servers[0].rpartition(":")[2]), body, headers)
    assert status == 400 and told.startswith(words)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_it_listens_on_the_loopback(servers):
    first = int(servers[0].rpartition(":")[2])
    assert socket.create_connection(("127.0.0.1", first), 10).close() is None
    own = Path("/proc/net/fib_trie").read_text("ascii")
    outside = {address for address in re.findall(r"(\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL", own)
               if not address.startswith("127.")}
    for address in outside:   # of this machine, in its network
        with pytest.raises(OSError):
            socket.create_connection((address, first), 5).close()
    tables = [Path(f"/proc/net/{name}").read_text("ascii") for name in ("tcp", "tcp6")]
    listening = [line.split() for table in tables for line in table.splitlines()[1:]]
    assert listening and not any(_is_here(line[1], first) for line in listening if line[3] == "0A")


def _is_here(address, port):
    """Whether an address of /proc/net/tcp is that port on all addresses."""
    host, _, number = address.partition(":")
    return int(number, 16) == port and not host.strip("0")


def test_records_may_be_kept_to_a_folder(folder, tmp_path):
    server = object.__new__(InputServer)   # without its ports
    server._load_task, server._records = input_server.load_task, [os.path.realpath(tmp_path / "allowed")]
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(folder)
    for path, split in ((str(folder / "records"), "train"), (f"{tmp_path}/allowed/../x", "train"),
                        (f"{tmp_path}/allowed", "../x"), (f"{tmp_path}/allowed-not", "train"),
                        (f"{tmp_path}/allowed/link/records", "train"), ("gs://bucket/x", "train")):
        with pytest.raises(InputServiceError, match="outside of the folders of --records"):
            server.prepare(json.loads(request_for(path, split)))
    server._records = [os.path.realpath(folder)]
    with pytest.raises(InputServiceError, match="the records here are"):
        server.prepare(json.loads(request_for(str(folder / "records"), "train")))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_an_address_of_no_machine_is_refused(host):
    with pytest.raises(InputServiceError, match="expected the address by which the runs reach this machine"):
        InputServer(input_server.load_task, free_ports(3), host)
