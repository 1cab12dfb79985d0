"""Perplexity by hand."""

import math

import numpy as np
import pytest

from tfhf.metrics.perplexity import Perplexity, unigram_perplexity


def test_every_token_counts_once():
    metric = Perplexity()
    metric.update("a", {"nll": 3 * math.log(2), "tokens": 3})
    metric.update("b", {"nll": math.log(16), "tokens": 1})
    assert metric.result() == pytest.approx({"perplexity": 2 ** (7 / 4), "nats_per_token": 7 / 4 * math.log(2),
                                             "tokens": 4})


def test_nothing_and_far_too_much():
    assert math.isnan(Perplexity().result()["perplexity"]) and Perplexity().result()["tokens"] == 0
    metric = Perplexity()
    metric.update("a", {"nll": 1e6, "tokens": 1})
    assert metric.result()["perplexity"] == float("inf")


def test_unigram():
    # Counts 3 + 1, 1 + 1, 0 + 1 of 7.
    assert unigram_perplexity([0, 0, 0, 1], [0, 1, 2, 2], 3) == pytest.approx(
        (4 / 7 * 2 / 7 * 1 / 7 * 1 / 7) ** (-1 / 4))
    assert unigram_perplexity(np.arange(50), np.arange(50), 50) == pytest.approx(50)
