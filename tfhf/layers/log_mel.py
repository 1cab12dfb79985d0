"""Log-mel spectrogram inside the model, equal to Hugging Face's `WhisperFeatureExtractor`."""

import keras
import numpy as np
from keras import ops


def slaney_mel_filters(num_frequencies, num_mel_bins, sample_rate_hz, min_hz=0.0, max_hz=8000.0):
    """Triangular filters on Slaney's mel scale with Slaney's area normalisation (Auditory Toolbox, 1998).

    Below 1 kHz the scale is linear with 200/3 Hz a mel, above it is logarithmic with 27 mels for a factor of 6.4.

    Returns:
        float32 [num_frequencies, num_mel_bins]; frequencies run from 0 to sample_rate_hz / 2.
    """
    linear_hz, log_step = 200.0 / 3.0, np.log(6.4) / 27.0

    def to_mel(hz):
        return np.where(hz < 1000.0, hz / linear_hz, 15.0 + np.log(np.maximum(hz, 1e-10) / 1000.0) / log_step)

    def to_hz(mel):
        return np.where(mel < 15.0, mel * linear_hz, 1000.0 * np.exp(log_step * (mel - 15.0)))

    edges = to_hz(np.linspace(to_mel(np.float64(min_hz)), to_mel(np.float64(max_hz)), num_mel_bins + 2))
    frequencies = np.linspace(0.0, sample_rate_hz / 2.0, num_frequencies)[:, None]
    rising = (frequencies - edges[None, :-2]) / (edges[1:-1] - edges[:-2])[None]
    falling = (edges[None, 2:] - frequencies) / (edges[2:] - edges[1:-1])[None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[None]).astype("float32")


class LogMelSpectrogram(keras.layers.Layer):
    """Whisper's features (paper, section 2.2): 25 ms Hann windows every 10 ms, log10 of the mel power, clamped to 8
    decades (80 dB) below the clip's own maximum, then (x + 4) / 4.

    Always float32 whatever the precision policy, because the logarithm of a bfloat16 power is too coarse.

    Args:
        num_mel_bins: 80, or 128 for large-v3.
        sample_rate_hz: rate of the waveform.
    """

    def __init__(self, num_mel_bins=80, sample_rate_hz=16000, window_samples=400, hop_samples=160, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_mel_bins, self.sample_rate_hz = num_mel_bins, sample_rate_hz
        self.window_samples, self.hop_samples = window_samples, hop_samples
        self.filters = slaney_mel_filters(window_samples // 2 + 1, num_mel_bins, sample_rate_hz)

    def call(self, waveform):
        """waveform float [batch, samples] -> float32 [batch, samples // hop_samples, num_mel_bins]."""
        # The reference drops the last frame, half of which is padding.
        return self.scale(self.log_power(waveform)[:, :-1])

    def log_power(self, waveform, center=True):
        """log10 of the mel power, not clamped: float32 [batch, frames, num_mel_bins].

        With `center` the waveform is reflected by half a window at both ends; without it every frame lies inside.
        """
        waveform = ops.cast(waveform, "float32")
        real, imaginary = ops.stft(waveform, self.window_samples, self.hop_samples, self.window_samples, window="hann",
                                   center=center)
        power = ops.square(real) + ops.square(imaginary)
        return ops.log10(ops.maximum(ops.matmul(power, self.filters), 1e-10))

    def scale(self, log_power):
        """Clamps to 8 decades below the maximum of each clip, then (x + 4) / 4."""
        log_power = ops.maximum(log_power, ops.max(log_power, axis=(1, 2), keepdims=True) - 8.0)
        return (log_power + 4.0) / 4.0

    def compute_output_shape(self, input_shape):
        samples = input_shape[1]
        return (input_shape[0], None if samples is None else samples // self.hop_samples, self.num_mel_bins)

    def get_config(self):
        return {**super().get_config(), "num_mel_bins": self.num_mel_bins, "sample_rate_hz": self.sample_rate_hz,
                "window_samples": self.window_samples, "hop_samples": self.hop_samples}
