"""Small tasks on images for the tests of the engine: tell three patterns apart, and paint their mean image (a GAN)."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tests.toy_task import Accuracy
from tfhf.config import Config
from tfhf.data.records import RecordWriter
from tfhf.data.schema import Field, RecordType
from tfhf.gan import AdversarialLoss, AdversarialPair
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task

SIZE, CLASSES = 12, 3
PATTERN = RecordType(
    name="pattern",
    version=1,
    fields=(Field("id", "string"), Field("pixels", "floats"), Field("length", "int"), Field("label", "int")),
    length_field="length",
)


def examples(count, seed=0):
    """Stripes across, stripes down or a board of squares, in noise; image [SIZE * SIZE] and its label."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE))
    patterns = np.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).astype("float32")
    made = []
    for number in range(count):
        label = int(random.integers(CLASSES))
        pixels = (patterns[label] + random.normal(0, 0.5, (SIZE, SIZE))).astype("float32").reshape(-1)
        made.append({"id": f"pattern-{seed}-{number}", "pixels": pixels, "length": len(pixels), "label": label})
    return made


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    width: int = 8
    dropout: float = 0.0


class ImageTask(Task):
    """Classification by a small convolutional network without batch normalisation."""

    name, Config, record_type, reference_field = "image_toy", ImageConfig, PATTERN, "label"
    buckets = (SIZE * SIZE,)

    @classmethod
    def tiny(cls):
        return cls(ImageConfig())

    def preprocess(self, example, bucket, training):
        pixels = tf.reshape(example["pixels"], [SIZE, SIZE, 1])
        # Uneven weights: what is divided by the number of examples, or per replica, shows.
        return {"pixels": pixels}, example["label"], 1.0 + tf.cast(example["label"], tf.float32)

    def build_model(self):
        pixels = keras.Input((SIZE, SIZE, 1), name="pixels")
        x = keras.layers.Conv2D(self.config.width, 3, strides=2, activation="gelu", padding="same")(pixels)
        x = keras.layers.Conv2D(2 * self.config.width, 3, strides=2, activation="gelu", padding="same")(x)
        x = keras.layers.LayerNormalization()(keras.layers.Flatten()(x))
        x = keras.layers.Dropout(self.config.dropout)(x)
        return keras.Model({"pixels": pixels}, keras.layers.Dense(CLASSES, dtype="float32")(x))

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return [Accuracy()]

    def decode(self, model, inputs):
        return list(np.argmax(ops.convert_to_numpy(model(inputs, training=False)), axis=-1))


class PatternLoss(AdversarialLoss):
    """Squared error and the non-saturating adversarial loss, as SRGAN's (Ledig et al. 2017, equations 3 and 6)."""

    def __call__(self, targets, fakes):
        return ops.mean(ops.square(targets - fakes), axis=(1, 2, 3))

    def generator(self, targets, fakes, real_outputs, fake_outputs):
        return self(targets, fakes) + 0.1 * ops.softplus(-fake_outputs)[:, 0]

    def discriminator(self, real_outputs, fake_outputs):
        return (ops.softplus(-real_outputs) + ops.softplus(fake_outputs))[:, 0]

    def measures(self, targets, fakes):
        return {"closeness": (ops.sum(ops.exp(-self(targets, fakes))), ops.shape(targets)[0])}


class PaintTask(ImageTask):
    """Take the noise off a pattern, against a discriminator."""

    name = "paint_toy"

    def preprocess(self, example, bucket, training):
        inputs, _, weight = super().preprocess(example, bucket, training)
        noise = tf.random.stateless_normal([SIZE, SIZE, 1], example["seed"])
        return {"pixels": inputs["pixels"] + noise}, inputs["pixels"], weight

    def build_model(self):
        noisy, image = (keras.Input((SIZE, SIZE, 1), name=name) for name in ("pixels", "image"))
        x = keras.layers.Conv2D(self.config.width, 3, activation="gelu", padding="same")(noisy)
        x = keras.layers.Dropout(self.config.dropout)(x)
        generator = keras.Model({"pixels": noisy}, keras.layers.Conv2D(1, 3, padding="same")(x), name="generator")
        x = keras.layers.Conv2D(self.config.width, 3, strides=2, activation="gelu", padding="same")(image)
        x = keras.layers.Dense(1)(keras.layers.Flatten()(x))
        return AdversarialPair(generator, keras.Model(image, x, name="discriminator"))

    def loss(self):
        return PatternLoss()


def write_records(folder, train=96, validation=21):
    """Records with `train` and `validation` examples; returns the folder as a string."""
    for split, count, seed in (("train", train, 0), ("validation", validation, 1)):
        with RecordWriter(folder, split, PATTERN) as writer:
            for example in examples(count, seed):
                writer.write(example)
    return str(folder)


def run_config(folder, **changes):
    """20 steps of 32 examples; `folder` holds `records`."""
    values = {
        "output": str(folder / "run"),
        "data": DataConfig(str(folder / "records")),
        "task": ImageConfig(),
        "batch_size": 32,
        "eval_batch_size": 8,
        "steps": 20,
        "log_every": 10,
        "checkpoint_every": 10,
    }
    config = RunConfig(**{**values, **changes})
    return config.override(["optimizer.learning_rate=0.01", "optimizer.warmup_steps=2", "optimizer.epsilon=1e-6",
                            "optimizer.clip_norm=0.5", "optimizer.weight_decay=0.01"])


TASK = ImageTask
