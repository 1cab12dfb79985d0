"""Named text normalisers, applied to reference and prediction alike before words are compared.

- `whisper-english`: OpenAI's English normaliser (paper, appendix C), by the package whisper-normalizer (MIT).
- `basic`: OpenAI's for other languages; it strips combining marks, and with them Devanagari vowel signs.
- `indic`: as `basic`, but combining marks stay. Report it beside `basic` for scripts that write vowels as marks.
- `none`: the text as it is.
"""


def _whisper_english():
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _basic(preserve_marks):
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=preserve_marks)


_NORMALIZERS = {
    "whisper-english": _whisper_english,
    "basic": lambda: _basic(False),
    "indic": lambda: _basic(True),
    "none": lambda: str,
}


def get_normalizer(name):
    """Function from str to str.

    Raises:
        ValueError: no normaliser of that name.
    """
    if name not in _NORMALIZERS:
        raise ValueError(f"Unknown normaliser {name!r}; expected one of: {', '.join(_NORMALIZERS)}.")
    return _NORMALIZERS[name]()
