"""The law of the house: what may import what, where things stand, how long a file may be. Reads files, runs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tfhf", "pipelines", "tfrecords", "tests", "benchmarks", "tpu_scripts", "notebooks", "docs", ".ci")
SOFT_LINES, HARD_LINES, PIPELINE_LINES = 400, 500, 150
MAX_BYTES = 300 * 1024

# Files of tfhf/{models,layers,losses,peft,decoding} that may use TensorFlow itself, because something was measured;
# each says "Measured need" in its docstring.
MEASURED_NEED = {
    "tfhf/decoding/compile.py",
    "tfhf/layers/convolution.py", "tfhf/layers/recompute.py", "tfhf/layers/sync_batch_norm.py",
    "tfhf/losses/ctc.py",
}
# Tests of the top level that mirror no single module.
FREE_TESTS = {"test_house", "test_notebooks", "test_harness", "test_command", "test_tpu_scripts", "test_readme",
              "test_parts", "test_constraints"}


def _all_files():
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(files)


FILES = _all_files()
MODULES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
           for path in FILES if path.suffix == ".py"}


def check_none(found):
    """Fails with everything that was found, one per line."""
    assert not found, "\n" + "\n".join(str(one) for one in found)


def _in(*folders):
    return {name: tree for name, tree in MODULES.items() if name.split("/")[0] in folders}


def _imports(tree):
    """Every module that the file imports, at its top or inside a function, as (dotted name, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                yield "." * node.level + base, node.lineno
            else:
                yield base, node.lineno
                for alias in node.names:
                    yield f"{base}.{alias.name}", node.lineno


def _importing(modules, *roots):
    return sorted({f"{name}:{line} imports {imported.split('.')[0]}" for name, tree in modules.items()
                   for imported, line in _imports(tree) if imported.split(".")[0] in roots})


def test_tfhf_imports_nothing_from_the_folders_beside_it():
    check_none(_importing(_in("tfhf"), "pipelines", "tfrecords", "tests", "benchmarks"))


def test_pipelines_and_tfrecords_do_not_import_each_other_but_for_the_command():
    pipelines = {name: tree for name, tree in _in("pipelines").items() if name != "pipelines/__main__.py"}
    check_none(_importing(pipelines, "tfrecords", "tests", "benchmarks"))
    check_none(_importing(_in("tfrecords"), "pipelines", "tests", "benchmarks"))


def test_imports_are_absolute():
    relative = [f"{name}:{line}" for name, tree in _in("tfhf", "pipelines", "tfrecords").items()
                for imported, line in _imports(tree) if imported.startswith(".")]
    check_none(relative)


def test_torch_and_its_friends_stand_only_in_tests_and_benchmarks():
    check_none(_importing(_in("tfhf", "pipelines", "tfrecords", "setup.py"), "torch", "transformers", "ctranslate2"))


def test_models_layers_losses_and_peft_use_keras_only():
    pure = {name: tree for name, tree in MODULES.items()
            if re.match(r"tfhf/(models|layers|losses|peft|decoding)/", name) and name not in MEASURED_NEED}
    check_none(_importing(pure, "tensorflow"))


def test_convolutions_are_those_that_are_right_on_every_processor():
    """tfhf/layers/convolution.py says why. wav2vec2 chooses the type before its `wide_conv`."""
    allowed = {"tfhf/layers/convolution.py", "tfhf/models/wav2vec2/model.py", "tfhf/models/srgan/convert.py"}
    plain = [f"{name}:{node.lineno} {ast.unparse(node)}" for name, tree in MODULES.items()
             if re.match(r"tfhf/(models|layers|peft)/", name) and name not in allowed
             for node in ast.walk(tree) if isinstance(node, ast.Attribute)
             and ast.unparse(node) in ("ops.conv", "keras.ops.conv", "keras.layers.Conv1D", "keras.layers.Conv2D")]
    check_none(plain)


def test_each_measured_need_exists_and_says_why():
    for name in sorted(MEASURED_NEED):
        assert name in MODULES, f"{name} is listed in MEASURED_NEED but does not exist"
        assert _importing({name: MODULES[name]}, "tensorflow"), f"{name} needs no TensorFlow: take it off the list"
        assert "measured need" in (ast.get_docstring(MODULES[name]) or "").lower(), f"{name} does not say why"


def test_fit_is_called_only_by_the_runner():
    # Tests may: they show that a model can be compiled and fitted by hand. Benchmarks may time single steps.
    calls = [f"{name}:{node.lineno}" for name, tree in _in("tfhf", "pipelines", "tfrecords", "benchmarks").items()
             for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
             and (node.func.attr == "fit" or node.func.attr == "train_on_batch" and not name.startswith("benchmarks/"))
             and name != "tfhf/run.py"]
    check_none(calls)


def test_gradient_tape_stands_only_in_the_train_steps():
    allowed = {"tfhf/train_steps.py", "tfhf/gan.py"}
    tapes = [f"{name}:{node.lineno}" for name, tree in _in("tfhf", "pipelines", "tfrecords", "benchmarks").items()
             for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))
             and "GradientTape" in (getattr(node, "attr", None), getattr(node, "id", None)) and name not in allowed]
    check_none(tapes)


def test_no_broad_except():
    """`except:` and `except Exception` hide errors; one that raises again as its last act (to clean up) does not."""
    broad = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or isinstance(node.body[-1], ast.Raise):
                continue
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(c is None or getattr(c, "id", "") in ("Exception", "BaseException") for c in caught):
                broad.append(f"{name}:{node.lineno}")
    check_none(broad)


def test_no_file_is_named_for_nothing():
    vague = re.compile(r"(^|_)(utils?|helpers?|misc|common|stuff)(_|$)")
    check_none([path for path in FILES if vague.search(path.stem)])


def test_files_can_be_read_in_one_sitting():
    lines = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in MODULES}
    assert not {name: n for name, n in lines.items() if n > HARD_LINES}, f"more than {HARD_LINES} lines"
    recipes = {name: n for name, n in lines.items() if name.startswith("pipelines/") and not name.endswith("__.py")}
    assert not {name: n for name, n in recipes.items() if n > PIPELINE_LINES}, "recipes hold no mechanism"
    for name, n in lines.items():
        if n > SOFT_LINES:
            print(f"{name}: {n} lines, aim for {SOFT_LINES}", file=sys.stderr)


def test_lines_are_short_enough():
    long = [f"{name}:{number}" for name in MODULES
            for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1) if len(line) > 120]
    check_none(long)


def test_no_file_is_heavy():
    assert not {str(path): path.stat().st_size for path in FILES if path.stat().st_size > MAX_BYTES}


def test_no_path_of_some_machine():
    # A leading slash and a folder of somebody's machine; `~/` and relative paths are what the texts use.
    machine = re.compile(r"(?<![\w.:/~$}>-])/(work|root|tmp|home|Users)/\w")
    found = []
    for path in FILES:
        if path.suffix in (".py", ".md", ".sh", ".ipynb", ".txt", ".json", "") and path.name != ".git":
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if machine.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    check_none(found)


def test_every_module_says_what_it_is_for():
    silent = [name for name, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)]
    check_none(silent)


def test_every_public_function_and_class_of_tfhf_has_a_docstring():
    silent = [f"{name}:{node.lineno} {node.name}" for name, tree in _in("tfhf").items() for node in tree.body
              if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
              and not ast.get_docstring(node)]
    check_none(silent)


# Keras calls these and documents them; an override need not say it again.
KERAS_METHODS = {"build", "call", "get_config", "from_config", "compute_output_shape", "train_step", "test_step"}


def test_every_public_method_of_tfhf_has_a_docstring():
    silent = [f"{name}:{method.lineno} {node.name}.{method.name}" for name, tree in _in("tfhf").items()
              for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
              for method in node.body if isinstance(method, ast.FunctionDef)
              and not method.name.startswith(("_", "on_")) and method.name not in KERAS_METHODS
              and not ast.get_docstring(method)]
    check_none(silent)


def _mirrored(name):
    """Is tests/a/b/test_x.py beside a folder (tfhf/a/b, or a/b) and, at the top level, named for a module of tfhf?"""
    parts = Path(name).parts[1:]
    if parts[0] == "fixtures":
        return True
    folder = Path(*parts[:-1])
    if folder.parts:
        return (ROOT / "tfhf" / folder).is_dir() or (ROOT / folder).is_dir()
    stem = Path(name).stem
    if stem in FREE_TESTS:
        return True
    modules = {path.stem for path in (ROOT / "tfhf").iterdir()} | {path.stem for path in (ROOT / "pipelines").iterdir()}
    subject = stem.removeprefix("test_")
    return any(subject == module or subject.startswith(module + "_") for module in modules)


def test_tests_mirror_the_library():
    tests = [name for name in MODULES if Path(name).name.startswith("test_") and name.startswith("tests/")]
    check_none([name for name in tests if not _mirrored(name)])


def test_every_module_of_tfhf_is_tested():
    """Each module has a mirror test_NAME.py under tests/, or a test imports it, or imports a module that does."""
    stems = {Path(name).stem.removeprefix("test_") for name in MODULES if name.startswith("tests/")}
    dotted = {name.removesuffix(".py").replace("/", "."): tree for name, tree in _in("tfhf", "pipelines").items()}
    imported = {module for tree in _in("tests").values() for module, _ in _imports(tree)}
    imported |= {below for module in imported & set(dotted) for below, _ in _imports(dotted[module])}
    untested = []
    for name in _in("tfhf"):
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if not name.endswith("__init__.py") and Path(name).stem not in stems and module not in imported:
            untested.append(name)
    check_none(untested)


def test_every_test_asserts_something():
    """It holds an assert, pytest.raises or numpy.testing, or hands over to a check (check_…, assert_…, run_…)."""

    def asserts(function):
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                return True
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if re.match(r"_?(assert|check|raises|run_|fail|expect|compare|same)", called):
                    return True
        return False

    empty = [f"{name}:{node.lineno} {node.name}" for name, tree in _in("tests").items() for node in ast.walk(tree)
             if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not asserts(node)]
    check_none(empty)


def test_importing_tfhf_imports_no_tensorflow():
    code = "import sys, tfhf; dir(tfhf); print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_an_unknown_name_of_tfhf_is_answered_with_the_known_ones():
    import tfhf

    with pytest.raises(AttributeError, match="WhisperProcessor"):
        tfhf.WhisperFast


def test_the_public_names_exist():
    """Read from the source, so that this needs no TensorFlow."""
    import tfhf

    for public, module in tfhf._EXPORTS.items():
        file = module.replace(".", "/") + ".py"
        assert file in MODULES, f"tfhf.{public}: no {file}"
        classes = {node.name for node in MODULES[file].body if isinstance(node, ast.ClassDef)}
        assert public in classes, f"{file}: no class {public}"


def test_shell_scripts_parse_and_stop_at_errors():
    scripts = [path for path in FILES if path.suffix == ".sh" or path.name == "run"]
    for path in scripts:
        assert "set -euo pipefail" in path.read_text("utf-8"), path
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0, path
