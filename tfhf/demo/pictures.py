"""What the page draws itself: the spectrogram of a sound, and a landscape to try image models on. NumPy only."""

import numpy as np

from tfhf.pictures import coloured

_RANGE_DB = 80.0
_FFT = 512


def spectrogram(samples, sample_rate_hz=16_000, width=960, height=256):
    """float [n] in [-1, 1] -> uint8 [height, width, 3]: time to the right, pitch upwards on the mel scale.

    The loudest is yellow, what is 80 dB below it, and silence, dark blue. Of a long sound each column is a short piece.
    """
    samples = np.pad(np.asarray(samples, np.float32), (_FFT // 2, _FFT // 2))
    begins = np.linspace(0, len(samples) - _FFT, width).astype(int)
    frames = samples[begins[:, None] + np.arange(_FFT)] * np.hanning(_FFT).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames)))                           # [width, _FFT // 2 + 1]
    top = 2595 * np.log10(1 + sample_rate_hz / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(top, 0, height) / 2595) - 1)           # of the rows, from above
    power = power[:, np.rint(hertz * _FFT / sample_rate_hz).astype(int)].T
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-10), 1e-10))
    return coloured(1 + decibels / _RANGE_DB)


def landscape(width=192, height=128):
    """uint8 [height, width, 3]: hills in the haze below the sun; far ones are pale, near ones dark."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = np.stack([0.55 + 0.4 * y, 0.70 + 0.15 * y, 0.95 - 0.15 * y], axis=-1)
    sun = np.clip(1.5 - 14 * np.hypot(1.5 * (x - 0.7), y - 0.27), 0, 1)[..., None]
    image += sun * (np.array([1.0, 0.93, 0.65]) - image)
    for place, waves, colour in ((0.45, 5, (0.62, 0.68, 0.80)), (0.60, 8, (0.38, 0.50, 0.60)),
                                 (0.76, 13, (0.16, 0.30, 0.27))):
        ridge = place + 0.05 * np.sin(waves * x + 9 * place) + 0.02 * np.sin(4.3 * waves * x + place)
        image[y > ridge] = colour
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
