"""2D convolutions and pooling, written so that XLA runs them fast on CPUs; elsewhere as XLA has them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from loco_jax.ops.cpu import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """As `lax.conv_general_dilated`; for `nn.Conv(conv_general_dilated=convolve)` of `x[B, H, W, C]`, not dilated.

    On CPUs a 1 x 1 convolution is a matrix product, up to 3 times as fast. And there XLA's convolutions without any
    padding take 3 times as long as those with some: so a row of zeros goes below the picture, and the row of results
    that it may add is cut off again.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    padded, stride = any(low or high for low, high in padding), tuple(window_strides)

    def plain(x, kernel, padding=padding):
        return lax.conv_general_dilated(x, kernel, stride, padding, **options)

    def direct(x, kernel):
        rows = (x.shape[1] - kernel.shape[0]) // stride[0] + 1
        return plain(x, kernel, ((0, 1), (0, 0)))[:, :rows]

    if padded:
        return plain(x, kernel)
    on_cpu = direct
    if kernel.shape[:2] == (1, 1) and stride == (1, 1) and options.get("feature_group_count", 1) == 1:
        on_cpu = functools.partial(_matmul_1x1, precision=options.get("precision"))
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _matmul_1x1(x, kernel, precision):
    return jnp.dot(x, kernel[0, 0], precision=precision)


def convolve_dilated(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = LAYOUT,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """As `lax.conv_general_dilated`; for `nn.Conv(input_dilation=2, conv_general_dilated=convolve_dilated)`.

    That is a transposed convolution. On CPUs the kernel's gradient is a matrix product, 100 times as fast as XLA's.

    Raises ValueError without `lhs_dilation`, and for strides, dilated kernels, groups, paddings with a name, and other
    layouts, of which that product knows nothing.
    """
    if lhs_dilation is None:
        raise ValueError("convolve_dilated: lhs_dilation=None; want a number for each axis")
    steps = {"window_strides": window_strides, "rhs_dilation": rhs_dilation}
    numbers = convolution.dimension_numbers_of(
        "convolve_dilated", x, kernel, LAYOUT, dimension_numbers, padding, feature_group_count, steps
    )

    def plain(x, kernel):
        options = {"lhs_dilation": lhs_dilation, "dimension_numbers": numbers, "precision": precision}
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    @jax.custom_jvp
    def fast(x, kernel):
        return plain(x, kernel)

    @fast.defjvp
    def fast_jvp(primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        change = _dilated_by_taps(x, dkernel, padding, lhs_dilation, precision)
        return fast(x, kernel), plain(dx, kernel) + change

    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)


def _dilated_by_taps(x, kernel, padding, dilation, precision):
    """The same as a product with all taps of the kernel, of which each cell's go to their places."""
    taps = list(np.ndindex(kernel.shape[:2]))
    found = jnp.einsum("bhwc,tcf->bhwtf", x, kernel.reshape(-1, *kernel.shape[2:]), precision=precision)

    def placed(i, tap):
        around = [
            (low - at, high - size + 1 + at, apart - 1)
            for at, size, (low, high), apart in zip(tap, kernel.shape, padding, dilation)
        ]
        return lax.pad(found[..., i, :], jnp.zeros((), found.dtype), [(0, 0, 0), *around, (0, 0, 0)])

    return sum(placed(i, tap) for i, tap in enumerate(taps))


def pad_few(x: jax.Array) -> jax.Array:
    """`x[B, H, W, C]` with columns of zeros after it where there are few cells, for a transposed convolution.

    On CPUs XLA's take up to 100 times as long where fewer than 100 cells come out. Columns of zeros change nothing but
    the number of columns, so cut the result off where it ended without them.
    """
    fewest = -(-_FEWEST // (4 * x.shape[1]))
    return jnp.pad(x, ((0, 0), (0, 0), (0, max(fewest - x.shape[2], 0)), (0, 0)))


_FEWEST = 128  # cells that come out; four for one that goes in


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3 x 3 cells with stride 2, without padding, of `x[B, H, W, C]`.

    As maxima of slices: on CPUs 5 times as fast as XLA's windows.
    """
    for axis in (1, 2):
        last = 2 * ((x.shape[axis] - 3) // 2) + 1
        parts = [lax.slice_in_dim(x, first, first + last, 2, axis) for first in range(3)]
        x = jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
    return x
