"""What transformers computes on weights drawn by NumPy, recorded for machines without torch.

`TFHF_RECORD=1 pytest tests/models/test_goldens.py` writes tests/fixtures/models.npz anew;
where torch is, every run checks that the record is what transformers still says.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.models.whisper.test_model import SMALL
from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.weights import assign_reference_weights, reference_weights

RECORD = Path(__file__).parents[1] / "fixtures" / "models.npz"
NUMBERS = 2000   # of each answer are kept
ENGLISH = dict(decoder_start_token_id=50257, eos_token_id=50256, pad_token_id=50256, bos_token_id=50256)
LAYER_NORM = dict(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
CASES = {
    "Wav2Vec2ForCTC, base": lambda: Wav2Vec2ForCTC(tiny_config()),
    "Wav2Vec2ForCTC, lv60": lambda: Wav2Vec2ForCTC(tiny_config(**LAYER_NORM)),
    "Wav2Vec2ForSequenceClassification": lambda: Wav2Vec2ForSequenceClassification(tiny_config(num_labels=4)),
    "WhisperForConditionalGeneration, multilingual": lambda: WhisperForConditionalGeneration(
        WhisperConfig(**SMALL, vocab_size=51865)),
    "WhisperForConditionalGeneration, english": lambda: WhisperForConditionalGeneration(
        WhisperConfig(**SMALL, vocab_size=51864, **ENGLISH)),
}


def _model(name):
    """The model with weights that depend on their names and on NumPy alone; norms near one."""
    model, drawn = CASES[name](), {}
    for weight, value in sorted(reference_weights(model).items()):
        rng = np.random.default_rng(sum(weight.encode()))
        width = value.shape[-1] if value.ndim < 3 else value.shape[1] * value.shape[2]
        centre = 1.0 if "norm" in weight and weight.endswith("weight") or weight.endswith("original0") else 0.0
        spread = 0.1 if value.ndim == 1 or centre else 1 / np.sqrt(width)
        drawn[weight] = (centre + spread * rng.normal(size=value.shape)).astype("float32")
    assign_reference_weights(model, drawn, where=name)
    return model


def _inputs(name):
    rng = np.random.default_rng(1)
    if name.startswith("Wav2Vec2"):
        return {"input_values": rng.normal(size=(2, 4000)).astype("float32")}
    return {"input_features": rng.normal(size=(2, 80, 100)).astype("float32"),
            "decoder_input_ids": rng.integers(0, 50000, (2, 7)).astype("int32")}


def _some(logits):
    logits = np.asarray(logits).reshape(-1)
    return logits[::max(1, logits.size // NUMBERS)]


@pytest.mark.parametrize("name", CASES)
def test_equals_what_transformers_computed(name):
    with np.load(RECORD) as recorded:
        np.testing.assert_allclose(_some(_model(name)(_inputs(name))), recorded[name], atol=1e-4)


def test_the_record_is_what_transformers_computes(tmp_path):
    torch = pytest.importorskip("torch", reason="the record is checked where torch is")
    transformers = pytest.importorskip("transformers", reason="the record is checked where transformers is")
    found = {}
    for number, name in enumerate(CASES):
        folder = tmp_path / str(number)
        _model(name).save_pretrained(folder)
        theirs = getattr(transformers, name.partition(",")[0]).from_pretrained(folder).eval()
        tensors = {key: torch.tensor(value) for key, value in _inputs(name).items()}
        with torch.no_grad():
            found[name] = _some(theirs(**{key: value.long() if "ids" in key else value
                                          for key, value in tensors.items()}).logits)
    if os.environ.get("TFHF_RECORD") == "1":
        np.savez_compressed(RECORD, **found)
    with np.load(RECORD) as recorded:
        assert sorted(recorded) == sorted(found)
        for name, values in found.items():
            assert np.std(values) > 0.1
            np.testing.assert_allclose(values, recorded[name], atol=1e-4)
