"""What all decoders share: prompts of different lengths, and the repetition penalty against transformers."""

import numpy as np
import pytest
from keras import ops

from tfhf.decoding.beam_search import BeamSearch, beam_loop
from tfhf.decoding.generation import RepetitionPenalty, left_padded
from tfhf.decoding.sampling import Sampling, ended, sample_loop


def test_left_padded():
    ids, lengths = left_padded([[1, 2, 3], [4]], 9)
    np.testing.assert_array_equal(ids, [[1, 2, 3], [9, 9, 4]])
    np.testing.assert_array_equal(lengths, [3, 1])
    again, _ = left_padded(np.array([[1, 2, 3], [0, 0, 4]]), 9, np.array([[1, 1, 1], [0, 0, 1]]))
    np.testing.assert_array_equal(again, ids)


def test_repetition_penalty_equals_transformers():
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    prompt = np.array([[1, 5, 5, 2], [7, 3, 0, 9]], "int32")
    logits = np.random.default_rng(0).normal(size=(4, 10)).astype("float32")
    rule = RepetitionPenalty(1.7, 10, ops.convert_to_tensor(prompt), ops.convert_to_tensor([4, 4]))
    state = rule.advance(rule.start(4), ops.convert_to_tensor([8, 9, 8, 9]), 0)
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(
        torch.tensor(np.concatenate([prompt.repeat(2, 0), [[8], [9], [8], [9]]], 1)), torch.tensor(logits))
    np.testing.assert_allclose(rule.apply(logits, 1, state), theirs.numpy(), rtol=1e-6)


def test_padding_is_no_repetition():
    prompt = ops.convert_to_tensor(np.array([[0, 0, 3], [1, 2, 0]], "int32"))
    seen = np.asarray(RepetitionPenalty(2.0, 5, prompt, ops.convert_to_tensor([1, 3])).start(2))
    np.testing.assert_array_equal(seen, [[0, 0, 0, 1, 0], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("kind", [Sampling, BeamSearch])
def test_ended(kind):
    more = dict(num_beams=2) if kind is BeamSearch else {}
    options = kind(max_new_tokens=4, eos_token_id=0, pad_token_id=0, stop_sequences=((3, 4), (6,)), **more)
    rows = np.array([[1, 3, 4, 0], [3, 4, 1, 0], [4, 3, 3, 0], [1, 2, 6, 0], [1, 2, 0, 0]], "int32")
    np.testing.assert_array_equal(ended(rows, 2, options), [True, False, False, True, True])
    np.testing.assert_array_equal(ended(rows, 1, options), [False, True, False, False, False])
    np.testing.assert_array_equal(ended(rows[None], 0, options), [[False] * 5])


def test_a_stop_sequence_ends_beams_and_samples_alike():
    """A chain 1 -> 2 -> 3 -> 1 ... that never ends by itself."""
    table = np.full((4, 4), -9.0, "float32")
    table[[1, 2, 3], [2, 3, 1]] = 9.0

    def step(token, index, cache):
        return ops.take(ops.convert_to_tensor(table), token, axis=0), cache

    common = dict(max_new_tokens=6, eos_token_id=0, pad_token_id=0, stop_sequences=((1, 2),))
    sampled = sample_loop(step, ops.convert_to_tensor(table[[1]]), (), [], Sampling(sample=False, **common))
    np.testing.assert_array_equal(sampled["sequences"], [[2, 3, 1, 2, 0, 0]])
    assert int(sampled["lengths"][0]) == 4
    logits = ops.convert_to_tensor(np.repeat(table[[1]], 2, 0))
    found = beam_loop(step, logits, (), [], BeamSearch(num_beams=2, **common))
    np.testing.assert_array_equal(found["sequences"], sampled["sequences"])
    assert int(found["lengths"][0]) == 4
