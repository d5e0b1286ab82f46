"""Muon against optax's, and its orthogonalisation against singular values in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from loco_jax import experiment, muon, tasks
from loco_jax.configs import vha as vha_config
from loco_jax.step import init_state, make_optimizer, step_of

SHAPES = {"conv": (3, 3, 16, 12), "wide": (10, 12), "thin": (4, 30)}
RATE = optax.linear_schedule(0.1, 0.02, 8)


@pytest.mark.parametrize("shape", [(24, 24), (24, 30), (24, 100), (300, 24)])
@pytest.mark.parametrize("least", [1e-1, 1e-8])
def test_singular_values_go_through_the_polynomial(shape, least):
    rng = np.random.default_rng(0)
    size = min(shape)
    left, right = (np.linalg.qr(rng.normal(size=(n, size)))[0] for n in shape)
    values = np.geomspace(1, least, size)
    expected = values / np.linalg.norm(values)
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    matrix = jnp.float32((left * values) @ right.T)
    for scale in (1.0, 1e-4):
        np.testing.assert_allclose(muon.orthogonalise(scale * matrix), (left * expected) @ right.T, atol=2e-3)
    if least < 1e-3:  # that is noise in bfloat16
        return
    half = muon.orthogonalise(matrix, jnp.bfloat16)
    assert half.dtype == jnp.float32
    assert np.linalg.norm(half - (left * expected) @ right.T) < 0.1 * np.linalg.norm(expected)


def updates_of(optimizer: optax.GradientTransformation, count: int) -> list[dict]:
    """Of the same random gradients."""
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    state, update, found = optimizer.init(params), jax.jit(optimizer.update), []
    for key in jax.random.split(jax.random.key(0), count):
        gradients = {name: jax.random.normal(jax.random.fold_in(key, len(name)), x.shape) for name, x in params.items()}
        updates, state = update(gradients, state, params)
        found.append(updates)
    return found


def test_updates_are_optax_s():
    def dimensions(params):
        def of(path, x):
            thin = path[-1].key == "thin"
            return None if thin else optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

        return jax.tree_util.tree_map_with_path(of, params)

    other = optax.contrib.muon(
        RATE,
        consistent_rms=0.2,
        adam_learning_rate=lambda count: RATE(count) / 5,
        muon_weight_dimension_numbers=dimensions,
    )
    for ours, theirs in zip(updates_of(muon.muon(RATE), 5), updates_of(other, 5)):
        for name in SHAPES:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, rtol=1e-3, err_msg=name)


class Linear(tasks.Task):
    """Its gradient is the batch."""

    def init(self, key):
        return {"w": jnp.ones((16, 16))}

    def loss(self, params, frames, key, stage):
        return jnp.sum(params["w"] * frames), {}


def test_steps_that_are_skipped_leave_no_trace():
    config = vha_config.get_config(1, "variant=patch,scale=demo")
    config.optimizer.warmup = 0
    task, optimizer = Linear(), make_optimizer(config)
    step = jax.jit(functools.partial(step_of(config, task, optimizer), stage=0))
    gradients = list(jax.random.normal(jax.random.key(0), (4, 16, 16)))

    def after(batches):
        state = init_state(task, optimizer, config, pretrained=False)
        skipped = 0
        for batch in batches:
            state, scalars = step(state, batch)
            skipped += int(scalars["skipped"])
        return state, skipped

    bad = jnp.full((16, 16), jnp.nan)
    (expected, none), (found, three) = after(gradients), after([bad, *gradients[:1], bad, *gradients[1:], bad])
    assert (none, three) == (0, 3)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, expected.opt_state)


def test_a_type_that_does_not_exist_is_told():
    config = vha_config.get_config(1, "variant=patch,scale=demo")
    config.optimizer.orthogonalise_dtype = "float16"
    with pytest.raises(ValueError, match="orthogonalise_dtype='float16'; there are float32, bfloat16"):
        experiment.check(config)
