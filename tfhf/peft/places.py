"""Where each kind of model has its tokens, positions and self-attentions, and how virtual tokens get there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keras import ops

from tfhf.peft.config import PeftError
from tfhf.peft.graft import graft, modules


@dataclass(frozen=True)
class Places:
    """Facts about a kind of model; module names are regular expressions.

    Attributes:
        lora: the targets that peft takes where none are given.
        attention: its self-attentions that a prefix goes to, one a layer.
        positions: its table of learned positions, which begin behind a prefix; "": none.
        tokens: its table of tokens, in front of whose rows virtual tokens come; "": none, it has no tokens.
        encoder: in the place of `tokens`: the layer whose input virtual tokens go in front of.
        ids: the input with the token ids.
        width, layers, heads, most: names of fields of its config.
    """

    lora: tuple[str, ...]
    attention: str
    positions: str
    tokens: str
    width: str
    layers: str
    heads: str
    most: str = ""
    ids: str = "input_ids"
    encoder: str = ""

    def token_table(self, model):
        """The model's embeddings, [vocabulary, width].

        Raises:
            PeftError: it has no tokens.
        """
        if not self.tokens:
            raise PeftError(f"prompt_tuning_init: got SAMPLE_VOCAB; {type(model).__name__} has no vocabulary.")
        return _only(model, self.tokens)[0].embeddings


PLACES = {
    "GPT2Config": Places(("c_attn",), r"transformer\.h\.\d+\.attn", r"transformer\.wpe", r"transformer\.wte",
                         "n_embd", "n_layer", "n_head", "n_positions"),
    "BertConfig": Places(("query", "value"), r"bert\.encoder\.layer\.\d+\.attention\.self",
                         r"bert\.embeddings\.position_embeddings", r"bert\.embeddings\.word_embeddings",
                         "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    "WhisperConfig": Places(("q_proj", "v_proj"), r"model\.decoder\.layers\.\d+\.self_attn",
                            r"model\.decoder\.embed_positions", r"model\.decoder\.embed_tokens",
                            "d_model", "decoder_layers", "decoder_attention_heads", "max_target_positions",
                            "decoder_input_ids"),
    "Wav2Vec2Config": Places(("q_proj", "v_proj"), r"wav2vec2\.encoder\.layers\.\d+\.attention", "", "",
                             "hidden_size", "num_hidden_layers", "num_attention_heads", ids="",
                             encoder=r"wav2vec2\.encoder"),
}


def places_of(model) -> Places:
    """The facts about a model.

    Raises:
        PeftError: nothing is known of its kind.
    """
    kind = type(getattr(model, "config", None)).__name__
    if kind not in PLACES:
        raise PeftError(f"{type(model).__name__}: got a config of type {kind}; adapters know {', '.join(PLACES)}. For "
                        "LoRA in any other model give target_modules.")
    return PLACES[kind]


def _only(model, pattern):
    return [layer for name, layer in modules(model).items() if re.fullmatch(pattern, name)]


def _batched(rows, like):
    """[n, ...] -> [batch of `like`, n, ...] in its dtype."""
    return ops.repeat(ops.cast(rows, like.dtype)[None], ops.shape(like)[0], axis=0)


def _seen(bias, count):
    """A bias on scores, None or [..., keys] -> [..., count + keys]: a prefix is seen by all."""
    return None if bias is None else ops.pad(bias, [(0, 0)] * (len(bias.shape) - 1) + [(count, 0)])


class VirtualTokens:
    """An Embedding in which the ids behind the vocabulary are the virtual tokens."""

    def call(self, inputs):
        rows = self.virtual()
        numbers = ops.clip(ops.cast(inputs, "int32") - self.input_dim, -1, rows.shape[0] - 1)
        own = super().call(ops.minimum(inputs, self.input_dim - 1))
        virtual = ops.cast(ops.take(rows, ops.maximum(numbers, 0), axis=0), own.dtype)
        return ops.where((numbers >= 0)[..., None], virtual, own)


class VirtualFrames:
    """wav2vec2's encoder with virtual frames in front, which come out of it no more."""

    def call(self, x, lengths, training=False):
        rows = self.virtual()
        x = ops.concatenate([_batched(rows, x), x], axis=1)
        states = super().call(x, lengths + rows.shape[0], training=training)
        return tuple(state[:, rows.shape[0]:] for state in states)


class LaterPositions:
    """A table of positions, for a text behind a prefix."""

    def call(self, positions):
        return super().call(positions + self.prefix_length)


class Prefixed:
    """Self-attention of Whisper or wav2vec2 (`tfhf.layers.attention.Attention`) that sees a prefix."""

    def call(self, x, keys_values=None, bias=None, training=False):
        own = self.project_keys_values(x) if keys_values is None else keys_values
        pair = [ops.concatenate([_batched(rows, mine), mine], axis=2) for rows, mine in zip(self.prefix(), own)]
        return super().call(x, keys_values=pair, bias=_seen(bias, self.prefix_length), training=training)


class PrefixedGPT2:
    """GPT-2's self-attention that sees a prefix."""

    def call(self, x, bias=None, keys_values=None, training=False, **options):
        def behind_prefix(*own):
            own = own if keys_values is None else keys_values(*own)
            return [ops.concatenate([_batched(rows, mine), mine], axis=2) for rows, mine in zip(self.prefix(), own)]

        return super().call(x, bias=_seen(bias, self.prefix_length), keys_values=behind_prefix, training=training,
                            **options)


class PrefixedBert:
    """BERT's self-attention, whose `key` and `value` are `PrefixedProjection`s."""

    def call(self, x, bias, training=False):
        return super().call(x, _seen(bias, self.prefix_length), training=training)


class PrefixedProjection:
    """A linear layer to keys, or values, with those of the prefix in front."""

    def call(self, inputs, training=None):
        own = super().call(inputs, training=training)
        return ops.concatenate([_batched(self.prefix(), own), own], axis=1)


def put_virtual_tokens(model, places, virtual):
    """Makes the model know virtual tokens.

    Args:
        virtual: function without arguments -> [n, width].
    """
    for layer in _only(model, places.tokens or places.encoder):
        graft(layer, VirtualTokens if places.tokens else VirtualFrames, virtual=virtual)


def put_prefix(model, places, prefix, count):
    """Makes the model's self-attentions see a prefix.

    Args:
        prefix: function without arguments -> [count, layers * 2 * width]: of each layer the keys, then the values.
        count: virtual tokens.
    """
    width, heads = getattr(model.config, places.width), getattr(model.config, places.heads)

    def rows(number, value):
        start = (2 * number + value) * width
        return lambda: prefix()[:, start:start + width]

    def split(number):
        def pair():
            return [ops.transpose(ops.reshape(rows(number, value)(), (count, heads, width // heads)), (1, 0, 2))
                    for value in (0, 1)]
        return pair

    for number, layer in enumerate(_only(model, places.attention)):
        kind = type(layer).__name__
        if kind == "BertSelfAttention":
            graft(layer, PrefixedBert, prefix_length=count)
            graft(layer.key, PrefixedProjection, prefix=rows(number, 0))
            graft(layer.value, PrefixedProjection, prefix=rows(number, 1))
        else:
            graft(layer, PrefixedGPT2 if kind == "GPT2Attention" else Prefixed, prefix=split(number),
                  prefix_length=count)
    for layer in _only(model, places.positions) if places.positions else ():
        graft(layer, LaterPositions, prefix_length=count)
