"""The `tfhf` command: one line per step of the road from raw data to a served model."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import sys

import pipelines

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
DESCRIPTION = """\
tfhf list                                    what can be trained
tfhf records WRITER --out DIR ...            raw data -> records
tfhf train TASK [key=value ...]              records -> checkpoints; run again to go on
tfhf evaluate TASK [key=value ...]           checkpoint -> metrics.json
tfhf predict TASK FILE ... [key=value ...]   files -> predictions
tfhf export TASK [FILE ...] [key=value ...]  checkpoint -> SavedModel, compared with the model on FILEs
"""


class CommandError(ValueError):
    """A command line that names something which is not there."""


def task_names() -> list[str]:
    """The modules of this package, one per task; whether each is one is known when it is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.name != "__main__")


def load_task(name: str):
    """The module pipelines/NAME.py, which must have TASK and RECIPES.

    Raises:
        CommandError: there is no such module, or it is no task.
    """
    if name not in task_names():
        raise CommandError(f"unknown task {name!r}; expected one of {', '.join(task_names()) or '(none)'}")
    module = importlib.import_module(f"pipelines.{name}")
    if not hasattr(module, "TASK") or "default" not in getattr(module, "RECIPES", {}):
        raise CommandError(f"pipelines/{name}.py is no task: expected TASK and RECIPES with a recipe named 'default'")
    return module


def recipe_of(module, arguments):
    """The recipe that the command names, with its options and key=value overrides."""
    if arguments.recipe not in module.RECIPES:
        raise CommandError(f"unknown recipe {arguments.recipe!r}; expected one of {', '.join(module.RECIPES)}")
    options = [("output", arguments.output), ("data.path", arguments.data), ("strategy", arguments.strategy)]
    given = [f"{key}={value}" for key, value in options if value is not None]
    return module.RECIPES[arguments.recipe].override(given + arguments.overrides)


def list_tasks(arguments) -> None:
    for name in task_names():
        try:
            module = load_task(name)
        except CommandError:
            continue  # a script beside the tasks, such as the quickstart
        print(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
        print(f"    recipes: {', '.join(module.RECIPES)}")


def train(arguments) -> None:
    from tfhf import run

    module = load_task(arguments.task)
    history = run.train(module.TASK, recipe_of(module, arguments))
    print(f"checkpoint: {history['checkpoint']}")


def evaluate(arguments) -> None:
    from tfhf import run

    module = load_task(arguments.task)
    config = recipe_of(module, arguments)
    print(json.dumps(run.evaluate(module.TASK, config, arguments.split, arguments.checkpoint), indent=2))


def predict(arguments) -> None:
    from tfhf import run

    module = load_task(arguments.task)
    answers = run.predict(module.TASK, recipe_of(module, arguments), arguments.files, arguments.checkpoint)
    for path, answer in zip(arguments.files, answers):
        print(f"{path}\t{answer}")


def export(arguments) -> None:
    from tfhf import export as exporter
    from tfhf import run

    module = load_task(arguments.task)
    config = recipe_of(module, arguments)
    task = module.TASK(config.task)
    model = (
        task.build_model()
        if arguments.checkpoint == "initial"
        else run.load_trained(task, config.output, arguments.checkpoint)
    )
    out_dir = arguments.export_dir or os.path.join(config.output, "export")
    print(exporter.export(task, model, out_dir, files=arguments.files))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tfhf", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list tasks and recipes").set_defaults(action=list_tasks)
    records = commands.add_parser("records", help="write records; `tfhf records --help`", add_help=False)
    records.set_defaults(action=None)
    for name, action, text in (
        ("train", train, "train a task, or go on where it stopped"),
        ("evaluate", evaluate, "score a checkpoint"),
        ("predict", predict, "predict from files"),
        ("export", export, "write a SavedModel"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(action=action)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.add_argument("task", metavar="TASK")
        what = "FILE or key=value" if name in ("predict", "export") else "key=value"
        command.add_argument("rest", nargs="*", metavar=what, help="for example optimizer.learning_rate=1e-5")
        command.add_argument("--recipe", default="default")
        command.add_argument("--output", help="the run's folder, local or gs://")
        command.add_argument("--data", help="folder of the records (data.path)")
        command.add_argument("--strategy", help="none, cpu:N, gpu or tpu[:name]")
        if name != "train":
            command.add_argument("--checkpoint", default="last", help="last (default), initial, or a step")
        if name == "evaluate":
            command.add_argument("--split", help="default: the recipe's data.eval_split")
        if name == "export":
            command.add_argument("--export-dir", help="default: OUTPUT/export; the model goes to DIR/TASK/VERSION")
    if importlib.util.find_spec("tfhf.preflight") and importlib.util.find_spec("tfhf.doctor"):
        for name in ("preflight", "doctor"):
            commands.add_parser(name, add_help=False).set_defaults(action=None)
    return top


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; options, files and key=value may come in any order."""
    top = parser()
    arguments, extra = top.parse_known_args(argv)
    rest = getattr(arguments, "rest", []) + extra
    unknown = [word for word in rest if word.startswith("-")]
    # A file may have = in its name; then it is there.
    files = [word for word in rest if not _OVERRIDE.match(word) or os.path.exists(word)]
    if unknown or (files and arguments.command not in ("predict", "export")):
        top.error(
            f"unrecognised: {' '.join(unknown or files)}; expected key=value, or an option of "
            f"`{arguments.command} --help`"
        )
    if arguments.command == "predict" and not files:
        top.error("predict: expected at least one FILE")
    arguments.files, arguments.overrides = files, [word for word in rest if word not in files]
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 2 after one clear line for whatever the user can mend."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    argv = sys.argv[1:] if argv is None else argv
    handed_over = {"records": "tfrecords.__main__", "preflight": "tfhf.preflight", "doctor": "tfhf.doctor"}
    if argv and argv[0] in handed_over and importlib.util.find_spec(handed_over[argv[0]].removesuffix(".__main__")):
        return importlib.import_module(handed_over[argv[0]]).main(argv[1:])
    arguments = parse(argv)
    try:
        arguments.action(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        # Errors of our own classes say all there is to say; one from elsewhere is a bug and keeps its trace.
        ours = type(error).__module__.startswith(("tfhf.", "pipelines.", "tfrecords.", "__main__"))
        if arguments.debug or not (ours or isinstance(error, (FileNotFoundError, PermissionError))):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
