"""The train step on Keras' JAX backend: what train_steps.Trainer does, as one program over all devices.

There are no replicas here: the step sees the global batch, keras.distribution says which device holds which part of it
and of the weights, and the compiler puts the sums over devices in. So the loss is that of the global batch as it
stands, and a dropout mask is drawn over the whole of it: same loss, same update, other masks than under tf.distribute.
"""

from __future__ import annotations

import jax
import keras
import numpy as np
from keras import ops

from tfhf.task import TaskError
from tfhf.train_steps import DRAWS_PER_STEP, WeightAverages, generator_seeds


class JaxTrainer(keras.Model):
    """Wraps a model for `fit`; the arguments are those of `train_steps.Trainer`."""

    def __init__(self, model, loss, seed: int, num_replicas: int, max_traces: int, accumulate: int = 1,
                 ema_decay: float | None = None):
        super().__init__(name="trainer")
        del num_replicas   # one program over all of them
        self.model = model
        self.loss_function = loss
        self.max_traces = max_traces
        self.accumulate = accumulate
        self.trace_count = 0
        self.averages = None if ema_decay is None else WeightAverages(model, model, ema_decay)
        if self.averages is not None:   # noticed by Keras, so that they travel with the step's state
            self._average_variables = [average for _, average in self.averages.pairs]
        self._states = _GeneratorStates(model, seed)
        self.built = True

    def call(self, inputs, training=False):
        return self.model(inputs, training=training)

    @property
    def optimizer_state(self):
        """An object whose `variables` are what a checkpoint holds of the optimizer."""
        return self.optimizer

    def train_step(self, state, data):
        """(trainable, non-trainable, optimizer, metric values), (inputs, targets, weight) -> logs, the new state."""
        trainable, fixed, optimizer, metrics = state
        inputs, targets, weight = keras.utils.unpack_x_y_sample_weight(data)
        self._count_trace(inputs)
        weight = ops.cast(weight, "float32")
        batch = inputs, targets, weight / ops.sum(weight)
        step = optimizer[_place(self.optimizer.iterations, self.optimizer.variables)]

        def loss_of(trainable, fixed, part, number):
            inputs, targets, share = part
            fixed = self._states.set(fixed, self.non_trainable_variables, step * self.accumulate + number)
            outputs, fixed, extra = self.stateless_call(trainable, fixed, inputs, training=True, return_losses=True)
            losses = example_losses(self.loss_function, targets, outputs, share)
            loss = ops.sum(losses * share) + sum(ops.cast(x, "float32") for x in extra) / self.accumulate
            return loss, (list(fixed), self._measures(targets, outputs))

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        if self.accumulate == 1:
            (loss, (fixed, measures)), gradients = gradient(trainable, fixed, batch, 0)
        else:
            (loss, measures), gradients, fixed = self._scan(gradient, trainable, fixed, batch)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        fixed = self._move_averages(trainable, list(fixed), step + 1)
        means = {name: total / ops.maximum(count, 1e-30) for name, (total, count) in measures.items()}
        return {"loss": loss, **means}, (trainable, fixed, optimizer, metrics)

    def _scan(self, gradient, trainable, fixed, batch):
        """Sums over micro-batches, one after the other in one compiled loop."""
        size = batch[2].shape[0]
        if size % self.accumulate:
            raise TaskError(f"accumulate: got {self.accumulate}, which does not divide the batch of {size}")
        # Example i goes to micro-batch i % accumulate, so that each device keeps the examples that it holds.
        parts = jax.tree.map(
            lambda x: ops.moveaxis(ops.reshape(x, (size // self.accumulate, self.accumulate, *x.shape[1:])), 1, 0),
            batch,
        )

        def add(carry, part):
            fixed, sums = carry
            (loss, (fixed, measures)), gradients = gradient(trainable, fixed, part[0], part[1])
            return (fixed, jax.tree.map(ops.add, sums, ((loss, measures), gradients))), None

        first = jax.tree.map(lambda x: x[0], parts)
        (loss, (_, measures)), gradients = jax.eval_shape(gradient, trainable, fixed, first, 0)
        zeros = jax.tree.map(lambda x: ops.zeros(x.shape, x.dtype), ((loss, measures), gradients))
        numbers = ops.arange(self.accumulate, dtype="int32")
        (fixed, (sums, gradients)), _ = jax.lax.scan(add, (fixed, zeros), (parts, numbers))
        return sums, gradients, fixed

    def _move_averages(self, trainable, fixed, step):
        for variable, average in self.averages.pairs if self.averages is not None else ():
            place = _place(average, self.non_trainable_variables)
            if variable.trainable:
                weight = trainable[_place(variable, self.trainable_variables)]
            else:
                weight = fixed[_place(variable, self.non_trainable_variables)]
            fixed[place] = self.averages.moved(fixed[place], weight, step)
        return fixed

    def _measures(self, targets, outputs):
        if not hasattr(self.loss_function, "measures"):
            return {}
        measures = self.loss_function.measures(targets, outputs)
        pairs = {name: value if isinstance(value, tuple) else (value, 1.0) for name, value in measures.items()}
        return {name: tuple(ops.cast(number, "float32") for number in pair) for name, pair in pairs.items()}

    def evaluation_outputs(self, runtime):
        """inputs of any one size of batch -> what the model gives for them, by the weights as they stand."""
        del runtime

        def call(inputs):
            self.jax_state_sync()   # during fit the weights are with the step
            return self.model(jax.tree.map(np.asarray, inputs), training=False)

        return call

    def evaluation_sums(self, runtime):
        """A compiled function (inputs, targets, weight) -> (sum of loss * weight, sum of weight); with the averages,
        where they are kept."""
        del runtime
        averages = {} if self.averages is None else {id(v): average for v, average in self.averages.pairs}

        @jax.jit
        def sums(trainable, fixed, inputs, targets, weight):
            outputs, _ = self.stateless_call(trainable, fixed, inputs, training=False)
            losses = example_losses(self.loss_function, targets, outputs, weight)
            return ops.sum(ops.where(weight > 0, losses * weight, 0.0)), ops.sum(weight)

        def call(inputs, targets, weight):
            self.jax_state_sync()   # during fit the weights are with the step
            values = [[averages.get(id(variable), variable).value for variable in some]
                      for some in (self.trainable_variables, self.non_trainable_variables)]
            return sums(*values, *jax.tree.map(np.asarray, (inputs, targets, weight)))

        return call

    def _count_trace(self, inputs) -> None:
        self.trace_count += 1
        if self.trace_count > self.max_traces:
            shapes = jax.tree.map(lambda tensor: str(tensor.shape), inputs)
            raise TaskError(
                f"the train step was compiled {self.trace_count} times, expected at most {self.max_traces} "
                f"(one per bucket); some batch has another shape: {shapes}"
            )


class _GeneratorStates:
    """The random generators of a model, held outside of Keras' sight: a trainer that owned them, too, would hand their
    states to the step twice."""

    def __init__(self, model, seed):
        found = [generator for layer in model._flatten_layers() for generator in layer._seed_generators]
        self.generators = list(dict.fromkeys(found))
        self.seeds = generator_seeds(seed, len(self.generators))

    def set(self, values, variables, number):
        """`values` of `variables`, those of the generators replaced by their states for micro-batch `number`."""
        values, draws = list(values), ops.cast(number, "uint32") * DRAWS_PER_STEP
        for generator, seed in zip(self.generators, self.seeds):
            place = _place(generator.state, variables)
            values[place] = ops.cast(ops.stack([ops.cast(seed, "uint32"), draws]), values[place].dtype)
        return values


def _place(variable, variables):
    return next(place for place, one in enumerate(variables) if one is variable)


def example_losses(loss, targets, outputs, weight):
    """The loss of each example, float32 [batch]; TaskError for any other shape, as in train_steps."""
    values = loss.call(targets, outputs) if isinstance(loss, keras.losses.Loss) else loss(targets, outputs)
    if tuple(values.shape) != tuple(weight.shape):
        name = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
        raise TaskError(
            f"loss {name!r} returned shape {values.shape}, expected one value per example, shape {weight.shape}"
        )
    return ops.cast(values, "float32")
