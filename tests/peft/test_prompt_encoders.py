"""The networks that make virtual tokens, against the `peft` library's with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfhf import weights
from tfhf.peft.config import PrefixTuningConfig, PromptEncoderConfig
from tfhf.peft.prompt_encoders import make_prompt_encoder

WIDTH, COLUMNS = 16, 64
CASES = {
    "MLP": (PromptEncoderConfig, dict(encoder_hidden_size=6), WIDTH),
    "LSTM": (PromptEncoderConfig, dict(encoder_hidden_size=6, encoder_reparameterization_type="LSTM",), WIDTH),
    "prefix": (PrefixTuningConfig, dict(encoder_hidden_size=6, prefix_projection=True), COLUMNS),
}


def made(name, **options):
    config, own, columns = CASES[name]
    return make_prompt_encoder(config(num_virtual_tokens=5, **own), WIDTH, columns, keras.DTypePolicy("float32"),
                               **options)


@pytest.mark.parametrize("name", CASES)
def test_equals_peft(name, peft):
    import torch

    config, options, _ = CASES[name]
    kind = peft.PromptEncoder if config is PromptEncoderConfig else peft.PrefixEncoder
    theirs = kind(getattr(peft, config.__name__)(
        num_virtual_tokens=5, token_dim=WIDTH, num_layers=2, num_transformer_submodules=1, **options)).eval()
    encoder = made(name)
    weights.assign_reference_weights(encoder, {k: v.numpy() for k, v in theirs.state_dict().items()}, where="peft")
    rows = theirs(torch.arange(5))
    rows.square().sum().backward()

    @tf.function(jit_compile=True)
    def gradients():
        with tf.GradientTape() as tape:
            got = encoder(ops.arange(5))
            loss = tf.reduce_sum(got ** 2)
        found = tape.gradient(loss, [variable.value for variable in encoder.trainable_variables])
        return got, [tf.convert_to_tensor(gradient) for gradient in found]

    got, found = gradients()
    np.testing.assert_allclose(got, rows.detach(), atol=1e-5)
    np.testing.assert_allclose(encoder(ops.arange(5)), rows.detach(), atol=1e-5)
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for variable, gradient in zip(encoder.trainable_variables, found, strict=True):
        own = gradient.numpy().T if variable.path.endswith("kernel") else gradient.numpy()
        np.testing.assert_allclose(own, expected[weights.reference_name(variable)], atol=1e-4)


def test_initial_values_are_torchs():
    encoder = made("LSTM")
    values = {weights.reference_name(v): v.numpy() for v in encoder.weights}
    assert 0.7 < values["embedding.weight"].std() < 1.3
    for name, bound in (("lstm_head.weight_hh_l1", 6 ** -0.5), ("mlp_head.0.weight", 12 ** -0.5),
                        ("mlp_head.2.bias", 12 ** -0.5)):
        assert 0.5 * bound < np.abs(values[name]).max() <= bound, name


def test_a_table_is_the_rows_themselves():
    encoder = made("LSTM", table=True)
    assert [variable.shape for variable in encoder.weights] == [(5, WIDTH)]
    np.testing.assert_array_equal(encoder(ops.arange(5)), encoder.weights[0].numpy())
