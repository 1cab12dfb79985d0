"""What transformers computes on weights drawn by NumPy, recorded for machines without torch.

`TFHF_RECORD=1 pytest tests/models/test_goldens.py` writes tests/fixtures/models.npz anew;
where torch is, every run checks that the record is what transformers still says.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.models.bert.test_model import INPUTS, TINY
from tests.models.gpt2.test_model import SMALL as SMALL_GPT2
from tests.models.gpt2.test_model import ids_for
from tests.models.whisper.test_model import SMALL
from tfhf.models.bert.config import BertConfig
from tfhf.models.bert.model import BertForSequenceClassification
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2ForSequenceClassification, GPT2LMHeadModel
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
    "GPT2LMHeadModel": lambda: GPT2LMHeadModel(GPT2Config(**SMALL_GPT2)),
    "GPT2LMHeadModel, gelu": lambda: GPT2LMHeadModel(
        GPT2Config(**SMALL_GPT2, activation_function="gelu", n_inner=48)),
    "GPT2ForSequenceClassification": lambda: GPT2ForSequenceClassification(
        GPT2Config(**SMALL_GPT2, num_labels=5, pad_token_id=0)),
    "BertForSequenceClassification": lambda: BertForSequenceClassification(BertConfig(**TINY, num_labels=5)),
}


def _model(name):
    """The model with weights that depend on their names and on NumPy alone; norms near one."""
    model, drawn = CASES[name](), {}
    for weight, value in sorted(reference_weights(model).items()):
        rng = np.random.default_rng(sum(weight.encode()))
        width = value.shape[-1] if value.ndim < 3 else value.shape[1] * value.shape[2]
        centre = 1.0 if re.search(r"(norm|ln_.)[^.]*\.weight$|original0$", weight.lower()) else 0.0
        spread = 0.1 if value.ndim == 1 or centre else 1 / np.sqrt(width)
        drawn[weight] = (centre + spread * rng.normal(size=value.shape)).astype("float32")
    assign_reference_weights(model, drawn, where=name)
    return model


def _inputs(name):
    rng = np.random.default_rng(1)
    if name.startswith("Bert"):   # texts of three lengths, in two parts
        return INPUTS
    if name.startswith("GPT2"):
        ids = ids_for(GPT2Config(**SMALL_GPT2))
        if "LMHead" in name:
            return {"input_ids": ids}
        mask = (np.arange(ids.shape[1]) < np.array([[17], [9], [4]])).astype("int32")
        return {"input_ids": ids * mask, "attention_mask": mask}
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
            found[name] = _some(theirs(**{key: value if value.is_floating_point() else value.long()
                                          for key, value in tensors.items()}).logits)
    if os.environ.get("TFHF_RECORD") == "1":
        np.savez_compressed(RECORD, **found)
    with np.load(RECORD) as recorded:
        assert sorted(recorded) == sorted(found)
        for name, values in found.items():
            assert np.std(values) > 0.1
            np.testing.assert_allclose(values, recorded[name], atol=1e-4)
