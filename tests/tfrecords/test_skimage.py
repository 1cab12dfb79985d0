"""The writer of scikit-image's photographs and stereo pair, on the real files."""

import numpy as np
import pytest

from tfhf.data.image import decode_depth, read_image
from tfhf.data.schema import STEREO, RecordError
from tfrecords.skimage import DISPARITY_SCALE, PHOTOGRAPHS, ScikitImage


def test_photographs_with_numbers_and_as_originals(assets):
    folder = assets("scikit-image")
    dataset = ScikitImage(folder)
    items = {split: list(dataset.examples(split)) for split in dataset.splits()}
    assert [item["id"] for item in items["validation"]] == ["chelsea"] and len(items["train"]) == 7
    assert dataset.options("train")["classes"][5] == "motorcycle_left" and list(dataset.examples("train", 6))
    cat = dataset.load(items["validation"][0])
    assert cat == {"id": "chelsea", "image": (folder / "chelsea.png").read_bytes(), "label": 1, "pixels": 300 * 451}
    original = ScikitImage(folder, "originals").load(items["train"][-1])
    assert (original["id"], original["image"], original["pixels"]) == ("rocket", b"", 427 * 640)
    assert original["target"] == (folder / PHOTOGRAPHS[-1]).read_bytes()


def test_the_stereo_pair_and_its_measured_disparity(assets):
    folder = assets("scikit-image")
    dataset = ScikitImage(folder, "stereo")
    item, = dataset.examples("train")
    example = dataset.load(item)
    assert dataset.splits() == ("train",) and STEREO.pack(example).length == example["pixels"] == 500 * 741
    assert dataset.options("train")["disparity"] == {"unit": "pixel", "scale": 1 / 512, "invalid": 0}
    with np.load(folder / "motorcycle_disp.npz") as arrays:
        measured = arrays["arr_0"]
    disparity, valid = (tensor.numpy()[..., 0] for tensor in decode_depth(example["disparity"], DISPARITY_SCALE))
    np.testing.assert_array_equal(valid, np.isfinite(measured))
    assert abs(valid.mean() - 0.927) < 0.001
    assert np.abs(disparity - measured)[valid].max() <= DISPARITY_SCALE / 2 + 1e-5


def test_the_disparity_brings_the_right_image_onto_the_left(assets):
    """pixel (y, x) of the left image is pixel (y, x - disparity) of the right one: sign, unit and side are right."""
    example = ScikitImage(assets("scikit-image"), "stereo").load({})
    left, right = (read_image(assets("scikit-image") / f"motorcycle_{side}.png").astype(float)
                   for side in ("left", "right"))
    disparity, valid = (tensor.numpy()[..., 0] for tensor in decode_depth(example["disparity"], DISPARITY_SCALE))
    rows, columns = np.indices(disparity.shape)
    places = np.rint(columns - disparity).astype(int)
    seen = valid & (places >= 0)
    warped = right[rows, np.clip(places, 0, None)]
    error, unmoved = (np.abs(image - left)[seen].mean() for image in (warped, right))
    assert error < 0.35 * unmoved


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(RecordError, match="astronaut.png: not there"):
        ScikitImage(tmp_path)
    with pytest.raises(RecordError, match="motorcycle_left.png: not there"):
        ScikitImage(tmp_path, "stereo")
