"""The networks at 8 pixels a cell: the grid they speak about, and what they start from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.location_maps import LocationMapsPredictor
from loco_jax.models.volumetric import VolumetricPredictor

CAMERA = Camera(100.0, 100.0, 64.0, 48.0)


def _shapes(network, size):
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), image, CAMERA)


@pytest.mark.parametrize("coarsest", [32, 64, 128])
@pytest.mark.parametrize("size", [(1080, 1920), (270, 480), (200, 333), (64, 64)])
def test_the_maps_and_volumes_have_the_volumes_grid(size, coarsest):
    rows, columns, bins = shape = Volume(size, depth_bins=80).shape
    maps, _ = _shapes(LocationMapsPredictor(coarsest=coarsest), size)
    assert maps.heatmaps.shape == (2, 14, rows, columns) and maps.xyz.shape == (2, 14, rows, columns, 3)
    logits, _ = _shapes(VolumetricPredictor(bins, coarsest=coarsest), size)
    assert logits.shape == (2, 14, *shape) and logits.dtype == maps.xyz.dtype == jnp.float32


@pytest.mark.parametrize("network", [LocationMapsPredictor, functools.partial(VolumetricPredictor, 80)])
def test_parameters_do_not_depend_on_the_pictures_size(network):
    shapes = [jax.tree.map(lambda x: x.shape, _shapes(network(), size)[1]) for size in ((270, 480), (64, 96))]
    assert shapes[0] == shapes[1]


@functools.lru_cache
def _small(kind):
    options = {"width": 8, "blocks": 1}
    network = LocationMapsPredictor(**options) if kind == "maps" else VolumetricPredictor(6, **options)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64, 96, 3), jnp.uint8), CAMERA)
    return params, jax.jit(network.apply)


def _image(number=1):
    return jax.random.randint(jax.random.key(1), (number, 64, 96, 3), 0, 256, jnp.uint8)


def test_a_new_network_finds_nobody_and_would_put_them_ten_metres_ahead():
    params, apply = _small("maps")
    maps = apply(params, _image(), CAMERA)
    assert float(jax.nn.sigmoid(maps.heatmaps).max()) < 0.1
    np.testing.assert_allclose(np.median(maps.xyz, axis=(0, 1, 2, 3)), [0, 0, 10], atol=1.5)
    params, apply = _small("volumetric")
    assert float(jax.nn.sigmoid(apply(params, _image(), CAMERA)).max()) < 0.1


@pytest.mark.parametrize("kind", ["maps", "volumetric"])
def test_every_parameter_matters(kind):
    params, apply = _small(kind)
    grads = jax.jit(
        jax.grad(lambda params: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(apply(params, _image(), CAMERA))))
    )(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", ["maps", "volumetric"])
def test_frames_of_a_batch_are_independent_and_cameras_count(kind):
    params, apply = _small(kind)
    cameras = Camera(*(jnp.array([f, 1.5 * f]) for f in CAMERA))
    both = apply(params, _image(2), cameras)
    one = apply(params, _image(2)[1:], jax.tree.map(lambda f: f[1:], cameras))
    for x, y in zip(jax.tree.leaves(both), jax.tree.leaves(one)):
        np.testing.assert_allclose(x[1], y[0], rtol=2e-4, atol=2e-4)
    other = apply(params, _image(2)[1:], CAMERA)
    assert all(float(jnp.abs(x - y).max()) > 1e-3 for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_cell_has_a_heatmap_and_a_position_for_each_joint_type():
    """The last layer's numbers, one after the other: each changes one number of one joint type."""
    params, apply = _small("maps")
    last = params["params"]["CellNetwork_0"]["Dense_1"]
    before = apply(params, _image(), CAMERA)
    for number, joint, axis in ((3, 3, None), (14, 0, 0), (14 + 3 * 5 + 2, 5, 2)):
        moved = jax.tree.map(lambda x: x, params)
        moved["params"]["CellNetwork_0"]["Dense_1"] = {**last, "bias": last["bias"].at[number].add(0.5)}
        change = jax.tree.map(lambda x, y: np.asarray(x - y), apply(moved, _image(), CAMERA), before)
        want = jax.tree.map(np.zeros_like, change)
        if axis is None:
            want.heatmaps[:, joint] = 0.5
        else:
            want.xyz[:, joint, ..., axis] = 5.0  # metres: a number stands for ten
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), change, want)
