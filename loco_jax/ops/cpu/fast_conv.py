"""2D convolutions with wide kernels and many channels, in seven times fewer multiplications than the plain ones.

The picture is cut into overlapping tiles. A discrete Fourier transform of each makes one product a frequency out of the
convolution, which over all tiles and channels is a product of matrices (overlap-save). The result is that of
`lax.conv_general_dilated` up to rounding, about 1e-6 of the largest. It pays on CPUs, where arithmetic is the limit.

The transforms are short, so they are products with constant matrices. A product of complex numbers is made of three
real ones (Gauss), and the sums before and after those are parts of the constant matrices:
(a + bi)(c + di) = (P - R) + (P + Q)i, where P = (a + b)c, Q = a(d - c), R = b(c + d).

Axes: T rows and U columns of a tile with its halo, m x n tiles, p x q results a tile; C channels in, N out. Along the
rows, G = T/2 pairs of real numbers stand for the T/2 + 1 frequencies of real numbers: the first pair is the lowest and
the highest, which are real, and the others are complex. Each pair is transformed along the columns and multiplied by
itself.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = (12, 12)  # 8 x 8 results with kernels of 5; 20 x 20 is a few per cent faster and takes three times the memory


def transform_kernel(kernel: jax.Array, tile: tuple[int, int] = TILE) -> jax.Array:
    """What a `kernel[k, l, C, N]` multiplies by: `[G, 3U, C, N]`. Raises ValueError for tiles that cannot be."""
    (k, l, channels, features), (T, U) = kernel.shape, tile
    if T < k or U < l or T % 2 or U % 2:
        raise ValueError(f"tile={tile} must have even sides, not smaller than the kernel's {k} x {l}")
    over_rows, over_columns = (
        jnp.asarray(m, kernel.dtype) for m in (_real_dft(T, k, -1), _products_of_kernel(tile, l))
    )
    x = jnp.matmul(over_rows, kernel.reshape(k, -1), precision="highest").reshape(T // 2, 2 * l, -1)
    return jnp.matmul(over_columns, x, precision="highest").reshape(T // 2, 3 * U, channels, features)


def conv(
    image: jax.Array,
    products: jax.Array,
    kernel_size: tuple[int, int],
    tile: tuple[int, int] = TILE,
    then: Callable[[jax.Array], jax.Array] = lambda band: band,
) -> jax.Array:
    """The convolution `[H - k + 1, W - l + 1, N]` of `image[H, W, C]`, without padding and with stride 1.

    `products` are what `transform_kernel` made of the kernel, with the same tile. `then` is done to the results, a band
    of rows after the other, while they are in the cache.
    """
    (T, U), (k, l), (H, W, channels) = tile, kernel_size, image.shape
    groups, features = products.shape[0], products.shape[-1]
    p, q = T - k + 1, U - l + 1
    rows, columns = H - k + 1, W - l + 1
    m, n = -(-rows // p), -(-columns // q)
    image = jnp.pad(image, ((0, m * p + k - 1 - H), (0, n * q + l - 1 - W), (0, 0)))
    over_rows, _, _, back_over_rows = _transforms(tile, kernel_size, image.dtype)

    flat = image.reshape(image.shape[0], -1)
    x = lax.map(lambda i: _matmul(over_rows, lax.dynamic_slice_in_dim(flat, i * p, T)), jnp.arange(m, dtype=jnp.int32))
    x = x.reshape(m, groups, 2, image.shape[1], channels)

    def tiles_of(g):
        pair = lax.dynamic_index_in_dim(x, g, 1, keepdims=False)
        tiles = jnp.stack([lax.slice_in_dim(pair, u, u + (n - 1) * q + 1, q, axis=2) for u in range(U)])
        return tiles.transpose(2, 0, 1, 3, 4)

    y = _multiply(tiles_of, products, kernel_size, tile).reshape(T, q, m, n * features)

    def band(i):
        x = _matmul(back_over_rows, lax.dynamic_index_in_dim(y, i, 2, keepdims=False).reshape(T, -1))
        x = x.reshape(p, q, n, features).transpose(0, 2, 1, 3).reshape(p, n * q, features)
        return then(x[:, :columns])

    bands = lax.map(band, jnp.arange(m, dtype=jnp.int32))
    return bands.reshape(m * p, *bands.shape[2:])[:rows]


def conv_tiles(tiles: jax.Array, products: jax.Array, kernel_size: tuple[int, int]) -> jax.Array:
    """The results `[n, p, q, N]` of single tiles `[n, T, U, C]`, with the kernel of which `products` were made."""
    n, T, U, channels = tiles.shape
    p, q = (size - taps + 1 for size, taps in zip((T, U), kernel_size))
    over_rows, _, _, back_over_rows = _transforms((T, U), kernel_size, tiles.dtype)
    x = _matmul(over_rows, tiles.transpose(1, 2, 0, 3).reshape(T, -1)).reshape(T // 2, 2, U, n, channels)
    y = _multiply(lambda g: lax.dynamic_index_in_dim(x, g, 0, keepdims=False), products, kernel_size, (T, U))
    return _matmul(back_over_rows, y.reshape(T, -1)).reshape(p, q, n, -1).transpose(2, 0, 1, 3)


_matmul = functools.partial(jnp.matmul, precision="highest")


def _multiply(tiles_of, products, kernel_size, tile):
    """From pairs of rows, transformed along them, to pairs of rows of the results: `[G, 2q, ...]`.

    `tiles_of(g)` are a pair's columns `[2, U, ..., C]`. A group is done at a time, so that nothing between the
    transforms leaves the cache.
    """
    groups, _, channels, _ = products.shape
    _, over_columns, back_over_columns, _ = _transforms(tile, kernel_size, products.dtype)

    def multiply(args):
        g, over_columns, products, back_over_columns = args
        tiles = _matmul(over_columns, tiles_of(g).reshape(2 * tile[1], -1)).reshape(3 * tile[1], -1, channels)
        return _matmul(back_over_columns, _matmul(tiles, products).reshape(3 * tile[1], -1))

    return lax.map(multiply, (jnp.arange(groups, dtype=jnp.int32), over_columns, products, back_over_columns))


# --- The constant matrices. A tile's transform multiplies by e^(-2 pi i f t / T), a kernel's by the conjugate: what is
# --- called a convolution here is a correlation.


def _transforms(tile, kernel_size, dtype):
    """Of tiles, along rows and along columns; of products back along columns and along rows."""
    (T, U), (k, l) = tile, kernel_size
    back = _back_over_columns(tile, U - l + 1), _back_over_rows(T, T - k + 1)
    return tuple(jnp.asarray(a, dtype) for a in (_real_dft(T, T), _products_of_tiles(tile), *back))


def _dft(length, taps, sign=1):
    return np.exp(-2j * np.pi * sign * np.outer(np.arange(length), np.arange(taps)) / length)


def _real_dft(length, taps, sign=1):
    """`[T, taps]`: the lowest and the highest frequency, then the real and the imaginary part of the others."""
    dft = _dft(length, taps, sign)
    middle = dft[1 : length // 2]
    ends = dft[[0, length // 2]].real
    return np.concatenate([ends, np.stack([middle.real, middle.imag], axis=1).reshape(-1, taps)])


def _back_over_rows(length, results):
    """`[p, T]`: the inverse of `_real_dft`, the first `results` of it."""
    # The transform's rows are orthogonal; the middle ones are half as long, squared, as those at the ends.
    weight = np.full(length, 2 / length)
    weight[:2] /= 2
    return (weight[:, None] * _real_dft(length, results)).T


def _pairs(ends, middle, tile):
    """`[G, ...]`: `ends` for the pair of real numbers, `middle` for each complex one."""
    return np.stack([ends, *[middle] * (tile[0] // 2 - 1)])


def _block_diagonal(a):
    """`a` twice, for each number of a pair by itself."""
    return np.kron(np.eye(2), a)


def _products_of(taps, tile, sign, factors):
    """`[G, 3U, 2 taps]`: from a pair's columns to the factors of the products, P, Q and R of each frequency.

    A pair of real numbers has U/2 + 1 frequencies each, of which two are real: two products less in all, zeros here.
    """
    dft = _dft(tile[1], taps, sign)
    # Of a complex number (a, b): real part, imaginary part.
    middle = factors(np.concatenate([dft.real, -dft.imag], axis=1), np.concatenate([dft.imag, dft.real], axis=1))
    inner, highest = dft[1 : tile[1] // 2], tile[1] // 2
    ends = _block_diagonal(np.concatenate([dft[[0, highest]].real, factors(inner.real, inner.imag)]))
    return _pairs(np.pad(ends, ((0, 2), (0, 0))), middle, tile)


def _products_of_tiles(tile):
    return _products_of(tile[1], tile, 1, lambda a, b: np.concatenate([a + b, a, b]))


def _products_of_kernel(tile, taps):
    return _products_of(taps, tile, -1, lambda c, d: np.concatenate([c, d - c, c + d]))


def _back_over_columns(tile, results):
    """`[G, 2q, 3U]`: from the products to a pair's results."""
    length = tile[1]
    inverse = _dft(length, length, -1)[:results] / length

    def of_products(real, imaginary):
        """Of a linear form of real and imaginary parts, that of P, Q and R."""
        return np.concatenate([real + imaginary, imaginary, -real], axis=1)

    middle = np.concatenate([of_products(inverse.real, -inverse.imag), of_products(inverse.imag, inverse.real)])
    inner, highest = 2 * inverse[:, 1 : length // 2], length // 2
    ends = np.concatenate([inverse[:, [0, highest]].real, of_products(inner.real, -inner.imag)], axis=1)
    return _pairs(np.pad(_block_diagonal(ends), ((0, 0), (0, 2))), middle, tile)
