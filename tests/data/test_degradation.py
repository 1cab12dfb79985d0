"""Down-scaling against MATLAB's rule written out and PIL's, blur against NumPy, noise and seeds, refusals."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.config import ConfigError
from tfhf.data.degradation import (
    DegradationConfig,
    degrade,
    downscale,
    gaussian_blur,
    super_resolution_pair,
    whole_blocks,
)
from tfhf.data.image import encode_png, read_image

SEED = tf.constant([3, 4])
IMAGE = np.random.default_rng(0).uniform(size=(24, 36, 3)).astype("float32")


def _cubic(x):
    """Keys' kernel with a = -0.5, as imresize.m has it."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return near * (x <= 1) + far * ((x > 1) & (x <= 2))


def _imresize(image, scale, axis):
    """imresize.m's contributions along one axis: output u (from 1) looks at u * scale + (1 - scale) / 2."""
    size = image.shape[axis]
    out = []
    for u in range(1, size // scale + 1):
        centre = u * scale + 0.5 * (1 - scale)
        places = np.floor(centre - 2 * scale) + np.arange(4 * scale + 2)
        weights = _cubic((centre - places) / scale) / scale
        weights /= weights.sum()
        mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
        inside = mirror[(places.astype(int) - 1) % (2 * size)]
        out.append(np.tensordot(weights, image.take(inside, axis), (0, axis)))
    return np.stack(out, axis)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscaling_is_matlabs_rule(scale):
    expected = _imresize(_imresize(IMAGE.astype("float64"), scale, 0), scale, 1)
    np.testing.assert_allclose(downscale(IMAGE, scale), expected, atol=1e-5)
    small = IMAGE[:scale, :2 * scale]   # far smaller than the kernel: mirrored again and again
    expected = _imresize(_imresize(small.astype("float64"), scale, 0), scale, 1)
    np.testing.assert_allclose(downscale(small, scale), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_downscaling_is_pils_bicubic_but_at_the_edges(assets, scale):
    image = pytest.importorskip("PIL.Image", reason="the comparison needs Pillow")
    photograph = read_image(assets("esrgan-slim") / "images/samples/4x/result.png")
    size = [side // scale for side in photograph.shape[1::-1]]

    def pils(picture):
        return np.asarray(image.fromarray(picture).resize(size, image.BICUBIC)).astype("float32")

    ours = downscale(photograph.astype("float32"), scale).numpy()
    # Of floats; of 8 bits PIL rounds and clips its first pass, along the rows, before the second.
    exact = np.stack([pils(photograph[..., i].astype("float32")) for i in range(3)], axis=-1)
    rounded = np.abs(np.clip(ours, 0, 255) - pils(photograph))
    difference = np.abs(ours - exact)
    print(f"\nx{scale}, in 1/255: inside {difference[2:-2, 2:-2].max():.4f}, at the edges {difference.max():.2f}; "
          f"to PIL's 8 bits inside {rounded[2:-2, 2:-2].max():.2f}, mean {rounded.mean():.3f}")
    assert difference[2:-2, 2:-2].max() <= 0.01 and rounded[2:-2, 2:-2].mean() <= 0.5


def test_blur_is_a_gaussian():
    dot = np.zeros((41, 31, 1), "float32")
    dot[20, 15] = 1.0
    blurred = gaussian_blur(dot, 2.0, radius=8).numpy()[..., 0]
    weights = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    expected = np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(blurred[12:29, 7:24], expected, atol=1e-6)
    np.testing.assert_allclose(gaussian_blur(IMAGE, 0.0, radius=8), IMAGE, atol=1e-6)
    np.testing.assert_allclose(gaussian_blur(np.ones((5, 6, 3), "float32"), 3.0, radius=12), 1.0, atol=1e-5)


def test_degradation_is_a_function_of_its_seed():
    config = DegradationConfig(blur=2.0, noise=0.1)
    graph = tf.function(lambda seed: degrade(seed, IMAGE, 2, config))
    first, again, other = graph(SEED), graph(SEED), graph(SEED + 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, degrade(SEED, IMAGE, 2, config), atol=1e-6)
    assert np.abs(first - other).max() > 0.05 and first.shape == (12, 18, 3)
    np.testing.assert_allclose(first * 255, np.round(first * 255), atol=1e-4)   # 8 bits, as a file would have
    plain = degrade(SEED, IMAGE, 2)
    np.testing.assert_array_equal(plain, degrade(SEED + 1, IMAGE, 2))
    np.testing.assert_allclose(plain, np.clip(downscale(IMAGE, 2), 0, 1), atol=0.5001 / 255)


def test_noise_has_the_drawn_strength():
    grey = np.full((256, 256, 1), 0.5, "float32")
    strengths = [float(np.std(degrade(SEED + i, grey, 2, DegradationConfig(noise=0.1)))) for i in range(24)]
    assert max(strengths) < 0.105 and 0.03 < np.mean(strengths) < 0.07   # uniform between 0 and 0.1


def _example(target, image=b""):
    as_bytes = [encode_png((255 * x).astype("uint8")) if len(x) else b"" for x in (target, image)]
    return {"target": as_bytes[0], "image": as_bytes[1], "seed": SEED}


def test_pairs_are_cut_at_one_place():
    made = DegradationConfig()
    small, large = super_resolution_pair(_example(IMAGE[:, :35]), 2, made)
    assert small.shape == (12, 17, 3) and large.shape == (24, 34, 3)
    # A record's own pair: the piece of one is the down-scaled piece of the other, mirrored or not.
    smooth = np.stack(np.broadcast_arrays(*np.ix_(np.linspace(0, 1, 24), np.linspace(0, 1, 36), [0.2])), 2)[..., 0]
    for seed in range(8):
        example = {**_example(smooth, downscale(smooth, 2).numpy()), "seed": tf.constant([seed, 0])}
        small, large = super_resolution_pair(example, 2, DegradationConfig("image"), piece=5)
        assert small.shape == (5, 5, 3) and large.shape == (10, 10, 3)
        np.testing.assert_allclose(small[1:-1, 1:-1], downscale(large, 2)[1:-1, 1:-1], atol=0.02)


def test_refusals():
    with pytest.raises(ValueError, match="width 36 is no multiple of the scale 8"):
        downscale(IMAGE, 8)
    dynamic = tf.function(lambda image: downscale(image, 5), input_signature=[tf.TensorSpec([None, None, 3])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="no multiple of the scale"):
        dynamic(IMAGE)
    assert whole_blocks(IMAGE, 5).shape == (20, 35, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="RecordError: a target of"):
        super_resolution_pair(_example(IMAGE, IMAGE[:10, :18]), 2, DegradationConfig("image"))
    with pytest.raises(ConfigError, match="degradation.blur: got -1"):
        DegradationConfig(blur=-1.0)
    with pytest.raises(ConfigError, match="degradation.noise: got 0.1 with source=image"):
        DegradationConfig("image", noise=0.1)
