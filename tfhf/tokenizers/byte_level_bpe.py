"""Byte-level BPE inside a TensorFlow graph, with core operations only: strings to ids and back.

How it is quick (Sennrich et al. 2016 for BPE, Radford et al. 2019 for bytes):
1. The words of all texts are found at once (tfhf/tokenizers/gpt2_words.py).
2. Most words are tokens. They are looked up whole, in a hash table of constants.
3. Each different word among the rest is merged once, all of them together. A round makes in every word the merge of the
   lowest rank, and each other merge of which it is certain that nothing comes before it: BPE would make the same ones,
   later. What can be merged no more leaves the loop. A hundred random letters took 16 rounds.
"""

import numpy as np
import tensorflow as tf

from tfhf.tokenizers.added_tokens import added_token_groups
from tfhf.tokenizers.byte_level import byte_of_character, join_pieces
from tfhf.tokenizers.characters_in_graph import decoded, shifted
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.folder import read_tokenizer_json
from tfhf.tokenizers.gpt2_words import word_starts
from tfhf.tokenizers.hash_table import HashTable, StringTable
from tfhf.tokenizers.library import checked_size, library_tokenizer, tokenizer_json
from tfhf.tokenizers.words import row_splits_of, tokens_of_words

_NEVER = np.int32(2**31 - 1)   # no rank


class ByteLevelBPE:
    """A byte-level BPE tokenizer.json inside the graph. Ids are those of the `tokenizers` library's
    `encode(text, add_special_tokens=False)`; BPE dropout, a matter of training, is left out.

    Args:
        content: the text of a tokenizer.json.
        encode_special_tokens: as in the `tokenizers` library: False takes "<|endoftext|>" in a text for the token, True
            for text.
        name: what messages call it.

    Attributes:
        vocab_size: int, the largest id and one.
        fingerprint: str, as tfhf/tokenizers/fingerprint.py makes it.

    Raises:
        ValueError: not a byte-level BPE with GPT-2's pre-tokeniser, or one with something that has no counterpart here.
    """

    def __init__(self, content, encode_special_tokens=False, name="tokenizer.json"):
        parsed = tokenizer_json(content, name)
        self.fingerprint, self._name = fingerprint(content), name
        self._check(parsed)
        library = library_tokenizer(content, name)
        model, added = parsed["model"], library.get_added_tokens_decoder()
        vocabulary = model["vocab"]
        self._ids = {**vocabulary, **{token.content: number for number, token in added.items()}}
        self.vocab_size = checked_size(self._ids, name)
        self._special = np.zeros(self.vocab_size, bool)
        self._special[[number for number, token in added.items() if token.special]] = True
        self._pieces = np.full(self.vocab_size, b"", object)
        for token, number in self._ids.items():
            self._pieces[number] = _bytes_of(token)
        self._byte_ids = np.array([vocabulary[character] for character, byte in
                                   sorted(byte_of_character().items(), key=lambda item: item[1])], np.int32)
        self._set_merges(model)
        # There is no normaliser, so that both groups are looked for in the text as it comes.
        groups = added_token_groups(library, encode_special_tokens, name)
        self._added = [group for group in groups if group is not None]
        # As words of their own, written as no UTF-8 is: in a place where it is none, a token is text.
        in_text = {b"\xff%d" % number: number for number in added}
        self._words = StringTable({**self._whole_words(library, vocabulary), **in_text})
        self._encode = tf.function(self._flat_ids, [tf.TensorSpec([None], tf.string)], autograph=False)

    @classmethod
    def from_file(cls, tokenizer_json, encode_special_tokens=False):
        """From the path of a tokenizer.json, local or gs://; see the class."""
        return cls(read_tokenizer_json(tokenizer_json), encode_special_tokens, str(tokenizer_json))

    def token_to_id(self, token):
        """The id of a token, written as in tokenizer.json ("Ġthe", "<|endoftext|>").

        Raises:
            ValueError: there is none.
        """
        if token not in self._ids:
            raise ValueError(f"{self._name}: has no token {token!r}")
        return self._ids[token]

    def encode(self, strings):
        """strings: string [batch], UTF-8 -> RaggedTensor int32 [batch, (tokens)].

        Raises:
            ValueError: not one axis.
            InvalidArgumentError (when the graph runs): a string that is not UTF-8.
        """
        strings = tf.convert_to_tensor(strings, tf.string)
        if strings.shape.rank != 1:
            raise ValueError(f"strings: shape {strings.shape}, expected [batch]")
        return tf.RaggedTensor.from_row_splits(*self._encode(strings), validate=False)

    def decode(self, ids, skip_special_tokens=True):
        """ids: int [batch, time] or RaggedTensor [batch, (time)] -> string [batch]. Bytes that are no UTF-8 become
        U+FFFD. An id outside the vocabulary is an InvalidArgumentError when the graph runs."""
        return join_pieces(np.where(self._special, b"", self._pieces) if skip_special_tokens else self._pieces, ids)

    def _check(self, parsed):
        model, steps = parsed["model"], parsed.get("pre_tokenizer") or {}
        wanted = [("model.type", model.get("type"), ("BPE",)), ("normalizer", parsed.get("normalizer"), (None,)),
                  ("pre_tokenizer.type", steps.get("type"), ("ByteLevel",)),
                  ("pre_tokenizer.add_prefix_space", steps.get("add_prefix_space", True), (False,)),
                  ("pre_tokenizer.use_regex", steps.get("use_regex", True), (True,)),
                  ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
                  ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, ""))]
        for what, got, expected in wanted:
            if got not in expected:
                raise ValueError(f"{self._name}: {what} is {got!r}, expected {' or '.join(map(repr, expected))}: in "
                                 "the graph there is byte-level BPE with GPT-2's words only")
        vocabulary = model.get("vocab") if isinstance(model.get("vocab"), dict) else {}
        missing = [character for character in byte_of_character() if character not in vocabulary]
        if missing:
            raise ValueError(f"{self._name}: {len(missing)} of the 256 bytes have no token, the first is "
                             f"{missing[0]!r}; train with the alphabet of byte-level BPE (train_tokenizer does)")

    def _set_merges(self, model):
        vocabulary = model["vocab"]
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        merges = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in pairs]
        last_made = {made: rank for rank, (_, _, made) in enumerate(merges)}
        in_order = all(max(last_made.get(left, -1), last_made.get(right, -1)) < rank
                       for rank, (left, right, _) in enumerate(merges))
        ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
        # Merges out of order say nothing of what may come: no boundary is certain, and none is kept for ever.
        ends = _boundary_ends(merges) if in_order else dict.fromkeys(ranks, -1)
        self._unknown_end = _NEVER if in_order else np.int32(-1)
        keys = np.array(list(ends), np.int64).reshape(-1, 2)
        self._pairs = HashTable(keys[:, 0] * self.vocab_size + keys[:, 1], np.arange(len(ends)))
        self._rank = np.array([*(ranks.get(pair, _NEVER) for pair in ends), _NEVER], np.int32)
        self._end = np.array([*ends.values(), self._unknown_end], np.int32)
        self._made = np.array([*(made for _, _, made in merges), 0], np.int32)
        self._in_order = in_order

    def _whole_words(self, library, vocabulary):
        """{word: id} of the words that the merges make one token of, which is not so of every token."""
        model = library.model
        model.dropout = None
        return {_bytes_of(token): number for token, number in vocabulary.items()
                if [piece.id for piece in model.tokenize(token)] == [number]}

    def _flat_ids(self, strings):
        """string [batch] -> the ids of all, int32 [tokens], and their row splits, int64 [batch + 1]."""
        characters, splits, begins, edges = decoded(strings)
        text, tokens = tf.strings.reduce_join(strings), tf.fill(tf.shape(characters), -1)
        for group in self._added:
            edges, tokens = group.find(characters, edges, tokens)
        starts = tf.where(tokens >= 0, edges, word_starts(characters, edges))
        # The words, cut out of the one string that all texts make.
        word_begins = tf.boolean_mask(begins, starts)
        word_ends = tf.concat([word_begins[1:], tf.strings.length(text)[None]], 0)[:tf.size(word_begins)]
        words = tf.strings.substr(text, word_begins, word_ends - word_begins)
        if self._added:
            own = tf.boolean_mask(tokens, starts)
            words = tf.where(own >= 0, tf.strings.join([b"\xff", tf.as_string(own)]), words)
        ids, counts = tokens_of_words(words, self._words, self._merge)
        return ids, row_splits_of(splits, starts, counts)

    def _merge(self, words):
        """string [words], none empty -> ids int32 [m]; of each word the place of its first id there, and the number of
        its ids, int32 [words]."""
        data = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8), tf.int32)
        places, sizes = tf.range(tf.size(data)), tf.strings.length(words)
        # The number of words that end at or before each byte.
        ends = tf.scatter_nd(tf.cumsum(sizes)[:, None], tf.ones_like(sizes), [tf.size(data) + 1])
        owners = tf.cumsum(ends)[:-1]
        ready = tf.TensorArray(tf.int64, 1, dynamic_size=True, infer_shape=False, element_shape=[None])
        ready = ready.write(0, tf.zeros([0], tf.int64))

        def round_(number, tokens, places, linked, ready):
            ranks, ends = self._pair_ranks(tokens, linked)
            linked = ends < _NEVER   # a boundary that is never merged parts what is left and right of it
            parts = tf.cumsum(tf.cast(~shifted(linked, 1, True), tf.int32))
            lowest = tf.gather(tf.math.segment_min(ranks, parts), parts)
            done = lowest == _NEVER
            finished = tf.where(done)[:, 0]
            ready = ready.write(number, tf.cast(tf.gather(places, finished), tf.int64) * self.vocab_size
                                + tf.cast(tf.gather(tokens, finished), tf.int64))
            merging = self._first_of_each(~done & (ranks == lowest), parts)
            merging |= (ranks < shifted(ends, 1, _NEVER)) & (ranks <= shifted(ends, -1, _NEVER)) & (ranks < _NEVER)
            tokens = tf.where(merging, tf.gather(tf.constant(self._made), tf.where(merging, ranks, 0)), tokens)
            linked = tf.where(merging, shifted(linked, -1, False), linked)
            left = tf.where(~done & ~shifted(merging, 1, False))[:, 0]
            return number + 1, tf.gather(tokens, left), tf.gather(places, left), tf.gather(linked, left), ready

        state = 1, tf.gather(tf.constant(self._byte_ids), data), places, owners == shifted(owners, -1, -1), ready
        flat = tf.TensorShape([None])
        *_, ready = tf.while_loop(lambda number, tokens, *_: tf.size(tokens) > 0, round_, state,
                                  shape_invariants=(tf.TensorShape([]), flat, flat, flat, None))
        found = ready.concat()
        places, tokens = tf.cast(found // self.vocab_size, tf.int32), tf.cast(found % self.vocab_size, tf.int32)
        ids = tf.scatter_nd(places[:, None], tokens + 1, [tf.size(data)])   # 0: a byte inside of a token
        begins = tf.where(ids > 0)[:, 0]
        counts = tf.math.bincount(tf.gather(owners, begins), minlength=tf.size(words), maxlength=tf.size(words))
        return tf.gather(ids, begins) - 1, tf.cumsum(counts, exclusive=True), counts

    def _pair_ranks(self, tokens, linked):
        """Of each token and the next: the rank of their merge, and the lowest rank that can end the boundary between
        them, now or later, int32 [n]."""
        following = tf.cast(shifted(tokens, -1, 0), tf.int64)
        entry = self._pairs.lookup(tf.cast(tokens, tf.int64) * self.vocab_size + following)
        entry = tf.where(entry < 0, len(self._rank) - 1, entry)
        return (tf.where(linked, tf.gather(tf.constant(self._rank), entry), _NEVER),
                tf.where(linked, tf.gather(tf.constant(self._end), entry), _NEVER))

    def _first_of_each(self, marked, parts):
        """Of the places in a part where the lowest pair stands, those to merge in this round: from the left, none
        inside another ("aaa": the first pair and not the second)."""
        places = tf.where(marked)[:, 0]
        if self._in_order:
            fresh = places != shifted(places, 1, -2) + 1
            run_starts = tf.gather(tf.boolean_mask(places, fresh), tf.cumsum(tf.cast(fresh, tf.int32)) - 1)
            taken = (places - run_starts) % 2 == 0
        else:   # what the first makes may be merged before the others
            parts = tf.gather(parts, places)
            taken = parts != shifted(parts, 1, -1)
        taken = tf.cast(taken, tf.int32)
        return tf.scatter_nd(places[:, None], taken, tf.shape(marked, tf.int64)) > 0


def _boundary_ends(merges):
    """What may happen to the boundary between two tokens.

    Args:
        merges: list of (left, right, made), by rank, none before what makes its parts.

    Returns:
        {(a, b): the lowest rank of a merge (x, y) where x is a, or ends with it by its merges, and y is b or begins
        with it}. Whatever is merged around them, the boundary between a and b stays until that rank; that of two tokens
        that are not here stays for ever.
    """
    ending, beginning, ends = {}, {}, {}
    for rank, (left, right, made) in enumerate(merges):
        tails, heads = ending.setdefault(left, {left}), beginning.setdefault(right, {right})
        for a in tails:
            for b in heads:
                ends.setdefault((a, b), rank)
        ending.setdefault(made, {made}).update(ending.setdefault(right, {right}))
        beginning.setdefault(made, {made}).update(beginning.setdefault(left, {left}))
    return ends


def _bytes_of(token):
    """What a token writes: the bytes behind its characters, or its own UTF-8 where one of them stands for no byte."""
    table = byte_of_character()
    return bytes(table[c] for c in token) if set(token) <= set(table) else token.encode("utf-8")
