"""Where words begin, against the library's own regular expression."""

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

from tests.tokenizers.corpus import mixed_lines
from tfhf.tokenizers.characters_in_graph import decoded
from tfhf.tokenizers.gpt2_words import BLANK, LETTER, NUMBER, OTHER, WHITE, character_classes, word_starts


def _words(texts):
    characters, splits, _, edges = decoded(tf.constant(texts))
    starts = tf.RaggedTensor.from_row_splits(word_starts(characters, edges), splits).to_list()
    found = []
    for text, row in zip(texts, starts):
        places = [place for place, start in enumerate(row) if start] + [len(text)]
        found.append([text[a:b] for a, b in zip(places, places[1:])])
    return found


def _expected(texts):
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return [[text[a:b] for _, (a, b) in split(text)] for text in texts]


def test_the_published_examples():
    assert _words(["Hello world, it's   me!!", "don't'll  's 's\n\n x "]) == [
        ["Hello", " world", ",", " it", "'s", "  ", " me", "!!"],
        ["don", "'t", "'ll", " ", " '", "s", " '", "s", "\n\n", " x", " "]]


def test_every_line_splits_as_the_library_does():
    texts = mixed_lines(6000, seed=1)
    assert _words(texts) == _expected(texts)


def test_the_classes_of_characters():
    classes = character_classes()
    assert [classes[ord(character)] for character in "aक1 \n\u00a0!"] == [LETTER, LETTER, NUMBER, BLANK, WHITE, WHITE,
                                                                          OTHER]
    assert np.bincount(classes)[[LETTER, NUMBER, WHITE, BLANK]].tolist()[2:] == [24, 1]
    beyond = "".join(map(chr, range(len(classes) - 1, 0x110000)))   # nothing there is a letter, a number or white
    assert pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\s]"), "removed", invert=True).pre_tokenize_str(beyond) == []


def test_no_text_and_no_characters():
    assert _words(["", ""]) == [[], []]
    characters, _, _, edges = decoded(tf.zeros([0], tf.string))
    assert word_starts(characters, edges).shape == [0]
