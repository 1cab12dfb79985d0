"""How often the right class was named: accuracy, and which class was taken for which."""

from tfhf.metrics.heat_map import heat_map


class Accuracy:
    """Share of the examples whose prediction is the reference."""

    name = "accuracy"

    def __init__(self):
        self._correct = self._examples = 0

    def update(self, reference, prediction):
        """Adds one example; both are the class's name."""
        self._correct += reference == prediction
        self._examples += 1

    def result(self):
        """{accuracy, correct, examples}; the accuracy of no example is NaN."""
        return {"accuracy": _ratio(self._correct, self._examples), "correct": self._correct,
                "examples": self._examples}


class Ranked(str):
    """A prediction with its runners-up: the name of the best class, whose `numbers` are the classes best first."""

    def __new__(cls, name, numbers):
        self = super().__new__(cls, name)
        self.numbers = tuple(int(number) for number in numbers)
        return self


class TopAccuracy:
    """Share of the examples whose class is among the best k that were named.

    Args:
        ranks: the values of k.
    """

    name = "top_accuracy"

    def __init__(self, ranks=(1, 5)):
        self._found, self._examples = dict.fromkeys(ranks, 0), 0

    def update(self, reference, prediction):
        """Adds one example: the class's number, and a `Ranked` of as many numbers as the largest rank, or more.

        Raises:
            ValueError: fewer numbers.
        """
        if len(prediction.numbers) < max(self._found):
            raise ValueError(f"top_accuracy: the prediction ranks {len(prediction.numbers)} classes, expected at least "
                             f"{max(self._found)}")
        for rank in self._found:
            self._found[rank] += int(reference) in prediction.numbers[:rank]
        self._examples += 1

    def result(self):
        """{top_1, top_5: shares, by rank; examples}; a share of no example is NaN."""
        return {**{f"top_{rank}": _ratio(found, self._examples) for rank, found in self._found.items()},
                "examples": self._examples}


class ConfusionMatrix:
    """How often each class was taken for each, and the figures of the single classes.

    Args:
        classes: their names, in the order of rows and columns.
    """

    name = "confusion_matrix"

    def __init__(self, classes):
        self.classes = tuple(classes)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: got {self.classes}, expected one name or more, none of them twice")
        self._index = {name: number for number, name in enumerate(self.classes)}
        self.counts = [[0] * len(self.classes) for _ in self.classes]

    def update(self, reference, prediction):
        """Adds one example; both are the class's name.

        Raises:
            ValueError: one of them is no class.
        """
        for what, name in (("reference", reference), ("prediction", prediction)):
            if name not in self._index:
                raise ValueError(f"confusion_matrix: the {what} {name!r} is no class, expected one of {self.classes}")
        self.counts[self._index[reference]][self._index[prediction]] += 1

    def result(self):
        """{confusion_matrix: [reference][prediction] counts, macro_f1, and for each class that was seen or named:
        recall_NAME (its examples that were found), precision_NAME (what was called it and was it), f1_NAME}.

        F1 = 2 right / (its examples + what was called it); macro_f1 is the mean over the same classes.
        A share of nothing is NaN.
        """
        result, f1 = {"confusion_matrix": [list(row) for row in self.counts]}, []
        for name, number in self._index.items():
            right, examples = self.counts[number][number], sum(self.counts[number])
            called = sum(row[number] for row in self.counts)
            if examples + called:
                result[f"recall_{name}"], result[f"precision_{name}"] = _ratio(right, examples), _ratio(right, called)
                f1.append(2 * right / (examples + called))
                result[f"f1_{name}"] = f1[-1]
        result["macro_f1"] = _ratio(sum(f1), len(f1))
        return result

    def picture(self):
        """uint8 [height, width, 3]: a row for each reference, a column for each prediction, darker for a larger share
        of the row, with the counts."""
        shares = [[_ratio(count, sum(row), 0.0) for count in row] for row in self.counts]
        return heat_map(shares, self.counts, self.classes, "row: reference  column: prediction")


class ByNumber:
    """Another metric of this file for records that hold a class's number: the reference becomes its name.

    Args:
        metric: `Accuracy` or `ConfusionMatrix`.
        classes: the names by number.
    """

    def __init__(self, metric, classes):
        self._metric, self._classes = metric, tuple(classes)

    def __getattr__(self, name):   # name, result and, where there is one, picture
        return getattr(self._metric, name)

    def update(self, reference, prediction):
        """Adds one example; the reference is the class's number, the prediction its name."""
        self._metric.update(self._classes[int(reference)], prediction)


def _ratio(part, whole, otherwise=float("nan")):
    return part / whole if whole else otherwise
