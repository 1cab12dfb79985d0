"""Task: everything that is particular to a task. The runner, the pipeline and the exporter know nothing else of it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tfhf.config import Config


class TaskError(ValueError):
    """A task that does not keep the contract of `Task`; the message says which part and what was expected."""


class Task:
    """What a task is. A subclass sets the class attributes and defines the methods below; nothing else is called.

    One record goes through `preprocess` to padded tensors of static shape; the model maps a batch of them to outputs;
    `loss` gives one value per example; `decode` gives one prediction per example, which `metrics` compare with
    `reference_field`.

    Attributes:
        name: short name of the task, in file names and messages.
        Config: the frozen dataclass (a `tfhf.config.Config`) that `config` is an instance of.
        record_type: the schema of the records (`tfhf.data.schema.RecordType`).
        reference_field: the field of the decoded record that predictions are scored against.
        buckets: ascending lengths, in the unit of `record_type`'s length field. One bucket: all shapes are the same.
        classes: names of the classes in the order of the model's scores, of a task that has them; exports tell them.
        record_classes: the same classes as the records name them, where that differs, as for ImageNet's folders.
            Records, checkpoints and pretrained heads with other names, or in another order, are refused.
        batched: `preprocess` takes a whole batch at once, which costs the host less per example: the decoded record is
            then `record_type.decode_batch`'s, "seed" is [batch, 2], and what it returns has a batch axis in front.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type] = Config
    record_type: ClassVar[Any] = None
    reference_field: ClassVar[str] = "text"
    buckets: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    record_classes: tuple[str, ...] = ()
    batched: ClassVar[bool] = False

    def __init__(self, config: Config):
        if not isinstance(config, self.Config):
            raise TaskError(
                f"task {self.name}: got a config of type {type(config).__name__}, expected {self.Config.__name__}"
            )
        self.config = config

    @classmethod
    def tiny(cls) -> "Task":
        """A small task with random weights and no randomness in training (no dropout): for tests, no downloads."""
        raise NotImplementedError(f"task {cls.name}: tiny() is not defined")

    def check_records(self, manifest: dict, folder: str) -> None:
        """Raise an error of our own for records that do not fit, such as those of another tokenizer; called for each
        split's folder before a record of it is read."""

    def preprocess(self, example: dict, bucket: Any, training: bool) -> tuple:
        """One decoded record -> (inputs dict, targets tensor or dict, weight float32 scalar), padded to static shapes.

        `bucket` is a Python int where the task has one bucket, otherwise a scalar int32 tensor. `weight` is how much
        the example counts in the loss, for example its number of target tokens. The example also holds "seed", int32
        [2], its own in this step: draw augmentations from it, with `tf.random.stateless_...` only.
        """
        raise NotImplementedError(f"task {self.name}: preprocess() is not defined")

    def reference(self, example: dict):
        """The decoded record -> what `metrics` get as the reference, a tensor of one shape for all records; a truth of
        any size goes as `tf.io.serialize_tensor` gives it. Called in evaluation only."""
        return example[self.reference_field]

    def build_model(self):
        """The keras model with its weights loaded and every variable created."""
        raise NotImplementedError(f"task {self.name}: build_model() is not defined")

    def loss(self):
        """A `keras.losses.Loss` or a callable (targets, outputs) -> float [batch]: one value per example, no scalar.

        An `AdversarialLoss` (tfhf/gan.py) trains two networks; `build_model` then returns an `AdversarialPair`."""
        raise NotImplementedError(f"task {self.name}: loss() is not defined")

    def metrics(self) -> list:
        """Metrics with `.update(reference, prediction)` per example, `.result()` -> dict of numbers, and a `name` that
        goes before a key which an earlier metric has given already. One that also has `.picture()` -> uint8
        [height, width, 3] is shown as an image."""
        return []

    def decode(self, model, inputs: dict) -> list:
        """Predictions for a batch of inputs, one per example, in order. One may be an array, such as an image."""
        raise NotImplementedError(f"task {self.name}: decode() is not defined")

    def pictures(self, inputs: dict, targets, outputs) -> dict:
        """Name -> uint8 [n, height, width, 3]: what TensorBoard shows of the first examples of the evaluation split at
        each evaluation while training. All are NumPy with a batch axis; `outputs` are the model's (training=False)."""
        return {}

    def picture(self, inputs: dict, prediction) -> np.ndarray | None:
        """uint8 [height, width, 3] of one example, its inputs as `load_inputs` gave them beside its prediction, which
        `predict` writes as a PNG (`tfhf.pictures.side_by_side`); None: there is nothing to see."""
        return None

    def sound(self, inputs: dict) -> np.ndarray | None:
        """int16 [samples] of one example, at the record type's rate, which TensorBoard plays beside its prediction
        after `evaluate`: here `input_values`, without the padding. None: there is nothing to hear."""
        if self.record_type.sample_rate_hz is None or "input_values" not in inputs:
            return None
        return np.trim_zeros(np.asarray(inputs["input_values"]), "b")

    def load_inputs(self, path: str) -> dict:
        """One input file -> the inputs of one example, without the batch axis, as `preprocess` would give them."""
        raise TaskError(f"task {self.name}: cannot predict from files, it does not define load_inputs()")

    def signatures(self, model) -> dict:
        """Signature name -> tf.function with an input_signature that returns a dict of named tensors, for export."""
        raise TaskError(f"task {self.name}: cannot be exported, it does not define signatures()")

    def example_requests(self) -> dict:
        """Signature name -> dict of arrays: requests that the export writes as warm-up records."""
        return {}
