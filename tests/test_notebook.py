"""The notebook for Colab runs from its first cell to its last, at demo scale, and is kept without what it made."""

import re

import nbclient
import nbformat
import pytest

from tests.support import ROOT

NOTEBOOK = ROOT / "launch" / "colab_evaluate.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def set_field(notebook, name, value) -> None:
    """As somebody who fills in the form."""
    cell = next(cell for cell in notebook.cells if "# @param" in cell.source)
    cell.source, count = re.subn(rf"^{name} = .*?(?=  # @param)", f"{name} = {value!r}", cell.source, flags=re.M)
    assert count == 1


def test_it_is_kept_clean(notebook):
    nbformat.validate(notebook)
    text = NOTEBOOK.read_text()
    assert not re.search(r"/home/|/root|/tmp|/work", text)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            compile(cell.source, "cell", "exec")


def test_it_runs_at_demo_scale(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # it runs longer than it compiles
    monkeypatch.setenv("LOCO_JAX_CACHE", "off")
    for name, value in {"test_frames": 2, "pictures": 1, "output": str(tmp_path)}.items():
        set_field(notebook, name, value)
    resources = {"metadata": {"path": str(ROOT / "launch")}}  # where Jupyter begins
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.get("data", {}) for output in outputs]
    tables = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert len(tables) == 1 and re.search(r"\| LoCO\(2\)\+ +\| `hungarian`", tables[0])
    assert tables[0] == (tmp_path / "eval" / "table.md").read_text()
    assert sum("image/jpeg" in data for data in shown) == 1
    assert sum("image/png" in data for data in shown) == 5  # from the best to the worst
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert len(pages) == 1 and "srcdoc=" in pages[0] and "Test picture 0" in pages[0]
    assert "</script>" not in pages[0]  # it is all inside the frame's attribute
    assert (tmp_path / "people_3d.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
