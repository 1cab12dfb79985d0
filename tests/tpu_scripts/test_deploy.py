"""deploy/: the files are what they say, name the same things, and fit each other and serve.sh."""

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

DEPLOY = Path(__file__).resolve().parents[2] / "tpu_scripts" / "deploy"
FLAGS = ("--model_config_file=/config/models.config", "--batching_parameters_file=/config/batching.config",
         "--monitoring_config_file=/config/monitoring.config", "--enable_batching=true")


def without_comments(text):
    return " ".join(line.split("#")[0].strip() for line in text.splitlines()).split()


def test_kubernetes_and_compose_run_the_same_server_with_the_same_settings():
    documents = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    assert set(documents) == {"ServiceAccount", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    container, = pod["containers"]
    serving = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serving"]
    image = re.search(r"IMAGE=(\S+)", (DEPLOY.parent / "serve.sh").read_text())[1]
    assert container["image"] == serving["image"] == image
    words = [serving["entrypoint"][0], *serving["entrypoint"][1:], *serving["command"]]
    assert words[0] == container["command"][0] and set(words[1:]) == set(container["args"]) >= set(FLAGS)
    for name in ("batching.config", "monitoring.config"):
        assert without_comments(documents["ConfigMap"]["data"][name]) == without_comments((DEPLOY / name).read_text())
    assert documents["Service"]["spec"]["selector"] == documents["Deployment"]["spec"]["selector"]["matchLabels"]
    named = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in documents["Service"]["spec"]["ports"]} == named
    assert pod["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"]


@pytest.mark.parametrize("name", ["models.config", "batching.config", "monitoring.config"])
def test_the_text_protos_balance(name):
    depth = 0
    for character in re.sub(r'#.*|"[^"]*"', "", (DEPLOY / name).read_text()):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
