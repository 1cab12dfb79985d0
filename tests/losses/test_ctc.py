"""The CTC loss against torch in float64, against a count of all alignments, and in its corners."""

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses.ctc import PADDING_LOGIT, CTCLoss, ctc_loss, logit_lengths_of


@tf.function(jit_compile=True)
def _value_and_gradient(logits, labels, logit_lengths, label_lengths):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = ctc_loss(logits, labels, logit_lengths, label_lengths)
    return losses, tape.gradient(losses, logits)


def _random_cases(rng, batch, frames, symbols, width):
    """Random lengths, with empty labels, one frame, repeated symbols, labels as long as the logits, impossible ones."""
    logits = rng.normal(size=(batch, frames, symbols)) * rng.choice([0.1, 1.0, 5.0], size=(batch, 1, 1))
    labels = rng.integers(1, symbols, (batch, width))
    labels[: batch // 4] = np.maximum(labels[: batch // 4] // (symbols - 1), 1)    # almost all the same
    logit_lengths, label_lengths = rng.integers(1, frames + 1, batch), rng.integers(0, width + 1, batch)
    logit_lengths[0], label_lengths[1] = 1, 0
    logit_lengths[2] = label_lengths[2] = min(frames, width)
    possible = np.array([length + np.sum(row[1:length] == row[:max(length - 1, 0)]) <= own
                         for row, length, own in zip(labels, label_lengths, logit_lengths)])
    wish = rng.random(batch) < 0.9    # most of the impossible ones made possible
    label_lengths = np.where(~possible & wish, np.minimum(label_lengths, (logit_lengths - 1) // 2), label_lengths)
    return (logits.astype("float32"), *(x.astype("int32") for x in (labels, logit_lengths, label_lengths)))


def test_a_thousand_random_cases_equal_torch_in_float64():
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    rng, cases, impossible, worst = np.random.default_rng(0), 0, 0, [0.0, 0.0]
    for shape in [(50, 40, 8, 16), (50, 16, 3, 16), (50, 90, 32, 30), (50, 5, 2, 4)]:
        for _ in range(5):
            logits, labels, logit_lengths, label_lengths = _random_cases(rng, *shape)
            losses, gradient = _value_and_gradient(*map(tf.constant, (logits, labels, logit_lengths, label_lengths)))
            theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            expected = torch.nn.functional.ctc_loss(
                torch.log_softmax(theirs, -1).transpose(0, 1), torch.tensor(labels).long(),
                torch.tensor(logit_lengths).long(), torch.tensor(label_lengths).long(), reduction="none",
                zero_infinity=True)
            expected.sum().backward()
            expected, finite = expected.detach().numpy(), np.isfinite(losses.numpy())
            # What torch calls infinite it makes zero here; a loss of exactly zero needs an empty label and sure blanks.
            np.testing.assert_array_equal(finite, expected != 0)
            # Below 0.1 the float32 logits themselves do not hold the loss to 1e-5 of it: there 1e-6 absolute.
            error = np.abs(losses.numpy() - expected)[finite] / np.maximum(expected[finite], 0.1)
            worst[0] = max(worst[0], error.max())
            worst[1] = max(worst[1], np.abs(gradient.numpy() - theirs.grad.numpy()).max())
            cases, impossible = cases + len(finite), impossible + np.sum(~finite)
    print(f"\n{cases} cases, {impossible} impossible: value within {worst[0]:.1e} relative, gradient {worst[1]:.1e}")
    assert cases == 1000 and impossible > 20 and worst[0] < 1e-5 and worst[1] < 1e-4


def test_equals_the_sum_over_all_alignments():
    rng = np.random.default_rng(1)
    frames, symbols = 5, 3
    logits = rng.normal(size=(1, frames, symbols)).astype("float32")
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    totals = {}
    for path in itertools.product(range(symbols), repeat=frames):
        labels = tuple(s for i, s in enumerate(path) if s != 1 and (i == 0 or path[i - 1] != s))
        totals[labels] = totals.get(labels, 0.0) + np.prod(probabilities[range(frames), path])
    for labels, total in totals.items():
        padded = np.array([labels + (0,) * (frames - len(labels))], "int32")
        loss = ctc_loss(logits, padded, [frames], [len(labels)], blank_index=1)
        np.testing.assert_allclose(loss, [-np.log(total)], rtol=1e-5)


def test_numeric_gradient():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(1, 6, 4)).astype("float32")
    labels = [np.array([[2, 2, 1]], "int32"), [6], [3]]
    gradient = _value_and_gradient(tf.constant(logits), *labels)[1].numpy()
    numeric = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-2
        down[place] -= 1e-2
        numeric[place] = (ctc_loss(up, *labels).numpy()[0] - ctc_loss(down, *labels).numpy()[0]) / 2e-2
    np.testing.assert_allclose(gradient, numeric, atol=1e-3)


def test_other_lengths_do_not_trace_again():
    cases = [_random_cases(np.random.default_rng(seed), 8, 20, 6, 9) for seed in range(2)]
    traces = []

    @tf.function(jit_compile=True)
    def loss(*case):
        traces.append(1)
        return ctc_loss(*case)

    assert not np.allclose(*(loss(*map(tf.constant, case)) for case in cases))
    assert len(traces) == 1


def test_impossible_alignments():
    logits = tf.random.stateless_normal((3, 4, 5), [0, 1])
    labels = np.array([[1, 1, 1, 1], [1, 2, 3, 4], [1, 2, 3, 4]], "int32")
    case = (labels, [4, 4, 0], [4, 4, 2])
    np.testing.assert_array_equal(np.isfinite(ctc_loss(logits, *case)), [False, True, False])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = ctc_loss(logits, *case, zero_infinity=True)
    np.testing.assert_array_equal(losses.numpy() == 0, [True, False, True])
    gradient = tape.gradient(losses, logits).numpy()
    assert np.all(gradient[[0, 2]] == 0) and np.all(np.isfinite(gradient)) and np.any(gradient[1])


def test_nothing_to_say():
    logits = tf.random.stateless_normal((2, 4, 5), [0, 1])
    expected = -tf.reduce_sum(tf.nn.log_softmax(logits)[:, :, 0], axis=1)
    np.testing.assert_allclose(ctc_loss(logits, np.zeros((2, 0), "int32"), [4, 4], [0, 0]), expected, rtol=1e-6)
    np.testing.assert_allclose(ctc_loss(logits, np.zeros((2, 3), "int32"), [0, 4], [0, 0])[0], 0.0)


def test_a_thousand_confident_frames_keep_their_gradient():
    """Sums that were kept as they are would round by 1e-3 here; the paths' own differences must survive."""
    logits = np.full((1, 1000, 30), -20.0, "float32")
    labels = np.tile(np.arange(1, 29), 10)[None].astype("int32")
    logits[0, np.arange(1000), np.where(np.arange(1000) % 3 == 0, labels[0, np.minimum(np.arange(1000) // 3, 279)],
                                        0)] = 10.0
    losses, gradient = _value_and_gradient(tf.constant(logits), labels, [1000], [280])
    assert np.isfinite(losses.numpy()[0])
    np.testing.assert_allclose(gradient.numpy().sum(-1), 0.0, atol=1e-5)


def test_bfloat16_logits_are_summed_in_float32():
    case = [tf.constant(x) for x in _random_cases(np.random.default_rng(3), 8, 30, 6, 9)]
    low = tf.cast(case[0], tf.bfloat16)
    losses, gradient = _value_and_gradient(low, *case[1:])
    expected = ctc_loss(tf.cast(low, tf.float32), *case[1:])
    assert losses.dtype == tf.float32 and gradient.dtype == tf.bfloat16
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_loss_for_compile_reads_lengths_from_the_logits():
    logits, labels, logit_lengths, label_lengths = _random_cases(np.random.default_rng(4), 6, 12, 5, 4)
    sure = np.where(np.arange(5) == 0, 0.0, PADDING_LOGIT)
    logits = np.where((np.arange(12) < logit_lengths[:, None])[:, :, None], logits, sure).astype("float32")
    targets = np.where(np.arange(4) < label_lengths[:, None], labels, -100)
    np.testing.assert_array_equal(logit_lengths_of(logits), logit_lengths)
    loss = CTCLoss(zero_infinity=True, reduction="none")
    expected = ctc_loss(logits, labels, logit_lengths, label_lengths, zero_infinity=True)
    np.testing.assert_allclose(loss(targets, logits), expected, rtol=1e-6)
    again = CTCLoss.from_config(loss.get_config())
    assert (again.blank_index, again.zero_infinity) == (0, True)


def test_the_jax_backend_gives_the_same():
    pytest.importorskip("jax", reason="Keras' JAX backend needs jax")
    case = _random_cases(np.random.default_rng(5), 4, 12, 5, 4)
    losses, gradient = _value_and_gradient(*map(tf.constant, case))
    code = """
import pickle, sys
import jax, numpy
from tfhf.losses.ctc import ctc_loss
logits, *rest = pickle.load(sys.stdin.buffer)
losses, back = jax.vjp(lambda x: ctc_loss(x, *rest), jax.numpy.asarray(logits))
sys.stdout.buffer.write(pickle.dumps([numpy.asarray(losses), numpy.asarray(back(jax.numpy.ones(4))[0])]))
"""

    answer = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(case), capture_output=True,
                            env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})
    assert answer.returncode == 0, answer.stderr.decode()[-2000:]
    theirs = pickle.loads(answer.stdout)
    np.testing.assert_allclose(losses, theirs[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs[1], atol=1e-5)
