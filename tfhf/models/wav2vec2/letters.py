"""Letters of transcripts looked up in a vocabulary: in which Unicode form and in which case it has them."""

import re
import unicodedata

_LOWER = str.maketrans({"I": "ı", "İ": "i"})
_UPPER = str.maketrans({"i": "İ", "ı": "I"})
_FINAL_SIGMA = re.compile(r"(?<=\w)Σ(?!\w)")
_KNOWN_AT_MOST = 65536   # clusters whose spelling is kept


def lower_case(text, turkish=False):
    """The text in lower case; `turkish`: I is the upper case of ı, and İ that of i."""
    return text.replace("I\u0307", "İ").translate(_LOWER).lower() if turkish else text.lower()


def upper_case(text, turkish=False):
    """The text in upper case; `turkish`: as in `lower_case`."""
    return text.translate(_UPPER).upper() if turkish else text.upper()


def with_final_sigma(text):
    """The text with ς for a Σ that ends a word: its lower case, which a letter alone does not tell."""
    return _FINAL_SIGMA.sub("ς", text)


def is_turkish(counts):
    """Whether counted letters are of a language with the dotless ı: a twentieth of all i, which no foreign name in the
    texts of another language makes up."""
    own = counts.get("ı", 0) + counts.get("İ", 0)
    return 20 * own > own + counts.get("i", 0) + counts.get("I", 0)


def clusters(text):
    """A text's letters, each with the marks behind it; the jamo of a Korean syllable are one cluster."""
    cluster = ""
    for letter in text:
        if cluster and _continues(letter):
            cluster += letter
        else:
            if cluster:
                yield cluster
            cluster = letter
    if cluster:
        yield cluster


def _continues(letter):
    # Vowels and final consonants of conjoining jamo; every other letter that continues one is a mark.
    return ("\u1160" <= letter <= "\u11ff" or "\ud7b0" <= letter <= "\ud7ff"
            or unicodedata.category(letter)[0] == "M")


class Speller:
    """Writes texts in the letters of a vocabulary.

    A cluster is taken as it stands where the vocabulary has all of it, else in its other case, else composed, else
    decomposed: what a checkpoint's vocabulary distinguishes stays distinguished.

    Args:
        symbols: tokens of the vocabulary, no special ones.
        composed_first: the vocabulary was made from composed texts (NFC): that form goes before the text's own.
        turkish: whether I and ı, İ and i are pairs; None: the vocabulary has ı or İ.
    """

    def __init__(self, symbols, composed_first=False, turkish=None):
        self._symbols = frozenset(symbols)
        self._letters = frozenset(letter for symbol in symbols for letter in symbol)   # also of longer tokens
        self._composed_first = composed_first
        self.turkish = bool(self._symbols & {"ı", "İ"}) if turkish is None else turkish
        self._lowers_sigma = "ς" in self._symbols and "Σ" not in self._symbols
        self._known = {}

    def spell(self, text):
        """The text in the vocabulary's letters; what it lacks in every form stays, composed."""
        text = with_final_sigma(text) if self._lowers_sigma else text
        return "".join(map(self._spelled, clusters(text)))

    def _spelled(self, cluster):
        if cluster not in self._known:
            if len(self._known) >= _KNOWN_AT_MOST:
                self._known.clear()
            self._known[cluster] = self._find(cluster)
        return self._known[cluster]

    def _find(self, cluster):
        composed = unicodedata.normalize("NFC", cluster)
        forms = [composed, cluster] if self._composed_first else [cluster, composed]
        for form in [*forms, unicodedata.normalize("NFD", cluster)]:
            found = self._cased(form, self._symbols)
            if found is not None:
                return found
        # Not all of it is known: each letter for itself.
        return "".join(self._cased(letter, self._symbols) or self._cased(letter, self._letters) or letter
                       for letter in composed)

    def _cased(self, form, known):
        """The form in the case that is known, or None; a typographic apostrophe may be the plain one."""
        cases = (form, upper_case(form, self.turkish), lower_case(form, self.turkish), form.replace("’", "'"))
        return next((case for case in cases if case == " " or case in known or set(case) <= known), None)
