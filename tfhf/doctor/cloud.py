"""The checks of what is around: the TPU, credentials, the bucket's region, disk and memory."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tfhf.doctor.machine import ROOT, TPU_TENSORFLOWS, Finding, Machine, try_in_process

TPU_LIMIT_S = 120.0        # to open the TPU and count its cores
BUCKET_LIMIT_S = 40.0
# https://cloud.google.com/storage/docs/locations: what lies behind the names that stand for several regions.
DUAL_REGIONS = {"NAM4": ("us-central1", "us-east1"), "EUR4": ("europe-north1", "europe-west4"),
                "ASIA1": ("asia-northeast1", "asia-northeast2")}
MULTI_REGIONS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}


def check_tpu(machine: Machine) -> list[Finding]:
    """On a TPU VM: its type and runtime version, the right TensorFlow, and whether the cores answer."""
    if not machine.is_tpu_vm:
        return [Finding("tpu", "ok", "this is no TPU VM")]
    findings, kind = [], machine.accelerator
    runtime = machine.tpu_environment.get("RUNTIME_VERSION", "")
    if runtime.startswith("tpu-vm-"):   # these images bring a TensorFlow or PyTorch, and a libtpu, of their own time
        findings.append(Finding("tpu", "warn", f"{kind} with runtime version {runtime}", "a base image without "
                                "frameworks, such as tpu-ubuntu2204-base", "tpu_scripts/create.sh --help"))
    if machine.drives_tpu_by_tensorflow and not TPU_TENSORFLOWS & set(machine.tensorflows):
        others = f"pip uninstall -y {' '.join(machine.tensorflows)} && " if machine.tensorflows else ""
        return [*findings, Finding("tpu", "fault", f"{kind}, but no tensorflow-tpu: this TensorFlow sees no TPU",
                                   "tensorflow-tpu", others + machine.install("tpu"))]
    if not machine.drives_tpu_by_tensorflow and not machine.version("jax"):
        wanted = f"jax[tpu]{machine.requirement('preflight', 'jax').specifier}"
        return [*findings, Finding("tpu", "fault", f"{kind}, but no jax: TensorFlow drives v2 to v4 only",
                                   f"{wanted}, and --backend jax", f"pip install '{wanted}'")]
    size = re.search(r"-(\d+)$", kind)
    if size and int(size[1]) > 8:   # one process alone would wait for those of the other VMs
        return [*findings, Finding("tpu", "ok", f"{kind}, a slice of several VMs: its cores are not asked")]
    code = "import jax; print(len(jax.devices('tpu')))"
    if machine.drives_tpu_by_tensorflow:
        code = ("import tensorflow as tf\n"
                "resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu='local')\n"
                "tf.tpu.experimental.initialize_tpu_system(resolver)\n"
                "print(len(tf.config.list_logical_devices('TPU')))")
    tried = try_in_process(code, TPU_LIMIT_S)
    if tried.why:
        return [*findings, Finding("tpu", "fault", f"{kind}: its cores do not answer: {tried.why}", "TPU cores; a "
                                   "process that holds them keeps others out", "sudo lsof -w /dev/accel* /dev/vfio/*")]
    return [*findings, Finding("tpu", "ok", f"{kind}, {tried.lines[-1]} cores"
                               + (f", runtime version {runtime}" if runtime else ""))]


def check_credentials(machine: Machine) -> list[Finding]:
    """Google's application default credentials, in the order in which its clients look for them."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    home = os.environ.get("CLOUDSDK_CONFIG") or Path("~/.config/gcloud").expanduser()
    file = Path(named) if named else Path(home) / "application_default_credentials.json"
    login = "gcloud auth application-default login"
    if named or file.exists():
        source = f"{'GOOGLE_APPLICATION_CREDENTIALS: ' if named else ''}{file}"
        mend = f"unset GOOGLE_APPLICATION_CREDENTIALS; {login}" if named else login
        try:
            kind = json.loads(file.read_text("utf-8"))["type"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = "is no credentials file (JSON with a type)"
            if isinstance(error, OSError):
                what = f"cannot be read: {error.strerror}"
            return [Finding("credentials", "fault", f"{source} {what}", "a credentials file of Google's", mend)]
        return [Finding("credentials", "ok", f"{kind}, {source}")]
    account = machine.metadata("service-accounts/default/email")
    if account:
        scopes = machine.metadata("service-accounts/default/scopes")
        if not re.search(r"auth/(cloud-platform|devstorage\.(read_write|full_control))\b", scopes):
            return [Finding("credentials", "warn", f"{account}, whose scopes here do not allow writing to buckets",
                            "the scope cloud-platform", login)]
        return [Finding("credentials", "ok", f"service account {account} of this machine")]
    said = "none: gs:// opens public buckets only"
    if machine.bucket:
        return [Finding("credentials", "warn", said, f"some that may use {machine.bucket}", login)]
    return [Finding("credentials", "ok", f"{said} (`{login}`)")]


def check_bucket(machine: Machine) -> list[Finding]:
    """The bucket's region against the TPU's: bytes that cross regions are slow, and paid for."""
    if not machine.bucket:
        return [Finding("bucket", "ok", "none given (--bucket gs://BUCKET)")]
    bucket = "gs://" + machine.bucket.removeprefix("gs://").partition("/")[0]
    code = "import sys; from tfhf.data import gcs; print(*gcs.locations(sys.argv[1]))"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    tried = try_in_process(code, BUCKET_LIMIT_S, bucket, environment={"PYTHONPATH": path})
    if tried.why:
        # The right to use objects does not include the right to look at their bucket.
        refused = "no permission (403" in tried.why
        ask = f"gcloud storage buckets describe {bucket} --format='value(location)'" if refused else "gcloud storage ls"
        return [Finding("bucket", "warn" if refused else "fault", f"{bucket}: {tried.why}",
                        "a bucket whose region can be asked for", ask)]
    location, *regions = tried.lines[-1].split()
    regions = [region.lower() for region in regions] or DUAL_REGIONS.get(location, (location.lower(),))
    said = f"{bucket} is in {location}" + (f" ({', '.join(regions)})" if list(regions) != [location.lower()] else "")
    if not machine.zone:
        return [Finding("bucket", "ok", f"{said}; --zone ZONE compares it with the TPU's")]
    region = machine.zone.rpartition("-")[0]
    if region in regions or location in MULTI_REGIONS and region.startswith(MULTI_REGIONS[location]):
        return [Finding("bucket", "ok", f"{said}, the TPU in {machine.zone}")]
    return [Finding("bucket", "fault", f"{said}, the TPU in {machine.zone}", f"a bucket in {region}",
                    f"gcloud storage buckets create {bucket}-{region} --location={region} && "
                    f"gcloud storage rsync --recursive {bucket} {bucket}-{region}")]


def check_disk(machine: Machine) -> list[Finding]:
    """Free space on the disk of the working folder."""
    free = shutil.disk_usage(machine.folder).free / 1e9
    place = os.path.abspath(machine.folder)
    if free >= machine.need_disk_gb:
        return [Finding("disk", "ok", f"{free:.0f} GB free in {place}")]
    return [Finding("disk", "fault", f"{free:.1f} GB free in {place}", f"{machine.need_disk_gb:g} GB",
                    "du -xh --max-depth=2 ~ | sort -h | tail -20   # or --output gs://BUCKET/runs/NAME")]


def check_memory(machine: Machine) -> list[Finding]:
    """Memory that is free for this process: the machine's, or what its container leaves."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        free = int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1]) * 1024 / 1e9
    if limit.exists() and limit.read_text().strip().isdigit():
        # Of what the container holds, the kernel gives the file cache back.
        cache = int(re.search(r"^inactive_file (\d+)$", limit.with_name("memory.stat").read_text(), re.M)[1])
        used = int(limit.with_name("memory.current").read_text()) - cache
        free = min(free, (int(limit.read_text()) - used) / 1e9)
    if free >= machine.need_ram_gb:
        return [Finding("memory", "ok", f"{free:.0f} GB available")]
    return [Finding("memory", "fault", f"{free:.1f} GB available", f"{machine.need_ram_gb:g} GB",
                    "ps -eo rss,pid,args --sort=-rss | head")]
