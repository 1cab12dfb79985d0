"""Pretraining against transformers on the same weights, masks and negatives; the quantiser's noise and temperature."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses.contrastive import Wav2Vec2PreTrainingLoss, codebook_perplexity
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining, Wav2Vec2GumbelVectorQuantizer
from tfhf.weights import reference_weights

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(24,) * 7,
             num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, num_codevectors_per_group=20,
             codevector_dim=16, proj_codevector_dim=12, num_negatives=15, mask_time_prob=0.65, mask_time_length=4,
             hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
             feat_quantizer_dropout=0.0, final_dropout=0.0, layerdrop=0.0)
VARIANTS = {
    "base": {},
    "large": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
}


def small_model(options=None, **changes):
    """A small random model whose every weight counts."""
    keras.utils.set_random_seed(0)
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**{**SMALL, **changes}), **(options or {}))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.05, variable.shape))
    return model


def small_inputs(batch=3, samples=12000, seed=0):
    return {"input_values": np.random.default_rng(seed).normal(size=(batch, samples)).astype("float32")}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="live parity needs torch")
    return pytest.importorskip("transformers", reason="live parity needs transformers")


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_states_equal_transformers(name, tmp_path, transformers):
    import torch
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    model = small_model(**VARIANTS[name])
    model.save_pretrained(tmp_path)
    theirs, report = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = small_inputs()
    frames = model.config.feature_lengths(12000)
    np.random.seed(0)
    mask = _compute_mask_indices((3, frames), 0.65, 4, min_masks=2)
    negatives = _sample_negative_indices((3, frames), 15, mask)
    ours = model({**inputs, "mask_time_indices": mask, "sampled_negative_indices": negatives})
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(inputs["input_values"]), mask_time_indices=torch.tensor(mask),
                                 sampled_negative_indices=torch.tensor(negatives))
    masked = int(mask.sum())
    np.testing.assert_array_equal(ours["masked_frames"], mask.sum(1))
    for row in range(3):
        for key in ("projected_states", "projected_quantized_states"):
            np.testing.assert_allclose(ours[key][row, :mask[row].sum()], expected[key][row][mask[row]], atol=1e-4)
    contrastive = float(np.sum(ours["contrastive_loss"]))
    assert contrastive == pytest.approx(float(expected.contrastive_loss), rel=1e-4)
    perplexity = Wav2Vec2PreTrainingLoss().perplexity(ours)
    assert float(perplexity) == pytest.approx(float(expected.codevector_perplexity), rel=1e-4)
    # The sum over masked frames, as theirs, is ours per clip times its masked frames.
    ours = Wav2Vec2PreTrainingLoss(0.1, 0.0).call(None, ours)
    assert float(np.sum(ours * mask.sum(1))) == pytest.approx(float(expected.loss), rel=1e-4)
    assert float(expected.diversity_loss) == pytest.approx((40 - float(perplexity)) / 40 * masked, rel=1e-4)


def test_a_folder_that_transformers_writes_loads_here(tmp_path, transformers):
    config = transformers.Wav2Vec2Config(**{k: v for k, v in SMALL.items()})
    theirs = transformers.Wav2Vec2ForPreTraining(config)
    theirs.save_pretrained(tmp_path)
    model = Wav2Vec2ForPreTraining.from_pretrained(tmp_path)
    np.testing.assert_array_equal(model.quantizer.codevectors, theirs.quantizer.codevectors.detach())
    np.testing.assert_array_equal(np.transpose(model.project_hid.kernel), theirs.project_hid.weight.detach())


def test_parameter_count_of_base(monkeypatch):
    for initializer in (keras.initializers.RandomNormal, keras.initializers.GlorotUniform):
        monkeypatch.setattr(initializer, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
    weights = reference_weights(Wav2Vec2ForPreTraining(Wav2Vec2Config.of_size("base")))
    assert sum(value.size for value in weights.values()) == 95_044_608


def test_what_a_clip_gives_does_not_depend_on_the_others_or_the_padding():
    model = small_model()
    inputs = {**small_inputs(), "input_lengths": np.array([12000, 7000, 300], "int32")}
    whole = model(inputs)
    assert int(whole["masked_frames"][2]) == 0 and float(whole["contrastive_loss"][2]) == 0.0
    alone = model({name: value[1:2] for name, value in inputs.items()})
    for name, value in alone.items():
        np.testing.assert_allclose(value[0], whole[name][1], atol=1e-4, err_msg=name)
    noisy = inputs["input_values"].copy()
    noisy[1, 7000:] = 5.0
    noisy = model({**inputs, "input_values": noisy})
    for name, value in noisy.items():
        np.testing.assert_allclose(value, whole[name], atol=1e-4, err_msg=name)


def test_training_draws_anew_and_evaluation_does_not():
    model = small_model()
    inputs = small_inputs()
    first, second = (model(inputs, training=True) for _ in range(2))
    assert not np.array_equal(first["masked_frames"], second["masked_frames"]) or not np.array_equal(
        first["contrastive_loss"], second["contrastive_loss"])
    np.testing.assert_array_equal(model(inputs)["contrastive_loss"], model(inputs)["contrastive_loss"])
    assert (np.asarray(first["masked_frames"]) > 0).all()
    np.testing.assert_allclose(np.sum(first["code_distribution"], axis=-1),
                               np.tile(np.asarray(first["masked_frames"])[:, None], (1, 2)), rtol=1e-4)


def _quantizer(**options):
    config = Wav2Vec2Config(**SMALL)
    layer = Wav2Vec2GumbelVectorQuantizer(config, **options)
    layer.build((None, None, 24))
    return layer


def test_gumbel_choice_follows_the_softmax_and_is_one_word():
    layer = _quantizer()
    layer.weight_proj.kernel.assign(np.random.default_rng(0).normal(0, 0.3, (24, 40)))
    x = np.tile(np.random.default_rng(1).normal(size=(1, 1, 24)), (1, 20000, 1)).astype("float32")
    vectors, soft, codes = layer(x, training=True)
    shares = np.stack([np.bincount(np.asarray(codes)[0, :, g], minlength=20) / 20000 for g in range(2)])
    np.testing.assert_allclose(shares, soft[0, 0], atol=0.02)    # the noise's argmax is a draw from the softmax
    book = np.asarray(layer.codevectors)[0].reshape(2, 20, 8)
    expected = np.concatenate([book[g][np.asarray(codes)[0, :50, g]] for g in range(2)], axis=-1)
    np.testing.assert_allclose(vectors[0, :50], expected, atol=1e-5)


def test_gradient_goes_straight_through_the_choice():
    layer = _quantizer(max_temperature=1.0, min_temperature=1.0)
    x = tf.random.stateless_normal([1, 30, 24], [0, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, training=True)[0] ** 2)
    gradients = tape.gradient(loss, [x, layer.codevectors.value, layer.weight_proj.kernel.value])
    assert all(np.isfinite(g).all() and np.abs(g).max() > 1e-4 for g in map(tf.convert_to_tensor, gradients))


def test_temperature_falls_with_the_steps_in_the_graph():
    layer = _quantizer(max_temperature=2.0, min_temperature=1.7, temperature_decay=0.9)
    step = tf.function(lambda x: (layer(x, training=True)[0], layer.temperature()), jit_compile=True)
    found = [float(step(tf.zeros([1, 3, 24]))[1]) for _ in range(3)]
    np.testing.assert_allclose(found, [1.8, 1.7, 1.7], rtol=1e-6)
    layer(np.zeros((1, 3, 24), "float32"), training=False)
    assert int(layer.step) == 3


def test_gradient_of_the_convolutions_is_scaled():
    inputs = {**small_inputs(), "mask_time_indices": np.arange(37)[None] % 9 < 4 + np.zeros((3, 1), int),
              "sampled_negative_indices": np.zeros((3, 37, 15), "int32")}

    def gradients(multiplier):
        model = small_model({"feature_grad_mult": multiplier})
        conv = next(v for v in model.trainable_variables if "feature_extractor/conv_layers_0/conv/kernel" in v.path)
        variables = [conv, model.project_hid.kernel]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(Wav2Vec2PreTrainingLoss().call(None, model(inputs)))
        return tape.gradient(loss, [variable.value for variable in variables])

    (conv, project), (scaled, same) = gradients(1.0), gradients(0.1)
    assert np.abs(conv).max() > 0
    np.testing.assert_allclose(scaled, 0.1 * conv, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(same, project, rtol=1e-4, atol=1e-6)


def test_feature_penalty_is_the_mean_square_of_the_convolutions():
    model = small_model()
    inputs = small_inputs()
    outputs = model(inputs)
    assert outputs["feature_penalty"].shape == (3,) and (np.asarray(outputs["feature_penalty"]) > 0).all()
    louder = small_model()
    louder.wav2vec2.feature_extractor.conv_layers[-1].conv.kernel.assign(
        louder.wav2vec2.feature_extractor.conv_layers[-1].conv.kernel * 2)
    assert float(np.sum(louder(inputs)["feature_penalty"])) > 1.5 * float(np.sum(outputs["feature_penalty"]))


def test_codebook_perplexity_of_a_random_model_is_high():
    outputs = small_model()(small_inputs(batch=8))
    shares = np.sum(outputs["code_distribution"], axis=0) / np.sum(outputs["masked_frames"])
    assert 4 < float(codebook_perplexity(shares)) <= 40
    assert (np.asarray(outputs["codes"])[0, int(outputs["masked_frames"][0]):] == -1).all()


def test_bad_codevector_dim_is_named():
    with pytest.raises(ValueError, match="codevector_dim is 15; expected a multiple of num_codevector_groups=2"):
        Wav2Vec2GumbelVectorQuantizer(Wav2Vec2Config(**{**SMALL, "codevector_dim": 15}))
