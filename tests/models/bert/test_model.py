"""BERT against transformers on random weights, its folders both ways, and what padding must not change."""

import json

import keras
import numpy as np
import pytest

from tfhf.models.bert.config import BertConfig
from tfhf.models.bert.model import BertForSequenceClassification, BertModel, mean_pooled
from tfhf.weights import WeightsError, read_safetensors, write_safetensors

TINY = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=0.2)
RNG = np.random.default_rng(0)
LENGTHS = np.array([24, 9, 1])
INPUTS = {
    "input_ids": RNG.integers(1, 99, (3, 24)).astype("int32"),
    "attention_mask": (np.arange(24) < LENGTHS[:, None]).astype("int32"),
    "token_type_ids": (np.arange(24) >= LENGTHS[:, None] // 2).astype("int32"),
}


def _theirs(kind, folder, **changes):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**TINY, **changes})).eval()
    for name, tensor in model.named_parameters():   # norms and biases too are random
        with torch.no_grad():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder)

    def answer(inputs):
        with torch.no_grad():
            return model(**{key: torch.tensor(value) for key, value in inputs.items()})

    return answer


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
def test_hidden_states_and_pooler_are_those_of_transformers(tmp_path, act):
    expected = _theirs("BertModel", tmp_path, hidden_act=act)(INPUTS)
    got = BertModel.from_pretrained(tmp_path)(INPUTS)
    own = INPUTS["attention_mask"][:, :, None]
    np.testing.assert_allclose(got["last_hidden_state"] * own, expected.last_hidden_state.numpy() * own, atol=1e-4)
    np.testing.assert_allclose(got["pooler_output"], expected.pooler_output, atol=1e-4)


def test_classifier_is_that_of_transformers_and_its_folder_loads_there(tmp_path):
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    expected = _theirs("BertForSequenceClassification", tmp_path / "theirs", num_labels=5)(INPUTS).logits
    ours = BertForSequenceClassification.from_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(ours(INPUTS), expected, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    import torch

    again, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and again.config.num_labels == 5
    with torch.no_grad():
        logits = again.eval()(**{key: torch.tensor(value) for key, value in INPUTS.items()}).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_inputs_that_may_be_left_out_and_padding(tmp_path):
    model = BertModel(BertConfig(**TINY))
    row = {"input_ids": INPUTS["input_ids"][1:2, :9]}
    alone = model(row)["last_hidden_state"]
    whole = model({**row, "attention_mask": np.ones([1, 9], "int32"), "token_type_ids": np.zeros([1, 9], "int32")})
    np.testing.assert_allclose(alone, whole["last_hidden_state"], atol=1e-6)
    padded = model({"input_ids": INPUTS["input_ids"][1:2], "attention_mask": INPUTS["attention_mask"][1:2]})
    np.testing.assert_allclose(padded["last_hidden_state"][:, :9], alone, atol=1e-5)
    np.testing.assert_allclose(mean_pooled(padded["last_hidden_state"], INPUTS["attention_mask"][1:2]),
                               np.mean(alone, axis=1), atol=1e-5)
    one = mean_pooled(alone, None, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(one, axis=-1), 1.0, atol=1e-6)


def test_training_mode_without_dropout_and_several_lengths_in_one_graph_change_nothing():
    import tensorflow as tf

    model = BertForSequenceClassification(BertConfig(**TINY))
    expected = model(INPUTS, training=False)
    np.testing.assert_allclose(model(INPUTS, training=True), expected, atol=1e-5)
    spec = {"input_ids": tf.TensorSpec([None, None], tf.int32), "attention_mask": tf.TensorSpec([None, None], tf.int32)}
    any_length = tf.function(lambda inputs: model(inputs), input_signature=[spec])
    inputs = {name: INPUTS[name] for name in spec}
    longer = {name: np.pad(value, ((0, 0), (0, 9))) for name, value in inputs.items()}
    np.testing.assert_allclose(any_length(inputs), model(inputs), atol=1e-5)
    np.testing.assert_allclose(any_length(longer), model(inputs), atol=1e-5)


def test_recomputation_and_key_bias_change_nothing():
    import tensorflow as tf

    gradients = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        model = BertForSequenceClassification(BertConfig(**TINY, recompute_activations=recompute))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(INPUTS, training=True) ** 2)
        gradients.append(tape.gradient(loss, model.trainable_variables))
    assert all(gradient is not None for gradient in gradients[0])
    for a, b in zip(*gradients):
        a, b = (tf.convert_to_tensor(one) for one in (a, b))
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert [v.path.split("/", 1)[1] for v in model.non_trainable_variables if "key/bias" in v.path] == [
        f"bert/encoder/layer_{i}/attention/self/key/bias" for i in range(2)]


def test_mean_pooling_needs_no_pooler_and_a_new_head_is_named(tmp_path, capsys):
    bare = BertModel(BertConfig(**TINY))
    bare.save_pretrained(tmp_path)
    assert not any(name.startswith("bert.") for name in read_safetensors(tmp_path))
    assert BertForSequenceClassification.from_pretrained(tmp_path)(INPUTS).shape[-1] == 2
    assert "classifier.weight, classifier.bias begin with random values" in capsys.readouterr().err
    fresh = BertForSequenceClassification.from_pretrained(tmp_path, new_head=True, classifier_pooling="mean")
    assert fresh.bert.pooler is None
    pooled = mean_pooled(bare(INPUTS)["last_hidden_state"], INPUTS["attention_mask"])
    np.testing.assert_allclose(fresh(INPUTS), fresh.classifier(pooled), atol=1e-5)
    fresh.save_pretrained(tmp_path / "mean")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "mean", classifier_pooling="mean")
    np.testing.assert_array_equal(again(INPUTS), fresh(INPUTS))


def test_old_names_and_another_model(tmp_path):
    model = BertModel(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
               for name, value in read_safetensors(tmp_path).items()}
    write_safetensors(tmp_path, {**tensors, "embeddings.position_ids": np.arange(40)[None]})
    again = BertModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(INPUTS)["pooler_output"], model(INPUTS)["pooler_output"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(ValueError, match="model_type is 'roberta'; expected 'bert'"):
        BertModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="41 tokens; the model has max_position_embeddings=40"):
        model({"input_ids": np.ones([1, 41], "int32")})


def test_real_minilm_embeds_as_transformers_does(assets):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    from tokenizers import Tokenizer

    folder = assets("minilm-l6")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell today.",
             "Ein Satz, noch einer: ñandú"]
    encoded = tokenizer.encode_batch(texts)
    inputs = {"input_ids": np.array([one.ids for one in encoded], "int32"),
              "attention_mask": np.array([one.attention_mask for one in encoded], "int32")}
    model = BertModel.from_pretrained(folder)
    assert model.count_params() == 22_713_216
    ours = mean_pooled(model(inputs)["last_hidden_state"], inputs["attention_mask"], normalize=True).numpy()
    with torch.no_grad():
        hidden = transformers.BertModel.from_pretrained(folder).eval()(
            **{key: torch.tensor(value) for key, value in inputs.items()}).last_hidden_state
    mask = torch.tensor(inputs["attention_mask"])[:, :, None]
    theirs = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    print(f"largest difference {np.abs(ours - theirs).max():.1e}")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    similar = ours @ ours.T
    assert similar[0, 1] > 0.5 > 0.2 > similar[0, 2]
