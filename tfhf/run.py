"""Train, evaluate and predict: the same few lines for every task. The only `.fit(` of the repository is here.

A run is a folder: config.json, labels.json of a task with classes, history.jsonl, checkpoints/, tensorboard/,
evaluation/SPLIT-step-N/. Running the same command again goes on from the newest whole checkpoint, with the batches, the
dropout and the losses that the uninterrupted run would have had.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import time
from typing import Any, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfhf import checkpoints
from tfhf.config import ConfigError
from tfhf.data import storage
from tfhf.data.class_weights import check_class_weights
from tfhf.data.labels import check_records_classes, check_trained_classes
from tfhf.data.pipeline import evaluation_batches, padding_stats
from tfhf.data.records import read_manifest
from tfhf.data.schema import RecordError
from tfhf.evaluation import LossEvaluator, Pictures, PredictionFolder, check_count, data_errors, merged_results
from tfhf.evaluation import references
from tfhf.gan import AdversarialLoss, AdversarialPair, GanTrainer
from tfhf.input_service import Batches, batches_of, watched
from tfhf.optimizers import freeze, make_optimizer
from tfhf.preemption import Preempted, StopSignals
from tfhf.progress import History, InputClock, ProgressLine, StepCallback, save_pictures, save_samples, show_preflight
from tfhf.progress import tensorboard_errors
from tfhf.run_checks import check_evaluation, check_replicas, check_room, evaluation_fingerprints, what_changed
from tfhf.run_classes import check_data_classes, checkpoint_classes, read_classes, save_labels, trained_classes
from tfhf.run_config import DataConfig, RunConfig, check_same_records, check_same_run, training_records
from tfhf.strategy import Runtime, StopOfAnyHost, check_built_in_scope, lost_hosts, make_runtime, set_precision
from tfhf.strategy import strategy_kind
from tfhf.task import Task, TaskError
from tfhf.train_steps import Trainer

SAMPLED_EXAMPLES = 8   # of an evaluation, in TensorBoard

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
        Preempted: SIGTERM or SIGINT came, to this host or another; the last step is saved.
        StrategyError: another process of the cluster is gone.
        InputServiceError: an input server that refuses, or was started anew.
        StorageError: the output cannot be written, or the disk has no room for the run's checkpoints.

    Of several hosts the chief alone writes; `config.output` must be a folder that all of them read.
    """
    runtime = _start(config, shared=True)
    task = task_class(config.task)
    storage.make_folder(config.output)
    with contextlib.ExitStack() as stack:
        folder = config.output
        if runtime.is_chief:
            stack.callback(storage.FolderLock(folder).close)
            storage.check_writable(folder)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            with StopSignals() as stop, lost_hosts(runtime), watched(config.input_servers), data_errors():
                return _train(task, config, runtime, StopOfAnyHost(stop, runtime), folder)
        except Preempted as preempted:
            print(preempted.message, file=sys.stderr, flush=True)
            raise


def _train(task: Task, config: RunConfig, runtime: Runtime, stop: StopOfAnyHost, folder: str) -> dict:
    """`folder`: where this process writes all but the checkpoints: the run's, or one that nobody reads."""
    if runtime.is_chief:
        checkpoints.remove_unfinished(config.output)
    newest = checkpoints.latest_checkpoint(config.output)
    done = newest[0] if newest else 0
    steps = runtime.gather(done)
    if len(set(steps)) > 1:
        raise ConfigError(f"output: got {config.output}, in which the hosts find the newest checkpoint at the steps "
                          f"{steps}; expected a folder that all of them share")
    begun = checkpoints.read_state(newest[1])["data"] if newest else None
    old = check_same_run(config) if newest else config
    if done > config.steps:
        raise ConfigError(f"steps: got {config.steps}, but {config.output} has a checkpoint of step {done}")
    if done % config.steps_per_execution:
        raise ConfigError(
            f"steps_per_execution: got {config.steps_per_execution}, which does not divide the step {done} of "
            "the checkpoint to go on from"
        )
    records = training_records(config.data)
    if newest:
        check_same_records(records, begun, newest[1])
        check_trained_classes(task, checkpoint_classes(config.output, done), newest[1])
    check_class_weights(task)
    check_evaluation(task, config)
    check_data_classes(task, config, records["classes"])
    trainer = make_trainer(task, config, runtime)
    if runtime.is_chief and done < config.steps:
        check_room(trainer, config, done)
    if newest:
        replicas = check_replicas(trainer, config, runtime, begun, newest[1])
        checkpoints.load_checkpoint(newest[1], trainer.model, trainer.optimizer_state, trainer.averages)
        print(f"{config.output}: going on from step {done}", file=sys.stderr, flush=True)
        for line in what_changed(old, config, begun, runtime, replicas):
            print(f"{config.output}: {line}", file=sys.stderr, flush=True)
    # Images are not padded: a task brings them to one size.
    padding = None
    if task.record_type.length_field != "pixels":
        padding = padding_stats(task, config.data.training_path, config.data.train_split).fraction
    config.save(storage.join(folder, "config.json"))
    save_labels(task, records, folder)
    history = History(folder, checkpoints.read_history(newest[1]) if newest else ())
    if done < config.steps:
        _fit(task, config, runtime, trainer, history, done, padding, records, stop, folder)
        runtime.gather(0)  # the chief has written the last checkpoint
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


def _fit(task, config, runtime, trainer, history, done, padding, records, stop, folder) -> None:
    clock = InputClock()

    def batches(num_hosts: int, host_index: int) -> tf.data.Dataset:
        what = Batches(config.data.train_split, True, done, config.steps - done)
        dataset = batches_of(task, config, what, num_hosts, host_index)
        _check_static(task, dataset.element_spec)
        # The clock is a variable of this process, which the hosts of a pod cannot reach.
        return dataset if runtime.kind == "tpu" and runtime.num_hosts > 1 else clock.attach(dataset)

    evaluator = pictures = None
    if config.evaluate_every:
        evaluator = LossEvaluator(task, trainer, runtime, config)
        pictures = Pictures(task, trainer, runtime, config)
    with tensorboard_errors(folder):
        writer = tf.summary.create_file_writer(storage.join(folder, "tensorboard"))
        show_preflight(writer, folder)
    place = {**records, "classes": trained_classes(task, records), "evaluation": evaluation_fingerprints(config),
             "replicas": runtime.num_replicas}
    saver = checkpoints.CheckpointWriter(config.output, config.keep_checkpoints, config.keep_best)

    def save(step: int) -> None:
        if not runtime.is_chief:
            return
        epoch = step * config.batch_size // records["count"]
        position = {"step": step, "epoch": epoch, "seed": config.seed, **place}
        state = (trainer.model, trainer.optimizer_state, trainer.averages)
        saver.save(checkpoints.Snapshot.take(step, *state, history=history.lines, data=position))

    callback = StepCallback(
        trainer=trainer,
        history=history,
        clock=clock,
        writer=writer,
        line=ProgressLine(config.steps, config.batch_size, padding, sys.stderr if runtime.is_chief else io.StringIO()),
        start_step=done,
        total_steps=config.steps,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        evaluate=evaluator,
        pictures=pictures,
        save=save,
        check_saved=saver.check,
        keep_best=config.keep_best,
        stop=stop,
    )
    # One Keras epoch is the whole rest of the run: epochs are the pipeline's matter, and all else goes by steps.
    try:
        dataset = runtime.distribute(config.batch_size, batches)
        trainer.fit(dataset, epochs=1, shuffle=False, verbose=0, callbacks=[callback])
    finally:
        saver.wait()
        with tensorboard_errors(folder):
            writer.close()
    if callback.step != config.steps:
        raise RecordError(f"{config.data.path}: the data ended at step {callback.step}, expected {config.steps}")


def make_trainer(task: Task, config: RunConfig, runtime: Runtime) -> Trainer:
    """Build the task's model, optimizer and train step in the runtime's scope, ready for `fit`."""
    if runtime.kind in ("cpu", "workers") and config.steps_per_execution > 1:
        raise ConfigError(
            f"steps_per_execution: got {config.steps_per_execution}, expected 1: more fails in TensorFlow under "
            f"strategy {config.strategy}"
        )
    # Again: Google's client draws its retry pauses from Python's `random`, and Keras the initial weights' seeds.
    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        model = build_model(task, runtime)
        freeze(model, config.freeze)
        loss = task.loss()
        options = {"max_traces": len(task.buckets), "accumulate": config.accumulate, "ema_decay": config.ema_decay}
        trained, kind = model, _trainer_class()
        if isinstance(loss, AdversarialLoss):
            if kind is not Trainer:
                raise TaskError(f"task {task.name}: an AdversarialLoss trains on the TensorFlow backend only")
            if not isinstance(model, AdversarialPair):
                raise TaskError(
                    f"task {task.name}: build_model() returned a {type(model).__name__}, expected an AdversarialPair, "
                    "since loss() returned an AdversarialLoss"
                )
            trained, kind = model.generator, GanTrainer
            discriminator_optimizer = make_optimizer(config.optimizer, model.discriminator, config.steps)
            options["discriminator_optimizer"] = discriminator_optimizer
        trainer = kind(model, loss, config.seed, runtime.num_replicas, **options)
        optimizer = make_optimizer(config.optimizer, trained, config.steps)
        trainer.compile(
            optimizer=optimizer, jit_compile=runtime.jit_compile, steps_per_execution=config.steps_per_execution
        )
    return trainer


def _trainer_class():
    if keras.backend.backend() == "jax":
        from tfhf.jax_steps import JaxTrainer  # JAX is not needed otherwise

        return JaxTrainer
    return Trainer


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


def load_trained(task: Task, run_folder: str, checkpoint: str | int = "last", averaged: bool = True):
    """The task's model with the weights of a run's checkpoint: "last", "best" (by eval_loss), or a step.

    A run with `ema_decay` has the running means of its weights as well: they are taken, unless `averaged` is false.

    Raises:
        CheckpointError: there is no such checkpoint, it is torn, or it does not fit the model.
    """
    model = task.build_model()
    _load_weights(task, model, run_folder, checkpoint, averaged)
    return model


def evaluate(
    task_class: type[Task],
    config: RunConfig,
    split: str | None = None,
    checkpoint: str | int = "last",
    averaged: bool = True,
) -> dict:
    """Decode every example of a split once and score it; writes metrics.json and predictions.jsonl.

    They go to OUTPUT/evaluation/SPLIT-step-N/ (SPLIT-initial/ for the untrained model; SPLIT-step-N-raw/ without
    averages), and with them NAME.png of a metric that has a picture; TensorBoard shows it too, and what was predicted
    of the first examples, with their sounds. A prediction that is an array of two axes or more is a file there,
    predictions/ID.png or .npy, and its line holds the name.

    Args:
        split: of the records; None: the config's eval_split.
        checkpoint: "last", "best" (by eval_loss), a step, or "initial" for the model as `build_model` gives it.
        averaged: take the running means of the weights where the checkpoint has them.

    Returns:
        The metrics' results in one dict, plus "examples". A key that two metrics share stays the first one's; the
        other gets its metric's `name`, or else that metric's first key, in front ("cer_substitutions").
    """
    runtime = _start(config)
    task, split = task_class(config.task), split or config.data.eval_split
    # What is missing is refused before anything is built or written.
    records = storage.join(config.data.path, split)
    manifest = read_manifest(records)
    chosen = None if checkpoint == "initial" else checkpoints.chosen_checkpoint(config.output, checkpoint)
    storage.check_writable(config.output)
    model = build_model(task, runtime)
    step = None if chosen is None else _load_checkpoint(task, model, chosen, averaged)
    name = (f"{split}-initial" if step is None else f"{split}-step-{step:08d}") + "-raw" * (not averaged)
    folder = storage.join(config.output, "evaluation", name)
    metrics, predictions, samples, begin = task.metrics(), [], [], time.perf_counter()
    files = PredictionFolder(folder)
    check_records_classes(task, manifest, records, checkpoint_classes(config.output, step))
    with data_errors():
        batches = evaluation_batches(
            task, config.data.path, split, batch_size=config.eval_batch_size, drop_longer=config.data.drop_longer
        )
        for batch in batches:
            answers = task.decode(model, batch["inputs"])
            check_count(task, answers, config.eval_batch_size)
            truths = references(task, batch["reference"].numpy())
            columns = (batch["real"].numpy(), batch["id"].numpy(), truths, answers)
            for row, (real, identity, reference, prediction) in enumerate(zip(*columns)):
                if not real:
                    continue
                for metric in metrics:
                    metric.update(reference, prediction)
                identity = identity.decode("utf-8")
                line = {"id": identity, "reference": files.plain(reference, f"{identity}-reference")}
                predictions.append({**line, "prediction": files.plain(prediction, identity)})
                if len(samples) < SAMPLED_EXAMPLES:
                    inputs = {name: value[row] for name, value in batch["inputs"].items()}
                    said = {"prediction": prediction} if isinstance(prediction, str) else {}
                    samples.append(({**line, **said}, task.sound(inputs)))
            _show_count("evaluated", len(predictions), manifest["count"], begin)
    results = {**merged_results(metrics), "examples": len(predictions)}
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
    with tensorboard_errors(config.output):
        save_pictures(metrics, folder, config.output, split, step)
        save_samples(samples, task.record_type.sample_rate_hz, config.output, split, step)
    return results


def predict(
    task_class: type[Task],
    config: RunConfig,
    paths: Sequence[str | os.PathLike],
    checkpoint: str | int = "last",
    averaged: bool = True,
    folder: str | None = None,
) -> list:
    """One prediction per input file, in order; `checkpoint` and `averaged` as in `evaluate`.

    With `folder`, `Task.picture` of each goes to FOLDER/predictions/NAME-picture.png, and a prediction that is an
    array of two axes or more to NAME.png or NAME.npy beside it; its path is then returned in its place.
    """
    runtime = _start(config)
    task = task_class(config.task)
    examples = [task.load_inputs(os.fspath(path)) for path in paths]  # a bad file is told before a model is built
    if folder is not None and (type(task).picture is not Task.picture):
        storage.check_writable(folder)
    model = build_model(task, runtime)
    _load_weights(task, model, config.output, checkpoint, averaged)
    answers, size = [], config.eval_batch_size
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        padded = part + [part[-1]] * (size - len(part))  # one shape, one compile
        inputs = {key: tf.constant(np.stack([example[key] for example in padded])) for key in part[0]}
        batch = task.decode(model, inputs)
        check_count(task, batch, size)
        answers += list(batch)[: len(part)]
    if folder is None:
        return answers
    files, names = PredictionFolder(folder, folder), [os.path.splitext(os.path.basename(path))[0] for path in paths]
    for name, example, answer in zip(names, examples, answers):
        picture = task.picture(example, answer)
        if picture is not None:
            print(f"picture: {files.picture(picture, f'{name}-picture')}", file=sys.stderr, flush=True)
    return [files.plain(answer, name) for name, answer in zip(names, answers)]


def _start(config: RunConfig, shared: bool = False) -> Runtime:
    """Devices first, then seeds and precision: virtual devices cannot be made once TensorFlow is in use.

    `shared`: the work can be shared by several processes.
    """
    if strategy_kind(config.strategy) == "workers" and not shared:
        raise ConfigError("strategy: got workers, expected one of a single process: only training is shared by several")
    runtime = make_runtime(config.strategy, config.jit_compile, config.shard_weights)
    prepare(config, runtime)
    return runtime


def prepare(config: RunConfig, runtime: Runtime) -> None:
    """What a run sets before anything is built: precision and seeds; ConfigError for batches that cannot be split."""
    for name, accumulate in (("batch_size", config.accumulate), ("eval_batch_size", 1)):
        if getattr(config, name) % (runtime.num_replicas * accumulate):
            raise ConfigError(
                f"{name}: got {getattr(config, name)}, expected a multiple of the {runtime.num_replicas} replicas of "
                f"strategy {config.strategy}" + f" times accumulate={accumulate}" * (accumulate > 1)
            )
    set_precision(config.precision)
    keras.utils.set_random_seed(config.seed)


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


def _load_weights(task: Task, model, run_folder: str, checkpoint: str | int, averaged: bool) -> int | None:
    """Load into `model`; returns the step, or None for "initial"."""
    if checkpoint == "initial":
        return None
    return _load_checkpoint(task, model, checkpoints.chosen_checkpoint(run_folder, checkpoint), averaged)


def _load_checkpoint(task: Task, model, folder: str, averaged: bool) -> int:
    check_trained_classes(task, read_classes(folder), folder)
    return checkpoints.load_checkpoint(folder, model, averaged=averaged)


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
