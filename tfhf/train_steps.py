"""The train step that `fit` runs, and the evaluation step beside it.

Why not Keras' own step: its logged loss is the running mean of the epoch, where the history needs each step's own; on
a TPU it logs the first replica's loss only; a scalar loss trains with N times the gradient under N replicas; dropout
draws the same mask on every replica, because the seed generators' states are mirrored; and the optimizers' own
`gradient_accumulation_steps` and `use_ema` fail under a strategy (keras issue 20582). Here the loss is checked to be
one value per example, every example has its share of the global batch whatever replica and micro-batch it falls to,
and all randomness is a function of (seed, generator, replica, step, micro-batch), so that a resumed run goes on with
the masks of the uninterrupted one.
"""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator  # keras.random draws from it where no seed is given

from tfhf.checkpoints import saved_variables
from tfhf.strategy import sum_over_replicas
from tfhf.task import TaskError

# A micro-batch may draw this often from one generator before it would repeat the next one's draws.
DRAWS_PER_STEP = 65536


def generator_seeds(seed: int, count: int) -> list[int]:
    """A seed, below 2**30, for each of `count` random generators of a run."""
    return [int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) % 2**30 for index in range(count)]


class Trainer(keras.Model):
    """Wraps a model for `fit`: same variables, this module's train step.

    Args:
        model: the built keras model; called with the inputs dict and `training`.
        loss: a `keras.losses.Loss` or a callable (targets, outputs) -> [batch].
        seed: the run's seed.
        num_replicas: of the strategy in whose scope the model was built.
        max_traces: how often the step may be traced, one per bucket; one more raises.
        accumulate: micro-batches that a replica's part of the batch is split into, one after the other. Memory for
            activations shrinks by as much; the update is the same, but for what couples the examples of a batch
            (batch normalisation, a diversity loss): that sees a micro-batch.
        ema_decay: keep running means of the weights in `averages`, a `WeightAverages`; None: none.

    Create it in the strategy's scope.
    """

    def __init__(self, model, loss, seed: int, num_replicas: int, max_traces: int, accumulate: int = 1,
                 ema_decay: float | None = None):
        super().__init__(name="trainer")
        self.model = model
        self.loss_function = loss
        self.num_replicas = num_replicas
        self.max_traces = max_traces
        self.accumulate = accumulate
        self.averages = None if ema_decay is None else WeightAverages(model, self.averaged_model(), ema_decay)
        self._traced_graphs: list = []  # the graphs themselves: ids could be given out twice
        self._generators = seed_generators(model)
        self._generator_seeds = generator_seeds(seed, len(self._generators))
        states = {id(generator.state) for generator in self._generators}
        self._counters = [v for v in model.non_trainable_variables if "int" in v.dtype and id(v) not in states]
        self._statistics = moving_statistics(model)
        self.built = True

    def call(self, inputs, training=False):
        return self.model(inputs, training=training)

    def _maybe_symbolic_build(self, *_, **__):
        # Under a strategy `fit` would take a batch to build the model with, which fails among several processes
        # (a structure of batches cannot be reduced there); it is built.
        pass

    def averaged_model(self):
        """The part of the model whose weights `averages` follows: all of it."""
        return self.model

    @property
    def optimizer_state(self):
        """An object whose `variables` are what a checkpoint holds of the optimizer."""
        return self.optimizer

    @property
    def trace_count(self) -> int:
        """How many different graphs the train step was traced into."""
        return len(self._traced_graphs)

    def train_step(self, data):
        """One update on (inputs, targets, sample_weight); returns {"loss": that of the global batch}, which is
        sum(loss * weight) / sum(weight) over all replicas.

        A loss with a method `measures(targets, outputs)` -> {name: measure} adds these. A measure is a pair of scalars
        (sum, count), added up over micro-batches and replicas before the division (0 where nothing counts); or one
        scalar, whose mean over them is told.
        """
        batch = self.shared_batch(data)
        variables = self.model.trainable_variables

        def part_of_step(part, micro_batch):
            inputs, targets, share = part
            self.begin_micro_batch(micro_batch)
            with tf.GradientTape() as tape:
                outputs = self.model(inputs, training=True)
                losses = example_losses(self.loss_function, targets, outputs, share)
                loss = self.total_loss(losses, share, self.model)
            measures = measure_sums(self.loss_function, targets, outputs)
            return gradients_by_index(tape, loss, variables), {"loss": loss}, measures

        gradients, losses, measures = self.sum_over_micro_batches(part_of_step, batch)
        apply_by_index(self.optimizer, gradients, variables)
        self.end_step()
        return self.logs(losses, measures)

    def shared_batch(self, data) -> tuple:
        """(inputs, targets, sample_weight) of this replica -> (inputs, targets, share); counts the trace.

        share: float32 [batch], the example's share of the global batch, which sums to 1 over all replicas. The sum of
        weights is all-reduced, since neither a replica nor a host knows the weights of the others.
        """
        inputs, targets, weight = keras.utils.unpack_x_y_sample_weight(data)
        self._count_trace(inputs)
        if weight.shape[0] is not None and weight.shape[0] % self.accumulate:
            raise TaskError(
                f"accumulate: got {self.accumulate}, which does not divide the {weight.shape[0]} examples of a replica"
            )
        weight = tf.cast(weight, tf.float32)
        return inputs, targets, weight / self.sum_over_replicas(tf.reduce_sum(weight))

    def begin_micro_batch(self, micro_batch) -> None:
        """Set the random states of micro-batch number `micro_batch` of this step."""
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        number = tf.cast(self.optimizer.iterations.value, tf.int64) * self.accumulate + tf.cast(micro_batch, tf.int64)
        for generator, seed in zip(self._generators, self._generator_seeds):
            generator.state.assign(tf.stack([seed + replica * 2**31, number * DRAWS_PER_STEP]))

    def total_loss(self, losses, share, model):
        """What to differentiate on this replica, float32: its examples' losses, and its part of the model's own ones
        (regularisers, activities), so that the sum over micro-batches and replicas is the loss of the global batch."""
        loss = tf.reduce_sum(losses * share)
        if model.losses:
            extra = tf.add_n([tf.cast(extra, tf.float32) for extra in model.losses])
            loss += extra / (self.num_replicas * self.accumulate)
        return loss

    def sum_over_micro_batches(self, function, batch):
        """The sum of what `function(part, number)` returns, a structure of tensors, over the parts of a batch.

        One loop, whose body is traced and compiled once, however many micro-batches there are.
        """
        if self.accumulate == 1:
            return function(batch, tf.constant(0))
        parts = tf.nest.map_structure(self._split, batch)
        # A function of its own tells the structure of the sums, which the loop must know before it begins.
        body = tf.function(function, autograph=False).get_concrete_function(
            tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape[1:], tensor.dtype), parts),
            tf.TensorSpec([], tf.int32),
        )
        zeros = tf.nest.map_structure(lambda tensor: tf.zeros(tensor.shape, tensor.dtype), body.structured_outputs)

        starts = [tf.identity(counter.value) for counter in self._counters]

        def add(number, sums):
            for counter, start in zip(self._counters, starts):
                counter.assign(start)  # it counts steps, not micro-batches
            part = tf.nest.map_structure(lambda tensor: tensor[number], parts)
            return number + 1, tf.nest.map_structure(tf.add, sums, body(part, number))

        _, sums = tf.while_loop(
            lambda number, _: number < self.accumulate, add, (tf.constant(0), zeros),
            maximum_iterations=self.accumulate, parallel_iterations=1,
        )
        return sums

    def _split(self, tensor):
        """[batch, ...] -> [accumulate, batch / accumulate, ...]"""
        parts = tf.reshape(tensor, tf.concat([[self.accumulate, -1], tf.shape(tensor)[1:]], 0))
        size = None if tensor.shape[0] is None else tensor.shape[0] // self.accumulate
        return tf.ensure_shape(parts, [self.accumulate, size, *tensor.shape[1:]])

    def sum_over_replicas(self, tensors):
        """The sum of every tensor of a structure over all replicas, the same on each; no gradient goes through it."""
        if self.num_replicas == 1:
            return tensors
        return sum_over_replicas(tensors)

    def end_step(self) -> None:
        """What follows the update: every replica gets the mean of all moving statistics, and the averages move on."""
        if self.num_replicas > 1 and self._statistics:
            # Keras leaves each replica its own, and a checkpoint would hold those of the first.
            sums = self.sum_over_replicas([tf.convert_to_tensor(variable.value) for variable in self._statistics])
            for variable, total in zip(self._statistics, sums):
                variable.assign(total / self.num_replicas)
        if self.averages is not None:
            self.averages.update(self.optimizer.iterations.value)

    def logs(self, losses: dict, measures: dict) -> dict:
        """This replica's {name: its part of the loss} and {name: (sum, count)} -> {name: that of the global batch}."""
        losses, measures = self.sum_over_replicas((losses, measures))
        means = {name: tf.math.divide_no_nan(total, count) for name, (total, count) in measures.items()}
        logs = {**losses, **means}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras then takes the mean over replicas and over the first axis, which a scalar has not.
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def evaluation_outputs(self, runtime):
        """A compiled function: inputs of any one size of batch -> what the model gives for them, weights as in
        `evaluation_step`. Every replica does the same work."""
        strategy = runtime.strategy

        @tf.function(jit_compile=runtime.jit_compile, reduce_retracing=True)
        def outputs(inputs):
            if strategy is None:
                return self._evaluated(inputs)
            return strategy.run(self._evaluated, args=(inputs,))

        def first(inputs):
            found = outputs(inputs)
            if strategy is None:
                return found
            return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], found)

        return first

    def _evaluated(self, inputs):
        with self.averages.in_use() if self.averages is not None else contextlib.nullcontext():
            return self.model(inputs, training=False)

    def evaluation_step(self, inputs, targets, weight):
        """(sum of loss * weight, sum of weight) of this replica's part of a batch, both float32 scalars.

        The model has its averaged weights, if they are kept: what `evaluate` and `load_trained` will take.
        """
        outputs = self._evaluated(inputs)
        losses = example_losses(self.loss_function, targets, outputs, weight)
        weight = tf.cast(weight, tf.float32)
        # A padding example may well have no finite loss (no targets at all); 0 * nan would spoil the sum.
        return tf.reduce_sum(tf.where(weight > 0, losses * weight, 0.0)), tf.reduce_sum(weight)

    def evaluation_sums(self, runtime):
        """`evaluation_step` compiled, its results added up over replicas: (inputs, targets, weight) -> two scalars."""
        strategy = runtime.strategy

        @tf.function(jit_compile=runtime.jit_compile, reduce_retracing=True)
        def sums(inputs, targets, weight):
            if strategy is None:
                return self.evaluation_step(inputs, targets, weight)
            parts = strategy.run(self.evaluation_step, args=(inputs, targets, weight))
            return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts)

        return sums

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


class WeightAverages:
    """Running means of a model's weights (Polyak and Juditsky 1992), by the decay of "Rethinking the Inception
    Architecture" (section 8) with TensorFlow's warm-up: average += (1 - min(decay, (1 + t) / (10 + t))) * (weight -
    average) after update t = 1, 2, ... So the first updates are not outweighed by the random weights of the beginning.

    Averaged are the trainable variables and the moving statistics of batch normalisations; what is frozen, counters
    and random states have none.

    Args:
        model: the whole model.
        averaged: the part of it whose weights are averaged, or the model itself.
        decay: between 0 and 1.
    """

    def __init__(self, model, averaged, decay: float):
        self.decay = decay
        self.pairs = []
        for variable in [*averaged.trainable_variables, *moving_statistics(averaged)]:
            with contextlib.ExitStack() as scopes:
                *folders, name = variable.path.split("/")
                for folder in folders:
                    scopes.enter_context(keras.name_scope(folder))
                average = keras.Variable(variable.numpy(), dtype=variable.dtype, trainable=False, name=name)
            self.pairs.append((variable, average))
        averages = {id(variable): average for variable, average in self.pairs}
        # In the model's order, under its paths, and whole: a checkpoint's file of them is one of the model's weights.
        self.variables = [averages.get(id(variable), variable) for variable in saved_variables(model)]

    def update(self, step) -> None:
        """Follow the weights after update number `step`, a scalar tensor; the first is 1."""
        for variable, average in self.pairs:
            # Every replica moves its own copy, by the same amount: no replica waits for another.
            average.assign(self.moved(average.value, variable.value, step))

    def moved(self, average, weight, step):
        """The value of an average after update number `step`, which gave `weight`."""
        step = keras.ops.cast(step, "float32")
        rate = 1.0 - keras.ops.minimum(self.decay, (1.0 + step) / (10.0 + step))
        return average + keras.ops.cast(rate, average.dtype) * (weight - average)

    def in_use(self):
        """A context in which the model computes with the averages; nothing is assigned."""
        return keras.StatelessScope(self.pairs)


def seed_generators(model) -> list:
    """Every SeedGenerator the model can draw from, in a fixed order; the last one is Keras' global generator."""
    generators = []
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            if not any(generator is seen for seen in generators):
                generators.append(generator)
    return generators + [global_seed_generator()]


def moving_statistics(model) -> list:
    """The moving means and variances of the batch normalisations that are not frozen."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [v for layer in layers if layer.trainable for v in (layer.moving_mean, layer.moving_variance)]


def gradients_by_index(tape, loss, variables) -> dict:
    """{place in `variables`: its gradient, dense, float32}; a variable that the loss does not depend on has none."""
    found = {}
    for i, (variable, gradient) in enumerate(zip(variables, tape.gradient(loss, variables))):
        if gradient is not None:  # its shape may be unknown where the batch's is
            found[i] = tf.ensure_shape(tf.cast(tf.convert_to_tensor(gradient), tf.float32), variable.shape)
    return found


def apply_by_index(optimizer, gradients: dict, variables) -> None:
    """One update of the variables that have a gradient in `gradients`, {place in `variables`: gradient}."""
    optimizer.apply_gradients([(gradient, variables[i]) for i, gradient in gradients.items()])


def measure_sums(loss, targets, outputs) -> dict:
    """{name: (sum, count)}, float32 scalars, of the loss's `measures`, if it has any."""
    if not hasattr(loss, "measures"):
        return {}
    measures = loss.measures(targets, outputs)
    pairs = {name: value if isinstance(value, tuple) else (value, 1.0) for name, value in measures.items()}
    return {name: tuple(tf.cast(number, tf.float32) for number in pair) for name, pair in pairs.items()}


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
