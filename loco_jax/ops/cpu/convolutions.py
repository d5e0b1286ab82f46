"""Convolutions that are fast on CPUs, with the results and gradients of `lax.conv_general_dilated`.

They take its arguments, with the layout and the defaults of `nn.Conv`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEWEST = 128  # cells; XLA's transposed convolutions take up to 100 times as long for fewer than about 100


def as_product(
    x: Float[jax.Array, "B H W C"], kernel: Float[jax.Array, "1 1 C N"], *_: Any, **options: Any
) -> Float[jax.Array, "B H W N"]:
    """A 1 x 1 convolution of stride 1 as a product of matrices, which is up to 3 times as fast."""
    return jnp.dot(x, kernel[0, 0])


def unpadded(
    x: Float[jax.Array, "B h w C"], kernel: Float[jax.Array, "k l C N"], strides: Any, padding: Any, **options: Any
) -> Float[jax.Array, "B H W N"]:
    """A 2D convolution without padding.

    On CPUs XLA takes 3 times as long for these as for padded ones. So a row of zeros is added below the picture, and
    the additional row of results is removed.
    """

    def with_row(x, kernel):
        rows = (x.shape[1] - kernel.shape[0]) // strides[0] + 1
        return lax.conv_general_dilated(x, kernel, strides, ((0, 1), (0, 0)), **options)[:, :rows]

    plain = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    return lax.platform_dependent(x, kernel, cpu=with_row, default=plain)


def transposed(
    x: Float[jax.Array, "B h w C"], kernel: Float[jax.Array, "k l C N"], strides: Any, padding: Any, **options: Any
) -> Float[jax.Array, "B H W N"]:
    """A 2D convolution of an input whose cells are set apart (`lhs_dilation`), with stride 1 and padding in numbers.

    On CPUs the kernel's gradient is a product of matrices, 100 times as fast as XLA's. Where few cells come out,
    columns of zeros are added at the end of the input, and their results are cut off.
    """
    plain = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    spread = options["lhs_dilation"]

    def widened(x, kernel):
        more = max(-(-_FEWEST // (4 * x.shape[1])) - x.shape[2], 0)
        y = plain(jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))), kernel)
        return y[:, :, : y.shape[2] - spread[1] * more]

    fast = jax.custom_jvp(widened)

    @fast.defjvp
    def fast_jvp(primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        return fast(x, kernel), widened(dx, kernel) + _by_taps(x, dkernel, padding, spread)

    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)


def _by_taps(x, kernel, padding, dilation):
    """The convolution as a product with all taps of the kernel, whose results are then shifted and added."""
    found = jnp.einsum("bhwc,tcf->bhwtf", x, kernel.reshape(-1, *kernel.shape[2:]))

    def placed(i, tap):
        around = [
            (low - at, high - size + 1 + at, apart - 1)
            for at, size, (low, high), apart in zip(tap, kernel.shape, padding, dilation)
        ]
        return lax.pad(found[..., i, :], jnp.zeros((), found.dtype), [(0, 0, 0), *around, (0, 0, 0)])

    return sum(placed(i, tap) for i, tap in enumerate(np.ndindex(kernel.shape[:2])))


def in_bands(
    x: Float[jax.Array, "B h w d C"], kernel: Float[jax.Array, "k l m C N"], strides: Any, padding: Any, **options: Any
) -> Float[jax.Array, "B H W D N"]:
    """A 3D convolution of few channels, with stride 1 and padding in numbers.

    On CPUs XLA computes 3D convolutions on one core and many times more slowly than 2D ones. So blocks of 8
    neighbouring depths become the channels of a 2D convolution. Its kernel contains the 3D one once for each depth of a
    block, shifted. More than half of its multiplications are by zero, and it is still dozens of times as fast.
    """
    plain = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)

    def banded(x, kernel):
        batch, _, _, depth, _ = x.shape
        reach, features = kernel.shape[2], kernel.shape[4]
        depth += sum(padding[2]) - reach + 1  # of the result
        block = min(depth, 8)
        blocks = -(-depth // block)
        low, high = padding[2]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (low, high + blocks * block - depth), (0, 0)))
        x = jnp.stack([x[..., i * block : (i + 1) * block + reach - 1, :] for i in range(blocks)], axis=1)
        x = x.reshape(batch * blocks, *x.shape[2:4], -1)
        shifted = [jnp.pad(kernel, ((0, 0), (0, 0), (i, block - 1 - i), (0, 0), (0, 0))) for i in range(block)]
        bands = jnp.stack(shifted, axis=-2).reshape(*kernel.shape[:2], -1, block * features)
        y = lax.conv_general_dilated(x, bands, (1, 1), padding[:2], dimension_numbers=_LAYOUT)
        y = y.reshape(batch, blocks, *y.shape[1:3], block, features)
        return jnp.moveaxis(y, 1, 3).reshape(batch, *y.shape[2:4], blocks * block, features)[..., :depth, :]

    return lax.platform_dependent(x, kernel, cpu=banded, default=plain)
