"""What a run tells of itself while it trains: history.jsonl, the progress line, TensorBoard.

Device values are read every `log_every` steps only; between two reads the losses wait as tensors.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
import time
from typing import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfhf.data import storage
from tfhf.preemption import Preempted, StopSignals


class TrainingError(ValueError):
    """A run that cannot go on: a loss that is not finite."""


@contextlib.contextmanager
def tensorboard_errors(run_folder: str) -> Iterator[None]:
    """A context in which TensorFlow writes TensorBoard's events: what the disk or the bucket refuses is a StorageError.
    """
    try:
        yield
    except tf.errors.OpError as error:
        message = " ".join(error.message.split()) or type(error).__name__
        raise storage.StorageError(
            f"{storage.join(run_folder, 'tensorboard')}: cannot be written: {message}. Is the disk full, or mounted "
            "read-only? Mend it, then start the same command again"
        ) from error


class InputClock:
    """Measures how long the consumer of a dataset waits for its batches.

    Under a strategy TensorFlow pulls batches ahead of the step in a thread of its own; the figure is then how long that
    thread waits, an upper bound of what the step waits.
    """

    def __init__(self):
        with tf.device("CPU:0"):
            self._waited_s = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same dataset, with its waiting time counted; must come after the last prefetch."""

        def asked(_):
            return tf.timestamp()

        def received(asked_at, batch):
            self._waited_s.assign_add(tf.timestamp() - asked_at)
            return batch

        # zip asks its datasets in turn: the clock is read, then the batch is waited for.
        clock = tf.data.Dataset.counter().map(asked)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would wait in the step's stead
        return tf.data.Dataset.zip(clock, dataset).map(received).with_options(options)

    def seconds(self) -> float:
        """Seconds waited so far."""
        return float(self._waited_s.numpy())


class History:
    """The run's history.jsonl: one JSON object per line, {"step": 1, "loss": 3.25} or {"step": 10, "eval_loss": 3.5}.

    Numbers are written so that reading them gives the same float. A run begins with the lines of the checkpoint that it
    goes on from, which holds them: what a killed run had written after it is dropped, what is damaged is mended. In a
    bucket, where nothing can be appended to, the file is written anew by `save`.
    """

    def __init__(self, folder: str, lines: Sequence[dict] = ()):
        self.folder = folder
        self.path = storage.join(folder, "history.jsonl")
        self._remote = storage.is_remote(folder)
        self.lines = list(lines)
        self._waiting: list[tuple[int, str, object]] = []
        self.save()

    def save(self) -> None:
        """Write the whole file, atomically."""
        storage.write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode("utf-8"))

    def add(self, step: int, name: str, value) -> None:
        """Note a value (a float or a scalar tensor that need not be ready) for the next flush."""
        self._waiting.append((step, name, value))

    def flush(self) -> None:
        """Read what is waiting from the device and append it to the file.

        Raises:
            TrainingError: a value that is not finite; the finite ones before it are written.
        """
        new, problem = [], ""
        for step, name, value in self._waiting:
            value = float(value)
            if not math.isfinite(value):
                problem = f"{name} is {value} at step {step}; the run stops here, before another checkpoint is written"
                break
            new.append({"step": step, name: value})
        self._waiting = []
        self.lines += new
        if self._remote:
            pass  # save() writes it with the next checkpoint
        elif new:
            with storage.writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in new))
        if problem:
            raise TrainingError(problem)

    def last(self, name: str) -> float | None:
        """The newest flushed value of that name, or None."""
        return next((line[name] for line in reversed(self.lines) if name in line), None)

    def values(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of everything flushed under that name."""
        found = [(line["step"], line[name]) for line in self.lines if name in line]
        return [step for step, _ in found], [value for _, value in found]


class ProgressLine:
    """One line of text: rewritten in place on a terminal, a line of its own each time elsewhere."""

    def __init__(self, total_steps: int, examples_per_step: int, padding_waste: float | None, stream=None):
        self.total_steps = total_steps
        self.examples_per_step = examples_per_step
        self.padding_waste = padding_waste
        self._stream = stream or sys.stderr
        self._mark_s = time.perf_counter()
        self._mark_step: int | None = None
        self._mark_wait_s = 0.0
        self._paused_s = 0.0

    def mark(self, step: int, waited_s: float) -> None:
        """Start the clock: steps after `step` count."""
        self._mark_s, self._mark_step, self._mark_wait_s = time.perf_counter(), step, waited_s
        self._paused_s = 0.0

    @property
    def marked(self) -> bool:
        """Whether the clock runs."""
        return self._mark_step is not None

    @contextlib.contextmanager
    def paused(self):
        """Time spent in here (evaluation, checkpoints) does not count as step time."""
        begin = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - begin

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._stream.write(f"\r\033[K{text}\n" if self._stream.isatty() else text + "\n")
        self._stream.flush()

    def show(self, step: int, values: dict, waited_s: float, compiles: int) -> dict:
        """Print the line, `values` (the loss first) in front; returns the figures of the steps since the last mark."""
        steps = max(step - (self._mark_step or 0), 1)
        step_s = max(time.perf_counter() - self._mark_s - self._paused_s, 1e-9) / steps
        figures = {
            "examples_per_s": self.examples_per_step / step_s,
            "step_s": step_s,
            "input_wait_s": (waited_s - self._mark_wait_s) / steps,
            "compiles": compiles,
        }
        eta = datetime.timedelta(seconds=round(step_s * (self.total_steps - step)))
        line = (
            f"step {step}/{self.total_steps} | {' | '.join(f'{name} {value:.4f}' for name, value in values.items())} | "
            f"{figures['examples_per_s']:.1f} examples/s | "
            f"{step_s:.3f} s/step | input wait {figures['input_wait_s']:.3f} s | "
            + (f"padding {self.padding_waste:.1%} | " if self.padding_waste is not None else "")
            + f"compiles {compiles} | ETA {eta}"
        )
        terminal = self._stream.isatty()
        self._stream.write(f"\r\033[K{line}" if terminal else line + "\n")
        if terminal and step >= self.total_steps:
            self._stream.write("\n")
        self._stream.flush()
        self.mark(step, waited_s)
        return figures


class StepCallback(keras.callbacks.Callback):
    """Everything that happens between steps, in this order: history, log, evaluation, checkpoint, leaving on a signal.

    Args:
        trainer: the model that fits (for its compile count and optimizer).
        start_step: steps done before this fit.
        total_steps: the run's last step, which always logs and saves.
        log_every, evaluate_every, checkpoint_every: in steps; 0: only at the end (log, checkpoint) or never (evaluate).
        evaluate: (stopped) -> evaluation loss, or None when `stopped()` turned true before it was known.
        pictures: () -> {name: uint8 [n, height, width, 3]}, shown in TensorBoard after each evaluation.
        save: (step) -> None, begins to write the checkpoint.
        check_saved: () -> None, raises what went wrong in writing the last one, once that is known.
        keep_best: save after an evaluation, too, whose loss is among this many least ones of the run.
        stop: signals; one that came makes the step that is under way the last one.

    Raises:
        Preempted: a signal came; the checkpoint of `step` is on its way.
    """

    def __init__(
        self,
        *,
        trainer,
        history: History,
        line: ProgressLine,
        clock: InputClock,
        writer,
        start_step: int,
        total_steps: int,
        log_every: int,
        evaluate_every: int,
        checkpoint_every: int,
        evaluate: Callable[[Callable[[], bool]], float | None],
        pictures: Callable[[], dict],
        save: Callable[[int], None],
        check_saved: Callable[[], None],
        keep_best: int,
        stop: StopSignals,
    ):
        super().__init__()
        self.trainer, self.history, self.line, self.clock, self.writer = trainer, history, line, clock, writer
        self.start_step, self.total_steps, self.step = start_step, total_steps, start_step
        self.log_every, self.evaluate_every, self.checkpoint_every = log_every, evaluate_every, checkpoint_every
        self.evaluate, self.pictures, self.save, self.keep_best, self.stop = evaluate, pictures, save, keep_best, stop
        self.check_saved = check_saved

    def on_train_begin(self, logs=None):
        # A run that was stopped during an evaluation has saved without it.
        if self._evaluates(self.start_step) and self.start_step not in self.history.values("eval_loss")[0]:
            self._evaluate(self.start_step)
        if self.stop.requested:
            raise Preempted(f"stopped by {self.stop.requested} before step {self.start_step + 1}; nothing is lost, the "
                            "same command goes on")

    def on_train_batch_end(self, batch, logs=None):
        self.step = step = self.start_step + batch + 1
        self.check_saved()
        self._logged = tuple(logs)
        for name in self._logged:
            self.history.add(step, name, logs[name])
        if not self.line.marked and not self._due(step, self.log_every):
            float(logs["loss"])  # the first step compiles; once it is done, the clock starts
            self.line.mark(step, self.clock.seconds())
        if self._due(step, self.log_every):
            self._log(step)
        save = self._due(step, self.checkpoint_every)
        if self._evaluates(step):
            save = self._evaluate(step) or save
        if save or self.stop.requested:
            with self.line.paused():
                self.history.flush()
                self.history.save()
                self._sync()
                self.save(step)
        if self.stop.requested and step < self.total_steps:
            raise Preempted(f"stopped by {self.stop.requested} after step {step}, which is saved; the same command "
                            "goes on")

    def _sync(self) -> None:
        # On the JAX backend the weights are with the compiled step while `fit` runs.
        if keras.backend.backend() == "jax":
            self.trainer.jax_state_sync()

    def _evaluates(self, step: int) -> bool:
        return bool(step and self.evaluate_every) and step % self.evaluate_every == 0

    def _evaluate(self, step: int) -> bool:
        """Note the evaluation loss; returns whether it is among the best."""
        with self.line.paused():
            loss = self.evaluate(lambda: bool(self.stop.requested))
            if loss is None:
                return False
            self.history.flush()
            self.history.add(step, "eval_loss", loss)
            self.history.flush()
            self._scalars(step, {"eval_loss": loss})
            pictures = self.pictures()
            with tensorboard_errors(self.history.folder):
                show_pictures(self.writer, step, pictures)
            self.line.say(f"step {step}: eval_loss {loss:.6f}")
        return loss in sorted(self.history.values("eval_loss")[1])[: self.keep_best]

    def _due(self, step: int, every: int) -> bool:
        return step == self.total_steps or bool(every) and step % every == 0

    def _log(self, step: int) -> None:
        self.history.flush()
        values = {name: self.history.last(name) for name in self._logged}
        figures = self.line.show(step, values, self.clock.seconds(), self.trainer.trace_count)
        with self.line.paused():
            self._sync()
            rate = float(self.trainer.optimizer.learning_rate)
            self._scalars(step, {**values, "learning_rate": rate, **figures})

    def _scalars(self, step: int, values: dict) -> None:
        with tensorboard_errors(self.history.folder):
            with self.writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self.writer.flush()


def show_pictures(writer, step: int, pictures: dict) -> None:
    """{name: uint8 [n, height, width, 3]} in TensorBoard at `step`, all n of each."""
    with writer.as_default(step=step):
        for name, picture in pictures.items():
            tf.summary.image(name, picture, max_outputs=len(picture))
    writer.flush()


def save_pictures(metrics: list, folder: str, run_folder: str, split: str, step: int | None) -> None:
    """The picture of each metric that has `picture() -> uint8 [height, width, 3]`: as FOLDER/NAME.png, and in the run's
    TensorBoard as SPLIT/NAME at `step` (None, the untrained model: 0)."""
    pictures = {metric.name: metric.picture() for metric in metrics if hasattr(metric, "picture")}
    if not pictures:
        return
    writer = tf.summary.create_file_writer(storage.join(run_folder, "tensorboard"))
    for name, picture in pictures.items():
        storage.write_bytes(storage.join(folder, f"{name}.png"), tf.io.encode_png(picture).numpy())
    show_pictures(writer, step or 0, {f"{split}/{name}": picture[None] for name, picture in pictures.items()})
    writer.close()


def save_samples(samples: Sequence[tuple], sample_rate_hz: int | None, run_folder: str, split: str,
                 step: int | None) -> None:
    """What an evaluation's first examples said, in the run's TensorBoard at `step` (None, the untrained model: 0):
    SPLIT/predictions, a table, and SPLIT/sounds/ID, to be played.

    Args:
        samples: of each ({"id", "reference", "prediction" where it is a text}, int16 [samples] or None).
        sample_rate_hz: of the sounds.
    """
    told = [line for line, _ in samples if "prediction" in line]
    sounds = {line["id"]: sound for line, sound in samples if sound is not None and len(sound)}
    if not told and not sounds:
        return
    writer = tf.summary.create_file_writer(storage.join(run_folder, "tensorboard"))
    with writer.as_default(step=step or 0):
        if told:
            cells = (str(line[name]).replace("|", "\\|").replace("\n", " ") for line in told
                     for name in ("id", "reference", "prediction"))
            rows = [f"| {' | '.join(row)} |" for row in zip(cells, cells, cells)]
            table = ["| id | reference | prediction |", "|---|---|---|", *rows]
            tf.summary.text(f"{split}/predictions", "\n".join(table))
        for identity, sound in sounds.items():
            audio = sound.astype(np.float32)[None, :, None] / 32768.0
            tf.summary.audio(f"{split}/sounds/{identity}", audio, sample_rate_hz)
    writer.close()


def show_preflight(writer, run_folder: str) -> None:
    """The report of `tfhf preflight TASK --json RUN/preflight.json`, where it lies in the run's folder, as a text in
    TensorBoard that names the page beside it."""
    path = storage.join(run_folder, "preflight.json")
    if not storage.exists(path):
        return
    from tfhf.preflight import report   # needed by few runs

    lines = report.text(json.loads(storage.read_bytes(path))).splitlines()
    page = storage.join(run_folder, "preflight.html")
    link = f"\n\nWith pictures: [{page}]({page})" if storage.exists(page) else ""
    with writer.as_default(step=0):
        tf.summary.text("preflight", "\n".join(f"    {line}" for line in lines) + link)
    writer.flush()
