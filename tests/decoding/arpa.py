"""A small back-off model from sentences, written as ARPA: absolute discounting, every order from 1 to `order`."""

import collections
import math


def estimate(sentences, order, discount=0.5):
    """sentences: lists of words -> the text of an ARPA file with <s>, </s> and <unk>."""
    counts = [collections.Counter() for _ in range(order)]
    for words in sentences:
        words = ("<s>", *words, "</s>")
        for size in range(1, order + 1):
            for begin in range(len(words) - size + 1):
                counts[size - 1][words[begin:begin + size]] += 1
    del counts[0]["<s>",]   # nothing predicts a sentence's begin
    total = sum(counts[0].values())
    known = {gram: (count - discount) / total for gram, count in counts[0].items()}
    known[("<unk>",)] = 1.0 - sum(known.values())
    levels, weights = [known], {}
    for size in range(2, order + 1):
        context_counts = collections.Counter()
        for gram, count in counts[size - 1].items():
            context_counts[gram[:-1]] += count
        level = {gram: (count - discount) / context_counts[gram[:-1]] for gram, count in counts[size - 1].items()}
        free, taken = collections.Counter(), collections.Counter()
        for gram, probability in level.items():
            free[gram[:-1]] += probability
            taken[gram[:-1]] += probability_of(levels, weights, gram[1:])
        for context in free:
            weights[context] = max(1.0 - free[context], 1e-9) / max(1.0 - taken[context], 1e-9)
        levels.append(level)
    levels[0][("<s>",)] = 1e-99
    lines = ["\\data\\", *(f"ngram {size}={len(level)}" for size, level in enumerate(levels, 1)), ""]
    for size, level in enumerate(levels, 1):
        lines.append(f"\\{size}-grams:")
        for gram, probability in sorted(level.items()):
            backoff = "" if size == order or gram[-1] == "</s>" else f"\t{math.log10(weights.get(gram, 1.0)):.6f}"
            lines.append(f"{math.log10(probability):.6f}\t{' '.join(gram)}{backoff}")
        lines.append("")
    return "\n".join([*lines, "\\end\\", ""])


def probability_of(levels, weights, gram):
    """Probability of the last word after the others, backing off in plain recursion; words must be unigrams."""
    if len(gram) <= len(levels) and gram in levels[len(gram) - 1]:
        return levels[len(gram) - 1][gram]
    return weights.get(gram[:-1], 1.0) * probability_of(levels, weights, gram[1:])
