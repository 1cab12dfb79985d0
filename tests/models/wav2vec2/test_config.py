"""Shapes, lengths and refusals of the wav2vec2 configuration."""

import numpy as np
import pytest

from tfhf.models.wav2vec2.config import SIZES, Wav2Vec2Config


def test_feature_lengths():
    config = Wav2Vec2Config()
    assert config.feature_lengths(246_000) == 768 and config.feature_lengths(399) < 1 <= config.feature_lengths(400)
    np.testing.assert_array_equal(config.feature_lengths(np.array([400, 16000])), [1, 49])


def test_sizes():
    assert {name: Wav2Vec2Config.of_size(name).num_hidden_layers for name in SIZES}["mms-1b"] == 48
    assert Wav2Vec2Config.of_size("base-960h", layerdrop=0.0).layerdrop == 0.0
    with pytest.raises(ValueError, match="No wav2vec2 size 'huge'; known: base,"):
        Wav2Vec2Config.of_size("huge")


@pytest.mark.parametrize("changes, words", [
    (dict(conv_dim=(8, 8)), "got .2, 7, 7. layers"),
    (dict(feat_extract_norm="batch"), "'group' or 'layer'"),
    (dict(hidden_size=100), "multiple of num_conv_pos_embedding_groups=16"),
])
def test_fields_that_do_not_fit(changes, words):
    with pytest.raises(ValueError, match=words):
        Wav2Vec2Config(**changes)
