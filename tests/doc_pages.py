"""The commands of README.md and docs/: found, and run as one bash script a page, in a copy of this checkout.

A page is a list of blocks: ```bash and ```python, indented or not, and commands or imports that stand four spaces
in; ```python title="FILE" is what a reader saves there. `script_of` writes all of them behind one another; what a
reader's machine has and a test's has not is put in its place, line by line, by `Rule`s. The script stops at the first
command that fails; what it was doing stands in its output.
"""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = r"(?:tfhf|pip|python|make|kubectl|curl|tpu_scripts/\S+|[A-Z_]+=\S+) "
_BLOCK = re.compile(rf'^ *```(bash|python)(?: title="([^"]+)")?\n(.*?)^ *```|(?<=\n\n)((?: {{4}}{_COMMAND}[^\n]*\n)+)'
                    r"|(?<=\n\n)( {4}(?:from|import) (?: {4}[^\n]+\n|[^ \n][^\n]*\n|\n(?= {4}))+)", re.M | re.S)
_TFHF = re.compile(r"^(tfhf (?:train|evaluate|predict|export|card) (\w+))(.*)$")
_END = "END_OF_THE_FILE"

# `background` starts what runs until somebody stops it, and waits until it listens; `until_stopped` ends what follows
# a log for ever after two seconds.
PRELUDE = r"""
set -euo pipefail
background() {
  local log
  log=$(mktemp background-XXXX.log)
  "$@" > "$log" 2>&1 &
  for _ in $(seq 600); do
    if grep -qE 'REST http|input_servers=|Running on' "$log"; then return; fi
    if ! kill -0 $! 2> /dev/null; then break; fi
    sleep 0.5
  done
  cat "$log"; echo "it does not listen: $*"; return 1
}
until_stopped() { timeout -s INT 2 "$@" || [ $? = 124 ] || [ $? = 130 ]; }
trap 'for job in $(jobs -p); do kill $job 2> /dev/null || true; done; wait' EXIT
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a page; `title`: the file that it is, or None: run it. `line`: of its first line, from 1."""

    language: str
    title: str | None
    code: str
    line: int


@dataclasses.dataclass(frozen=True)
class Rule:
    """Every match of `pattern` in a line of a block becomes `becomes` (None: the line is left out), because `why`.

    {bucket}, {models}, {repository} and {port} to {port_2}, which are free, in `becomes` are filled in.
    """

    pattern: str
    becomes: str | None
    why: str


def blocks(page, *languages):
    """The page's blocks in these languages (all: none named), in order."""
    text = page.read_text("utf-8")
    found = [Block(match[1] or ("bash" if match[4] else "python"), match[2],
                   textwrap.dedent(match[3] or match[4] or match[5]),
                   text.count("\n", 0, match.start()) + 1 + bool(match[1])) for match in _BLOCK.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def lines_of(block):
    """The commands of a bash block, those that go on with a backslash as one."""
    return block.code.replace("\\\n", " ").splitlines()


def changed(line, rules, places):
    """The line as a test runs it, "" where it is left out."""
    for rule in rules:
        if re.search(rule.pattern, line):
            if rule.becomes is None:
                return ""
            line = re.sub(rule.pattern, lambda match: match.expand(rule.becomes).format(**places), line)
    return line


def smaller(line, sizes):
    """A `tfhf train …` line with the settings that make its recipe small: of "*", of "TASK RECIPE", then its own."""
    found = _TFHF.match(line)
    if not found:
        return line
    recipe = re.search(r"--recipe (\S+)", found[3])
    key = f"{found[2]} {recipe[1] if recipe else 'default'}"
    return f"{found[1]} {sizes['*']} {sizes.get(key, '')}{found[3]}"


def script_of(page, rules, sizes, places, before=""):
    """The whole page as a bash script; `before`: commands in front of it."""
    parts = [PRELUDE, before]
    for number, block in enumerate(blocks(page)):
        code = "\n".join(smaller(changed(line, rules, places), sizes) for line in lines_of(block))
        if block.language == "python":
            code = "\n".join(changed(line, rules, places) for line in block.code.splitlines())
            file = block.title or f"block-{number}.py"
            code = f"mkdir -p {shlex.quote(os.path.dirname(file) or '.')}\ncat > {file} <<'{_END}'\n{code}\n{_END}\n"
            code += "" if block.title else f"python {file}\n"
        parts.append(f"echo '== {page.name}:{block.line}'\n{code}")
    return "\n".join(parts)


def copy_of_the_checkout(folder):
    """The library, its command and its tests in `folder`, and a bin/ with `tfhf` and `python` that use them."""
    for name in ("tfhf", "pipelines", "tfrecords", "tpu_scripts", "tests", "benchmarks", "docs", "notebooks", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pytest.ini", "README.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    for name, words in (("tfhf", "-m pipelines"), ("python", ""), ("tensorboard", "-m tensorboard.main")):
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        file.chmod(0o755)
    return folder


def run(script, folder, environment, seconds=3600):
    """Runs it in `folder`; -> (exit status, its output). What it leaves running is ended."""
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    return status, (folder / "output.log").read_text("utf-8", "replace")
