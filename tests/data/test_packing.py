"""Packing against brute force: nothing lost, rows never over-full, few of them, and the layout of a row."""

import itertools

import numpy as np
import pytest

from tfhf.data.packing import pack, row_layout
from tfhf.data.plan import TrainingPlan
from tfhf.data.schema import RecordError


def fewest_rows(lengths, row_length):
    """The least number of rows, by trying every placement of each length in turn."""
    best = len(lengths)

    def place(index, rooms):
        nonlocal best
        if len(rooms) >= best:
            return
        if index == len(lengths):
            best = len(rooms)
            return
        for row, room in enumerate(rooms):
            if room >= lengths[index] and room not in rooms[:row]:
                place(index + 1, rooms[:row] + [room - lengths[index]] + rooms[row + 1:])
        place(index + 1, rooms + [row_length - lengths[index]])

    place(0, [])
    return best


def plain_best_fit(lengths, row_length):
    """Best fit in descending length as one would write it down: of the rows with room, the fullest, the last filled."""
    rows, rooms, filled, clock = [], [], [], itertools.count()
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        fitting = [row for row, room in enumerate(rooms) if room >= lengths[number]]
        if not fitting:
            rows.append([])
            rooms.append(row_length)
            filled.append(0)
            fitting = [len(rows) - 1]
        row = min(fitting, key=lambda row: (rooms[row], -filled[row]))
        rows[row].append(number)
        rooms[row] -= lengths[number]
        filled[row] = next(clock)
    return rows


def test_rows_are_those_of_plain_best_fit_and_few():
    rng = np.random.default_rng(0)
    for _ in range(150):
        row_length = int(rng.integers(3, 20))
        lengths = rng.integers(1, row_length + 1, rng.integers(1, 10)).tolist()
        packing = pack(lengths, row_length)
        rows = [packing.row(row).tolist() for row in range(len(packing))]
        assert rows == plain_best_fit(lengths, row_length)
        assert sorted(sum(rows, [])) == list(range(len(lengths)))
        assert all(sum(lengths[number] for number in row) <= row_length for row in rows)
        assert len(rows) <= 11 / 9 * fewest_rows(lengths, row_length) + 6 / 9
        assert packing.waste == pytest.approx(1 - sum(lengths) / len(rows) / row_length)


def test_many_short_examples_waste_next_to_nothing():
    lengths = np.random.default_rng(1).geometric(1 / 120, 50_000).clip(1, 1024)
    packing = pack(lengths, 1024)
    padded_alone = 1 - lengths.mean() / 1024
    print(f"padding: {padded_alone:.1%} one example a row, {packing.waste:.3%} packed")
    assert packing.waste < 0.001 < padded_alone
    np.testing.assert_array_equal(packing.numbers, pack(lengths.tolist(), 1024).numbers)


def test_packed_rows_have_an_order_like_records():
    packing = pack(np.random.default_rng(2).integers(1, 30, 400), 64)
    plan = TrainingPlan([np.arange(len(packing))], (64,), batch_size=1, seed=0)
    for epoch in range(2):
        rows = [plan.batch(step).numbers[0] for step in range(epoch * len(packing), (epoch + 1) * len(packing))]
        assert sorted(np.concatenate([packing.row(row) for row in rows])) == list(range(400))


def test_layout_of_a_row_against_writing_it_out():
    rng = np.random.default_rng(3)
    for _ in range(50):
        lengths = rng.integers(1, 9, rng.integers(0, 6)).tolist()
        row_length = sum(lengths) + int(rng.integers(1, 4))
        segments = [n for n, length in enumerate(lengths, 1) for _ in range(length)]
        positions = [place for length in lengths for place in range(length)]
        padding = [0] * (row_length - len(segments))
        got = row_layout(lengths, row_length)
        assert [part.tolist() for part in got] == [segments + padding, positions + padding]
        assert got[0].dtype == got[1].dtype == np.int32


def test_what_does_not_fit_is_named():
    with pytest.raises(RecordError, match=r"record 2: length 9, expected 1 to 8.*\(1 of 3 records do not fit\)"):
        pack([3, 4, 9], 8, name_of=lambda number: f"record {number}")
    with pytest.raises(RecordError, match="^1: length 0"):
        pack([3, 0], 8)
    with pytest.raises(RecordError, match=r"lengths \[5, 4\] in a row of 8: 9 in all"):
        row_layout([5, 4], 8)
