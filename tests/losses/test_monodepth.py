"""The objective of left-right consistency: against plain torch, its symmetry, and that the truth is its minimum."""

import numpy as np
import pytest
from keras import ops

from tfhf.losses.monodepth import MonodepthLoss, smoothness, warped

RNG = np.random.default_rng(0)
SIZE = (2, 32, 48)


def _problem():
    targets = {name: RNG.random((*SIZE, 3)).astype("float32") for name in ("left", "right")}
    return targets, [RNG.uniform(0, 0.3, (2, 32 >> i, 48 >> i, 2)).astype("float32") for i in range(4)]


def test_equals_plain_torch():
    torch = pytest.importorskip("torch")
    from tests.models.monodepth.torch_monodepth import losses

    def reference(targets, pairs, *options):
        views = [torch.tensor(targets[name]).permute(0, 3, 1, 2) for name in ("left", "right")]
        return losses(views, [torch.tensor(pair).permute(0, 3, 1, 2) for pair in pairs], *options).numpy()

    for options in ({}, dict(alpha=0.5, smoothness_weight=2.0, left_right_weight=0.3)):
        problem = _problem()
        got = ops.convert_to_numpy(MonodepthLoss(**options).call(*problem))
        assert got.shape == (2,) and got.dtype == "float32"
        np.testing.assert_allclose(got, reference(*problem, *options.values()), rtol=2e-5)


def test_a_mirrored_pair_in_changed_places_has_the_same_loss():
    targets, disparities = _problem()
    mirrored = {"left": targets["right"][:, :, ::-1], "right": targets["left"][:, :, ::-1]}
    expected = ops.convert_to_numpy(MonodepthLoss().call(targets, disparities))
    got = MonodepthLoss().call(mirrored, [pair[:, :, ::-1, ::-1] for pair in disparities])
    np.testing.assert_allclose(ops.convert_to_numpy(got), expected, rtol=1e-5)


def _shifted_pair(pixels, width=64):
    """A smooth random picture from two places: the right image shows at x what the left one shows at x + pixels."""
    scene = RNG.random((1, 32, width // 4 + 8, 3)).repeat(4, axis=2)
    scene = sum(np.roll(scene, i, axis=2) for i in range(4)).astype("float32") / 4
    return {"left": scene[:, :, 8:8 + width], "right": scene[:, :, 8 + pixels:8 + pixels + width]}


def test_the_true_disparity_has_the_least_loss_and_rebuilds_the_image():
    targets = _shifted_pair(6)
    losses = {}
    for pixels in range(0, 13):
        pyramid = [np.full((1, 32 >> i, 64 >> i, 2), pixels / 64, "float32") for i in range(4)]
        losses[pixels] = float(ops.convert_to_numpy(MonodepthLoss().call(targets, pyramid))[0])
    assert min(losses, key=losses.get) == 6, losses
    disparity = np.full((1, 32, 64, 1), 6 / 64, "float32")
    rebuilt = ops.convert_to_numpy(warped(targets["right"], disparity))
    np.testing.assert_allclose(rebuilt[:, :, 6:], targets["left"][:, :, 6:], atol=1e-5)
    assert not rebuilt[:, :, :6].any()   # not seen by the right camera
    rebuilt = ops.convert_to_numpy(warped(targets["left"], disparity, to_right=True))
    np.testing.assert_allclose(rebuilt[:, :, :-6], targets["right"][:, :, :-6], atol=1e-5)


def test_disparities_of_a_crop_are_parts_of_the_whole_width():
    targets, disparities = _problem()
    expected = MonodepthLoss(smoothness_weight=0.0, left_right_weight=0.0).call(targets, disparities)
    halved = [pair / 2 for pair in disparities]
    got = MonodepthLoss(smoothness_weight=0.0, left_right_weight=0.0, width=96).call(targets, halved)
    np.testing.assert_allclose(ops.convert_to_numpy(got), ops.convert_to_numpy(expected), rtol=1e-5)


def test_bytes_of_pixels_terms_and_edges():
    targets, disparities = _problem()
    whole = {name: np.round(255 * view).astype("uint8") for name, view in targets.items()}
    loss = MonodepthLoss()
    got = ops.convert_to_numpy(loss.call(whole, disparities))
    expected = loss.call({name: (view / 255).astype("float32") for name, view in whole.items()}, disparities)
    np.testing.assert_allclose(got, ops.convert_to_numpy(expected), rtol=1e-5)
    means = {name: float(value) for name, value in loss.measures(whole, disparities).items()}
    np.testing.assert_allclose(means["appearance"] + 0.1 * means["smoothness"] + means["left_right"], got.mean(),
                               rtol=1e-5)
    assert MonodepthLoss.from_config(MonodepthLoss(width=7).get_config()).width == 7
    # A step of the disparity costs less where the image has an edge.
    step = np.zeros((1, 4, 4, 1), "float32")
    step[:, :, 2:] = 1.0
    flat, edge = float(smoothness(step, 0 * step)[0]), float(smoothness(step, 3 * step)[0])
    assert flat == pytest.approx(1 / 3) and edge == pytest.approx(np.exp(-3) / 3)
