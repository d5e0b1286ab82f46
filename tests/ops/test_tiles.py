"""Tests of convolutions by transforms of tiles, against the plain ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from scipy import signal

from loco_jax.ops.cpu import tiles as fast


def _plain(x, kernel, padding):
    """By SciPy, channel by channel, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
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


def _conv(x, kernel, padding=((2, 2), (2, 2)), tile=fast.TILE):
    """Of images `[B, H, W, C]`, with zeros around."""
    products = fast.transform_kernel(jnp.asarray(kernel), tile)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return jax.jit(jax.vmap(lambda image: fast.convolve(image, products, kernel.shape[:2], tile)))(padded)


def _close(found, want):
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    "shape, kernel, padding, tile",
    [
        ((2, 19, 23), (5, 5), ((2, 2), (2, 2)), (12, 12)),  # tiles that stick out on both sides
        ((1, 16, 24), (5, 5), ((2, 2), (2, 2)), (12, 12)),  # tiles that fit
        ((1, 1, 1), (5, 5), ((2, 2), (2, 2)), (12, 12)),
        ((1, 13, 9), (3, 5), ((1, 1), (0, 4)), (8, 10)),
        ((1, 9, 9), (5, 1), ((0, 0), (0, 0)), (6, 2)),
        ((1, 9, 11), (2, 4), ((1, 0), (2, 1)), (4, 4)),
        ((1, 7, 8), (5, 5), ((2, 2), (2, 2)), (6, 20)),
    ],
)
def test_equals_the_plain_convolution(shape, kernel, padding, tile):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*shape, 3)).astype(np.float32)
    weights = rng.normal(size=(*kernel, 3, 4)).astype(np.float32)
    _close(_conv(x, weights, padding, tile), _plain(x, weights, padding))


def test_under_vmap_of_kernels_too():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 1, 10, 9, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 5, 5, 3, 2)).astype(np.float32)
    found = jax.vmap(_conv)(x, weights)
    for one, kernel, result in zip(x, weights, found):
        _close(result, _plain(one, kernel, ((2, 2), (2, 2))))


def test_large_values_elsewhere_do_not_spoil_small_ones_in_other_tiles():
    """A tile's rounding is its own: far from a bright spot, the result is as exact as without it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 24, 40, 2)).astype(np.float32)
    x[:, :4, :4] *= 1e6
    weights = rng.normal(size=(5, 5, 2, 3)).astype(np.float32)
    found, want = _conv(x, weights), _plain(x, weights, ((2, 2), (2, 2)))
    _close(found[:, 16:, 16:], want[:, 16:, 16:])


kernels_and_tiles = st.sampled_from([((5, 5), (12, 12)), ((3, 5), (8, 10)), ((5, 1), (6, 2)), ((4, 2), (4, 6))])


@given(kernels_and_tiles, st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_single_tiles_are_parts_of_the_plain_convolution(sizes, seed):
    """Tiles that overlap, lie at corners and in zeros around an image, in any order: by XLA in float64."""
    (k, l), (T, U) = sizes
    rng = np.random.default_rng(seed)
    x = np.pad(rng.normal(size=(9, 14, 3)), ((k - 1, T), (l - 1, U), (0, 0))).astype(np.float32)
    weights = rng.normal(size=(k, l, 3, 4)).astype(np.float32)
    last = x.shape[0] - T, x.shape[1] - U
    corners = [(0, 0), last, (0, last[1]), (last[0], 0), *rng.integers(0, np.add(last, 1), (3, 2)).tolist()]
    corners = rng.permutation(corners)
    tiles = np.stack([x[r : r + T, c : c + U] for r, c in corners])
    found = fast.convolve_tiles(tiles, fast.transform_kernel(jnp.asarray(weights), (T, U)), (k, l))
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
    p, q = T - k + 1, U - l + 1
    _close(found, np.stack([whole[r : r + p, c : c + q] for r, c in corners]))
    assert not found[np.all(corners == last, axis=1)].any()  # nothing but zeros there
