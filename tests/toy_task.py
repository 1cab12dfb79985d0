"""A task small enough to train in a second: tell from a padded series of numbers which of three classes it is."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfhf.config import Config
from tfhf.data.records import RecordWriter
from tfhf.data.schema import Field, RecordType
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task

SERIES = RecordType(
    name="series",
    version=1,
    fields=(Field("id", "string"), Field("values", "floats"), Field("length", "int"), Field("label", "int")),
    length_field="length",
)
CLASSES = 3


@dataclasses.dataclass(frozen=True)
class ToyConfig(Config):
    width: int = 16
    dropout: float = 0.0


class SeriesClassifier(keras.Model):
    """values [b, time] float32 and length [b] int32 -> logits [b, 3] float32."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.expand = keras.layers.Dense(config.width, activation="gelu")
        self.norm = keras.layers.LayerNormalization()
        self.dropout = keras.layers.Dropout(config.dropout)
        self.head = keras.layers.Dense(CLASSES, dtype="float32")

    def call(self, inputs, training=False):
        values, length = inputs["values"], inputs["length"]
        mask = ops.cast(ops.arange(ops.shape(values)[1])[None] < length[:, None], self.compute_dtype)
        states = self.expand(values[:, :, None]) * mask[:, :, None]
        mean = ops.sum(states, axis=1) / ops.sum(mask, axis=1, keepdims=True)
        return self.head(self.dropout(self.norm(mean), training=training))


class Accuracy:
    def __init__(self):
        self.right = self.total = 0

    def update(self, reference, prediction):
        self.right += int(reference == prediction)
        self.total += 1

    def result(self):
        return {"accuracy": self.right / self.total, "examples": self.total}


class ToyTask(Task):
    name = "toy"
    Config = ToyConfig
    record_type = SERIES
    reference_field = "label"
    buckets = (12,)

    @classmethod
    def tiny(cls):
        return cls(ToyConfig())

    def preprocess(self, example, bucket, training):
        values, length = example["values"], tf.cast(example["length"], tf.int32)
        values = tf.pad(values, [[0, bucket - tf.shape(values)[0]]])
        values.set_shape([bucket if isinstance(bucket, int) else None])
        return {"values": values, "length": length}, example["label"], tf.cast(length, tf.float32)

    def build_model(self):
        model = SeriesClassifier(self.config)
        model({"values": np.zeros((1, 12), "float32"), "length": np.ones(1, "int32")})
        return model

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return [Accuracy()]

    def decode(self, model, inputs):
        return list(np.argmax(ops.convert_to_numpy(model(inputs, training=False)), axis=-1))

    def load_inputs(self, path):
        values = np.loadtxt(path, dtype="float32", ndmin=1)
        return {"values": np.pad(values, (0, 12 - len(values))), "length": np.int32(len(values))}


class BucketedToyTask(ToyTask):
    buckets = (6, 12)


class ScalarLossTask(ToyTask):
    def loss(self):
        def mean_loss(targets, outputs):
            return ops.mean(keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True))

        return mean_loss


class UnpaddedTask(ToyTask):
    def preprocess(self, example, bucket, training):
        _, label, weight = super().preprocess(example, bucket, training)
        return {"values": example["values"], "length": tf.cast(example["length"], tf.int32)}, label, weight


def examples(count, seed=0):
    """Examples for the SERIES records: the class is the level of the series."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label, length = int(random.integers(CLASSES)), int(random.integers(1, 13))
        values = random.normal(label - 1, 0.5, length).astype("float32")
        made.append({"id": f"series-{seed}-{number}", "values": values, "length": length, "label": label})
    return made


def write_records(folder):
    """Records with 50 training and 21 validation examples; returns the folder as a string."""
    for split, count, seed in (("train", 50, 0), ("validation", 21, 1)):
        with RecordWriter(folder, split, SERIES) as writer:
            for example in examples(count, seed):
                writer.write(example)
    return str(folder)


def run_config(folder, **changes):
    values = {
        "output": str(folder / "run"),
        "data": DataConfig(str(folder / "records")),
        "task": ToyConfig(),
        "batch_size": 8,
        "eval_batch_size": 8,
        "steps": 12,
        "log_every": 4,
        "checkpoint_every": 5,
        "evaluate_every": 6,
    }
    config = RunConfig(**{**values, **changes})
    return config.override(["optimizer.learning_rate=0.02", "optimizer.warmup_steps=2", "optimizer.weight_decay=0.01"])


TASK = ToyTask
