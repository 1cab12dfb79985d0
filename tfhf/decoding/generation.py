"""Generation over a cache of static length, shared by all decoders: the prompt at once, then one token a step."""

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np
from keras import ops

from tfhf.decoding.beam_search import beam_loop
from tfhf.decoding.cache import write
from tfhf.decoding.sampling import sample_loop
from tfhf.layers.attention import MASKED_SCORE


@dataclass(frozen=True)
class Decoder:
    """What a model is to generation.

    Attributes:
        embed: (token ids, positions), both int32 [rows, length] -> [rows, length, width].
        layers: functions (x, bias, keys_values, beams) -> x. bias is float32, broadcastable to [rows, 1, length, keys],
            what each position may look at; `keys_values(keys, values)`, each [rows, heads, length, head_dim], gives the
            keys and values to attend to in the place of the layer's own; beams: rows for each row of the prompt.
        logits: [rows, ..., width] of the last layer -> float32 [rows, ..., vocabulary].
        max_positions: of the position table.
    """

    embed: Callable
    layers: Sequence[Callable]
    logits: Callable
    max_positions: int


def prefill(decoder: Decoder, prompt, prompt_lengths, new_tokens: int) -> tuple[Any, tuple]:
    """Reads the prompt.

    Args:
        prompt: int32 [batch, length], padded on the left.
        prompt_lengths: int32 [batch], own tokens of each.
        new_tokens: places that the cache has behind the prompt.

    Returns:
        [batch, length, width] of the last layer, and the cache: for each layer keys and values
        [batch, heads, length + new_tokens, head_dim].
    """
    places = ops.arange(prompt.shape[1])
    padding = prompt.shape[1] - prompt_lengths
    positions = ops.maximum(places[None] - padding[:, None], 0)
    seen = ops.logical_and((places[None] <= places[:, None])[None], (places[None] >= padding[:, None])[:, None])
    bias = ops.where(seen, 0.0, MASKED_SCORE)[:, None]
    x, cache = decoder.embed(prompt, positions), []

    def remember(*keys_values):
        cache.append(tuple(ops.pad(t, ((0, 0), (0, 0), (0, new_tokens), (0, 0))) for t in keys_values))
        return keys_values

    for layer in decoder.layers:
        x = layer(x, bias, remember, 1)
    return x, tuple(cache)


def decode(decoder: Decoder, logits, cache, prompt, prompt_lengths, rules, options, temperature=0.0, seed=0, xla=True):
    """New tokens behind a prompt that `prefill` has read.

    Args:
        logits: float32 [batch, vocabulary] behind the prompt's last token.
        cache, prompt, prompt_lengths: as `prefill` gives and takes them.
        rules: as `sampling.sample_loop` takes them; with beams they begin with the rows of all beams.
        options: `Sampling` or `BeamSearch`.
        temperature, seed: as `sampling.sample_loop` takes them; beams need neither.
        xla: whether XLA compiles it.

    Returns:
        dict as `sample_loop` or `beam_loop` gives.
    """
    beams, length = getattr(options, "num_beams", 1), prompt.shape[1]
    padding = repeated(length - prompt_lengths, beams)
    slots = ops.arange(length + options.max_new_tokens)[None]

    def step(token, index, cache):
        at = length + index - 1
        position = ops.minimum(at - padding, decoder.max_positions - 1)
        seen = ops.logical_and(slots >= padding[:, None], slots <= at)
        bias = ops.where(seen, 0.0, MASKED_SCORE)[:, None, None]
        x, new_cache = decoder.embed(token[:, None], position[:, None]), []
        for layer, old in zip(decoder.layers, cache):
            def extend(*new, old=old):
                new_cache.append(tuple(write(o, n, at, xla) for o, n in zip(old, new)))
                return new_cache[-1]
            x = layer(x, bias, extend, beams)
        return decoder.logits(x[:, 0]), tuple(new_cache)

    if beams == 1:
        return sample_loop(step, logits, cache, rules, options, temperature, seed)
    cache = tuple(tuple(repeated(t, beams) for t in pair) for pair in cache)
    return beam_loop(step, repeated(logits, beams), cache, rules, options)


def repeated(x, times):
    """Each row of x `times` times, one after the other."""
    return x if times == 1 else ops.repeat(x, times, axis=0)


class RepetitionPenalty:
    """Tokens that stand in the prompt or were written are less likely (Keskar et al. 2019, section 4.1).

    Their logits are divided by `penalty` where positive and multiplied where negative; with beams it is the
    log-probabilities, as in Hugging Face. Padding does not count.
    """

    after_softmax = True  # in beam search

    def __init__(self, penalty, vocabulary, prompt, prompt_lengths):
        own = ops.arange(prompt.shape[1])[None] >= prompt.shape[1] - prompt_lengths[:, None]
        rows = ops.broadcast_to(ops.arange(ops.shape(prompt)[0])[:, None], ops.shape(prompt))
        places = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(prompt, (-1,))], axis=1)
        counts = ops.scatter(places, ops.cast(ops.reshape(own, (-1,)), "int32"), (ops.shape(prompt)[0], vocabulary))
        self.penalty, self.ids, self.seen = penalty, ops.arange(vocabulary)[None], counts > 0

    def start(self, rows):
        """State: bool [rows, vocabulary], the tokens that are there."""
        return ops.reshape(ops.repeat(self.seen, rows // ops.shape(self.seen)[0], axis=0), (rows, self.ids.shape[1]))

    def apply(self, logits, index, state):
        """logits, or log-probabilities, float32 [rows, vocabulary] -> the same, lowered."""
        return ops.where(state, ops.where(logits < 0, logits * self.penalty, logits / self.penalty), logits)

    def advance(self, state, token, index):
        """State after `token` int32 [rows]."""
        return ops.logical_or(state, self.ids == token[:, None])


def left_padded(prompts, pad_token_id: int, attention_mask=None) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as one array.

    Args:
        prompts: int array [batch, length], or lists of token ids of any lengths.
        pad_token_id: fills the left of the shorter ones.
        attention_mask: int [batch, length] for an array that is padded already: 0 for padding, on the left.

    Returns:
        int32 [batch, length] and int32 [batch], the own tokens of each.

    Raises:
        ValueError: no prompt, an empty one, something that is no token id, or padding that is not on the left.
    """
    rows = [np.asarray(row) for row in prompts]
    if not rows:
        raise ValueError("prompts: got none; expected at least one.")
    if attention_mask is not None:
        mask = np.asarray(attention_mask)
        if mask.shape != (len(rows), len(rows[0])) or (np.diff(mask, axis=1) < 0).any():
            raise ValueError(f"attention_mask: got shape {mask.shape}, or padding that is not on the left of its "
                             f"prompt; expected {(len(rows), len(rows[0]))}, zeros and then ones.")
        rows = [row[own == 1] for row, own in zip(rows, mask)]
    for number, row in enumerate(rows):
        if row.ndim != 1 or not row.size:
            raise ValueError(f"prompt {number}: is empty, or no list of token ids (shape {row.shape}); expected at "
                             "least one token, such as the end-of-text token.")
        if row.dtype.kind not in "iu":
            raise ValueError(f"prompt {number}: got {row.dtype}; expected integers, token ids.")
    lengths = np.array([row.size for row in rows], "int32")
    padded = np.full((len(rows), lengths.max()), pad_token_id, "int32")
    for row, here in zip(padded, rows):
        row[len(row) - len(here):] = here
    return padded, lengths
