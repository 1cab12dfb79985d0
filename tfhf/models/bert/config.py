"""Shapes of BERT (Devlin et al. 2018, section 3) and MiniLM (Wang et al. 2020) under Hugging Face's field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig

ACTIVATIONS = ("gelu", "gelu_new", "relu")
POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class BertConfig(PretrainedConfig):
    """Hyperparameters of one BERT; the defaults are those of bert-base-uncased.

    `classifier_dropout` None is hidden_dropout_prob. `classifier_pooling`, ours: what a classifier sees of a text:
    "cls" (BERT: the first token's state through the pooler) or "mean" (sentence models such as MiniLM: the mean of the
    tokens' states; such a model has no pooler).

    Raises:
        ValueError: fields that do not fit each other.
    """

    model_type: ClassVar[str] = "bert"
    fixed: ClassVar[dict] = dict(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    own: ClassVar[tuple] = ("recompute_activations", "classifier_pooling")

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    num_labels: int = 2
    labels: tuple[str, ...] = ()   # their names; in config.json id2label
    classifier_pooling: str = "cls"
    recompute_activations: bool = False  # each layer's activations are computed again in the backward pass

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size is {self.hidden_size}; expected a multiple of num_attention_heads="
                             f"{self.num_attention_heads}.")
        for name, known in (("hidden_act", ACTIVATIONS), ("classifier_pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; expected one of {', '.join(known)}.")

    def least_parameters(self):
        """See `PretrainedConfig`."""
        width = self.hidden_size
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size + self.num_labels
        return width * (rows + self.num_hidden_layers * (4 * width + 2 * self.intermediate_size))


_LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
SIZES = {
    "bert-tiny": dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
    "bert-base-uncased": dict(),
    "bert-base-cased": dict(vocab_size=28996),
    "bert-base-multilingual-cased": dict(vocab_size=119547),
    "bert-large-uncased": _LARGE,
    "bert-large-cased": dict(_LARGE, vocab_size=28996),
    "all-MiniLM-L6-v2": dict(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    "all-MiniLM-L12-v2": dict(hidden_size=384, intermediate_size=1536),
}
BertConfig.sizes = SIZES

# Parameters of BertModel, the pooler included.
PARAMETER_COUNTS = {
    "bert-tiny": 4_385_920, "bert-base-uncased": 109_482_240, "bert-base-cased": 108_310_272,
    "bert-base-multilingual-cased": 177_853_440, "bert-large-uncased": 335_141_888, "bert-large-cased": 333_579_264,
    "all-MiniLM-L6-v2": 22_713_216, "all-MiniLM-L12-v2": 33_360_000,
}
