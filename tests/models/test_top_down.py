"""The top-down networks: shapes, what reads what, and places of heatmaps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from loco_jax.geometry.camera import Camera
from loco_jax.models import top_down
from loco_jax.models.top_down import TopDown

CAMERA = Camera(*(np.full(2, f, np.float32) for f in (100.0, 100.0, 64.0, 48.0)))


def test_the_detector_has_five_numbers_a_cell():
    network = TopDown(width=8, blocks=1)
    image = jax.ShapeDtypeStruct((2, 270, 480, 3), jnp.uint8)
    (numbers, offsets, place), params = jax.eval_shape(network.init_with_output, jax.random.key(0), image, CAMERA)
    assert numbers.shape == (2, 320 // 8, 512 // 8, 5)
    assert offsets.shape == (1, 14, 3) and place.shape == (1, 3)
    assert set(params["params"]) == {"trunk", "detector", "poses", "lifter", "placer"}


def test_at_most_7_million_parameters():
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.uint8)
    params = jax.eval_shape(TopDown().init, jax.random.key(0), image, CAMERA)
    assert sum(x.size for x in jax.tree.leaves(params)) < 7e6


@functools.lru_cache
def _network():
    network = TopDown(width=8, blocks=1, lifting=16)
    image = jax.random.randint(jax.random.key(1), (2, 64, 64, 3), 0, 256, jnp.uint8)
    return network, jax.jit(network.init)(jax.random.key(0), image, CAMERA), image


def test_a_crops_pose_does_not_depend_on_other_crops():
    network, params, image = _network()
    look = jax.jit(functools.partial(network.apply, method="look"))
    crops = jnp.asarray(image, jnp.float32)
    both, other = look(params, crops), look(params, crops.at[1].set(0))
    np.testing.assert_allclose(both.heatmaps[0], other.heatmaps[0], atol=1e-5)
    assert np.abs(both.heatmaps[1] - other.heatmaps[1]).max() > 1e-3


def test_a_place_is_the_mean_about_the_greatest():
    heatmaps = np.random.default_rng(0).normal(size=(2, 16, 12, 3)).astype(np.float32)
    found = top_down.places(heatmaps)
    for n, j in np.ndindex(2, 3):
        shares = np.exp(heatmaps[n, :, :, j].astype(np.float64))
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        top, left = max(row - 2, 0), max(column - 2, 0)
        shares = shares[top : row + 3, left : column + 3]
        v, u = ((np.array(ndimage.center_of_mass(shares)) + (top + 0.5, left + 0.5)) / (16, 12)).tolist()
        np.testing.assert_allclose(found[n, j], (u, v), atol=1e-5)


def test_of_two_places_it_is_the_surer():
    heatmaps = np.full((1, 16, 16, 1), -1e4, np.float32)
    heatmaps[0, 3, 5], heatmaps[0, 3, 12] = 0.1, 0
    np.testing.assert_allclose(top_down.places(heatmaps), [[[5.5 / 16, 3.5 / 16]]], rtol=1e-5)
