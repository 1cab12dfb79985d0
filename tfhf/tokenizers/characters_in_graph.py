"""The characters of a batch of texts inside a graph, as one flat vector, and what else is said of each character."""

import tensorflow as tf


def decoded(strings):
    """The characters of texts, one text after the other.

    Args:
        strings: string [batch], UTF-8.

    Returns:
        characters int32 [n], code points; row splits int64 [batch + 1]; where each character begins in the string that
        all texts make together, int32 [n], bytes; and whether it is the first of its text, bool [n].

    Raises (when the graph runs) InvalidArgumentError: a text that is not UTF-8.
    """
    ragged = tf.strings.unicode_decode(strings, "UTF-8")
    characters, splits = checked(ragged.values, strings), ragged.row_splits
    sizes = 1 + sum(tf.cast(characters >= limit, tf.int32) for limit in (0x80, 0x800, 0x10000))
    begun = tf.scatter_nd(splits[:-1, None], tf.ones_like(splits[:-1], tf.int32), [tf.size(characters) + 1])
    return characters, splits, tf.cumsum(sizes, exclusive=True), begun[:-1] > 0


def shifted(values, by, fill):
    """values [n] moved to the right by `by` (to the left if negative), with `fill` in the places left open."""
    filling = tf.fill([tf.minimum(abs(by), tf.size(values))], tf.constant(fill, values.dtype))
    return tf.concat([filling, values[:-by]] if by > 0 else [values[-by:], filling], 0)


def is_utf8(strings):
    """string [...] -> bool [...]."""
    return tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8") == strings


def checked(characters, strings):
    """`characters` int32 [n] of `strings` [batch], unless a string is not UTF-8: that decodes to U+FFFD, and is
    compared only where one is seen. Raises as `decoded` does."""

    def check():
        wrong = tf.where(~is_utf8(strings))[:, 0]
        first = tf.concat([wrong, [-1]], 0)[0]
        return tf.debugging.Assert(first < 0, [tf.strings.join(
            ["text ", tf.as_string(first), " of the batch: bytes that are not UTF-8, expected UTF-8"])])

    with tf.control_dependencies([tf.cond(tf.reduce_any(characters == 0xFFFD), check, tf.no_op)]):
        return tf.identity(characters)
