"""The config of a whole run, and what a resumed run may change of it."""

from __future__ import annotations

import dataclasses

from tfhf.config import Config, ConfigError, changed_keys
from tfhf.data import storage
from tfhf.optimizers import OptimizerConfig
from tfhf.strategy import strategy_kind


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """Where the records lie: PATH/SPLIT.

    Attributes:
        drop_longer: leave out records longer than the task's largest bucket, with a printed count; otherwise an error.
    """

    path: str
    train_split: str = "train"
    eval_split: str = "validation"
    drop_longer: bool = False


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """A whole run; `task` holds the task's own config.

    Attributes:
        output: the run's folder, local or gs://.
        strategy: "none", "cpu:N" (virtual replicas), "gpu" or "tpu[:name]".
        precision: "float32" or "mixed_bfloat16".
        batch_size, eval_batch_size: examples over all replicas.
        steps: optimizer updates in the whole run.
        log_every, checkpoint_every, evaluate_every: in steps. A run always logs and saves at its end; 0 means at no
            other time.
        keep_checkpoints: how many of the newest to leave; 0: all.
        steps_per_execution: steps that one call of the device runs; more than 1 is for TPUs.
        jit_compile: whether XLA compiles the train step; None: yes, but not under virtual replicas, where it cannot. On
            a CPU without replicas the plain graph can be quicker, and it compiles in half the time.
        freeze: regular expressions over variable paths; what matches is not trained.
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
    steps_per_execution: int = 1
    freeze: tuple[str, ...] = ()
    jit_compile: bool | None = None

    def __post_init__(self):
        for name in ("batch_size", "eval_batch_size", "steps", "steps_per_execution"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        for name in ("seed", "log_every", "checkpoint_every", "evaluate_every", "keep_checkpoints"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("steps", "log_every", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) % self.steps_per_execution:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)}, expected a multiple of "
                    f"steps_per_execution={self.steps_per_execution}"
                )


# What a resumed run may change: nothing here touches a weight. The strategy is compared by kind (a TPU's name may
# change), the steps through the schedule they stretch.
FREE_ON_RESUME = (
    "output",
    "strategy",
    "steps",
    "log_every",
    "checkpoint_every",
    "evaluate_every",
    "keep_checkpoints",
    "eval_batch_size",
    "steps_per_execution",
)


def check_same_run(config: RunConfig) -> None:
    """Raise ConfigError, naming the changed keys, unless `config` continues the run that lies in `config.output`."""
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


def _comparable(config: RunConfig) -> dict:
    values = {key: value for key, value in config.to_dict().items() if key not in FREE_ON_RESUME}
    values["strategy"] = strategy_kind(config.strategy)
    decay_steps = config.steps if config.optimizer.decay_steps is None else config.optimizer.decay_steps
    values["optimizer"]["decay_steps"] = decay_steps if config.optimizer.uses_decay_steps else None
    return values
