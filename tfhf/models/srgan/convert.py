"""Reader of TensorFlow.js' layers models of the ESRGAN family: the graph as JSON, the weights in shards of bytes.

Such are the models of UpscalerJS, trained by idealo's image-super-resolution: residual dense networks (Zhang et al.
2018), and ESRGAN's residual in residual dense ones with residual scaling (Wang et al. 2018, section 3.1).
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

from tfhf.layers.pixel_shuffle import PixelShuffle
from tfhf.weights import WeightsError

RESIDUAL_SCALE = 0.2   # beta; the file names the layer MultiplyBeta without its number
_STORED = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}
_TYPES = {"Conv2D": keras.layers.Conv2D, "Activation": keras.layers.Activation, "Add": keras.layers.Add,
          "Concatenate": keras.layers.Concatenate, "UpSampling2D": keras.layers.UpSampling2D}
# Entries that say how a layer was trained, and those that older Keras wrote and this one does not know.
_PASSED_OVER = ("kernel_initializer", "bias_initializer", "batch_input_shape", "data_format")


def read_layers_model(path) -> keras.Model:
    """The model of a model.json and its shards, for images of any size.

    Args:
        path: the file, or the folder that has model.json.

    Returns:
        Functional keras model of float [batch, height, width, 3], in the range that it was trained for: [0, 255] of
        residual dense networks, [0, 1] of ESRGAN's.

    Raises:
        FileNotFoundError: there is no model.json, or a shard is missing.
        WeightsError: the file is of another format, has a layer that is not known here, or weights that do not fit.
    """
    path = Path(path)
    path = path / "model.json" if path.is_dir() else path
    content = json.loads(path.read_text("utf-8"))
    if content.get("format") != "layers-model":
        raise WeightsError(f"{path}: format is {content.get('format')!r}; expected 'layers-model'.")
    graph = content["modelTopology"]["model_config"]["config"]
    made = {}
    for entry in graph["layers"]:
        inputs = [made[node[0]] for node in entry["inbound_nodes"][0]] if entry["inbound_nodes"] else []
        if entry["class_name"] == "InputLayer":
            made[entry["name"]] = keras.Input(entry["config"]["batch_input_shape"][1:], name=entry["name"])
        else:
            made[entry["name"]] = _layer(entry, path)(inputs[0] if len(inputs) == 1 else inputs)
    outputs, inputs = (made[graph[key][0][0]] for key in ("output_layers", "input_layers"))
    model = keras.Model(inputs, outputs)
    _assign(model, _weights(content["weightsManifest"], path), path)
    return model


def _layer(entry, path):
    kind, config = entry["class_name"], entry["config"]
    if kind == "MultiplyBeta":
        return keras.layers.Rescaling(RESIDUAL_SCALE, name=entry["name"])
    if kind.startswith("PixelShuffle"):
        return PixelShuffle(int(config["scale"]), name=entry["name"])
    if kind not in _TYPES:
        raise WeightsError(f"{path}: layer {entry['name']} is a {kind}; expected one of {', '.join(_TYPES)}, "
                           "MultiplyBeta or PixelShuffle.")
    return _TYPES[kind].from_config({key: value for key, value in config.items() if key not in _PASSED_OVER})


def _weights(manifest, path):
    """{name: array}; the shards of a group are one stretch of bytes, its weights in the manifest's order.

    Quantised ones are whole numbers q of 8 or 16 bits for q * scale + min.
    """
    arrays = {}
    for group in manifest:
        data, begin = b"".join((path.parent / name).read_bytes() for name in group["paths"]), 0
        for weight in group["weights"]:
            quantised = weight.get("quantization", {})
            dtype = quantised.get("dtype", weight["dtype"])
            if weight["dtype"] != "float32" or dtype not in _STORED:
                raise WeightsError(f"{path}: {weight['name']} is {weight['dtype']} stored as {dtype}; expected float32 "
                                   f"stored as {', '.join(_STORED)}.")
            count, stored = int(np.prod(weight["shape"])), np.dtype(_STORED[dtype])
            end = begin + count * stored.itemsize
            if end > len(data):
                raise WeightsError(f"{path}: {', '.join(group['paths'])} hold {len(data)} bytes; {weight['name']} ends "
                                   f"at byte {end}.")
            values = np.frombuffer(data, stored, count, begin).reshape(weight["shape"]).astype("float32")
            arrays[weight["name"]] = (values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
                                      if "scale" in quantised else values)
            begin = end
        if begin != len(data):
            raise WeightsError(f"{path}: {', '.join(group['paths'])} hold {len(data)} bytes; the weights take {begin}.")
    return arrays


def _assign(model, arrays, path):
    variables = {variable.path: variable for variable in model.weights}
    wrong = sorted(set(variables) ^ set(arrays))
    wrong += [f"{name} {tuple(arrays[name].shape)} for {tuple(variable.shape)}" for name, variable in variables.items()
              if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape)]
    if wrong:
        raise WeightsError(f"{path}: {len(wrong)} weights are missing, left over or of another shape: {wrong[:5]}.")
    for name, variable in variables.items():
        variable.assign(arrays[name])
