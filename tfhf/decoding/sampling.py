"""Greedy decoding and sampling, one token a step, as one loop with static shapes."""

from dataclasses import dataclass

import keras
from keras import ops

MASKED_LOGIT = -1e9


class TracedSeed(keras.random.SeedGenerator):
    """A seed that is a tensor, so that another seed is another argument and not another compilation."""

    def __init__(self, seed, step):
        self.value = ops.stack([ops.cast(seed, "uint32"), ops.cast(step, "uint32")])

    def next(self, ordered=True):
        """The seed, uint32 [2]."""
        return self.value


@dataclass(frozen=True)
class Sampling:
    """What is compiled into the loop; temperature and seed are arguments of the compiled function.

    top_k = 0 and top_p = 1.0 filter nothing. At temperature 0 the choice is greedy whatever the filters.
    """

    max_new_tokens: int
    eos_token_id: int
    pad_token_id: int
    top_k: int = 0
    top_p: float = 1.0
    sample: bool = True  # False leaves the noise out of the program: greedy only
    stop_sequences: tuple[tuple[int, ...], ...] = ()  # tokens after which a sequence has ended, too


def filter_top(logits, top_k, top_p):
    """Masks all but the `top_k` likeliest tokens and all beyond the smallest set of probability `top_p` (nucleus
    sampling, Holtzman et al. 2019, section 3.1). logits float32 [batch, vocabulary]."""
    if not top_k and top_p >= 1.0:
        return logits
    ordered = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    if top_k:
        logits = ops.where(logits < ordered[:, top_k - 1:top_k], MASKED_LOGIT, logits)
        ordered = ops.where(ops.arange(ordered.shape[-1])[None] < top_k, ordered, MASKED_LOGIT)
    if top_p < 1.0:
        probabilities = ops.softmax(ordered, axis=-1)
        before = ops.cumsum(probabilities, axis=-1) - probabilities  # of the likelier tokens: the first stays
        threshold = ops.min(ops.where(before < top_p, ordered, -MASKED_LOGIT), axis=-1, keepdims=True)
        logits = ops.where(logits < threshold, MASKED_LOGIT, logits)
    return logits


def ended(sequences, index, options):
    """Whether sequences end with their newest token: it is the end token, or the last of a stop sequence.

    Args:
        sequences: int32 [..., max_new_tokens], written up to `index`.
        index: int32 scalar, place of the newest token.
        options: `Sampling` or `BeamSearch`.

    Returns:
        bool [...].
    """
    found = ops.equal(ops.take(sequences, index, axis=-1), options.eos_token_id)
    for stop in options.stop_sequences:
        # The newest len(stop) tokens, each found by its place: an index would have to be clipped at the beginning.
        places = index - len(stop) + 1 + ops.arange(len(stop))
        here = ops.equal(ops.arange(sequences.shape[-1])[None], places[:, None])          # [len(stop), time]
        equal = ops.equal(sequences[..., None, :], ops.convert_to_tensor(stop, "int32")[:, None])
        found = ops.logical_or(found, ops.all(ops.any(ops.logical_and(equal, here), axis=-1), axis=-1))
    return found


def _choose(logits, temperature, seed, step, options):
    """Token int32 [batch] and its log-probability at temperature 1."""
    log_probabilities = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
    scores = logits
    if options.sample:
        scores = filter_top(logits / ops.maximum(temperature, 1e-6), options.top_k, options.top_p)
        uniform = keras.random.uniform(ops.shape(logits), 1e-20, 1.0, dtype="float32", seed=TracedSeed(seed, step))
        # Gumbel-max trick: the argmax of logits / T + Gumbel noise is a draw from softmax(logits / T).
        sampled = scores - ops.log(-ops.log(uniform))
        scores = ops.where(temperature > 0, sampled, logits)
    token = ops.cast(ops.argmax(scores, axis=-1), "int32")
    return token, ops.squeeze(ops.take_along_axis(log_probabilities, token[:, None], axis=-1), -1)


def sample_loop(step, first_logits, cache, rules, options, temperature=0.0, seed=0):
    """Chooses tokens until every sequence has ended or `max_new_tokens` are written.

    Args:
        step: (token int32 [batch], index of the new token int32, cache) -> (logits [batch, vocabulary], cache).
        first_logits: float32 [batch, vocabulary], from the prompt.
        cache: structure of tensors of fixed shape.
        rules: list of objects with `start(batch) -> state`, `apply(logits, index, state) -> logits` and
            `advance(state, token, index) -> state`.
        options: `Sampling`.
        temperature: float32 scalar; 0 is greedy.
        seed: int32 scalar.

    Returns:
        dict: sequences int32 [batch, max_new_tokens] (the end token and padding included), lengths int32 [batch]
        (tokens before the end token; a stop sequence counts), sum_logprobs float32 [batch] (the end token included).
    """
    batch, length = ops.shape(first_logits)[0], options.max_new_tokens
    temperature = ops.cast(temperature, "float32")

    def select(logits, index, states, finished, total, lengths, sequences):
        for rule, state in zip(rules, states):
            logits = rule.apply(logits, index, state)
        token, log_probability = _choose(logits, temperature, seed, index, options)
        total = total + ops.where(finished, 0.0, log_probability)
        token = ops.where(finished, options.pad_token_id, token)
        states = tuple(rule.advance(state, token, index) for rule, state in zip(rules, states))
        sequences = ops.where(ops.equal(ops.arange(length), index)[None], token[:, None], sequences)
        counts = ops.logical_not(ops.logical_or(finished, ops.equal(token, options.eos_token_id)))
        finished = ops.logical_or(finished, ended(sequences, index, options))
        return token, states, finished, total, lengths + ops.cast(counts, "int32"), sequences

    token, states, finished, total, lengths, sequences = select(
        first_logits, ops.cast(0, "int32"), tuple(rule.start(batch) for rule in rules),
        ops.zeros((batch,), dtype="bool"), ops.zeros((batch,), "float32"), ops.zeros((batch,), "int32"),
        ops.full((batch, length), options.pad_token_id, dtype="int32"))

    def unfinished(index, token, finished, *rest):
        return ops.logical_and(index < length, ops.logical_not(ops.all(finished)))

    def body(index, token, finished, total, lengths, sequences, states, cache):
        logits, cache = step(token, index, cache)
        token, states, *rest = select(logits, index, states, finished, total, lengths, sequences)
        return index + 1, token, *rest, states, cache

    result = ops.while_loop(unfinished, body,
                            (ops.cast(1, "int32"), token, finished, total, lengths, sequences, states, cache))
    return {"sequences": result[5], "lengths": result[4], "sum_logprobs": result[3]}
