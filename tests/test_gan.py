"""The adversarial step against one by hand, its micro-batches, what each network sees, and a toy run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from safetensors.numpy import load_file

from tests import image_toy_task
from tests.image_toy_task import PaintTask, PatternLoss
from tfhf import run
from tfhf.gan import AdversarialLoss, AdversarialPair, GanTrainer
from tfhf.task import TaskError

RATES = 0.1, 0.3  # of the generator and of the discriminator


def make_trainer(loss=None, accumulate=1, **options):
    """Two small networks of fixed weights, with normalisations, under plain SGD."""
    keras.utils.set_random_seed(1)
    noise, image = keras.Input((5,), name="noise"), keras.Input((4,), name="image")
    states = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(6)(noise))
    generator = keras.Model({"noise": noise}, keras.layers.Dense(4)(states), name="generator")
    states = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(6, activation="tanh")(image))
    discriminator = keras.Model(image, keras.layers.Dense(1)(states), name="discriminator")
    optimizers = [keras.optimizers.SGD(rate) for rate in RATES]
    optimizers[1].build(discriminator.trainable_variables)
    trainer = GanTrainer(AdversarialPair(generator, discriminator), loss or VectorLoss(), seed=0, num_replicas=1,
                         max_traces=1, accumulate=accumulate, discriminator_optimizer=optimizers[1], **options)
    trainer.compile(optimizer=optimizers[0])
    optimizers[0].build(generator.trainable_variables)
    return trainer


class VectorLoss(PatternLoss):
    def __call__(self, targets, fakes):
        return ops.mean(ops.square(targets - fakes), axis=1)


def make_batch(count=8):
    random = np.random.default_rng(0)
    noise, targets = (random.normal(size=(count, size)).astype("float32") for size in (5, 4))
    return {"noise": noise}, targets, random.uniform(0.5, 3, count).astype("float32")


def values_of(variables):
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_is_the_discriminators_update_and_then_the_generators(jit_compile):
    trainer, by_hand, (inputs, targets, weight) = make_trainer(), make_trainer(), make_batch()
    generator, discriminator, loss = by_hand.model.generator, by_hand.model.discriminator, VectorLoss()
    share = weight / weight.sum()
    fakes = generator(inputs, training=True)
    with tf.GradientTape() as tape:
        real_outputs, fake_outputs = discriminator(targets, training=True), discriminator(fakes, training=True)
        second = tf.reduce_sum(loss.discriminator(real_outputs, fake_outputs) * share)
    statistics = values_of(discriminator.non_trainable_variables)
    for variable, gradient in zip(discriminator.trainable_variables, tape.gradient(
            second, [v.value for v in discriminator.trainable_variables])):
        variable.assign(variable - RATES[1] * gradient)
    before = values_of(generator.non_trainable_variables)
    with tf.GradientTape() as tape:
        fakes = generator(inputs, training=True)
        real_outputs, fake_outputs = discriminator(targets, training=True), discriminator(fakes, training=True)
        first = tf.reduce_sum(loss.generator(targets, fakes, real_outputs, fake_outputs) * share)
    for variable, gradient in zip(generator.trainable_variables, tape.gradient(
            first, [v.value for v in generator.trainable_variables])):
        variable.assign(variable - RATES[0] * gradient)
    logs = tf.function(trainer.train_step, jit_compile=jit_compile)((inputs, targets, weight))
    assert float(logs["loss"]) == pytest.approx(float(first), rel=1e-5)
    assert float(logs["discriminator_loss"]) == pytest.approx(float(second), rel=1e-5)
    assert float(logs["closeness"]) == pytest.approx(float(np.mean(np.exp(-loss(targets, fakes)))), rel=1e-5)
    for ours, theirs in zip(trainer.model.trainable_variables, by_hand.model.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6, err_msg=ours.path)
    # Statistics move once a step: the discriminator's in its own update, the generator's in its own.
    for ours, theirs in zip(values_of(trainer.model.discriminator.non_trainable_variables), statistics, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(values_of(trainer.model.generator.non_trainable_variables), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class OneSided(VectorLoss):
    """One of the two networks has a loss of zero."""

    def __init__(self, silent):
        self.silent = silent

    def generator(self, *arguments):
        return super().generator(*arguments) * (self.silent != "generator")

    def discriminator(self, *arguments):
        return super().discriminator(*arguments) * (self.silent != "discriminator")


@pytest.mark.parametrize("silent", ["generator", "discriminator"])
def test_each_network_sees_its_own_gradients_alone(silent):
    trainer = make_trainer(OneSided(silent))
    networks = {"generator": trainer.model.generator, "discriminator": trainer.model.discriminator}
    before = {name: values_of(network.trainable_variables) for name, network in networks.items()}
    trainer.train_step(make_batch())
    for name, network in networks.items():
        still = [np.array_equal(a, b) for a, b in zip(before[name], values_of(network.trainable_variables))]
        assert all(still) if name == silent else not any(still), (name, still)


def test_the_averages_are_the_generators():
    trainer = make_trainer(ema_decay=0.5)
    trainer.train_step(make_batch())
    own = [a for a, v in zip(trainer.averages.variables, trainer.model.variables) if a is not v]
    assert len(own) == len(trainer.model.generator.variables)
    with trainer.averages.in_use():
        averaged = trainer.model(make_batch()[0]).numpy()
    assert not np.allclose(averaged, trainer.model(make_batch()[0]).numpy(), rtol=1e-3)


def test_a_loss_that_is_no_value_per_example():
    class Mean(VectorLoss):
        def discriminator(self, real_outputs, fake_outputs):
            return ops.mean(super().discriminator(real_outputs, fake_outputs))

    with pytest.raises(TaskError, match="loss 'discriminator' returned shape ()"):
        make_trainer(Mean()).train_step(make_batch())
    with pytest.raises(NotImplementedError, match="AdversarialLoss: generator"):
        AdversarialLoss().generator(None, None, None, None)


def test_a_model_that_is_no_pair(tmp_path):
    class Single(PaintTask):
        def build_model(self):
            return super().build_model().generator

    image_toy_task.write_records(tmp_path / "records", 32)
    with pytest.raises(TaskError, match="build_model.. returned a Functional, expected an AdversarialPair"):
        run.train(Single, image_toy_task.run_config(tmp_path))


def test_a_run_learns_resumes_and_gives_back_the_generator(tmp_path):
    image_toy_task.write_records(tmp_path / "records")
    changes = {"accumulate": 2, "ema_decay": 0.9, "evaluate_every": 30, "jit_compile": False,
               "task": image_toy_task.ImageConfig(dropout=0.1)}
    config = image_toy_task.run_config(tmp_path, **changes).override(["optimizer.schedule=constant", "steps=60"])
    whole = run.train(PaintTask, config)
    parted = config.override([f"output={tmp_path / 'parted'}", "steps=30"])
    run.train(PaintTask, parted)
    again = run.train(PaintTask, parted.override(["steps=60"]))
    assert again["start_step"] == 30 and again["loss"] == whole["loss"] and again["eval_loss"] == whole["eval_loss"]
    for name in ("weights", "optimizer", "averages"):
        ours, theirs = (load_file(f"{result['checkpoint']}/{name}.safetensors") for result in (again, whole))
        for a, b in zip(sorted(ours), sorted(theirs), strict=True):
            np.testing.assert_array_equal(ours[a], theirs[b], err_msg=b)
    # Noise of variance 1 is on the inputs; what is painted is nearer to the pattern than what was given.
    assert whole["eval_loss"][-1] < 0.5
    model = run.load_trained(PaintTask(config.task), config.output)
    assert model({"pixels": np.zeros((2, 12, 12, 1), "float32")}).shape == (2, 12, 12, 1)
