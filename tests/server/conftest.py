"""`models`: the folder of the small models; `server`: a server of them."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("grpc")

from tests.server.running import running, write_models


@pytest.fixture(scope="package")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="package")
def server(models):
    with running([models], deadline_s=20.0, max_request_mb=4.0) as server:
        yield server
