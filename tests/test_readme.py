"""The README and the pages in docs/: their links lead somewhere, their commands are accepted, their Python compiles."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands():
    """The arguments of every `tfhf …` in a bash block, and of those that tpu_scripts/run.sh passes on."""
    for page in PAGES:
        for line in "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tfhf"]:
                yield pytest.param(words[1:], id=line[:60])
            elif words[:1] == ["tpu_scripts/run.sh"]:
                yield pytest.param(words[3:], id=line[:60])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#]+)", prose)
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page):
    for code in blocks(page, "python"):
        assert compile(code, str(page), "exec")


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands_are_accepted(arguments):
    if arguments[0] == "records":
        from tfrecords.__main__ import _parser

        assert _parser().parse_args(arguments[1:]).out
    else:
        from pipelines.__main__ import load_task, parse, recipe_of

        parsed = parse(arguments)
        assert recipe_of(load_task(parsed.task), parsed).output


def test_scripts_that_are_named_exist():
    named = {name for page in PAGES for name in re.findall(r"tpu_scripts/\w+\.sh", page.read_text("utf-8"))}
    assert named and not [name for name in named if not (ROOT / name).exists()]
