"""Perplexity by a sliding window, against each window by itself."""

import numpy as np
import pytest

from tests.models.gpt2.test_model import small_model
from tfhf.decoding.perplexity import perplexity, token_losses


@pytest.fixture(scope="module")
def model():
    return small_model(n_positions=32)


def by_hand(model, ids, window, stride):
    """The loop of Hugging Face's page on perplexity: windows of any length, one by one."""
    total, before = 0.0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        labels = np.array([ids[begin:end]])
        labels[:, :before - begin] = -100
        total += float(np.asarray(model({"input_ids": np.array([ids[begin:end]]), "labels": labels})).sum())
        before = end
        if end == len(ids):
            return total / (len(ids) - 1)


@pytest.mark.parametrize("length, window, stride", [(100, 32, 16), (97, 20, 7), (32, 32, 31), (33, 32, 31), (9, 32, 8)])
def test_equals_each_window_by_itself(model, length, window, stride):
    ids = np.random.default_rng(length).integers(1, 211, length)
    losses = token_losses(model, ids, window, stride, batch_size=3, jit_compile=False)
    assert losses.shape == (length - 1,) and (losses > 0).all()
    assert losses.mean() == pytest.approx(by_hand(model, ids, window, stride), rel=1e-5)


def test_of_one_window_it_is_the_loss(model):
    ids = np.random.default_rng(0).integers(1, 211, 32)
    loss = np.asarray(model({"input_ids": ids[None], "labels": ids[None]})).sum() / 31
    assert perplexity(model, ids) == pytest.approx(np.exp(loss), rel=1e-4)


@pytest.mark.parametrize("arguments, message", [
    (([5],), r"got shape \(1,\)"), (([[1, 2]],), r"got shape \(1, 2\)"), (([1, 2, 3], 33), "window=33"),
    (([1, 2, 3], 8, 8), "stride=8"), (([1, 2, 3], 8, 0), "stride=0")])
def test_refusals(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        perplexity(model, *arguments)
