"""What the processors of speech models share: checking waveforms, and finding an extractor's settings in its files."""

import numpy as np

from tfhf import weights


class ClipTooLong(ValueError):
    """A clip is longer than the window that a model takes at once."""


def check_rate(sampling_rate, expected_hz):
    """Raises ValueError: the waveforms' rate is told and is not the model's."""
    if sampling_rate not in (None, expected_hz):
        raise ValueError(f"sampling_rate: got {sampling_rate} Hz; this model was trained at {expected_hz} "
                         "Hz. Resample first (tfhf.data.audio.load_audio does).")


def check_waveforms(audio):
    """A float waveform [samples], or a list of them, in [-1, 1) -> list of float32 arrays [samples].

    Raises:
        ValueError: no waveform, an empty one, one with channels, integers or values not finite.
    """
    single = not isinstance(audio, (list, tuple)) and np.ndim(audio) == 1
    waveforms = [np.asarray(waveform) for waveform in ([audio] if single else audio)]
    if not waveforms:
        raise ValueError("audio: got an empty list; expected at least one waveform.")
    for number, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or not waveform.size:
            raise ValueError(f"audio {number}: got shape {waveform.shape}; expected mono [samples], at least one.")
        if waveform.dtype.kind != "f":  # int16 taken as it is would be 32,768 times too loud
            raise ValueError(f"audio {number}: got {waveform.dtype}; expected floats in [-1, 1).")
        if not np.isfinite(waveform).all():
            raise ValueError(f"audio {number}: has samples that are not finite.")
    return [waveform.astype("float32") for waveform in waveforms]


def extractor_settings(folder):
    """The feature extractor's settings as the folder's files have them; {} where it has none.

    transformers 5 writes them into processor_config.json, earlier ones into preprocessor_config.json.
    """
    both = [weights.read_json(folder / name) if (folder / name).exists() else {}
            for name in ("processor_config.json", "preprocessor_config.json")]
    return both[0].get("feature_extractor") or both[1]
