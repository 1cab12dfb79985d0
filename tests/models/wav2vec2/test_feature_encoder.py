"""The convolutions: the closed-form group norm against torch's, on signals that try its numerics; and the waveform."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.feature_encoder import GroupNormConv, cosine_basis, frame_windows, own_waveform

HIGH_PASS = np.array([1, -4, 6, -4, 1]) / 8


def group_norm_conv(rng):
    """A layer whose filters are, every second one, blind to low frequencies."""
    layer = GroupNormConv(tiny_config())
    layer.build()
    kernel = rng.normal(0, 0.3, (10, 32))
    kernel[:, ::2] = np.stack([np.convolve(rng.normal(0, 0.3, 6), HIGH_PASS) for _ in range(16)], 1)
    layer.set_weights([kernel[:, None].astype("float32"), *rng.normal(1, 0.3, (2, 32)).astype("float32")])
    return layer


def low_pitched(rng, samples):
    """Noise with a millionth of its power in the upper octave, as telephone speech at 16 kHz."""
    noise = np.convolve(rng.normal(size=samples + 31), np.hanning(32), "valid") + 1e-2 * rng.normal(size=samples)
    return ((noise - noise.mean()) / noise.std()).astype("float32")[None]


def test_frame_windows():
    wave = np.arange(23, dtype="float32")[None]
    expected = np.lib.stride_tricks.sliding_window_view(wave[0], 10)[::5]
    np.testing.assert_array_equal(frame_windows(tf.constant(wave), 10, 5)[0], expected.T)
    np.testing.assert_array_equal(frame_windows(tf.constant(wave), 3, 2)[0],
                                  np.lib.stride_tricks.sliding_window_view(wave[0], 3)[::2].T)


def test_cosine_basis_is_orthonormal():
    np.testing.assert_allclose(cosine_basis(10) @ cosine_basis(10).T, np.eye(10), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_group_norm_equals_torch_where_power_is_uneven(jit_compile):
    """Against float64: a covariance between neighbouring samples would be off by 0.02 here."""
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    rng = np.random.default_rng(0)
    layer, wave = group_norm_conv(rng), low_pitched(rng, 160_000)
    kernel, gamma, beta = (torch.tensor(w.numpy()).double().requires_grad_() for w in layer.trainable_variables)
    hidden = torch.nn.functional.conv1d(torch.tensor(wave).double()[:, None], kernel.permute(2, 1, 0), stride=5)
    expected = torch.nn.functional.gelu(torch.nn.functional.group_norm(hidden, 32, gamma, beta))
    weight = torch.linspace(-1, 1, expected.shape[2]).double()
    (expected * weight).mean().backward()

    @tf.function(jit_compile=jit_compile)
    def run(wave):
        with tf.GradientTape() as tape:
            y = layer(wave, tf.constant([160_000]))
            loss = tf.reduce_mean(y * tf.cast(weight.numpy(), "float32")[None, :, None])
        return y, tape.gradient(loss, layer.trainable_variables)

    ours, gradients = run(tf.constant(wave))
    np.testing.assert_allclose(ours, expected.detach().permute(0, 2, 1), atol=2e-4)
    for gradient, reference in zip(gradients, (kernel, gamma, beta), strict=True):
        reference = reference.grad.numpy()
        np.testing.assert_allclose(gradient, reference, atol=2e-3 * np.abs(reference).max())


def test_group_norm_of_silence_and_of_a_clip_without_a_frame_is_finite():
    layer = group_norm_conv(np.random.default_rng(0))
    wave = tf.zeros((2, 400))
    assert np.isfinite(layer(wave, tf.constant([400, 3])).numpy()).all()


def test_own_waveform_leaves_whole_floats_alone_and_silences_the_rest():
    wave = tf.ones((2, 6))
    whole, lengths = own_waveform(wave, None, do_normalize=True)
    assert whole is wave or np.array_equal(whole, wave)
    np.testing.assert_array_equal(lengths, [6, 6])
    part, lengths = own_waveform(wave, tf.constant([2, 6]), do_normalize=True)
    np.testing.assert_array_equal(tf.reduce_sum(part, 1), [2, 6])
