"""The train step that `fit` runs, and the evaluation step beside it.

Why not Keras' own step: its logged loss is the running mean of the epoch, where the history needs each step's own; on
a TPU it logs the first replica's loss only; a scalar loss trains with N times the gradient under N replicas; and
dropout draws the same mask on every replica, because the seed generators' states are mirrored. Here the loss is
checked to be one value per example, the logged loss is that of the global batch, and all randomness is a function of
(seed, generator, replica, step), so that a resumed run goes on with the masks of the uninterrupted one.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator  # keras.random draws from it where no seed is given

from tfhf.task import TaskError

# A step may draw this often from one generator before it would repeat the next step's draws.
DRAWS_PER_STEP = 65536


class Trainer(keras.Model):
    """Wraps a model for `fit`: same variables, this module's train step.

    Args:
        model: the built keras model; called with the inputs dict and `training`.
        loss: a `keras.losses.Loss` or a callable (targets, outputs) -> [batch].
        seed: the run's seed.
        num_replicas: of the strategy in whose scope the model was built.
        max_traces: how often the step may be traced, one per bucket; one more raises.
    """

    def __init__(self, model, loss, seed: int, num_replicas: int, max_traces: int):
        super().__init__(name="trainer")
        self.model = model
        self.loss_function = loss
        self.num_replicas = num_replicas
        self.max_traces = max_traces
        self._traced_graphs: list = []  # the graphs themselves: ids could be given out twice
        self._generators = seed_generators(model)
        self._generator_seeds = [
            int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) % 2**30
            for index in range(len(self._generators))
        ]
        self.built = True

    def call(self, inputs, training=False):
        return self.model(inputs, training=training)

    @property
    def trace_count(self) -> int:
        """How many different graphs the train step was traced into."""
        return len(self._traced_graphs)

    def train_step(self, data):
        """One update on (inputs, targets, sample_weight); returns {"loss": that of the global batch}.

        A loss with a method `measures(targets, outputs)` -> {name: scalar of the local batch} adds these, as means over
        the replicas.
        """
        inputs, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._count_trace(inputs)
        self._set_randomness()
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            losses = example_losses(self.loss_function, targets, outputs, sample_weight)
            loss = tf.reduce_mean(losses * tf.cast(sample_weight, tf.float32))
            if self.model.losses:
                loss += tf.add_n([tf.cast(extra, tf.float32) for extra in self.model.losses])
            # The optimizer sums over replicas; each has 1/N of the global batch.
            share = loss / self.num_replicas
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(share, variables), variables))
        logs = {"loss": share}
        if hasattr(self.loss_function, "measures"):
            measures = self.loss_function.measures(targets, outputs)
            logs |= {name: tf.cast(value, tf.float32) / self.num_replicas for name, value in measures.items()}
        if self.num_replicas > 1:
            logs = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, logs)
        return logs

    def evaluation_step(self, inputs, targets, weight):
        """(sum of loss * weight, sum of weight) of this replica's part of a batch, both float32 scalars."""
        outputs = self.model(inputs, training=False)
        losses = example_losses(self.loss_function, targets, outputs, weight)
        weight = tf.cast(weight, tf.float32)
        # A padding example may well have no finite loss (no targets at all); 0 * nan would spoil the sum.
        return tf.reduce_sum(tf.where(weight > 0, losses * weight, 0.0)), tf.reduce_sum(weight)

    def _count_trace(self, inputs) -> None:
        # Under a strategy each replica traces its own copy of the step into the one outer graph.
        graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None
        if graph is None or any(graph is seen for seen in self._traced_graphs):
            return
        self._traced_graphs.append(graph)
        if len(self._traced_graphs) > self.max_traces:
            shapes = tf.nest.map_structure(lambda tensor: str(tensor.shape), inputs)
            raise TaskError(
                f"the train step was compiled {len(self._traced_graphs)} times, expected at most {self.max_traces} "
                f"(one per bucket); some batch has another shape: {shapes}"
            )

    def _set_randomness(self) -> None:
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        step = tf.cast(self.optimizer.iterations.value, tf.int64)
        for generator, seed in zip(self._generators, self._generator_seeds):
            generator.state.assign(tf.stack([seed + replica * 2**31, step * DRAWS_PER_STEP]))


def seed_generators(model) -> list:
    """Every SeedGenerator the model can draw from, in a fixed order; the last one is Keras' global generator."""
    generators = []
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            if not any(generator is seen for seen in generators):
                generators.append(generator)
    return generators + [global_seed_generator()]


def example_losses(loss, targets, outputs, weight) -> tf.Tensor:
    """The loss of each example, float32 [batch].

    Raises:
        TaskError: the loss returned anything but one value per example; a scalar would train with N times the
            gradient under N replicas.
    """
    values = loss.call(targets, outputs) if isinstance(loss, keras.losses.Loss) else loss(targets, outputs)
    values = tf.convert_to_tensor(values)
    if values.shape.rank != 1 or not values.shape.is_compatible_with(weight.shape):
        name = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
        raise TaskError(
            f"loss {name!r} returned shape {values.shape}, expected one value per example, shape {weight.shape}"
        )
    return tf.cast(values, tf.float32)
