"""The graph's function, without fast paths, finds the same people as the task."""

import dataclasses
import json

import jax
import jax.export
import numpy as np
import pytest

import loco_jax
from loco_jax import ops, weights
from loco_jax.configs import vha2
from loco_jax.geometry import skeleton
from loco_jax.runtimes import files, graph
from tests.runtimes.conftest import SIZE, assert_same, expected


def test_the_plain_path_finds_the_same_people(small, shown, want):
    assert (want[1][..., 0] > 0).any(axis=1).all(), "a picture without people tells nothing"
    assert_same(jax.device_get(jax.jit(small.find)(*shown)), want)


def test_plain_programs_have_no_parts_for_one_platform(small, shown):
    text = str(jax.make_jaxpr(small.find)(*shown))
    assert "platform_index" not in text and "callback" not in text and "custom_vjp" not in text
    assert not ops.layers.is_plain()


@pytest.mark.parametrize("batch", [3, graph.ANY])
def test_stablehlo(small, shown, want, batch, tmp_path):
    files.write(tmp_path / "new" / "small.hlo", small, "stablehlo", batch)
    read = jax.export.deserialize(bytearray((tmp_path / "new" / "small.hlo").read_bytes()))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    assert "custom_call" not in read.mlir_module().replace("@mhlo.topk", "").replace("custom_call @shape_assertion", "")
    assert_same(jax.device_get(read.call(*shown)), want)
    about = json.loads((tmp_path / "new" / "small.hlo.about.json").read_text())
    assert about == {
        "version": loco_jax.__version__,
        "weights": "small",
        "image_size": list(SIZE),
        "camera": [90.0, 92.0, 48.0, 35.0],
        "joints": list(skeleton.JOINTS),
        "people": 4,
        "batch": batch,
    }


def test_half_precision_halves_the_file_and_rounds_the_weights(small, shown):
    half = dataclasses.replace(small, half=True)
    assert_same(jax.device_get(jax.jit(half.find)(*shown)), expected(half.rounded(), *shown))
    numbers = sum(x.size for x in jax.tree.leaves(small.params))
    whole, less = (len(files.to_stablehlo(g, 1)) for g in (small, half))
    assert 1.5 * numbers < whole - less < 2.1 * numbers


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "", "²", "9999999"])
def test_batches_that_cannot_be(text):
    with pytest.raises(ValueError, match="want a number of pictures from 1 to 1024, or any"):
        graph.batch_of(text)


def test_batches_that_can_be():
    assert [graph.batch_of(text) for text in ("1", "1024", "any")] == [1, 1024, "any"]


def test_weights_of_something_else(tmp_path):
    config = vha2.get_config("variant=patch,scale=demo")
    weights.save(tmp_path / "vha", {"a": np.ones(2)}, {"kind": "vha", "config": weights.portable(config)})
    with pytest.raises(weights.WeightsError, match="holds weights of kind 'vha', not a whole loco"):
        graph.load(str(tmp_path / "vha"))
    with pytest.raises(weights.WeightsError, match="no such file of weights"):
        graph.load(str(tmp_path / "nothing"))
