"""The order of records: which records make up batch number `step`, as a function of (seed, epoch, step).

Only numpy and the lengths in the index are needed, so any host can compute any step without reading a record.
"""

import dataclasses
from fractions import Fraction

import numpy as np

from tfhf.data.schema import RecordError


@dataclasses.dataclass(frozen=True)
class Batch:
    """One global batch. bucket: the length its examples are padded to. real: False for padding examples."""

    numbers: np.ndarray   # int64 [batch], record numbers in the split
    bucket: int
    real: np.ndarray      # bool [batch]


@dataclasses.dataclass(frozen=True)
class PaddingStats:
    """How much of what the step computes on is padding, in the unit of the record type's length."""

    examples: int
    real: int
    padded: int

    @property
    def fraction(self):
        """Share of padding in all that is fed, 0 to 1."""
        return 1.0 - self.real / self.padded if self.padded else 0.0

    @classmethod
    def of(cls, lengths, buckets):
        """lengths int [n]; examples beyond the largest bucket are left out."""
        lengths = np.asarray(lengths, np.int64)
        lengths = lengths[lengths <= buckets[-1]]
        padded = np.asarray(buckets, np.int64)[np.searchsorted(buckets, lengths)]
        return cls(len(lengths), int(lengths.sum()), int(padded.sum()))

    @classmethod
    def mixed(cls, stats, shares):
        """Those of a mixture: as many examples as the stats have together, `shares` of them from each."""
        total = sum(one.examples for one in stats)
        weights = [share * total / max(one.examples, 1) for one, share in zip(stats, shares)]
        return cls(total, *(round(sum(w * getattr(one, what) for w, one in zip(weights, stats)))
                            for what in ("real", "padded")))


def check_buckets(buckets):
    """-> tuple of ints, ascending; ValueError otherwise."""
    buckets = tuple(int(bucket) for bucket in buckets)
    if not buckets or buckets[0] <= 0 or any(a >= b for a, b in zip(buckets, buckets[1:])):
        raise ValueError(f"buckets are {buckets}, expected ascending positive lengths")
    return buckets


def bucket_members(lengths, buckets, *, drop_longer, name_of):
    """-> list, per bucket, of the record numbers (int64) that it holds.

    A record longer than the last bucket is a RecordError that names it (name_of(number)), or, with drop_longer, it is
    left out, and a count is printed.
    """
    which = np.searchsorted(buckets, lengths)
    longer = np.flatnonzero(which == len(buckets))
    if len(longer) and not drop_longer:
        first = int(longer[0])
        raise RecordError(f"{name_of(first)}: length {int(lengths[first])}, expected at most {buckets[-1]}, the "
                          f"largest bucket ({len(longer)} of {len(lengths)} records are longer). Add a bucket, or "
                          "drop_longer=True")
    if len(longer):
        print(f"data: {len(longer)} of {len(lengths)} records are longer than {buckets[-1]}: left out", flush=True)
    if len(longer) == len(lengths):
        raise RecordError(f"no record is as short as the largest bucket, {buckets[-1]}")
    return [np.flatnonzero(which == bucket) for bucket in range(len(buckets))]


class TrainingPlan:
    """Endless training order.

    Each bucket is an endless stream: its records permuted anew for every epoch, one epoch after the other. Batch j of a
    bucket is the stream's positions j*B to (j+1)*B, so what does not fill a batch at the end of an epoch opens the next
    one: nothing is ever dropped, and after E epochs every record was seen E times, but for less than one batch per
    bucket. Epoch e consists of the batches that become full in it, in shuffled order. All counts are closed forms, so
    any step is reached without going through the steps before it.

    A mixture of sources fixes how many examples each gives: an epoch is as many examples as there are records, and of
    them source s gives its share w_s / sum(w), spread over the buckets as its records are. What it gives in one epoch
    is a run of its own endless stream, again its records permuted anew each time round; so a source's records are all
    seen before one is seen again. Counts are floors of exact ratios: every host has the same, at any step.

    Args:
      members: per bucket, the record numbers in it (int64, ascending).
      starts, weights: per source, its first record number and its weight.
    """

    def __init__(self, members, buckets, batch_size, seed, *, starts=(0,), weights=(1.0,)):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected 0 or more")
        shares = shares_of(weights)
        self._buckets = [b for m, b in zip(members, buckets) if len(m)]
        self._parts = [np.split(m, np.searchsorted(m, starts[1:])) for m in members if len(m)]
        counts = [sum(len(parts[source]) for parts in self._parts) for source in range(len(starts))]
        if 0 in counts:
            raise RecordError(f"source {counts.index(0)} of the mixture has no record that fits the buckets {buckets}")
        self._total = sum(counts)
        # Examples that a source gives to a bucket in one epoch.
        self._rates = [[share * Fraction(self._total * len(part), count)
                        for share, count, part in zip(shares, counts, parts)] for parts in self._parts]
        self._batch_size = int(batch_size)
        self._seed = int(seed)
        self._epoch = None
        self._permutations = {}

    def _examples_before(self, bucket, epoch):
        """Positions of the bucket's stream in epochs 0 to epoch-1."""
        return sum(epoch * rate.numerator // rate.denominator for rate in self._rates[bucket])

    def _epoch_at(self, bucket, position):
        """The epoch that a position of the bucket's stream lies in."""
        rates = self._rates[bucket]
        # sum(floor(e * rate)) is at most e * sum(rate), and less than that by less than the number of sources.
        whole = sum(rates)
        return _largest(position, lambda epoch: self._examples_before(bucket, epoch),
                        int(position / whole), int((position + len(rates)) / whole) + 1)

    def steps_before(self, epoch):
        """Number of steps in epochs 0 to epoch-1."""
        return sum(self._examples_before(bucket, epoch) // self._batch_size for bucket in range(len(self._rates)))

    def epoch_of(self, step):
        """The epoch that a step belongs to."""
        # As above; here each bucket also keeps back less than one batch.
        spare = len(self._rates) * (self._batch_size + len(self._rates[0]))
        low = step * self._batch_size // self._total
        return _largest(step, self.steps_before, low, (step * self._batch_size + spare) // self._total + 1)

    def batch(self, step):
        """Step number -> Batch."""
        epoch = self.epoch_of(step)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        bucket, number = self._order[step - self._first_step].tolist()
        position, numbers = number * self._batch_size, []
        while sum(map(len, numbers)) < self._batch_size:
            part = self._epoch_at(bucket, position)
            begin = position - self._examples_before(bucket, part)
            missing = self._batch_size - sum(map(len, numbers))
            numbers.append(self._permutation(bucket, part)[begin:begin + missing])
            position += len(numbers[-1])
        return Batch(np.concatenate(numbers), self._buckets[bucket], np.ones(self._batch_size, bool))

    def _begin_epoch(self, epoch):
        count = range(len(self._rates))
        first = [self._examples_before(bucket, epoch) // self._batch_size for bucket in count]
        last = [self._examples_before(bucket, epoch + 1) // self._batch_size for bucket in count]
        order = np.concatenate([np.stack([np.full(b - a, i), np.arange(a, b)], axis=1)
                                for i, (a, b) in enumerate(zip(first, last))])
        # The third number tells this draw from those of the buckets, which have 0, 1, 2 …
        self._order = np.random.default_rng([self._seed, epoch, 2**32]).permutation(order)
        self._epoch, self._first_step = epoch, sum(first)
        # A batch reaches back before its epoch by less than one batch.
        oldest = [self._epoch_at(bucket, first[bucket] * self._batch_size) for bucket in count]
        self._permutations = {key: value for key, value in self._permutations.items() if key[1] >= oldest[key[0]]}

    def _permutation(self, bucket, epoch):
        """The records of the bucket's stream in one epoch, in their order."""
        if (bucket, epoch) not in self._permutations:
            sources = range(len(self._rates[bucket]))
            pool = np.concatenate([self._source_run(bucket, source, epoch) for source in sources])
            draw = np.random.default_rng([self._seed, epoch, bucket])
            self._permutations[bucket, epoch] = draw.permutation(pool)
        return self._permutations[bucket, epoch]

    def _source_run(self, bucket, source, epoch):
        """What a source gives to a bucket in one epoch, in an order that does not matter: it is shuffled yet."""
        rate, records = self._rates[bucket][source], self._parts[bucket][source]
        begin, end = ((e * rate.numerator // rate.denominator for e in (epoch, epoch + 1)))
        size, runs = len(records), [records[:0]]
        for turn in range(begin // size, -(-end // size)) if size else ():
            low, high = max(begin - turn * size, 0), min(end - turn * size, size)
            if high - low < size:   # a part of one time round: which part, its permutation says
                draw = np.random.default_rng([self._seed, turn, bucket, source + 2])
                runs.append(draw.permutation(records)[low:high])
            else:
                runs.append(records)
        return np.concatenate(runs)


def shares_of(weights):
    """Weights of a mixture -> exact shares (Fractions) that sum to 1; ValueError unless all are positive and finite."""
    weights = [float(weight) for weight in weights]
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"the weights of the mixture are {weights}, expected positive numbers, one for each folder")
    exact = [Fraction(repr(weight)) for weight in weights]   # 0.1 is meant as a tenth
    return [weight / sum(exact) for weight in exact]


def _largest(value, count, low, high):
    """The largest n in [low, high] with count(n) <= value, for a count that never falls."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(middle) <= value else (low, middle - 1)
    return low


def evaluation_plan(members, lengths, buckets, batch_size):
    """-> list of Batch: every record exactly once, by length within its bucket, so that neighbours cost the same.

    The last batch of a bucket is filled with repeats of its first record, real False.
    """
    batches = []
    for numbers, bucket in zip(members, buckets):
        numbers = numbers[np.argsort(lengths[numbers], kind="stable")]
        for start in range(0, len(numbers), batch_size):
            part = numbers[start:start + batch_size]
            real = np.arange(batch_size) < len(part)
            filled = np.concatenate([part, np.full(batch_size - len(part), part[0])])
            batches.append(Batch(filled, bucket, real))
    return batches
