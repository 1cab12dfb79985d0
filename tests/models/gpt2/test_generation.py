"""GPT-2's generation against transformers on the same weights."""

import numpy as np
import pytest
from keras import ops

from tests.models.gpt2.test_model import small_model, theirs_of

NEW = 64


@pytest.fixture(scope="module")
def model():
    return small_model(spread=0.3, n_positions=128)


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory):
    pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    return theirs_of(model, tmp_path_factory.mktemp("theirs"), transformers)


def prompts(lengths, seed=2):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 211, n).tolist() for n in lengths]


def generate_theirs(theirs, rows, new=NEW, **options):
    """Their new tokens, behind prompts padded on the left."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        out = theirs.generate(ids, attention_mask=mask, max_new_tokens=new, pad_token_id=0, **options)
    out = out.numpy()[:, width:]
    return np.pad(out, ((0, 0), (0, new - out.shape[1])))


def test_greedy_equals_transformers_for_prompts_of_different_lengths(model, theirs):
    rows = prompts([13, 1, 40, 6])
    expected = generate_theirs(theirs, rows, do_sample=False)
    got = model.generate_with_scores(rows, max_new_tokens=NEW)
    np.testing.assert_array_equal(got["sequences"], expected)
    assert len(np.unique(expected)) > 20                       # no loop of one token
    whole = model.generate(rows, max_new_tokens=NEW)
    assert whole.shape == (4, 40 + NEW) and whole[1, 39] == rows[1][0] and (whole[1, :39] == 0).all()
    alone = model.generate([rows[3]], max_new_tokens=NEW)
    np.testing.assert_array_equal(alone[0, 6:], expected[3])


def test_cached_steps_equal_the_model_without_a_cache(model):
    rows = prompts([9, 4])
    result = model.generate_with_scores(rows, max_new_tokens=12)
    for row, tokens, length, score in zip(rows, result["sequences"], result["lengths"], result["sum_logprobs"]):
        ids = np.array([row + tokens.tolist()])
        log_p = np.asarray(ops.log_softmax(model({"input_ids": ids})))[0, len(row) - 1:-1]
        count = min(length + 1, 12)
        assert (log_p.argmax(-1)[:count] == tokens[:count]).all()
        assert log_p[np.arange(count), tokens[:count]].sum() == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("options", [
    dict(repetition_penalty=1.5), dict(num_beams=4), dict(num_beams=3, length_penalty=0.2),
    dict(num_beams=3, repetition_penalty=1.3)])
def test_other_searches_equal_transformers(model, theirs, options):
    rows = prompts([12, 12, 12, 12], seed=7)
    expected = generate_theirs(theirs, rows, 24, do_sample=False, **options)
    got = model.generate_with_scores(rows, max_new_tokens=24, **options)["sequences"]
    np.testing.assert_array_equal(got, expected)


def test_beams_of_padded_prompts_equal_each_alone(model):
    rows = prompts([3, 17, 8])
    together = model.generate_with_scores(rows, max_new_tokens=10, num_beams=3, repetition_penalty=1.2)
    for number, row in enumerate(rows):
        alone = model.generate_with_scores([row], max_new_tokens=10, num_beams=3, repetition_penalty=1.2)
        np.testing.assert_array_equal(together["sequences"][number], alone["sequences"][0])
        assert together["scores"][number] == pytest.approx(alone["scores"][0], abs=1e-4)


def test_stop_sequences_end_a_text(model):
    """With beams: tests/decoding/test_generation.py."""
    rows = prompts([5, 9])
    free = model.generate_with_scores(rows, max_new_tokens=20)["sequences"]
    result = model.generate_with_scores(rows, max_new_tokens=20, stop_sequences=[free[0, 6:8].tolist(), [999]])
    np.testing.assert_array_equal(result["sequences"][0], [*free[0, :8], *[0] * 12])
    assert result["lengths"][0] == 8                            # they belong to the text
    np.testing.assert_array_equal(result["sequences"][1], free[1])


def test_without_xla_and_as_one_graph_function_it_is_the_same(model):
    rows = prompts([5, 9])
    with_xla = model.generate_with_scores(rows, max_new_tokens=8, repetition_penalty=1.3)["sequences"]
    without = model.generate_with_scores(rows, max_new_tokens=8, repetition_penalty=1.3, jit_compile=False)["sequences"]
    np.testing.assert_array_equal(with_xla, without)
    prompt = np.array([[0] * 7 + rows[0], [0] * 3 + rows[1]], "int32")
    options = model.generation_options(8, sample=False)
    eager = model.decode_tokens(ops.convert_to_tensor(prompt), ops.convert_to_tensor(np.array([5, 9], "int32")),
                                options=options, repetition_penalty=1.3)["sequences"]
    np.testing.assert_array_equal(with_xla, eager)


def test_sampling_repeats_by_seed_and_stays_among_the_likeliest(model):
    rows = prompts([6]) * 50
    draw = lambda seed, **options: model.generate_with_scores(  # noqa: E731
        rows, max_new_tokens=4, temperature=1.0, seed=seed, **options)["sequences"]
    assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any() and len(np.unique(draw(1)[:, 0])) > 3
    log_p = np.asarray(model({"input_ids": np.array(rows[:1])}))[0, -1]
    assert set(draw(3, top_k=3)[:, 0]) <= set(np.argsort(-log_p)[:3])
    np.testing.assert_array_equal(draw(4, top_p=1e-6), model.generate_with_scores(rows, max_new_tokens=4)["sequences"])


@pytest.mark.parametrize("arguments, message", [
    (([[1], []],), "prompt 1: is empty"), (([],), "prompts: got none"), (([[1.5]],), "prompt 0: got float64"),
    (([[211]],), "got ids from 211 to 211; expected 0 to 210"), (([[-1]],), "got ids from -1"),
    (([[1] * 100], None, 40), r"prompt 0: 100 tokens and max_new_tokens=40 exceed the model's n_positions=128"),
    ((np.ones((2, 3), int), np.array([[1, 1, 0], [1, 1, 1]])), "padding that is not on the left"),
    ((np.ones((2, 3), int), np.zeros((2, 3))), "prompt 0: is empty"),
    (([[1]], None, 0), "max_new_tokens: got 0")])
def test_bad_prompts_are_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(*arguments)


@pytest.mark.parametrize("options, message", [
    (dict(temperature=-1.0), "temperature: got -1.0"), (dict(temperature=1.0, num_beams=2), "0 with beams"),
    (dict(top_k=-1), "top_k: got -1; expected 0 to 211"), (dict(top_p=0.0), "top_p: got 0.0"),
    (dict(repetition_penalty=0.0), "repetition_penalty"), (dict(num_beams=0), "num_beams"),
    (dict(stop_sequences=[[]]), "stop_sequences")])
def test_bad_settings_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate([[1]], max_new_tokens=4, **options)
