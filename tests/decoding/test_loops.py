"""The decoding loops on a small Markov chain, where every answer can be found by hand."""

import itertools

import numpy as np
import pytest
from keras import ops

from tfhf.decoding.beam_search import BeamSearch, beam_loop
from tfhf.decoding.compile import compiled
from tfhf.decoding.sampling import Sampling, filter_top, sample_loop

VOCABULARY, END, PAD = 6, 0, 5


@pytest.fixture(scope="module")
def chain():
    """Log-probabilities of the next token after each token, a different table at each of 4 steps."""
    logits = np.random.default_rng(4).normal(0, 1.5, (4, VOCABULARY, VOCABULARY)).astype("float32")
    logits[..., PAD] = -1e9
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _step(chain):
    def step(token, index, cache):
        return ops.take(ops.take(chain, index, axis=0), token, axis=0), cache
    return step


def _every_sequence(chain, first):
    """All ended or full sequences with their sums, by brute force."""
    found = {}
    for tokens in itertools.product(range(VOCABULARY - 1), repeat=4):
        cut = tokens[:tokens.index(END) + 1] if END in tokens else tokens
        total, last = 0.0, first
        for index, token in enumerate(cut):
            total += chain[index][last, token]
            last = token
        found[cut] = total
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("xla", [False, True])
def test_a_wide_beam_finds_the_best_of_all_sequences(chain, penalty, xla):
    beams = 40
    options = BeamSearch(4, beams, END, PAD, penalty)
    starts = [1, 3]
    first = np.repeat(chain[0][starts], beams, 0)
    cache = (np.zeros((len(starts) * beams, 1), "float32"),)
    # Wider than the vocabulary: at the first steps most beams are impossible ones and must stay out.
    step = _step(ops.convert_to_tensor(chain))
    search = compiled(lambda logits, cache: beam_loop(step, logits, cache, [], options), xla)
    result = search(ops.convert_to_tensor(first), tuple(ops.convert_to_tensor(c) for c in cache))
    for row, start in enumerate(starts):
        every = _every_sequence(chain, start)
        best = max(every, key=lambda s: every[s] / len(s) ** penalty)
        sequence = tuple(np.asarray(result["sequences"][row]))
        assert sequence[:len(best)] == best and all(t == PAD for t in sequence[len(best):])
        assert float(result["sum_logprobs"][row]) == pytest.approx(every[best], abs=1e-4)
        assert int(result["lengths"][row]) == len(best) - (best[-1] == END)


def test_greedy_takes_the_likeliest_and_stops_at_the_end(chain):
    options = Sampling(4, END, PAD, sample=False)
    result = sample_loop(_step(ops.convert_to_tensor(chain)), ops.convert_to_tensor(chain[0]), (), [], options)
    for first in range(VOCABULARY):
        expected, total, last = [], 0.0, first
        for index in range(4):
            token = int(chain[index][last].argmax())
            total += chain[index][last, token]
            expected.append(token)
            last = token
            if token == END:
                break
        assert list(np.asarray(result["sequences"][first])) == expected + [PAD] * (4 - len(expected))
        assert float(result["sum_logprobs"][first]) == pytest.approx(total, abs=1e-4)


def test_sampling_follows_the_distribution_and_repeats_by_seed(chain):
    rows = 4000
    logits = ops.convert_to_tensor(np.repeat(chain[0][1:2], rows, 0))
    options = Sampling(1, END, PAD)
    draw = lambda seed, temperature=1.0: np.asarray(  # noqa: E731
        sample_loop(_step(chain), logits, (), [], options, temperature, seed)["sequences"])[:, 0]
    assert (draw(7) == draw(7)).all() and (draw(7) != draw(8)).any()
    for temperature in (1.0, 0.5):
        expected = np.exp(chain[0][1] / temperature)
        share = np.bincount(draw(7, temperature), minlength=VOCABULARY) / rows
        np.testing.assert_allclose(share, expected / expected.sum(), atol=0.03)
    assert (draw(7, 0.0) == chain[0][1].argmax()).all()


@pytest.mark.parametrize("top_k, top_p", [(3, 1.0), (0, 0.7), (4, 0.6), (0, 1e-6)])
def test_filters_equal_transformers(top_k, top_p):
    pytest.importorskip("torch", reason="live parity needs torch")
    import torch
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(0, 2, (5, 20)).astype("float32")
    expected = torch.tensor(logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    got = np.asarray(filter_top(ops.convert_to_tensor(logits), top_k, top_p))
    np.testing.assert_array_equal(got > -1e8, np.isfinite(expected.numpy()))
