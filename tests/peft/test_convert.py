"""Adapters that do not fit: one clear error each, and the model stays as it was."""

import json

import numpy as np
import pytest

from tests.peft.conftest import moved, our_model
from tests.peft.test_model import text
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.peft.config import LoraConfig, PeftError, PrefixTuningConfig, PromptTuningConfig
from tfhf.peft.convert import read_config
from tfhf.peft.model import PeftModel, get_peft_model
from tfhf.weights import WeightsError, read_safetensors, write_safetensors


@pytest.fixture(scope="module")
def base():
    return our_model("GPT2LMHeadModel")


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
    check_refused(folder, WeightsError, r"has shape \(4, 64\); r=8 in adapter_config.json expects 8 rows")
    change(folder, r=4)
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
    check_refused(folder, FileNotFoundError, "adapter_config.json: is missing")


@pytest.mark.parametrize("entries, message", [
    (dict(peft_type="IA3"), "peft_type is 'IA3'; known are LORA, PROMPT_TUNING, P_TUNING, PREFIX_TUNING"),
    (dict(use_dora=True), "use_dora is True; adapters here have no use_dora"),
    (dict(bias="all"), "bias is 'all'"),
    (dict(rank_pattern={"c_attn": 2}), "rank_pattern is"),
    (dict(r="four"), "r: got 'four'"),
    (dict(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the base"),
    (dict(init_lora_weights="pissa_niter_16"), "init_lora_weights is 'pissa_niter_16'"),
    (dict(init_lora_weights="olora"), "init_lora_weights is 'olora'"),
    (dict(init_lora_weights="corda", corda_config={"corda_method": "ipm"}), "corda_config is"),
    (dict(init_lora_weights="corda"), "init_lora_weights is 'corda'"),
    (dict(init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
    (dict(init_lora_weights="lora_ga"), "init_lora_weights is 'lora_ga'"),
    (dict(init_lora_weights="of_next_year"), "init_lora_weights is 'of_next_year'"),
    (dict(init_lora_weights=[1]), r"init_lora_weights is \[1\]; expected bool or str"),
    (dict(loftq_config={"loftq_bits": 4}), "loftq_config is"),
    (dict(layers_to_transform=[0]), "layers_to_transform is"),
    (dict(exclude_modules=["c_proj"]), "exclude_modules is"),
    (dict(lora_bias=True), "lora_bias is True"),
    (dict(ensure_weight_tying=True), "ensure_weight_tying is True"),
    (dict(trainable_token_indices=[1, 2]), "trainable_token_indices is"),
    (dict(of_next_year=0), "of_next_year is 0; adapters here have no of_next_year"),
    (dict(auto_mapping=[]), r"auto_mapping is \[\]; expected dict"),
    (dict(peft_type=["LORA"]), "peft_type is"),
    (dict(r=-1), "r: got -1, expected 1 or more"),
    (dict(lora_alpha=float("nan")), "lora_alpha: got nan, expected a finite number"),
])
def test_what_is_not_here_is_refused(entries, message, base):
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "bias": "none", **entries}
    with pytest.raises(ValueError, match=message):
        read_config(content, base, "adapter_config.json")


def test_sizes_that_the_file_does_not_have(folder):
    change(folder, r=10**9)
    check_refused(folder, WeightsError, "r=1000000000 in adapter_config.json expects 1000000000 rows")
    change(folder, r=4, modules_to_save=["wte"])
    check_refused(folder, PeftError, "modules_to_save: transformer.wte.weight is tied to another part")


@pytest.mark.parametrize("content, message", [
    ("[" * 100_000, "is nested too deeply"), ('{"peft_type": ', "is damaged, not JSON"), ("[]", "holds a list"),
    ('{"r": ' + "9" * 5000 + "}", "is damaged, not JSON"), ("", "is damaged, not JSON"),
])
def test_a_config_that_is_no_json_object(tmp_path, base, content, message):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(WeightsError, match=message) as caught:
        PeftModel.from_pretrained(base, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["gaussian", "orthogonal", "eva", False, None])
def test_beginnings_that_leave_the_base_as_it_is(base, value):
    content = {"peft_type": "LORA", "r": 4, "init_lora_weights": value, "eva_config": {"rho": 2.0}, "revision": "main",
               "peft_version": "0.21.2", "use_dora": False, "rank_pattern": {}, "layers_to_transform": None}
    assert read_config(content, base, "adapter_config.json").r == 4


def test_the_base_of_another_name_is_named(folder, capsys):
    model = our_model("GPT2LMHeadModel")
    model.pretrained_folder = "hub/models--openai-community--gpt2/snapshots/0123abc"
    change(folder, base_model_name_or_path="openai-community/gpt2")
    PeftModel.from_pretrained(model, folder).unload()
    assert not capsys.readouterr().err
    change(folder, base_model_name_or_path="distilbert/distilgpt2", revision="v2")
    PeftModel.from_pretrained(model, folder)
    told = capsys.readouterr().err
    assert "the adapter was trained on distilbert/distilgpt2; it is put on" in told and "on revision v2" in told


def test_adapters_in_torchs_files(folder):
    torch = pytest.importorskip("torch", reason="it writes the file")
    expected = PeftModel.from_pretrained(our_model("GPT2LMHeadModel"), folder)(text())
    tensors = read_safetensors(folder, stem="adapter_model")
    torch.save({name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    np.testing.assert_array_equal(PeftModel.from_pretrained(our_model("GPT2LMHeadModel"), folder)(text()), expected)
    (folder / "adapter_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    check_refused(folder, WeightsError, "adapter_model.bin: is a pointer of Git LFS")


def test_a_bare_model_has_no_prefix_in_its_files(tmp_path):
    model = get_peft_model(our_model("BertModel"), LoraConfig(r=2))
    moved(model.trainable_variables)
    model.save_pretrained(tmp_path)
    names = read_safetensors(tmp_path, stem="adapter_model")
    assert "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight" in names
    back = PeftModel.from_pretrained(our_model("BertModel"), tmp_path)
    np.testing.assert_array_equal(back(text())["pooler_output"], model(text())["pooler_output"])
