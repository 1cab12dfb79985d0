"""A tokenizer.json as the `tokenizers` library reads it: what the tokenizers inside a graph ask it for."""

from tokenizers import Tokenizer

# The largest vocabularies in use have a million tokens. Tables of a graph are as long as the largest id.
MAX_TOKENS = 1 << 24


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
