"""The tokenizer.json of a folder, made from older files where it is missing: vocab.json and merges.txt (GPT-2,
Whisper), vocab.txt (BERT), or a SentencePiece .model."""

import json
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tfhf.data import storage
from tfhf.tokenizers.fingerprint import MOST_BYTES, parse_json
from tfhf.weights import say

_SPACE = "▁"
_PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model")
_CONTROL, _USER_DEFINED, _UNKNOWN, _BYTE = 3, 4, 2, 6   # types of SentencePiece's pieces
_UNIGRAM = 1


def read_tokenizer_json(path) -> str:
    """The text of a tokenizer.json; where it is missing, what the older files beside it say, and a line names them.

    Args:
        path: of the tokenizer.json, local or gs://, whether it is there or not.

    Raises:
        FileNotFoundError: neither it nor older files are there.
        ValueError: the older files are damaged.
    """
    path = str(path)
    if storage.exists(path):
        return _text(path)
    folder = path.rpartition("/")[0] or "."

    def beside(name):
        return storage.join(folder, name)

    if storage.exists(beside("vocab.json")) and storage.exists(beside("merges.txt")):
        tokenizer, sources = _byte_level(beside), "vocab.json and merges.txt"
    elif storage.exists(beside("vocab.txt")):
        tokenizer, sources = _wordpiece(beside), "vocab.txt"
    else:
        sources = next((name for name in _PIECES if storage.exists(beside(name))), None)
        if sources is None:
            raise FileNotFoundError(f"{folder}: has no {path.rpartition('/')[2]}, and neither vocab.json with "
                                    f"merges.txt, nor vocab.txt, nor {', '.join(_PIECES[:3])}.")
        tokenizer = _unigram(beside(sources))
    say(f"{path}: is missing; the tokenizer was made from {sources}.")
    return tokenizer.to_str()


def _text(path):
    data = storage.read_bytes(path)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: has {len(data):,} bytes; expected a file of a tokenizer, at most {MOST_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text at byte {error.start}") from error


def _settings(beside, name):
    return parse_json(_text(beside(name)), beside(name)) if storage.exists(beside(name)) else {}


def _vocabulary(content, where):
    if not content or not all(type(number) is int and 0 <= number < 1 << 24 for number in content.values()):
        raise ValueError(f"{where}: expected tokens with their ids, whole numbers of 0 or more")
    return content


def _byte_level(beside):
    """GPT-2's kind; Whisper's languages and marks are in added_tokens.json."""
    vocabulary = _vocabulary(_settings(beside, "vocab.json"), beside("vocab.json"))
    merges = []
    for number, line in enumerate(_text(beside("merges.txt")).split("\n"), 1):
        pair = tuple(line.rstrip("\r").split(" "))
        if line.startswith("#version") or not line.strip():
            continue
        if len(pair) != 2 or not {*pair, "".join(pair)} <= set(vocabulary):
            raise ValueError(f"{beside('merges.txt')}: line {number} is {line[:60]!r}; expected two tokens of "
                             "vocab.json that make a third")
        merges.append(pair)
    settings = _settings(beside, "tokenizer_config.json")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    prefix = settings.get("add_prefix_space") is True
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    _add(tokenizer, beside, settings, (token for token in ("<|endoftext|>",) if token in vocabulary))
    return tokenizer


def _wordpiece(beside):
    """BERT's kind."""
    tokens = _text(beside("vocab.txt")).split("\n")
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if tokens[-1] == "" else tokens)]
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if token not in tokens]
    if missing or len(set(tokens)) != len(tokens):
        raise ValueError(f"{beside('vocab.txt')}: lacks {', '.join(missing)} or has a token twice; expected one token "
                         "a line, with BERT's special ones")
    settings = _settings(beside, "tokenizer_config.json")
    if "do_lower_case" not in settings:
        say(f"{beside('tokenizer_config.json')}: does not say do_lower_case; texts are lower-cased, as BERT's "
            "tokenizer does by default.")
    lowercase = settings.get("do_lower_case", True) is not False
    tokenizer = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True) is not False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ends = [(token, tokens.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    _add(tokenizer, beside, settings, (token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
                                       if token in tokens))
    return tokenizer


def _add(tokenizer, beside, settings, own):
    """Adds the special tokens of the vocabulary itself, and those of added_tokens.json under their own ids."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in own])
    ids = {**_settings(beside, "added_tokens.json")}
    special = {}
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdigit():
            ids.setdefault(token["content"], int(number))
            special[token["content"]] = bool(token.get("special", True))
    if ids:
        _vocabulary(ids, beside("added_tokens.json"))
    for token, number in sorted(ids.items(), key=lambda item: item[1]):
        known = tokenizer.token_to_id(token)
        added = AddedToken(token, special=special.get(token, True), normalized=False)
        (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
        if known is None and tokenizer.token_to_id(token) != number:
            raise ValueError(f"{beside('added_tokens.json')}: {token[:40]!r} has id {number}; expected "
                             f"{tokenizer.token_to_id(token)}, the next one behind the vocabulary")


def _unigram(path):
    """SentencePiece's Unigram model (Kudo 2018), out of its protocol buffer."""
    data = storage.read_bytes(path)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: has {len(data):,} bytes; expected at most {MOST_BYTES:,}")
    pieces, trainer, normalizer = [], {}, {}
    for field, value in _fields(data, path):
        if field == 1:
            pieces.append(dict(_fields(value, path)))
        elif field in (2, 3):
            (trainer if field == 2 else normalizer).update(_fields(value, path))
    if not pieces or trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError(f"{path}: is no Unigram model of SentencePiece; expected one, or a tokenizer.json")
    try:
        vocabulary = [(piece[1].decode("utf-8"), struct.unpack("<f", piece.get(2, bytes(4)))[0]) for piece in pieces]
    except (KeyError, AttributeError, UnicodeDecodeError, TypeError, struct.error) as error:
        raise ValueError(f"{path}: has a piece without its text or score") from error
    kinds = [piece.get(3, 1) for piece in pieces]
    unknown = kinds.index(_UNKNOWN) if _UNKNOWN in kinds else None
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, _BYTE in kinds))
    steps = [normalizers.Precompiled(normalizer[2])] if normalizer.get(2) else []
    if normalizer.get(4, 1):
        steps += [normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if normalizer.get(3, 1) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, scheme)
    tokenizer.decoder = decoders.Metaspace(_SPACE, scheme)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)
                                  for (text, _), kind in zip(vocabulary, kinds) if kind in (_CONTROL, _UNKNOWN)])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for (text, _), kind in zip(vocabulary, kinds)
                          if kind == _USER_DEFINED])
    return tokenizer


def _fields(data, path):
    """(number, value) of the fields of a protocol buffer: whole numbers, or bytes."""
    place = 0

    def number():
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(data) or shift > 63:
                raise ValueError(f"{path}: is damaged, or no model of SentencePiece")
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = {1: 8, 5: 4}.get(kind) if kind != 2 else number()
        if size is None or place + size > len(data):
            raise ValueError(f"{path}: is damaged, or no model of SentencePiece")
        place += size
        yield key >> 3, data[place - size:place]
