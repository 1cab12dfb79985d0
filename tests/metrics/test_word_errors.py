"""WER and CER with their counts, and the named normalisers."""

import math
import random

import pytest

from tfhf.metrics.normalizers import get_normalizer
from tfhf.metrics.word_errors import CharacterErrorRate, WordErrorRate


def test_counts_by_hand():
    metric = WordErrorRate("none")
    metric.update("the cat sat on the mat", "the cat sit on mat now")
    metric.update("yes", "yes")
    metric.update("", "uh huh")  # nothing was said, two words were heard
    result = metric.result()
    # cat sat|sit; "the" lost; "now" added, or one alignment of equal cost: 3 errors in the first, 2 in the last.
    assert result["substitutions"] + result["deletions"] + result["insertions"] == 5
    assert result["reference_words"] == 7 and result["examples"] == 3
    assert result["wer"] == pytest.approx(5 / 7)


def test_equals_jiwer_over_all_examples():
    import jiwer

    references = ["a quick brown fox", "jumps over", "the lazy dog today"]
    predictions = ["a quack brown fox ran", "over", "the lazy dog"]
    for metric, expected in ((WordErrorRate("none"), jiwer.wer(references, predictions)),
                             (CharacterErrorRate("none"), jiwer.cer(references, predictions))):
        for pair in zip(references, predictions):
            metric.update(*pair)
        assert metric.result()[metric.rate] == pytest.approx(expected)


@pytest.mark.parametrize("space", ["\t", "\n", "\u3000", "\u00a0", "  ", " \r\n "])
def test_any_white_space_parts_words(space):
    metric = WordErrorRate("none")
    metric.update(f"a{space}b", "a b")
    metric.update("a b", f" a{space}c")
    metric.update("", f"c{space}d")
    result = metric.result()
    assert (result["hits"], result["substitutions"], result["insertions"], result["reference_words"]) == (3, 1, 2, 4)


def test_nothing_heard_is_all_deletions():
    metric = CharacterErrorRate("none")
    metric.update("ab c", "")
    assert metric.result()["deletions"] == 4 and metric.result()["cer"] == 1


def test_no_reference_words_is_not_zero_errors():
    metric = WordErrorRate("basic")
    metric.update("[noise]", "")
    assert math.isnan(metric.result()["wer"])


def test_normalizers():
    assert get_normalizer("whisper-english")("Mr. Brown's colour — fifty-two dollars!") == "mister brown is color $52"
    assert get_normalizer("indic")("हिन्दी, भाषा!").split() == ["हिन्दी", "भाषा"]
    assert get_normalizer("basic")("हिन्दी") != "हिन्दी"
    assert get_normalizer("none")("As it IS.") == "As it IS."
    with pytest.raises(ValueError, match="Unknown normaliser 'english'; expected one of: whisper-english"):
        WordErrorRate("english")


TEXTS = ["It's twenty-one o'clock, isn't it?", "He'd've gone to the centre at 5:30 p.m.", "$3 million and 50¢",
         "uh, hmm, I'll [laughs] wanna analyse (quietly) the organisation",
         "two hundred and five, nineteen ninety nine",
         "Café naïve — œuvre, 3.14 percent, the 42nd", "", "one two three. Ones and zeros", "won't can't let's y'all"]


def test_equals_transformers():
    pytest.importorskip("transformers", reason="live parity needs transformers")
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    english = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)
    for text in TEXTS:
        assert get_normalizer("whisper-english")(text) == english(text)
        assert get_normalizer("basic")(text).strip() == BasicTextNormalizer()(text).strip()


def test_equals_transformers_on_random_sentences():
    pytest.importorskip("transformers", reason="live parity needs transformers")
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    parts = " ".join(TEXTS).split() + ("oh point five double seven triple hundred thousand million and a half cents "
                                       "€20 minus -5 +7 1960s 21st 007 ' , ½ ß 日本 हिन्दी percent per dollars").split()
    english, basic = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping), BasicTextNormalizer()
    ours, plain, rng = get_normalizer("whisper-english"), get_normalizer("basic"), random.Random(0)
    for _ in range(1000):
        text = " ".join(rng.choices(parts, k=rng.randint(1, 9)))
        assert ours(text) == english(text) and plain(text) == basic(text), text
