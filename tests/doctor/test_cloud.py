"""The doctor on what is around: credentials, a TPU VM's metadata and cores, a bucket's region, disk and memory."""

import http.server
import threading
import time

import pytest

from tests.doctor.environments import TENSORFLOW, expect
from tfhf.doctor import cloud, machine


@pytest.mark.parametrize("content, words", [
    (None, "cannot be read: No such file"), ("{", "is no credentials file"), ("[1]", "is no credentials file"),
    ('{"a": 1}', "is no credentials file"), ('{"type": "service_account"}', ""),
])
def test_credentials(monkeypatch, tmp_path, content, words):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    file = tmp_path / "key.json"
    if content:
        file.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    found, = cloud.check_credentials(machine.Machine())
    assert found.level == ("fault" if words else "ok") and words in found.found and str(file) in found.found
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    found, = cloud.check_credentials(machine.Machine("gs://bucket"))
    assert found.level == "warn" and found.mend == "gcloud auth application-default login"
    (tmp_path / "application_default_credentials.json").write_text('{"type": "authorized_user"}')
    found, = cloud.check_credentials(machine.Machine("gs://bucket"))
    assert found.level == "ok" and found.found.startswith("authorized_user")


@pytest.fixture
def tpu_vm(monkeypatch):
    """A metadata server such as a TPU VM's on the loopback; its answers can be changed."""
    answers = {
        "attributes/tpu-env": "ACCELERATOR_TYPE: 'v3-8'\nZONE: 'us-central1-a'\n"
                              "RUNTIME_VERSION: 'tpu-ubuntu2204-base'\n",
        "service-accounts/default/email": "robot@example.org",
        "service-accounts/default/scopes": "https://www.googleapis.com/auth/cloud-platform\n",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = answers.get(self.path.partition("/instance/")[2])
            time.sleep(answers.get("delay", 0))
            self.send_response(200 if text and self.headers["Metadata-Flavor"] == "Google" else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers["host"] = f"127.0.0.1:{server.server_port}"
    for name in ("TPU_ACCELERATOR_TYPE", "ACCELERATOR_TYPE", "CLOUDSDK_COMPUTE_ZONE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")   # is not asked
    monkeypatch.setenv("GCE_METADATA_HOST", answers["host"])
    yield answers
    server.shutdown()
    server.server_close()


def test_what_a_tpu_vm_tells(tpu_vm, monkeypatch, tmp_path):
    here = machine.Machine()
    assert (here.accelerator, here.zone) == ("v3-8", "us-central1-a")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    assert cloud.check_credentials(here)[0].found == "service account robot@example.org of this machine"
    tpu_vm["service-accounts/default/scopes"] = "https://www.googleapis.com/auth/devstorage.read_only"
    assert cloud.check_credentials(here)[0].level == "warn"


def test_no_wait_for_metadata(tpu_vm, monkeypatch):
    tpu_vm["delay"] = 2.5
    begin, here = time.monotonic(), machine.Machine()
    assert here.zone == "" and here.accelerator == "" and here.metadata("x") == ""
    assert machine.METADATA_LIMIT_S <= time.monotonic() - begin < 2   # asked once, for a second
    monkeypatch.delenv("GCE_METADATA_HOST")
    begin, here = time.monotonic(), machine.Machine()
    here.__dict__["on_google"] = False
    assert not here.is_tpu_vm and time.monotonic() - begin < 0.3      # not asked at all


def test_a_tpu_vm_without_tensorflow_tpu(environment, tpu_vm):
    environment.variables = {"GCE_METADATA_HOST": tpu_vm["host"]}
    expect(environment.findings(), "tpu", "fault", "v3-8, but no tensorflow-tpu",
           "pip uninstall -y tensorflow && pip install -e", "[tpu]")


CORES = TENSORFLOW + """
class _Any:
    def __getattr__(self, name):
        return self
    def __call__(self, *_, **named):
        {body}
distribute = tpu = config = _Any()
"""


def test_the_cores_of_a_tpu_vm(environment, tpu_vm):
    environment.variables = {"GCE_METADATA_HOST": tpu_vm["host"]}
    environment.install("libtpu", "0.0.21.1")
    environment.tensorflow(name="tensorflow-tpu", code=CORES.replace("{body}", "return [0] * 8"))
    assert environment.findings() == {}
    assert "v3-8, 8 cores, runtime version tpu-ubuntu2204-base" in environment.run().stdout
    tpu_vm["attributes/tpu-env"] = "ACCELERATOR_TYPE: 'v3-8'\nRUNTIME_VERSION: 'tpu-vm-tf-2.13.0'\n"
    expect(environment.findings(), "tpu", "warn", "tpu-vm-tf-2.13.0", "tpu-ubuntu2204-base")
    tpu_vm["attributes/tpu-env"] = "ACCELERATOR_TYPE: 'v5litepod-8'\n"
    expect(environment.findings(), "tpu", "fault", "v5litepod-8, but no jax", "pip install 'jax[tpu]==0.10.2'")
    tpu_vm["attributes/tpu-env"] = "ACCELERATOR_TYPE: 'v3-32'\n"
    assert "v3-32, a slice of several VMs" in environment.run().stdout
    tpu_vm["attributes/tpu-env"] = "ACCELERATOR_TYPE: 'v3-8'\n"
    environment.remove("tensorflow-tpu")
    environment.tensorflow(name="tensorflow-tpu", code=CORES.replace(
        "{body}", "raise RuntimeError('The TPU is already in use by process with pid 7')"))
    expect(environment.findings(), "tpu", "fault", "already in use by process with pid 7", "lsof")


def test_the_region_of_a_real_bucket(gcs):
    bucket = gcs.new_bucket()   # the server's buckets lie in US-CENTRAL1
    found, = cloud.check_bucket(machine.Machine(f"{bucket}/records", "us-central1-b"))
    assert (found.level, found.found) == ("ok", f"{bucket} is in US-CENTRAL1, the TPU in us-central1-b")
    found, = cloud.check_bucket(machine.Machine(bucket, "europe-west4-a"))
    assert found.level == "fault" and found.expected == "a bucket in europe-west4"
    assert f"buckets create {bucket}-europe-west4 --location=europe-west4 &&" in found.mend
    found, = cloud.check_bucket(machine.Machine("gs://no-such-bucket", "us-central1-b"))
    assert found.level == "fault" and "there is no such bucket" in found.found


@pytest.mark.parametrize("answer, zone, level", [
    ("EU", "europe-west4-a", "ok"), ("EU", "us-central1-a", "fault"), ("US US-EAST1 US-WEST1", "us-east1-d", "ok"),
    ("NAM4", "us-east1-d", "ok"), ("EUR4", "us-east1-d", "fault"), ("ASIA-EAST1", "asia-east1-c", "ok"),
    ("US-EAST1", "", "ok"), ("no permission (403 Forbidden)", "us-east1-d", "warn"),
])
def test_regions(monkeypatch, answer, zone, level):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_ZONE", raising=False)
    tried = machine.Tried(answer, ()) if "403" in answer else machine.Tried("", (answer,))
    monkeypatch.setattr(cloud, "try_in_process", lambda *_, **__: tried)
    here = machine.Machine("gs://bucket", zone)
    here.__dict__["on_google"] = False
    assert cloud.check_bucket(here)[0].level == level


def test_disk_and_memory(tmp_path):
    here = machine.Machine(need_disk_gb=1e9, need_ram_gb=1e9, folder=str(tmp_path))
    disk, memory = *cloud.check_disk(here), *cloud.check_memory(here)
    assert disk.level == memory.level == "fault" and str(tmp_path) in disk.found and disk.expected == "1e+09 GB"


def test_a_bucket_that_is_none(environment):
    done = environment.run("--bucket", "/a/folder")
    assert done.returncode == 2 and "expected gs://BUCKET" in done.stderr
