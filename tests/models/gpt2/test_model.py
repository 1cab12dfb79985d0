"""GPT-2 against transformers on the same weights, its exact parameter counts, packing and padding."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from tfhf.models.gpt2.config import PARAMETER_COUNTS, GPT2Config
from tfhf.models.gpt2.model import GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model, positions_in
from tfhf.weights import read_safetensors, write_safetensors

SMALL = dict(vocab_size=211, n_positions=96, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
             resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def small_model(cls=GPT2LMHeadModel, spread=0.1, **changes):
    """A small random model whose every weight counts (biases and norms drawn too)."""
    keras.utils.set_random_seed(0)
    model = cls(GPT2Config(**{**SMALL, **changes}))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, spread, variable.shape))
    return model


def ids_for(config, batch=3, length=17, seed=1):
    return np.random.default_rng(seed).integers(1, config.vocab_size, (batch, length)).astype("int32")


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="live parity needs torch")
    return pytest.importorskip("transformers", reason="live parity needs transformers")


def theirs_of(model, folder, transformers):
    """Their model, loaded from the folder that ours writes."""
    model.save_pretrained(folder)
    theirs, report = getattr(transformers, type(model).__name__).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return theirs.eval()


def run_theirs(theirs, **inputs):
    import torch

    with torch.no_grad():
        outputs = theirs(**{name: torch.tensor(value).long() for name, value in inputs.items()})
    return outputs[0].numpy()


@pytest.mark.parametrize("changes", [
    {}, dict(activation_function="gelu", n_inner=48), dict(activation_function="relu")])
def test_logits_equal_transformers_on_the_folder_we_write(changes, tmp_path, transformers):
    model = small_model(**changes)
    ids = ids_for(model.config)
    np.testing.assert_allclose(model({"input_ids": ids}), run_theirs(theirs_of(model, tmp_path, transformers),
                                                                     input_ids=ids), atol=1e-4)


def test_hidden_states_equal_transformers_both_ways(tmp_path, transformers):
    model = small_model(GPT2Model)
    ids = ids_for(model.config)
    theirs = theirs_of(model, tmp_path / "ours", transformers)
    assert "wte.weight" in read_safetensors(tmp_path / "ours")  # as the published files: without a prefix
    expected = run_theirs(theirs, input_ids=ids)
    np.testing.assert_allclose(model({"input_ids": ids}), expected, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    np.testing.assert_allclose(GPT2Model.from_pretrained(tmp_path / "theirs")({"input_ids": ids}), expected, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_texts_equal_transformers_and_the_texts_alone(side, tmp_path, transformers):
    model = small_model()
    ids, lengths = ids_for(model.config), [17, 9, 4]
    own = np.arange(17)[None] < np.array(lengths)[:, None]
    mask = (own[:, ::-1] if side == "left" else own).astype("int32")
    logits = np.asarray(model({"input_ids": ids, "attention_mask": mask}))
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    expected = run_theirs(theirs_of(model, tmp_path, transformers), input_ids=ids, attention_mask=mask,
                          position_ids=positions)
    for row in range(3):
        here = mask[row] == 1
        np.testing.assert_allclose(logits[row][here], expected[row][here], atol=1e-4)
        alone = model({"input_ids": ids[row][here][None]})[0]
        np.testing.assert_allclose(logits[row][here], alone, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_equals_transformers(side, tmp_path, transformers):
    model = small_model(GPT2ForSequenceClassification, num_labels=3, pad_token_id=0)
    ids = ids_for(model.config)
    for row, length in enumerate([17, 9, 4]):
        ids[row, length:] = 0
        ids[row] = np.roll(ids[row], 17 - length) if side == "left" else ids[row]
    mask = (ids != 0).astype("int32")
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    expected = run_theirs(theirs_of(model, tmp_path, transformers), input_ids=ids, attention_mask=mask,
                          position_ids=positions)
    np.testing.assert_allclose(model({"input_ids": ids, "attention_mask": mask}), expected, atol=1e-4)
    assert expected.shape == (3, 3) and np.std(expected) > 0.05
    if side == "right":
        np.testing.assert_allclose(model({"input_ids": ids}), expected, atol=1e-4)


def test_a_new_head_on_a_language_model(tmp_path, capfd):
    model = small_model()
    model.save_pretrained(tmp_path)
    ids = ids_for(model.config)
    GPT2ForSequenceClassification.from_pretrained(tmp_path)
    assert "score" in "".join(capfd.readouterr())   # nothing begins anew in silence
    classifier = GPT2ForSequenceClassification.from_pretrained(tmp_path, new_head=True, num_labels=5)
    assert classifier({"input_ids": ids}).shape == (3, 5)
    np.testing.assert_array_equal(classifier.transformer({"input_ids": ids}), model.transformer({"input_ids": ids}))


def test_old_files_have_masks_among_their_tensors(tmp_path):
    model = small_model(GPT2Model)
    model.save_pretrained(tmp_path)
    masks = {f"h.{i}.attn.{name}": np.ones((1, 1, 4, 4), "float32")
             for i in range(3) for name in ("bias", "masked_bias")}
    write_safetensors(tmp_path, read_safetensors(tmp_path) | masks)
    ids = ids_for(model.config)
    np.testing.assert_array_equal(GPT2LMHeadModel.from_pretrained(tmp_path).transformer({"input_ids": ids}),
                                  model({"input_ids": ids}))


@pytest.mark.parametrize("size", PARAMETER_COUNTS)
def test_parameter_counts(size, monkeypatch):
    """The exact published counts, from models with one and two layers, without their gigabytes."""
    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__",
                        lambda self, shape, dtype=None: ops.zeros(shape, dtype))
    config = GPT2Config.of_size(size)
    one, two = (GPT2LMHeadModel(replace(config, n_layer=n)).count_params() for n in (1, 2))
    assert one + (config.n_layer - 1) * (two - one) == PARAMETER_COUNTS[size]


def test_packed_documents_lose_what_each_loses_alone():
    model = small_model()
    lengths, rng = [11, 7, 1, 20], np.random.default_rng(3)
    texts = [rng.integers(1, 211, (1, n)).astype("int32") for n in lengths]
    row = np.concatenate([*texts, np.zeros((1, 5), "int32")], axis=1)
    segments = np.repeat([1, 2, 3, 4, 0], [*lengths, 5]).astype("int32")[None]
    packed = np.asarray(model({"input_ids": row, "segment_ids": segments, "labels": row}))
    alone = [np.asarray(model({"input_ids": text, "labels": text})) for text in texts]
    assert packed.sum() == pytest.approx(sum(loss.sum() for loss in alone), rel=1e-5)
    np.testing.assert_allclose(packed[0, :39], np.concatenate(alone, 1)[0], atol=1e-4)
    assert (packed[0, 39:] == 0).all() and (packed[0, [0, 11, 18, 19]] == 0).all()
    np.testing.assert_array_equal(positions_in(segments)[0, :39], np.concatenate([np.arange(n) for n in lengths]))


def test_labels_give_the_loss_of_transformers(tmp_path, transformers):
    model = small_model()
    ids = ids_for(model.config)
    labels = ids.copy()
    labels[1, 5:] = -100
    losses = np.asarray(model({"input_ids": ids, "labels": labels}))
    expected = run_theirs(theirs_of(model, tmp_path, transformers), input_ids=ids, labels=labels)
    assert losses.sum() / (labels[:, 1:] != -100).sum() == pytest.approx(float(expected), rel=1e-5)


def test_a_prefix_of_keys_and_values_equals_transformers(tmp_path, transformers):
    import torch

    model = small_model()
    theirs, ids = theirs_of(model, tmp_path, transformers), ids_for(model.config)
    rng = np.random.default_rng(0)
    past = [[rng.normal(size=(3, 4, 5, 8)).astype("float32") for _ in range(2)] for _ in range(3)]
    cache = transformers.DynamicCache(config=theirs.config)
    for number, (keys, values) in enumerate(past):
        cache.update(torch.tensor(keys), torch.tensor(values), number)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids).long(), past_key_values=cache).logits.numpy()
    got = model({"input_ids": ids, "past_key_values": past})
    np.testing.assert_allclose(got, expected, atol=1e-4)
    embeds = model.transformer.wte(ids)
    np.testing.assert_array_equal(model({"inputs_embeds": embeds, "past_key_values": past}), got)


@pytest.mark.parametrize("xla", [False, True])
def test_recomputation_changes_no_gradient(xla):
    import tensorflow as tf

    ids = ids_for(GPT2Config(**SMALL), length=12)
    rng = np.random.default_rng(0)
    past = [[tf.constant(rng.normal(size=(3, 4, 2, 8)), "float32") for _ in range(2)] for _ in range(3)]

    def gradients(model, inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs.get("past_key_values", []))
            loss = tf.reduce_sum(model({**inputs, "labels": ids}, training=True) ** 2)
        found = tape.gradient(loss, [*model.trainable_variables, inputs.get("past_key_values", [])])
        return [tf.convert_to_tensor(gradient) for gradient in tf.nest.flatten(found)]

    for inputs in ({}, {"segment_ids": np.repeat([[1, 2, 0]], 3, 0).repeat([5, 4, 3], 1)}, {"past_key_values": past}):
        inputs = {"input_ids": ids, **inputs}
        plain, again = (tf.function(lambda: gradients(model, inputs), jit_compile=xla)()
                        for model in (small_model(), small_model(recompute_activations=True)))
        for a, b in zip(again, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max() + 1e-6)


def test_saving_and_loading_by_keras_and_by_folder(tmp_path):
    model, ids = small_model(), {"input_ids": ids_for(GPT2Config(**SMALL))}
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(ids), model(ids))
    model.save_pretrained(tmp_path)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path, resid_pdrop=0.3)
    assert loaded.config == replace(model.config, resid_pdrop=0.3) and loaded.pretrained_folder == str(tmp_path)
    np.testing.assert_array_equal(loaded(ids), model(ids))


def test_wrong_folders_and_inputs_are_named(tmp_path):
    model = small_model()
    ids = ids_for(model.config, length=97)
    with pytest.raises(ValueError, match="97 positions; the model has n_positions=96"):
        model({"input_ids": ids})
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model({"attention_mask": ids})
    with pytest.raises(ValueError, match="No gpt2 size 'gpt2-tiny'; known: gpt2, gpt2-medium"):
        GPT2Config.of_size("gpt2-tiny")
    with pytest.raises(ValueError, match="n_embd is 30; expected a multiple of n_head=4"):
        GPT2Config(n_embd=30, n_head=4)
    with pytest.raises(ValueError, match="activation_function: got 'gelu_old'"):
        GPT2Config(activation_function="gelu_old")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"model_type": "bert"}, "model_type is 'bert'; expected 'gpt2'"),
                            ({"scale_attn_by_inverse_layer_idx": True}, "this port has only False")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            GPT2LMHeadModel.from_pretrained(tmp_path)


def test_bfloat16_keeps_its_variables_and_its_answers():
    model = small_model()
    lower = GPT2LMHeadModel(model.config, dtype="mixed_bfloat16")
    lower.set_weights(model.get_weights())
    assert {variable.dtype for variable in lower.trainable_variables} == {"float32"}
    ids = {"input_ids": ids_for(model.config)}
    expected, got = np.asarray(model(ids)), np.asarray(lower(ids))
    assert got.dtype == "float32" and np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
