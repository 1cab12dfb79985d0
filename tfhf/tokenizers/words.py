"""From the words of a batch to its tokens inside a graph: each different word that is no token is split once."""

import tensorflow as tf


def tokens_of_words(words, table, split):
    """The tokens of all words, in order.

    Args:
        words: string [words].
        table: `StringTable` of the words that are one token.
        split: function of different words, string [m], to ids int32 [k], of each word the place of its first id there
            and the number of its ids, int32 [m].

    Returns:
        ids int32 [tokens], and their number in each word, int32 [words].
    """
    ids, number = table.lookup(words), tf.size(words)
    other, which = tf.unique(tf.boolean_mask(words, ids < 0))
    split_ids, first, counts = split(other)
    place = tf.where(ids < 0)
    first = tf.tensor_scatter_nd_update(tf.range(number), place, number + tf.gather(first, which))
    counts = tf.tensor_scatter_nd_update(tf.ones_like(ids), place, tf.gather(counts, which))
    # tf.repeat would make a matrix of words times the longest; ragged.range writes the places one after the other.
    return tf.gather(tf.concat([ids, split_ids], 0), tf.ragged.range(first, first + counts).values), counts


def row_splits_of(splits, starts, counts):
    """Row splits in tokens, int64 [batch + 1], from those in characters.

    Args:
        splits: int64 [batch + 1]; starts: bool [characters], where a word begins; counts: int32 [words], its tokens.
    """
    words_before = tf.concat([[0], tf.cumsum(tf.cast(starts, tf.int32))], 0)
    tokens_before = tf.concat([[0], tf.cumsum(counts)], 0)
    return tf.cast(tf.gather(tokens_before, tf.gather(words_before, splits)), tf.int64)
