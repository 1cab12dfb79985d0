"""EfficientNet-Lite's folders: timm's names, which are ours, and those of the first port to torch.

A folder holds config.json and model.safetensors, as `save_pretrained` and timm write them, or a file of torch alone:
then its tensors tell the size.
"""

import re

import numpy as np

from tfhf import weights
from tfhf.models.efficientnet_lite.config import SIZES, EfficientNetLiteConfig
from tfhf.torch_files import read_tensors

_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def read_checkpoint(folder) -> tuple:
    """(config, {our name: array}) of a folder; see the module's docstring.

    Raises:
        FileNotFoundError, tfhf.weights.WeightsError, ValueError: nothing to read, damaged, or of another model.
    """
    tensors, path = read_tensors(folder), folder / "config.json"
    content = weights.read_json(path) if path.exists() else None
    if content is None:
        config = config_of_tensors(tensors, folder)
    else:
        size = str(content.get("architecture", "")).removeprefix("tf_")
        if "model_type" in content or size not in SIZES:
            config = EfficientNetLiteConfig.from_hugging_face(content, path)
        else:
            config = EfficientNetLiteConfig.of_size(size, num_labels=content.get("num_classes", 1000))
    if "_conv_stem.weight" in tensors:
        tensors = from_first_port(tensors, config)
    return config, swapped(tensors)


def config_of_tensors(tensors: dict, where) -> EfficientNetLiteConfig:
    """The size that tensors in either naming have; `where` is for the errors.

    Raises:
        tfhf.weights.WeightsError: they are of no EfficientNet-Lite.
    """
    blocks = {found[1] for found in (re.match(r"_?blocks\.(\d+(?:\.\d+)?)\.\D", name) for name in tensors) if found}
    head = tensors.get("conv_head.weight", tensors.get("_conv_head.weight"))
    labels = tensors.get("classifier.bias", tensors.get("_fc.bias"))
    for size in SIZES:
        config = EfficientNetLiteConfig.of_size(size)
        if (head is not None and head.shape[1] == config.stages[-1].width
                and len(blocks) == sum(stage.depth for stage in config.stages)):
            return EfficientNetLiteConfig.of_size(size, **{} if labels is None else {"num_labels": len(labels)})
    raise weights.WeightsError(f"{where}: no config.json, and its tensors are no EfficientNet-Lite's: {len(blocks)} "
                               f"blocks, conv_head of shape {None if head is None else head.shape}")


def from_first_port(tensors: dict, config) -> dict:
    """{name such as _blocks.3._bn0.weight: array} -> {ours, blocks.2.0.bn1.weight: array}"""
    places = [(stage, block) for stage, shape in enumerate(config.stages) for block in range(shape.depth)]
    renamed = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            stage, block = places[int(parts[1])]
            table = _BLOCK if config.stages[stage].expansion != 1 else _FIRST_BLOCK
            parts[:3] = ["blocks", str(stage), str(block), table.get(parts[2], parts[2])]
        else:
            parts[0] = _TOP.get(parts[0], parts[0])
        renamed[".".join(parts)] = value
    return renamed


def swapped(tensors: dict) -> dict:
    """Depthwise kernels between torch's layout [channels, 1, height, width] and that of Keras' kernel [height, width,
    channels, 1] under the axes of every other kernel, which is [1, channels, height, width]; the way back is the same.
    """
    return {name: np.ascontiguousarray(np.swapaxes(value, 0, 1)) if name.endswith("conv_dw.weight") else value
            for name, value in tensors.items()}
