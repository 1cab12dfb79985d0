"""Recomputed activations: the same losses and gradients, dropout included."""

import keras
import numpy as np
import pytest

from tests.models.whisper.test_model import inputs_for, small_model
from tfhf.layers import recompute
from tfhf.losses.cross_entropy import TokenCrossEntropy


def test_without_recomputation_the_layer_just_runs():
    layer = keras.layers.Dense(3)
    np.testing.assert_array_equal(recompute.run(layer, False, np.ones((1, 2), "float32"), training=True),
                                  layer(np.ones((1, 2), "float32")))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_change_nothing(dropout):
    losses = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        model = small_model(vocab_size=51865, recompute_activations=recompute, dropout=dropout)
        inputs = inputs_for(model.config)
        model.compile(keras.optimizers.SGD(0.1), TokenCrossEntropy(), jit_compile=False)
        losses.append([float(model.train_on_batch(inputs, inputs["decoder_input_ids"])) for _ in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][2] < losses[0][0]
