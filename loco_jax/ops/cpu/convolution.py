"""Convolutions done otherwise: 3D ones of few channels on CPUs, 2D ones of odd numbers of channels on GPUs."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = "NHWDC", "HWDIO", "NHWDC"
_CHANNELS = 8


def convolve_3d(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = LAYOUT,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`lax.conv_general_dilated` of `[B, h, w, d, C]`, for `nn.Conv(conv_general_dilated=...)`.

    On CPUs, where a 3D convolution of few channels runs on one core and many times slower than a 2D one, blocks of
    neighbouring depths become channels of a 2D convolution whose kernel holds the 3D one in bands, once for each depth
    of a block. More than half of its multiplications are by zero, and it is still dozens of times faster.

    Raises ValueError for strides, dilations, groups, paddings with a name, and other layouts.
    """
    steps = {"strides": strides, "lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    numbers = dimension_numbers_of(
        "convolve_3d", x, kernel, LAYOUT, dimension_numbers, padding, feature_group_count, steps
    )
    options = {"padding": padding, "precision": precision}
    dense = functools.partial(lax.conv_general_dilated, window_strides=strides, dimension_numbers=numbers, **options)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(_in_bands, **options), default=dense)


def convolve_padded(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated` of `[..., C]`, kernels `[..., C, F]`, for `nn.Conv(conv_general_dilated=...)`.

    Inside, zeros make C and F multiples of 8, as the matrix units of GPUs want them.
    """

    def padded(x, axes):
        return jnp.pad(x, [(0, 0)] * (x.ndim - axes) + [(0, -size % _CHANNELS) for size in x.shape[-axes:]])

    y = lax.conv_general_dilated(padded(x, 1), padded(kernel, 2), *arguments, **options)
    return y[..., : kernel.shape[-1]]


def dimension_numbers_of(
    who: str,
    x: jax.Array,
    kernel: jax.Array,
    layout: tuple[str, str, str],
    dimension_numbers: Any,
    padding: Sequence[tuple[int, int]],
    feature_group_count: int,
    steps: dict[str, Sequence[int] | None],
) -> lax.ConvDimensionNumbers:
    """Those of a convolution without groups that knows one layout, paddings in numbers, and no `steps` but 1.

    Raises ValueError, in the name of `who`, for others.
    """
    for name, some in steps.items():
        if some is not None and set(some) != {1}:
            raise ValueError(f"{who}: {name}={tuple(some)}; only 1 is known")
    if feature_group_count != 1:
        raise ValueError(f"{who}: feature_group_count={feature_group_count}; only 1 is known")
    if isinstance(padding, str):
        raise ValueError(f"{who}: padding={padding!r}; want a pair of numbers for each axis")
    numbers, known = (lax.conv_dimension_numbers(x.shape, kernel.shape, some) for some in (dimension_numbers, layout))
    if numbers != known:
        raise ValueError(f"{who}: dimension_numbers={dimension_numbers}; only {layout} is known")
    return numbers


def _in_bands(x, kernel, padding, precision):
    batch, _, _, depth, channels = x.shape
    reach, features = kernel.shape[2], kernel.shape[4]
    depth += sum(padding[2]) - reach + 1  # of what comes out
    block = min(depth, 8)
    blocks = -(-depth // block)
    low, high = padding[2]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (low, high + blocks * block - depth), (0, 0)))
    x = jnp.stack([x[..., i * block : (i + 1) * block + reach - 1, :] for i in range(blocks)], axis=1)
    x = x.reshape(batch * blocks, *x.shape[2:4], -1)
    shifted = [jnp.pad(kernel, ((0, 0), (0, 0), (i, block - 1 - i), (0, 0), (0, 0))) for i in range(block)]
    bands = jnp.stack(shifted, axis=-2).reshape(*kernel.shape[:2], -1, block * features)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": precision}
    y = lax.conv_general_dilated(x, bands, (1, 1), padding[:2], **options)
    y = y.reshape(batch, blocks, *y.shape[1:3], block, features)
    return jnp.moveaxis(y, 1, 3).reshape(batch, *y.shape[2:4], blocks * block, features)[..., :depth, :]
