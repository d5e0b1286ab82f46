"""2D convolutions with wide kernels and many channels on CPUs, with a sixth of the multiplications.

The picture is cut into overlapping tiles. Their discrete Fourier transforms turn the convolution into a product of
matrices over tiles and channels for each frequency (overlap-save). The result is that of `lax.conv_general_dilated`
except for rounding, about 1e-6 of the largest.

The transforms are short, so they are products with constant matrices. Three real products make a complex one (Gauss):
(a + bi)(c + di) = (P - R) + (P + Q)i, where P = (a + b)c, Q = a(d - c), R = b(c + d). The constant matrices contain the
sums before and after them.

Axes: T rows and U columns of a tile with its halo, p x q results in a tile, n tiles; F = T/2 + 1 frequencies of real
numbers along the rows; C input channels, N output channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from loco_jax.geometry.arrays import Array

TILE = (12, 12)  # 8 x 8 results with kernels of 5; 20 x 20 is a few per cent faster and takes three times the memory
_matmul = functools.partial(jnp.matmul, precision="highest")


def transform_kernel(
    kernel: Float[Array, "k l C N"], tile: tuple[int, int] = TILE
) -> Float[jax.Array, "frequencies products C N"]:
    """The factors `[F, 3U, C, N]` of a kernel. Tiles have even sides that are not smaller than the kernel."""
    (k, l, channels, features), (T, U) = kernel.shape, tile
    rows, columns = _real_dft(T, k, sign=1), _products(np.array([[1, 0], [-1, 1], [1, 1]]), _dft(U, l, sign=1))
    x = _matmul(jnp.asarray(rows, kernel.dtype), kernel.reshape(k, -1)).reshape(len(rows) // 2, 2 * l, -1)
    products = lax.map(lambda x: _matmul(jnp.asarray(columns, kernel.dtype), x), x)
    return products.reshape(-1, 3 * U, channels, features)


def convolve(
    image: Float[Array, "H W C"],
    products: Float[Array, "frequencies products C N"],
    kernel_size: tuple[int, int],
    tile: tuple[int, int] = TILE,
) -> Float[jax.Array, "rows columns N"]:
    """The convolution `[H - k + 1, W - l + 1, N]` of an image, without padding and with stride 1.

    `products` are those of `transform_kernel` with the same tile.
    """
    sizes = [size - taps + 1 for size, taps in zip(image.shape, kernel_size)]
    steps = [side - taps + 1 for side, taps in zip(tile, kernel_size)]
    m, n = counts = [-(-size // step) for size, step in zip(sizes, steps)]
    wanted = [count * step + taps - 1 for count, step, taps in zip(counts, steps, kernel_size)]
    image = jnp.pad(image, [*((0, new - size) for new, size in zip(wanted, image.shape)), (0, 0)])
    rows, columns = (np.arange(c)[:, None] * s + np.arange(t) for c, s, t in zip(counts, steps, tile))
    tiles = image[rows[:, None, :, None], columns[None, :, None, :]].reshape(m * n, *tile, -1)
    y = convolve_tiles(tiles, products, kernel_size).reshape(m, n, *steps, -1)
    return y.transpose(0, 2, 1, 3, 4).reshape(m * steps[0], n * steps[1], -1)[: sizes[0], : sizes[1]]


def convolve_tiles(
    tiles: Float[Array, "n T U C"], products: Float[Array, "frequencies products C N"], kernel_size: tuple[int, int]
) -> Float[jax.Array, "n p q N"]:
    """The convolution of single tiles with the kernel of `products`."""
    n, T, U, channels = tiles.shape
    p, q = (size - taps + 1 for size, taps in zip((T, U), kernel_size))
    inverse = np.conj(_dft(U, U, sign=-1))[:q] / U
    weights = np.repeat([1, *[2] * (T // 2 - 1), 1], 2) / T  # the inner frequencies stand for their conjugates too
    over_rows, over_columns, back_over_columns, back_over_rows = (
        jnp.asarray(a, tiles.dtype)
        for a in (
            _real_dft(T, T, sign=-1),
            _products(np.array([[1, 1], [1, 0], [0, 1]]), _dft(U, U, sign=-1)),
            _both(inverse) @ np.kron([[1, 0, -1], [1, 1, 0]], np.eye(U)),
            (weights[:, None] * _real_dft(T, p, sign=-1)).T,
        )
    )
    x = _matmul(over_rows, tiles.transpose(1, 2, 0, 3).reshape(T, -1)).reshape(-1, 2 * U, n * channels)

    def multiply(args):  # a frequency at a time, so that nothing between the transforms leaves the cache
        x, products = args
        x = _matmul(over_columns, x).reshape(3 * U, n, channels)
        return _matmul(back_over_columns, _matmul(x, products).reshape(3 * U, -1))

    y = lax.map(multiply, (x, products))
    return _matmul(back_over_rows, y.reshape(len(weights), -1)).reshape(p, q, n, -1).transpose(2, 0, 1, 3)


# The constant matrices. A tile's transform multiplies by e^(-2 pi i f t / T), a kernel's by the conjugate, because the
# convolution of a network is a correlation.


def _dft(length, taps, sign):
    return np.exp(sign * 2j * np.pi * np.outer(np.arange(length), np.arange(taps)) / length)


def _real_dft(length, taps, sign):
    """The matrix `[2F, taps]` from real numbers to the real and the imaginary part of each frequency."""
    dft = _dft(length, taps, sign)[: length // 2 + 1]
    return np.stack([dft.real, dft.imag], axis=1).reshape(-1, taps)


def _both(a):
    """A complex matrix as a real one that maps real parts followed by imaginary parts."""
    return np.block([[a.real, -a.imag], [a.imag, a.real]])


def _products(sums, dft):
    """The matrix `[3U, 2 taps]` from complex numbers to the factors of P, Q and R, `sums` of the transform's parts."""
    return np.kron(sums, np.eye(len(dft))) @ _both(dft)
