"""What a compiled step means for a run: whether it fits, what bounds it, how fast it can be at best, what it costs.

A report is a dict that JSON can hold. All times are lower bounds, by the chip's published figures: a real step is
slower. MFU is that of the model (PaLM, Chowdhery et al. 2022, appendix B): FLOP of products and convolutions of one
update, computing activations again left out, over seconds times the chip's peak.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from importlib import metadata

from tfhf.preflight.compiler import OutOfMemory, place

GIB = 2**30
PACKAGES = ("tensorflow", "keras", "jax", "jaxlib", "libtpu")
MOST_NAMES = 12
# What TensorFlow and Keras put around a layer's path: calls, loops, gradients, the copies' numbers.
_STACKED = re.compile(r"^(layers?|conv_layers|blocks?|h)_\d+(_\d+)?$")
_AROUND = re.compile(r"\b(StatefulPartitionedCall|PartitionedCall|while|body|gradient_tape|gradients|Tensordot"
                     r"|computed_again)(_\d+)?(/|$)")
_BACKWARD = re.compile(r"\bgradient(_tape|s)(_\d+)?/")


def header(task: str, recipe: str, step: str, config, tpu) -> dict:
    """What a report is about. `tpu`: a `tfhf.preflight.chips.Tpu`."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "task": task, "recipe": recipe, "step": step, "tpu": tpu.name, "cores": tpu.cores,
        "precision": config.precision, "batch_size": config.batch_size if step == "train" else config.eval_batch_size,
        "accumulate": config.accumulate, "steps": config.steps,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "versions": versions, "findings": [], "programs": [],
        "assumptions": ["times are lower bounds: arithmetic at the chip's peak, bytes at its whole bandwidth, "
                        "whichever takes longer; the host and the bucket keep up"],
    }


def program(step, compiled, tpu) -> dict:
    """The figures of one compiled program; `with_model_flops` adds those that need the model's FLOP.

    Args:
        step: a `tfhf.preflight.step.Step`.
        compiled: a `Compiled`.
        tpu: a `Tpu`.
    """
    costs, least = compiled.costs, tpu.bound(compiled.costs, step.replicas)
    return {
        "name": step.name, "cores": step.replicas, "examples": step.examples, "fits": True,
        "memory": {
            "available": tpu.chip.hbm_bytes, "needed": compiled.total_bytes, "arguments": compiled.argument_bytes,
            "temporaries": compiled.temporary_bytes, "outputs": compiled.output_bytes - compiled.alias_bytes,
            "largest": _largest(step, compiled.buffers),
        },
        "flops": costs.flops, "bytes": costs.bytes,
        "all_reduce_bytes": costs.all_reduce_bytes, "padded_share": costs.padded_share,
        "flops_by_layer": by_layer(costs.flops_by_name), "bytes_by_layer": by_layer(costs.bytes_by_name),
        "unknown_loops": list(costs.unknown_loops),
        "seconds": {"arithmetic": least.arithmetic, "memory": least.memory, "all_reduce": least.all_reduce,
                    "compiler": least.compiler},
        "bound": least.by.replace("_", "-"), "bound_seconds": least.seconds,
        "examples_per_second": step.examples / least.seconds,
        "compile_seconds": compiled.seconds,
    }


def with_model_flops(program: dict, flops: float, tpu) -> dict:
    """The figures of a program, with the FLOP of one core that computing activations again is left out of."""
    expected = program["seconds"]["compiler"]
    return {**program, "model_flops": flops, "mfu_ceiling": tpu.mfu(flops, program["bound_seconds"]),
            "mfu_expected": None if expected is None else tpu.mfu(flops, expected)}


def failure(step, error) -> dict:
    """A program that the compiler refused: for memory (`OutOfMemory`), or for another reason."""
    found = {"name": step.name, "cores": step.replicas, "examples": step.examples, "fits": False, "error": str(error)}
    if isinstance(error, OutOfMemory):
        found["memory"] = {"available": error.available_bytes, "needed": error.needed_bytes,
                           "largest": _largest(step, error.largest)}
    return found


def _largest(step, buffers) -> list[dict]:
    """The largest buffers, alike ones (of the layers of a stack) as one: their layer, and the line that makes them."""
    graph = step.function.get_concrete_function(*step.specs).graph
    alike = {}
    for buffer in buffers:
        alike.setdefault((buffer.bytes, buffer.what, layer(buffer.op_name)), []).append(buffer)
    ordered = sorted(alike.values(), key=lambda same: -sum(buffer.bytes for buffer in same))[:MOST_NAMES]
    return [{"bytes": sum(buffer.bytes for buffer in same), "count": len(same), "name": layer(same[0].op_name),
             "what": same[0].what, "place": nearby(place(graph, same[0].op_name))} for same in ordered]


def nearby(where: str) -> str:
    """A place in the source, "file:line", relative to the current folder where it lies in that."""
    file, colon, line = where.rpartition(":")
    return os.path.relpath(file) + colon + line if file.startswith(os.getcwd() + os.sep) else where


def run_figures(report: dict, bytes_per_example: float, price_per_hour: float | None) -> None:
    """Adds what the train step's figures mean for the whole run: what it reads, how long it takes, what it costs."""
    step = report["programs"][0]
    hours = report["steps"] * step["bound_seconds"] / 3600
    report["run"] = {"bucket_mb_per_second": step["examples_per_second"] * bytes_per_example / 1e6, "hours": hours,
                     "examples": report["steps"] * step["examples"],
                     "cost": None if price_per_hour is None else hours * price_per_hour}


def sound(report: dict) -> bool:
    """Whether the step compiles and fits, and nothing was found that stands in its way."""
    return (bool(report["programs"]) and all(each["fits"] for each in report["programs"])
            and not any(finding["level"] == "error" for finding in report["findings"]))


def layer(op_name: str) -> str:
    """TensorFlow's name of an op -> the path of its layer, those of a stack as one.

    "while/body/m/encoder/layers_3_1/fc1_1/Tensordot/MatMul" -> "m/encoder/layers_*/fc1"; what the gradient makes of it
    has " (backward)" behind it.
    """
    if "XLA_Args" in op_name:
        return "arguments: weights, the optimizer's state, the batch"
    parts = [part for part in _AROUND.sub("", op_name.split(";")[0]).split("/") if part]
    while len(parts) > 1 and (parts[-1] == op_name.rpartition("/")[2] or parts[-1][0].isupper()):
        parts.pop()  # ops, not layers
    parts = [_STACKED.sub(r"\1_*", part) if _STACKED.match(part) else re.sub(r"_\d+$", "", part) for part in parts]
    return "/".join(parts) + " (backward)" * bool(_BACKWARD.search(op_name)) or "without a name"


def by_layer(named) -> list[dict]:
    """((op name, amount), ...) -> the largest layers' sums, and the rest as one: [{"name", "amount"}]."""
    sums = {}
    for name, amount in named:
        sums[layer(name)] = sums.get(layer(name), 0) + amount
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    rest = sum(amount for _, amount in ordered[MOST_NAMES:])
    shown = ordered[:MOST_NAMES] + ([("the rest", rest)] if rest else [])
    return [{"name": name, "amount": amount} for name, amount in shown]


def text(report: dict) -> str:
    """The report for a terminal."""
    lines = [f"{report['task']}, recipe {report['recipe']}: {report['step']} on {report['tpu']}, "
             f"{report['precision']}, batch {report['batch_size']}"
             + f", accumulate {report['accumulate']}" * (report["accumulate"] > 1)]
    lines += [f"  {finding['level']}: {finding['what']} [{finding['place']}]" for finding in report["findings"]]
    for each in report["programs"]:
        lines += _program_lines(each)
    run = report.get("run")
    if run:
        cost = "" if run["cost"] is None else f", {run['cost']:,.2f} at the given price"
        hours = f"{run['hours']:,.1f} h at least{cost}"
        lines += [f"  from the bucket     {run['bucket_mb_per_second']:,.1f} MB/s at that ceiling",
                  f"  the recipe's run    {report['steps']:,} steps, {run['examples']:,} examples: {hours}"]
    if "largest_batch" in report:
        found = report["largest_batch"]
        refused = "all fitted" if found["refused"] is None else f"{found['refused']} does not fit"
        lines.append(f"  largest batch       {found['batch_size']} ({refused}; {found['compiles']} compiles)")
    lines += [f"  assumed: {line}" for line in report["assumptions"]]
    lines.append("fits" if sound(report) else "DOES NOT FIT OR COMPILE")
    return "\n".join(lines)


def _program_lines(each):
    cores = f"{each['cores']} cores" if each["cores"] > 1 else "1 core"
    lines = [f" {each['name']}: {each['examples']} examples, {cores}"]
    memory = each.get("memory")
    if not each["fits"]:
        lines.append(f"  refused             {each['error']}")
    if memory:
        parts = ", ".join(f"{name} {memory[name] / GIB:.2f}" for name in ("arguments", "temporaries", "outputs")
                          if name in memory)
        lines.append(f"  memory of a core    {memory['needed'] / GIB:.2f} of {memory['available'] / GIB:.2f} GiB"
                     + f" ({parts})" * bool(parts))
        lines += [f"      {entry['bytes'] / 2**20:10,.1f} MiB  {entry['count']} x {entry['what']}  {entry['name']}"
                  + f"  [{entry['place']}]" * (entry["place"] != "place unknown") for entry in memory["largest"][:5]]
    if each["fits"]:
        seconds = each["seconds"]
        expected = seconds["compiler"]
        guess = "" if expected is None else (f"; the compiler itself expects {expected * 1e3:.1f} ms, MFU "
                                             f"{each['mfu_expected']:.1%}")
        lines += [
            f"  arithmetic          {each['flops'] / 1e12:.3f} TFLOP a core ({each['model_flops'] / 1e12:.3f} the "
            f"model's), {seconds['arithmetic'] * 1e3:.1f} ms; {each['padded_share']:.1%} padding",
            f"  memory traffic      {each['bytes'] / 1e9:.2f} GB a core, {seconds['memory'] * 1e3:.1f} ms",
            f"  all-reduce          {each['all_reduce_bytes'] / 1e6:.1f} MB, {seconds['all_reduce'] * 1e3:.1f} ms",
            f"  bound by            {each['bound']}: {each['bound_seconds'] * 1e3:.1f} ms, "
            f"{each['examples_per_second']:,.1f} examples/s at most; MFU at most {each['mfu_ceiling']:.1%}{guess}",
        ]
        for kind, unit, scale in (("flops", "GFLOP", 1e9), ("bytes", "GB", 1e9)):
            lines.append(f"  most {kind}")
            lines += [f"      {entry['amount'] / scale:10,.2f} {unit}  {entry['name']}"
                      for entry in each[f"{kind}_by_layer"][:6]]
        lines += [f"  warning: how often a loop runs follows the data: {name}"
                  + ("" if " at most " in name else ", counted once") for name in each["unknown_loops"]]
    return lines


def compare(report: dict, other: dict) -> str:
    """The figures of two reports beside each other: this one, the other, and this over the other."""
    mine, theirs = _comparable(report), _comparable(other)
    lines = [f"{'':32} {_short(report):>24} {_short(other):>24}   ratio"]
    for name in [name for name in mine if name in theirs]:
        a, b = mine[name], theirs[name]
        lines.append(f"{name:32} {a:24,.3f} {b:24,.3f} {a / b if b else float('nan'):7.3f}")
    return "\n".join(lines)


def _short(report):
    return f"{report['recipe']} {report['tpu']} {report['batch_size']}"


def _comparable(report):
    figures = {}
    for each in report["programs"]:
        if not each["fits"]:
            continue
        name = each["name"]
        figures |= {f"{name}: GiB a core": each["memory"]["needed"] / GIB,
                    f"{name}: temporaries GiB": each["memory"]["temporaries"] / GIB,
                    f"{name}: TFLOP": each["flops"] / 1e12, f"{name}: GB": each["bytes"] / 1e9,
                    f"{name}: all-reduce MB": each["all_reduce_bytes"] / 1e6,
                    f"{name}: ms at least": each["bound_seconds"] * 1e3, f"{name}: MFU %": 100 * each["mfu_ceiling"],
                    f"{name}: examples/s": each["examples_per_second"]}
    return figures
