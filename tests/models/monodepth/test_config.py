"""Published shapes of monodepth, their exact parameter counts, and refusals."""

import pytest

from tfhf.models.monodepth.config import PARAMETER_COUNTS, SIZES, MonodepthConfig, tiny_config


def _conv(inputs, outputs, size):
    return inputs * outputs * size * size + outputs


def _count(config):
    """By arithmetic: what MonodepthModel creates."""
    widths, total, width = list(config.encoder_hidden_sizes), 0, 3
    if config.encoder == "vgg":
        for outputs, size in zip(widths, config.encoder_kernel_sizes):
            total += _conv(width, outputs, size) + _conv(outputs, outputs, size)
            width = outputs
        skips = widths
    else:
        total, width, skips = _conv(3, widths[0], 7), widths[0], [widths[0], widths[0]]
        for inner, depth in zip(widths[1:], config.encoder_depths):
            for _ in range(depth):
                total += _conv(width, inner, 1) + _conv(inner, inner, 3) + _conv(inner, 4 * inner, 1)
                total += _conv(width, 4 * inner, 1)
                width = 4 * inner
            skips.append(width)
    for i in reversed(range(len(config.decoder_hidden_sizes))):
        outputs = config.decoder_hidden_sizes[i]
        total += _conv(width, outputs, 3) + _conv(outputs + (skips[i - 1] if i else 0) + 2 * (i < 3), outputs, 3)
        width = outputs
        total += _conv(width, 2, 3) if i < 4 else 0
    return total


@pytest.mark.parametrize("name", SIZES)
def test_exact_counts(name):
    assert _count(MonodepthConfig.of_size(name)) == PARAMETER_COUNTS[name]


def test_the_vgg_has_the_published_number():
    assert PARAMETER_COUNTS["vgg"] == 31_600_072


@pytest.mark.parametrize("changes", [{}, dict(encoder="resnet", encoder_hidden_sizes=(8, 4, 8), encoder_kernel_sizes=(),
                                              encoder_depths=(2, 1))])
def test_the_arithmetic_is_that_of_the_model(changes):
    from tfhf.models.monodepth.model import MonodepthModel

    config = tiny_config(**changes)
    assert MonodepthModel(config).count_params() == _count(config)


@pytest.mark.parametrize("changes, words", [
    (dict(encoder="unet"), "encoder: got 'unet'; expected one of vgg, resnet"),
    (dict(encoder_kernel_sizes=(3, 3)), "encoder_kernel_sizes: got 2 of them; expected 7, one for each of"),
    (dict(encoder="resnet"), "encoder_depths: got 0 of them; expected 6, .* but the first"),
    (dict(decoder_hidden_sizes=(8, 8, 8, 8)), "got 4 of them for an encoder that halves 7 times"),
    (dict(max_disparity=0.0), "max_disparity: got 0.0; expected a part of the width"),
])
def test_fields_that_do_not_fit(changes, words):
    with pytest.raises(ValueError, match=words):
        MonodepthConfig(**changes)


def test_strides_and_unknown_sizes():
    assert MonodepthConfig().stride == 128 and MonodepthConfig.of_size("resnet50").stride == 64
    with pytest.raises(ValueError, match="No monodepth size 'resnet18'; known: vgg, resnet50"):
        MonodepthConfig.of_size("resnet18")
