"""Accuracy and confusion against counts by hand; the picture is read back from its dots."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfhf.metrics.classification import Accuracy, ByNumber, ConfusionMatrix, Ranked, TopAccuracy
from tfhf.metrics.heat_map import draw_text

PAIRS = [("en", "en")] * 6 + [("en", "de")] * 2 + [("de", "de")] * 3 + [("de", "en")] + [("fr", "de")]
CLASSES = ("en", "de", "fr", "zh")


def _fill(metric):
    for pair in PAIRS:
        metric.update(*pair)
    return metric


def test_accuracy():
    assert _fill(Accuracy()).result() == {"accuracy": 9 / 13, "correct": 9, "examples": 13}
    assert math.isnan(Accuracy().result()["accuracy"])


def test_top_accuracy_goes_by_numbers():
    metric = TopAccuracy((1, 3))
    # Two classes may have one name, as ImageNet's cranes: the numbers tell them apart.
    for reference, numbers in ((4, (4, 1, 2)), (1, (4, 1, 2)), (7, (4, 1, 2)), (2, (4, 1, 2, 9))):
        metric.update(np.int64(reference), Ranked("crane", numbers))
    assert metric.result() == {"top_1": 1 / 4, "top_3": 3 / 4, "examples": 4}
    assert Ranked("crane", (4, 1)) == "crane" and Ranked("crane", np.array([4, 1])).numbers == (4, 1)
    assert math.isnan(TopAccuracy().result()["top_5"])
    with pytest.raises(ValueError, match="the prediction ranks 2 classes, expected at least 3"):
        metric.update(1, Ranked("crane", (4, 1)))


def test_confusion_matrix():
    result = _fill(ConfusionMatrix(CLASSES)).result()
    assert result["confusion_matrix"] == [[6, 2, 0, 0], [1, 3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert (result["recall_en"], result["precision_en"]) == (6 / 8, 6 / 7)
    assert (result["recall_de"], result["precision_de"]) == (3 / 4, 3 / 6)
    assert result["recall_fr"] == 0 and math.isnan(result["precision_fr"]) and "recall_zh" not in result
    assert (result["f1_en"], result["f1_de"], result["f1_fr"]) == (12 / 15, 6 / 10, 0) and "f1_zh" not in result
    assert result["macro_f1"] == pytest.approx((12 / 15 + 6 / 10 + 0) / 3)


def test_references_by_number():
    metric = ByNumber(ConfusionMatrix(CLASSES), CLASSES)
    for reference, prediction in PAIRS:
        metric.update(np.int64(CLASSES.index(reference)), prediction)
    assert str(metric.result()) == str(_fill(ConfusionMatrix(CLASSES)).result())
    assert metric.name == "confusion_matrix" and metric.picture().shape[2] == 3
    assert not hasattr(ByNumber(Accuracy(), CLASSES), "picture")


def test_refusals():
    with pytest.raises(ValueError, match="the reference 'xx' is no class, expected one of .'en', 'de'"):
        ConfusionMatrix(CLASSES).update("xx", "en")
    with pytest.raises(ValueError, match="the prediction 'xx' is no class"):
        ConfusionMatrix(CLASSES).update("en", "xx")
    for wrong in ((), ("en", "en")):
        with pytest.raises(ValueError, match="none of them twice"):
            ConfusionMatrix(wrong)


def _find(dark, text, scale):
    """Top left corners at which exactly the dots of the text are drawn."""
    pattern = draw_text(text, scale)[:7 * scale, :-scale]
    windows = np.lib.stride_tricks.sliding_window_view(dark, pattern.shape)
    return np.argwhere((windows == pattern).all(axis=(2, 3)))


def test_the_picture_can_be_read():
    picture = _fill(ConfusionMatrix(CLASSES)).picture()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    black, white = (picture == 0).all(-1), (picture == 255).all(-1)
    assert len(_find(black, "row: reference", 2)) == 1
    black[:28] = False   # the title has names' letters in it
    rows, columns = [], []
    for name in CLASSES:   # each name twice: before its row and above its column
        (above, column), (row, left) = _find(black, name, 2)
        assert above < row and left < column
        rows.append(row)
        columns.append(column)
    assert rows == sorted(rows) and columns == sorted(columns)
    # Counts: 6 of 8 is more than half, white on dark; 2 of 8 black on light; each in its row and its column.
    for ink, number, row, column in ((white, "6", 0, 0), (black, "2", 0, 1), (white, "3", 1, 1), (white, "1", 2, 1)):
        places = _find(ink, number, 2)
        assert any(abs(y - rows[row]) < 2 and abs(x - columns[column]) < 20 for y, x in places), (number, places)
    corner = [picture[rows[i] - 4, columns[j] - 3].astype(int) for i, j in ((0, 0), (0, 1), (0, 2))]
    assert corner[0].sum() < corner[1].sum() < corner[2].sum() == 3 * 255   # the larger the share, the darker


def test_pictures_of_any_size():
    names = [f"class-{i}" for i in range(107)]
    metric = ConfusionMatrix([*names, "हिन्दी"])
    metric.update("हिन्दी", "class-3")
    picture = metric.picture()
    assert max(picture.shape) < 7000
    again = tf.io.decode_png(tf.io.encode_png(picture)).numpy()
    np.testing.assert_array_equal(again, picture)
    assert ConfusionMatrix(["a"]).picture().shape[1] > len("row: reference  column: prediction") * 12 - 12
