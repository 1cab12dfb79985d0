"""Whisper against transformers on the same weights, and its exact parameter counts."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from tfhf.models.whisper.config import PARAMETER_COUNTS, WhisperConfig
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.weights import WeightsError, read_safetensors, write_safetensors

SMALL = dict(d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48, decoder_layers=3,
             decoder_attention_heads=2, decoder_ffn_dim=40, max_source_positions=50, max_target_positions=40)
VARIANTS = {
    "multilingual": dict(vocab_size=51865),
    "english": dict(vocab_size=51864, decoder_start_token_id=50257, eos_token_id=50256, pad_token_id=50256,
                    bos_token_id=50256),
    "large-v3": dict(vocab_size=51866, num_mel_bins=128),
    "turbo": dict(vocab_size=51866, num_mel_bins=128, decoder_layers=1),
}


def small_model(**changes):
    """A small random model whose every weight counts (biases and norms drawn too)."""
    keras.utils.set_random_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**{**SMALL, **changes}))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.05, variable.shape))
    return model


def inputs_for(config, batch=2, length=7, seed=1):
    rng = np.random.default_rng(seed)
    return {"input_features": rng.normal(size=(batch, config.num_mel_bins, 100)).astype("float32"),
            "decoder_input_ids": rng.integers(0, config.vocab_size, (batch, length)).astype("int32")}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="live parity needs torch")
    return pytest.importorskip("transformers", reason="live parity needs transformers")


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers_on_the_folder_we_write(name, tmp_path, transformers):
    import torch

    model = small_model(**VARIANTS[name])
    model.save_pretrained(tmp_path)
    theirs, report = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = inputs_for(model.config)
    with torch.no_grad():
        expected = theirs.eval()(**{k: torch.tensor(v).long() if v.dtype == "int32" else torch.tensor(v)
                                    for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(model(inputs), expected, atol=1e-4)


def test_a_folder_that_transformers_writes_loads_here(tmp_path, transformers):
    import torch

    config = transformers.WhisperConfig(**{**SMALL, "vocab_size": 51865}, dropout=0.0)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    inputs = inputs_for(model.config)
    with torch.no_grad():
        expected = theirs(input_features=torch.tensor(inputs["input_features"]),
                          decoder_input_ids=torch.tensor(inputs["decoder_input_ids"]).long()).logits.numpy()
    np.testing.assert_allclose(model(inputs), expected, atol=1e-4)


@pytest.mark.parametrize("size", PARAMETER_COUNTS)
def test_parameter_counts(size, monkeypatch):
    """The exact published counts; of the larger sizes from models with one and two layers, without their gigabytes."""
    for initializer in (keras.initializers.RandomNormal, keras.initializers.GlorotUniform):
        monkeypatch.setattr(initializer, "__call__", lambda self, shape, dtype=None: ops.zeros(shape, dtype))
    config = WhisperConfig.of_size(size)
    if config.d_model <= 512:
        assert WhisperForConditionalGeneration(config).count_params() == PARAMETER_COUNTS[size]
        return

    def count(encoder_layers, decoder_layers):
        return WhisperForConditionalGeneration(
            replace(config, encoder_layers=encoder_layers, decoder_layers=decoder_layers)).count_params()

    base = count(1, 1)
    total = (base + (config.encoder_layers - 1) * (count(2, 1) - base)
             + (config.decoder_layers - 1) * (count(1, 2) - base))
    assert total == PARAMETER_COUNTS[size]


def test_waveform_and_features_give_the_same_logits():
    model = small_model(vocab_size=51865)
    waveform = np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype("float32")
    ids = np.array([[1, 2, 3]] * 2, "int32")
    from_waveform = model({"input_values": waveform, "decoder_input_ids": ids})
    features = np.asarray(model.log_mel(waveform)).transpose(0, 2, 1)
    np.testing.assert_allclose(from_waveform, model({"input_features": features, "decoder_input_ids": ids}), atol=1e-5)
    pcm = np.round(waveform * 32768).clip(-32768, 32767).astype("int16")
    np.testing.assert_allclose(from_waveform, model({"input_values": pcm, "decoder_input_ids": ids}), atol=2e-2)


def test_wrong_inputs_are_named():
    model = small_model(vocab_size=51865)
    ids = np.zeros((1, 3), "int32")
    with pytest.raises(ValueError, match="exactly one of"):
        model({"decoder_input_ids": ids})
    with pytest.raises(ValueError, match="15999 samples; expected exactly 16000"):
        model({"input_values": np.zeros((1, 15999), "float32"), "decoder_input_ids": ids})
    with pytest.raises(ValueError, match=r"input_features has shape .* expected \[batch, 80, 100\]"):
        model({"input_features": np.zeros((1, 80, 99), "float32"), "decoder_input_ids": ids})


@pytest.mark.parametrize("damage, message", [
    (lambda t: t.pop("model.encoder.conv1.bias"), r"missing 1 tensors \[model.encoder.conv1.bias\]"),
    (lambda t: t.update(extra=np.zeros(3, "float32")), r"left over 1 \[extra\]"),
    (lambda t: t.update({"model.decoder.layer_norm.weight": np.ones(31, "float32")}), r"got \(31,\), expected \(32,\)"),
    (lambda t: t.update({"proj_out.weight": np.ones((51865, 32), "float32")}), "proj_out.weight differs"),
])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, damage, message):
    model = small_model(vocab_size=51865)
    model.save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path)
    damage(tensors)
    write_safetensors(tmp_path, tensors)
    with pytest.raises(WeightsError, match=message):
        WhisperForConditionalGeneration.from_pretrained(tmp_path)


def test_a_damaged_file_and_another_model_are_refused(tmp_path):
    model = small_model(vocab_size=51865)
    model.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        WhisperForConditionalGeneration.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bart"}))
    with pytest.raises(ValueError, match="model_type is 'bart'; expected 'whisper'"):
        WhisperForConditionalGeneration.from_pretrained(tmp_path)


def test_shards_are_written_and_read_back(tmp_path):
    tensors = {f"t{i}": np.full((10,), i, "float32") for i in range(7)}
    write_safetensors(tmp_path, tensors, max_shard_bytes=90)
    assert len(list(tmp_path.glob("model-*-of-00004.safetensors"))) == 4
    back = read_safetensors(tmp_path)
    assert set(back) == set(tensors) and all((back[k] == tensors[k]).all() for k in tensors)


def test_bfloat16_keeps_the_waveform_in_float32():
    model = small_model(vocab_size=51865)
    half = WhisperForConditionalGeneration(model.config, dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    inputs = {"input_values": np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype("float32"),
              "decoder_input_ids": np.array([[5, 6]], "int32")}
    full, low = np.asarray(model(inputs)), np.asarray(half(inputs))
    assert low.dtype == np.float32
    assert np.abs(full - low).max() < 0.05 * np.abs(full).max()
    np.testing.assert_array_equal(half.log_mel(inputs["input_values"]), model.log_mel(inputs["input_values"]))


def test_spec_augment_draws_anew():
    model = small_model(vocab_size=51865, apply_spec_augment=True, mask_time_prob=0.5, mask_time_length=4)
    inputs = inputs_for(model.config)
    once, twice = (np.asarray(model(inputs, training=True)) for _ in range(2))
    assert np.abs(once - twice).max() > 1e-3
