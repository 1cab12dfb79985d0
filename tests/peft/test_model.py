"""Every method against the `peft` library on the same small model, and what an adapter leaves of the model."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.peft.conftest import moved, our_model, run_theirs, skip_where_their_prefix_breaks
from tfhf.peft.config import (LoraConfig, PeftError, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig)
from tfhf.peft.model import PeftModel, get_peft_model

TASKS = {"GPT2LMHeadModel": "CAUSAL_LM", "GPT2ForSequenceClassification": "SEQ_CLS", "BertModel": "FEATURE_EXTRACTION",
         "BertForSequenceClassification": "SEQ_CLS"}
METHODS = {
    "lora": (LoraConfig, dict(r=4, lora_alpha=16)),
    "rslora, by a pattern": (LoraConfig, dict(r=3, use_rslora=True, target_modules=r".*(c_proj|output\.dense)")),
    "prompt": (PromptTuningConfig, dict(num_virtual_tokens=4)),
    "prefix": (PrefixTuningConfig, dict(num_virtual_tokens=4)),
    "prefix, projected": (PrefixTuningConfig, dict(num_virtual_tokens=5, prefix_projection=True,
                                                   encoder_hidden_size=12)),
    "p-tuning": (PromptEncoderConfig, dict(num_virtual_tokens=4, encoder_hidden_size=12)),
    "p-tuning, LSTM": (PromptEncoderConfig, dict(num_virtual_tokens=4, encoder_reparameterization_type="LSTM",
                                                 encoder_hidden_size=12)),
}
# Every method on a language model; on the others one of each kind of mechanism.
CASES = [("GPT2LMHeadModel", method) for method in METHODS] + [
    (kind, method) for kind, methods in {
        "GPT2ForSequenceClassification": ("lora", "prompt"), "BertModel": ("p-tuning", "rslora, by a pattern"),
        "BertForSequenceClassification": ("lora", "prefix", "prompt")}.items() for method in methods]
IDS = np.random.default_rng(1).integers(1, 99, (3, 9))
MASK = (np.arange(9) < np.array([9, 6, 3])[:, None]).astype("int64")


def text(mask=MASK):
    return {"input_ids": IDS.astype("int32"), "attention_mask": mask.astype("int32")}


def first(outputs):
    return np.asarray(outputs["last_hidden_state"] if isinstance(outputs, dict) else outputs)


@pytest.mark.parametrize("kind, method", CASES)
def test_equals_peft_both_ways(kind, method, pair, peft, tmp_path):
    if method == "prefix" and kind.startswith("Bert"):
        skip_where_their_prefix_breaks()
    config, options = METHODS[method]
    base, theirs = pair(kind)
    ours = get_peft_model(base, config(task_type=TASKS[kind], **options))
    new = peft.get_peft_model(theirs, getattr(peft, config.__name__)(task_type=TASKS[kind], **options))
    assert ours.get_nb_trainable_parameters()[0] == new.get_nb_trainable_parameters()[0]
    assert sum(v.numpy().size for v in ours.trainable_variables) == new.get_nb_trainable_parameters()[0]
    # With virtual tokens theirs finds no padding, and takes the last place for the last token.
    mask = np.ones_like(MASK) if kind == "GPT2ForSequenceClassification" else MASK
    plain = first(our_model(kind)(text(mask)))
    moved(ours.trainable_variables)
    got = first(ours(text(mask)))
    assert got.shape == plain.shape and np.abs(got - plain).max() > 1e-2

    ours.save_pretrained(tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(pair(kind)[1], tmp_path / "ours").eval()
    own = mask[..., None] if got.ndim == 3 else 1  # what stands at padding is nobody's
    expected = run_theirs(loaded, input_ids=IDS, attention_mask=mask)
    expected = expected[:, -IDS.shape[1]:] if got.ndim == 3 else expected
    np.testing.assert_allclose(got * own, expected * own, atol=1e-4)

    loaded.save_pretrained(tmp_path / "theirs")
    back = PeftModel.from_pretrained(our_model(kind), tmp_path / "theirs")
    np.testing.assert_allclose(first(back(text(mask))), got, atol=1e-5)
    assert not back.trainable_variables


def test_prints_the_count_as_peft_does(pair, peft, capsys):
    ours, theirs = pair("GPT2LMHeadModel")
    get_peft_model(ours, LoraConfig(task_type="CAUSAL_LM")).print_trainable_parameters()
    peft.get_peft_model(theirs, peft.LoraConfig(task_type="CAUSAL_LM")).print_trainable_parameters()
    one, other = capsys.readouterr().out.splitlines()
    assert one == other and one.startswith("trainable params: 2,048 ||")


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_generates_as_peft_does(method, pair, peft, tmp_path):
    import torch

    if method == "prefix":
        skip_where_their_prefix_breaks()
    config, options = METHODS[method]
    base, theirs = pair("GPT2LMHeadModel")
    prompts = IDS[:, :5]
    how = dict(max_new_tokens=8, jit_compile=False)
    plain = base.generate(prompts.astype("int32"), **how)  # traced before the adapter is there
    ours = get_peft_model(base, config(task_type="CAUSAL_LM", **options))
    moved(ours.trainable_variables)
    ours.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    expected = theirs.generate(input_ids=torch.tensor(prompts), attention_mask=torch.ones(3, 5).long(), do_sample=False,
                               max_new_tokens=8).numpy()
    got = ours.generate(prompts.astype("int32"), **how)
    np.testing.assert_array_equal(got[:, :expected.shape[1]], expected)
    assert (got != plain).any()
    np.testing.assert_array_equal(ours.unload().generate(prompts.astype("int32"), **how), plain)


@pytest.mark.parametrize("method", ["lora", "prefix", "p-tuning"])
def test_the_model_comes_back_as_it_was(method):
    base = our_model("GPT2LMHeadModel")
    before, trained = base.get_weights(), [v.path for v in base.trainable_variables]
    plain = base(text())
    config, options = METHODS[method]
    model = get_peft_model(base, config(**options))
    moved(model.trainable_variables)
    with pytest.raises(PeftError, match="has an adapter already"):
        get_peft_model(base, LoraConfig())
    assert model.config is base.config  # what is not the adapter's is the model's
    assert model.unload() is base and [v.path for v in base.trainable_variables] == trained
    np.testing.assert_array_equal(base(text()), plain)
    assert all(np.array_equal(a, b) for a, b in zip(before, base.get_weights(), strict=True))
    get_peft_model(base, LoraConfig())


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_gradients_do_not_change_with_recomputation_or_xla(method):
    import tensorflow as tf

    config, options = METHODS[method]
    options = {**options, "lora_dropout": 0.3} if config is LoraConfig else options
    found = []
    for recompute, xla in ((False, config is LoraConfig), (True, True)):  # with XLA dropout draws other numbers
        base = our_model("BertForSequenceClassification", recompute_activations=recompute)
        model = get_peft_model(base, config(**options))
        moved(model.trainable_variables)

        @tf.function(jit_compile=xla)
        def gradients(batch, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(batch, training=True) ** 2)
            return [tf.convert_to_tensor(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]

        found.append([g.numpy() for g in gradients({k: tf.constant(v) for k, v in text().items()})])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max() + 1e-7, rtol=1e-3)
    assert all(np.abs(a).max() > 0 for a in found[0])


def test_losses_by_labels_are_those_of_the_logits():
    model = get_peft_model(our_model("GPT2LMHeadModel"), PromptTuningConfig(num_virtual_tokens=4))
    inputs = {"input_ids": IDS.astype("int32")}
    logits = model(inputs)
    losses = np.asarray(model({**inputs, "labels": IDS.astype("int32")}))
    expected = keras.losses.sparse_categorical_crossentropy(IDS[:, 1:], logits[:, :-1], from_logits=True)
    assert losses.shape == IDS.shape
    np.testing.assert_allclose(losses[:, 1:], expected, atol=1e-4)


def test_packed_texts_see_the_prefix_each():
    model = get_peft_model(our_model("GPT2LMHeadModel"), PrefixTuningConfig(num_virtual_tokens=4))
    packed = {"input_ids": IDS[:1].astype("int32"), "segment_ids": np.array([[1] * 5 + [2] * 4], "int32")}
    got = np.asarray(model(packed))
    for part in (slice(0, 5), slice(5, 9)):
        alone = model({"input_ids": IDS[:1, part].astype("int32")})
        np.testing.assert_allclose(got[:, part], alone, atol=1e-4)
    prompted = get_peft_model(our_model("GPT2LMHeadModel"), PromptTuningConfig(num_virtual_tokens=4))
    with pytest.raises(PeftError, match="segment_ids: not with virtual tokens"):
        prompted(packed)


def test_a_text_that_leaves_no_place_for_virtual_tokens():
    model = get_peft_model(our_model("BertModel"), PrefixTuningConfig(num_virtual_tokens=35))
    with pytest.raises(PeftError, match="input_ids: 9 tokens and num_virtual_tokens=35; the model has max_pos.*=40"):
        model(text())


def test_starts_with_the_embeddings_of_tokens():
    model = get_peft_model(our_model("GPT2LMHeadModel"),
                           PromptTuningConfig(num_virtual_tokens=4, prompt_tuning_init="SAMPLE_VOCAB"))
    table = model.transformer.wte.embeddings.numpy()
    for row in model.prompt_encoder.embedding.embeddings.numpy():
        assert (table == row).all(axis=1).any()


def test_virtual_tokens_know_no_merging_and_no_generation():
    model = get_peft_model(our_model("GPT2LMHeadModel"), PromptTuningConfig(num_virtual_tokens=4))
    with pytest.raises(PeftError, match="PROMPT_TUNING: virtual tokens cannot be merged"):
        model.merge_and_unload()
    with pytest.raises(PeftError, match="generate: not with virtual tokens"):
        model.generate(IDS)
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.no_such_thing


def test_bfloat16():
    for method in ("prefix", "p-tuning, LSTM"):
        config, options = METHODS[method]
        one = get_peft_model(our_model("GPT2LMHeadModel"), config(**options))
        moved(one.trainable_variables)
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            other = get_peft_model(our_model("GPT2LMHeadModel"), config(**options))
            for a, b in zip(one.weights, other.weights, strict=True):
                b.assign(a.numpy())
            assert {v.dtype for v in other.trainable_variables} == {"float32"}
            got, expected = (np.asarray(ops.cast(model(text()), "float32")) for model in (other, one))
        finally:
            keras.config.set_dtype_policy("float32")
        assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
