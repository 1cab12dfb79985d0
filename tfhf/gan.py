"""The adversarial train step: a generator and a discriminator, on the mechanisms of train_steps.py.

One step (Goodfellow et al. 2014, algorithm 1, with one discriminator update): the discriminator's update on the real
targets and the generator's fakes, then the generator's update against the new discriminator. Each has an optimizer of
its own and sees its own gradients alone. Examples count by their share of the global batch, micro-batches are summed,
randomness is that of (seed, generator, replica, step, micro-batch): an update is the same however the batch is split.
A network's own state (moving statistics, counters) moves in its own update alone: the other's leaves it as it was.
"""

from __future__ import annotations

import types

import keras
import tensorflow as tf

from tfhf.models.pretrained import ExportableModel
from tfhf.train_steps import (
    Trainer,
    apply_by_index,
    example_losses,
    gradients_by_index,
    measure_sums,
)


class AdversarialLoss:
    """What the two networks are trained on. A task whose `loss()` is one is trained by `GanTrainer`.

    Each method returns one value per example, float [batch]. `targets` and `fakes` are what `preprocess` and the
    generator give; `real_outputs` and `fake_outputs` what the discriminator gives for them, for example logits
    [batch, 1], or a list of feature maps of which the last are the logits.
    """

    def __call__(self, targets, fakes):
        """How far the fakes are from the targets, without the discriminator: the loss that evaluation tells."""
        raise NotImplementedError(f"{type(self).__name__}: __call__() is not defined")

    def generator(self, targets, fakes, real_outputs, fake_outputs):
        """What the generator makes small."""
        raise NotImplementedError(f"{type(self).__name__}: generator() is not defined")

    def discriminator(self, real_outputs, fake_outputs):
        """What the discriminator makes small."""
        raise NotImplementedError(f"{type(self).__name__}: discriminator() is not defined")


_PARTS = ("generator", "discriminator")


@keras.saving.register_keras_serializable("tfhf")
class AdversarialPair(ExportableModel):
    """A generator and a discriminator, both built: what `build_model` returns for a task with an `AdversarialLoss`.

    Called with the inputs dict it is the generator. The discriminator is called with targets, and with fakes.
    """

    def __init__(self, generator, discriminator, **kwargs):
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.built = True

    def call(self, inputs, training=False):
        return self.generator(inputs, training=training)

    def get_config(self):
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        return {**parts, "name": self.name, "dtype": self.dtype_policy}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
                 for name in _PARTS}
        return cls(**{**config, **parts})


class GanTrainer(Trainer):
    """`Trainer` for an `AdversarialPair`. The compiled optimizer is the generator's.

    The running means of weights (`ema_decay`) are those of the generator.

    Args:
        model: the `AdversarialPair`.
        loss: the `AdversarialLoss`.
        discriminator_optimizer: built over `model.discriminator`'s trainable variables.
        options: those of `Trainer`.
    """

    def __init__(self, model, loss, *args, discriminator_optimizer, **options):
        super().__init__(model, loss, *args, **options)
        self.discriminator_optimizer = discriminator_optimizer

    def averaged_model(self):
        """The generator."""
        return self.model.generator

    @property
    def optimizer_state(self):
        """Both optimizers' `variables`, the generator's first."""
        return types.SimpleNamespace(variables=self.optimizer.variables + self.discriminator_optimizer.variables)

    def train_step(self, data):
        """One update of each network; returns {"loss": the generator's, "discriminator_loss"}, of the global batch.

        `measures(targets, fakes)` of the loss are logged as in `Trainer.train_step`.
        """
        batch = self.shared_batch(data)
        generator, discriminator = self.model.generator, self.model.discriminator

        def discriminator_part(part, micro_batch):
            inputs, targets, share = part
            self.begin_micro_batch(micro_batch)
            with keras.StatelessScope():  # the same draws as in the generator's part, so the same fakes
                fakes = generator(inputs, training=True)
            with tf.GradientTape() as tape:
                real_outputs, fake_outputs = discriminator(targets, training=True), discriminator(fakes, training=True)
                losses = example_losses(self.loss_function.discriminator, real_outputs, fake_outputs, share)
                loss = self.total_loss(losses, share, discriminator)
            return gradients_by_index(tape, loss, discriminator.trainable_variables), {"discriminator_loss": loss}

        def generator_part(part, micro_batch):
            inputs, targets, share = part
            self.begin_micro_batch(micro_batch)
            with tf.GradientTape() as tape:
                fakes = generator(inputs, training=True)
                with keras.StatelessScope():
                    outputs = discriminator(targets, training=True), discriminator(fakes, training=True)

                def generator_loss(targets, fakes):
                    return self.loss_function.generator(targets, fakes, *outputs)

                losses = example_losses(generator_loss, targets, fakes, share)
                loss = self.total_loss(losses, share, generator)
            measures = measure_sums(self.loss_function, targets, fakes)
            return gradients_by_index(tape, loss, generator.trainable_variables), {"loss": loss}, measures

        gradients, discriminator_losses = self.sum_over_micro_batches(discriminator_part, batch)
        apply_by_index(self.discriminator_optimizer, gradients, discriminator.trainable_variables)
        gradients, losses, measures = self.sum_over_micro_batches(generator_part, batch)
        apply_by_index(self.optimizer, gradients, generator.trainable_variables)
        self.end_step()
        return self.logs({**losses, **discriminator_losses}, measures)
