"""ResNet's folders both ways: timm's and torchvision's names, which are ours, and those of `transformers`.

A folder holds config.json and model.safetensors, as timm and transformers write them, or a file of torch alone, as
torchvision publishes them: then its tensors tell the shape.
"""

import dataclasses
import re

import numpy as np

from tfhf import weights
from tfhf.models.resnet.config import SIZES, ResNetConfig
from tfhf.torch_files import read_tensors

# (ours, theirs): a number in <> is one less in theirs.
_NAMES = (
    (r"conv1", r"embedder.embedder.convolution"),
    (r"bn1", r"embedder.embedder.normalization"),
    (r"layer<1>.<0>.conv<1>", r"encoder.stages.<0>.layers.<0>.layer.<0>.convolution"),
    (r"layer<1>.<0>.bn<1>", r"encoder.stages.<0>.layers.<0>.layer.<0>.normalization"),
    (r"layer<1>.<0>.downsample.0", r"encoder.stages.<0>.layers.<0>.shortcut.convolution"),
    (r"layer<1>.<0>.downsample.1", r"encoder.stages.<0>.layers.<0>.shortcut.normalization"),
    (r"fc", r"classifier.1"),
)


def _renamed(name, source, target):
    """A tensor's name by the pairs of _NAMES, from column `source` to column `target`; None if there is no such."""
    stem, _, leaf = name.rpartition(".")
    for pair in _NAMES:
        pattern = re.escape(pair[source]).replace("<0>", r"(\d+)").replace("<1>", r"(\d+)")
        found = re.fullmatch(pattern, stem)
        if found:
            starts = [[int(start) for start in re.findall(r"<(\d)>", side)] for side in (pair[source], pair[target])]
            numbers = (int(number) - a + b for number, a, b in zip(found.groups(), *starts))
            return re.sub(r"<\d>", lambda _: str(next(numbers)), pair[target]) + "." + leaf
    return None


def from_transformers(tensors: dict) -> dict:
    """{transformers' name: array} -> {our name: array}; a name that is none of theirs stays, for the error to come."""
    return {_renamed(name.removeprefix("resnet."), 1, 0) or name: value for name, value in tensors.items()}


def to_transformers(tensors: dict, is_base: bool) -> dict:
    """The way back; `is_base`: of the body alone, whose names have no prefix there."""
    renamed = {_renamed(name, 0, 1): value for name, value in tensors.items()}
    for name in [name for name in renamed if name.endswith("running_var")]:   # which transformers looks for
        renamed[name.replace("running_var", "num_batches_tracked")] = np.zeros((), "int64")
    return {name if is_base or name.startswith("classifier") else "resnet." + name: value
            for name, value in renamed.items()}


def read_checkpoint(folder, config_class=ResNetConfig) -> tuple:
    """(config, {our name: array}) of a folder; see the module's docstring.

    Raises:
        FileNotFoundError, tfhf.weights.WeightsError, ValueError: nothing to read, damaged, or of another model.
    """
    tensors, path = read_tensors(folder), folder / "config.json"
    content = weights.read_json(path) if path.exists() else None
    if content is None:
        return config_of_tensors(tensors, folder), tensors
    if "model_type" in content or str(content.get("architecture")) not in SIZES:
        config = config_class.from_hugging_face(content, path)
    else:
        found = {**content, **content.get("pretrained_cfg", {})}
        changes = {"num_labels": found.get("num_classes"), "image_mean": found.get("mean"),
                   "image_std": found.get("std")}
        shape = {key: value for key, value in changes.items() if value is not None}
        config = config_class.from_dict({**SIZES[content["architecture"]], **shape}, where=str(path))
    if any(".convolution." in name for name in tensors):
        tensors = from_transformers(tensors)
    return config, tensors


def config_of_tensors(tensors: dict, where) -> ResNetConfig:
    """The shape that tensors in torchvision's names have; `where` is for the errors.

    Raises:
        tfhf.weights.WeightsError: these are no such names.
    """
    blocks = {tuple(map(int, found.groups())) for found in (re.match(r"layer(\d+)\.(\d+)\.", name) for name in tensors)
              if found}
    stages = sorted({stage for stage, _ in blocks})
    if not stages or "conv1.weight" not in tensors:
        raise weights.WeightsError(f"{where}: no config.json, and its tensors are no ResNet's; expected conv1.weight, "
                                   "layer1.0.conv1.weight and so on")
    bottleneck = "layer1.0.conv3.weight" in tensors
    last = "conv3" if bottleneck else "conv2"
    filters, channels, size, _ = tensors["conv1.weight"].shape
    return ResNetConfig(
        num_channels=channels, embedding_size=filters, small_stem=size == 3,
        hidden_sizes=tuple(tensors[f"layer{stage}.0.{last}.weight"].shape[0] for stage in stages),
        depths=tuple(len([1 for one, _ in blocks if one == stage]) for stage in stages),
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=len(tensors["fc.bias"]) if "fc.bias" in tensors else 1000)


def write_checkpoint(folder, model, names="timm") -> None:
    """What `ResNetForImageClassification.save_pretrained` documents."""
    if names not in ("timm", "transformers"):
        raise ValueError(f"names: got {names!r}; expected timm or transformers.")
    config, tensors = model.config, model.reference_tensors()
    content = config.to_hugging_face(type(model).__name__)
    if names == "transformers":
        tensors = to_transformers(tensors, model.is_base)
    else:
        same = dict(num_labels=config.num_labels, labels=config.labels, image_mean=config.image_mean,
                    image_std=config.image_std)
        size = [size for size in SIZES if dataclasses.replace(ResNetConfig.of_size(size), **same) == config]
        content |= {"architecture": size[0], "num_classes": config.num_labels} if size else {}
    weights.write_safetensors(folder, tensors)
    weights.write_json(folder / "config.json", content)
