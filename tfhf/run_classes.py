"""The names of a run's classes: in its folder, in its checkpoints, and in the records that it reads."""

from __future__ import annotations

import json
from typing import Sequence

from tfhf import checkpoints
from tfhf.data import storage
from tfhf.data.labels import check_records_classes, known_classes
from tfhf.data.shards import read_manifest
from tfhf.run_config import RunConfig
from tfhf.task import Task

LABELS = "labels.json"


def trained_classes(task: Task, records: dict) -> list:
    """The names by number of what is trained on: the task's, or else the records' (`records_of`); [] without names."""
    return list(known_classes(task)) or records["classes"]


def check_data_classes(task: Task, config: RunConfig, trained: Sequence[str]) -> None:
    """Raise RecordError unless what is trained on and what is evaluated name the task's classes, in its order.

    Args:
        trained: names that stand in for the task's where it knows none.
    """
    if not task.classes:
        return
    data = config.data
    folders = [storage.join(path, data.train_split) for path in data.mixture or (data.path,)]
    if config.evaluate_every:
        folders.append(storage.join(data.path, data.eval_split))
    for folder in folders:
        check_records_classes(task, read_manifest(folder), folder, trained)


def save_labels(task: Task, records: dict, folder: str) -> None:
    """Write FOLDER/labels.json: the names by number, as `task.classes_file` takes them; none where there are none."""
    names = trained_classes(task, records)
    if task.classes and names:
        text = json.dumps(names, ensure_ascii=False) + "\n"
        storage.write_bytes(storage.join(folder, LABELS), text.encode("utf-8"))


def read_classes(folder: str) -> list:
    """The names by number that a checkpoint was trained on; [] where it was saved without them."""
    return (checkpoints.read_state(folder)["data"] or {}).get("classes") or []


def checkpoint_classes(run_folder: str, step: int | None) -> list:
    """`read_classes` of a run's checkpoint of this step; [] for None, the untrained model."""
    return [] if step is None else read_classes(dict(checkpoints.list_checkpoints(run_folder))[step])
