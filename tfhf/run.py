"""Train, evaluate and predict: the same few lines for every task. The only `.fit(` of the repository is here.

A run is a folder: config.json, history.jsonl, checkpoints/, tensorboard/, evaluation/SPLIT-step-N/. Running the same
command again goes on from the newest whole checkpoint, with the batches, the dropout and the losses that the
uninterrupted run would have had.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import time
from typing import Any, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfhf import checkpoints
from tfhf.config import ConfigError
from tfhf.data import storage
from tfhf.data.pipeline import evaluation_batches, padding_stats, training_batches
from tfhf.data.records import read_manifest
from tfhf.data.schema import RecordError
from tfhf.optimizers import freeze, make_optimizer
from tfhf.progress import History, InputClock, ProgressLine, StepCallback, save_pictures
from tfhf.run_config import DataConfig, RunConfig, check_same_run
from tfhf.strategy import Runtime, check_built_in_scope, make_runtime, set_precision
from tfhf.task import Task, TaskError
from tfhf.train_steps import Trainer

__all__ = [
    "DataConfig",
    "LossEvaluator",
    "RunConfig",
    "build_model",
    "evaluate",
    "load_trained",
    "make_trainer",
    "predict",
    "train",
]


def train(task_class: type[Task], config: RunConfig) -> dict:
    """Train up to `config.steps`, from the newest whole checkpoint in `config.output` if there is one.

    Returns:
        {"step", "loss", "eval_step", "eval_loss": lists over the whole run, "checkpoint": folder of the last one,
        "start_step", "compiles", "replicas", "parameters"}.

    Raises:
        ConfigError: a config that does not fit, or not the one that the run was begun with.
        TaskError: a loss that is no value per example, shapes that are not static, a step compiled too often.
        RecordError: data that cannot be read.
        TrainingError: a loss that is not finite.
    """
    runtime = _start(config)
    task = task_class(config.task)
    storage.make_folder(config.output)
    lock = storage.FolderLock(config.output)
    try:
        with _data_errors():
            return _train(task, config, runtime)
    finally:
        lock.close()


def _train(task: Task, config: RunConfig, runtime: Runtime) -> dict:
    checkpoints.remove_unfinished(config.output)
    newest = checkpoints.latest_checkpoint(config.output)
    done = newest[0] if newest else 0
    if newest:
        check_same_run(config)
    if done > config.steps:
        raise ConfigError(f"steps: got {config.steps}, but {config.output} has a checkpoint of step {done}")
    if done % config.steps_per_execution:
        raise ConfigError(
            f"steps_per_execution: got {config.steps_per_execution}, which does not divide the step {done} of "
            "the checkpoint to go on from"
        )
    trainer = make_trainer(task, config, runtime)
    if newest:
        checkpoints.load_checkpoint(newest[1], trainer.model, trainer.optimizer)
        print(f"{config.output}: going on from step {done}", file=sys.stderr, flush=True)
    padding = padding_stats(task, config.data.path, config.data.train_split).fraction
    config.save(storage.join(config.output, "config.json"))
    history = History(config.output, done)
    if done < config.steps:
        _fit(task, config, runtime, trainer, history, done, padding)
    steps, losses = history.values("loss")
    eval_steps, eval_losses = history.values("eval_loss")
    newest = checkpoints.latest_checkpoint(config.output)
    return {
        "step": steps,
        "loss": losses,
        "eval_step": eval_steps,
        "eval_loss": eval_losses,
        "checkpoint": newest[1],
        "start_step": done,
        "compiles": trainer.trace_count,
        "replicas": runtime.num_replicas,
        "parameters": trainer.model.count_params(),
    }


def _fit(task, config, runtime, trainer, history, done, padding) -> None:
    dataset = training_batches(
        task,
        config.data.path,
        config.data.train_split,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=done,
        num_steps=config.steps - done,
        drop_longer=config.data.drop_longer,
    )
    _check_static(task, dataset.element_spec)
    clock = InputClock()
    evaluator = None
    if config.evaluate_every:
        evaluator = LossEvaluator(task, trainer, runtime, config)
    writer = tf.summary.create_file_writer(storage.join(config.output, "tensorboard"))
    callback = StepCallback(
        trainer=trainer,
        history=history,
        clock=clock,
        writer=writer,
        line=ProgressLine(config.steps, config.batch_size, padding),
        start_step=done,
        total_steps=config.steps,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        evaluate=evaluator,
        save=lambda step: checkpoints.save_checkpoint(
            config.output, step, trainer.model, trainer.optimizer, keep=config.keep_checkpoints
        ),
    )
    # One Keras epoch is the whole rest of the run: epochs are the pipeline's matter, and all else goes by steps.
    trainer.fit(clock.attach(dataset), epochs=1, shuffle=False, verbose=0, callbacks=[callback])
    writer.close()
    if callback.step != config.steps:
        raise RecordError(f"{config.data.path}: the data ended at step {callback.step}, expected {config.steps}")


def make_trainer(task: Task, config: RunConfig, runtime: Runtime) -> Trainer:
    """Build the task's model, optimizer and train step in the runtime's scope, ready for `fit`."""
    if runtime.kind == "cpu" and config.steps_per_execution > 1:
        raise ConfigError(
            f"steps_per_execution: got {config.steps_per_execution}, expected 1: more fails in TensorFlow under "
            f"strategy {config.strategy}"
        )
    with runtime.scope():
        model = build_model(task, runtime)
        freeze(model, config.freeze)
        optimizer = make_optimizer(config.optimizer, model, config.steps)
        trainer = Trainer(model, task.loss(), config.seed, runtime.num_replicas, max_traces=len(task.buckets))
        trainer.compile(
            optimizer=optimizer, jit_compile=runtime.jit_compile, steps_per_execution=config.steps_per_execution
        )
    return trainer


def build_model(task: Task, runtime: Runtime):
    """`task.build_model()` in the runtime's scope; TaskError if it comes back without its variables."""
    with runtime.scope():
        model = task.build_model()
    if not model.built or not model.variables:
        raise TaskError(
            f"task {task.name}: build_model() returned a model without variables; build it, for example by calling it"
        )
    check_built_in_scope(runtime, model)
    return model


class LossEvaluator:
    """The exact loss over a split: sum(loss * weight) / sum(weight), every example once. Call it for the figure."""

    def __init__(self, task: Task, trainer: Trainer, runtime: Runtime, config: RunConfig, split: str | None = None):
        self._arguments = (task, config.data.path, split or config.data.eval_split)
        self._options = {"batch_size": config.eval_batch_size, "drop_longer": config.data.drop_longer}
        self._strategy = strategy = runtime.strategy

        @tf.function(jit_compile=runtime.jit_compile, reduce_retracing=True)
        def sums(inputs, targets, weight):
            if strategy is None:
                return trainer.evaluation_step(inputs, targets, weight)
            parts = strategy.run(trainer.evaluation_step, args=(inputs, targets, weight))
            return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts)

        self._sums = sums

    def __call__(self) -> float:
        with _data_errors():
            dataset = evaluation_batches(*self._arguments, **self._options)
            dataset = dataset.map(lambda batch: (batch["inputs"], batch["targets"], batch["weight"]))
            if self._strategy is not None:
                dataset = self._strategy.experimental_distribute_dataset(dataset)
            total = weights = 0.0
            for inputs, targets, weight in dataset:
                loss_sum, weight_sum = self._sums(inputs, targets, weight)
                total, weights = total + float(loss_sum), weights + float(weight_sum)
        if not weights:
            raise TaskError(f"task {self._arguments[0].name}: every example of {self._arguments[2]} has weight 0")
        return total / weights


def load_trained(task: Task, run_folder: str, checkpoint: str | int = "last"):
    """The task's model with the weights of a run's checkpoint: "last", or a step.

    Raises:
        CheckpointError: there is no such checkpoint, it is torn, or it does not fit the model.
    """
    model = task.build_model()
    _load_weights(model, run_folder, checkpoint)
    return model


def evaluate(
    task_class: type[Task], config: RunConfig, split: str | None = None, checkpoint: str | int = "last"
) -> dict:
    """Decode every example of a split once and score it; writes metrics.json and predictions.jsonl.

    They go to OUTPUT/evaluation/SPLIT-step-N/ (SPLIT-initial/ for the untrained model), and with them NAME.png of a
    metric that has a picture; TensorBoard shows it too.

    Args:
        split: of the records; None: the config's eval_split.
        checkpoint: "last", a step, or "initial" for the model as `build_model` gives it.

    Returns:
        The metrics' results in one dict, plus "examples". A key that two metrics share stays the first one's; the
        other gets its metric's `name`, or else that metric's first key, in front ("cer_substitutions").
    """
    runtime = _start(config)
    task, split = task_class(config.task), split or config.data.eval_split
    model = build_model(task, runtime)
    step = _load_weights(model, config.output, checkpoint)
    name = f"{split}-initial" if step is None else f"{split}-step-{step:08d}"
    folder = storage.join(config.output, "evaluation", name)
    metrics, predictions, begin = task.metrics(), [], time.perf_counter()
    manifest = read_manifest(storage.join(config.data.path, split))
    with _data_errors():
        batches = evaluation_batches(
            task, config.data.path, split, batch_size=config.eval_batch_size, drop_longer=config.data.drop_longer
        )
        for batch in batches:
            answers = task.decode(model, batch["inputs"])
            _check_count(task, answers, config.eval_batch_size)
            columns = (batch["real"].numpy(), batch["id"].numpy(), batch["reference"].numpy(), answers)
            for real, identity, reference, prediction in zip(*columns):
                if not real:
                    continue
                reference = reference.decode("utf-8") if isinstance(reference, bytes) else reference
                for metric in metrics:
                    metric.update(reference, prediction)
                predictions.append(
                    {"id": identity.decode("utf-8"), "reference": _json(reference), "prediction": _json(prediction)}
                )
            _show_count("evaluated", len(predictions), manifest["count"], begin)
    results = {**_merge(metrics), "examples": len(predictions)}
    report = {
        "metrics": results,
        "task": task.name,
        "split": split,
        "checkpoint_step": step,
        "data": {"path": config.data.path, "fingerprint": manifest["fingerprint"], "count": manifest["count"]},
        "seconds": round(time.perf_counter() - begin, 3),
        "command": sys.argv,
        "versions": _versions(),
        "config": config.to_dict(),
    }
    storage.make_folder(folder)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in predictions)
    storage.write_bytes(storage.join(folder, "predictions.jsonl"), lines.encode("utf-8"))
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(folder, "metrics.json"), text.encode("utf-8"))
    save_pictures(metrics, folder, config.output, split, step)
    return results


def predict(
    task_class: type[Task], config: RunConfig, paths: Sequence[str | os.PathLike], checkpoint: str | int = "last"
) -> list:
    """One prediction per input file, in order; `checkpoint` as in `evaluate`."""
    runtime = _start(config)
    task = task_class(config.task)
    examples = [task.load_inputs(os.fspath(path)) for path in paths]  # a bad file is told before a model is built
    model = build_model(task, runtime)
    _load_weights(model, config.output, checkpoint)
    answers, size = [], config.eval_batch_size
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        padded = part + [part[-1]] * (size - len(part))  # one shape, one compile
        inputs = {key: tf.constant(np.stack([example[key] for example in padded])) for key in part[0]}
        batch = task.decode(model, inputs)
        _check_count(task, batch, size)
        answers += list(batch)[: len(part)]
    return answers


def _start(config: RunConfig) -> Runtime:
    """Devices first, then seeds and precision: virtual devices cannot be made once TensorFlow is in use."""
    runtime = make_runtime(config.strategy, config.jit_compile)
    for name in ("batch_size", "eval_batch_size"):
        if getattr(config, name) % runtime.num_replicas:
            raise ConfigError(
                f"{name}: got {getattr(config, name)}, expected a multiple of the {runtime.num_replicas} replicas of "
                f"strategy {config.strategy}"
            )
    set_precision(config.precision)
    keras.utils.set_random_seed(config.seed)
    return runtime


def _check_static(task: Task, spec: Any) -> None:
    if len(task.buckets) != 1:
        return
    for path, leaf in keras.tree.flatten_with_path(spec):
        if not leaf.shape.is_fully_defined():
            name = "/".join(str(part) for part in (("inputs", "targets", "weight")[path[0]], *path[1:]))
            raise TaskError(
                f"task {task.name}: preprocess() gave {name} the shape {leaf.shape}; expected a static one, padded to "
                "the bucket"
            )


def _load_weights(model, run_folder: str, checkpoint: str | int) -> int | None:
    """Load into `model`; returns the step, or None for "initial"."""
    if checkpoint == "initial":
        return None
    if checkpoint == "last":
        found = checkpoints.latest_checkpoint(run_folder)
        if found is None:
            raise checkpoints.CheckpointError(
                f"{run_folder}: no whole checkpoint here; train first, or ask for checkpoint 'initial'"
            )
        return checkpoints.load_checkpoint(found[1], model)
    known = dict(checkpoints.list_checkpoints(run_folder))
    if not str(checkpoint).isdigit() or int(checkpoint) not in known:
        raise checkpoints.CheckpointError(
            f"{run_folder}: no checkpoint {checkpoint!r}; expected last, initial or one of the steps {sorted(known)}"
        )
    return checkpoints.load_checkpoint(known[int(checkpoint)], model)


@contextlib.contextmanager
def _data_errors() -> Iterator[None]:
    """tf.data wraps what the pipeline's threads raise in its own error; give back the one line that matters."""
    try:
        yield
    except tf.errors.OpError as error:
        match = (re.search(r"\b(?:tfhf|pipelines|tfrecords)\.[\w.]+: ([^\n]*)", error.message)   # our Python code
                 or re.search(r"\bRecordError: ([^\n]*)", error.message))                        # a check in the graph
        if match is None:
            raise
        raise RecordError(match[1]) from error


def _check_count(task: Task, answers: list, count: int) -> None:
    if len(answers) != count:
        raise TaskError(
            f"task {task.name}: decode() returned {len(answers)} predictions, expected {count}, one per example"
        )


def _merge(metrics: list) -> dict:
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


def _json(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _show_count(verb: str, count: int, total: int, begin_s: float) -> None:
    line = f"{verb} {count}/{total} | {count / max(time.perf_counter() - begin_s, 1e-9):.1f} examples/s"
    terminal = sys.stderr.isatty()
    if terminal or count == total:
        print(
            f"\r\033[K{line}" if terminal else line,
            end="" if terminal and count < total else "\n",
            file=sys.stderr,
            flush=True,
        )


def _versions() -> dict:
    import tfhf  # here, since tfhf's own __init__ may import this module

    return {
        "tfhf": getattr(tfhf, "__version__", "unknown"),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
