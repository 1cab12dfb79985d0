"""What tells one tokenizer from another: a sum over its tokenizer.json, which travels with records and models."""

import hashlib
import json


class FingerprintError(ValueError):
    """Token ids that come from another tokenizer than the one at hand."""


def fingerprint(tokenizer_json):
    """SHA-256, in hex, of a tokenizer.json as canonical JSON: white space and the order of keys do not count.

    Padding and truncation do not count either: they are settings of a batch and change no id.

    Args:
        tokenizer_json: the file's content, bytes or str.

    Raises:
        ValueError: the content is no JSON object with a model.
    """
    try:
        content = json.loads(tokenizer_json)
    except ValueError as error:
        raise ValueError(f"a tokenizer.json that is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"no tokenizer.json: got {str(content)[:60]!r}, expected an object with a \"model\"")
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
