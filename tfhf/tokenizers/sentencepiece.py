"""SentencePiece inside a graph through tensorflow-text, from a .model file or from a trained Unigram tokenizer.json.

Kudo and Richardson 2018. A tokenizer.json is written anew as the ModelProto that the C++ library reads
(google/sentencepiece, src/sentencepiece_model.proto).
"""

import base64
import json
import struct

import tensorflow as tf

from tfhf.data import storage
from tfhf.tokenizers.fingerprint import fingerprint
from tfhf.tokenizers.tensorflow_text import tensorflow_text

_UTF8_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3   # SentencePiece.Type
_SPACE = "\u2581"


class SentencePiece:
    """A SentencePiece model inside the graph.

    Args:
        model: bytes of a ModelProto.
        forms: Unicode forms to bring a text into first ("NFKC"), for models without normalising of their own.
        prefix: whether a text that begins with no blank gets one (a .model file says so itself, and then every text
            does).

    Attributes:
        vocab_size: int.
        fingerprint: str of the tokenizer.json it was made from, else None.

    Raises:
        TensorFlowTextMissing: the extra `text` is not installed.
    """

    def __init__(self, model, forms=(), prefix=False):
        self._text, self._forms, self._prefix, self.fingerprint = tensorflow_text(), tuple(forms), prefix, None
        self._tokenizer = self._text.SentencepieceTokenizer(model, out_type=tf.int32)
        with tf.init_scope():
            self.vocab_size = int(self._tokenizer.vocab_size())

    @classmethod
    def from_file(cls, path):
        """From a .model file, or from a Unigram tokenizer.json with "▁" for blanks (train_tokenizer's).

        Raises:
            ValueError: a tokenizer.json that is none, or one with steps that have no counterpart.
        """
        content = storage.read_bytes(path)
        if not str(path).endswith(".json"):
            return cls(content)
        tokenizer = cls(*sentencepiece_model(content, str(path)))
        tokenizer.fingerprint = fingerprint(content)
        return tokenizer

    def encode(self, strings):
        """strings: string [batch], UTF-8 -> RaggedTensor int32 [batch, (tokens)], without special tokens."""
        for form in self._forms:
            strings = self._text.normalize_utf8(strings, form)
        if self._prefix:
            bare = ~tf.strings.regex_full_match(strings, f"(?s)([ {_SPACE}].*)?")
            strings = tf.where(bare, tf.strings.join([" ", strings]), strings)
        return self._tokenizer.tokenize(strings)

    def decode(self, ids):
        """ids: RaggedTensor int32 [batch, (tokens)] -> string [batch]."""
        texts = self._tokenizer.detokenize(ids)
        return tf.strings.regex_replace(texts, "^ ", "") if self._prefix else texts


def sentencepiece_model(content, name="tokenizer.json"):
    """A Unigram tokenizer.json -> bytes of a ModelProto, and `forms` and `prefix` of `SentencePiece`.

    Raises:
        ValueError: another model, normaliser or pre-tokeniser than the ModelProto can say.
    """
    parsed = json.loads(content)
    model, words = parsed["model"], parsed.get("pre_tokenizer") or {}
    if model.get("type") != "Unigram":
        raise ValueError(f"{name}: model is {model.get('type')!r}, expected 'Unigram'")
    if words.get("type") != "Metaspace" or words.get("replacement") != _SPACE:
        raise ValueError(f"{name}: pre_tokenizer is {words or None}, expected Metaspace with {_SPACE!r}")
    if model.get("byte_fallback"):
        raise ValueError(f"{name}: byte_fallback is True, expected False")
    normalizer = parsed.get("normalizer")
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    forms = tuple(step["type"] for step in steps if step["type"] in _UTF8_FORMS)
    maps = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    if len(forms) + len(maps) != len(steps) or len(maps) > 1 or (maps and forms):
        raise ValueError(f"{name}: normalizer is {str(normalizer)[:200]}, expected some of {_UTF8_FORMS} or "
                         "one Precompiled")
    # tensorflow-text does not refuse such a model, it crashes.
    wrong = [number for number, (piece, _) in enumerate(model["vocab"]) if not piece or "\0" in piece]
    if wrong:
        raise ValueError(f"{name}: token {wrong[0]} is {model['vocab'][wrong[0]][0]!r}, expected no empty piece and no "
                         "null character in a SentencePiece model")
    special = {token["content"] for token in parsed.get("added_tokens") or [] if token["special"]}
    pieces = b"".join(
        _field(1, _field(1, piece.encode("utf-8")) + _float(2, score)
               + _integer(3, _UNKNOWN if number == model["unk_id"] else _CONTROL if piece in special else _NORMAL))
        for number, (piece, score) in enumerate(model["vocab"]))
    ids = b"".join(_integer(field, -1) for field in (41, 42, 43))   # no begin, end, padding of its own
    trainer = _integer(3, 1) + _integer(40, model["unk_id"]) + ids   # model_type UNIGRAM
    normal = (_field(1, b"identity") + _field(2, base64.b64decode(maps[0]) if maps else b"")
              + b"".join(_integer(option, option == 5) for option in (3, 4, 5)))   # only escape_whitespaces
    return pieces + _field(2, trainer) + _field(3, normal), forms, words.get("prepend_scheme", "always") != "never"


def _varint(value):
    value &= (1 << 64) - 1   # negative numbers take ten bytes
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes(parts + bytes([value]))


def _integer(field, value):
    return _varint(field << 3) + _varint(int(value))


def _float(field, value):
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _field(field, value):
    return _varint(field << 3 | 2) + _varint(len(value)) + value
