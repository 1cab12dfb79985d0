"""What the tests of adapters share: the reference, and small models on both sides with the same weights."""

import copy
import functools
import importlib.metadata

import keras
import numpy as np
import pytest
from packaging.version import Version

from tests.models.gpt2 import test_model as gpt2
from tfhf.models.bert.config import BertConfig
from tfhf.models.bert.model import BertForSequenceClassification, BertModel
from tfhf.models.gpt2.model import GPT2ForSequenceClassification, GPT2LMHeadModel

BERT = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def moved(variables, seed=0):
    """Moves every variable off its initial value, so that each one's place shows."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.2, variable.shape))


def our_model(kind, **changes):
    if kind.startswith("GPT2"):
        cls = {"GPT2LMHeadModel": GPT2LMHeadModel, "GPT2ForSequenceClassification": GPT2ForSequenceClassification}[kind]
        return gpt2.small_model(cls, n_layer=2, pad_token_id=0, **changes)
    keras.utils.set_random_seed(0)
    model = {"BertModel": BertModel, "BertForSequenceClassification": BertForSequenceClassification}[kind](
        BertConfig(**BERT, **changes))
    moved(model.trainable_variables)
    return model


@pytest.fixture(scope="session")
def peft():
    """Hugging Face's library."""
    pytest.importorskip("torch", reason="live parity needs torch")
    pytest.importorskip("transformers", reason="live parity needs transformers")
    return pytest.importorskip("peft", reason="live parity needs peft")


def skip_where_their_prefix_breaks():
    """Skips a test of prefix tuning with BERT or in generation where the library cannot do it.

    From transformers 5.24 on, peft 0.21.2 gives BERT past states that it refuses, and generates other tokens.
    """
    found = {name: importlib.metadata.version(name) for name in ("peft", "transformers")}
    if Version(found["transformers"]) >= Version("5.24") and Version(found["peft"]) <= Version("0.21.2"):
        pytest.skip(f"prefix tuning of peft {found['peft']} breaks with transformers {found['transformers']}; "
                    "transformers 5.23 is right")


@pytest.fixture(scope="session")
def pair(tmp_path_factory, peft):
    """kind -> (our model, theirs with the same weights), new ones each time."""
    import transformers

    @functools.cache
    def of(kind):
        folder = tmp_path_factory.mktemp(kind)
        our_model(kind).save_pretrained(folder)
        return getattr(transformers, kind).from_pretrained(folder).eval()

    return lambda kind: (our_model(kind), copy.deepcopy(of(kind)))


def run_theirs(model, **inputs):
    """Their first output, of inputs as arrays."""
    import torch

    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in inputs.items()})[0].numpy()
