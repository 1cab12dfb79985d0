"""Folders of Hugging Face, both ways, and what does not fit."""

import json

import numpy as np
import pytest

from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.convert import tiny_config, write_tiny_checkpoint
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2Model
from tfhf.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining
from tfhf.weights import WeightsError, read_safetensors, write_safetensors

INPUTS = {"input_values": np.random.default_rng(0).normal(size=(1, 3000)).astype("float32")}


def test_a_folder_that_transformers_writes_loads_here(tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    Wav2Vec2ForCTC(tiny_config()).save_pretrained(tmp_path / "shape")
    config = transformers.Wav2Vec2Config.from_pretrained(tmp_path / "shape")
    torch.manual_seed(0)
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Wav2Vec2ForCTC.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(torch.tensor(INPUTS["input_values"])).logits
    np.testing.assert_allclose(ours(INPUTS), expected, atol=1e-4)


def test_both_spellings_of_the_weight_norm(tmp_path):
    model = Wav2Vec2ForCTC(tiny_config())
    model.save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path)
    name = "wav2vec2.encoder.pos_conv_embed.conv."
    assert name + "parametrizations.weight.original0" in tensors
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        tensors[name + old] = tensors.pop(name + "parametrizations.weight." + new)
    write_safetensors(tmp_path, tensors)
    np.testing.assert_array_equal(Wav2Vec2ForCTC.from_pretrained(tmp_path)(INPUTS), model(INPUTS))


def test_a_bare_model_goes_round(tmp_path):
    model = Wav2Vec2Model(tiny_config())
    model.save_pretrained(tmp_path)
    assert not any(name.startswith("wav2vec2.") for name in read_safetensors(tmp_path))
    again = Wav2Vec2Model.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(INPUTS)["last_hidden_state"], model(INPUTS)["last_hidden_state"])


def test_a_new_head_must_be_asked_for(tmp_path):
    pretrained = Wav2Vec2ForPreTraining(tiny_config())
    pretrained.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="missing 2 tensors .lm_head.bias.*left over 7 .project_hid"):
        Wav2Vec2ForCTC.from_pretrained(tmp_path)
    ours = Wav2Vec2ForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=40)
    assert ours(INPUTS).shape[-1] == 40
    np.testing.assert_array_equal(ours.wav2vec2.encoder.layers[1].attention.q_proj.kernel,
                                  pretrained.wav2vec2.encoder.layers[1].attention.q_proj.kernel)


def test_a_body_without_the_mask_vector_begins_with_one_and_says_so(tmp_path, capsys):
    folder = write_tiny_checkpoint(tmp_path, mask_time_prob=0.0)
    assert not any("masked_spec_embed" in name for name in read_safetensors(folder))
    Wav2Vec2ForCTC.from_pretrained(folder, mask_time_prob=0.1)
    assert "wav2vec2.masked_spec_embed begins with random values" in capsys.readouterr().err
    assert Wav2Vec2ForCTC.from_pretrained(folder, new_head=True, mask_time_prob=0.1)(INPUTS).shape[-1] == 32


def test_what_a_config_leaves_out_means_what_it_means_there():
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    ours = Wav2Vec2Config.from_hugging_face({"model_type": "wav2vec2"}, "here").to_dict()
    theirs = transformers.Wav2Vec2Config()
    for name in set(ours) - {"do_normalize", "labels", "recompute_activations"}:
        expected = getattr(theirs, name)
        assert ours[name] == (list(expected) if isinstance(expected, tuple) else expected), name


@pytest.mark.parametrize("changes, words", [
    ({"model_type": "hubert"}, "model_type is 'hubert'; expected 'wav2vec2'"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ({"add_adapter": True}, "add_adapter is True"),
])
def test_another_model(changes, words):
    with pytest.raises(ValueError, match=f"here: {words}"):
        Wav2Vec2Config.from_hugging_face({"model_type": "wav2vec2", **changes}, "here")


@pytest.mark.parametrize("harm, words", [
    (lambda t: t.pop("lm_head.bias"), "missing 1 tensors .lm_head.bias.; left over 0"),
    (lambda t: t.update(more=np.zeros(3, "float32")), "missing 0 tensors .*left over 1 .more"),
    (lambda t: t.update({"lm_head.bias": np.zeros(3, "float32")}), r"lm_head.bias: got \(3,\), expected \(32,\)"),
])
def test_a_checkpoint_that_does_not_fit(harm, words, tmp_path):
    Wav2Vec2ForCTC(tiny_config()).save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path)
    harm(tensors)
    write_safetensors(tmp_path, tensors)
    with pytest.raises(WeightsError, match=words):
        Wav2Vec2ForCTC.from_pretrained(tmp_path)


def test_do_normalize_stands_with_the_extractor(tmp_path):
    Wav2Vec2ForCTC(tiny_config(do_normalize=False)).save_pretrained(tmp_path)
    assert "do_normalize" not in json.loads((tmp_path / "config.json").read_text())
    assert not Wav2Vec2ForCTC.from_pretrained(tmp_path).config.do_normalize
