"""Words as symbols: their spelling, and what they add to the scores of a beam search inside the graph.

Scores are put together as pyctcdecode does, with its constants.
"""

import math

import numpy as np
from keras import ops

LN10 = math.log(10.0)           # language models hold logarithms to the base of 10
USUAL_WORD_LENGTH = 6           # characters; an unknown word costs more from here on


class WordError(ValueError):
    """Words that the recogniser's symbols cannot spell, or too many of them."""


def alphabet(symbols):
    """The symbols that write something, for messages."""
    return " ".join(piece for piece in symbols if piece.strip())[:120]


class WordTrie:
    """Words as paths of symbols.

    Args:
        words: list of str.
        symbols: list of str, what each symbol of the recogniser writes (`Wav2Vec2CTCTokenizer.pieces()`); those that
            write nothing or white space spell no word. A word that can be spelled in several ways has a path for each.

    Attributes:
        children: int32 [nodes * symbols], the node after a node and a symbol, -1 where no word goes on so. Node 0 is
            the root. nodes * symbols * 4 bytes: some 60 MB for 200,000 English words and 32 symbols.
        word: int32 [nodes], place in `words` of the word that ends at the node, -1 where none does.
        credit: float32 [nodes], characters up to the node by characters of the shortest word through it.
        unspelled: list of the words that the symbols cannot spell.
    """

    def __init__(self, words, symbols):
        self.symbols = list(symbols)
        places = {}
        for number, piece in enumerate(self.symbols):
            if piece.strip():
                places.setdefault(piece, []).append(number)
        longest = max(map(len, places), default=0)
        children, self.unspelled, endings, credit = [{}], [], {}, [0.0]
        # Shortest first: what makes a node is then the shortest word through it.
        for place, word in sorted(enumerate(words), key=lambda item: len(item[1])):
            reached = [[0]] + [[] for _ in word]   # the nodes after so many characters
            for begin, end in ((i, j) for i in range(len(word)) for j in range(i + 1, min(i + longest, len(word)) + 1)):
                for symbol in places.get(word[begin:end], ()):
                    for node in reached[begin]:
                        child = children[node].setdefault(symbol, len(children))
                        if child == len(children):
                            children.append({})
                            credit.append(end / len(word))
                        reached[end].append(child)
            for node in reached[-1]:
                endings.setdefault(node, place)
            if not reached[-1] or not word:
                self.unspelled.append(word)
        if len(children) * len(self.symbols) >= 2 ** 31:
            raise WordError(f"{len(children)} nodes of {len(self.symbols)} symbols, expected fewer than 2 ** 31 "
                             "places: leave out rare words")
        self.children = np.full((len(children), len(self.symbols)), -1, "int32")
        for node, ways in enumerate(children):
            self.children[node, list(ways)] = list(ways.values())
        self.children = self.children.reshape(-1)
        self.word = np.full(len(children), -1, "int32")
        self.word[list(endings)] = list(endings.values())
        self.credit = np.array(credit, "float32")

    @classmethod
    def of_hot_words(cls, words, symbols):
        """The trie of hot words; an entry of several words counts as each of them, as in pyctcdecode.

        Raises:
            WordError: a word that the symbols cannot spell.
        """
        trie = cls(sorted({word for entry in words for word in entry.split()}), symbols)
        if trie.unspelled:
            raise WordError(f"hot words {trie.unspelled[:5]} cannot be spelled with the symbols "
                             f"{alphabet(symbols)}; expected words of these, in the same case")
        return trie


class WordScorer:
    """What words add to the scores of a beam search's prefixes: language model, hot words, or both.

    Every completed word adds alpha * ln(10) * log10 p + beta, an unknown one with `unk_score_offset` on log10 p, and a
    hot one `hot_word_weight`. The word at the end of a prefix is worth its share of the shortest hot word that begins
    so, or, where no known word begins so, unk_score_offset (times its length / 6 beyond 6 characters).

    The state is a tuple of [batch, beams]: score of the completed words, context, node of the trie (-1: unknown), node
    among the hot words (-1: none), characters of the last word; then score and context if that word ended here.
    """

    def __init__(self, language_model, alpha, beta, unk_score_offset, hot_words, hot_word_weight, word_delimiter):
        self.model, self.hot, self.weight = language_model, hot_words, float(hot_word_weight)
        self.scale, self.beta, self.offset = alpha * LN10, float(beta), float(unk_score_offset)
        self.delimiter = word_delimiter
        symbols = (hot_words if language_model is None else language_model.trie).symbols
        self.characters = np.array([max(len(piece), 1) for piece in symbols], "int32")

    def start(self, batch, beams):
        """State of the empty prefix."""
        zero = ops.zeros((batch, beams), "int32")
        context = zero if self.model is None else zero + self.model.start
        return self._with_completion(ops.zeros((batch, beams)), context, zero, zero, zero)

    def _with_completion(self, total, context, node, hot, length):
        return (total, context, node, hot, length, *self._complete(total, context, node, hot))

    def _complete(self, total, context, node, hot):
        """Score and context when the last word ends here."""
        if self.model is not None:
            score, context = self._word(context, node)
            total = total + self.scale * score + self.beta
        if self.hot is not None:
            ended = ops.logical_and(hot >= 0, ops.take(self.hot.word, ops.maximum(hot, 0)) >= 0)
            total = total + ops.where(ended, self.weight, 0.0)
        return total, context

    def _word(self, context, node):
        word = ops.where(node >= 0, ops.take(self.model.trie.word, ops.maximum(node, 0)), -1)
        score, context = self.model.score(context, ops.where(word >= 0, word, self.model.unknown))
        return score + ops.where(word >= 0, 0.0, self.offset), context

    def _step(self, trie, node, symbol):
        child = ops.take(trie.children, ops.maximum(node, 0) * len(trie.symbols) + symbol)
        return ops.where(node >= 0, child, -1)

    def _partial(self, node, hot, length):
        """What the word that has not ended adds."""
        score = ops.zeros_like(length, dtype="float32")
        if self.model is not None:
            longer = ops.maximum(ops.cast(length, "float32") / USUAL_WORD_LENGTH, 1.0)
            score = ops.where(node >= 0, 0.0, self.offset * longer)
        if self.hot is not None:
            credit = ops.take(self.hot.credit, ops.maximum(hot, 0))
            score = ops.where(hot >= 0, self.weight * credit, score)
        return score

    def _grow(self, node, hot, length, symbol):
        node = node if self.model is None else self._step(self.model.trie, node, symbol)
        hot = hot if self.hot is None else self._step(self.hot, hot, symbol)
        return node, hot, length + ops.take(self.characters, symbol)

    def now(self, state):
        """Score of the prefixes as they are, float32 [batch, beams]."""
        total, _, node, hot, length, *_ = state
        return total + self._partial(node, hot, length)

    def extended(self, state, symbols):
        """Score of every prefix with every symbol, float32 [batch, beams, n]; symbols int32 [batch, n]."""
        total, _, node, hot, length, completed, _ = (x[:, :, None] for x in state)
        symbols = ops.broadcast_to(symbols[:, None], (*ops.shape(state[0]), symbols.shape[1]))
        going_on = total + self._partial(*self._grow(node, hot, length, symbols))
        return ops.where(ops.equal(symbols, self.delimiter), completed, going_on)

    def advance(self, state, symbol, is_longer):
        """State after `symbol` [batch, beams] was written where `is_longer`."""
        total, context, node, hot, length, completed, next_context = state
        child, hot_child, longer = self._grow(node, hot, length, symbol)
        ends = ops.logical_and(is_longer, ops.equal(symbol, self.delimiter))

        def choose(if_ends, if_grows, if_stays):
            return ops.where(ends, if_ends, ops.where(is_longer, if_grows, if_stays))

        return self._with_completion(choose(completed, total, total), choose(next_context, context, context),
                                     choose(0, child, node), choose(0, hot_child, hot), choose(0, longer, length))

    def finish(self, state):
        """Score of the prefixes as whole sentences, float32 [batch, beams]."""
        total, context, _, _, length, completed, next_context = state
        total = ops.where(length > 0, completed, total)
        if self.model is None:
            return total
        context = ops.where(length > 0, next_context, context)
        return total + self.scale * self.model.score(context, ops.full_like(context, self.model.end))[0]
