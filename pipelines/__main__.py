"""The `tfhf` command: one line per step of the road from raw data to a served model."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import sys
import time

import pipelines

_WRONG_PATH = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
DESCRIPTION = """\
tfhf list                                    what can be trained
tfhf records WRITER --out DIR ...            raw data -> records
tfhf data verify|stats|bench PATH            are the records whole; what is in them; how fast they come
tfhf data serve --port 5050                  prepare batches for runs on other machines
tfhf train TASK [key=value ...]              records -> checkpoints; run again to go on
tfhf evaluate TASK [key=value ...]           checkpoint -> metrics.json
tfhf predict TASK FILE ... [key=value ...]   files -> predictions
tfhf transcribe FILE ...                     recordings of any length -> text, JSON, subtitles, by Whisper
tfhf export TASK [FILE ...] [key=value ...]  checkpoint -> SavedModel, compared with the model on FILEs
tfhf preflight TASK --tpu v3-8 [key=value ...]  does the step fit a TPU, what would it cost; needs no TPU
tfhf card TASK --output RUN [--push REPO]    what the run's files say, as a model card; the model on the Hub
tfhf serve MODEL ...                         exported models over REST and gRPC, as TF Serving does
tfhf demo TASK [FILE ...] --export FOLDER    a page to try an exported model in the browser; FILEs as examples
tfhf doctor [--json]                         what is installed, what clashes, the line that mends it
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
    results = run.evaluate(module.TASK, config, arguments.split, arguments.checkpoint, arguments.averaged)
    print(json.dumps(results, indent=2))


def predict(arguments) -> None:
    from tfhf import run

    module = load_task(arguments.task)
    config = recipe_of(module, arguments)
    options = {"checkpoint": arguments.checkpoint, "averaged": arguments.averaged, "folder": config.output}
    answers = run.predict(module.TASK, config, arguments.files, **options)
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
        else run.load_trained(task, config.output, arguments.checkpoint, arguments.averaged)
    )
    out_dir = arguments.export_dir or os.path.join(config.output, "export")
    print(exporter.export(task, model, out_dir, files=arguments.files))


def card(arguments) -> None:
    from tfhf import model_card

    module = load_task(arguments.task)
    given = (module.TASK, recipe_of(module, arguments))
    if arguments.push:
        print(model_card.push_to_hub(*given, arguments.push, licence=arguments.licence, checkpoint=arguments.checkpoint,
                                     private=not arguments.public))
    else:
        print(model_card.model_card(*given, arguments.licence))


def demo(arguments) -> None:
    try:
        from tfhf.demo import command as demo_command
    except ModuleNotFoundError as error:
        raise CommandError(f"the page needs the module {error.name!r}: pip install 'tfhf[demo]'") from error

    module = load_task(arguments.task)
    demo_command.main(module.TASK.name, recipe_of(module, arguments), arguments)


def preflight(arguments) -> int:
    from tfhf.preflight import command as preflight_command

    module = load_task(arguments.task)
    return preflight_command.main(module, recipe_of(module, arguments), arguments)


def verify_data(arguments) -> int:
    from tfhf.data import verify

    wrong = 0
    for folder in verify.split_folders(arguments.path):
        begin = time.perf_counter()

        def show(done, total):
            if sys.stderr.isatty():
                rate = done / 1e6 / max(time.perf_counter() - begin, 1e-9)
                print(f"\r\033[K{folder}: {done / total:.0%}, {rate:.0f} MB/s", end="", file=sys.stderr, flush=True)

        found = verify.problems(folder, progress=show)
        wrong += len(found)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        for problem in found:
            print(f"wrong: {problem}")
        if not found:
            figures = verify.stats(folder)
            print(f"sound: {folder}: {figures['records']} records, {figures['shards']} shards, "
                  f"{figures['bytes'] / 1e6:.1f} MB, fingerprint {figures['fingerprint'][:12]}")
    return 1 if wrong else 0


def describe_data(arguments) -> None:
    from tfhf.data import verify

    buckets = [int(word) for word in arguments.buckets.split(",")] if arguments.buckets else None
    if arguments.task:
        module = load_task(arguments.task)
        buckets = module.TASK(module.RECIPES["default"].task).buckets
    folders = verify.split_folders(arguments.path)
    print(json.dumps({folder: verify.stats(folder, buckets) for folder in folders}, indent=2, ensure_ascii=False))


def bench_data(arguments) -> None:
    from tfhf.data import throughput

    where, batch_size = (arguments.path, arguments.split), arguments.batch_size
    found = throughput.measure_reading(*where, arguments.seconds)
    print(found.line("read and checked"))
    if arguments.task:
        module = load_task(arguments.task)
        config = module.RECIPES["default"].override(arguments.overrides)
        batch_size = batch_size or config.batch_size
        task = module.TASK(config.task)
        found = throughput.measure_batches(task, *where, batch_size, arguments.seconds, config.data.drop_longer)
        print(found.line(f"batches of {batch_size} for {arguments.task}"))
    if arguments.step_seconds:
        if not batch_size:
            raise CommandError("--step-seconds without TASK: expected --batch-size too, the examples that a step takes")
        print(found.need(batch_size, arguments.step_seconds))


def serve_data(arguments) -> None:
    from tfhf.input_service import InputServer

    server = InputServer(load_task, arguments.port, arguments.host, arguments.records or ())
    print(f"serving: input_servers={server.address}", flush=True)
    server.run()


def parser() -> argparse.ArgumentParser:
    from tfhf.preflight import command as preflight_command   # needs NumPy, which `tfhf doctor` must not

    top = argparse.ArgumentParser(
        prog="tfhf", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list tasks and recipes").set_defaults(action=list_tasks)
    records = commands.add_parser("records", help="write records; `tfhf records --help`", add_help=False)
    records.set_defaults(action=None)
    data = commands.add_parser("data", help="look at records").add_subparsers(required=True, metavar="WHAT")
    for name, action, text in (
        ("verify", verify_data, "read everything; exit status 1 and a line for each thing that is wrong"),
        ("stats", describe_data, "counts, lengths, hours, padding, as JSON; no record is read"),
    ):
        command = data.add_parser(name, help=text)
        command.set_defaults(action=action)
        command.add_argument("path", metavar="PATH", help="OUT or OUT/SPLIT, local or gs://")
        if name == "stats":
            command.add_argument("task", metavar="TASK", nargs="?", help="whose buckets to tell the padding for")
            command.add_argument("--buckets", help="ascending lengths to tell the padding for: 80000,160000")
    bench = data.add_parser("bench", help="MB/s and examples/s without a model, and what a model's step needs")
    bench.set_defaults(action=bench_data, command="bench")
    bench.add_argument("path", metavar="PATH", help="folder of the records, local or gs://")
    bench.add_argument("task", metavar="TASK", nargs="?", help="whose batches to make; none: records are only read")
    bench.add_argument("rest", metavar="key=value", nargs="*", help="changes of the task's default recipe")
    bench.add_argument("--split", default="train")
    bench.add_argument("--seconds", type=float, default=5.0, help="how long to measure (%(default)g)")
    bench.add_argument("--batch-size", type=int, help="over all replicas; default: the recipe's")
    bench.add_argument("--step-seconds", type=float, help="a measured step: tells what it needs")
    serve = data.add_parser("serve", help="prepare batches for runs on other machines (their input_servers)")
    serve.set_defaults(action=serve_data, command="serve")
    serve.add_argument("--port", type=int, default=5050, help="and the two ports behind it (%(default)s)")
    serve.add_argument("--host", default="127.0.0.1", help="where it listens, the address by which the runs reach this "
                       "machine (%(default)s: runs on this machine only); it knows no passwords")
    serve.add_argument("--records", action="append", metavar="FOLDER", help="records below this folder only, local or "
                       "gs://; may be given several times")
    for name, action, text in (
        ("train", train, "train a task, or go on where it stopped"),
        ("evaluate", evaluate, "score a checkpoint"),
        ("predict", predict, "predict from files"),
        ("export", export, "write a SavedModel"),
        ("card", card, "the model card of a run, and its model on the Hugging Face Hub"),
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
        command.add_argument("--strategy", help="none, cpu:N, gpu, tpu[:name] or workers")
        if name != "export":   # a SavedModel is TensorFlow's
            command.add_argument("--backend", choices=("tensorflow", "jax"), help="Keras' backend (KERAS_BACKEND)")
        if name != "train":
            command.add_argument("--checkpoint", default="last", help="last (default), best, initial, or a step")
            command.add_argument("--raw-weights", dest="averaged", action="store_false",
                                 help="not the running means that a run with ema_decay keeps")
        if name == "evaluate":
            command.add_argument("--split", help="default: the recipe's data.eval_split")
        if name == "card":
            command.add_argument("--push", metavar="USER/NAME", help="upload model, card and TensorBoard's events")
            command.add_argument("--public", action="store_true", help="the repository is not private")
            command.add_argument("--licence", default="unknown", help="of the weights, such as mit")
        if name == "export":
            command.add_argument("--export-dir", help="default: OUTPUT/export; the model goes to DIR/TASK/VERSION")
    command = commands.add_parser("demo", help="a page to try an exported model in the browser")
    command.set_defaults(action=demo, data=None, strategy=None)
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument("task", metavar="TASK")
    command.add_argument("rest", nargs="*", metavar="FILE or key=value", help="recordings or images to offer")
    command.add_argument("--recipe", default="default")
    command.add_argument("--output", help="the run's folder, whose export it is")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--export", help="folder of the export: OUT, OUT/TASK or OUT/TASK/1; default: OUTPUT/export")
    where.add_argument("--server", metavar="ADDRESS", help="of one that runs: http://HOST:PORT or grpc://HOST:PORT")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows it to other machines: it asks no password")
    command.add_argument("--port", type=int, default=7860, help="0: any free one (%(default)s)")
    command.add_argument("--share", action="store_true", help="a public address for some days, by Gradio's servers")
    command = commands.add_parser("preflight", help="compile a task's step for a TPU, without one; 1: does not fit")
    command.set_defaults(action=preflight, output=None, strategy=None)
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument("task", metavar="TASK")
    command.add_argument("rest", nargs="*", metavar="key=value", help="for example batch_size=256")
    command.add_argument("--recipe", default="default")
    command.add_argument("--data", help="folder of the records (data.path); they need not be there")
    preflight_command.add_arguments(command)
    transcribing = commands.add_parser("transcribe", help="recordings -> text; its own --help", add_help=False)
    transcribing.set_defaults(action=None)
    serving = commands.add_parser("serve", help="exported models over REST and gRPC; its own --help", add_help=False)
    serving.set_defaults(action=None)
    doctor = commands.add_parser("doctor", help="what is installed, what clashes; its own --help", add_help=False)
    doctor.set_defaults(action=None)
    return top


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; options, files and key=value may come in any order."""
    top = parser()
    arguments, extra = top.parse_known_args(argv)
    rest = getattr(arguments, "rest", []) + extra
    unknown = [word for word in rest if word.startswith("-")]
    # A file may have = in its name; then it is there.
    files = [word for word in rest if not _OVERRIDE.match(word) or os.path.exists(word)]
    if unknown or (files and arguments.command not in ("predict", "export", "demo")):
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
    handed_over = {"records": "tfrecords.__main__", "doctor": "tfhf.doctor", "serve": "tfhf.server.command"}
    if argv and argv[0] in handed_over:
        return importlib.import_module(handed_over[argv[0]]).main(argv[1:])
    if argv and argv[0] == "transcribe":
        return importlib.import_module("tfhf.transcribe").main(argv[1:], load_task)
    arguments = parse(argv)
    if getattr(arguments, "backend", None):
        os.environ["KERAS_BACKEND"] = arguments.backend   # before Keras is imported
    try:
        return arguments.action(arguments) or 0
    except (ValueError, OSError, RuntimeError) as error:
        # Errors of our own classes say all there is to say; one from elsewhere is a bug and keeps its trace.
        ours = type(error).__module__.startswith(("tfhf.", "pipelines.", "tfrecords.", "__main__"))
        line = str(error) if ours else _wrong_path(error) or _disk_problem(error)
        if arguments.debug or not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def _wrong_path(error):
    """One line about a path that somebody named wrongly; None of another error."""
    if not isinstance(error, _WRONG_PATH):
        return None
    return f"{error.filename}: {error.strerror.lower()}" if error.filename and error.strerror else str(error)


def _disk_problem(error):
    """One line where a library met a full or read-only disk, such as that of temporary files; None otherwise."""
    from tfhf.data import storage

    return storage.write_problem(error) if isinstance(error, OSError) else None


if __name__ == "__main__":
    sys.exit(main())
