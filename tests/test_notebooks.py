"""The notebooks: sound in the quick suite, run from the first cell to the last in the nightly one, with few steps
(all of them with TFHF_NOTEBOOKS=whole)."""

import ast
import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_sound_and_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
    for cell in code:
        assert ast.parse(re.sub(r"^%.*$", "pass", cell.source, flags=re.M))
    text = "\n".join(cell.source for cell in code)
    for step in (".compile(", ".fit(", "export(", "make_runtime("):   # by hand, on a TPU if there is one
        assert step in text


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells
                      if not {"install", "picture"} & set(cell.metadata.get("tags", ()))]
    if os.environ.get("TFHF_NOTEBOOKS") != "whole":   # as a reader runs them: 20 minutes for all
        monkeypatch.setenv("TFHF_NOTEBOOK_STEPS", "12")
        monkeypatch.setenv("TFHF_NOTEBOOK_EXAMPLES", "5")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[-1].outputs
    assert "error" not in {output.output_type for cell in notebook.cells for output in cell.get("outputs", ())}
