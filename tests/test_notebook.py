"""The notebook for Colab runs from its first cell to its last, at demo scale, and is kept without what it made."""

import re

import nbclient
import nbformat
import pytest
from PIL import Image

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


def shown_by(cells) -> list[dict]:
    return [output.get("data", {}) for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def photograph(path) -> None:
    """A picture that says its focal length: as one of 24 mm on 35 mm film."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 24
    Image.open(ROOT / "docs" / "pictures" / "trees.jpg").save(path, exif=exif)


# In place of Colab, where somebody chooses a file.
CHOOSE = """
import sys, types
colab = types.ModuleType("google.colab")
colab.files = types.SimpleNamespace(upload=lambda: {{"my picture.jpg": open({path!r}, "rb").read()}})
sys.modules.setdefault("google", types.ModuleType("google"))
sys.modules["google.colab"] = colab
own_picture, own_fov = {picture!r}, {fov!r}
"""


def test_it_is_kept_clean(notebook):
    nbformat.validate(notebook)
    text = NOTEBOOK.read_text()
    assert not re.search(r"/home/|/root|/tmp|/work", text)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            compile(cell.source, "cell", "exec")


def test_it_runs_at_demo_scale(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCO_JAX_CACHE", "off")
    for name, value in {"test_frames": 2, "pictures": 1, "output": str(tmp_path)}.items():
        set_field(notebook, name, value)
    resources = {"metadata": {"path": str(ROOT / "launch")}}  # where Jupyter begins
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    own = notebook.cells[-1]
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        shown = shown_by(notebook.cells[:-1])
        ours = shown_by([own])
        photograph(tmp_path / "file.jpg")
        retried = []  # what the last cell shows of an uploaded file, and with a field of view
        for picture, fov in (("upload", 0.0), (str(tmp_path / "file.jpg"), 70.0)):
            cell = nbformat.v4.new_code_cell(CHOOSE.format(path=str(tmp_path / "file.jpg"), picture=picture, fov=fov))
            cell.source += own.source
            notebook.cells.append(cell)
            client.execute_cell(cell, len(notebook.cells) - 1)
            retried.append((cell.outputs[0].text, shown_by([cell])))
    tables = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert len(tables) == 1 and re.search(r"\| LoCO\(2\)\+ +\| `hungarian`", tables[0])
    assert tables[0] == (tmp_path / "eval" / "table.md").read_text()
    assert sum("image/jpeg" in data for data in shown) == 1
    assert sum("image/png" in data for data in shown) == 5  # from the best to the worst
    assert_one_page(shown, "Test picture 0")
    assert_is_page(tmp_path / "people_3d.html")
    assert sum("image/jpeg" in data for data in ours) == 1
    assert_one_page(ours, "street.jpg")
    assert_is_page(tmp_path / "own_picture_3d.html")
    (uploaded, page), (wide, _) = retried
    assert re.match(r"my picture.jpg: people found: \d+\nCamera: .*24", uploaded) and "EXIF" in uploaded
    assert_one_page(page, "my picture.jpg")
    assert (tmp_path / "own" / "my picture.jpg").read_bytes() == (tmp_path / "file.jpg").read_bytes()
    assert re.match(r"file.jpg: people found: \d+\nCamera: .*fov=70", wide)


def assert_one_page(shown, title) -> None:
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert len(pages) == 1 and "srcdoc=" in pages[0] and title in pages[0]
    assert "</script>" not in pages[0]  # it is all inside the frame's attribute


def assert_is_page(path) -> None:
    assert path.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
