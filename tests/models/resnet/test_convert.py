"""Folders as timm and torchvision publish them: the shape from config.json, or from the tensors alone."""

import json

import numpy as np
import pytest

from tfhf.models.resnet.config import ResNetConfig
from tfhf.models.resnet.convert import config_of_tensors, from_transformers, to_transformers
from tfhf.models.resnet.model import ResNetForImageClassification
from tfhf.weights import WeightsError

SMALL = ResNetConfig(embedding_size=8, hidden_sizes=(16, 24), depths=(1, 2), num_labels=5)


def test_names_are_those_of_torchvision():
    names = set(ResNetForImageClassification(SMALL).reference_tensors())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv3.weight", "layer1.0.downsample.0.weight",
            "layer2.1.bn2.bias", "fc.weight", "fc.bias"} <= names
    assert not [name for name in names if name.startswith("resnet.")] and len(names) == 5 * (1 + 2 * 4 + 3) + 2


def test_names_to_transformers_and_back():
    tensors = ResNetForImageClassification(SMALL).reference_tensors()
    theirs = to_transformers(tensors, is_base=False)
    assert "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight" in theirs and "classifier.1.bias" in theirs
    assert "resnet.encoder.stages.0.layers.0.layer.2.normalization.running_var" in theirs
    back = from_transformers({name: value for name, value in theirs.items() if "num_batches" not in name})
    assert set(back) == set(tensors)


def test_a_torchvision_file_alone(tmp_path):
    torch = pytest.importorskip("torch", reason="it writes the file")
    model = ResNetForImageClassification(SMALL)
    state = {name: torch.tensor(value) for name, value in model.reference_tensors().items()}
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, tmp_path / "resnet-11ad3fa6.pth")
    again = ResNetForImageClassification.from_pretrained(tmp_path)
    assert again.config == SMALL
    np.testing.assert_array_equal(again.fc.kernel, model.fc.kernel)


def test_a_folder_of_timm(tmp_path):
    model = ResNetForImageClassification(ResNetConfig.of_size("resnet18", num_labels=4))
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["architecture"], content["num_classes"]) == ("resnet18", 4)
    (tmp_path / "config.json").write_text(json.dumps({   # as timm itself writes it
        "architecture": "resnet18", "num_classes": 4, "num_features": 512,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "num_classes": 4}}))
    again = ResNetForImageClassification.from_pretrained(tmp_path)
    assert again.config.image_mean == (0.5, 0.5, 0.5) and again.config.layer_type == "basic"
    np.testing.assert_array_equal(again.resnet.conv1.kernel, model.resnet.conv1.kernel)


def test_what_is_no_resnet():
    with pytest.raises(WeightsError, match="no config.json, and its tensors are no ResNet's"):
        config_of_tensors({"features.0.weight": np.zeros((4, 3, 3, 3))}, "somewhere")
    shape = config_of_tensors(ResNetForImageClassification(ResNetConfig.of_size("resnet8")).reference_tensors(), "")
    assert shape.small_stem and shape.depths == (1, 1, 1) and shape.hidden_sizes == (16, 32, 64)
