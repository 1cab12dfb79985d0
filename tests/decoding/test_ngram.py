"""ARPA models: what they say inside the graph against plain recursion, and every way in which a file can be broken."""

import gzip
import itertools
import math

import numpy as np
import pytest

from tests.decoding.arpa import estimate
from tests.decoding.test_ctc import _every_prefix, _logits, _search
from tfhf.decoding.ngram import NGramError, NGramModel, read_arpa

SYMBOLS = ["", "a", "b", " "]
SENTENCES = [line.split() for line in ("a b ab", "ab ab a", "b a", "a a b ab a", "ba b", "ab", "aab b a", "")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("arpa") / "three.arpa"
    path.write_text(estimate(SENTENCES, 3))
    return path


def _plain(arpa):
    """log10 p(word | words before), in plain recursion over the file's own numbers."""
    grams = [{tuple(arpa.words[i] for i in row): (p, b) for row, p, b in zip(*level)}
             for level in zip(arpa.grams, arpa.log10, arpa.backoff)]

    def score(words):
        words = words[-len(grams):]
        if len(words) == 1:
            return grams[0].get(words, grams[0][("<unk>",)])[0]
        if words in grams[len(words) - 1]:
            return grams[len(words) - 1][words][0]
        before = grams[len(words) - 2].get(words[:-1], (0, 0.0))[1]
        return before + score(words[1:])

    return score


def test_probabilities_are_those_of_plain_recursion(path):
    arpa, model = read_arpa(path), NGramModel.from_arpa(path, SYMBOLS)
    plain, index = _plain(arpa), {word: number for number, word in enumerate(arpa.words)}
    words = [word for word in arpa.words if word not in ("<s>", "</s>")]
    sentences = [(*words, "</s>") for words in itertools.product(words, repeat=4)]
    context = np.full(len(sentences), model.start, "int32")
    for place in range(5):
        said = np.array([index[sentence[place]] for sentence in sentences], "int32")
        scores, context = model.score(context, said)
        expected = [plain(("<s>", *sentence[:place + 1])) for sentence in sentences]
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_beam_search_with_a_model_equals_scoring_every_sentence(order, tmp_path):
    """All sentences of five frames, each with its exact probability and plain recursion's language model."""
    path, alpha, beta, offset = tmp_path / "lm.arpa", 0.7, 0.9, -3.0
    path.write_text(estimate(SENTENCES, order))
    model, plain = NGramModel.from_arpa(path, SYMBOLS), _plain(read_arpa(path))
    known = set(read_arpa(path).words)

    def total(prefix, recogniser):
        said, score = ("<s>",), recogniser
        for word in "".join(SYMBOLS[symbol] for symbol in prefix).split():
            said = (*said, word if word in known else "<unk>")
            score += alpha * math.log(10) * (plain(said) + (0.0 if word in known else offset)) + beta
        return score + alpha * math.log(10) * plain((*said, "</s>"))

    logits, lengths = _logits(11), [5, 3, 4]
    result = _search(logits, lengths, beam_width=400, blank_index=0, word_delimiter=3, language_model=model,
                     alpha=alpha, beta=beta, unk_score_offset=offset)
    for row, length in enumerate(lengths):
        expected = {prefix: total(prefix, score)
                    for prefix, score in _every_prefix(logits[row], length, 0, 3).items()}
        got = {tuple(ids[:n]): score
               for ids, n, score in zip(*(result[key][row] for key in ("ids", "lengths", "scores")))
               if np.isfinite(score)}
        assert set(got) == set(expected)
        for prefix in expected:
            assert got[prefix] == pytest.approx(expected[prefix], abs=1e-4), prefix
        best = tuple(result["ids"][row, 0, :result["lengths"][row, 0]])
        assert best == max(expected, key=expected.get)


def test_a_packed_file_is_the_same(path, tmp_path):
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(NGramModel.from_arpa(packed, SYMBOLS).table,
                                  NGramModel.from_arpa(path, SYMBOLS).table)
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(NGramError, match="expected a whole gzip file"):
        read_arpa(packed)


@pytest.mark.parametrize("change, message", [
    (lambda text: "", r"no line \\data\\"),
    (lambda text: text.split("ngram 2")[0], "ends in its header"),
    (lambda text: text.replace("ngram 2=", "ngram 3=", 1), r"line 3: 'ngram 3=\d+', expected `ngram 2=COUNT`"),
    (lambda text: text.replace("ngram 1=", "ngram 1=9", 1), r"expected 9\d 1-grams, this would be number"),
    (lambda text: text.replace("\\2-grams:", "\\4-grams:"), r"expected \\2-grams: after \d+ 1-grams"),
    (lambda text: text.replace("\ta b\t", "\ta x\t"), "the word 'x' is no unigram of this file"),
    (lambda text: "\n".join(line for line in text.split("\n") if "\ta b\t" not in line), r"expected \d+ 2-grams"),
    (lambda text: text.replace("\\1-grams:\n-", "\\1-grams:\nzero"), "could not convert"),
    (lambda text: text.replace("\\1-grams:\n-", "\\1-grams:\n"), "expected a log10 of at most 0"),
    (lambda text: text.replace("</s>", "<end>"), "no unigram </s>"),
    (lambda text: text[:len(text) // 2], "the file ends|expected"),
    (lambda text: text.replace("\\end\\", ""), r"ends without \\end\\"),
])
def test_a_broken_file_is_named_with_its_line(path, tmp_path, change, message):
    broken = tmp_path / "broken.arpa"
    broken.write_text(change(path.read_text()))
    with pytest.raises(NGramError, match=message) as caught:
        NGramModel.from_arpa(broken, SYMBOLS)
    assert str(broken) in str(caught.value)


def test_a_model_over_another_alphabet_is_refused(path):
    with pytest.raises(NGramError, match="cannot be spelled with the symbols A B"):
        NGramModel.from_arpa(path, ["", "A", "B", " "])


def test_a_model_without_unk_gives_unknown_words_what_kenlm_gives_them(tmp_path):
    lines = estimate(SENTENCES, 1).split("\n")
    count = next(int(line.split("=")[1]) for line in lines if line.startswith("ngram 1="))
    text = "\n".join(line for line in lines if "<unk>" not in line).replace(f"ngram 1={count}", f"ngram 1={count - 1}")
    (tmp_path / "lm.arpa").write_text(text)
    model = NGramModel.from_arpa(tmp_path / "lm.arpa", SYMBOLS)
    score, _ = model.score(np.array([model.start], "int32"), np.array([model.unknown], "int32"))
    assert float(score[0]) == -100.0
