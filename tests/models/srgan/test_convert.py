"""TensorFlow.js' layers models: real ones give their shipped result images, damaged ones are refused."""

import json

import numpy as np
import pytest

from tfhf.data.image import read_image
from tfhf.models.srgan.convert import read_layers_model
from tfhf.weights import WeightsError


@pytest.mark.parametrize("asset, scale, white", [("esrgan-slim", 2, 255), ("esrgan-slim", 3, 255),
                                                 ("esrgan-slim", 4, 255), ("esrgan-gans", 4, 1)])
def test_real_models_give_their_result_images(assets, asset, scale, white):
    folder = assets(asset)
    model = read_layers_model(folder / f"models/x{scale}")
    image = read_image(folder / "images/fixture.png").astype("float32")
    expected = read_image(folder / f"images/samples/{scale}x/result.png").astype("float32")
    got = np.clip(model(image[None] * (white / 255)).numpy()[0] * (255 / white), 0, 255)
    # Rounded to 8 bits: half a step, and a thousandth of one for the order in which floats were added up.
    worst = np.abs(got - expected).max()
    print(f"\n{asset} x{scale}: {worst:.4f} / 255")
    assert worst < 0.501


def _model(folder, kind="Conv2D", dtype="float32", data=None, quantization=None, left_over=()):
    """A 1 x 1 convolution of 3 channels to one, in the format."""
    config = {"name": "conv", "filters": 1, "kernel_size": [1, 1], "data_format": "channels_last"}
    layers = [{"class_name": "InputLayer", "name": "LR", "inbound_nodes": [],
               "config": {"batch_input_shape": [None, None, None, 3]}},
              {"class_name": kind, "name": "conv", "config": config, "inbound_nodes": [[["LR", 0, 0, {}]]]}]
    weights = [{"name": "conv/kernel", "shape": [1, 1, 3, 1], "dtype": dtype},
               {"name": "conv/bias", "shape": [1], "dtype": "float32"}, *left_over]
    if quantization:
        weights[0]["quantization"] = quantization
    graph = {"layers": layers, "input_layers": [["LR", 0, 0]], "output_layers": [["conv", 0, 0]]}
    content = {"format": "layers-model", "modelTopology": {"model_config": {"config": graph}},
               "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": weights}]}
    (folder / "model.json").write_text(json.dumps(content))
    data = np.array([1, 2, 3, 4], "<f4").tobytes() if data is None else data
    (folder / "a.bin").write_bytes(data[:5])
    (folder / "b.bin").write_bytes(data[5:])
    return folder


def test_plain_and_quantised_weights(tmp_path):
    pixels = np.ones((1, 2, 2, 3), "float32")
    np.testing.assert_allclose(read_layers_model(_model(tmp_path))(pixels), 10.0)
    data = bytes([0, 10, 255]) + np.float32(4).tobytes()
    quantised = _model(tmp_path, data=data, quantization={"dtype": "uint8", "scale": 0.5, "min": -1.0})
    np.testing.assert_allclose(read_layers_model(quantised / "model.json")(pixels), -1 + 4 + 126.5 + 4)


@pytest.mark.parametrize("changes, message", [
    ({"kind": "Lambda"}, "layer conv is a Lambda; expected one of Conv2D"),
    ({"dtype": "int32"}, "conv/kernel is int32 stored as int32; expected float32"),
    ({"data": bytes(12)}, "hold 12 bytes; conv/bias ends at byte 16"),
    ({"data": bytes(20)}, "hold 20 bytes; the weights take 16"),
    ({"data": bytes(20), "left_over": [{"name": "more", "shape": [1], "dtype": "float32"}]}, "left over.*'more'"),
])
def test_damaged_files(tmp_path, changes, message):
    with pytest.raises(WeightsError, match=message):
        read_layers_model(_model(tmp_path, **changes))


def test_other_formats_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_layers_model(tmp_path)
    (tmp_path / "model.json").write_text('{"format": "graph-model"}')
    with pytest.raises(WeightsError, match="format is 'graph-model'; expected 'layers-model'"):
        read_layers_model(tmp_path)
    (_model(tmp_path) / "b.bin").unlink()
    with pytest.raises(FileNotFoundError):
        read_layers_model(tmp_path)
