"""Texts into batches of one static shape: padding, truncation, masks and pairs, in Python and inside a graph."""

import json

import numpy as np
import tensorflow as tf
from tokenizers import Tokenizer

from tfhf.tokenizers.fingerprint import check_fingerprint, fingerprint
from tfhf.tokenizers.folder import read_tokenizer_json

SIDES = ("right", "left")


class TextEncoder:
    """Texts to batches through the `tokenizers` library, for a task's `preprocess` and for what is tokenised once.

    Args:
        tokenizer_json: path of any tokenizer.json, local or gs://.
        max_length: ids of every row, special tokens included.
        pad_token: written where a row is short. None: the one that the file's `padding` names.
        padding_side, truncation_side: "right" or "left" (the side that is filled, and the one that is cut).
        encode_special_tokens: True takes "[SEP]" in a text for text, as in `tokenizers`.

    Attributes:
        fingerprint: str, of the tokenizer.
        vocab_size: int.

    Raises:
        ValueError: a damaged file, a side that is none, no padding token.
    """

    def __init__(self, tokenizer_json, max_length, *, pad_token=None, padding_side="right", truncation_side="right",
                 encode_special_tokens=False):
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in SIDES:
                raise ValueError(f"{name}: {side!r}, expected 'right' or 'left'")
        content = read_tokenizer_json(tokenizer_json)
        self.fingerprint, self.name, self.max_length = fingerprint(content), str(tokenizer_json), max_length
        self._tokenizer = Tokenizer.from_str(content)
        self._tokenizer.encode_special_tokens = encode_special_tokens
        pad_token = pad_token or (json.loads(content).get("padding") or {}).get("pad_token")
        pad_id = None if pad_token is None else self._tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise ValueError(f"{tokenizer_json}: pad_token is {pad_token!r}, expected a token of its vocabulary")
        reserved = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        if max_length <= reserved:
            raise ValueError(f"max_length: {max_length}, expected more than the {reserved} special tokens of a pair")
        self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=truncation_side)
        self._tokenizer.enable_padding(length=max_length, pad_id=pad_id, pad_token=pad_token, direction=padding_side)
        self.pad_id, self.vocab_size = pad_id, self._tokenizer.get_vocab_size()

    def check(self, found, where):
        """Raises `FingerprintError` unless records or a model (`where`) were made with this tokenizer."""
        check_fingerprint(found, self.fingerprint, where)

    def encode_batch(self, texts, pairs=None, add_special_tokens=True):
        """Rows of ids.

        Args:
            texts: list of str; pairs: list of str of the same length, the second text of each row. Of a pair that is
                too long, the longer text is cut first.

        Returns:
            dict of int32 [batch, max_length]: input_ids, attention_mask (1 = token), token_type_ids (1 = second text).

        Raises:
            ValueError: the lengths of the two lists differ.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs, expected as many")
        rows = self._tokenizer.encode_batch(list(texts) if pairs is None else list(zip(texts, pairs)),
                                            add_special_tokens=add_special_tokens)
        shape = (len(rows), self.max_length)
        return {name: np.array([getattr(row, attribute) for row in rows], np.int32).reshape(shape) for name, attribute
                in (("input_ids", "ids"), ("attention_mask", "attention_mask"), ("token_type_ids", "type_ids"))}

    def decode_batch(self, ids, skip_special_tokens=True):
        """ids int [batch, time] -> list of str."""
        return self._tokenizer.decode_batch(np.asarray(ids).tolist(), skip_special_tokens)


def pad_batch(ids, length, pad_id, padding_side="right", truncation_side="right"):
    """Inside a graph: rows of any length to rows of one.

    Args:
        ids: RaggedTensor int32 [batch, (tokens)], what `encode` of an in-graph tokenizer gives.
        length: int, of the rows; longer ones are cut on `truncation_side`.

    Returns:
        dict of int32 [batch, length]: input_ids, attention_mask (1 = token).
    """
    for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
        if side not in SIDES:
            raise ValueError(f"{name}: {side!r}, expected 'right' or 'left'")
    lengths = ids.row_lengths()
    kept = tf.minimum(lengths, length)
    firsts = ids.row_starts() + (lengths - kept if truncation_side == "left" else 0)
    place = tf.range(length, dtype=tf.int64)[None]
    within = place - (length - kept[:, None] if padding_side == "left" else 0)
    mask = (within >= 0) & (within < kept[:, None])
    # Every place reads something: one id stands behind the last, for rows of a batch that is empty.
    values = tf.concat([ids.values, [tf.cast(pad_id, ids.dtype)]], 0)
    found = tf.gather(values, tf.where(mask, firsts[:, None] + within, tf.cast(tf.size(ids.values), tf.int64)))
    return {"input_ids": tf.cast(tf.where(mask, found, tf.cast(pad_id, found.dtype)), tf.int32),
            "attention_mask": tf.cast(mask, tf.int32)}


def pair_batch(first, second, length, *, cls_id, sep_id, pad_id):
    """Inside a graph: BERT's rows, [CLS] first [SEP] second [SEP] (Devlin et al. 2018, section 3).

    Of a pair that is too long the longer text is cut first, as `TextEncoder` does it.

    Args:
        first, second: RaggedTensor int32 [batch, (tokens)]; `second` None: [CLS] first [SEP].
        length: int, of the rows, special tokens included.

    Returns:
        dict of int32 [batch, length]: input_ids, attention_mask (1 = token), token_type_ids (1 = `second`).
    """
    def alone(number):
        return tf.fill([first.nrows(), 1], tf.constant(number, first.dtype))

    if second is None:
        kept = tf.minimum(first.row_lengths(), length - 2)
        row = pad_batch(tf.concat([alone(cls_id), _head(first, kept), alone(sep_id)], 1), length, pad_id)
        return {**row, "token_type_ids": tf.zeros_like(row["input_ids"])}
    one, two = _longest_first(first.row_lengths(), second.row_lengths(), length - 3)
    row = tf.concat([alone(cls_id), _head(first, one), alone(sep_id), _head(second, two), alone(sep_id)], 1)
    row = pad_batch(row, length, pad_id)
    of_second = tf.range(length, dtype=tf.int64)[None] >= one[:, None] + 2
    return {**row, "token_type_ids": tf.cast(of_second, tf.int32) * row["attention_mask"]}


def _head(ids, lengths):
    """The first `lengths` ids of each row."""
    starts = ids.row_starts()
    return tf.gather(ids.values, tf.ragged.range(starts, starts + lengths))


def _longest_first(one, two, room):
    """Lengths that fit: the shorter is whole while it takes no more than half."""
    small, large, room = tf.minimum(one, two), tf.maximum(one, two), tf.constant(room, one.dtype)
    large = tf.where(small > room, small, tf.maximum(small, room - small))
    too_long = small + large > room
    small, large = tf.where(too_long, room // 2, small), tf.where(too_long, room // 2 + room % 2, large)
    return (tf.minimum(one, tf.where(one > two, large, small)), tf.minimum(two, tf.where(one > two, small, large)))
