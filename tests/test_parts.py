"""`make test` runs every part, names what failed, and ends with one line that adds the parts up (.ci/parts.py)."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "good.py": "def test_one():\n    assert True\n\ndef test_two():\n    assert True\n",
    "bad.py": "def test_sound():\n    assert True\n\ndef test_wrong():\n    assert 1 == 2\n",
    "skips.py": "import pytest\n\ndef test_later():\n    pytest.skip('not today')\n\n"
                "@pytest.mark.xfail\ndef test_known():\n    assert False\n",
    "broken.py": "import no_such_module\n\ndef test_never():\n    assert True\n",
    "setup_error.py": "import pytest\n\n@pytest.fixture\ndef thing():\n    raise OSError('no thing')\n\n"
                      "def test_thing(thing):\n    assert thing\n",
    "teardown_error.py": "import pytest\n\n@pytest.fixture\ndef thing():\n    yield 1\n"
                         "    raise OSError('stays open')\n\ndef test_thing(thing):\n    assert thing\n",
    "killed.py": "import os, signal\n\ndef test_before():\n    assert True\n\n"
                 "def test_dies():\n    os.kill(os.getpid(), signal.SIGKILL)\n    assert False\n",
    "leaves.py": "import os\n\ndef test_leaves():\n    os._exit(3)\n    assert False\n",
    "nothing.py": "",
    "inside.py": "class TestInside:\n    def test_deep(self):\n        assert False\n",
}


ENDS = {   # a part -> how the closing list names what failed in it
    "good.py": [],
    "good.py,bad.py": ["test_bad.py::test_wrong"],
    "skips.py": [],
    "broken.py": ["test_broken"],
    "setup_error.py": ["test_setup_error.py::test_thing"],
    "teardown_error.py": ["test_teardown_error.py::test_thing"],
    "killed.py": ["test_killed.py: pytest was killed by SIGKILL before its closing line"],
    "leaves.py": ["test_leaves.py: pytest ended with exit status 3 before its closing line"],
    "nothing.py": ["test_nothing.py: pytest ended with exit status 5, though none of its tests failed"],
    "no_such_file.py": ["test_no_such_file.py: pytest ended with exit status 4, though none of its tests failed"],
    "inside.py": ["test_inside.py::test_deep"],
}


@pytest.fixture
def parts(tmp_path):
    """Runs parts of small files; -> (exit status, lines of stdout)."""
    for name, text in FILES.items():
        (tmp_path / f"test_{name}").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(*arguments):
        given = [re.sub(r"(\w+\.py)", r"test_\1", one) for one in arguments]
        done = subprocess.run([sys.executable, ROOT / ".ci/parts.py", *given], cwd=tmp_path, capture_output=True,
                              text=True, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        return done.returncode, done.stdout.splitlines()

    return run


def test_every_part_runs_and_the_failures_are_named_at_the_end(parts):
    status, lines = parts(*ENDS)
    expected = [name for names in ENDS.values() for name in names]
    named = lines[lines.index("== failed:") + 1:-1]
    assert len(named) == len(expected) and all(want in line for want, line in zip(expected, named)), named
    assert (status, lines[-1]) == (1, f"5 passed, {len(expected)} failed, 2 skipped")
    assert sum("== took" in line for line in lines) == len(ENDS)


def test_nothing_fails(parts):
    status, lines = parts("good.py", "skips.py,good.py")
    assert (status, lines[-1]) == (0, "4 passed, 0 failed, 2 skipped") and "== failed:" not in lines


def test_arguments_for_pytest(parts):
    status, lines = parts("bad.py", "good.py", "--", "-k", "sound")
    assert (status, lines[-1]) == (0, "1 passed, 0 failed")   # of the second part nothing is left
    status, lines = parts("good.py", "--", "-k", "no_such_name")
    assert (status, lines[-1]) == (1, "0 passed, 0 failed")


def test_a_test_that_was_tried_again_is_one_failure(tmp_path):
    """As pytest-xdist reports one that ends its process."""
    specification = importlib.util.spec_from_file_location("parts", ROOT / ".ci/parts.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    crash = '<testcase file="test_a.py" name="test_dies"><failure>worker gw{} crashed</failure></testcase>'
    cases = [crash.format(number) for number in range(9)] + ['<testcase file="test_a.py" name="test_lives"/>']
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert module.read_report(tmp_path / "report.xml") == (1, ["test_a.py::test_dies"], 0)


def test_make_runs_every_test_file_once():
    done = subprocess.run(["make", "--no-print-directory", "print-parts"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / path for part in done.stdout.split() for path in part.split(",")]
    inside = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
    assert sorted(inside) == sorted((ROOT / "tests").rglob("test_*.py"))
