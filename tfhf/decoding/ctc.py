"""From the logits of a CTC recogniser to symbols: greedy, and prefix beam search with language model and hot words.

Everything here is a function of tensors of static shapes, one loop over frames, under XLA or as a plain graph.
"""

import keras
import numpy as np
from keras import ops

from tfhf.decoding.words import WordScorer

_NEVER = -1e30   # log of zero, finite so that no difference of two gives NaN


def compact(values, keep, fill=-1):
    """The values [batch, time] that are kept, moved to the front in their order; `fill` behind them."""
    time = ops.arange(keep.shape[1], dtype="int32")
    order = ops.argsort(ops.where(keep, time, time + keep.shape[1]), axis=1)
    count = ops.sum(ops.cast(keep, "int32"), axis=1, keepdims=True)
    return ops.where(time < count, ops.take_along_axis(values, order, axis=1), fill)


def log_probabilities(logits, logit_lengths, blank_index):
    """float32 log-probabilities [batch, frames, symbols]; blank is certain after a clip's end."""
    logits = ops.cast(logits, "float32")
    scores = ops.maximum(ops.log_softmax(logits, axis=-1), _NEVER)
    blank = np.where(np.arange(logits.shape[2]) == blank_index, 0.0, _NEVER).astype("float32")
    own = ops.arange(logits.shape[1], dtype="int32") < ops.cast(logit_lengths, "int32")[:, None]
    return ops.where(own[:, :, None], scores, blank)


def greedy(logits, logit_lengths, blank_index=0):
    """The likeliest symbol of each frame, repeats written once, blanks left out.

    Args:
        logits: float [batch, frames, symbols], before softmax.
        logit_lengths: int [batch], own frames of each clip.
        blank_index: the blank symbol.

    Returns:
        dict: ids int32 [batch, frames], -1 behind the end; lengths int32 [batch]; starts and ends int32
        [batch, frames], the first frame of each symbol and the one after its last, -1 behind the end; scores float32
        [batch], the log-probability of this one path.
    """
    scores = log_probabilities(logits, logit_lengths, blank_index)
    best = ops.cast(ops.argmax(scores, axis=-1), "int32")
    own = ops.not_equal(best, blank_index)
    edge = ops.full_like(best[:, :1], blank_index)
    changes = ops.not_equal(best[:, 1:], best[:, :-1])
    is_start = ops.logical_and(own, ops.concatenate([ops.not_equal(best[:, :1], edge), changes], axis=1))
    is_end = ops.logical_and(own, ops.concatenate([changes, ops.not_equal(best[:, -1:], edge)], axis=1))
    frame = ops.broadcast_to(ops.arange(best.shape[1], dtype="int32"), ops.shape(best))
    return {"ids": compact(best, is_start), "lengths": ops.sum(ops.cast(is_start, "int32"), axis=1),
            "starts": compact(frame, is_start), "ends": compact(frame + 1, is_end),
            "scores": ops.sum(ops.max(scores, axis=-1), axis=1)}


def prefix_beam_search(logits, logit_lengths, *, beam_width, blank_index=0, max_length=None, symbols_per_frame=16,
                       token_min_logp=-5.0, language_model=None, alpha=0.5, beta=1.5, unk_score_offset=-10.0,
                       hot_words=None, hot_word_weight=10.0, word_delimiter=None):
    """CTC prefix beam search (Graves & Jaitly 2014; Hannun et al. 2014, algorithm 1).

    A prefix has the summed probability of all its alignments, those that end in blank and those that end in its last
    symbol kept apart. The same prefix reached in two ways is one prefix: which prefixes of the beam begin which others
    is known exactly at every frame, so nothing is hashed. With a `word_delimiter`, delimiters at the begin and after
    one another write nothing, and an answer does not end in one; what words add is in `words.WordScorer`.

    Args:
        logits: float [batch, frames, symbols], before softmax.
        logit_lengths: int [batch], own frames of each clip.
        beam_width: prefixes that are kept.
        blank_index: the blank symbol.
        max_length: symbols of a prefix at most; longer ones are not written. None: as many as frames.
        symbols_per_frame: the likeliest symbols of a frame that may lengthen a prefix. Repeats, blanks and the ways to
            prefixes already in the beam always count.
        token_min_logp: a symbol, or a blank, less likely than this counts as impossible, unless it is the frame's
            likeliest; as in pyctcdecode. Beams that stand against a clear frame die and make room. -inf: all count.
        language_model: `ngram.NGramModel`, or None.
        alpha, beta, unk_score_offset: as in pyctcdecode: weight of the model, reward of a word, and what is added to
            log10 p of a word that the model does not know.
        hot_words: `words.WordTrie.of_hot_words(words, symbols)`, or None.
        hot_word_weight: reward of a hot word.
        word_delimiter: the symbol between words. None: there are none, and neither a model nor hot words.

    Returns:
        dict, beams best first: ids int32 [batch, beam_width, max_length], -1 behind the end; lengths int32
        [batch, beam_width]; scores float32 [batch, beam_width], log-probability and what the words add, -inf where
        there are fewer prefixes than beams; log_probabilities float32 [batch, beam_width], the recogniser's alone;
        starts and ends int32 as ids, the frames of each symbol on the prefix's likeliest way (-1 behind the end).

    Raises:
        ValueError: a width below 1, a language model or hot words without a delimiter or over another alphabet.
    """
    frames, symbols = logits.shape[1:]
    length = frames if max_length is None else max_length
    shortlist = min(symbols_per_frame, symbols - 1)
    if min(beam_width, length, shortlist) < 1:
        raise ValueError(f"beam_width {beam_width}, max_length {max_length}, symbols_per_frame {symbols_per_frame}, "
                         f"{symbols} symbols; expected at least 1 of each and 2 symbols")
    words = None
    if language_model is not None or hot_words is not None:
        _check_alphabet(symbols, language_model, hot_words, word_delimiter)
        words = WordScorer(language_model, alpha, beta, unk_score_offset, hot_words, hot_word_weight, word_delimiter)
    scores = log_probabilities(logits, logit_lengths, blank_index)
    least = ops.minimum(ops.max(scores, axis=-1, keepdims=True), token_min_logp)
    scores = ops.where(scores >= least, scores, _NEVER)
    spoken = ops.where(ops.equal(ops.arange(symbols), blank_index), 2 * _NEVER, scores)
    # Time first: the loop reads one row a step.
    likely, likeliest = (ops.transpose(x, (1, 0, 2)) for x in ops.top_k(spoken, shortlist))
    search = _Search(ops.shape(scores)[0], beam_width, length, frames, blank_index, word_delimiter, words)
    inputs = ops.transpose(scores, (1, 0, 2)), likely, ops.cast(likeliest, "int32")
    last_frame = ops.max(ops.cast(logit_lengths, "int32"))

    def body(frame, state):
        return frame + 1, search.step(frame, state, *(ops.take(x, frame, axis=0) for x in inputs))

    _, state = ops.while_loop(lambda frame, state: frame < last_frame, body, (ops.cast(0, "int32"), search.start()))
    return search.finish(state)


def _check_alphabet(symbols, language_model, hot_words, word_delimiter):
    if word_delimiter is None:
        raise ValueError("a language model or hot words without word_delimiter, expected the symbol between words")
    for name, trie in (("language_model", language_model and language_model.trie), ("hot_words", hot_words)):
        if trie is not None and len(trie.symbols) != symbols:
            raise ValueError(f"{name} is over {len(trie.symbols)} symbols, expected {symbols} as in the logits")


class _Search:
    """One frame of the search. The state is a dict of tensors [batch, beams, ...], the best beam first:

    blank, symbol: float32, log-probability of the ways that end in blank or in the last symbol, less `offset` [batch].
    last, length: int32, the last symbol and how many there are.
    start, end: int32, frames of the last symbol; ids, spans: int32 [.., max_length], all symbols, start * (frames + 1)
    + end. begins: bool [batch, beams, beams], whether the first beam is what the second one begins with, and shorter.
    """

    def __init__(self, batch, beams, length, frames, blank_index, delimiter, words):
        self.batch, self.beams, self.length, self.frames = batch, beams, length, frames
        self.blank_index, self.delimiter, self.words = blank_index, delimiter, words

    def start(self):
        """Only the first beam is there: the empty prefix. With a delimiter it stands as if after one."""
        shape = (self.batch, self.beams)
        none = ops.zeros(shape, "int32")
        state = {
            "blank": ops.where(ops.arange(self.beams) == 0, 0.0, _NEVER) + ops.zeros(shape),
            "symbol": ops.full(shape, _NEVER, "float32"), "offset": ops.zeros((self.batch,)),
            "last": none + (-1 if self.delimiter is None else self.delimiter), "length": none, "start": none,
            "end": none, "ids": ops.full((*shape, self.length), -1, "int32"),
            "spans": ops.zeros((*shape, self.length), "int32"), "begins": ops.zeros((*shape, self.beams), "bool")}
        return state if self.words is None else {**state, "words": self.words.start(*shape)}

    def _pick(self, x, beams):
        """Rows of x [batch, beams, ...] by beams [batch, n]: whole rows are copied, not single numbers."""
        rows = beams + ops.arange(self.batch, dtype="int32")[:, None] * x.shape[1]
        return ops.take(ops.reshape(x, (-1, *x.shape[2:])), rows, axis=0)

    def _parents(self, state):
        """Of each beam: is there the beam that is one symbol shorter, and which one it is."""
        one_longer = ops.equal(state["length"][:, None], state["length"][:, :, None] + 1)
        is_parent = ops.logical_and(state["begins"], one_longer)
        return ops.any(is_parent, axis=1), ops.cast(ops.argmax(ops.cast(is_parent, "int32"), axis=1), "int32")

    def step(self, frame, state, scores, likely, likeliest):
        """scores float32 [batch, symbols]; likely float32, likeliest int32 [batch, n]: the symbols to go on with."""
        blank, symbol, last, length = (state[name] for name in ("blank", "symbol", "last", "length"))
        total = ops.logaddexp(blank, symbol)
        own = ops.take_along_axis(scores, ops.maximum(last, 0), axis=1)   # of each beam's last symbol
        after_delimiter = ops.equal(last, -1 if self.delimiter is None else self.delimiter)

        # Beams that stay what they are: silence, the last symbol again, or their last symbol after their parent.
        silent = total + scores[:, self.blank_index, None]
        again = (symbol if self.delimiter is None else ops.where(after_delimiter, total, symbol)) + own
        has_parent, parent = self._parents(state)
        arriving = ops.where(ops.equal(last, self._pick(last, parent)), self._pick(blank, parent),
                             self._pick(total, parent)) + own
        arriving = ops.where(has_parent, arriving, _NEVER)
        voiced = ops.logaddexp(again, arriving)

        # Beams one symbol longer, but for those that are in the beam already.
        longer = ops.where(ops.equal(likeliest[:, None], last[:, :, None]), blank[:, :, None], total[:, :, None])
        longer = longer + likely[:, None]
        width = self.beams * likely.shape[1]
        number = ops.arange(self.beams, dtype="int32")[:, None] * scores.shape[1]
        there = ops.where(has_parent, parent * scores.shape[1] + last, -1)   # (parent, last symbol) as one number
        candidate = ops.reshape(number + likeliest[:, None], (self.batch, width))
        barred = ops.reshape(ops.any(ops.equal(candidate[:, :, None], there[:, None]), axis=2),
                             (self.batch, self.beams, likely.shape[1]))
        barred = ops.logical_or(barred, (length >= self.length)[:, :, None])
        if self.delimiter is not None:
            again_delimiter = ops.equal(likeliest, self.delimiter)[:, None]
            barred = ops.logical_or(barred, ops.logical_and(after_delimiter[:, :, None], again_delimiter))
        longer = ops.where(barred, _NEVER, longer)

        staying_rank, longer_rank = ops.logaddexp(silent, voiced), longer
        if self.words is not None:
            staying_rank = staying_rank + self.words.now(state["words"])
            longer_rank = longer_rank + self.words.extended(state["words"], likeliest)
        longer, longer_rank = (ops.reshape(x, (self.batch, width)) for x in (longer, longer_rank))
        _, best = ops.top_k(ops.concatenate([staying_rank, longer_rank], axis=1), self.beams)
        best = ops.cast(best, "int32")
        is_longer = best >= self.beams
        extension = ops.maximum(best - self.beams, 0)
        source = ops.where(is_longer, extension // likely.shape[1], best)
        new_symbol = ops.where(is_longer, ops.take_along_axis(likeliest, extension % likely.shape[1], axis=1),
                               self._pick(last, source))

        new = {"blank": ops.where(is_longer, _NEVER, self._pick(silent, source)),
               "symbol": ops.where(is_longer, ops.take_along_axis(longer, extension, axis=1),
                                   self._pick(voiced, source)),
               "last": new_symbol, "length": self._pick(length, source) + ops.cast(is_longer, "int32")}
        new["begins"] = self._begins(state, new, source, is_longer)
        # Whole numbers, so that their sum is exact and the rest keeps its digits.
        whole = ops.ceil(ops.max(ops.maximum(new["blank"], new["symbol"]), axis=1))
        new.update(blank=new["blank"] - whole[:, None], symbol=new["symbol"] - whole[:, None],
                   offset=state["offset"] + whole)

        # The frames of the last symbol are those of the likeliest way here, which may come from the parent.
        arrives = self._pick(arriving > ops.maximum(silent, again), source)
        begins = ops.logical_or(is_longer, arrives)
        lasts = self._pick(again > silent, source)
        row = ops.where(ops.logical_and(arrives, ops.logical_not(is_longer)), self._pick(parent, source), source)
        new["start"] = ops.where(begins, frame, self._pick(state["start"], source))
        new["end"] = ops.where(ops.logical_or(begins, lasts), frame + 1, self._pick(state["end"], source))
        place = ops.equal(ops.arange(self.length, dtype="int32"), new["length"][:, :, None] - 1)
        span = new["start"] * (self.frames + 1) + new["end"]
        new["ids"] = ops.where(place, new_symbol[:, :, None], self._pick(state["ids"], row))
        new["spans"] = ops.where(place, span[:, :, None], self._pick(state["spans"], row))
        if self.words is not None:
            picked = keras.tree.map_structure(lambda x: self._pick(x, source), state["words"])
            new["words"] = self.words.advance(picked, new_symbol, is_longer)
        return new

    def _begins(self, state, new, source, is_longer):
        """`begins` of the new beams: from that of their sources, and the symbol that follows in the longer source."""
        first, second = source[:, :, None], source[:, None]
        row = ops.arange(self.batch, dtype="int32")[:, None, None] * self.beams
        begins = ops.take(ops.reshape(state["begins"], (-1,)), (row + first) * self.beams + second)
        length = ops.minimum(self._pick(state["length"], source), self.length - 1)[:, :, None]
        follows = ops.take(ops.reshape(state["ids"], (-1,)), (row + second) * self.length + length)
        same = ops.logical_and(ops.equal(first, second), is_longer[:, None])
        begins = ops.where(is_longer[:, :, None], ops.logical_and(begins, ops.equal(follows, new["last"][:, :, None])),
                           ops.logical_or(begins, same))
        # Places that nothing fills, and prefixes that cannot be, are related to none.
        alive = ops.maximum(new["blank"], new["symbol"]) > 0.5 * _NEVER
        return ops.logical_and(begins, ops.logical_and(alive[:, :, None], alive[:, None]))

    def finish(self, state):
        """The answer: delimiters at the end taken off, whole sentences scored and ranked."""
        total, length = ops.logaddexp(state["blank"], state["symbol"]), state["length"]
        final = ops.zeros_like(total) if self.words is None else self.words.finish(state["words"])
        if self.delimiter is not None:
            ends = ops.logical_and(ops.equal(state["last"], self.delimiter), length > 0)
            has_parent, parent = self._parents(state)
            joins = ops.logical_and(ends, has_parent)   # `a b` and `a b |` are the same text
            is_target = ops.logical_and(joins[:, None],
                                        ops.equal(parent[:, None], ops.arange(self.beams, dtype="int32")[:, None]))
            total = ops.logaddexp(total, ops.max(ops.where(is_target, total[:, None], _NEVER), axis=2))
            total = ops.where(joins, _NEVER, total)
            length = length - ops.cast(ends, "int32")
        ranks, best = ops.top_k(total + final, self.beams)
        best = ops.cast(best, "int32")
        total, length, ids, spans = (self._pick(x, best) for x in (total, length, state["ids"], state["spans"]))
        real, offset = total > 0.5 * _NEVER, state["offset"][:, None]
        length = ops.where(real, length, 0)
        written = ops.arange(self.length, dtype="int32") < length[:, :, None]
        return {"ids": ops.where(written, ids, -1), "lengths": length,
                "scores": ops.where(real, ranks + offset, -float("inf")),
                "log_probabilities": ops.where(real, total + offset, -float("inf")),
                "starts": ops.where(written, spans // (self.frames + 1), -1),
                "ends": ops.where(written, spans % (self.frames + 1), -1)}
