"""A newest version that is damaged, or still being copied: one line, and the older one is served."""

import logging
import shutil
from pathlib import Path

import grpc
import httpx
import pytest

from tests.server.running import running
from tfhf.client import Client
from tfhf.server.models import ServeError
from tfhf.server.service import Limits, Service
from tfhf.wire import MESSAGES


def cut(folder):
    file = folder / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-1000])


def no_pb(folder):
    (folder / "saved_model.pb").unlink()


def noise(folder):
    (folder / "saved_model.pb").write_bytes(bytes(range(256)) * 40)


def no_variables(folder):
    shutil.rmtree(folder / "variables")


def cut_variables(folder):
    file = folder / "variables/variables.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[:1])


def no_index(folder):
    (folder / "variables/variables.index").unlink()


def empty_index(folder):
    (folder / "variables/variables.index").write_bytes(b"")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def empty_pb(folder):
    (folder / "saved_model.pb").write_bytes(b"")


DAMAGES = [cut, no_pb, noise, no_variables, cut_variables, no_index, empty_index, empty, empty_pb]


@pytest.fixture
def versions(models, tmp_path):
    """FOLDER/echo with version 2, and a function that makes a damaged one."""
    shutil.copytree(f"{models}/echo/2", tmp_path / "echo/2")

    def damaged(number, damage):
        shutil.copytree(f"{models}/echo/2", tmp_path / f"echo/{number}")
        damage(tmp_path / f"echo/{number}")

    return tmp_path / "echo", damaged


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_older_one_is_served(versions, damage, caplog):
    folder, damaged = versions
    damaged(3, damage)
    with caplog.at_level(logging.WARNING, "tfhf.server"):
        service = Service([str(folder)], Limits())
    try:
        assert service.models["echo"].version == 2 and list(service.failed["echo"]) == [3]
        line, = [record.getMessage() for record in caplog.records if record.name == "tfhf.server"]
        assert line.startswith("model echo: version 3 cannot be served, version 2 is instead: ")
        assert "\n" not in line and str(folder) not in service.failed["echo"][3] and len(line) < 400
    finally:
        service.close()


def test_its_state_is_told_over_both(versions):
    folder, damaged = versions
    damaged(3, cut)
    damaged(11, empty)
    (folder / "12").write_text("a file")
    (folder / "٣").mkdir()
    with running([str(folder)]) as server:
        found = httpx.get(f"{server.rest}/v1/models/echo", timeout=30).json()["model_version_status"]
        assert [(each["version"], each["state"]) for each in found] == [
            ("11", "END"), ("3", "END"), ("2", "AVAILABLE")]
        assert found[0]["status"]["error_code"] == "UNKNOWN" and found[0]["status"]["error_message"]
        assert found[2]["status"] == {"error_code": "OK", "error_message": ""}
        one = httpx.get(f"{server.rest}/v1/models/echo/versions/2", timeout=30).json()["model_version_status"]
        assert [each["version"] for each in one] == ["2"]
        assert httpx.get(f"{server.rest}/v1/models/echo/versions/3", timeout=30).status_code == 404
        request = MESSAGES["GetModelStatusRequest"]()
        request.model_spec.name = "echo"
        with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
            data = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")(
                request.SerializeToString(), timeout=30)
        told = MESSAGES["GetModelStatusResponse"].FromString(data).model_version_status
        assert [(each.version, each.state, each.status.error_code) for each in told] == [
            (11, 50, 2), (3, 50, 2), (2, 30, 0)]
        for address in (server.rest, server.grpc):
            with Client(address, "echo") as client:
                assert client.ready() and client.predict(["ab"])["length"].tolist() == [2]


def test_none_that_is_whole_is_an_error(versions):
    folder, damaged = versions
    shutil.rmtree(folder / "2")
    damaged(1, no_variables)
    damaged(3, cut)
    with pytest.raises(ServeError, match=r"echo/3: cannot be loaded \(.*\); expected a whole SavedModel"):
        Service([str(folder)], Limits())
    no_pb(Path(folder, "1"))
    no_pb(Path(folder, "3"))
    with pytest.raises(ServeError, match="no SavedModel"):
        Service([str(folder)], Limits())
