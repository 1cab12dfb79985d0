"""AdamW, learning-rate schedules with a linear warm-up, decay masks, and freezing by name pattern."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal, Optional, Sequence

import keras
from keras import ops

from tfhf.config import Config, ConfigError

# Variables that are added to or multiply a whole channel are not weights to shrink: biases, and the scales and shifts
# of normalisations under the names that Keras and the ported models give them.
NO_DECAY_NAMES = r"(^|_)(bias|gamma|beta|scale|norm)$"
NO_DECAY_LAYERS = (keras.layers.LayerNormalization, keras.layers.BatchNormalization, keras.layers.GroupNormalization)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Config):
    """AdamW and its schedule.

    Attributes:
        learning_rate: the peak, reached after `warmup_steps`.
        schedule: after the warm-up: "constant"; "linear" or "cosine" down to `final_fraction` of the peak at
            `decay_steps`; or "inverse_sqrt", peak * sqrt(warmup_steps / step).
        decay_steps: the step at which linear and cosine end; None: the run's steps.
        decay_embeddings: whether weight decay applies to the tables of Embedding layers.
        clip_norm: the global norm that the gradient of the whole batch is clipped to; None: not clipped.
    """

    name: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-4
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "linear"
    warmup_steps: int = 0
    decay_steps: Optional[int] = None
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    decay_embeddings: bool = True
    clip_norm: Optional[float] = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        for name in ("learning_rate", "epsilon"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"optimizer.{name}: got {getattr(self, name)}, expected more than 0")
        for name in ("warmup_steps", "weight_decay", "final_fraction"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optimizer.{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimizer.{name}: got {getattr(self, name)}, expected 0 <= value < 1")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"optimizer.clip_norm: got {self.clip_norm}, expected more than 0, or none")
        if self.schedule == "inverse_sqrt" and self.warmup_steps < 1:
            raise ConfigError("optimizer.warmup_steps: got 0, expected at least 1 with schedule inverse_sqrt")

    @property
    def uses_decay_steps(self) -> bool:
        """Whether the learning rate depends on `decay_steps`."""
        return self.schedule in ("linear", "cosine")


@keras.saving.register_keras_serializable("tfhf")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate of update number `step` (0 is the first): linear warm-up, then the named curve.

    Update s of the warm-up has peak * (s + 1) / warmup_steps, so the first update already moves and the last one of the
    warm-up has the peak.
    """

    def __init__(self, peak, schedule="constant", warmup_steps=0, decay_steps=0, final_fraction=0.0):
        super().__init__()
        self.peak, self.schedule, self.warmup_steps = float(peak), schedule, int(warmup_steps)
        self.decay_steps, self.final_fraction = int(decay_steps), float(final_fraction)
        if schedule in ("linear", "cosine") and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"optimizer.decay_steps: got {self.decay_steps}, expected more than warmup_steps={self.warmup_steps}"
            )

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = (step + 1.0) / float(max(self.warmup_steps, 1))
        if self.schedule == "constant":
            after = ops.ones_like(step)
        elif self.schedule == "inverse_sqrt":
            after = ops.rsqrt(ops.maximum(step + 1.0, 1.0) / float(self.warmup_steps))
        else:
            progress = (step - self.warmup_steps) / float(self.decay_steps - self.warmup_steps)
            progress = ops.clip(progress, 0.0, 1.0)
            left = 1.0 - progress if self.schedule == "linear" else 0.5 * (1.0 + ops.cos(math.pi * progress))
            after = self.final_fraction + (1.0 - self.final_fraction) * left
        return self.peak * ops.where(step < self.warmup_steps, warmup, after)

    def get_config(self):
        return {
            "peak": self.peak,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "final_fraction": self.final_fraction,
        }


@keras.saving.register_keras_serializable("tfhf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW, which under a strategy clips the gradient of the global batch.

    Keras clips each replica's gradient before summing them: N replicas would take another step than one device. Here
    the sum comes first. Gradients of embeddings become dense before that, since the norm of an IndexedSlices counts a
    row that occurs twice as two rows.
    """

    def _clip_gradients(self, grads):
        if keras.backend.backend() != "tensorflow":
            return super()._clip_gradients(grads)
        import tensorflow as tf

        from tfhf.strategy import sum_over_replicas

        grads = [tf.convert_to_tensor(grad) for grad in grads]
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            grads = sum_over_replicas(grads)
        if self.global_clipnorm:
            grads, _ = tf.clip_by_global_norm(grads, self.global_clipnorm)
        return grads

    def _apply_weight_decay(self, variables):
        if self.weight_decay:   # without decay Keras reads and writes every weight all the same
            super()._apply_weight_decay(variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # _clip_gradients has summed them


def make_schedule(config: OptimizerConfig, total_steps: int) -> WarmupSchedule:
    """The schedule of `config` for a run of `total_steps` updates."""
    decay_steps = total_steps if config.decay_steps is None else config.decay_steps
    return WarmupSchedule(
        config.learning_rate, config.schedule, config.warmup_steps, decay_steps, config.final_fraction
    )


def make_optimizer(config: OptimizerConfig, model, total_steps: int) -> AdamW:
    """AdamW over the model's trainable variables, with its state created; call it inside the strategy's scope.

    Raises:
        ConfigError: the model has no trainable variable left.
    """
    variables = model.trainable_variables
    if not variables:
        raise ConfigError("freeze: every variable of the model is frozen; nothing is left to train")
    optimizer = AdamW(
        learning_rate=make_schedule(config, total_steps),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=config.clip_norm,
    )
    excluded = variables_without_decay(model, config.decay_embeddings)
    optimizer.exclude_from_weight_decay(var_list=excluded)
    optimizer.build(variables)
    return optimizer


def variables_without_decay(model, decay_embeddings: bool = True) -> list:
    """The trainable variables that weight decay leaves alone: biases, normalisations, embeddings if asked."""
    excluded = {}
    layers = NO_DECAY_LAYERS if decay_embeddings else NO_DECAY_LAYERS + (keras.layers.Embedding,)
    for layer in model._flatten_layers():
        if isinstance(layer, layers):
            excluded.update((id(variable), variable) for variable in layer.trainable_variables)
    for variable in model.trainable_variables:
        if re.search(NO_DECAY_NAMES, variable.name):
            excluded[id(variable)] = variable
    return list(excluded.values())


def freeze(model, patterns: Sequence[str]) -> list[str]:
    """Set every variable whose path matches one of the regular expressions to not trainable; returns their paths.

    A pattern is searched for in `variable.path`, for example "encoder/" or "embed_positions". A batch normalisation
    all of whose weights match is frozen as a layer, so that it keeps its statistics.

    Raises:
        ConfigError: a pattern that is no regular expression, or that matches no variable.
    """
    frozen = []
    for pattern in patterns:
        try:
            matching = [variable for variable in model.weights if re.search(pattern, variable.path)]
        except re.error as error:
            raise ConfigError(f"freeze: {pattern!r} is not a regular expression: {error}") from error
        if not matching:
            shown = ", ".join(variable.path for variable in model.weights[:5])
            raise ConfigError(f"freeze: {pattern!r} matches none of {len(model.weights)} variables ({shown}, ...)")
        for variable in matching:
            variable.trainable = False
            frozen.append(variable.path)
    for layer in model._flatten_layers(recursive=True, include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not all(variable.path in frozen for variable in layer.weights)
    return list(dict.fromkeys(frozen))
