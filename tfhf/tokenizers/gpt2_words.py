"""GPT-2's pre-tokeniser inside a graph: where the words begin in a text, by tables and shifts over its characters.

The pattern (Radford et al. 2019; openai/gpt-2, src/encoder.py) is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

RE2, TensorFlow's engine, has no `(?!…)`. Nor is one needed: whether a word begins at a character follows from its class
and those of its neighbours.
"""

import functools

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

from tfhf.tokenizers.characters_in_graph import shifted

EDGE, OTHER, LETTER, NUMBER, WHITE, BLANK = range(6)   # BLANK: U+0020, which the word after it takes along
# There are letters, numbers and white space below here only; tests/tokenizers/test_gpt2_words.py asks for all.
_LIMIT = 0x40000


@functools.cache
def character_classes():
    """uint8 [0x40000 + 1]: the class of each code point, as the `tokenizers` library's own expressions see it."""
    text = "".join(map(chr, (*range(0xD800), *range(0xE000, _LIMIT))))
    classes = np.full(_LIMIT + 1, OTHER, np.uint8)
    for pattern, number in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", WHITE)):
        kept = pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(text)
        classes[[ord(character) for piece, _ in kept for character in piece]] = number
    classes[ord(" ")] = BLANK
    return classes


def word_starts(characters, edges):
    """Where GPT-2's words begin.

    Args:
        characters: int32 [n], the code points of all texts, one after the other.
        edges: bool [n], the first character of each stretch (a text, or a part of it): the expression is applied to
            each stretch on its own.

    Returns:
        bool [n].
    """
    classes = tf.gather(tf.constant(character_classes()), tf.minimum(characters, _LIMIT))
    last = shifted(edges, -1, True)
    before = tf.where(edges, tf.constant(EDGE, tf.uint8), shifted(classes, 1, EDGE))
    after = tf.where(last, tf.constant(EDGE, tf.uint8), shifted(classes, -1, EDGE))
    white, white_before = classes >= WHITE, before >= WHITE
    # `\s+(?!\S)` leaves the last white character of a run to the word that follows, or, if it is no blank, to itself.
    run_ends = (after != EDGE) & (after < WHITE)
    starts = tf.where(white, ~white_before | run_ends, (classes != before) & (before != BLANK))
    # A contraction is looked for only where a word begins: not inside `!'s`, not behind the blank of ` 's`.
    size = tf.where(starts & (characters == ord("'")), _contraction(characters, last), 0)
    starts &= shifted(size, 1, 0) == 0
    return starts | (shifted(size, 2, 0) == 2) | (shifted(size, 3, 0) == 3)


def _contraction(characters, last):
    """int32 [n]: 2 before s, t, m or d, 3 before re, ve or ll, of the same stretch; 0 elsewhere."""
    one = tf.where(last, 0, shifted(characters, -1, 0))
    two = tf.where(last | shifted(last, -1, True), 0, shifted(characters, -2, 0))

    def among(values, letters):
        return functools.reduce(tf.logical_or, [values == ord(letter) for letter in letters])

    three = (among(one, "rv") & (two == ord("e"))) | ((one == ord("l")) & (two == ord("l")))
    return tf.where(among(one, "stmd"), 2, tf.where(three, 3, 0))
