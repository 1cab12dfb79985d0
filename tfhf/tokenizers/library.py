"""A tokenizer.json as the `tokenizers` library reads it: what the tokenizers inside a graph ask it for."""

import json

from tokenizers import Tokenizer

# The largest vocabularies in use have a million tokens. Tables of a graph are as long as the largest id.
MAX_TOKENS = 1 << 24


def tokenizer_json(content, name):
    """The content of a tokenizer.json as a dict that has the dict "model"; ValueError where it is none."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON: {error}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise ValueError(f"{name}: no tokenizer.json: expected an object that has a model")
    for key in ("normalizer", "pre_tokenizer"):
        if not isinstance(parsed.get(key), (dict, type(None))):
            raise ValueError(f"{name}: {key} is a {type(parsed[key]).__name__}, expected an object or null")
    return parsed


def library_tokenizer(content, name):
    """The library's tokenizer of a tokenizer.json.

    Args:
        content: its text.
        name: of the file, for the message.

    Raises:
        ValueError: the library does not take it.
    """
    try:
        return Tokenizer.from_str(content)
    except Exception as error:   # the library raises no narrower class
        raise ValueError(f"{name}: the tokenizers library does not take it: {error}") from error


def checked_size(ids, name):
    """{token: id} -> the largest id and one.

    Raises:
        ValueError: there is no token, or an id that no tokenizer needs.
    """
    largest = max(ids.values(), default=-1)
    if not 0 <= largest < MAX_TOKENS or min(ids.values()) < 0:
        token = max(ids, key=ids.get, default=None)
        raise ValueError(f"{name}: {len(ids)} tokens, of which {token!r} has the id {largest}; expected ids from 0 to "
                         f"{MAX_TOKENS - 1}")
    return largest + 1
