"""Words as paths of symbols, and hot words against plain arithmetic over every sentence."""

import numpy as np
import pytest

from tests.decoding.test_ctc import _every_prefix, _logits, _search
from tfhf.decoding.words import WordError, WordTrie

SYMBOLS = ["", "a", "b", " "]


def _node(trie, symbols):
    node = 0
    for symbol in symbols:
        node = trie.children[node * len(trie.symbols) + symbol]
        if node < 0:
            return None
    return node


def test_a_word_has_a_path_for_each_spelling():
    trie = WordTrie(["aba", "ab", "c"], ["", "a", "b", "ab", "|"])
    assert trie.unspelled == ["c"]
    for path in ([1, 2, 1], [3, 1]):
        assert trie.word[_node(trie, path)] == 0
    for path in ([1, 2], [3]):
        assert trie.word[_node(trie, path)] == 1
    assert trie.word[_node(trie, [1])] == -1 and _node(trie, [2]) is None and _node(trie, [4]) is None
    np.testing.assert_allclose([trie.credit[_node(trie, path)] for path in ([1], [1, 2], [1, 2, 1])], [0.5, 1, 1])


def test_hot_words_add_their_weight_to_every_sentence():
    trie, weight = WordTrie.of_hot_words(["ab", "bb a"], SYMBOLS), 2.5
    logits, lengths = _logits(12), [5, 4, 3]
    result = _search(logits, lengths, beam_width=400, word_delimiter=3, hot_words=trie, hot_word_weight=weight)
    for row, length in enumerate(lengths):
        expected = {prefix: score + weight * sum(word in ("ab", "bb", "a")
                                                 for word in "".join(SYMBOLS[s] for s in prefix).split())
                    for prefix, score in _every_prefix(logits[row], length, 0, 3).items()}
        got = {tuple(ids[:n]): score
               for ids, n, score in zip(*(result[key][row] for key in ("ids", "lengths", "scores")))
               if np.isfinite(score)}
        assert set(got) == set(expected)
        for prefix in expected:
            assert got[prefix] == pytest.approx(expected[prefix], abs=1e-4), prefix


def test_a_hot_word_that_cannot_be_spelled_is_named():
    with pytest.raises(WordError, match=r"hot words \['abc'\] cannot be spelled with the symbols a b"):
        WordTrie.of_hot_words(["ab", "abc"], SYMBOLS)
