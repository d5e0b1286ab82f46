"""Tests of convolutions by transforms of tiles, against the plain ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import signal

from loco_jax.ops.cpu import tiles as fast


def _plain(x, kernel):
    """The result of SciPy, channel by channel, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (2, 2), (2, 2), (0, 0)))
    images = []
    for image in x:
        rows = [
            sum(
                signal.correlate2d(image[..., c], np.asarray(kernel[..., c, n], np.float64), mode="valid")
                for c in range(kernel.shape[2])
            )
            for n in range(kernel.shape[3])
        ]
        images.append(np.stack(rows, axis=-1))
    return np.stack(images)


def _conv(x, kernel):
    """The convolution of padded images `[B, H, W, C]`."""
    products = fast.transform_kernel(jnp.asarray(kernel))
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return jax.jit(jax.vmap(lambda image: fast.convolve(image, products)))(padded)


def _close(found, want):
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(2, 19, 23), (1, 16, 24), (1, 1, 1)])
def test_equals_the_plain_convolution(shape):
    """Tiles that stick out on both sides, tiles that fit, and a picture smaller than a tile."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*shape, 3)).astype(np.float32)
    weights = rng.normal(size=(5, 5, 3, 4)).astype(np.float32)
    _close(_conv(x, weights), _plain(x, weights))


def test_under_vmap_of_kernels_too():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 1, 10, 9, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 5, 5, 3, 2)).astype(np.float32)
    found = jax.vmap(_conv)(x, weights)
    for one, kernel, result in zip(x, weights, found):
        _close(result, _plain(one, kernel))


def test_large_values_elsewhere_do_not_spoil_small_ones_in_other_tiles():
    """A tile's rounding is its own: far from a bright spot, the result is as exact as without it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 24, 40, 2)).astype(np.float32)
    x[:, :4, :4] *= 1e6
    weights = rng.normal(size=(5, 5, 2, 3)).astype(np.float32)
    found, want = _conv(x, weights), _plain(x, weights)
    _close(found[:, 16:, 16:], want[:, 16:, 16:])


@pytest.mark.parametrize("seed", range(3))
def test_single_tiles_are_parts_of_the_plain_convolution(seed):
    """Tiles that overlap, lie at corners and in zeros around an image, in any order. XLA in float64 is the oracle."""
    side = fast.TILE
    rng = np.random.default_rng(seed)
    x = np.pad(rng.normal(size=(9, 14, 3)), ((4, side), (4, side), (0, 0))).astype(np.float32)
    weights = rng.normal(size=(5, 5, 3, 4)).astype(np.float32)
    last = x.shape[0] - side, x.shape[1] - side
    corners = [(0, 0), last, (0, last[1]), (last[0], 0), *rng.integers(0, np.add(last, 1), (3, 2)).tolist()]
    corners = rng.permutation(corners)
    tiles = np.stack([x[r : r + side, c : c + side] for r, c in corners])
    found = fast.convolve_tiles(tiles, fast.transform_kernel(jnp.asarray(weights)))
    with jax.enable_x64(True):
        whole = lax.conv_general_dilated(
            x[None].astype(np.float64),
            weights.astype(np.float64),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        assert whole.dtype == np.float64
        whole = np.asarray(whole)
    _close(found, np.stack([whole[r : r + fast.STEP, c : c + fast.STEP] for r, c in corners]))
    assert not found[np.all(corners == last, axis=1)].any()  # nothing but zeros there
