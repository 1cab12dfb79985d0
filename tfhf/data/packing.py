"""Short examples packed into full rows, as a plan from the index's lengths alone: no record is read for it.

The rows are made once, by best fit in descending length, which needs at most 11/9 of the least possible number of rows
(plus one): of examples much shorter than a row hardly anything is wasted. The rows then take the place of records in
TrainingPlan, which shuffles them anew in every epoch, so packed data have an order that is a function of (seed, epoch,
step) too. Examples of one row must not see each other: `row_layout` gives the segments that attention is masked by, and
positions that begin anew in each.
"""

import dataclasses

import numpy as np

from tfhf.data.schema import RecordError


@dataclasses.dataclass(frozen=True)
class Packing:
    """Rows of records.

    Attributes: row_length, in the unit of the records' length; numbers int64 [records], row after row; starts int64
    [rows + 1], where each row begins in `numbers`; used: sum of all lengths.
    """

    row_length: int
    numbers: np.ndarray
    starts: np.ndarray
    used: int

    def __len__(self):
        return len(self.starts) - 1

    def row(self, number):
        """Row number -> its record numbers, int64 [n], the longest first."""
        return self.numbers[self.starts[number]:self.starts[number + 1]]

    @property
    def waste(self):
        """Share of padding in all rows, 0 to 1."""
        return 1.0 - self.used / (len(self) * self.row_length)


def pack(lengths, row_length, name_of=str):
    """Lengths int [n] -> Packing: every record in one row, none split, the lengths of a row at most row_length in sum.

    The same lengths give the same rows: ties go to the lower record number and to the row that was filled last.

    Raises:
      RecordError: a length that is not positive, or longer than a row, naming the record by name_of(number).
    """
    lengths = np.asarray(lengths, np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if len(wrong):
        raise RecordError(f"{name_of(int(wrong[0]))}: length {lengths[wrong[0]]}, expected 1 to {row_length}, the "
                          f"length of a row ({len(wrong)} of {len(lengths)} records do not fit). Cut them when writing")
    order = np.argsort(-lengths, kind="stable")
    rows = []
    with_room = [[] for _ in range(row_length + 1)]   # by the room that is left: the rows that have it
    occupied = 0                                      # bit r is set where with_room[r] is not empty
    for number, length in zip(order.tolist(), lengths[order].tolist()):
        roomy = occupied >> length
        if roomy:
            room = length + (roomy & -roomy).bit_length() - 1   # the least room that is enough
            row = with_room[room].pop()
            if not with_room[room]:
                occupied ^= 1 << room
            rows[row].append(number)
        else:
            room, row = row_length, len(rows)
            rows.append([number])
        room -= length
        if room:
            with_room[room].append(row)
            occupied |= 1 << room
    numbers = np.array([number for row in rows for number in row], np.int64)
    return Packing(int(row_length), numbers, np.cumsum([0] + [len(row) for row in rows]), int(lengths.sum()))


def row_layout(lengths, row_length):
    """Lengths int [n] of a row's examples -> (segment_ids, positions), both int32 [row_length].

    segment_ids: 1, 2, 3 … for the examples in turn, 0 for padding. positions: 0, 1, 2 … from each example's beginning;
    0 in the padding.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.sum() > row_length:
        raise RecordError(f"examples of lengths {lengths.tolist()} in a row of {row_length}: {lengths.sum()} in all")
    segment_ids, positions = np.zeros([2, row_length], np.int32)
    used = int(lengths.sum())
    segment_ids[:used] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions[:used] = np.arange(used) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return segment_ids, positions
