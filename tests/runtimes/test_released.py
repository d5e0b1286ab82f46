"""The released weights in ONNX Runtime find the people of docs/pictures whom JAX finds."""

import jax
import numpy as np
import pytest
from PIL import Image

from loco_jax.runtimes import files, graph
from tests.runtimes.conftest import assert_same, expected
from tests.support import ROOT

ort = pytest.importorskip("onnxruntime", reason="ONNX's tests need pip install 'loco-jax[onnx]'")
pytest.importorskip("jax2onnx", reason="ONNX's tests need pip install 'loco-jax[onnx]'")


def test_the_released_weights_find_the_same_people(tmp_path):
    released = graph.load("released", half=True)
    paths = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))
    pictures = np.stack([np.asarray(Image.open(path)) for path in paths])
    cameras = np.float32([released.camera] * len(paths))
    files.write(tmp_path / "released.onnx", released, "onnx", graph.ANY)
    session = ort.InferenceSession(tmp_path / "released.onnx")
    found = session.run(None, {"picture": pictures, "camera": cameras})
    want = expected(released, pictures, cameras)
    # The released weights are stored in half precision already, so there is nothing to round.
    jax.tree.map(np.testing.assert_array_equal, released.rounded().params, released.params)
    assert_same(found, want)
    assert (want[1][..., 0] > 0).sum() >= 6
