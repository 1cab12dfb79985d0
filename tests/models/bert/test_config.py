"""Published shapes of BERT, their exact parameter counts, and refusals."""

import pytest

from tfhf.models.bert.config import PARAMETER_COUNTS, SIZES, BertConfig
from tfhf.models.bert.model import BertModel


def _count(config):
    """By arithmetic: what BertModel creates."""
    width, inner = config.hidden_size, config.intermediate_size
    tables = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    return tables + 2 * width + config.num_hidden_layers * layer + width * width + width


@pytest.mark.parametrize("name", SIZES)
def test_exact_counts(name):
    assert _count(BertConfig.of_size(name)) == PARAMETER_COUNTS[name]


def test_the_arithmetic_is_that_of_the_model():
    config = BertConfig.of_size("bert-tiny")
    assert BertModel(config).count_params() == _count(config)


@pytest.mark.parametrize("changes, words", [
    (dict(hidden_size=100), "hidden_size is 100; expected a multiple of num_attention_heads=12"),
    (dict(hidden_act="swish"), "hidden_act: got 'swish'; expected one of gelu, gelu_new, relu"),
    (dict(classifier_pooling="max"), "expected one of cls, mean"),
])
def test_fields_that_do_not_fit(changes, words):
    with pytest.raises(ValueError, match=words):
        BertConfig(**changes)


def test_unknown_sizes_and_configs_of_other_models():
    with pytest.raises(ValueError, match="No bert size 'huge'; known: bert-tiny,"):
        BertConfig.of_size("huge")
    content = BertConfig(num_labels=3).to_hugging_face("BertForSequenceClassification")
    assert BertConfig.from_hugging_face(content, "here") == BertConfig(num_labels=3)
    assert "classifier_pooling" not in content
    with pytest.raises(ValueError, match="position_embedding_type is 'relative_key'"):
        BertConfig.from_hugging_face({**content, "position_embedding_type": "relative_key"}, "here")
