"""Beam search with length penalty, as one loop with static shapes."""

from dataclasses import dataclass

from keras import ops

from tfhf.decoding.sampling import ended

IMPOSSIBLE = -1e9


@dataclass(frozen=True)
class BeamSearch:
    """Options of the search; scores are sums of log-probabilities divided by (tokens written) ** length_penalty."""

    max_new_tokens: int
    num_beams: int
    eos_token_id: int
    pad_token_id: int
    length_penalty: float = 1.0
    stop_sequences: tuple[tuple[int, ...], ...] = ()  # tokens after which a sequence has ended, too


def _tree(function, structure):
    if isinstance(structure, (tuple, list)):
        return tuple(_tree(function, part) for part in structure)
    return function(structure)


def beam_loop(step, first_logits, cache, rules, options):
    """Keeps the `num_beams` best open sequences and the `num_beams` best ended ones.

    Args:
        step: (token int32 [batch * beams], index int32, cache) -> (logits [batch * beams, vocabulary], cache).
        first_logits: float32 [batch * beams, vocabulary]: the prompt's, repeated for each beam.
        cache: structure of tensors with leading axis batch * beams.
        rules: as in `sampling.sample_loop`; their states have the leading axis batch * beams. One with a true
            `after_softmax` is given log-probabilities, which are not normalised again.
        options: `BeamSearch`.

    Returns:
        dict: sequences int32 [batch, max_new_tokens], lengths int32 [batch], sum_logprobs float32 [batch] of the best
        sequence, and scores float32 [batch], the sum after the length penalty.
    """
    beams, length, vocabulary = options.num_beams, options.max_new_tokens, first_logits.shape[-1]
    rows = ops.shape(first_logits)[0]
    batch = rows // beams
    time = ops.arange(length)

    def flat(x):
        return ops.reshape(x, (rows, *x.shape[2:]))

    def pick(x, parents):
        """Rows of x [batch, n, ...] by parents [batch, m]."""
        index = ops.reshape(parents, (batch, parents.shape[1], *([1] * (len(x.shape) - 2))))
        return ops.take_along_axis(x, index, axis=1)

    def advance(logits, index, states, going, open_scores, open_tokens, ended_scores, ended_sums, ended_tokens,
                ended_lengths):
        """One step: all continuations are ranked; those that end join the ended, the best others stay open."""
        for rule, state in zip(rules, states):
            if not getattr(rule, "after_softmax", False):
                logits = rule.apply(logits, index, state)
        log_probabilities = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        for rule, state in zip(rules, states):
            if getattr(rule, "after_softmax", False):
                log_probabilities = rule.apply(log_probabilities, index, state)
        totals = ops.reshape(log_probabilities, (batch, beams, vocabulary)) + open_scores[:, :, None]
        # 2 x beams: at most `beams` of them end, so `beams` open ones always remain.
        best, flat_index = ops.top_k(ops.reshape(totals, (batch, beams * vocabulary)), 2 * beams)
        parents, tokens = flat_index // vocabulary, ops.cast(flat_index % vocabulary, "int32")
        sequences = ops.where((time == index)[None, None], tokens[:, :, None], pick(open_tokens, parents))
        is_end = ended(sequences, index, options)
        ends = ops.logical_or(is_end, ops.equal(index, length - 1))
        penalty = ops.power(ops.cast(index + 1, "float32"), options.length_penalty)
        # The lower half of the ranking is only there to keep enough beams open. A clip whose search is over takes
        # nothing more, so that its answer does not depend on how long the others of its batch go on.
        counts = ops.logical_and(ops.logical_and(ends, ops.arange(2 * beams)[None] < beams), going[:, None])
        candidate_scores = ops.where(counts, best / penalty, IMPOSSIBLE)
        pool = ops.concatenate([ended_scores, candidate_scores], axis=1)
        ended_scores, kept = ops.top_k(pool, beams)
        ended_sums = ops.take_along_axis(ops.concatenate([ended_sums, best], axis=1), kept, axis=1)
        ended_tokens = pick(ops.concatenate([ended_tokens, sequences], axis=1), kept)
        new_lengths = index + ops.cast(ops.not_equal(tokens, options.eos_token_id), "int32")
        ended_lengths = ops.take_along_axis(ops.concatenate([ended_lengths, new_lengths], axis=1), kept, axis=1)

        open_scores, stay = ops.top_k(ops.where(is_end, IMPOSSIBLE, best), beams)
        parents, tokens = ops.take_along_axis(parents, stay, axis=1), ops.take_along_axis(tokens, stay, axis=1)
        open_tokens = pick(sequences, stay)
        row_parents = ops.reshape(parents + ops.arange(batch, dtype=parents.dtype)[:, None] * beams, (rows,))
        states = tuple(rule.advance(_tree(lambda s: ops.take(s, row_parents, axis=0), state), flat(tokens), index)
                       for rule, state in zip(rules, states))
        # An open sequence can at best keep its sum while it grows; the heuristic takes its present length.
        going = ops.logical_and(going, open_scores[:, 0] / penalty > ended_scores[:, -1])
        return (states, row_parents, ops.reshape(tokens, (rows,)), going, open_scores, open_tokens, ended_scores,
                ended_sums, ended_tokens, ended_lengths)

    def filled(value, dtype, *shape):
        return ops.full((batch, beams, *shape), value, dtype=dtype)

    # Only the first beam counts at the start: all are the same prompt.
    start = ops.where(ops.arange(beams)[None] == 0, 0.0, IMPOSSIBLE) + filled(0.0, "float32")
    blank = filled(options.pad_token_id, "int32", length)
    states, parents, token, *pools = advance(
        first_logits, ops.cast(0, "int32"), tuple(rule.start(rows) for rule in rules),
        ops.ones((batch,), dtype="bool"), start, blank,
        filled(IMPOSSIBLE, "float32"), filled(IMPOSSIBLE, "float32"), blank, filled(0, "int32"))

    def unfinished(index, token, parents, states, cache, going, *rest):
        return ops.logical_and(index < length, ops.any(going))

    def body(index, token, parents, states, cache, *pools):
        cache = _tree(lambda c: ops.take(c, parents, axis=0), cache)
        logits, cache = step(token, index, cache)
        states, parents, token, *pools = advance(logits, index, states, *pools)
        return (index + 1, token, parents, states, cache, *pools)

    result = ops.while_loop(unfinished, body, (ops.cast(1, "int32"), token, parents, states, cache, *pools))
    ended_scores, ended_sums, ended_tokens, ended_lengths = result[8:]  # best first, as top_k leaves them
    return {"sequences": ended_tokens[:, 0], "scores": ended_scores[:, 0], "sum_logprobs": ended_sums[:, 0],
            "lengths": ended_lengths[:, 0]}
