"""BERT's WordPiece inside a TensorFlow graph, with core operations only, so that an export loads anywhere.

tensorflow-text has it too (tfhf/tokenizers/wordpiece.py), as operations that a server must have linked. Here
normalising is a table over code points, words begin where the classes of two characters say so, and the longest piece
at every place of every word is found at once, by one walk down a trie (Devlin et al. 2018, section 3; greedy, longest
first).
"""

import functools
import itertools
import unicodedata

import numpy as np
import tensorflow as tf
from tokenizers import normalizers, pre_tokenizers

from tfhf.tokenizers.added_tokens import added_token_groups
from tfhf.tokenizers.characters_in_graph import checked
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.folder import read_tokenizer_json
from tfhf.tokenizers.hash_table import HashTable
from tfhf.tokenizers.library import checked_size, library_tokenizer, tokenizer_json

_CODE_POINT_BITS = 21
_CODE_POINTS = 0x110000
_LAST_PUNCTUATION = 0x20000
_LETTER, _WHITE, _ALONE = range(3)   # what a character is to the pre-tokeniser
_AS_IT_IS, _SPACED = 0, 1   # rows of the normaliser's table; the others write what they say
_MORE_THAN_A_WORD = 1 << 20   # characters: one piece is the whole of an added token
_WORD_START, _INSIDE = 0, 1   # the trie's roots: pieces, and those that are written ##


class BertWordPiece:
    """A BERT tokenizer.json inside the graph. Ids are those of the `tokenizers` library's
    `encode(text, add_special_tokens=False)` with `encode_special_tokens`: "[SEP]" in a text is text, since it comes
    from outside. Tokens that somebody added and that are not special are found in the text.

    Args:
        content: the text of a tokenizer.json: BertNormalizer, BertPreTokenizer, WordPiece.
        name: what messages call it.

    Attributes:
        vocab_size: int, the largest id and one.
        fingerprint: str, as tfhf/tokenizers/fingerprint.py makes it.
        cls_token_id, sep_token_id, pad_token_id: int.

    Raises:
        ValueError: another kind of tokenizer, one without those tokens, or one of which a graph could not give the
            library's ids.
    """

    def __init__(self, content, name="tokenizer.json"):
        parsed = tokenizer_json(content, name)
        self.fingerprint, self._name = fingerprint(content), name
        for part, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer"),
                               ("model", "WordPiece")):
            got = (parsed.get(part) or {}).get("type")
            if got != expected:
                raise ValueError(f"{name}: {part} is {got!r}, expected {expected!r}: BERT's tokenizer")
        library = library_tokenizer(content, name)
        model, settings = parsed["model"], parsed["normalizer"]
        added = library.get_added_tokens_decoder()
        self._ids = {**model["vocab"], **{token.content: number for number, token in added.items()}}
        self.vocab_size = checked_size(self._ids, name)
        self.cls_token_id, self.sep_token_id, self.pad_token_id = map(self.token_to_id, ("[CLS]", "[SEP]", "[PAD]"))
        self._unknown = self.token_to_id(model["unk_token"])
        self._longest_word = model["max_input_chars_per_word"]
        self._table = _normal_forms(*(settings.get(key) for key in ("clean_text", "handle_chinese_chars",
                                                                    "strip_accents", "lowercase")))
        self._check_marks(model["vocab"], library.normalizer)
        self._raw_added, self._normal_added = added_token_groups(library, True, name)
        self._set_trie(model["vocab"], model["continuing_subword_prefix"])
        self._encode = tf.function(self._flat_ids, input_signature=[tf.TensorSpec([None], tf.string)])

    @classmethod
    def from_file(cls, tokenizer_json):
        """From the path of a tokenizer.json, local or gs://; see the class."""
        return cls(read_tokenizer_json(tokenizer_json), str(tokenizer_json))

    def token_to_id(self, token):
        """The id of a token, written as in tokenizer.json ("##ing", "[MASK]").

        Raises:
            ValueError: there is none.
        """
        if token not in self._ids:
            raise ValueError(f"{self._name}: has no token {token!r}")
        return self._ids[token]

    def encode(self, strings):
        """strings: string [batch], UTF-8 -> RaggedTensor int32 [batch, (tokens)], without [CLS] and [SEP].

        Raises:
            InvalidArgumentError (when the graph runs): a string that is not UTF-8.
        """
        strings = tf.convert_to_tensor(strings, tf.string)
        return tf.RaggedTensor.from_row_splits(*self._encode(strings), validate=False)

    def _check_marks(self, vocabulary, normalizer):
        """The normaliser makes the same of a character whatever stands beside it, but for one thing: taking accents off
        brings the marks that stay into an order (Unicode, section 3.11). A vocabulary that holds two could tell."""
        held = [character for character in sorted({*"".join(vocabulary)}) if unicodedata.combining(character)]
        for pair in map("".join, itertools.permutations(held, 2)):
            if normalizer.normalize_str(pair) == pair[::-1]:
                raise ValueError(f"{self._name}: its vocabulary holds the marks U+{ord(pair[0]):04X} and "
                                 f"U+{ord(pair[1]):04X}, whose order its normalizer changes; expected one of them at "
                                 "most, or strip_accents=false")

    def _set_trie(self, vocabulary, prefix):
        edges, found, count = {}, {}, 2

        def add(node, piece, number):
            nonlocal count
            for character in piece:
                key = node << _CODE_POINT_BITS | ord(character)
                node = edges.get(key)
                if node is None:
                    node = edges[key] = count
                    count += 1
            found[node] = number

        punctuation = _in_table(_punctuation())
        for piece, number in vocabulary.items():
            if piece.startswith(prefix) and len(piece) > len(prefix):
                add(_INSIDE, piece[len(prefix):], number)
            # A word of several characters has no punctuation, so that no word begins with the usual "##".
            if len(piece) == 1 or not punctuation[list(map(ord, piece))].any():
                add(_WORD_START, piece, number)
        self._edges = HashTable(np.array(list(edges), np.int64), np.array(list(edges.values())))
        self._found = np.full(count, -1, np.int32)
        self._found[list(found)] = list(found.values())

    def _flat_ids(self, strings):
        """string [batch] -> the ids of all, int32 [tokens], and their row splits, int64 [batch + 1]."""
        ragged = tf.strings.unicode_decode(strings, "UTF-8")
        characters, rows = checked(ragged.values, strings), ragged.value_rowids()
        edges, tokens = _before(rows, -1) != rows, tf.fill(tf.shape(characters), -1)
        if self._raw_added is not None:
            edges, tokens = self._raw_added.find(characters, edges, tokens)
        characters, rows, edges, tokens = self._normalized(characters, rows, edges, tokens)
        if self._normal_added is not None:
            edges, tokens = self._normal_added.find(characters, edges, tokens)
        added = tokens >= 0
        blank = _look_up(_white_space(), characters) & ~added
        alone = _look_up(_punctuation(), characters) & ~added
        starts = ~blank & (_before(blank, True) | _before(alone, True) | alone | edges)
        starts &= ~added | edges   # white space beside an added token goes with it
        words = tf.cumsum(tf.cast(starts, tf.int32)) - 1
        words = tf.where(blank, -1, words)
        ids, lengths = self._longest_pieces(characters, words, starts)
        if self._raw_added is not None or self._normal_added is not None:
            ids, lengths = tf.where(added, tokens, ids), tf.where(added, _MORE_THAN_A_WORD, lengths)
        taken, failed = self._followed(words, starts, lengths, added)
        # A word that has a place without a piece is unknown as a whole.
        failed_here = tf.gather(failed, tf.maximum(words, 0)) & ~blank
        chosen = tf.where(failed_here, starts, taken & ~blank)
        ids = tf.boolean_mask(tf.where(failed_here, self._unknown, ids), chosen)
        counts = tf.math.segment_sum(tf.cast(chosen, tf.int64), rows)
        counts = tf.pad(counts, [[0, tf.size(strings) - tf.size(counts)]])   # empty rows at the end
        return ids, tf.concat([[0], tf.cumsum(counts)], 0)

    def _normalized(self, characters, rows, edges, tokens):
        """Code points int32 [n] with their rows int64 [n], edges bool [n] and tokens int32 [n] -> the same, normalised.
        An added token stays what it is, and an edge stands where the first character of its stretch is now."""
        numbers, begins, counts, written = self._table
        number = _look_up(numbers, characters)
        if self._raw_added is not None:
            number = tf.where(tokens >= 0, _AS_IT_IS, number)
        counts = tf.gather(tf.constant(counts), number)
        source = tf.repeat(tf.range(tf.size(characters)), counts)
        place = tf.range(tf.size(source)) - tf.gather(tf.cumsum(counts, exclusive=True), source)
        number, own = tf.gather(number, source), tf.gather(characters, source)
        other = tf.gather(tf.constant(written), tf.gather(tf.constant(begins), number) + place)
        as_it_is = (number == _AS_IT_IS) | ((number == _SPACED) & (place == 1))
        stretch = tf.gather(tf.cumsum(tf.cast(edges, tf.int32)), source)
        return (tf.where(as_it_is, own, other), tf.gather(rows, source), _before(stretch, 0) != stretch,
                tf.gather(tokens, source))

    def _longest_pieces(self, characters, words, starts):
        """-> for each place the id of the longest piece there, and its length in characters; 0: there is none."""
        count = tf.size(characters)
        places = tf.range(count)

        def step(length, nodes, ids, lengths):
            ahead = tf.minimum(places + length, count - 1)
            walking = (nodes >= 0) & (places + length < count) & (tf.gather(words, ahead) == words)
            key = tf.bitwise.left_shift(tf.cast(tf.maximum(nodes, 0), tf.int64), _CODE_POINT_BITS)
            key += tf.cast(tf.gather(characters, ahead), tf.int64)
            nodes = tf.where(walking, self._edges.lookup(key), -1)
            found = tf.gather(tf.constant(self._found), tf.maximum(nodes, 0))
            better = (nodes >= 0) & (found >= 0)
            return length + 1, nodes, tf.where(better, found, ids), tf.where(better, length + 1, lengths)

        nodes = tf.where(words < 0, -1, tf.where(starts, _WORD_START, _INSIDE))
        zeros = tf.zeros_like(characters)
        _, _, ids, lengths = tf.while_loop(lambda length, nodes, *_: tf.reduce_any(nodes >= 0), step,
                                           (0, nodes, zeros, zeros))
        return ids, lengths

    def _followed(self, words, starts, lengths, added):
        """From each word's beginning from piece to piece -> bool [n], the places where one is taken; bool [words],
        where that comes to a place without a piece, or the word is too long, which an added token never is."""
        first = tf.cast(tf.where(starts)[:, 0], tf.int32)
        total = tf.size(first)
        sizes = tf.math.bincount(tf.boolean_mask(words, words >= 0), minlength=total, maxlength=total)
        ends = first + sizes

        def step(at, taken, failed):
            going = (at < ends) & ~failed
            here = tf.boolean_mask(at, going)
            taken = tf.tensor_scatter_nd_update(taken, here[:, None], tf.ones_like(here, tf.bool))
            length = tf.gather(lengths, tf.where(going, at, 0))
            return tf.where(going, at + length, ends), taken, failed | (going & (length == 0))

        too_long = (sizes > self._longest_word) & ~tf.gather(added, first)
        state = (first, tf.zeros_like(starts), too_long)
        _, taken, failed = tf.while_loop(lambda at, taken, failed: tf.reduce_any((at < ends) & ~failed), step, state)
        return taken, tf.concat([failed, [False]], 0)   # never empty


def _before(values, first):
    """values [n] one place to the right."""
    return tf.concat([tf.fill([tf.minimum(1, tf.size(values))], tf.constant(first, values.dtype)), values[:-1]], 0)


def _paged(values):
    """A value for each code point [0x110000] -> (page of each 256 of them, the different pages [pages, 256]): of the
    4,352 pages most are alike."""
    pages, which = np.unique(values.reshape(-1, 256), axis=0, return_inverse=True)
    return which.reshape(-1).astype(np.int32), pages


def _in_table(paged):
    """`_paged` values -> one for each code point."""
    which, pages = paged
    return pages[which].reshape(-1)


def _look_up(paged, characters):
    """`_paged` values of code points int32 [n]."""
    which, pages = paged
    page = tf.gather(tf.constant(which), tf.bitwise.right_shift(characters, 8))
    return tf.gather(tf.constant(pages.reshape(-1)), page * 256 + tf.bitwise.bitwise_and(characters, 255))


@functools.cache
def _normal_forms(clean_text, handle_chinese_chars, strip_accents, lowercase):
    """What the library's normaliser makes of each code point: (a row number for each, paged; where each row begins in
    `written`, how many characters it has, `written`). It makes the same of it whatever stands beside it."""
    normalizer = normalizers.BertNormalizer(clean_text=clean_text, handle_chinese_chars=handle_chinese_chars,
                                            strip_accents=strip_accents, lowercase=lowercase)
    points = [*range(ord("|")), *range(ord("|") + 1, 0xD800), *range(0xE000, _CODE_POINTS)]
    # "|" stays what it is and takes no mark that stands behind it.
    forms = normalizer.normalize_str("|".join(map(chr, points))).split("|")
    numbers, rows = np.full(_CODE_POINTS, _AS_IT_IS, np.int32), {"_": _AS_IT_IS, " _ ": _SPACED}
    for point, form in zip(points, forms, strict=True):
        if form == f" {chr(point)} ":
            numbers[point] = _SPACED
        elif form != chr(point):
            numbers[point] = rows.setdefault(form, len(rows))
    counts = np.array([len(text) for text in rows], np.int32)
    written = np.array([ord(character) for character in "".join(rows)] + [0], np.int32)
    return _paged(numbers), np.cumsum(counts, dtype=np.int32) - counts, counts, written


@functools.cache
def _pre_tokenized():
    """What the library's pre-tokeniser makes of each code point between two letters: uint8 [0x110000]."""
    points = [*range(0xD800), *range(0xE000, _LAST_PUNCTUATION)]   # behind it there are letters only
    pieces = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("".join(f"a{chr(point)}a," for point in points))
    # Of each point there are four characters. White space is in no piece, punctuation is a piece of its own.
    begins, ends = np.array([span for _, span in pieces]).T
    kinds = np.full(4 * len(points), _WHITE, np.uint8)
    lengths = ends - begins
    kinds[np.repeat(begins, lengths) + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = (
        np.repeat(np.where(lengths == 1, _ALONE, _LETTER), lengths))
    table = np.full(_CODE_POINTS, _LETTER, np.uint8)
    table[points] = kinds[1::4]
    return table


@functools.cache
def _punctuation():
    """bool for each code point, paged: what the library's pre-tokeniser makes a word of its own."""
    return _paged(_pre_tokenized() == _ALONE)


@functools.cache
def _white_space():
    """bool for each code point, paged: what the library's pre-tokeniser parts words at."""
    return _paged(_pre_tokenized() == _WHITE)
