"""The residual blocks of PatchVHA and of the compact trunk on CPUs, in half the time.

The 3 x 3 x 3 and 3 x 3 convolutions need half as many multiplications: along their first axis, six products give four
results in place of twelve (Winograd's F(4, 3), after Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015). Each product is a convolution over the other axes. If there are many cells, all layers of a block are
computed for a few slices before the next slices, so that values between the layers stay in the cache. The results
differ from those of the modules by about 3e-6 of the greatest.

Under differentiation the modules themselves are computed, because convolutions inside loops have slow gradients.
Forward-mode differentiation (`jax.jvp`) raises TypeError. A number that is not finite spreads over its whole tile, at
most three slices further than in the modules.

Axes: cells are x[B, L, *, w, C]; L, the depths or the rows, is cut into slices, of which 4 make a tile.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from loco_jax.geometry.arrays import Array

_TILE = 4  # slices that a set of products gives
_LEAST = 2**18  # numbers in a block's input; the gain is small for fewer
_WHOLE = 2**21  # up to so many numbers (8 MB), all slices are computed at once
_SLAB = 2**18  # above, about so many at a time

# Interpolation at 0, 1, -1, 2, -2 and infinity. The matrices map six slices to factors, a kernel's three taps to
# factors, and the six products to four slices.
_OF_SLICES = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_TAPS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_TO_RESULTS = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def pays(block: nn.Module, x: Float[Array, "B L *cells C"]) -> bool:
    """Whether the fast path is faster for an input of this type and size."""
    return x.size >= _LEAST and block.dtype == jnp.float32


def compute(
    plain: Callable[..., jax.Array], variables: Any, x: Float[Array, "B L *cells C"]
) -> Float[jax.Array, "B L *cells C"]:
    """`plain(variables, x)` of a `patch_vha.Block` or a `compact.PixelBlock`, with the fast path on CPUs."""

    @jax.custom_vjp
    def either(variables, x):
        return lax.platform_dependent(variables, x, cpu=_in_slabs, default=plain)

    either.defvjp(lambda variables, x: jax.vjp(plain, variables, x), lambda pull_back, change: pull_back(change))
    return either(variables, x)


def _in_slabs(variables, x):
    params = variables["params"]
    batch, length, *_ = x.shape
    tiles = -(-length // _TILE)
    each = x.size // length * _TILE
    tiles_at_once = tiles if x.size <= _WHOLE else min(max(_SLAB // each, 1), tiles)
    slices = tiles_at_once * _TILE
    slabs = -(-tiles // tiles_at_once)
    padding = (1, 1 + slabs * slices - length)
    padded = jnp.pad(x, [padding if axis == 1 else (0, 0) for axis in range(x.ndim)])
    conv = params["Conv_0"] if x.ndim == 4 else params["CellConv_0"]["Conv_0"]
    kernels = _factors(conv["kernel"], x.shape[-1], x.ndim)

    def norm(i, x):
        return nn.RMSNorm(parent=None).apply({"params": params[f"RMSNorm_{i}"]}, x)

    def dense(i, x):
        layer = params[f"Dense_{i}"]
        return jnp.dot(x, layer["kernel"]) + layer["bias"]

    def finish(around):
        # RMSNorm leaves zeros as they are, so the input can be padded in place of its result.
        x = around[1:-1] + _convolve(norm(0, around), kernels) + conv["bias"]
        return x + dense(1, nn.gelu(dense(0, norm(1, x))))

    def slab(i):  # vmap over images, which may be on several devices
        return jax.vmap(finish)(lax.dynamic_slice_in_dim(padded, i * slices, slices + 2, axis=1))

    y = jnp.moveaxis(lax.map(slab, jnp.arange(slabs, dtype=jnp.int32)), 0, 1)
    return y.reshape(batch, slabs * slices, *x.shape[2:])[:, :length]


def _factors(kernel, channels, dims):
    """Factors `[6, k, 3, C, N]` of a kernel `[3, 3, C, N]` (k = 1) or `[3, 3, 3C, N]`, ordered (depth, C) (k = 3)."""
    taps = kernel.reshape(3, 3, -1, channels, kernel.shape[-1])
    taps = jnp.moveaxis(taps, 2, 0) if dims == 5 else jnp.moveaxis(taps, 2, 1)
    return jnp.einsum("fk,kyxcn->fyxcn", jnp.asarray(_OF_TAPS, taps.dtype), taps, precision="highest")


def _convolve(x, kernels):
    """The convolution `[L, *, w, N]` of `x[L + 2, *, w, C]`, padded along all axes but the first; 4 divides L."""
    length = x.shape[0] - 2
    parts = [x[i : i + length - _TILE + 1 : _TILE] for i in range(_TILE + 2)]

    def convolve(x, kernel):
        images = x if x.ndim == 4 else x[None]
        padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
        y = lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.reshape(*x.shape[:-1], -1)

    products = [convolve(_combine(row, parts), kernel) for row, kernel in zip(_OF_SLICES, kernels)]
    y = jnp.stack([_combine(row, products) for row in _TO_RESULTS], axis=1)
    return y.reshape(length, *y.shape[2:])


def _combine(weights, parts):
    terms = [part if weight == 1 else part * float(weight) for weight, part in zip(weights, parts) if weight]
    return sum(terms[1:], terms[0])
