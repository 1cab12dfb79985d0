"""Cross-entropy of tokens and of labels against its definition, per example."""

import numpy as np
import pytest

from tfhf.losses.cross_entropy import LabelCrossEntropy, TokenCrossEntropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_the_mean_over_an_examples_own_tokens(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype("float32")
    labels = rng.integers(0, 7, (3, 5)).astype("int32")
    labels[0, 2:] = -100
    labels[2] = -100  # an example without tokens counts nothing and is no NaN
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = []
    for row, target in zip(log_p, labels):
        values = [-(1 - smoothing) * p[t] - smoothing * p.mean() for p, t in zip(row, target) if t != -100]
        expected.append(np.mean(values) if values else 0.0)
    loss = TokenCrossEntropy(smoothing)
    np.testing.assert_allclose(loss.call(labels, logits), expected, rtol=1e-5)
    assert TokenCrossEntropy.from_config(loss.get_config()).label_smoothing == smoothing


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, 9)).astype("float32"), rng.integers(0, 9, (2, 4)).astype("int32")
    longer = np.concatenate([logits, rng.normal(size=(2, 3, 9)).astype("float32")], 1)
    padded = np.concatenate([labels, np.full((2, 3), -100, "int32")], 1)
    loss = TokenCrossEntropy()
    np.testing.assert_allclose(loss.call(labels, logits), loss.call(padded, longer), rtol=1e-6)


def _against(targets, logits):
    """Cross-entropy of a distribution, float [batch, classes], in float64."""
    log_p = logits - np.log(np.exp(logits.astype("float64")).sum(-1, keepdims=True))
    return -(targets * log_p).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_smoothed_and_mixed_are_the_mixed_distributions(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 6)).astype("float32"), np.array([2, 0, 5, 5], "int32")
    targets = (1 - smoothing) * np.eye(6)[labels] + smoothing / 6
    loss = LabelCrossEntropy(smoothing)
    np.testing.assert_allclose(loss.call(labels, logits), _against(targets, logits), rtol=1e-5)
    share = np.array([1.0, 0.3, 0.0, 0.9], "float32")
    mixed = share[:, None] * targets + (1 - share[:, None]) * np.roll(targets, -1, axis=0)
    got = loss.call({"label": labels, "mixup": share}, logits)
    np.testing.assert_allclose(got, _against(mixed, logits), rtol=1e-5)
    assert LabelCrossEntropy.from_config(loss.get_config()).label_smoothing == smoothing
