"""With JAX_ENABLE_X64=1, which other libraries want, all is as without: the same numbers, of the same types."""

import functools
import importlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import NamedSharding, PartitionSpec

from loco_jax import distributed, tasks, train
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from tests.test_train import tiny

ROOT = pathlib.Path(__file__).parents[1]


def results() -> dict[str, np.ndarray]:
    """By name: what the README's example of the library finds, a batch of frames, and the state after two steps."""
    named = {"example": run_example(), **run_steps()}
    leaves = jax.tree_util.tree_leaves_with_path(named)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def run_example() -> dict[str, jax.Array]:
    """The README's code, but for the size of the voxels, which are so large that it takes no time."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## As a library")[2]
    code = re.search("```python\n(.*?)```", section, re.DOTALL)[1]
    assert "volume.Volume()" in code
    names = {}
    exec(code.replace("volume.Volume()", "volume.Volume(stride=24, depth_bins=40)"), names)
    found, grid, camera = names["found"], names["grid"], names["camera"]
    return {"found": found, "points": grid.to_camera(camera.JTA, found.voxels[:, 0])}


def run_steps() -> dict:
    config = tiny(ema=0.9)
    config.optimizer.name = "muon"
    mesh = distributed.make_mesh(config.data.batch_size)
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    source = streams.training_stream(config, split)
    task, optimizer = tasks.create(config), train.make_optimizer(config)
    state = jax.device_put(train.init_state(task, optimizer, config, source.like()), replicated)
    step = functools.partial(train.step_of(config, task, optimizer), stage=0)
    first, second = next(source), next(source)
    step = train.compile_step(step, mesh, state, first)
    for frames in (first, second):
        state, _ = step(state, frames)
    return {"frames": second, "state": state}


@pytest.fixture(scope="module")
def with_and_without(tmp_path_factory):
    file = tmp_path_factory.mktemp("x64") / "results.npz"
    program = (
        "import sys, jax, numpy; from tests.test_x64 import results; assert jax.config.jax_enable_x64; "
        "numpy.savez(sys.argv[1], **results())"
    )
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], cwd=ROOT, env=environment)
    without = results()
    assert process.wait(timeout=600) == 0
    return dict(np.load(file)), without


def test_the_example_and_training_are_the_same(with_and_without):
    found, wanted = with_and_without
    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {
        name: (x.dtype, x.shape) for name, x in wanted.items()
    }
    assert {str(x.dtype) for name, x in found.items() if "state" in name} == {"float32", "int32", "bool"}
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["['example']['points']"], np.broadcast_to([0, 0, 20], (14, 3)), atol=0.01)
    assert found["['state'].step"] == 2 and found["['state'].watch.skipped"] == 0


@pytest.mark.parametrize(
    "name, argument",
    [
        ("vha2", ""),  # at full scale, where the fast ways are taken
        ("vha2", "variant=patch"),
        ("loco2", "variant=patch,trunk=compact"),
        ("refiner", ""),
    ],
)
def test_nothing_is_computed_in_64_bits(name, argument):
    """Scenes, pictures, a step and predictions, traced only; single numbers aside, as those of Optax's schedules."""
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    config.ema = 0.99
    config.optimizer.name = "adam"
    if name == "loco2":
        config.predictor.blocks = 1
    if name == "refiner":
        config.spoil.predictor = "released"
    with jax.enable_x64(True):
        task, optimizer = tasks.create(config), train.make_optimizer(config)
        frame = functools.partial(streams.crowd_frame, crowd=streams.crowd_of(config), pictures=config.data.pictures)
        frames = like_batch(in_32_bits(frame, jax.random.key(0)))
        state = jax.eval_shape(lambda: train.init_state(task, optimizer, config, frames, pretrained=False))
        step = functools.partial(train.step_of(config, task, optimizer), stage=0)
        after, _ = in_32_bits(step, state, frames)
        predict = functools.partial(task.predict, thorough=True)
        in_32_bits(predict, task.for_evaluation(state.params), frames, jax.random.key(0))
    assert types(after) == types(state)


def in_32_bits(function, *arguments):
    """The shapes of what a function makes of arguments; none of its arrays, at the end or between, has 64-bit floats,
    and no result 64-bit integers."""
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


def like_batch(frame: Frames) -> Frames:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), frame)


def types(tree):
    return [(jax.tree_util.keystr(path), x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
