"""The networks against plain torch on random weights, folders, post-processing, refusals."""

import keras
import numpy as np
import pytest

from tfhf.models.monodepth.config import tiny_config
from tfhf.models.monodepth.model import MonodepthModel, post_processed

RNG = np.random.default_rng(0)
RESNET = dict(encoder="resnet", encoder_hidden_sizes=(8, 4, 8), encoder_kernel_sizes=(), encoder_depths=(2, 1))


def _images(batch=2, height=32, width=48):
    return RNG.random((batch, height, width, 3)).astype("float32")


@pytest.mark.parametrize("changes", [{}, RESNET], ids=["vgg", "resnet"])
def test_equals_plain_torch(changes):
    torch = pytest.importorskip("torch")
    from tests.models.monodepth.torch_monodepth import disparities

    config = tiny_config(max_disparity=0.25, **changes)
    model = MonodepthModel(config)
    for variable in model.trainable_variables:   # biases too, and disparities that are not all near the middle
        variable.assign(RNG.normal(0, 1.3 / np.prod(variable.shape[:-1]) ** 0.5 if variable.ndim == 4 else 0.1,
                                   variable.shape))
    images = _images()
    got = [np.asarray(pair) for pair in model({"pixel_values": images})]
    assert [pair.shape for pair in got] == [(2, 32 >> i, 48 >> i, 2) for i in range(4)]
    tensors = {name: torch.tensor(value) for name, value in model.reference_tensors().items()}
    expected = disparities(config, tensors, torch.tensor(images).permute(0, 3, 1, 2))
    for ours, theirs in zip(got, (pair.permute(0, 2, 3, 1).numpy() for pair in expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert 0 <= ours.min() and ours.max() <= 0.25 and np.ptp(ours) > 0.02


@pytest.mark.parametrize("changes", [{}, RESNET], ids=["vgg", "resnet"])
def test_folders_both_ways(changes, tmp_path):
    model, images = MonodepthModel(tiny_config(**changes)), _images()
    model.save_pretrained(tmp_path)
    again = MonodepthModel.from_pretrained(tmp_path)
    assert again.config == model.config
    for a, b in zip(model({"pixel_values": images}), again({"pixel_values": images}), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bytes_of_pixels_and_bfloat16():
    model, images = MonodepthModel(tiny_config()), np.round(255 * _images()).astype("uint8")
    floats = (images / np.float32(255)).astype("float32")
    expected = np.asarray(model({"pixel_values": floats})[0])
    np.testing.assert_allclose(np.asarray(model({"pixel_values": images})[0]), expected, atol=1e-6)
    lower = MonodepthModel(tiny_config(), dtype="mixed_bfloat16")
    assert lower.encoder.conv[0].compute_dtype == "bfloat16"
    assert all(pair.dtype == "float32" for pair in lower({"pixel_values": floats}))


def test_post_processing():
    """Where each part of the width comes from (paper, section 4.3; published code: 20 * (x - 0.05))."""
    own, mirrored = np.full((1, 2, 101, 1), 2.0, "float32"), np.full((1, 2, 101, 1), 6.0, "float32")
    joined = np.asarray(post_processed(own, mirrored))[0, 0, :, 0]
    np.testing.assert_allclose(joined[:6], 6.0, rtol=1e-5)           # to 5 %: the mirrored image's
    np.testing.assert_allclose(joined[95:], 2.0, rtol=1e-5)          # from 95 %: its own
    np.testing.assert_allclose(joined[10:91], 4.0, rtol=1e-5)        # the mean
    assert (np.diff(joined[5:11]) < 0).all() and (np.diff(joined[90:96]) < 0).all()
    model, images = MonodepthModel(tiny_config()), _images()
    own = np.asarray(model({"pixel_values": images})[0])[..., :1]
    other = np.asarray(model({"pixel_values": images[:, :, ::-1]})[0])[:, :, ::-1, :1]
    np.testing.assert_allclose(model.disparity(images), post_processed(own, other), atol=1e-6)
    np.testing.assert_allclose(model.disparity(images, post_process=False), own, atol=1e-6)
    # A mirrored image has the mirrored answer, but for the sides, where each takes the other's part.
    there, back = np.asarray(model.disparity(images)), np.asarray(model.disparity(images[:, :, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(there[:, :, 6:-6], back[:, :, 6:-6], atol=1e-6)


def test_refusals():
    model = MonodepthModel(tiny_config(), name="monodepth")
    with pytest.raises(ValueError, match="monodepth: got images of 32 x 40; expected multiples of 16"):
        model({"pixel_values": _images(width=40)})
    with pytest.raises(ValueError, match="got images of None x None"):
        model({"pixel_values": keras.Input((None, None, 3))})
