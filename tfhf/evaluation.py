"""What an evaluation computes and writes: the exact loss, references, predictions, results put together, pictures."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfhf.data import storage
from tfhf.data.image import encode_png
from tfhf.data.pipeline import evaluation_batches
from tfhf.data.schema import RecordError
from tfhf.input_service import Batches, batches_of
from tfhf.run_config import RunConfig
from tfhf.strategy import Runtime
from tfhf.task import Task, TaskError
from tfhf.train_steps import Trainer

# Examples of the evaluation split that are shown in TensorBoard, the same at each evaluation.
PICTURED_EXAMPLES = 4


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """tf.data wraps what the pipeline's threads raise in its own error; give back the one line that matters."""
    try:
        yield
    except tf.errors.OpError as error:
        match = (re.search(r"\b(?:tfhf|pipelines|tfrecords)\.[\w.]+: ([^\n]*)", error.message)   # our Python code
                 or re.search(r"\bRecordError: ([^\n]*)", error.message))                        # a check in the graph
        if match is None:
            raise
        raise RecordError(match[1]) from error


class LossEvaluator:
    """The exact loss over a split: sum(loss * weight) / sum(weight), every example once. Call it for the figure.

    The call takes a function `stopped`, asked after each batch; when it says true, the answer is None.
    """

    def __init__(self, task: Task, trainer: Trainer, runtime: Runtime, config: RunConfig, split: str | None = None):
        self._arguments = (task, config, Batches(split or config.data.eval_split))
        self._runtime = runtime
        self._sums = trainer.evaluation_sums(runtime)

    def __call__(self, stopped: Callable[[], bool] = lambda: False) -> float | None:
        with data_errors():
            dataset = self._runtime.distribute(self._arguments[1].eval_batch_size, self._batches)
            total = weights = 0.0
            for inputs, targets, weight in dataset:
                loss_sum, weight_sum = self._sums(inputs, targets, weight)
                total, weights = total + float(loss_sum), weights + float(weight_sum)
                if stopped():
                    return None
        if not weights:
            raise TaskError(f"task {self._arguments[0].name}: every example of {self._arguments[2].split} has weight 0")
        return total / weights

    def _batches(self, num_hosts: int, host_index: int) -> tf.data.Dataset:
        return batches_of(*self._arguments, num_hosts, host_index)


class Pictures:
    """`Task.pictures` of the first examples of the evaluation split, made by the model as it stands. Call it for
    {name: uint8 [n, height, width, 3]}; of a task that defines none it costs nothing and gives {}."""

    def __init__(self, task: Task, trainer: Trainer, runtime: Runtime, config: RunConfig):
        self._task, self._config = task, config
        self._batch = None
        self._outputs = trainer.evaluation_outputs(runtime)

    def __call__(self) -> dict:
        if type(self._task).pictures is Task.pictures:
            return {}
        if self._batch is None:
            data, size = self._config.data, self._config.eval_batch_size
            with data_errors():
                batches = evaluation_batches(self._task, data.path, data.eval_split, batch_size=size,
                                             drop_longer=data.drop_longer)
                batch = next(iter(batches.take(1)))
            # Every replica computes all of what it is given, so it is given no more than is shown.
            self._batch = keras.tree.map_structure(lambda tensor: tensor[:PICTURED_EXAMPLES], batch)
        batch = self._batch
        real = batch["real"].numpy()
        inputs, targets, outputs = keras.tree.map_structure(
            lambda tensor: _as_numpy(tensor)[real], (batch["inputs"], batch["targets"], self._outputs(batch["inputs"])))
        pictures = self._task.pictures(inputs, targets, outputs)
        for name, picture in pictures.items():
            if picture.dtype != np.uint8 or picture.ndim != 4 or picture.shape[-1] != 3:
                raise TaskError(f"task {self._task.name}: pictures() gave {name!r} as {picture.dtype} "
                                f"{picture.shape}, expected uint8 [n, height, width, 3]")
        return pictures


def _as_numpy(tensor):
    array = keras.ops.convert_to_numpy(tensor)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


class PredictionFolder:
    """Where the predictions of an evaluation, or of `predict`, are written. A line of JSON holds what is short; an
    array of two axes or more becomes a file, `predictions/NAME.png` or `.npy`, and the line tells where.

    Args:
        folder: local or gs://; `predictions` is made in it with the first file.
        told: what is put before `predictions/NAME.png` where it is told; "": the name in the folder.
    """

    def __init__(self, folder: str, told: str = ""):
        self.folder, self._told = folder, told
        self._names: set[str] = set()

    def plain(self, value: Any, name: str) -> Any:
        """A prediction or reference -> what json can write. uint8 [height, width (, 1, 3 or 4)] and uint16 [height,
        width (, 1)] are written as PNG, other arrays of two axes or more as .npy; bytes are summarised.

        Args:
            name: of the example, unique among those written.
        """
        if isinstance(value, dict):
            return {key: self.plain(part, f"{name}-{key}") for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(part, f"{name}-{number}") for number, part in enumerate(value)]
        if isinstance(value, bytes):
            return f"{len(value)} bytes"
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            return self._save(value, name)
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    def picture(self, picture: np.ndarray, name: str) -> str:
        """Writes uint8 [height, width, 3] and tells where."""
        return self._save(picture, name)

    def _save(self, array, name):
        data, ending = _file_of(array)
        # The id of an example may be a path, longer than a file's name may be, or that of another example as well.
        stem = plain = storage.short_name(re.sub(r"[^\w.-]+", "-", name).strip("-.") or "prediction")
        number = 1
        while stem + ending in self._names:
            number += 1
            stem = f"{plain}-{number}"
        if not self._names:
            storage.make_folder(storage.join(self.folder, "predictions"))
        self._names.add(stem + ending)
        storage.write_bytes(storage.join(self.folder, "predictions", stem + ending), data)
        name = f"predictions/{stem}{ending}"
        return storage.join(self._told, name) if self._told else name


def _file_of(array):
    """-> (bytes of a file, its ending)"""
    channels = {np.dtype("uint8"): (1, 3, 4), np.dtype("uint16"): (1,)}.get(array.dtype, ())
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim == 3 and image.shape[-1] in channels and image.size:
        return encode_png(image).numpy(), ".png"
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue(), ".npy"


def references(task: Task, values: np.ndarray) -> list:
    """The references of a batch as `Task.reference` gave them: text is str, what is bytes in the record stays bytes."""
    kinds = {field.name: field.kind for field in task.record_type.fields}
    if kinds.get(task.reference_field) != "string":
        return list(values)
    return [value.decode("utf-8") if isinstance(value, bytes) else value for value in values]


def check_count(task: Task, answers: list, count: int) -> None:
    """TaskError unless `decode` gave as many predictions as there are examples."""
    if len(answers) != count:
        raise TaskError(
            f"task {task.name}: decode() returned {len(answers)} predictions, expected {count}, one per example"
        )


def merged_results(metrics: list) -> dict:
    """All results in one dict; a key that is taken gets the metric's name in front."""
    merged = {}
    for metric in metrics:
        result = metric.result()
        label = getattr(metric, "name", None) or next(iter(result), "")
        for key, value in result.items():
            if key == "examples":  # the runner counts them itself
                continue
            name = key if key not in merged else f"{label}_{key}"
            if name in merged:
                raise TaskError(f"two metrics both give {name!r}; give them different names (their attribute `name`)")
            merged[name] = value
    return merged
