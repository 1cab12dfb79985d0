"""`tfhf preflight`: a recipe's step, linted, compiled for a TPU and reported on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, Callable

from tfhf.preflight.compiler import NoCompiler, OutOfMemory, PreflightError

MOST_COMPILES = 8


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of `tfhf preflight TASK`; TensorFlow is not imported for them."""
    command.add_argument("--tpu", default="v3-8", help="such as v2-8, v3-8, v4-8, v5e-8, v6e-8, v3-32 (%(default)s)")
    command.add_argument("--step", default="train", choices=("train", "evaluate", "generate"))
    command.add_argument("--price-per-hour", type=float, help="of the whole TPU: tells what the recipe's run costs")
    command.add_argument("--largest-batch", action="store_true", help="search for the largest batch that fits")
    command.add_argument("--json", metavar="FILE", help="write the report there")
    command.add_argument("--html", metavar="FILE", help="write it there as one page with pictures")
    command.add_argument("--compare", metavar="OTHER.json", help="a report of before, to set beside this one")


def main(module, config, arguments) -> int:
    """Runs the command for a task's module (TASK) and a recipe's config; -> exit status, 1: does not fit or compile."""
    from tfhf.preflight import page, report

    other = json.loads(Path(arguments.compare).read_text("utf-8")) if arguments.compare else None
    found = preflight(module.TASK, config, arguments.tpu, arguments.step, arguments.price_per_hour,
                      arguments.largest_batch, module.__name__.rpartition(".")[2], arguments.recipe)
    print(report.text(found))
    if other is not None:
        print(report.compare(found, other))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    if arguments.html:
        Path(arguments.html).write_text(page.html(found), "utf-8")
    return 0 if report.sound(found) else 1


def preflight(task_class: Callable[[Any], Any], config, tpu_name: str, kind: str = "train",
              price_per_hour: float | None = None, largest: bool = False, task_name: str = "",
              recipe: str = "") -> dict:
    """The report (tfhf/preflight/report.py) on what a recipe would run.

    Args:
        task_class: the task, or a function that makes it from `config.task`.
        config: the `RunConfig`.
        tpu_name: such as "v3-8".
        kind: "train", "evaluate" or "generate".
        price_per_hour: of the whole TPU, in any currency.
        largest: search for the largest batch that fits.
        task_name, recipe: what to call them.

    Raises:
        UnknownTpu: no such TPU.
        PreflightError: the compiler cannot be had. What the compiler says of the step is in the report.
        ConfigError, TaskError: a recipe that no TPU would run.
    """
    from tfhf.preflight import chips, report
    from tfhf.preflight.lint import lint
    from tfhf.preflight.step import prepared_steps

    tpu = chips.tpu_named(tpu_name)
    found = report.header(task_name, recipe, kind, config, tpu)
    with prepared_steps(task_class, config, kind, tpu.cores) as prepared:
        found["findings"] = [dataclasses.asdict(finding) for finding in lint(prepared, config)]
        if any(finding["level"] == "error" for finding in found["findings"]):
            return found
        for step in prepared.steps:
            program = _compile(step, tpu)
            found["programs"].append(report.failure(step, program) if isinstance(program, PreflightError)
                                     else report.program(step, program, tpu))
        fitting = [each["name"] for each in found["programs"] if each["fits"]]
        flops = _lowered_flops(prepared, fitting)
        if largest:
            if kind != "train":
                raise PreflightError(f"largest batch: got the step {kind}, expected train")
            found["largest_batch"] = largest_batch(prepared.steps[0], tpu, config.accumulate)
        record, buckets = _record_bytes(prepared, config), prepared.task.buckets
    found["programs"] = [report.with_model_flops(each, flops[each["name"]], tpu) if each["fits"] else each
                         for each in found["programs"]]
    if kind == "train" and fitting:
        report.run_figures(found, record[0], price_per_hour)
        found["assumptions"].append(record[1])
    if kind == "generate":
        found["assumptions"].append("decoding runs on one core, on a whole evaluation batch")
    if len(buckets) > 1:
        found["assumptions"].append(f"every batch is of the longest bucket, {max(buckets)}")
    return found


def _compile(step, tpu):
    """`Compiled`, or the PreflightError that says why the step is refused."""
    from tfhf.preflight.compiler import compile_for_tpu

    print(f"compiling {step.name}, {step.examples} examples, for {tpu.name} ...", file=sys.stderr, flush=True)
    try:
        return compile_for_tpu(step.function, step.specs, tpu.topology, step.replicas)
    except NoCompiler:
        raise
    except PreflightError as error:
        return error


def _lowered_flops(prepared, names) -> dict:
    """{name: FLOP of the products of one core's program, as TensorFlow lowers it, but for what is computed again}."""
    from tfhf.layers.recompute import is_again
    from tfhf.preflight.hlo import costs

    lowered = {step.name: step.function.experimental_get_compiler_ir(*step.specs) for step in prepared.steps
               if step.name in names}
    counted = {name: costs(text(stage="hlo", platform_name="CPU")) for name, text in lowered.items()}
    return {name: sum(flops for op_name, flops in found.flops_by_name if not is_again(op_name))
            for name, found in counted.items()}


def _record_bytes(prepared, config) -> tuple[float, str]:
    """(bytes of one record, how that is known)."""
    from tfhf.data import storage
    from tfhf.data.shards import read_manifest

    folders = [storage.join(path, config.data.train_split) for path in config.data.mixture or (config.data.path,)]
    if all(storage.exists(storage.join(folder, "manifest.json")) for folder in folders):
        manifests = [read_manifest(folder) for folder in folders]
        mean = sum(each["bytes"] for each in manifests) / sum(each["count"] for each in manifests)
        return mean, f"a record has {mean:,.0f} bytes, the mean of {', '.join(folders)}"
    if prepared.task.record_type.has_audio:
        samples = max(prepared.task.buckets)
        return 2.0 * samples, (f"a record has {2 * samples:,} bytes: as long as the longest bucket, {samples:,} "
                               "samples as 16-bit PCM; FLAC is about half")
    step = prepared.steps[0]
    size = sum(spec.dtype.size * math.prod(spec.shape) for spec in step.specs) * step.replicas / step.examples
    return size, f"a record has {size:,.0f} bytes, as many as what is made of it"


def largest_batch(step, tpu, accumulate: int) -> dict:
    """Searches for the largest global batch whose train step fits a core, by a line through what was compiled.

    Returns:
        {"batch_size": the largest that is known to fit, 0 if none; "refused": the smallest that is known not to, the
        next one or at most a sixty-fourth larger, unless MOST_COMPILES ran out (None: all fitted); "compiles"}.
    """
    grain = tpu.cores * accumulate
    needed, fits, refused, compiles = {}, 0, None, 0
    batch = max(step.examples // grain, 1)
    while compiles < MOST_COMPILES and (refused is None or refused - fits > max(1, fits // 64)):
        program = _compile(step.with_examples(batch * grain), tpu)
        compiles += 1
        if isinstance(program, OutOfMemory):
            needed[batch], refused = program.needed_bytes, batch
        elif isinstance(program, PreflightError):
            raise program
        else:
            needed[batch], fits = program.total_bytes, batch
        batch = _next_batch(needed, fits, refused, tpu.chip.hbm_bytes)
    return {"batch_size": fits * grain, "refused": refused and refused * grain, "compiles": compiles}


def _next_batch(needed, fits, refused, available) -> int:
    """Where a line through the two nearest compiled batches meets the memory, kept between what is known."""
    if len(needed) == 1:
        return 2 * fits if fits else max(refused // 2, 1)
    (a, at_a), (b, at_b) = sorted(needed.items(), key=lambda item: abs(item[1] - available))[:2]
    slope = (at_b - at_a) / (b - a)
    guess = int(a + (available - at_a) / slope) if slope > 0 else 2 * fits
    if refused is None:
        return max(guess, fits + 1)
    return guess if fits < guess < refused else (fits + refused) // 2
