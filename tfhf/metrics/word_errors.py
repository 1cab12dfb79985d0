"""Word and character error rate by jiwer, with the counts that they come from."""

import jiwer

from tfhf.metrics.normalizers import get_normalizer


class _ErrorRate:
    """(substitutions + deletions + insertions) / reference units, over all examples: long ones count for more."""

    rate, unit = "", ""

    def __init__(self, normalizer="none"):
        self.normalizer, self._normalize = normalizer, get_normalizer(normalizer)
        self.name = f"{self.rate}_{normalizer.replace('-', '_')}"
        self._counts = {"substitutions": 0, "deletions": 0, "insertions": 0, "hits": 0}
        self._examples = 0

    def update(self, reference, prediction):
        """Adds one example; both are str. An empty reference counts its prediction as insertions."""
        reference, prediction = (self._prepare(self._normalize(text)) for text in (reference, prediction))
        self._examples += 1
        if not reference:  # jiwer refuses it
            self._counts["insertions"] += self._length(prediction)
            return
        output = self._align(reference, prediction)
        for name in self._counts:
            self._counts[name] += getattr(output, name)

    def result(self):
        """{rate, substitutions, deletions, insertions, hits, reference_words or _characters, examples, normalizer}.

        The rate is NaN when no reference has a word.
        """
        counts = self._counts
        units = counts["hits"] + counts["substitutions"] + counts["deletions"]
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        return {self.rate: errors / units if units else float("nan"), **counts, f"reference_{self.unit}": units,
                "examples": self._examples, "normalizer": self.normalizer}


class WordErrorRate(_ErrorRate):
    """Word error rate (`wer`) after the named normaliser; words are what white space parts."""

    rate, unit = "wer", "words"
    _align = staticmethod(jiwer.process_words)

    @staticmethod
    def _prepare(text):
        return " ".join(text.split())  # jiwer parts words at U+0020 only; a tab or newline would glue two

    @staticmethod
    def _length(text):
        return len(text.split())


class CharacterErrorRate(_ErrorRate):
    """Character error rate (`cer`) after the named normaliser; spaces between words count."""

    rate, unit = "cer", "characters"
    _align = staticmethod(jiwer.process_characters)
    _prepare = staticmethod(str.strip)

    @staticmethod
    def _length(text):
        return len(text)
