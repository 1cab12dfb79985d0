"""The config of a whole run, and what a resumed run may change of it."""

from __future__ import annotations

import dataclasses

from tfhf.config import Config, ConfigError, changed_keys
from tfhf.data import storage
from tfhf.data.labels import manifest_classes
from tfhf.data.shards import read_manifest
from tfhf.optimizers import OptimizerConfig
from tfhf.strategy import strategy_kind


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """Where the records lie: PATH/SPLIT.

    Attributes:
        drop_longer: leave out records longer than the task's largest bucket, with a printed count; otherwise an error.
        mixture, mixture_weights: folders to train on instead of `path`, and how much each counts: of all training
            examples FOLDER/train_split gives its weight over the sum of weights. Evaluation goes by `path`.
    """

    path: str
    train_split: str = "train"
    eval_split: str = "validation"
    drop_longer: bool = False
    mixture: tuple[str, ...] = ()
    mixture_weights: tuple[float, ...] = ()

    @property
    def training_path(self) -> str | list[tuple[str, float]]:
        """What `training_batches` reads: the path, or the mixture as (path, weight) pairs.

        Raises:
            ConfigError: not one positive weight for each folder, or a folder twice.
        """
        if len(self.mixture) != len(self.mixture_weights) or not all(weight > 0 for weight in self.mixture_weights):
            raise ConfigError(
                f"data.mixture_weights: got {self.mixture_weights}, expected a positive weight for each folder of "
                f"data.mixture={self.mixture}"
            )
        if len(set(self.mixture)) < len(self.mixture):
            raise ConfigError(f"data.mixture: got {self.mixture}, expected each folder once")
        return list(zip(self.mixture, self.mixture_weights)) if self.mixture else self.path


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """A whole run; `task` holds the task's own config.

    Attributes:
        output: the run's folder, local or gs://.
        strategy: "none", "cpu:N" (virtual replicas), "gpu", "tpu[:name]" or "workers" (one process of TF_CONFIG's).
        precision: "float32" or "mixed_bfloat16".
        batch_size, eval_batch_size: examples over all replicas.
        steps: optimizer updates in the whole run.
        log_every, checkpoint_every, evaluate_every: in steps. A run always logs and saves at its end; 0 means at no
            other time.
        keep_checkpoints: how many of the newest to leave; 0: all.
        keep_best: how many to leave besides of those with the least eval_loss. An evaluation that makes it into the
            best is followed by a checkpoint; 0: it is not.
        steps_per_execution: steps that one call of the device runs; more than 1 is for TPUs.
        jit_compile: whether XLA compiles the train step; None: yes, but not under virtual replicas, where it cannot. On
            a CPU without replicas the plain graph can be quicker, and it compiles in half the time.
        freeze: regular expressions over variable paths; what matches is not trained.
        accumulate: micro-batches that a replica's part of a batch is split into, one after the other; the update is
            that of the whole batch, the memory for activations that of one micro-batch.
        ema_decay: keep running means of the weights, for example 0.9999, and evaluate with them; None: none.
        shard_weights: on the JAX backend, whether each device keeps a part only of the weights and of the optimizer's
            state (ZeRO).
        any_replicas: go on with another number of replicas than the run was begun with, although dropout, or a batch
            normalisation of each replica's own, then gives other steps than those of the uninterrupted run.
        input_servers: HOST:PORT of machines that prepare the batches (`tfhf data serve`), each as many parts of each;
            none: this process prepares them (tfhf/input_service.py).
    """

    output: str
    data: DataConfig
    task: Config
    optimizer: OptimizerConfig = OptimizerConfig()
    strategy: str = "none"
    precision: str = "float32"
    batch_size: int = 8
    eval_batch_size: int = 8
    steps: int = 1000
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    evaluate_every: int = 0
    keep_checkpoints: int = 3
    keep_best: int = 0
    steps_per_execution: int = 1
    freeze: tuple[str, ...] = ()
    jit_compile: bool | None = None
    accumulate: int = 1
    ema_decay: float | None = None
    shard_weights: bool = False
    any_replicas: bool = False
    input_servers: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("batch_size", "eval_batch_size", "steps", "steps_per_execution", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        for name in ("seed", "log_every", "checkpoint_every", "evaluate_every", "keep_checkpoints", "keep_best"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay: got {self.ema_decay}, expected 0 < value < 1, or none")
        if self.keep_best and not self.evaluate_every:
            raise ConfigError(f"keep_best: got {self.keep_best} with evaluate_every=0, expected evaluate_every of 1 or "
                              "more: the best is the one with the least eval_loss")
        for name in ("steps", "log_every", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) % self.steps_per_execution:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)}, expected a multiple of "
                    f"steps_per_execution={self.steps_per_execution}"
                )


# What a resumed run may change: nothing here touches a weight. The strategy is compared by kind (a TPU's name may
# change), the steps through the schedule they stretch, the folders of the records by what lies in them.
FREE_ON_RESUME = (
    "output",
    "strategy",
    "steps",
    "log_every",
    "checkpoint_every",
    "evaluate_every",
    "keep_checkpoints",
    "keep_best",
    "eval_batch_size",
    "steps_per_execution",
    "shard_weights",
    "any_replicas",
    "input_servers",
)


def check_same_run(config: RunConfig) -> RunConfig:
    """The config that the run in `config.output` was begun with. ConfigError, naming the changed keys, unless `config`
    continues it; the folders of the records may be others, see `check_same_records`."""
    path = storage.join(config.output, "config.json")
    if not storage.exists(path):
        raise ConfigError(
            f"{path}: missing, but the folder holds checkpoints; expected the config that they were made with"
        )
    old = RunConfig.load(path, task=type(config.task))
    changed = changed_keys(_comparable(old), _comparable(config))
    if changed:
        raise ConfigError(
            f"{config.output} was begun with another config: {'; '.join(changed)}. Use the same, or another output. "
            "(optimizer.decay_steps is the run's steps where it is none)"
        )
    return old


def training_records(data: DataConfig) -> dict:
    """What a run trains on; see `records_of`."""
    return records_of(data, data.train_split, True)


def records_of(data: DataConfig, split: str, training: bool) -> dict:
    """{"split", "count": records in all, "fingerprints": of the manifest of each folder, "classes": their names, if the
    records have names}; of the mixture if training"""
    folders = [storage.join(path, split) for path in (data.mixture if training else ()) or (data.path,)]
    manifests = [read_manifest(folder) for folder in folders]
    return {"split": split, "count": sum(manifest["count"] for manifest in manifests),
            "fingerprints": [manifest["fingerprint"] for manifest in manifests],
            "classes": list(next(filter(None, map(manifest_classes, manifests)), ()))}


def check_same_records(records: dict, begun: dict | None, checkpoint: str) -> None:
    """Raise ConfigError unless `records` (see `training_records`) are those of a checkpoint's data position."""
    known = begun or {}
    if not isinstance(known.get("fingerprints"), list) or not isinstance(known.get("count"), int):
        raise ConfigError(f"{checkpoint} does not state the records that it was trained on; expected a checkpoint that "
                          "`tfhf train` wrote")
    if records["fingerprints"] != known["fingerprints"]:
        now, then = ([str(one)[:12] for one in each["fingerprints"]] for each in (records, known))
        places = [number for number, (a, b) in enumerate(zip(now, then), 1) if a != b]
        which = f" (the folders number {', '.join(map(str, places))} differ)" if len(now) == len(then) > 1 else ""
        raise ConfigError(
            f"the split {records['split']!r} now holds {records['count']} records with the fingerprints {now}, but "
            f"{checkpoint} was trained on {known['count']} with {then}{which}; expected the same records, in this "
            "folder or in another (data.path), or another output: the order goes by their numbers"
        )


def moved_records(old: RunConfig, config: RunConfig) -> str:
    """A line that says where the records of a run have been and where they are now; "" where they did not move."""

    def folders(data):
        return ", ".join(data.mixture or (data.path,))

    before, now = folders(old.data), folders(config.data)
    return "" if before == now else f"the records are now in {now}, before in {before}; they are the same"


def _comparable(config: RunConfig) -> dict:
    values = {key: value for key, value in config.to_dict().items() if key not in FREE_ON_RESUME}
    values["strategy"] = strategy_kind(config.strategy)
    values["data"] = {key: value for key, value in values["data"].items() if key not in ("path", "mixture")}
    decay_steps = config.steps if config.optimizer.decay_steps is None else config.optimizer.decay_steps
    values["optimizer"]["decay_steps"] = decay_steps if config.optimizer.uses_decay_steps else None
    return values
