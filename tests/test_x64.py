"""With JAX_ENABLE_X64=1, which other libraries want, all is as without: the same numbers, of the same types."""

import functools
import importlib
import re

import jax
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import NamedSharding, PartitionSpec

from loco_jax import experiment
from loco_jax.configs import refiner as refiner_config
from loco_jax.data import datasets, streams
from loco_jax.ops import distributed
from loco_jax.step import compile_step, init_state, make_optimizer, step_of
from tests.support import ROOT, python


def example() -> dict[str, np.ndarray]:
    """What the example of the library in docs/architecture.md finds, in voxels so large that it takes no time."""
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## As a library")[2]
    code = re.search("```python\n(.*?)```", section, re.DOTALL)[1]
    assert "volume.Volume()" in code
    names = {}
    exec(code.replace("volume.Volume()", "volume.Volume(stride=24, depth_bins=40)"), names)
    found = names["found"]
    return {**found._asdict(), "points": names["grid"].to_camera(names["camera"].JTA, found.voxels[:, 0])}


def steps() -> dict[str, np.ndarray]:
    """By path: the second batch of frames, and the state after two steps of the smallest network, with Muon."""
    config = refiner_config.get_config("scale=demo")
    config.ema, config.data.batch_size = 0.9, 2
    config.optimizer.update({"name": "muon", "warmup": 0})
    mesh = distributed.make_mesh(1)
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    source = datasets.of(config).training_stream(split)
    task, optimizer = experiment.create_task(config), make_optimizer(config)
    state = jax.device_put(init_state(task, optimizer, config), replicated)
    step = functools.partial(step_of(config, task, optimizer), stage=0)
    step = compile_step(step, mesh, state, source.like())
    for _ in range(2):
        frames = next(source)
        state, _ = step(state, frames)
    leaves = jax.tree_util.tree_leaves_with_path({"frames": frames, "state": state})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}


def test_the_example_and_training_are_the_same(tmp_path):
    program = (
        "import sys, jax, numpy; from tests.test_x64 import example, steps; assert jax.config.jax_enable_x64; "
        "numpy.savez(sys.argv[1], **example(), **steps())"
    )
    process = python("-c", program, str(tmp_path / "x64.npz"), JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
    wanted = steps()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    found = dict(np.load(tmp_path / "x64.npz"))
    # Somebody 20 m ahead: the middle of 80 columns and of 1080 / 24 rows, and 100 m have 39 bins.
    np.testing.assert_allclose(found.pop("points"), np.broadcast_to([0, 0, 20], (14, 3)), atol=1e-3)
    np.testing.assert_allclose(found.pop("voxels")[:, 0], np.broadcast_to([22.5, 40, 20 * 0.39], (14, 3)), atol=1e-3)
    assert (found.pop("scores")[:, 0] > 0.5).all()
    np.testing.assert_array_equal(found.pop("count"), np.ones(14, np.int32), strict=True)

    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {
        name: (x.dtype, x.shape) for name, x in wanted.items()
    }
    of_state = {name: x for name, x in found.items() if name.startswith("state")}
    assert {str(x.dtype) for x in of_state.values()} == {"float32", "int32"} and of_state["state/step"] == 2
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "name, argument",
    [
        ("vha2", ""),  # at full scale, where the fast paths are taken
        ("loco2", "variant=patch,trunk=compact"),
        ("location_maps", ""),
        ("volumetric", ""),
        ("top_down", ""),
        ("refiner", ""),
    ],
)
def test_nothing_is_computed_in_64_bits(name, argument):
    """Scenes, pictures, a step and predictions, traced only; single numbers aside, as those of Optax's schedules."""
    config = importlib.import_module(f"loco_jax.configs.{name}").get_config(argument)
    config.ema = 0.99
    config.optimizer.name = "adam"
    if name == "vha2":
        config.model.code_noise = 0.2
    elif name != "refiner":
        config.predictor.blocks = 1
    else:
        config.spoil.predictor = "released"
    with jax.enable_x64(True):
        task, optimizer = experiment.create_task(config), make_optimizer(config)
        frame = functools.partial(streams.crowd_frame, crowd=streams.crowd_of(config), pictures=config.data.pictures)
        frame = in_32_bits(frame, jax.random.key(0))
        frames = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), frame)
        state = in_32_bits(lambda: init_state(task, optimizer, config, pretrained=False))
        step = functools.partial(step_of(config, task, optimizer), stage=0)
        after, _ = in_32_bits(step, state, frames)
        predict = functools.partial(task.predict, thorough=True)
        in_32_bits(predict, task.for_evaluation(state.params), frames, jax.random.key(0))
    assert types(after) == types(state)


def in_32_bits(function, *arguments):
    """The shapes of what a function makes; none of its arrays, made on the way or in the end, is of 64-bit floats, nor
    any result of 64-bit integers."""
    jaxpr, made = jax.make_jaxpr(function, return_shape=True)(*arguments)
    assert not list(wide(jaxpr.jaxpr))
    assert not [x for x in jax.tree.leaves(made) if x.dtype in (np.int64, np.uint64, np.float64)]
    return made


def wide(jaxpr):
    """The equations of a jaxpr, and of all within it, that make arrays of 64-bit floats."""
    for equation in jaxpr.eqns:
        if any(x.aval.dtype == np.float64 and x.aval.size > 1 for x in equation.outvars):
            yield str(equation)[:500]
        for inner in core.jaxprs_in_params(equation.params):
            yield from wide(inner)


def types(tree):
    return [(jax.tree_util.keystr(path), x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
