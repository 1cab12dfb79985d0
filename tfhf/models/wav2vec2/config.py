"""Shapes of wav2vec 2.0 (Baevski et al. 2020; XLSR: Conneau et al. 2020; MMS: Pratap et al. 2023), Hugging Face's field
names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig


@dataclass(frozen=True)
class Wav2Vec2Config(PretrainedConfig):
    """Hyperparameters of one wav2vec2 model; the defaults are those of `base` after pretraining.

    `feat_extract_norm` is "group" (a norm over time after the first convolution only; base and large on LibriSpeech) or
    "layer" (after each one). `do_stable_layer_norm`: norms before the blocks instead of behind them. `pad_token_id` is
    CTC's blank.

    Raises:
        ValueError: fields that do not fit each other.
    """

    model_type: ClassVar[str] = "wav2vec2"
    fixed: ClassVar[dict] = dict(hidden_act="gelu", feat_extract_activation="gelu", add_adapter=False,
                                 adapter_attn_dim=None)
    own: ClassVar[tuple] = ("recompute_activations", "do_normalize")
    # Our own defaults are the pretrained base's.
    their_defaults: ClassVar[dict] = dict(activation_dropout=0.1, final_dropout=0.1, layerdrop=0.1)

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.0
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    feat_quantizer_dropout: float = 0.0
    final_dropout: float = 0.0
    layerdrop: float = 0.05
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    pad_token_id: int = 0
    num_labels: int = 2
    labels: tuple[str, ...] = ()   # their names; in config.json id2label
    classifier_proj_size: int = 256
    use_weighted_layer_sum: bool = False
    do_normalize: bool = True  # int16 waveforms: each clip to mean 0 and variance 1
    recompute_activations: bool = False  # each layer's activations are computed again in the backward pass

    def __post_init__(self):
        super().__post_init__()
        convolutions = [len(x) for x in (self.conv_dim, self.conv_stride, self.conv_kernel)]
        if len(set(convolutions)) != 1:
            raise ValueError(f"conv_dim, conv_stride and conv_kernel: got {convolutions} layers; expected "
                             "as many each.")
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm: got {self.feat_extract_norm!r}; expected 'group' or 'layer'.")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(f"hidden_size is {self.hidden_size}; expected a multiple of num_conv_pos_embedding_groups="
                             f"{self.num_conv_pos_embedding_groups}.")

    def feature_lengths(self, sample_lengths):
        """Frames that the convolutions make of so many samples: int, array or tensor, and the same back.

        May be below 1 where not a single frame fits.
        """
        for kernel, stride in zip(self.conv_kernel, self.conv_stride):
            sample_lengths = (sample_lengths - kernel) // stride + 1
        return sample_lengths

    def least_parameters(self):
        """See `PretrainedConfig`."""
        width, before = self.hidden_size, (1, *self.conv_dim)
        convolutions = sum(a * b * size for a, b, size in zip(before, self.conv_dim, self.conv_kernel))
        positions = width * width // self.num_conv_pos_embedding_groups * self.num_conv_pos_embeddings
        layers = self.num_hidden_layers * (4 * width + 2 * self.intermediate_size)
        codes = self.num_codevector_groups * self.num_codevectors_per_group * self.codevector_dim
        return convolutions + positions + codes + width * (layers + self.vocab_size + self.num_labels)

    def to_hugging_face(self, architecture):
        """See `PretrainedConfig`."""
        return {**super().to_hugging_face(architecture), "num_feat_extract_layers": len(self.conv_dim)}


_CTC = dict(final_dropout=0.1, layerdrop=0.1, activation_dropout=0.1, feat_proj_dropout=0.1)
_LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
_WIDE_CODES = dict(codevector_dim=768, proj_codevector_dim=768)
_STABLE = dict(_LARGE, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, **_WIDE_CODES)
SIZES = {
    "base": dict(),
    "base-960h": _CTC,
    "large": dict(_LARGE, **_WIDE_CODES),
    "large-960h": dict(_LARGE, **_CTC, **_WIDE_CODES),
    "large-lv60": dict(_STABLE),
    "large-960h-lv60-self": dict(_STABLE, **_CTC),
    "xlsr-53": dict(_STABLE),
    "robust": dict(_STABLE),
    "mms-300m": dict(_STABLE),
    "mms-1b": dict(_STABLE, hidden_size=1280, num_hidden_layers=48, intermediate_size=5120, codevector_dim=1024,
                   proj_codevector_dim=1024),
}
Wav2Vec2Config.sizes = SIZES

# Parameters by size and the class that they are of.
PARAMETER_COUNTS = {
    ("base", "Wav2Vec2Model"): 94_371_712, ("base-960h", "Wav2Vec2ForCTC"): 94_396_320,
    ("base", "Wav2Vec2ForPreTraining"): 95_044_608, ("large-960h", "Wav2Vec2ForCTC"): 315_461_792,
    ("large-960h-lv60-self", "Wav2Vec2ForCTC"): 315_471_520,
}
