"""The order of records: which records make up batch number `step`, as a function of (seed, epoch, step).

Only numpy and the lengths in the index are needed, so any host can compute any step without reading a record.
"""

import dataclasses

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
    """

    def __init__(self, members, buckets, batch_size, seed):
        self._members = [m for m in members if len(m)]
        self._buckets = [b for m, b in zip(members, buckets) if len(m)]
        self._sizes = np.array([len(m) for m in self._members], np.int64)
        self._batch_size = int(batch_size)
        self._seed = int(seed)
        self._epoch = None
        self._permutations = {}
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected 0 or more")

    def steps_before(self, epoch):
        """Number of steps in epochs 0 to epoch-1."""
        return int(np.sum(epoch * self._sizes // self._batch_size))

    def epoch_of(self, step):
        """The epoch that a step belongs to."""
        # sum(floor(e*n/B)) lies between e*N/B - buckets and e*N/B, which brackets the answer tightly.
        total = int(self._sizes.sum())
        low = step * self._batch_size // total
        high = (step + len(self._sizes) + 1) * self._batch_size // total + 1
        while low < high:   # the largest epoch with steps_before(epoch) <= step
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.steps_before(middle) <= step else (low, middle - 1)
        return low

    def batch(self, step):
        """Step number -> Batch."""
        epoch = self.epoch_of(step)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        bucket, number = self._order[step - self.steps_before(epoch)]
        size = self._sizes[bucket]
        positions = np.arange(number * self._batch_size, (number + 1) * self._batch_size)
        numbers = np.empty(self._batch_size, np.int64)
        for part in range(positions[0] // size, positions[-1] // size + 1):
            inside = positions // size == part
            numbers[inside] = self._permutation(int(bucket), int(part))[positions[inside] % size]
        return Batch(numbers, self._buckets[bucket], np.ones(self._batch_size, bool))

    def _begin_epoch(self, epoch):
        first = epoch * self._sizes // self._batch_size
        last = (epoch + 1) * self._sizes // self._batch_size
        order = np.concatenate([np.stack([np.full(b - a, i), np.arange(a, b)], axis=1)
                                for i, (a, b) in enumerate(zip(first, last))])
        # The third number tells this draw from those of the buckets, which have 0, 1, 2 …
        self._order = np.random.default_rng([self._seed, epoch, 2**32]).permutation(order)
        self._epoch = epoch
        # A batch reaches back before its epoch by less than one batch.
        oldest = {i: a * self._batch_size // self._sizes[i] for i, a in enumerate(first)}
        self._permutations = {key: value for key, value in self._permutations.items() if key[1] >= oldest[key[0]]}

    def _permutation(self, bucket, epoch):
        if (bucket, epoch) not in self._permutations:
            draw = np.random.default_rng([self._seed, epoch, bucket])
            self._permutations[bucket, epoch] = draw.permutation(self._members[bucket])
        return self._permutations[bucket, epoch]


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
