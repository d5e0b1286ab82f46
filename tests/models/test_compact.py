"""The compact Code Predictor: the grid it speaks about, and what it looks at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.compact import CompactPredictor, sample, space_to_depth
from loco_jax.models.vha import code_shape

CAMERA = Camera(100.0, 100.0, 64.0, 48.0)


def _shapes(level, bins, size, **options):
    network = CompactPredictor(level, bins, **options)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), image, CAMERA)


@pytest.mark.parametrize("coarsest", [32, 64, 128])
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(("size", "bins"), [((1080, 1920), 316), ((270, 480), 80), ((200, 333), 80), ((64, 64), 80)])
def test_the_code_has_the_volumes_grid(level, size, bins, coarsest):
    code, _ = _shapes(level, bins, size, coarsest=coarsest)
    assert code.shape == (2, *code_shape(Volume(size, depth_bins=bins).shape, level))
    assert code.dtype == jnp.float32


def test_parameters_do_not_depend_on_the_pictures_size():
    shapes = [jax.tree.map(lambda x: x.shape, _shapes(2, 80, size)[1]) for size in ((270, 480), (64, 96))]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("bins", "coarsest"), [(80, 64), (316, 128)])
def test_at_most_11_million_parameters(bins, coarsest):
    _, params = _shapes(2, bins, (64, 96), coarsest=coarsest)
    assert sum(x.size for x in jax.tree.leaves(params)) < 11.0e6


@functools.lru_cache
def _network():
    network = CompactPredictor(2, 16, width=8, blocks=1, coarsest=32)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 96, 128, 3), jnp.uint8), CAMERA)
    return network, params, jax.jit(network.apply)


def test_every_parameter_matters():
    network, params, _ = _network()
    image = jax.random.randint(jax.random.key(1), (1, 96, 128, 3), 0, 256, jnp.uint8)

    def everything(network):
        features = network.features(image, CAMERA)
        places = jnp.array([[[20.0, 30.0]]])
        read = network.read_joints(features), network.read_poses(features, places), network.read_view(features)
        return network.code(features, image.shape[1:3]), *read

    def total(params):
        return sum(jnp.sum(jnp.sin(x)) for x in network.apply(params, method=everything))

    grads = jax.jit(jax.grad(total))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def test_frames_of_a_batch_are_independent():
    _, params, apply = _network()
    images = jax.random.randint(jax.random.key(1), (2, 96, 128, 3), 0, 256, jnp.uint8)
    cameras = Camera(*(jnp.array([f, 1.5 * f]) for f in CAMERA))
    both = apply(params, images, cameras)
    one = apply(params, images[1:], jax.tree.map(lambda f: f[1:], cameras))
    np.testing.assert_allclose(both[1], one[0], rtol=2e-4, atol=2e-5)
    assert float(jnp.abs(both[0] - both[1]).max()) > 1e-3


def test_the_same_picture_by_a_camera_of_other_focal_length_is_another_scene():
    _, params, apply = _network()
    image = jax.random.randint(jax.random.key(1), (1, 96, 128, 3), 0, 256, jnp.uint8)
    code, other = apply(params, image, CAMERA), apply(params, image, CAMERA._replace(fx=150.0, fy=150.0))
    assert float(jnp.abs(code - other).max()) > 1e-3
    # Rays count, and not pixels: twice as many pixels of principal point and focal length are others.
    assert float(jnp.abs(code - apply(params, image, CAMERA._replace(cx=0.0))).max()) > 1e-3


def test_joints_are_read_where_they_are():
    """A blob far from the borders moves the joints' logits in its own neighbourhood most."""
    network, params, _ = _network()
    images = np.full((2, 256, 256, 3), 128, np.uint8)
    images[1, 104:120, 168:184] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))

    def read(network):
        return network.read_joints(network.features(images, CAMERA))

    logits = jax.jit(functools.partial(network.apply, method=read))(params)
    assert logits.shape == (2, 32, 32, 14)
    change = np.abs(logits[1] - logits[0]).sum(axis=-1)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert abs(row - 13.5) <= 2 and abs(column - 21.5) <= 2


def test_values_between_cells_are_bilinear():
    features = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    places = np.random.default_rng(1).uniform(-2, 8, (2, 50, 2)).astype(np.float32)
    found = sample(jnp.asarray(features), jnp.asarray(places))
    for batch in range(2):
        for channel in range(3):
            want = ndimage.map_coordinates(
                features[batch, ..., channel], places[batch].T[::-1], order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[batch, :, channel], want, atol=1e-5)


def test_space_to_depth_keeps_each_cell_together():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cells = np.asarray(space_to_depth(jnp.asarray(x), 2))
    for row in range(2):
        for column in range(3):
            block = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(cells[:, row, column], block.reshape(2, -1))
