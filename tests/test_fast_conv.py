"""Tests of convolutions by transforms of tiles, against the plain ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from loco_jax.models import fast_conv


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
    _close(fast_conv.conv(x, weights, padding, tile), _plain(x, weights, padding))


def test_under_vmap_and_with_defaults():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 1, 10, 9, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 5, 5, 3, 2)).astype(np.float32)
    found = jax.vmap(fast_conv.conv)(x, weights)
    for one, kernel, result in zip(x, weights, found):
        _close(result, _plain(one, kernel, ((2, 2), (2, 2))))


def test_large_values_elsewhere_do_not_spoil_small_ones_in_other_tiles():
    """A tile's rounding is its own: far from a bright spot, the result is as exact as without it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 24, 40, 2)).astype(np.float32)
    x[:, :4, :4] *= 1e6
    weights = rng.normal(size=(5, 5, 2, 3)).astype(np.float32)
    found, want = fast_conv.conv(x, weights), _plain(x, weights, ((2, 2), (2, 2)))
    _close(found[:, 16:, 16:], want[:, 16:, 16:])


def test_bands_are_what_then_makes_of_them():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 14, 2)).astype(np.float32)
    weights = rng.normal(size=(3, 3, 2, 5)).astype(np.float32)
    tile = (6, 8)
    products = fast_conv.transform_kernel(jnp.asarray(weights), tile)
    found = fast_conv.conv_bands(x, products, (3, 3), tile, lambda i, band: (i, band.max(axis=(0, 1))))
    want = _plain(x[None], weights, ((0, 0), (0, 0)))[0]  # 10 x 12: bands of 4 rows, tiles of 6 columns
    assert found[0].tolist() == [0, 1, 2]
    for band, highest in enumerate(found[1][:2]):
        np.testing.assert_allclose(highest, want[4 * band : 4 * band + 4].max(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("tile", [(4, 12), (12, 4), (11, 12), (12, 13)])
def test_tiles_that_cannot_be_are_refused(tile):
    with pytest.raises(ValueError, match=r"tile=.* must have even sides"):
        fast_conv.conv(jnp.zeros((1, 8, 8, 1)), jnp.zeros((5, 5, 1, 1)), tile=tile)
