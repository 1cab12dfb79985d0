"""Adapters that do not fit: one clear error each, and the model stays as it was."""

import json

import numpy as np
import pytest

from tests.peft.conftest import moved, our_model
from tests.peft.test_model import text
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.peft.config import LoraConfig, PeftError, PrefixTuningConfig, PromptTuningConfig
from tfhf.peft.model import PeftModel, get_peft_model
from tfhf.weights import WeightsError, read_safetensors, write_safetensors


@pytest.fixture
def folder(tmp_path):
    model = get_peft_model(our_model("GPT2LMHeadModel"), LoraConfig(r=4))
    moved(model.trainable_variables)
    model.save_pretrained(tmp_path)
    return tmp_path


def change(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def check_refused(folder, error, message, kind="GPT2LMHeadModel"):
    model = our_model(kind)
    before = model.get_weights()
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(model, folder)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.trainable_variables and get_peft_model(model, LoraConfig())  # it can have an adapter still


def test_an_adapter_goes_on_being_trained(folder):
    model = PeftModel.from_pretrained(our_model("GPT2LMHeadModel"), folder, is_trainable=True)
    assert len(model.trainable_variables) == 4
    content = json.loads((folder / "adapter_config.json").read_text())
    assert content["target_modules"] == ["c_attn"] and content["auto_mapping"]["base_model_class"] == "GPT2LMHeadModel"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(sizes) == {"adapter_config.json", "adapter_model.safetensors"} and max(sizes.values()) < 10_000


def test_an_adapter_for_another_kind_of_model(folder):
    check_refused(folder, PeftError, "the adapter is for gpt2; the model is a BertModel", "BertModel")
    change(folder, auto_mapping=None)
    check_refused(folder, PeftError, "'c_attn' matches no module of BertModel", "BertModel")


def test_an_adapter_for_another_size(folder, tmp_path):
    wide = get_peft_model(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=64, n_layer=2, n_head=4)), LoraConfig(r=4))
    wide.save_pretrained(folder)
    check_refused(folder, WeightsError, r"4 tensors have the wrong shape.*: got \(4, 64\), expected \(4, 32")
    change(folder, r=8)
    check_refused(folder, WeightsError, r"expected \(8, 32\)")
    deep = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=32, n_layer=3, n_head=4))
    get_peft_model(deep, LoraConfig(r=4)).save_pretrained(folder)
    check_refused(folder, WeightsError, r"left over 2 \[transformer.h.2.attn.c_attn.lora_A.weight")
    for config in (PrefixTuningConfig(num_virtual_tokens=3), PromptTuningConfig(num_virtual_tokens=3)):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=64, n_layer=2, n_head=4))
        get_peft_model(model, config).save_pretrained(folder)
        check_refused(folder, PeftError, "token_dim is 64; GPT2LMHeadModel has 32")


def test_tensors_that_are_not_there_or_not_of_an_adapter(folder):
    tensors = read_safetensors(folder, stem="adapter_model")
    dropped = tensors.pop("base_model.model.transformer.h.1.attn.c_attn.lora_B.weight")
    write_safetensors(folder, tensors, stem="adapter_model")
    check_refused(folder, WeightsError, r"missing 1 tensors \[transformer.h.1.attn.c_attn.lora_B.weight\]")
    write_safetensors(folder, {**tensors, "transformer.h.1.attn.c_attn.lora_B.weight": dropped}, stem="adapter_model")
    check_refused(folder, WeightsError, "'transformer.h.1.attn.c_attn.lora_B.weight' is none of an adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    check_refused(folder, WeightsError, "cannot be read as safetensors")
    (folder / "adapter_model.safetensors").unlink()
    check_refused(folder, FileNotFoundError, "neither adapter_model.safetensors nor")
    (folder / "adapter_config.json").unlink()
    check_refused(folder, FileNotFoundError, "adapter_config.json: not there")


@pytest.mark.parametrize("entries, message", [
    (dict(peft_type="IA3"), "peft_type is 'IA3'; known are LORA, PROMPT_TUNING, P_TUNING, PREFIX_TUNING"),
    (dict(use_dora=True), "use_dora is True; adapters here have no use_dora"),
    (dict(bias="all"), "bias is 'all'"),
    (dict(rank_pattern={"c_attn": 2}), "rank_pattern is"),
    (dict(r="four"), "r: got 'four'"),
])
def test_what_is_not_here_is_refused(folder, entries, message):
    change(folder, **entries)
    check_refused(folder, ValueError, message)


def test_a_bare_model_has_no_prefix_in_its_files(tmp_path):
    model = get_peft_model(our_model("BertModel"), LoraConfig(r=2))
    moved(model.trainable_variables)
    model.save_pretrained(tmp_path)
    names = read_safetensors(tmp_path, stem="adapter_model")
    assert "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight" in names
    back = PeftModel.from_pretrained(our_model("BertModel"), tmp_path)
    np.testing.assert_array_equal(back(text())["pooler_output"], model(text())["pooler_output"])
