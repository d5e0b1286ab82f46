"""The compact Code Predictor: the grid it speaks about, and what it looks at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.models.compact import CompactPredictor, space_to_depth
from loco_jax.models.vha import code_shape
from loco_jax.volume import Volume


def _shapes(level, bins, size, **options):
    network = CompactPredictor(level, bins, **options)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), image)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(("size", "bins"), [((1080, 1920), 316), ((270, 480), 80), ((200, 333), 80), ((64, 64), 80)])
def test_the_code_has_the_volumes_grid(level, size, bins):
    code, _ = _shapes(level, bins, size)
    assert code.shape == (2, *code_shape(Volume(size, depth_bins=bins).shape, level))
    assert code.dtype == jnp.float32


def test_parameters_do_not_depend_on_the_pictures_size():
    shapes = [jax.tree.map(lambda x: x.shape, _shapes(2, 80, size)[1]) for size in ((270, 480), (64, 96))]
    assert shapes[0] == shapes[1]


@functools.lru_cache
def _network():
    network = CompactPredictor(2, 16, width=8, blocks=1)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 96, 128, 3), jnp.uint8))
    return network, params, jax.jit(network.apply)


def test_every_parameter_matters():
    network, params, _ = _network()
    image = jax.random.randint(jax.random.key(1), (1, 96, 128, 3), 0, 256, jnp.uint8)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(network.apply(p, image)))))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def test_frames_of_a_batch_are_independent():
    _, params, apply = _network()
    images = jax.random.randint(jax.random.key(1), (2, 96, 128, 3), 0, 256, jnp.uint8)
    both = apply(params, images)
    np.testing.assert_allclose(both[1], apply(params, images[1:])[0], rtol=2e-4, atol=2e-5)
    assert float(jnp.abs(both[0] - both[1]).max()) > 1e-3


def test_what_moves_by_a_cell_moves_by_a_cell():
    """Convolutional: a blob far from the borders gives the same code one cell of 32 pixels further on."""
    _, params, apply = _network()
    dot = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    images = np.zeros((2, 480, 480, 3), np.uint8)
    images[0, 232:248, 200:216] = images[1, 232:248, 232:248] = dot
    empty, one, other = apply(params, np.concatenate([np.zeros_like(images[:1]), images]))
    change, moved = one - empty, other - empty
    assert float(jnp.abs(change).max()) > 1e-3
    np.testing.assert_allclose(change[4:11, 4:10], moved[4:11, 5:11], rtol=1e-3, atol=1e-5)


def test_space_to_depth_keeps_each_cell_together():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cells = np.asarray(space_to_depth(jnp.asarray(x), 2))
    for row in range(2):
        for column in range(3):
            block = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(cells[:, row, column], block.reshape(2, -1))
