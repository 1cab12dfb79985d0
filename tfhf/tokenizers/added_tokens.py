"""Added tokens inside a graph: "<|endoftext|>" or "[MASK]" in a text, found before the text is split into words."""

import numpy as np
import tensorflow as tf

from tfhf.tokenizers.hash_table import StringTable


def added_token_groups(added, encode_special_tokens, name):
    """What to look for in a text.

    Args:
        added: the list `added_tokens` of a tokenizer.json.
        encode_special_tokens: True leaves the special ones out: they are text.
        name: of the file, for messages.

    Returns:
        list of `AddedTokens`, to be applied in order, and {bytes: id} of all their tokens.

    Raises:
        ValueError: a token that takes white space along, or stands for whole words only.
    """
    kept = [token for token in added if not (encode_special_tokens and token["special"])]
    for token in kept:
        for key in ("single_word", "lstrip", "rstrip"):
            if token[key]:
                raise ValueError(f"{name}: added token {token['content']!r}: {key} is True, expected False inside a "
                                 "graph")
    # The library first looks for the tokens that are not `normalized`, then for the others in what is left.
    groups = [token for token in kept if not token["normalized"]], [token for token in kept if token["normalized"]]
    return ([AddedTokens([token["content"] for token in group]) for group in groups if group],
            {token["content"].encode("utf-8"): token["id"] for token in kept})


class AddedTokens:
    """Finds tokens that stand whole in a text, leftmost first and of these the longest."""

    def __init__(self, texts):
        encoded = [text.encode("utf-8") for text in texts]
        self._first = sorted({ord(text[0]) for text in texts})
        self._sizes = np.array(sorted({len(text) for text in encoded}), np.int32)   # bytes
        self._lengths = StringTable({text: len(text.decode("utf-8")) for text in encoded})   # characters

    def find(self, characters, begins, text, edges, taken):
        """Marks the tokens in `text`, the whole: each is a stretch of its own, and all its characters are taken.

        Args:
            characters: int32 [n]; begins: int32 [n], where each begins in `text`, string [].
            edges, taken: bool [n], as they stood before; tokens do not reach over an edge.

        Returns:
            edges and taken.
        """
        candidate = tf.reduce_any(characters[:, None] == self._first, 1) & ~taken
        places = tf.cast(tf.where(candidate)[:, 0], tf.int32)
        cut = tf.strings.substr(text, tf.repeat(tf.gather(begins, places)[:, None], len(self._sizes), 1),
                                tf.tile(self._sizes[None], [tf.size(places), 1]))
        count, lengths = tf.size(characters), self._lengths.lookup(cut)
        ends = places[:, None] + lengths
        stretch = tf.cumsum(tf.cast(edges, tf.int32))
        same = tf.gather(stretch, tf.clip_by_value(ends - 1, 0, count - 1)) == tf.gather(stretch, places)[:, None]
        ends = tf.reduce_max(tf.where((lengths > 0) & same, ends, 0), 1)
        places, ends = tf.boolean_mask(places, ends > 0), tf.boolean_mask(ends, ends > 0)
        places, ends = _leftmost(places, ends)
        one = tf.ones_like(places)
        opened = tf.scatter_nd(places[:, None], one, [count + 1])
        closed = tf.scatter_nd(ends[:, None], one, [count + 1])
        covered = tf.cumsum(opened - closed)[:-1] > 0
        edges = edges | ((opened + closed)[:-1] > 0)
        return edges, taken | covered


def _leftmost(places, ends):
    """Of stretches [place, end), by place, those that stand when each is taken from the left unless it overlaps."""

    def overlapping(places, ends):
        """Whether one before reaches over the place: fewer have ended there than have begun before it."""
        return tf.searchsorted(tf.sort(ends), places, side="right") < tf.range(tf.size(places))

    def drop(places, ends):
        # What overlaps nothing before it is taken; what overlaps one that is taken goes.
        taken = ~overlapping(places, ends)
        taken_ends = tf.gather(tf.boolean_mask(ends, taken), tf.cumsum(tf.cast(taken, tf.int32)) - 1)
        kept = taken | (places >= taken_ends)
        return tf.boolean_mask(places, kept), tf.boolean_mask(ends, kept)

    return tf.while_loop(lambda places, ends: tf.reduce_any(overlapping(places, ends)), drop, (places, ends),
                         shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None])))
