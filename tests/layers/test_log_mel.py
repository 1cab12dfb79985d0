"""The log-mel layer against Hugging Face's WhisperFeatureExtractor, and SpecAugment's masks."""

import numpy as np
import pytest

from tfhf.layers.log_mel import LogMelSpectrogram, slaney_mel_filters
from tfhf.layers.spec_augment import SpecAugment


def _speech_like(seconds=30, seed=0):
    """Harmonics with a moving pitch, silence between: the clamp at 80 dB below the maximum matters."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    voice = sum(np.sin(k * phase) / k for k in range(1, 30)) * (np.sin(2 * np.pi * 1.3 * time) > 0)
    return (0.1 * voice + 1e-4 * rng.normal(size=len(time))).astype("float32")


@pytest.mark.parametrize("bins", [80, 128])
def test_equals_hugging_face(bins):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    reference = transformers.WhisperFeatureExtractor(feature_size=bins)
    waveforms = np.stack([_speech_like(seed=0), np.pad(_speech_like(4, seed=1), (0, 416000))])
    expected = reference(list(waveforms), sampling_rate=16000, return_tensors="np").input_features
    got = np.asarray(LogMelSpectrogram(bins)(waveforms)).transpose(0, 2, 1)
    assert got.shape == (2, bins, 3000)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_filters_have_slaney_area():
    filters = slaney_mel_filters(201, 80, 16000)
    assert filters.shape == (201, 80) and filters.min() == 0
    # Each triangle's area over frequency is 1 Hz / Hz: the normalisation that Slaney's toolbox uses.
    np.testing.assert_allclose(filters[:, 40:].sum(0) * 40.0, 1.0, rtol=0.1)


def test_silence_is_finite():
    assert np.isfinite(np.asarray(LogMelSpectrogram()(np.zeros((1, 16000), "float32")))).all()


def test_spec_augment_masks_spans_and_rests_outside_training():
    layer = SpecAugment(time_prob=0.3, time_length=5, feature_prob=0.2, feature_length=2, seed=3)
    x = np.ones((4, 60, 10), "float32")
    np.testing.assert_array_equal(layer(x, training=False), x)
    masked = np.asarray(layer(x, training=True))
    assert set(np.unique(masked)) == {0.0, 1.0}
    gone = (masked.max(2) == 0).sum(1)
    assert (gone >= 5).all() and (gone <= 20).all()  # 4 spans of 5, which may overlap
    assert np.abs(masked - np.asarray(layer(x, training=True))).max() == 1
    again = SpecAugment(time_prob=0.3, time_length=5, feature_prob=0.2, feature_length=2, seed=3)
    np.testing.assert_array_equal(masked, again(x, training=True))
