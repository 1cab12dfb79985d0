"""Pictures: shapes, the scale of colours, titles, and what is refused."""

import numpy as np
import pytest

from tfhf.pictures import as_rgb, colour_depth, error_map, side_by_side


def test_side_by_side_keeps_every_pixel():
    colour = np.random.default_rng(0).integers(0, 256, (10, 7, 3)).astype("uint8")
    grey = np.linspace(0, 1, 20, dtype="float32").reshape(4, 5)
    picture = side_by_side([colour, grey, grey[..., None]])
    assert picture.dtype == np.uint8 and picture.shape == (10, 7 + 4 + 5 + 4 + 5, 3)
    np.testing.assert_array_equal(picture[:, :7], colour)
    np.testing.assert_array_equal(picture[:4, 11:16, 0], np.rint(grey * 255))
    assert (picture[4:, 11:] == 255).all() and (picture[:, 7:11] == 255).all()


def test_titles_stand_above_and_are_cut_to_the_image():
    image = np.zeros((5, 40, 3), "uint8")
    picture = side_by_side([image, image], ["Input", "a very long title indeed"])
    assert picture.shape == (21, 84, 3)
    np.testing.assert_array_equal(picture[16:, :40], image)
    assert (picture[:16, :40] == 0).any() and (picture[:16, 44:] == 0).any() and (picture[:16, 40:44] == 255).all()
    different = side_by_side([image, image], ["Output", "a very long title indeed"])
    assert (different[:16, :40] != picture[:16, :40]).any()


def test_near_is_warm_far_is_cold_and_invalid_is_black():
    depth = np.array([[1.0, 2.0, 4.0, 80.0, 0.0, np.inf]])
    colours = colour_depth(depth)[0].astype(int)
    warmth = colours[:, 0] - colours[:, 2]   # red over blue
    assert warmth[0] > 150 and warmth[3] < -80 and (np.diff(warmth[:4]) < 0).all()
    assert (colours[4:] == 0).all() and (colours[:4].sum(axis=-1) > 0).all()
    luma = colours[:4] @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) < 0).all()
    assert (colour_depth(depth[..., None], np.zeros((1, 6, 1), bool)) == 0).all()
    assert colour_depth(np.full((3, 4), 5.0)).shape == (3, 4, 3)


def test_the_error_map_goes_from_blue_to_yellow():
    truth = np.zeros((2, 3, 3))
    prediction = truth + np.arange(6).reshape(2, 3, 1) / 5
    colours = error_map(prediction, truth).astype(int)
    assert tuple(colours[0, 0]) == (13, 8, 135) and tuple(colours[1, 2]) == (240, 249, 33)
    assert (error_map(prediction[..., 0], truth[..., 0], np.zeros((2, 3), bool)) == 0).all()
    assert tuple(error_map(truth, truth)[0, 0]) == (13, 8, 135)
    prediction[0, 1] = np.nan
    assert (error_map(prediction, truth)[0, 1] == 0).all()


def test_what_is_refused():
    image = np.zeros((2, 2, 3), "uint8")
    for call, message in (
        (lambda: side_by_side([]), "no images"),
        (lambda: side_by_side([image], ["a", "b"]), "2 titles, expected 1"),
        (lambda: as_rgb(np.zeros((2, 2, 4), "uint8")), r"uint8 \(2, 2, 4\), expected"),
        (lambda: as_rgb(np.zeros((2, 2), "int64")), "int64"),
        (lambda: error_map(np.zeros((2, 2)), np.zeros((2, 3))), r"shape \(2, 2\) and a truth of \(2, 3\)"),
        (lambda: colour_depth(np.zeros((2, 2, 3))), "expected .height, width"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
