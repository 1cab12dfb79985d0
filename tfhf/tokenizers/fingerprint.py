"""What tells one tokenizer from another: a sum over its tokenizer.json, which travels with records and models."""

import hashlib
import json


class FingerprintError(ValueError):
    """Token ids that come from another tokenizer than the one at hand."""


MOST_BYTES = 128_000_000      # of a file of a tokenizer; the largest published ones have 35 MB
_MOST_ID = 1 << 24


def parse_json(content, name) -> dict:
    """The object in a JSON text, str or bytes; `name` is for the errors.

    Raises:
        ValueError: it is too large, not JSON, nested too deeply, or something else than an object.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name}: has {len(content):,} bytes; expected at most {MOST_BYTES:,}")
    try:
        parsed = json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{name}: its JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{name} that is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"no tokenizer.json: got {str(parsed)[:60]!r}, expected an object")
    return parsed


def check_ids(content, name):
    """ValueError for ids that a table of the vocabulary cannot be made for: negative ones, such as no vocabulary of its
    size reaches, or one of two tokens. What is made has as many rows as the largest id.

    Args:
        content: of a tokenizer.json, parsed.
        name: of the file, for the errors.
    """
    vocabulary, added = content["model"].get("vocab"), content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) and isinstance(token.get("content"), str)
                                              for token in added):
        raise ValueError(f"{name}: added_tokens holds something else; expected tokens with their content and id")
    # Of a Unigram model the vocabulary is a list, numbered by its places.
    pairs = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    numbered = len(vocabulary) if isinstance(vocabulary, list) else 0
    pairs += [(token["content"], token.get("id")) for token in added]
    most = min(_MOST_ID, 2 * (len(pairs) + numbered) + 1000)
    owner = {}
    for token, number in pairs:
        if type(number) is not int or not 0 <= number < most:
            raise ValueError(f"{name}: {token[:40]!r} has the id {str(number)[:40]}; expected a whole number from 0 on "
                             f"and below {most:,}, by the size of the vocabulary")
        if owner.setdefault(number, token) != token:
            raise ValueError(f"{name}: {owner[number][:40]!r} and {token[:40]!r} both have the id {number}")


def fingerprint(tokenizer_json):
    """SHA-256, in hex, of a tokenizer.json as canonical JSON: white space and the order of keys do not count.

    Padding and truncation do not count either: they are settings of a batch and change no id.

    Args:
        tokenizer_json: the file's content, bytes or str.

    Raises:
        ValueError: the content is no JSON object with a model.
    """
    content = parse_json(tokenizer_json, "a tokenizer.json")
    if not isinstance(content.get("model"), dict):
        raise ValueError(f"no tokenizer.json: got {str(content)[:60]!r}, expected an object with a \"model\"")
    check_ids(content, "a tokenizer.json")
    content = {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    # Merges are written as "a b" by older versions of the library and as ["a", "b"] by newer ones: the same merges.
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"].get("merges", [])]
    content["model"] = {**content["model"], **({"merges": merges} if "merges" in content["model"] else {})}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def check_fingerprint(found, expected, where):
    """Raises FingerprintError, naming `where` (records, an adapter, a model), unless the two are equal."""
    if found != expected:
        raise FingerprintError(f"{where}: made with the tokenizer of fingerprint {str(found)[:16]}…, but the one at "
                               f"hand has {str(expected)[:16]}…: the same ids mean other tokens. Take the "
                               "tokenizer.json they were made with, or make them again.")
