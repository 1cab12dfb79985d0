"""`pictures`: a tone stands in its row of the spectrogram, silence is dark; the landscape is one."""

import numpy as np
import pytest

from tfhf.demo.pictures import landscape, spectrogram

DARK = [13, 8, 135]


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_stands_at_its_pitch(hertz):
    picture = spectrogram(np.sin(2 * np.pi * hertz * np.arange(32_000) / 16_000), height=200)
    row = picture[:, 480].astype(int).sum(axis=-1).argmax()
    mel = 2595 * np.log10(1 + np.array([hertz, 8000]) / 700)
    assert abs(row - 199 * (1 - mel[0] / mel[1])) < 4
    assert picture.shape == (200, 960, 3) and picture[row, 480, :2].min() > 180


def test_time_goes_to_the_right():
    sound = np.concatenate([np.zeros(16_000), np.sin(0.4 * np.arange(16_000))])
    picture = spectrogram(sound, width=100)
    assert np.all(picture[:, :48] == DARK) and np.all((picture[:, 52:] != DARK).any(axis=(0, 2)))


@pytest.mark.parametrize("samples", [1, 100, 200_000])
def test_silence_of_any_length_is_dark(samples):
    assert np.all(spectrogram(np.zeros(samples)) == DARK)


def test_the_landscape_has_sky_sun_and_hills():
    picture = landscape(96, 64)
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8
    sky, sun, hill = picture[2, 2], picture[17, 67], picture[-1, 48]
    assert sky[2] > sky[0] and sun.min() > 150 and sun[0] > 240 and hill.max() < 90
