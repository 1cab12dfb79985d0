"""N-gram language models as tensors, so that a beam search asks them inside the graph.

An ARPA file becomes an automaton. A context is the longest end of what was written that the model knows, one int32; a
word leads from it to the next. The pairs (context, word) stand in a table with open addressing, compared in full, so
that no two n-grams are ever taken for one another. Probabilities are those of KenLM.
"""

import gzip
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import ops

from tfhf.decoding.words import WordTrie, alphabet

UNKNOWN_LOG10 = -100.0   # of <unk> where the file has none, as in KenLM
_MAX_WINDOW = 16         # slots that one look-up reads at most


class NGramError(ValueError):
    """A language model that is broken, or that the alphabet cannot spell; the message names file and line."""


@dataclass(frozen=True)
class Arpa:
    """What an ARPA file says.

    Attributes:
        words: the unigrams in the file's order; an n-gram names them by their place here.
        grams: for each order n from 1: int32 [count, n].
        log10: for each order: float32 [count], log10 of the probability of the last word after the others.
        backoff: for each order: float32 [count], log10; 0 where the file has none.
    """

    path: str
    words: tuple
    grams: tuple
    log10: tuple
    backoff: tuple


def read_arpa(path):
    """`Arpa` of a file, plain or gzip.

    Raises:
        NGramError: a header without counts, a count that is not kept, a section that is missing or out of order, a
            number that is none, a probability above 1, a word that no unigram has, a missing <s> or </s>.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            return _read(str(path), enumerate(stream, 1))
    except (EOFError, gzip.BadGzipFile) as error:
        raise NGramError(f"{path}: {error}, expected a whole gzip file") from error


def _read(path, lines):
    counts = _header(path, lines)
    grams, log10, backoff, index = [], [], [], {}
    for order, count in enumerate(counts, 1):
        rows = list(itertools.islice(lines, count))
        ids = np.zeros((count, order), "int32")
        scores = np.zeros((2, count), "float32")
        for row, (number, line) in enumerate(rows):
            parts = line.split()
            where = f"{path}, line {number}"
            if not order < len(parts) <= order + 2:
                raise NGramError(f"{where}: {_shown(line)}, expected {count} {order}-grams, this would be number "
                                 f"{row + 1}: log10, {order} words, and a back-off if any")
            try:
                scores[:len(parts) - order, row] = float(parts[0]), *map(float, parts[order + 1:])
            except ValueError as error:
                raise NGramError(f"{where}: {_shown(line)}: {error}, expected a log10 before and behind "
                                 f"{order} words") from error
            if not scores[0, row] <= 0 or np.isnan(scores[1, row]):
                raise NGramError(f"{where}: {_shown(line)}, expected a log10 of at most 0 and a back-off")
            if order == 1:
                if parts[1] in index:
                    raise NGramError(f"{where}: {_shown(parts[1])} for the second time, expected each unigram once")
                index[parts[1]] = row
            try:
                ids[row] = [index[word] for word in parts[1:order + 1]]
            except KeyError as error:
                raise NGramError(f"{where}: the word {_shown(error.args[0])} is no unigram of this file") from error
        if len(rows) < count:
            raise NGramError(f"{path}: the file ends after {len(rows)} {order}-grams, expected {count}")
        _expect(path, lines, b"\\end\\" if order == len(counts) else b"\\%d-grams:" % (order + 1),
                f"after {count} {order}-grams, as many as the header says")
        grams.append(ids)
        log10.append(scores[0])
        backoff.append(scores[1])
    for marker in (b"<s>", b"</s>"):
        if marker not in index:
            raise NGramError(f"{path}: no unigram {marker.decode()}, expected the marks of a sentence's begin and end")
    try:
        words = tuple(word.decode("utf-8") for word in index)
    except UnicodeDecodeError as error:
        raise NGramError(f"{path}: {_shown(error.object)} is not UTF-8") from error
    return Arpa(path, words, tuple(grams), tuple(log10), tuple(backoff))


def _header(path, lines):
    """-> counts of each order; the lines are then those behind `\\1-grams:`."""
    for _, line in lines:
        if line.strip() == b"\\data\\":
            break
    else:
        raise NGramError(f"{path}: no line \\data\\, expected an ARPA file")
    counts = []
    for number, line in lines:
        line = line.strip()
        if line == b"\\1-grams:" and counts:
            return counts
        order, equals, count = line.removeprefix(b"ngram ").partition(b"=")
        if line and (not line.startswith(b"ngram ") or not equals or not count.strip().isdigit()
                     or order.strip() != b"%d" % (len(counts) + 1)):
            raise NGramError(f"{path}, line {number}: {_shown(line)}, expected `ngram {len(counts) + 1}=COUNT`"
                             + (" or `\\1-grams:`" if counts else ""))
        if line:
            counts.append(int(count))
    raise NGramError(f"{path}: the file ends in its header, expected \\1-grams:")


def _expect(path, lines, wanted, where):
    for number, line in lines:
        if line.strip() == wanted:
            return
        if line.strip():
            raise NGramError(f"{path}, line {number}: {_shown(line)}, expected {wanted.decode()} {where}")
    raise NGramError(f"{path}: the file ends without {wanted.decode()}, expected it {where}")


def _shown(data):
    return repr(data.strip()[:60].decode("utf-8", "backslashreplace"))


def _slot(context, word, size):
    """Where the search for a pair begins; the same in NumPy and in the graph, int32 that overflow as they do in C."""
    mixed = context * -1640531535 + word * -2048144789
    return (mixed // 65536 + mixed) % size


class NGramModel:
    """A word model over the symbols of a recogniser.

    Args:
        arpa: `Arpa`.
        symbols: as in `WordTrie`.

    Attributes:
        order: 1 for unigrams, 2 for bigrams ...
        trie: `WordTrie` of the unigrams.
        table: int32 [slots, 3]: context, word, n-gram, sorted by the slot where the search for each begins.
        window: slots that hold every n-gram whose search begins at the first of them.
        log10, backoff, suffix, following: [n-grams]: probability, back-off weight, the context one shorter, and the
            context after it. One more, the last, is the empty context.

    The arrays are constants of the graph; assign `keras.Variable`s of the same values to have them stand beside it.

    Raises:
        NGramError: an n-gram without the n-gram that it goes on from, or for the second time; an alphabet that cannot
            spell half of the words.
    """

    def __init__(self, arpa, symbols):
        self.order = len(arpa.grams)
        index = {word: place for place, word in enumerate(arpa.words)}
        unknown = next((index[name] for name in ("<unk>", "<UNK>") if name in index), None)
        if unknown is None:
            unknown = len(arpa.words)
            arpa = Arpa(arpa.path, (*arpa.words, "<unk>"),
                        (np.concatenate([arpa.grams[0], [[unknown]]]).astype("int32"), *arpa.grams[1:]),
                        (np.append(arpa.log10[0], np.float32(UNKNOWN_LOG10)), *arpa.log10[1:]),
                        (np.append(arpa.backoff[0], np.float32(0.0)), *arpa.backoff[1:]))
        self.unknown, self.end = unknown, index["</s>"]
        spelled = [word if word not in ("<s>", "</s>", "<unk>", "<UNK>") else "" for word in arpa.words]
        self.trie = WordTrie(spelled, symbols)
        self.unspelled = [word for word in self.trie.unspelled if word]
        total = sum(map(bool, spelled))
        if 2 * len(self.unspelled) > total:
            raise NGramError(f"{arpa.path}: {len(self.unspelled)} of {total} words, such as {self.unspelled[:5]}, "
                             f"cannot be spelled with the symbols {alphabet(symbols)}; expected a model over this "
                             "alphabet (the same case, no marks that it lacks)")
        self._pack(arpa, index["<s>"])

    @classmethod
    def from_arpa(cls, path, symbols):
        """The model of an ARPA file, plain or gzip. Raises NGramError, see `read_arpa` and the class."""
        return cls(read_arpa(path), symbols)

    def _pack(self, arpa, begin):
        vocabulary, first = len(arpa.words), np.cumsum([0, *map(len, arpa.grams)])
        empty = int(first[-1])
        keys = {}   # order -> pairs (context, word) as sorted int64, and which n-gram each is

        def find(rows):
            """n-grams int32 [count, n] -> their numbers, -1 for those that are not there."""
            found = rows[:, 0].astype("int64")
            for column in range(1, rows.shape[1]):
                pairs, numbers = keys[column + 1]
                wanted = np.where(found < 0, -1, found * vocabulary + rows[:, column])
                place = np.minimum(np.searchsorted(pairs, wanted), max(len(pairs) - 1, 0))
                found = np.where(pairs[place] == wanted, numbers[place], -1) if len(pairs) else np.full(len(rows), -1)
            return found

        suffix, following, entries = [np.full(len(arpa.words), empty)], [np.arange(len(arpa.words))], []
        for order in range(2, self.order + 1):
            rows = arpa.grams[order - 1]
            context, numbers = find(rows[:, :-1]), first[order - 1] + np.arange(len(rows))
            if (context < 0).any():
                lost = " ".join(arpa.words[word] for word in rows[np.argmax(context < 0)])
                raise NGramError(f"{arpa.path}: the {order}-gram {lost!r} has no {order - 1}-gram to go on from")
            pairs = context * vocabulary + rows[:, -1]
            by_pair = np.argsort(pairs, kind="stable")
            keys[order] = pairs[by_pair], numbers[by_pair]
            twice = np.flatnonzero(np.diff(keys[order][0]) == 0)
            if len(twice):
                lost = " ".join(arpa.words[word] for word in rows[by_pair[twice[0]]])
                raise NGramError(f"{arpa.path}: the {order}-gram {lost!r} is there twice")
            shorter = np.full(len(rows), empty)
            for length in range(1, order):   # the longest end that is there wins
                end = find(rows[:, order - length:])
                shorter = np.where(end >= 0, end, shorter)
            suffix.append(shorter)
            following.append(numbers)
            entries.append(np.stack([context, rows[:, -1], numbers], axis=1))
        following[-1] = suffix[-1]   # the longest n-grams are no contexts, their ends are
        self.log10 = np.concatenate([*arpa.log10, [0.0]]).astype("float32")
        self.backoff = np.concatenate([*arpa.backoff, [0.0]]).astype("float32")
        self.suffix = np.concatenate([*suffix, [empty]]).astype("int32")
        self.following = np.concatenate([*following, [empty]]).astype("int32")
        self.start = begin if self.order > 1 else empty
        self._hash(np.concatenate([np.zeros((0, 3)), *entries]).astype("int32"))

    def _hash(self, entries):
        """Open addressing, each pair as near as can be to where its search begins; larger until that is near enough."""
        size = 2 << max(len(entries) - 1, 1).bit_length()
        while True:
            slots = _slot(entries[:, 0], entries[:, 1], size)
            by_slot = np.argsort(slots, kind="stable")
            slots, steps = slots[by_slot], np.arange(len(entries))
            places = np.maximum.accumulate(slots - steps) + steps
            self.window = int((places - slots).max(initial=0)) + 1
            if self.window <= _MAX_WINDOW:
                break
            size *= 2
        self.size = size
        self.table = np.full((size + self.window, 3), -1, "int32")
        self.table[places] = entries[by_slot]

    def score(self, context, word):
        """Log10 of the words' probabilities (KenLM's BaseScore), and the contexts after them.

        Args:
            context: int32 of any shape.
            word: int32 of the same shape, places in the unigrams.

        Returns:
            float32 and int32 of that shape.
        """
        weight = ops.zeros_like(context, dtype="float32")
        found = ops.full_like(context, -1)
        for _ in range(self.order - 1):
            slots = ops.expand_dims(_slot(context, word, self.size), -1) + ops.arange(self.window, dtype="int32")
            rows = ops.take(self.table, slots, axis=0)
            same = ops.logical_and(ops.equal(rows[..., 0], context[..., None]),
                                   ops.equal(rows[..., 1], word[..., None]))
            here = ops.max(ops.where(same, rows[..., 2], -1), axis=-1)
            found = ops.where(found < 0, here, found)
            weight = weight + ops.where(found < 0, ops.take(self.backoff, context), 0.0)
            context = ops.take(self.suffix, context)
        found = ops.where(found < 0, word, found)   # the first n-grams are the unigrams
        return ops.take(self.log10, found) + weight, ops.take(self.following, found)
