"""Processes that are killed at random moments, and started again until they are done: nothing is lost, nothing doubled.

The quick form kills three times; the long one (make nightly) 50 times, and prints at what it caught the process.
"""

import json
import os
import random
import re
import signal
import time

import pytest

from tests import killed_run, toy_task
from tests.killed_run import BATCH, RECORDS, Life


def finish(life, expected=0):
    status, errors = life.end()
    assert status == expected, errors[-3000:]
    return errors


def last_step(run):
    steps = [int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_at_random(begin, draw, last, done, end, kills, caught):
    """Starts the process `kills` times and kills it, each time somewhere in its share of what is left to do."""
    for kill in range(kills):
        life, begun = begin(), done()
        share = max(1, (end - begun) // (kills - kill + 1))
        assert life.run_until(begun + draw.randint(1, share)), finish(life)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(life.pid, signal.SIGKILL)
        finish(life, -signal.SIGKILL)
        what = last()
        caught[what] = caught.get(what, 0) + 1


def check_training(tmp_path, kills, steps, seed, preempt=0):
    records = toy_task.write_records(tmp_path / "records")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = Life(killed_run.train, tmp_path / "whole.txt", records, whole, steps)
    draw, caught = random.Random(seed), {}

    def last():
        return "a save" if list((killed / "checkpoints").glob(".writing-*")) else "steps"

    def begin():
        return Life(killed_run.train, tmp_path / "killed.txt", records, killed, steps)

    kill_at_random(begin, draw, last, lambda: last_step(killed), steps, kills, caught)
    seconds = []
    for number in (signal.SIGTERM, signal.SIGINT)[:preempt]:
        life = begin()
        assert life.run_until(last_step(killed) + 2)
        os.kill(life.pid, number)
        asked = time.monotonic()
        errors = finish(life, 75)
        seconds.append(time.monotonic() - asked)
        line = errors.strip().splitlines()[-1]
        assert re.fullmatch(rf"stopped by {number.name} after step {last_step(killed)}, which is saved; .*", line)
        assert seconds[-1] < 20 and not list((killed / "checkpoints").glob(".writing-*"))
    assert "going on from step" in finish(begin())
    finish(straight)

    assert files_of(killed / "checkpoints" / f"step-{steps:08d}") == files_of(
        whole / "checkpoints" / f"step-{steps:08d}")
    histories = [(run / "history.jsonl").read_text().splitlines() for run in (killed, whole)]
    assert histories[0] == histories[1]
    seen = {}
    for line in map(json.loads, histories[0]):
        seen.setdefault(line["step"], []).extend(int(v) for k, v in line.items() if k.startswith("record_"))
    assert sorted(seen) == list(range(1, steps + 1)) and all(len(ids) == BATCH for ids in seen.values())
    epoch = RECORDS // BATCH
    for first in range(1, steps - epoch + 2, epoch):
        ids = [number for step in range(first, first + epoch) for number in seen[step]]
        assert sorted(ids) == list(range(RECORDS)), f"epoch from step {first}: a record twice or not at all"
    print(f"\ntraining, {steps} steps: {kills} kills {caught}; signals answered in "
          f"{', '.join(f'{s:.1f} s' for s in seconds) or 'none sent'}; weights, optimizer, history the same bytes")


def check_writing(tmp_path, kills, records, seed):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = Life(killed_run.write, tmp_path / "whole.txt", whole, records)
    draw, caught = random.Random(seed), {}
    folder = killed / "train"

    def last():
        return "a shard write" if list(folder.glob("*.partial")) else "no shard open"

    def done():
        kept = [path for path in folder.glob("*.index")]
        return 0 if not kept else records * len(kept) // shards

    finish(straight)
    shards = len(list((whole / "train").glob("*.index")))
    def begin():
        return Life(killed_run.write, tmp_path / "killed.txt", killed, records)

    kill_at_random(begin, draw, last, done, records, kills, caught)
    finish(begin())
    assert files_of(killed) == files_of(whole)
    print(f"\nwriting, {records} records in {shards} shards: {kills} kills {caught}; the same bytes")


def test_three_kills_and_a_preemption(tmp_path):
    check_training(tmp_path, kills=3, steps=60, seed=1, preempt=1)


def test_a_kill_while_records_are_written(tmp_path):
    check_writing(tmp_path, kills=1, records=500, seed=1)


@pytest.mark.nightly
def test_fifty_kills(tmp_path):
    check_training(tmp_path, kills=50, steps=1500, seed=2, preempt=2)


@pytest.mark.nightly
def test_twenty_kills_of_a_writer(tmp_path):
    check_writing(tmp_path, kills=20, records=5000, seed=3)
