"""Contrastive accuracy and codebook perplexity over clips."""

import math

import pytest

from tfhf.metrics.contrastive import CodebookUse


def test_frames_count_not_clips():
    metric = CodebookUse()
    metric.update("", {"correct": 3, "codes": [[0, 0], [1, 0], [2, 0]]})
    metric.update("", {"correct": 0, "codes": [[3, 0]]})
    metric.update("", {"correct": 0, "codes": []})
    result = metric.result()
    assert result["contrastive_accuracy"] == 0.75 and result["masked_frames"] == 4
    assert result["code_perplexity"] == pytest.approx(4 + 1)


def test_nothing_masked_is_not_a_number():
    assert math.isnan(CodebookUse().result()["contrastive_accuracy"])
