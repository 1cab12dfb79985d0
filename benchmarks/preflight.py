"""The table of docs/preflight.md: every published recipe's train step, compiled for a v3-8 and a v5e-8.

    python -m benchmarks.preflight          (make preflight; extra preflight, 20 GB of memory, hours)

Each recipe is a process of its own (`tfhf preflight`), one after the other; what was compiled before is taken from the
compiler's cache. Reports are kept in runs/preflight/; those of the day are not made again, and the table has the
newest of each recipe.
"""

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from pipelines.__main__ import load_task, task_names

ROOT = Path(__file__).resolve().parent.parent
REPORTS, PAGE = ROOT / "runs" / "preflight", ROOT / "docs" / "preflight.md"
TPUS = ("v3-8", "v5e-8")
PODS = {"librispeech_960h_pod": ("v3-128", "v5e-128")}   # written for other slices
OF_A_CPU = ("tiny_cpu", "quickstart", "reviews", "reviews_frozen", "reviews_lora")
BEGIN, END = "<!-- begin: make preflight -->", "<!-- end: make preflight -->"
GIB = 2**30


def recipes():
    """(task, recipes that are the same but for their folder, TPUs to compile for); those of a CPU are left out."""
    for task in task_names():
        if task == "quickstart":
            continue
        found = {}
        for name, config in load_task(task).RECIPES.items():
            if name not in OF_A_CPU:
                key = json.dumps({**config.to_dict(), "output": ""})
                found.setdefault(key, []).append(name)
        for names in found.values():
            yield task, names, PODS.get(names[-1], TPUS)


def file_of(task, recipe, tpu):
    """Where the report of one recipe of today is kept."""
    return REPORTS / f"{task}-{recipe}-{tpu}-{datetime.now(timezone.utc).strftime('%Y-%m-%d')}.json"


def newest(task, recipe, tpu):
    """The report that was made last of one recipe, as a dict; None: there is none."""
    files = sorted(REPORTS.glob(f"{task}-{recipe}-{tpu}-????-??-??.json"))
    return json.loads(files[-1].read_text("utf-8")) if files else None


def make(task, recipe, tpu):
    """Makes the report of one recipe, where there is none of today."""
    file = file_of(task, recipe, tpu)
    if file.exists():
        return
    REPORTS.mkdir(parents=True, exist_ok=True)
    print(f"{task} {recipe} {tpu} ...", flush=True)
    status = subprocess.run([sys.executable, "-m", "pipelines", "preflight", task, "--recipe", recipe, "--tpu", tpu,
                             "--json", str(file), "--html", str(file.with_suffix(".html"))], cwd=ROOT).returncode
    if status not in (0, 1):   # a full-size compile can need 18 GB; the other recipes are made all the same
        print(f"preflight of {task} {recipe} for {tpu} ended with status {status}", file=sys.stderr)


def row(names, report):
    """One line of the table."""
    cells = [report["task"], ", ".join(names), report["tpu"], f"{report['batch_size']}"]
    step = (report["programs"] or [None])[0]
    if step is None:
        return [*cells, "lint: " + "; ".join(finding["what"] for finding in report["findings"])]
    if not step["fits"]:
        return [*cells, f"**{step['error']}**"]
    memory, seconds = step["memory"], step["seconds"]
    expected = "" if seconds["compiler"] is None else f"{seconds['compiler'] * 1e3:,.0f} ({step['mfu_expected']:.0%})"
    return [*cells, f"{memory['needed'] / GIB:.2f} of {memory['available'] / GIB:.2f}", f"{step['flops'] / 1e12:.2f}",
            f"{step['bytes'] / 1e9:.0f}", *(f"{seconds[name] * 1e3:,.0f}" for name in
                                            ("arithmetic", "memory", "all_reduce")),
            f"**{step['mfu_ceiling']:.0%}** ({step['bound']})", expected, f"{step['examples_per_second']:,.0f}",
            f"{report['run']['bucket_mb_per_second']:,.0f}", f"{report['run']['hours']:,.1f}", report["date"]]


def write_table():
    """Writes the newest reports into the page."""
    columns = ["task", "recipe", "TPU", "batch", "GiB a core", "TFLOP", "GB", "arithmetic, ms", "memory, ms",
               "all-reduce, ms", "MFU at most (bound by)", "compiler expects, ms (MFU)", "examples/s", "bucket, MB/s",
               "hours for its steps", "date"]
    lines, versions = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"], {}
    for task, names, tpus in recipes():
        for report in filter(None, [newest(task, names[0], tpu) for tpu in tpus]):
            cells = row(names, report)
            lines.append("| " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |")
            versions.setdefault(", ".join(f"{k} {v}" for k, v in report["versions"].items()))
    text = PAGE.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    table, title = "\n".join(lines), "; ".join(versions)
    PAGE.write_text(f"{before}{BEGIN}\n{title}. Per core and step; `make preflight`.\n\n{table}\n{END}{after}", "utf-8")


def main():
    """Makes the missing reports, and the table after each."""
    for task, names, tpus in recipes():
        for tpu in tpus:
            make(task, names[0], tpu)
            write_table()


if __name__ == "__main__":
    main()
