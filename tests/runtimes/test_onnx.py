"""Files of ONNX in ONNX Runtime, beside JAX, and the example of the documentation, which runs without JAX."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import loco_jax
from loco_jax.geometry import skeleton
from loco_jax.runtimes import files, graph
from tests.runtimes.conftest import SIZE, assert_same, expected

ort = pytest.importorskip("onnxruntime", reason="ONNX's tests need pip install 'loco-jax[onnx]'")
pytest.importorskip("jax2onnx", reason="ONNX's tests need pip install 'loco-jax[onnx]'")

ROOT = pathlib.Path(__file__).parents[2]


def run(path, pictures, cameras):
    session = ort.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == list(graph.INPUTS)
    return session.run(list(graph.OUTPUTS), {"picture": pictures, "camera": cameras})


@pytest.fixture(scope="module")
def any_batch(small, tmp_path_factory):
    """A file for any number of pictures."""
    path = tmp_path_factory.mktemp("onnx") / "new" / "small.onnx"
    files.write(path, small, "onnx", graph.ANY)
    return path


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_file_for_any_number_of_pictures(any_batch, shown, want, count):
    assert_same(run(any_batch, *(x[:count] for x in shown)), [x[:count] for x in want])


def test_a_file_for_three_pictures_in_half_precision(small, shown, tmp_path, any_batch, capfd):
    half = dataclasses.replace(small, half=True)
    files.write(tmp_path / "half.onnx", half, "onnx", 3)
    capfd.readouterr()
    found = run(tmp_path / "half.onnx", *shown)
    assert capfd.readouterr() == ("", "")  # ONNX Runtime warns of nothing
    assert_same(found, expected(half.rounded(), *shown))
    numbers = sum(x.size for x in jax.tree.leaves(small.params))
    assert any_batch.stat().st_size - (tmp_path / "half.onnx").stat().st_size > 1.5 * numbers


def test_a_network_for_refinement(small, shown, tmp_path):
    """In place of poses that are read from the picture; with a black picture beside noise."""
    task = dataclasses.replace(small.task, refiner_weights="released-refiner")
    pictures = np.stack([shown[0][0], np.zeros_like(shown[0][0])])
    graph_ = dataclasses.replace(small, task=task, params=task.for_evaluation(small.params))
    files.write(tmp_path / "refined.onnx", graph_, "onnx", 2)
    assert_same(run(tmp_path / "refined.onnx", pictures, shown[1][:2]), expected(graph_, pictures, shown[1][:2]))


def test_what_a_user_has_to_know_is_in_the_file(any_batch):
    about = ort.InferenceSession(any_batch).get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in about.items()} == {
        "version": loco_jax.__version__,
        "weights": "small",
        "image_size": list(SIZE),
        "camera": [90.0, 92.0, 48.0, 35.0],
        "joints": list(skeleton.JOINTS),
        "people": 4,
        "batch": "any",
    }


def example(*arguments):
    """Runs the example of docs/runtimes.md in a process that cannot import JAX."""
    text = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", text, re.M | re.S)[1]
    assert len(code.splitlines()) <= 30
    without = "import sys\nfor name in ('jax', 'jaxlib', 'flax', 'loco_jax'):\n    sys.modules[name] = None\n"
    command = [sys.executable, "-c", without + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT.parent)


def test_the_example_runs_without_jax(any_batch, shown, want, tmp_path):
    Image.fromarray(shown[0][0]).save(tmp_path / "picture.png")
    done = example(any_batch, tmp_path / "picture.png")
    assert done.returncode == 0, done.stderr
    joints, scores = want  # the first picture's camera is that of the training
    heads = joints[0, scores[0, :, 0] > 0, 0]
    told = [[float(n) for n in re.findall(r"-?\d+\.\d+", line)] for line in done.stdout.splitlines()]
    assert len(told) == len(heads) > 0
    np.testing.assert_allclose([numbers[-3:] for numbers in told], heads, atol=0.006)  # two digits


def test_the_example_says_if_a_picture_has_another_size(any_batch, tmp_path):
    Image.new("RGB", (50, 60)).save(tmp_path / "other.png")
    done = example(any_batch, tmp_path / "other.png")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{tmp_path}/other.png: 50 x 60 pixels; the graph takes {SIZE[1]} x {SIZE[0]}\n"
