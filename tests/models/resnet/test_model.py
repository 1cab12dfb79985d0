"""ResNet against transformers on random weights, folders under both namings, counts, its norms, refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from tfhf.models.resnet.config import PARAMETER_COUNTS, ResNetConfig
from tfhf.models.resnet.model import ResNetForImageClassification, ResNetModel
from tfhf.weights import WeightsError

RNG = np.random.default_rng(0)
PIXELS = RNG.normal(size=(2, 70, 65, 3)).astype("float32")   # odd sizes: each stride rounds up
BASIC = dict(embedding_size=8, hidden_sizes=(8, 12, 16), depths=(2, 1, 2), layer_type="basic", num_labels=5)
BOTTLENECK = dict(embedding_size=8, hidden_sizes=(16, 24, 32), depths=(1, 2, 1), num_labels=5)


def _theirs(kind, folder, **shape):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.ResNetConfig(**shape)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():   # norms and their statistics too are random
            if "normalization" in name and tensor.ndim:
                tensor.add_(torch.rand_like(tensor) * 0.5)
    model.save_pretrained(folder)

    def answer(pixels):
        with torch.no_grad():
            return model(torch.tensor(pixels.transpose(0, 3, 1, 2)))

    return answer


@pytest.mark.parametrize("shape", [BASIC, BOTTLENECK, dict(BOTTLENECK, downsample_in_bottleneck=True),
                                   dict(BASIC, downsample_in_first_stage=True)])
def test_logits_are_those_of_transformers_and_folders_go_both_ways(tmp_path, shape):
    expected = _theirs("ResNetForImageClassification", tmp_path / "theirs", **shape)(PIXELS).logits
    ours = ResNetForImageClassification.from_pretrained(tmp_path / "theirs")
    assert ours.config == ResNetConfig(**shape)
    np.testing.assert_allclose(ours({"pixel_values": PIXELS}), expected, atol=1e-4)
    # Back to transformers, which misses nothing and finds nothing left over.
    import torch
    import transformers

    ours.save_pretrained(tmp_path / "ours", names="transformers")
    again, report = transformers.ResNetForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and again.config.num_labels == 5
    with torch.no_grad():
        logits = again.eval()(torch.tensor(PIXELS.transpose(0, 3, 1, 2))).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # And under timm's and torchvision's names.
    ours.save_pretrained(tmp_path / "timm")
    back = ResNetForImageClassification.from_pretrained(tmp_path / "timm")
    np.testing.assert_array_equal(back({"pixel_values": PIXELS}), ours({"pixel_values": PIXELS}))


def test_features_are_those_of_transformers(tmp_path):
    _theirs("ResNetForImageClassification", tmp_path / "classifier", **BOTTLENECK)
    body = ResNetModel.from_pretrained(tmp_path / "classifier")   # a body passes over the head
    import torch
    import transformers

    theirs = transformers.ResNetModel.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(PIXELS.transpose(0, 3, 1, 2)), output_hidden_states=True)
    got = body({"pixel_values": PIXELS})
    assert len(got["hidden_states"]) == len(expected.hidden_states) == 4
    for ours, hidden in zip(got["hidden_states"], expected.hidden_states):
        np.testing.assert_allclose(ours, hidden.numpy().transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(got["pooler_output"], expected.pooler_output[:, :, 0, 0], atol=1e-4)
    body.save_pretrained(tmp_path / "body")
    kernel = body.resnet.conv1.kernel
    np.testing.assert_array_equal(ResNetModel.from_pretrained(tmp_path / "body").resnet.conv1.kernel, kernel)
    grown = ResNetForImageClassification.from_pretrained(tmp_path / "body", True, num_labels=3)
    np.testing.assert_array_equal(grown.resnet.conv1.kernel, kernel)


def _conv_and_norm(channels, width, size):
    return channels * width * size * size + 2 * width


def _parameters(config):
    """By the paper's table 1, without building anything."""
    total, channels = _conv_and_norm(config.num_channels, config.embedding_size, 7), config.embedding_size
    for number, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
        for block in range(depth):
            inner = width // config.reduction
            if config.layer_type == "basic":
                total += _conv_and_norm(channels, width, 3) + _conv_and_norm(width, width, 3)
            else:
                total += (_conv_and_norm(channels, inner, 1) + _conv_and_norm(inner, inner, 3)
                          + _conv_and_norm(inner, width, 1))
            if channels != width or number and block == 0:
                total += _conv_and_norm(channels, width, 1)
            channels = width
    return total + (channels + 1) * config.num_labels


def test_parameter_counts():
    for name, count in PARAMETER_COUNTS.items():
        assert _parameters(ResNetConfig.of_size(name)) == count, name
    for name in ("resnet18", "resnet50"):   # the model itself; the others have the same two blocks
        model = ResNetForImageClassification(ResNetConfig.of_size(name))
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == PARAMETER_COUNTS[name]


def test_bytes_are_normalised_in_the_model():
    model = ResNetForImageClassification(ResNetConfig.of_size("resnet8", num_channels=3))
    pixels = RNG.integers(0, 256, (2, 20, 20, 3)).astype("uint8")
    floats = (pixels / 255 - np.array(model.config.image_mean)) / np.array(model.config.image_std)
    np.testing.assert_allclose(model({"pixel_values": pixels}), model({"pixel_values": floats.astype("float32")}),
                               atol=1e-5)


def test_training_uses_the_batch_and_moves_the_statistics():
    model = ResNetForImageClassification(ResNetConfig(**BASIC))
    before = np.array(model.resnet.bn1.moving_mean)
    pixels = ops.convert_to_tensor(PIXELS)
    training = np.array(model({"pixel_values": pixels}, training=True))
    assert not np.array_equal(before, model.resnet.bn1.moving_mean)
    assert np.abs(training - np.array(model({"pixel_values": pixels}))).max() > 1e-3
    model.trainable = False   # frozen: fixed statistics, in training too
    before = np.array(model.resnet.bn1.moving_mean)
    frozen = model({"pixel_values": pixels}, training=True)
    np.testing.assert_array_equal(frozen, model({"pixel_values": pixels}))
    np.testing.assert_array_equal(before, model.resnet.bn1.moving_mean)


def test_mixup_in_training_mixes_with_the_next():
    model = ResNetForImageClassification(ResNetConfig(**BASIC))
    model.trainable = False
    share = np.array([1.0, 0.25], "float32")
    mixed = np.stack([PIXELS[0], 0.25 * PIXELS[1] + 0.75 * PIXELS[0]])
    got = model({"pixel_values": PIXELS, "mixup": share}, training=True)
    np.testing.assert_allclose(got, model({"pixel_values": mixed}), atol=1e-5)
    np.testing.assert_array_equal(model({"pixel_values": PIXELS, "mixup": share}), model({"pixel_values": PIXELS}))


def test_bfloat16_keeps_norms_and_logits_in_float32():
    model = ResNetForImageClassification(ResNetConfig(**BASIC), dtype="mixed_bfloat16")
    features = model.resnet({"pixel_values": PIXELS})
    assert features["last_hidden_state"].dtype == "bfloat16" and model({"pixel_values": PIXELS}).dtype == "float32"
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.weights} == {"float32"}


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="layer_type: got 'thick'; expected one of basic, bottleneck"):
        ResNetConfig(layer_type="thick")
    with pytest.raises(ValueError, match="depths: got .1, 2.; expected one for each"):
        ResNetConfig(depths=(1, 2))
    model = ResNetForImageClassification(ResNetConfig(**BASIC))
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="fc.weight: got .5, 16., expected .3, 16."):
        ResNetForImageClassification.from_pretrained(tmp_path, num_labels=3)
    with pytest.raises(ValueError, match="names: got 'onnx'; expected timm or transformers"):
        model.save_pretrained(tmp_path, names="onnx")
