"""2D convolutions of the published network on CPUs, with a sixth of the multiplications.

The picture is cut into overlapping tiles. Their discrete Fourier transforms turn the convolution into a product of
matrices over tiles and channels for each frequency (overlap-save). The result is that of `lax.conv_general_dilated`
except for rounding, about 1e-6 of the largest.

The transforms are short, so they are products with constant matrices. Three real products make a complex one (Gauss):
(a + bi)(c + di) = (P - R) + (P + Q)i, where P = (a + b)c, Q = a(d - c), R = b(c + d). The constant matrices contain the
sums before and after them.

Axes: n tiles; F = TILE/2 + 1 frequencies of real numbers along the rows; C input channels, N output channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from loco_jax.geometry.arrays import Array
from loco_jax.models.vha import KERNEL

TILE = 12  # rows and columns of a tile with its halo; 20 is a few per cent faster and takes three times the memory
STEP = TILE - KERNEL + 1  # rows and columns of a tile's results
_DFT = np.exp(-2j * np.pi * np.outer(np.arange(TILE), np.arange(TILE)) / TILE)
_matmul = functools.partial(jnp.matmul, precision="highest")


def _real(dft):
    """The matrix `[2F, taps]` from real numbers to the real and the imaginary part of each frequency."""
    half = dft[: TILE // 2 + 1]
    return np.stack([half.real, half.imag], axis=1).reshape(-1, dft.shape[1])


def _both(a):
    """A complex matrix as a real one that maps real parts followed by imaginary parts."""
    return np.block([[a.real, -a.imag], [a.imag, a.real]])


def _products(sums, dft):
    """The matrix `[3 TILE, 2 taps]` from complex numbers to the factors of P, Q, R, `sums` of the transform's parts."""
    return np.kron(sums, np.eye(TILE)) @ _both(dft)


# A tile's transform multiplies by e^(-2 pi i f t / TILE), a kernel's by the conjugate, because the convolution of a
# network is a correlation. The inner frequencies count twice, for their conjugates too.
_KERNEL_ROWS = _real(_DFT[:, :KERNEL].conj())
_KERNEL_COLUMNS = _products([[1, 0], [-1, 1], [1, 1]], _DFT[:, :KERNEL].conj())
_TILE_ROWS = _real(_DFT)
_TILE_COLUMNS = _products([[1, 1], [1, 0], [0, 1]], _DFT)
_BACK_COLUMNS = _both(_DFT.conj()[:STEP] / TILE) @ np.kron([[1, 0, -1], [1, 1, 0]], np.eye(TILE))
_BACK_ROWS = _real(_DFT[:, :STEP]).T * np.repeat([1, *[2] * (TILE // 2 - 1), 1], 2) / TILE


def transform_kernel(kernel: Float[Array, "5 5 C N"]) -> Float[jax.Array, "frequencies products C N"]:
    """The factors `[F, 3 TILE, C, N]` of a kernel."""
    rows, columns = (jnp.asarray(a, kernel.dtype) for a in (_KERNEL_ROWS, _KERNEL_COLUMNS))
    x = _matmul(rows, kernel.reshape(KERNEL, -1)).reshape(-1, 2 * KERNEL, kernel[0, 0].size)
    return lax.map(lambda x: _matmul(columns, x), x).reshape(-1, 3 * TILE, *kernel.shape[2:])


def convolve(
    image: Float[Array, "H W C"], products: Float[Array, "frequencies products C N"]
) -> Float[jax.Array, "H-4 W-4 N"]:
    """The convolution of an image with the kernel of `products`, without padding and with stride 1."""
    sizes = [size - KERNEL + 1 for size in image.shape[:2]]
    m, n = counts = [-(-size // STEP) for size in sizes]
    image = jnp.pad(image, [*((0, count * STEP - size) for count, size in zip(counts, sizes)), (0, 0)])
    rows, columns = (np.arange(count)[:, None] * STEP + np.arange(TILE) for count in counts)
    tiles = image[rows[:, None, :, None], columns[None, :, None, :]].reshape(m * n, TILE, TILE, -1)
    y = convolve_tiles(tiles, products).reshape(m, n, STEP, STEP, -1)
    return y.transpose(0, 2, 1, 3, 4).reshape(m * STEP, n * STEP, -1)[: sizes[0], : sizes[1]]


def convolve_tiles(
    tiles: Float[Array, "n 12 12 C"], products: Float[Array, "frequencies products C N"]
) -> Float[jax.Array, "n 8 8 N"]:
    """The convolution of single tiles with the kernel of `products`."""
    n, *_, channels = tiles.shape
    matrices = _TILE_ROWS, _TILE_COLUMNS, _BACK_COLUMNS, _BACK_ROWS
    over_rows, over_columns, back_over_columns, back_over_rows = (jnp.asarray(a, tiles.dtype) for a in matrices)
    x = _matmul(over_rows, tiles.transpose(1, 2, 0, 3).reshape(TILE, -1)).reshape(-1, 2 * TILE, n * channels)

    def multiply(args):  # a frequency at a time, so that nothing between the transforms leaves the cache
        x, products = args
        x = _matmul(over_columns, x).reshape(3 * TILE, n, channels)
        return _matmul(back_over_columns, _matmul(x, products).reshape(3 * TILE, -1))

    y = lax.map(multiply, (x, products))
    return _matmul(back_over_rows, y.reshape(len(_TILE_ROWS), -1)).reshape(STEP, STEP, n, -1).transpose(2, 0, 1, 3)
