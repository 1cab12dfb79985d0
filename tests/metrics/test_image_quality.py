"""PSNR and SSIM against scikit-image, live where it is installed, and against numbers recorded from it (0.26.0)."""

import math

import numpy as np
import pytest

from tfhf.data.image import encode_png, read_image
from tfhf.metrics.image_quality import PeakSignalToNoiseRatio, StructuralSimilarity, luma, psnr, ssim

SETTINGS = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)


def _pair():
    rows, columns, colours = np.indices((40, 56, 3))
    first = ((7 * rows + 13 * columns + rows * columns // 5 + 40 * colours) % 256).astype("uint8")
    second = 0.8 * first.astype("float64") + (11 * rows + 5 * columns + 3 * colours) % 37 - 10
    return first, np.clip(second, 0, 255).astype("uint8")


def _check_against(skimage, first, second):
    from skimage.color import rgb2ycbcr

    metrics = skimage.metrics
    expected = metrics.peak_signal_noise_ratio(first, second, data_range=255)
    assert psnr(first, second) == pytest.approx(expected, abs=1e-5)
    expected = metrics.structural_similarity(first, second, channel_axis=-1, **SETTINGS)
    assert ssim(first, second) == pytest.approx(expected, abs=1e-5)
    y = [rgb2ycbcr(image)[..., 0] for image in (first, second)]
    np.testing.assert_allclose(luma(first)[..., 0], y[0], atol=1e-9)
    assert ssim(luma(first), luma(second)) == pytest.approx(metrics.structural_similarity(*y, **SETTINGS), abs=1e-5)


def test_are_scikit_images_on_random_images():
    skimage = pytest.importorskip("skimage", reason="live parity needs scikit-image")
    random = np.random.default_rng(0)
    for shape in ((11, 11, 3), (64, 50, 3)):
        _check_against(skimage, *random.integers(0, 256, (2, *shape)).astype("uint8"))


def test_are_scikit_images_on_a_photograph_and_its_enlargement(assets):
    skimage = pytest.importorskip("skimage", reason="live parity needs scikit-image")
    folder = assets("esrgan-slim")
    two, three = (read_image(folder / f"images/samples/{scale}x/result.png") for scale in (2, 3))
    _check_against(skimage, two, three[:256, :256])


def test_are_the_recorded_numbers():
    first, second = _pair()
    assert psnr(first, second) == pytest.approx(19.979731435410905, abs=1e-9)
    assert ssim(first, second) == pytest.approx(0.9287093002145942, abs=1e-9)
    results = {}
    for metric in (PeakSignalToNoiseRatio("y", 4), StructuralSimilarity("y", 4)):
        metric.update(first, second)
        results.update(metric.result())
    assert results == pytest.approx({"psnr_y_crop4": 22.307453493305832, "ssim_y_crop4": 0.9284877646776414}, abs=1e-9)


def test_the_mean_is_over_images_and_references_may_be_files():
    first, second = _pair()
    metric = PeakSignalToNoiseRatio("rgb", 2)
    larger = np.pad(first, ((0, 3), (0, 1), (0, 0)))   # what a scale does not divide
    metric.update(encode_png(larger).numpy(), second)
    metric.update(first[:20], second[:20])
    inner = [psnr(first[2:rows - 2, 2:-2], second[2:rows - 2, 2:-2]) for rows in (40, 20)]
    assert metric.result() == {"psnr_rgb_crop2": pytest.approx(np.mean(inner))}
    assert math.isnan(StructuralSimilarity().result()["ssim_y_crop0"])
    assert psnr(first, first) == math.inf and ssim(first, first) == pytest.approx(1.0)


def test_refusals():
    first, second = _pair()
    with pytest.raises(ValueError, match="psnr: colour 'hsv', expected one of"):
        PeakSignalToNoiseRatio("hsv")
    with pytest.raises(ValueError, match="ssim: images of 10 x 56 pixels, expected at least 11 x 11"):
        ssim(first[:10], second[:10])
    with pytest.raises(ValueError, match="psnr: a prediction of 40 x 56 pixels for a reference of 30 x 56"):
        PeakSignalToNoiseRatio().update(first[:30], second)
    with pytest.raises(ValueError, match="more than 56, which the crop takes"):
        StructuralSimilarity("y", 28).update(first, second)
