"""UNet: counts, parity with the same network in torch, odd sizes, the up-convolution, saving and loading."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf import weights
from tfhf.models.unet.config import PARAMETER_COUNTS, UPSAMPLINGS, UNetConfig
from tfhf.models.unet.model import (UNetForDepthEstimation, UNetForSemanticSegmentation, UNetUpConvolution,
                                    fill_up)

WIDTHS = (4, 8, 12)


def _pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


def _small(**changes):
    return UNetConfig(**{"hidden_sizes": WIDTHS, **changes})


@pytest.mark.parametrize("size", list(PARAMETER_COUNTS))
def test_parameter_counts(size):
    model = UNetForSemanticSegmentation(UNetConfig.of_size(size))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == PARAMETER_COUNTS[size]


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_upsampling_has_as_many_parameters_and_the_size_of_the_image(upsampling):
    model = UNetForSemanticSegmentation(_small(upsampling=upsampling, num_labels=5))
    assert model({"pixel_values": _pixels(2, 16, 24, 3)}).shape == (2, 16, 24, 5)
    assert model.count_params() == UNetForSemanticSegmentation(_small(num_labels=5)).count_params()


def _torch_unet(config):
    """The same network in plain torch, its modules named as ours."""
    torch = pytest.importorskip("torch")
    from tests.models.unet.torch_unet import TorchUNet

    torch.manual_seed(0)
    return torch, TorchUNet(config)


@pytest.mark.parametrize("changes", [{}, {"use_bias": False, "use_batch_norm": True}, {"use_batch_norm": True}])
def test_parity_with_torch(changes):
    config = _small(num_labels=3, **changes)
    torch, theirs = _torch_unet(config)
    ours = UNetForSemanticSegmentation(config)
    state = {name: value.numpy() for name, value in theirs.state_dict().items() if "num_batches" not in name}
    for name, value in state.items():   # statistics that are not 0 and 1
        if "running" in name:
            value[...] = _pixels(*value.shape, seed=len(name)) + 0.5
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()}, strict=False)
    weights.assign_reference_weights(ours, state, where="torch")
    image = _pixels(2, 16, 24, 3)
    expected = theirs.eval()(torch.tensor(image - 0.5).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1).numpy()
    got = ours({"pixel_values": image}).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())

    # And in training: batch statistics, and the gradient of every weight.
    theirs.train()
    theirs(torch.tensor(image - 0.5).permute(0, 3, 1, 2)).square().mean().backward()
    wanted = {name: value.grad.numpy() for name, value in theirs.named_parameters()}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(ours({"pixel_values": image}, training=True)))
    for variable, gradient in zip(ours.trainable_variables, tape.gradient(loss, ours.trainable_variables)):
        name = weights.reference_name(variable)
        gradient = gradient.numpy().transpose(3, 2, 0, 1) if gradient.shape.rank == 4 else gradient.numpy()
        size = max(np.abs(wanted[name]).max(), 1e-3)   # a bias before a normalisation has no gradient but rounding
        np.testing.assert_allclose(gradient, wanted[name], atol=1e-3 * size, err_msg=name)


def test_up_convolution_is_kerass_transposed_convolution():
    ours, theirs = UNetUpConvolution(5), keras.layers.Conv2DTranspose(5, 2, strides=2)
    x = _pixels(2, 3, 4, 7)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights([ours.kernel.numpy(), _pixels(5)])
    ours.bias.assign(theirs.bias)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("height, width", [(8, 12), (9, 5), (3, 2), (1, 1)])
def test_fill_up_is_numpys_pad(mode, height, width):
    x = _pixels(1, height, width, 2)
    rows, columns = -height % 8, -width % 8
    expected = np.pad(x, [(0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)], mode)
    got, begins = fill_up(tf.constant(x), 8, mode)
    np.testing.assert_array_equal(got, expected)
    assert begins == (rows // 2, columns // 2)
    dynamic = tf.function(lambda x: fill_up(x, 8, mode)[0], input_signature=[tf.TensorSpec([None, None, None, 2])])
    np.testing.assert_array_equal(dynamic(x), expected)


@pytest.mark.parametrize("changes", [{}, {"padding": "edge"}, {"upsampling": "bilinear"}])
def test_odd_sizes_are_those_of_the_filled_up_picture(changes):
    config = _small(**changes)
    model, image = UNetForDepthEstimation(config), _pixels(2, 10, 15, 3)
    filled = np.pad(image, [(0, 0), (1, 1), (0, 1), (0, 0)], config.padding)
    np.testing.assert_allclose(model({"pixel_values": image}), model({"pixel_values": filled})[:, 1:11, :15], atol=1e-6)
    unknown = tf.function(lambda pixels: model({"pixel_values": pixels}),
                          input_signature=[tf.TensorSpec([None, None, None, 3])])
    for height, width in ((10, 15), (16, 8), (1, 1)):
        image = _pixels(1, height, width, 3)
        np.testing.assert_allclose(unknown(image), model({"pixel_values": image}), atol=1e-5)


def test_depth_is_within_its_range_and_bytes_are_floats():
    model = UNetForDepthEstimation(_small(min_depth=0.5, max_depth=4.0))
    model.head.kernel.assign(model.head.kernel * 1e4)
    data = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), "uint8")
    depth = model({"pixel_values": data}).numpy()
    assert depth.min() >= 0.5 and depth.max() <= 4.0 and depth.max() > depth.min()
    np.testing.assert_allclose(depth, model({"pixel_values": data / np.float32(255)}), atol=1e-2)


def test_save_and_load(tmp_path):
    config = _small(use_batch_norm=True, use_bias=False)
    model = UNetForDepthEstimation(config)
    model.save_pretrained(tmp_path)
    again = UNetForDepthEstimation.from_pretrained(tmp_path)
    image = {"pixel_values": _pixels(1, 8, 8, 3)}
    assert again.config == config
    np.testing.assert_array_equal(again(image), model(image))
    with pytest.raises(weights.WeightsError, match="head.weight"):
        UNetForSemanticSegmentation.from_pretrained(tmp_path, num_labels=4)
    other = UNetForSemanticSegmentation.from_pretrained(tmp_path, new_head=True, num_labels=4)
    np.testing.assert_array_equal(other.unet.down_blocks[0].conv1.kernel, model.unet.down_blocks[0].conv1.kernel)


def test_refusals():
    model = UNetForDepthEstimation(_small())
    for shape in ((8, 8, 3), (1, 8, 8, 1)):
        with pytest.raises(ValueError, match=r"expected \[batch, height, width, 3\]"):
            model({"pixel_values": _pixels(*shape)})
    with pytest.raises(ValueError, match="expected UNetConfig"):
        UNetForDepthEstimation({"hidden_sizes": WIDTHS})
