"""Byte-level BPE: the bytes behind its printable characters, and decoding inside a TensorFlow graph."""

import functools
import json

import numpy as np
import tensorflow as tf


@functools.cache
def byte_of_character():
    """{character: byte} of GPT-2's byte-level vocabularies (Radford et al. 2019, section 2.2).

    Printable bytes stand for themselves; the other 68 are moved to U+0100 and on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(moved)}}


def token_bytes(tokenizer_json, num_ids, first_special_id):
    """List of `num_ids` byte strings: what each id writes. Ids from `first_special_id` on write nothing.

    Raises:
        ValueError: an ordinary id without a token, or a token that is not byte-level.
    """
    with open(tokenizer_json, encoding="utf-8") as file:
        vocabulary = json.load(file)["model"]["vocab"]
    table, pieces = byte_of_character(), [b""] * num_ids
    named = set()
    for token, number in vocabulary.items():
        if number >= first_special_id:
            continue
        if not set(token) <= set(table):
            raise ValueError(f"{tokenizer_json}: token {number} is {token!r}, which is not byte-level.")
        pieces[number] = bytes(table[character] for character in token)
        named.add(number)
    # The id before the special ones may be nameless: OpenAI's multilingual vocabulary ends with an empty token.
    absent = sorted(set(range(first_special_id - 1)) - named)
    if absent:
        raise ValueError(f"{tokenizer_json}: {len(absent)} ids have no token, the first is {absent[0]}.")
    return pieces


class ByteLevelDecoder:
    """Ids to text with core TensorFlow operations only, for exports.

    Args:
        tokenizer_json: path of a byte-level BPE tokenizer.json.
        num_ids: size of the model's vocabulary.
        first_special_id: ids from here on write nothing.
        more: {id: text} of those that write something all the same, such as added tokens.
    """

    def __init__(self, tokenizer_json, num_ids, first_special_id, more=None):
        pieces = token_bytes(tokenizer_json, num_ids, first_special_id)
        for number, text in (more or {}).items():
            pieces[number] = text.encode("utf-8")
        self._pieces = np.array(pieces, object)

    def decode(self, ids):
        """ids int [batch, time] -> string [batch]; bytes that are no UTF-8 become U+FFFD, as in Python's decoder."""
        return join_pieces(self._pieces, ids)


def join_pieces(pieces, ids):
    """What ids write, one after the other, as text with core operations only.

    Args:
        pieces: object [vocabulary] of bytes, what each id writes.
        ids: int [batch, time], or RaggedTensor [batch, (time)].

    Returns:
        string [batch], UTF-8; bytes that are none become U+FFFD, as in Python's decoder.
    """
    joined = tf.strings.reduce_join(tf.gather(tf.constant(pieces, tf.string), ids), axis=-1)
    return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)
