"""2D convolutions with small kernels in 2 to 5 times fewer multiplications than the plain ones (Toom-Cook, Winograd).

A convolution is a product of polynomials. Those are evaluated at as many points as the product has coefficients, the
values multiplied, and the product's coefficients found back from them; over all tiles and channels the multiplications
at a point are a product of matrices. The three steps before and after are products with small constant matrices.
The result is that of `lax.conv_general_dilated` up to rounding, below 1e-5 of the largest. It pays on CPUs, where
arithmetic is the limit. `fast_conv` does the same for wide kernels: there all points are roots of unity, and the
transforms are done axis by axis; here tiles are so small that one matrix for both axes costs less than moving data.

Axes: T x U cells of a tile with its halo, m x n tiles, p x q results a tile, P products; C channels in, N out.
"""

import math
from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Where polynomials are evaluated, by the taps of the kernel along an axis; a complex number stands for its conjugate as
# well. Few points that are large or close to each other, for the sake of rounding. With as many taps as r, n points
# give n - r + 1 results: 1, 4, 3, 4 and 12.
_SMALL = (0, 1, -1, 2, -0.5, np.inf)
_POINTS = {
    1: (np.inf,),
    3: _SMALL,
    4: _SMALL,
    5: (*_SMALL, 1j),
    7: (0, np.inf, 1, -1, *np.exp(1j * np.pi * np.arange(1, 8) / 8)),
}
_TILES = 240  # tiles at once, so that what is between the transforms stays in the cache
_BYTES = 2**23  # of the transformed kernel at once, for the same reason


def pays(x_shape: Sequence[int], kernel_shape: Sequence[int], padding: Sequence[tuple[int, int]]) -> bool:
    """Whether `conv` is faster on CPUs than the plain convolution, in float32: with many channels and many cells."""
    (k, l, channels, features), (batch, *_) = kernel_shape, x_shape
    if not {k, l} <= _POINTS.keys() or k * l == 1 or channels < 48 or features < 64:
        return False
    back = _matrices(k, l)[0]
    H, W = _size(x_shape, kernel_shape, padding)
    tiles = batch * math.prod(_tiles((H, W), (k, l)))
    return tiles >= _FEWEST and _GAIN * tiles * back.shape[1] <= k * l * batch * H * W


_FEWEST = 100  # tiles: below, transforming the kernel takes what is won
_GAIN = 1.5  # times fewer multiplications, from which on the transforms are paid for


def conv(x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0))) -> jax.Array:
    """The convolution `[B, H', W', N]` of `x[B, H, W, C]` with `kernel[k, l, C, N]`, stride 1, zeros around.

    `padding` is as `lax.conv_general_dilated` takes it: ((top, bottom), (left, right)).
    Raises ValueError for kernels whose sides are not 1, 3, 4, 5 or 7.
    """
    if not {*kernel.shape[:2]} <= _POINTS.keys():
        raise ValueError(f"kernel: sides must be of {', '.join(map(str, _POINTS))}; have {kernel.shape[:2]}")
    k, l, channels, features = kernel.shape
    H, W = _size(x.shape, kernel.shape, padding)
    m, n = _tiles((H, W), (k, l))
    p, q = _results(k), _results(l)
    # So many rows of tiles at once, `steps` times, and so many channels.
    at_once = max(_TILES // (x.shape[0] * n), 1)
    steps = -(-m // at_once)
    at_once = -(-m // steps)
    bytes_of_channel = _matrices(k, l)[0].shape[1] * features * kernel.dtype.itemsize
    wanted = min(-(-bytes_of_channel * channels // _BYTES), channels)
    parts = next(d for d in range(wanted, channels + 1) if channels % d == 0)

    (top, left), (rows, columns) = (low for low, _ in padding), (steps * at_once * p + k - 1, n * q + l - 1)
    x = jnp.pad(x, ((0, 0), (top, rows - top - x.shape[1]), (left, columns - left - x.shape[2]), (0, 0)))

    def part(i):
        some = channels // parts
        return _conv_bands(
            *(lax.dynamic_slice_in_dim(a, i * some, some, axis) for a, axis in ((x, 3), (kernel, 2))), steps
        )

    if parts == 1:
        y = _conv_bands(x, kernel, steps)
    else:
        y = lax.fori_loop(1, parts, lambda i, y: y + part(i), part(0))
    return y[:, :H, :W]


def _conv_bands(x, kernel, steps):
    """`[B, H', W', N]` of `x` padded to whole tiles, so many bands of them one after the other."""
    (batch, rows, columns, channels), (k, l, _, features) = x.shape, kernel.shape
    p, q = _results(k), _results(l)
    T, U = p + k - 1, q + l - 1
    at_once, n = (rows - k + 1) // p // steps, (columns - l + 1) // q
    back, of_tiles, of_kernel = (jnp.asarray(a, x.dtype) for a in _matrices(k, l))
    products = _matmul(of_kernel, kernel.reshape(k * l, -1)).reshape(-1, channels, features)

    def band(i):
        image = lax.dynamic_slice_in_dim(x, i * at_once * p, at_once * p + k - 1, 1)
        last = (at_once - 1) * p + 1, (n - 1) * q + 1
        tiles = [image[:, t : t + last[0] : p, u : u + last[1] : q] for t in range(T) for u in range(U)]
        tiles = _matmul(of_tiles, jnp.stack(tiles).reshape(T * U, -1)).reshape(len(products), -1, channels)
        y = _matmul(back, _matmul(tiles, products).reshape(len(products), -1))
        y = y.reshape(p, q, batch, at_once, n, features).transpose(2, 3, 0, 4, 1, 5)
        return y.reshape(batch, at_once * p, n * q, features)

    if steps == 1:
        return band(0)
    # All of it is overwritten. Were it filled with zeros, as `lax.map` does it, or from the zeros around x, XLA would
    # do so for all layers of a network before the first one, and keep their memory apart.
    cell = x[:, rows // 2, columns // 2, :1]
    y = jnp.broadcast_to(cell[:, None, None], (batch, rows - k + 1, columns - l + 1, features))
    return lax.fori_loop(0, steps, lambda i, y: lax.dynamic_update_slice_in_dim(y, band(i), i * at_once * p, 1), y)


def _matmul(a, b):
    return jnp.matmul(a, b, precision="highest")


def _size(x_shape, kernel_shape, padding):
    return tuple(size + sum(pad) - taps + 1 for size, taps, pad in zip(x_shape[1:3], kernel_shape, padding))


def _tiles(size, kernel_size):
    return tuple(-(-results // _results(taps)) for results, taps in zip(size, kernel_size))


def _results(taps):
    return len(_with_conjugates(_POINTS[taps])) - taps + 1


# --- The constant matrices.


@cache
def _matrices(k, l):
    """From the products to results `[pq, P]`, from a tile `[P, TU]` and from the kernel `[P, kl]` to their factors."""
    return tuple(np.kron(rows, columns) for rows, columns in zip(_along_axis(k), _along_axis(l)))


def _along_axis(taps):
    """Of one axis: `[p, P]`, `[P, T]` and `[P, taps]`.

    With V the matrix that evaluates, V^-1 [(V g) (V h)] are the coefficients of the product of polynomials g and h. As
    a linear map of h it is a convolution with g; what is called so here is a correlation, its transpose: that of the
    result y is V^T [(V g) (V^-T y)].
    """
    points = _POINTS[taps]
    everywhere = _with_conjugates(points)
    length = len(everywhere)
    inverse = np.linalg.inv(np.stack([_powers(a, length) for a in everywhere])).T
    back, of_tiles, of_kernel = [], [], []
    for a in points:
        tile, kernel, result = inverse[everywhere.index(a)], _powers(a, taps), _powers(a, length - taps + 1)
        if np.iscomplexobj(a) and a.imag:
            # (b + ci)(d + ei) of three products (Gauss): (P - R) + (P + Q)i, where P = (b + c)d, Q = b(e - d) and
            # R = c(d + e). The conjugate adds its conjugate: twice the real part.
            of_tiles += [tile.real + tile.imag, tile.real, tile.imag]
            of_kernel += [kernel.real, kernel.imag - kernel.real, kernel.real + kernel.imag]
            back += [2 * (result.real - result.imag), -2 * result.imag, -2 * result.real]
        else:
            of_tiles.append(tile.real)
            of_kernel.append(kernel.real)
            back.append(result.real)
    return np.stack(back, axis=1), np.stack(of_tiles), np.stack(of_kernel)


def _with_conjugates(points):
    return [b for a in points for b in ((a, a.conjugate()) if np.iscomplexobj(a) and a.imag else (a,))]


def _powers(a, length):
    """What a polynomial's coefficients count for at a point; at infinity only the highest one does."""
    return np.eye(length, dtype=complex)[-1] if np.isinf(a) else complex(a) ** np.arange(length)
