"""What self-supervised pretraining learns, over a whole split: masked frames told rightly, and code words in use."""

import math


class CodebookUse:
    """Contrastive accuracy and codebook perplexity, every masked frame counted once.

    A prediction is a dict of `correct` (int) and `codes` (one list of code words per masked frame, one word per
    group); the reference is not looked at.
    """

    name = "codebook"

    def __init__(self):
        self._counts, self._correct, self._masked = {}, 0, 0

    def update(self, reference, prediction):
        """Adds one clip."""
        for frame in prediction["codes"]:
            for group_and_word in enumerate(frame):
                self._counts[group_and_word] = self._counts.get(group_and_word, 0) + 1
        self._correct += prediction["correct"]
        self._masked += len(prediction["codes"])

    def result(self):
        """{contrastive_accuracy, code_perplexity (between groups and groups x words), masked_frames}; NaN without any
        masked frame."""
        if not self._masked:
            return {"contrastive_accuracy": float("nan"), "code_perplexity": float("nan"), "masked_frames": 0}
        entropies = {}
        for (group, _), count in self._counts.items():
            share = count / self._masked
            entropies[group] = entropies.get(group, 0.0) - share * math.log(share)
        return {"contrastive_accuracy": self._correct / self._masked,
                "code_perplexity": sum(map(math.exp, entropies.values())), "masked_frames": self._masked}
