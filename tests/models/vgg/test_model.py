"""VGG19's features: count, names, a plain torch network of the same weights, and no features without the file."""

import keras
import numpy as np
import pytest

from tfhf.models.vgg.config import PARAMETER_COUNTS, VGGConfig
from tfhf.models.vgg.model import MEAN, STD, VGGFeatures, layer_numbers
from tfhf.weights import WeightsError, reference_weights, write_safetensors

SMALL = VGGConfig((4, 6, 8), (1, 2, 1))


def _file(folder, config=SMALL, **more):
    random = np.random.default_rng(0)
    tensors = {name: random.normal(0, 0.3, value.shape).astype("float32")
               for name, value in reference_weights(VGGFeatures(config)).items()}
    write_safetensors(folder, {**tensors, **more})
    return tensors


def test_vgg19_is_the_published_one():
    model = VGGFeatures(VGGConfig())
    assert model.count_params() == PARAMETER_COUNTS["vgg19"]
    assert [number for number, *_ in layer_numbers(VGGConfig())] == [
        0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]   # torchvision's vgg19().features
    assert {"features.0.weight", "features.34.bias"} < set(reference_weights(model)) and not model.trainable_variables
    assert model(keras.Input((96, 64, 3))).shape == (None, 6, 4, 512)


def test_features_are_those_of_plain_torch_before_the_last_activation(tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    tensors = _file(tmp_path, **{"classifier.6.weight": np.zeros((2, 2), "float32")})   # which is passed over
    nn = torch.nn
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
              nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1)]
    theirs = nn.Sequential(*layers)
    theirs.load_state_dict({name.removeprefix("features."): torch.tensor(value) for name, value in tensors.items()})
    images = np.random.default_rng(1).uniform(size=(2, 12, 16, 3)).astype("float32")
    normed = (images - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        expected = theirs(torch.tensor(normed.transpose(0, 3, 1, 2).astype("float32"))).numpy().transpose(0, 2, 3, 1)
    got = VGGFeatures.from_pretrained(tmp_path, SMALL)(images).numpy()
    assert (expected < 0).any()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_there_are_no_features_without_the_file(tmp_path):
    with pytest.raises(ValueError, match="the weights' path is None.*random weights are no content loss"):
        VGGFeatures.from_pretrained(None)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        VGGFeatures.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        VGGFeatures.from_pretrained(tmp_path, SMALL)
    _file(tmp_path)
    with pytest.raises(WeightsError, match="missing 2 tensors"):
        VGGFeatures.from_pretrained(tmp_path, VGGConfig((4, 6, 8), (1, 2, 2)))
    with pytest.raises(ValueError, match="one number each"):
        VGGConfig((4, 6), (1,))
