"""Perplexity: how many tokens, all alike, a language model is as unsure as between."""

import math

import numpy as np


class Perplexity:
    """exp of the mean of -log p over all tokens of a split, every token counted once.

    A prediction is a dict of `nll`, the sum of -log p in nats of a row's tokens, and `tokens`, their number; the
    reference is not looked at.
    """

    name = "perplexity"

    def __init__(self):
        self._nll, self._tokens = 0.0, 0

    def update(self, reference, prediction):
        """Adds one row."""
        del reference
        self._nll += prediction["nll"]
        self._tokens += prediction["tokens"]

    def result(self):
        """{perplexity, nats_per_token, tokens}; NaN without a token."""
        mean = self._nll / self._tokens if self._tokens else float("nan")
        return {"perplexity": math.exp(mean) if mean < 700 else float("inf") if mean > 0 else float("nan"),
                "nats_per_token": mean, "tokens": self._tokens}


def unigram_perplexity(train_ids, ids, vocab_size):
    """What a model that knows how often each token comes, and nothing else, has: the line to be below.

    Args:
        train_ids: int [n], what the counts are taken from; each has one more, so that no token is impossible (Laplace).
        ids: int [m], at least one: the tokens to tell.
        vocab_size: int.
    """
    counts = np.bincount(np.asarray(train_ids), minlength=vocab_size) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[np.asarray(ids)].mean()))
