"""Shapes of GPT-2 (Radford et al. 2019, table 2) under Hugging Face's field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig

ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")


@dataclass(frozen=True)
class GPT2Config(PretrainedConfig):
    """Hyperparameters of one GPT-2; the defaults are those of the smallest, 124M.

    `n_inner` None is 4 * n_embd. `activation_function` "gelu_new" is GELU by its tanh approximation.

    Raises:
        ValueError: fields that do not fit each other.
    """

    model_type: ClassVar[str] = "gpt2"
    fixed: ClassVar[dict] = dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
                                 reorder_and_upcast_attn=False, add_cross_attention=False, tie_word_embeddings=True)

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    pad_token_id: int | None = None
    num_labels: int = 2
    labels: tuple[str, ...] = ()   # their names; in config.json id2label
    recompute_activations: bool = False  # each layer's activations are computed again in the backward pass

    def __post_init__(self):
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}; expected a multiple of n_head={self.n_head}.")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(f"activation_function: got {self.activation_function!r}; expected one of "
                             f"{', '.join(ACTIVATIONS)}.")

    @property
    def inner(self) -> int:
        """Width between the two linear layers of the feed-forward part."""
        return self.n_inner or 4 * self.n_embd

    def least_parameters(self):
        """See `PretrainedConfig`."""
        rows = self.vocab_size + self.n_positions + self.num_labels
        return self.n_embd * (rows + self.n_layer * (4 * self.n_embd + 2 * self.inner))


SIZES = {
    "gpt2": dict(),
    "gpt2-medium": dict(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": dict(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": dict(n_embd=1600, n_layer=48, n_head=25),
    "distilgpt2": dict(n_layer=6),  # Sanh et al. 2019
}
GPT2Config.sizes = SIZES

# Parameters of GPT2LMHeadModel, the tied table once.
PARAMETER_COUNTS = {
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "distilgpt2": 81_912_576,
}
