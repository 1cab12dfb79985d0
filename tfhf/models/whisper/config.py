"""Shapes of Whisper (Radford et al. 2022, table 1) under Hugging Face's field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig


@dataclass(frozen=True)
class WhisperConfig(PretrainedConfig):
    """Hyperparameters of one Whisper model; the defaults are those of `tiny`.

    Published vocabularies have 51,864 rows (English-only), 51,865 (multilingual) or 51,866 (multilingual with
    large-v3's Cantonese); after tokens were added or rows padded they have more, so the number does not tell the kind.
    Rates of dropout are 0 in every published model.
    """

    model_type: ClassVar[str] = "whisper"
    fixed: ClassVar[dict] = dict(activation_function="gelu", scale_embedding=False)

    vocab_size: int = 51865
    num_mel_bins: int = 80
    d_model: int = 384
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    max_source_positions: int = 1500  # encoder frames of 20 ms: 30 s
    max_target_positions: int = 448
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    recompute_activations: bool = False  # each layer's activations are computed again in the backward pass
    pad_token_id: int = 50257
    bos_token_id: int = 50257
    eos_token_id: int = 50257
    decoder_start_token_id: int = 50258

    @property
    def is_multilingual(self) -> bool:
        """Whether the prompt has language and task tokens, as far as the ids of published models tell it."""
        return self.eos_token_id == 50257

    @property
    def max_samples(self) -> int:
        """Samples at 16 kHz that fill the encoder: two mel frames of 160 samples for each position."""
        return self.max_source_positions * 2 * 160

    def least_parameters(self):
        """See `PretrainedConfig`."""
        width = self.d_model
        rows = self.vocab_size + self.max_source_positions + self.max_target_positions + 3 * self.num_mel_bins
        encoder = self.encoder_layers * (4 * width + 2 * self.encoder_ffn_dim)
        return width * (rows + encoder + self.decoder_layers * (8 * width + 2 * self.decoder_ffn_dim))

    def to_hugging_face(self, architecture):
        """See `PretrainedConfig`."""
        return {**super().to_hugging_face(architecture), "is_encoder_decoder": True, "tie_word_embeddings": True,
                "num_hidden_layers": self.encoder_layers}


def _size(width, layers, heads, decoder_layers=None, **more):
    return dict(d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width,
                decoder_layers=decoder_layers or layers, decoder_attention_heads=heads, decoder_ffn_dim=4 * width,
                **more)


_ENGLISH = dict(vocab_size=51864, decoder_start_token_id=50257, pad_token_id=50256, bos_token_id=50256,
                eos_token_id=50256)
_V3 = dict(vocab_size=51866, num_mel_bins=128)
SIZES = {
    "tiny": _size(384, 4, 6),
    "base": _size(512, 6, 8),
    "small": _size(768, 12, 12),
    "medium": _size(1024, 24, 16),
    "large": _size(1280, 32, 20),
    "large-v2": _size(1280, 32, 20),
    "large-v3": _size(1280, 32, 20, **_V3),
    "large-v3-turbo": _size(1280, 32, 20, decoder_layers=4, **_V3),
    "tiny.en": _size(384, 4, 6, **_ENGLISH),
    "base.en": _size(512, 6, 8, **_ENGLISH),
    "small.en": _size(768, 12, 12, **_ENGLISH),
    "medium.en": _size(1024, 24, 16, **_ENGLISH),
}
WhisperConfig.sizes = SIZES

# Parameters, tied weights once, the encoder's frozen sinusoids included.
PARAMETER_COUNTS = {
    "tiny": 37_760_640, "base": 72_593_920, "small": 241_734_912, "medium": 763_857_920, "large": 1_543_304_960,
    "large-v2": 1_543_304_960, "large-v3": 1_543_490_560, "large-v3-turbo": 808_878_080, "tiny.en": 37_760_256,
    "base.en": 72_593_408,
}
