"""What a run will need, checked before its first step: a folder to write to, room on the disk, an evaluation split, and
what it must have in common with the steps that are done.

A run that learns of these at step 10,000 has lost the steps since its last checkpoint, and a TPU has waited meanwhile.
"""

from __future__ import annotations

import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfhf import checkpoints
from tfhf.config import ConfigError
from tfhf.data import storage
from tfhf.data.pipeline import check_split
from tfhf.data.shards import MANIFEST
from tfhf.run_config import RunConfig, moved_records, records_of
from tfhf.strategy import Runtime
from tfhf.task import Task
from tfhf.train_steps import Trainer


def check_evaluation(task: Task, config: RunConfig) -> None:
    """Raise unless the evaluation split can be evaluated, where the run will do so.

    Raises:
        ConfigError: there is no such split.
        RecordError: its records do not fit the task.
    """
    if not 0 < config.evaluate_every <= config.steps:
        return
    folder = storage.join(config.data.path, config.data.eval_split)
    if not storage.exists(storage.join(folder, MANIFEST)):
        splits = [name for name in storage.list_names(config.data.path)
                  if storage.exists(storage.join(config.data.path, name, MANIFEST))]
        raise ConfigError(
            f"evaluate_every: got {config.evaluate_every}, but {folder} holds no records; expected data.eval_split to "
            f"be one of the splits there ({', '.join(splits) or 'none'}), or evaluate_every=0"
        )
    check_split(task, config.data.path, config.data.eval_split, config.data.drop_longer)


def check_replicas(trainer: Trainer, config: RunConfig, runtime: Runtime, begun: dict, checkpoint: str) -> int | None:
    """Raise ConfigError unless the run may go on with this number of replicas; returns the other one that it was begun
    with, or None.

    The batches are the same on any number, and so are the gradients. Dropout is not: TensorFlow's replicas draw each
    their own. Nor are the statistics of a batch normalisation that goes over a replica's part of the batch.

    Args:
        begun: the data position of the checkpoint to go on from.
    """
    before = begun.get("replicas")
    if before in (None, runtime.num_replicas):   # None: an older checkpoint does not state it
        return None
    if config.any_replicas or keras.backend.backend() == "jax":   # JAX computes one program, however it is split
        return before
    layers = trainer.model._flatten_layers()
    own = [layer.name for layer in layers if _is_of_its_replica(layer)]
    if own:
        raise ConfigError(
            f"strategy: got {config.strategy}, which has {runtime.num_replicas} replicas, but {checkpoint} was trained "
            f"with {before}. Each replica draws random numbers, or takes statistics, of its own in {_some(own)}, so "
            f"the steps would not be those of the uninterrupted run. Expected {before} replicas, or any_replicas=true "
            "to go on all the same"
        )
    return before


def _is_of_its_replica(layer) -> bool:
    if layer._seed_generators:
        return True
    normalises = isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    return normalises and not layer.synchronized


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more layers" if len(names) > 3 else "")


def evaluation_fingerprints(config: RunConfig) -> list[str]:
    """The fingerprint of the records that the run is evaluated on, or [] where it is not."""
    if not 0 < config.evaluate_every <= config.steps:
        return []
    return records_of(config.data, config.data.eval_split, False)["fingerprints"]


def what_changed(old: RunConfig, config: RunConfig, begun: dict, runtime: Runtime, replicas: int | None) -> list[str]:
    """What a run that goes on has otherwise than before, and may have, a line each.

    Args:
        old: the config that it was begun with.
        begun: the data position of the checkpoint.
        replicas: how many there were, or None where there are as many.
    """
    lines = [moved_records(old, config)]
    if replicas is not None:
        lines.append(f"{runtime.num_replicas} replicas go on, before there were {replicas}")
    now = evaluation_fingerprints(config)
    if now and begun.get("evaluation") and begun["evaluation"] != now:
        lines.append(f"the split {config.data.eval_split!r} holds other records than before: eval_loss is of these "
                     "from here on")
    return [line for line in lines if line]


def check_room(trainer: Trainer, config: RunConfig, done: int) -> None:
    """Raise StorageError unless the disk has room for the checkpoints that the run will write after step `done`."""
    size = checkpoint_bytes(trainer)
    if storage.is_remote(config.output):
        _check_free(tempfile.gettempdir(), size, f"a checkpoint of {_amount(size)} is made there before it is uploaded")
        return
    existing, keep = len(checkpoints.list_checkpoints(config.output)), config.keep_checkpoints
    most = existing + saves_after(done, config)
    if keep:
        most = min(most, keep + config.keep_best + 1)   # the new one is written before an old one goes
    more = max(most - existing, 1)
    kept = "keep_checkpoints=0 keeps all" if not keep else (
        f"keep_checkpoints={keep}" + f", keep_best={config.keep_best}" * bool(config.keep_best)
        + ", and the one that is being written")
    # checkpoints/ itself may not be there yet, or may be a mount of its own.
    folder = storage.join(config.output, "checkpoints")
    storage.make_folder(folder)
    _check_free(folder, more * size, f"a checkpoint of this run takes {_amount(size)}, and {more} more will lie there "
                                     f"at once ({kept})")


def checkpoint_bytes(trainer: Trainer) -> int:
    """About how much a checkpoint takes: the variables of the model, of the optimizer, and their averages."""
    variables = [*checkpoints.saved_variables(trainer.model), *trainer.optimizer_state.variables]
    if trainer.averages is not None:
        variables += trainer.averages.variables
    return sum(int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in variables)


def saves_after(done: int, config: RunConfig) -> int:
    """How many checkpoints the steps after `done` will write: those of `checkpoint_every` and the last. Those that
    `keep_best` adds are counted as if every evaluation were the best so far."""

    def multiples(every):
        return set(range(done - done % every + every, config.steps + 1, every)) if every else set()

    steps = {config.steps} | multiples(config.checkpoint_every)
    return len(steps | multiples(config.evaluate_every) if config.keep_best else steps)


def _check_free(folder: str, needed: int, why: str) -> None:
    free = storage.free_bytes(folder)
    if free is not None and free < needed:
        raise storage.StorageError(
            f"{folder}: {_amount(free)} are free, expected {_amount(needed)}: {why}. Remove something, choose another "
            "folder, or keep fewer; then start the same command again"
        )


def _amount(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
