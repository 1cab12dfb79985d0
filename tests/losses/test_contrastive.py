"""The contrastive objective against the gathered form of the published code, and its negatives' distribution."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses.contrastive import (
    Wav2Vec2PreTrainingLoss,
    codebook_perplexity,
    contrastive_losses,
    counts_of,
    negative_counts,
)

RNG = np.random.default_rng(0)


def _problem(batch=3, most=9, negatives=5, width=6):
    states, targets = RNG.normal(size=(2, batch, most, width)).astype("float32")
    codes = np.arange(most)[None, :, None] + np.zeros((batch, 1, 2), int)
    frames = np.array([9, 4, 2], "int32")
    drawn = np.zeros((batch, most, negatives), "int32")
    for row, count in enumerate(frames):
        for i in range(count):
            drawn[row, i] = RNG.choice([j for j in range(count) if j != i], negatives)
    return states, targets, codes, frames, drawn


def test_losses_are_those_of_gathered_negatives():
    """Torch's cosine similarity of [target, negatives], one class right: transformers' lines, in numbers."""
    torch = pytest.importorskip("torch", reason="the gathered form is torch's")
    states, targets, codes, frames, drawn = _problem()
    codes[0, 3] = codes[0, 5]          # two frames with the same words
    targets[0, 3] = targets[0, 5]
    drawn[0, 3, :2] = 5
    losses, correct = contrastive_losses(states, targets, codes, counts_of(drawn, frames), 0.1)
    for row, count in enumerate(frames):
        gathered = np.concatenate([targets[row][:, None], targets[row][drawn[row]]], axis=1)  # [most, 1 + K, width]
        logits = torch.cosine_similarity(torch.tensor(states[row])[:, None], torch.tensor(gathered), dim=-1) / 0.1
        same = torch.tensor((gathered[:, 1:] == gathered[:, :1]).all(-1))
        logits[:, 1:][same] = -float("inf")
        expected = -torch.log_softmax(logits, -1)[:count, 0]
        np.testing.assert_allclose(losses[row, :count], expected, atol=1e-5)
        np.testing.assert_array_equal(correct[row, :count], logits[:count].argmax(-1) == 0)


def test_gradient_is_that_of_gathered_negatives():
    states, targets, codes, frames, drawn = _problem()
    states, targets, index = tf.constant(states), tf.constant(targets), tf.constant(drawn)
    own = (np.arange(9) < frames[:, None]).astype("float32")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([states, targets])
        ours = tf.reduce_sum(contrastive_losses(states, targets, codes, counts_of(drawn, frames), 0.1)[0] * own)
        unit = tf.math.l2_normalize(targets, -1)
        gathered = tf.concat([unit[:, :, None], tf.gather(unit, index, batch_dims=1)], axis=2)
        logits = tf.einsum("bfw,bfkw->bfk", tf.math.l2_normalize(states, -1), gathered) / 0.1
        theirs = -tf.reduce_sum(tf.nn.log_softmax(logits)[:, :, 0] * own)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for x in (states, targets):
        np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(theirs, x), atol=1e-5)


def test_negatives_are_uniform_over_the_other_frames():
    frames = np.array([7, 2, 1, 0], "int32")
    counts = negative_counts(tf.random.stateless_uniform([4, 10, 700], [1, 2]), frames).numpy()
    np.testing.assert_array_equal(counts.sum(2), [[700] * 7 + [0] * 3, [700] * 2 + [0] * 8, [0] * 10, [0] * 10])
    assert not counts[0].diagonal().any() and not counts[1].diagonal().any()
    others = counts[0, :7, :7][~np.eye(7, dtype=bool)]
    assert np.abs(others - 700 / 6).max() < 5 * np.sqrt(700 / 6)       # binomial, five deviations
    assert counts[1, 0, 1] == counts[1, 1, 0] == 700
    ends = negative_counts(tf.constant([[[0.0, 1.0 - 2**-24]] * 3]), np.array([3], "int32")).numpy()
    np.testing.assert_array_equal(ends, [[[0, 1, 1], [1, 0, 1], [1, 1, 0]]])


def test_a_collapsed_codebook_scores_nothing():
    states, targets, codes, frames, drawn = _problem()
    losses, correct = contrastive_losses(states, targets, codes * 0, counts_of(drawn, frames), 0.1)
    np.testing.assert_allclose(losses, 0.0, atol=1e-5)
    assert not correct.numpy().any()


def test_perplexity_counts_the_words_in_use():
    uniform, one = np.full((2, 8), 1 / 8, "float32"), np.eye(8, dtype="float32")[:2]
    assert float(codebook_perplexity(uniform)) == pytest.approx(16) and float(codebook_perplexity(one)) == 2.0


def _outputs():
    distribution = np.zeros((2, 2, 4), "float32")
    distribution[0, :, 0], distribution[1, :, 1] = 3, 1
    return {"contrastive_loss": np.array([6.0, 5.0], "float32"), "masked_frames": np.array([3, 1], "int32"),
            "correct_frames": np.array([2, 1], "int32"), "code_distribution": distribution,
            "feature_penalty": np.array([0.01, 0.02], "float32")}


def test_loss_is_one_value_per_example():
    perplexity = 2 * np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    loss = Wav2Vec2PreTrainingLoss(0.1, 10.0)
    expected = np.array([2.0, 5.0]) + 0.1 * (8 - perplexity) / 8 + 10 * np.array([0.01, 0.02])
    np.testing.assert_allclose(loss.call(None, _outputs()), expected, rtol=1e-6)
    measures = loss.measures(None, _outputs())
    assert [float(part) for part in measures["contrastive_accuracy"]] == [3.0, 4.0]
    assert float(measures["code_perplexity"]) == pytest.approx(perplexity)
    again = Wav2Vec2PreTrainingLoss.from_config(loss.get_config())
    np.testing.assert_array_equal(again.call(None, _outputs()), loss.call(None, _outputs()))


def test_a_batch_without_masked_frames_is_finite():
    outputs = {name: np.zeros_like(value) for name, value in _outputs().items()}
    assert np.isfinite(Wav2Vec2PreTrainingLoss().call(None, outputs)).all()


def test_compiles_and_moves_few_bytes():
    """XLA: at 64 masked frames and 100 negatives nothing of the size [frames, negatives, width or frames] is stored."""
    batch, most, width = 2, 64, 256

    @tf.function(jit_compile=True)
    def gradient(states, targets, draws):
        with tf.GradientTape() as tape:
            tape.watch([states, targets])
            codes = tf.tile(tf.range(most)[None, :, None], [batch, 1, 2])
            counts = negative_counts(draws, tf.fill([batch], most))
            loss = tf.reduce_sum(contrastive_losses(states, targets, codes, counts, 0.1)[0])
        return tape.gradient(loss, [states, targets])

    arguments = (*keras.random.normal((2, batch, most, width), seed=1),
                 keras.random.uniform((batch, most, 100), seed=2))
    assert np.isfinite(gradient(*arguments)[0]).all()
    text = gradient.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert f"[{batch},{most},100,{width}]" not in text and f"[{batch},{most},101" not in text
    assert f"[{batch},{most},100,{most}]" not in text
    assert " scatter(" not in text and " gather(" not in text
