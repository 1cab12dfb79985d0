"""Added tokens inside a graph: "<|endoftext|>", "[MASK]" or a user's own in a text, found before it is split.

As the `tokenizers` library does it (its added_vocabulary.rs): the tokens that are not `normalized` are looked for in
the text as it came, the others in what the normaliser makes of each part between these. In both the leftmost token is
taken, of several the longest. One that has to be a word of its own, and is none, is text, and so is what it covers.
Then the white space beside a token with `lstrip` or `rstrip` goes with it.
"""

import functools

import numpy as np
import tensorflow as tf
from tokenizers import AddedToken, Tokenizer, models

from tfhf.tokenizers.hash_table import HashTable

_CODE_POINT_BITS = 21
_CODE_POINTS = 0x110000
# All words and white space are below the first, but for the variation selectors of the second range.
_LAST_WORD, _SELECTORS = 0x34000, range(0xE0100, 0xE01F0)


def added_token_groups(tokenizer, encode_special_tokens, name):
    """What to look for in a text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, which knows the ids and what its normaliser makes of a token.
        encode_special_tokens: True takes the special ones for text.
        name: of the file, for messages.

    Returns:
        (`AddedTokens` to look for in the text as it comes, `AddedTokens` to look for in the normalised text); None for
        a group of which no token can be found.

    Raises:
        ValueError: tokens of which the library itself would make no sense.
    """
    groups = [], []
    for number, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        pattern = token.content
        if token.normalized and tokenizer.normalizer is not None:
            pattern = tokenizer.normalizer.normalize_str(pattern)
        if not pattern:
            raise ValueError(f"{name}: added token {token.content!r}: nothing is left of it once it is normalised, "
                             "expected a token that a text can hold")
        groups[token.normalized].append((pattern, number, token))
    return tuple(_group(group, encode_special_tokens, name) for group in groups)


def _group(group, encode_special_tokens, name):
    def is_text(token):
        return encode_special_tokens and token.special

    if all(is_text(token) for _, _, token in group):
        return None
    patterns = [pattern for pattern, _, _ in group]
    twice = sorted({pattern for pattern in patterns if patterns.count(pattern) > 1})
    if twice:
        raise ValueError(f"{name}: several added tokens are written {twice[0]!r} in a text, expected one")
    # The next token would begin inside the white space that this one has taken: the library gives that twice.
    begins_white = [pattern for pattern in patterns if pattern[0].isspace()]
    if begins_white and any(token.rstrip for _, _, token in group):
        raise ValueError(f"{name}: added token {begins_white[0]!r} begins with white space, and another one has "
                         "rstrip; expected one of the two only")
    return AddedTokens(patterns, [number for _, number, _ in group],
                       single_word=[token.single_word for _, _, token in group],
                       lstrip=[token.lstrip for _, _, token in group],
                       rstrip=[token.rstrip for _, _, token in group],
                       is_text=[is_text(token) for _, _, token in group])


class AddedTokens:
    """Finds tokens that stand whole in a text.

    Args:
        patterns: how each is written in a text, none empty, none twice; ids: its id.
        single_word, lstrip, rstrip: of each, as in the library.
        is_text: of each, whether it is text after all; it then only keeps others from beginning inside it.
    """

    def __init__(self, patterns, ids, *, single_word, lstrip, rstrip, is_text):
        self._ids = np.array(ids, np.int32)
        self._single_word, self._lstrip, self._rstrip = (np.array(flags, bool) for flags in
                                                         (single_word, lstrip, rstrip))
        self._is_text = np.array(is_text, bool)
        self._first = sorted({ord(pattern[0]) for pattern in patterns})
        edges, self._found = {}, [-1]
        for number, pattern in enumerate(patterns):
            node = 0
            for character in pattern:
                key = node << _CODE_POINT_BITS | ord(character)
                if key not in edges:
                    edges[key] = len(self._found)
                    self._found.append(-1)
                node = edges[key]
            self._found[node] = number
        self._found = np.array(self._found, np.int32)
        self._edges = HashTable(np.array(list(edges), np.int64), np.array(list(edges.values())))

    def find(self, characters, edges, tokens):
        """Marks the tokens of a text: each is a stretch of its own.

        Args:
            characters: int32 [n], the code points of all texts.
            edges: bool [n], the first character of each stretch, over which no token reaches.
            tokens: int32 [n], the id at the first character of each token that was found before, 0 at its others, -1
                elsewhere.

        Returns:
            edges and tokens, the new ones included.
        """
        count = tf.size(characters)
        stretch = tf.cumsum(tf.cast(edges, tf.int32))
        candidate = tf.reduce_any(characters[:, None] == self._first, 1) & (tokens < 0)
        places = tf.cast(tf.where(candidate)[:, 0], tf.int32)
        which, ends = self._longest(characters, stretch, places)
        found = which >= 0
        places, ends, which = _leftmost(*(tf.boolean_mask(part, found) for part in (places, ends, which)))
        kept = ~tf.gather(tf.constant(self._is_text), which)
        if self._single_word.any():
            kept &= self._stand_alone(characters, edges, places, ends, which)
        places, ends, which = (tf.boolean_mask(part, kept) for part in (places, ends, which))
        if self._lstrip.any() or self._rstrip.any():
            places, ends = self._with_white_space(characters, edges, places, ends, which)
        one = tf.ones_like(places)
        opened = tf.scatter_nd(places[:, None], one, [count + 1])
        closed = tf.scatter_nd(ends[:, None], one, [count + 1])
        covered = tf.cumsum(opened - closed)[:-1] > 0
        edges = edges | ((opened + closed)[:-1] > 0)
        first = tf.scatter_nd(places[:, None], tf.gather(tf.constant(self._ids), which), [count])
        return edges, tf.where(covered, first, tokens)

    def _longest(self, characters, stretch, places):
        """Of each place the token that begins there and is the longest, its number or -1, and where it ends."""
        count, own = tf.size(characters), tf.gather(stretch, places)
        none = tf.fill(tf.shape(places), -1)

        def step(length, nodes, which, ends):
            ahead = tf.minimum(places + length, count - 1)
            walking = (nodes >= 0) & (places + length < count) & (tf.gather(stretch, ahead) == own)
            key = tf.bitwise.left_shift(tf.cast(tf.maximum(nodes, 0), tf.int64), _CODE_POINT_BITS)
            key += tf.cast(tf.gather(characters, ahead), tf.int64)
            nodes = tf.where(walking, self._edges.lookup(key), -1)
            found = tf.where(nodes >= 0, tf.gather(tf.constant(self._found), tf.maximum(nodes, 0)), -1)
            better = found >= 0
            return length + 1, nodes, tf.where(better, found, which), tf.where(better, places + length + 1, ends)

        state = 0, tf.zeros_like(places), none, places
        _, _, which, ends = tf.while_loop(lambda length, nodes, *_: tf.reduce_any(nodes >= 0), step, state)
        return which, ends

    def _stand_alone(self, characters, edges, places, ends, which):
        """Whether each is no part of a longer word, where it must not be one."""
        count = tf.size(characters)
        word = _in_table(_word_characters(), characters)
        word_before = ~tf.gather(edges, places) & tf.gather(word, tf.maximum(places - 1, 0))
        ahead = tf.minimum(ends, count - 1)
        word_after = (ends < count) & ~tf.gather(edges, ahead) & tf.gather(word, ahead)
        return ~(tf.gather(tf.constant(self._single_word), which) & (word_before | word_after))

    def _with_white_space(self, characters, edges, places, ends, which):
        """Places and ends, with the white space that goes with each."""
        count = tf.size(characters)
        solid = ~_in_table(_white_characters(), characters)
        # Where white space must end on the left: at an edge, and behind every other character.
        after_solid = tf.concat([tf.fill([tf.minimum(1, count)], False), solid[:-1]], 0)
        left = tf.cast(tf.where(edges | after_solid)[:, 0], tf.int32)
        right = tf.concat([tf.cast(tf.where(edges | solid)[:, 0], tf.int32), [count]], 0)
        wide_ends = tf.gather(right, tf.searchsorted(right, ends))
        ends = tf.where(tf.gather(tf.constant(self._rstrip), which), wide_ends, ends)
        wide_places = tf.gather(left, tf.searchsorted(left, places, side="right") - 1)
        ends_before = tf.concat([tf.zeros([tf.minimum(1, tf.size(ends))], tf.int32), ends[:-1]], 0)
        wide_places = tf.maximum(wide_places, ends_before)
        return tf.where(tf.gather(tf.constant(self._lstrip), which), wide_places, places), ends


def _leftmost(places, ends, which):
    """Of stretches [place, end), by place, those that stand when each is taken from the left unless it overlaps."""

    def overlapping(places, ends):
        """Whether one before reaches over the place: fewer have ended there than have begun before it."""
        return tf.searchsorted(tf.sort(ends), places, side="right") < tf.range(tf.size(places))

    def drop(places, ends, which):
        # What overlaps nothing before it is taken; what overlaps one that is taken goes.
        taken = ~overlapping(places, ends)
        taken_ends = tf.gather(tf.boolean_mask(ends, taken), tf.cumsum(tf.cast(taken, tf.int32)) - 1)
        kept = taken | (places >= taken_ends)
        return tuple(tf.boolean_mask(part, kept) for part in (places, ends, which))

    return tf.while_loop(lambda places, ends, _: tf.reduce_any(overlapping(places, ends)), drop, (places, ends, which),
                         shape_invariants=(tf.TensorShape([None]),) * 3)


def _in_table(table, characters):
    return tf.gather(tf.constant(table), characters)


@functools.cache
def _white_characters():
    """bool [0x110000]: what the library takes for white space beside a token."""
    return _marked("lstrip")


@functools.cache
def _word_characters():
    """bool [0x110000]: what the library takes for a part of a word beside a token."""
    return _marked("single_word")


def _marked(flag):
    """The code points before a token that change what the library makes of it when `flag` is set."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("|", normalized=False, **{flag: True})])
    points = [*range(ord("|")), *range(ord("|") + 1, 0xD800), *range(0xE000, _LAST_WORD), *_SELECTORS]
    encoding = tokenizer.encode("".join(f"!{chr(point)}|" for point in points), add_special_tokens=False)
    # Each is at 3 * its number + 1; a token that takes white space along begins there, or else one further on.
    begins = np.array([begin for number, (begin, _) in zip(encoding.ids, encoding.offsets) if number])
    marked = np.zeros(_CODE_POINTS, bool)
    if flag == "lstrip":
        marked[np.array(points)[begins[begins % 3 == 1] // 3]] = True
    else:
        alone = np.zeros(len(points), bool)
        alone[begins // 3] = True
        marked[np.array(points)[~alone]] = True
    return marked
