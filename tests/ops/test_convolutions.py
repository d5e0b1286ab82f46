"""Convolutions in other ways: the numbers of SciPy and of XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage, signal

from loco_jax import ops
from loco_jax.models import code_predictor, vha
from loco_jax.ops.cpu import convolutions

NHWC = ("NHWC", "HWIO", "NHWC")


def by_scipy(x, kernel, stride):
    """Correlation of `[H, W, C]` with `[kh, kw, C, F]` in float64, without padding."""
    features = [
        sum(signal.correlate(x[..., c], kernel[..., c, f], mode="valid") for c in range(x.shape[-1]))
        for f in range(kernel.shape[-1])
    ]
    return np.stack(features, axis=-1)[::stride, ::stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (7, 8)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (3, 1), (2, 3)])
def test_without_padding(size, kernel_size, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*kernel_size, 3, 4))
    y = convolutions.unpadded(jnp.float32(x), jnp.float32(kernel), (stride, stride), "VALID", dimension_numbers=NHWC)
    np.testing.assert_allclose(y, [by_scipy(picture, kernel, stride) for picture in x], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_gradients(kernel_size):
    """Those of the plain convolution, for both arguments, also under vmap."""
    fast = convolutions.as_product if kernel_size == (1, 1) else convolutions.unpadded
    rng = np.random.default_rng(0)
    x, kernel = jnp.float32(rng.normal(size=(2, 1, 6, 7, 3))), jnp.float32(rng.normal(size=(*kernel_size, 3, 4)))

    def gradients(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)))

        return jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None)))(x, kernel)

    for ours, plain in zip(gradients(fast), gradients(lax.conv_general_dilated)):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kernel_size, padding", [((4, 4), ((3, 3), (3, 3))), ((4, 4), ((2, 2), (2, 2))), ((3, 2), ((0, 1), (3, 2)))]
)
def test_of_dilated_cells(kernel_size, padding):
    """Results, gradients and directional derivatives are the plain convolution's, in float64 and under vmap."""
    rng = np.random.default_rng(0)
    x, dx = rng.normal(size=(2, 3, 2, 4, 5, 3))
    kernel, dkernel = rng.normal(size=(2, *kernel_size, 3, 4))

    def results(conv):
        def f(x, kernel):
            return conv(x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=NHWC)

        def all_of(x, dx):
            gradients = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), (0, 1))(x, kernel)
            return jax.jvp(f, (x, kernel), (dx, dkernel)), gradients

        return jax.jit(jax.vmap(all_of))(x, dx)

    with jax.enable_x64(True):
        ours, plain = (jax.device_get(results(conv)) for conv in (convolutions.transposed, lax.conv_general_dilated))
    assert plain[1][1].dtype == np.float64 and np.abs(plain[1][1]).min() > 1e-6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, plain)


@pytest.mark.parametrize("platform, count", [("cpu", 0), ("cuda", 1)])
def test_the_gradient_of_a_dilated_kernel_is_a_product_on_cpus(platform, count):
    def change(kernel, x, g):
        options = {"lhs_dilation": (2, 2), "dimension_numbers": NHWC}
        of_kernel = jax.vjp(lambda k: convolutions.transposed(x, k, (1, 1), ((3, 3), (3, 3)), **options), kernel)[1]
        return of_kernel(g)

    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 4, 3, 5), (1, 6, 7, 3), (1, 14, 16, 5)))
    text = jax.jit(change).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == count


def test_no_bare_convolution_is_left_on_cpus():
    """XLA's slow ones have no padding at all: none may remain in what is compiled for a CPU."""
    x, kernel = jnp.zeros((1, 9, 9, 3)), jnp.zeros((3, 3, 3, 4))
    f = jax.jit(lambda x, k: convolutions.unpadded(x, k, (1, 1), "VALID", dimension_numbers=NHWC))
    text = f.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert "pad = [[0, 1], [0, 0]]" in text
    text = f.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text and "pad = [[0, 1], [0, 0]]" not in text


@pytest.mark.parametrize("depth, reach, channels, features", [(7, 5, 3, 4), (8, 5, 4, 1), (19, 5, 1, 4), (9, 3, 2, 2)])
def test_convolution_in_bands(depth, reach, channels, features):
    rng = np.random.default_rng(depth)
    x = rng.normal(size=(2, 6, 5, depth, channels)).astype(np.float32)
    kernel = rng.normal(size=(reach, reach, reach, channels, features)).astype(np.float32)
    padding = [(reach // 2, reach // 2)] * 3
    options = {"dimension_numbers": ("NHWDC", "HWDIO", "NHWDC")}

    def convolve(x, kernel):
        return convolutions.in_bands(x, kernel, (1, 1, 1), padding, **options)

    def correlate(x, kernel):
        return ndimage.correlate(x.astype(np.float64), kernel.astype(np.float64), mode="constant")

    got, pull = jax.vjp(jax.jit(convolve), x, kernel)
    want = np.zeros(got.shape)
    for b, c, f in np.ndindex(2, channels, features):
        want[b, ..., f] += correlate(x[b, ..., c], kernel[..., c, f])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    # The gradient of sum(y * g) with respect to x is y's correlation with the mirrored kernel.
    g = rng.normal(size=got.shape).astype(np.float32)
    of_x, of_kernel = pull(g)
    want = np.zeros(x.shape)
    for b, c, f in np.ndindex(2, channels, features):
        want[b, ..., c] += correlate(g[b, ..., f], kernel[::-1, ::-1, ::-1, c, f])
    np.testing.assert_allclose(of_x, want, rtol=1e-4, atol=1e-4)
    half = reach // 2
    padded = np.pad(x, [(0, 0), *[(half, half)] * 3, (0, 0)])
    for i, j, k in ((0, 0, 0), (half, half, half), (reach - 1, 1, reach - 2)):
        seen = padded[:, i : i + 6, j : j + 5, k : k + depth]
        np.testing.assert_allclose(of_kernel[i, j, k], np.einsum("bhwdc,bhwdf->cf", seen, g), rtol=1e-3, atol=1e-3)


# ---- Networks whose convolutions are computed otherwise


def _same(network, x):
    """`ops.apply` against the network's own `apply`, with random variables."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    scale = {s.shape: np.sqrt(2 / max(np.prod(s.shape[:-1]), 2)) for s in jax.tree.leaves(shapes)}
    variables = jax.tree.map(lambda s: np.float32(scale[s.shape] * rng.normal(size=s.shape)), shapes)
    found = jax.jit(lambda v, x: ops.apply(network, v, x))(variables, x)
    want = jax.jit(network.apply)(variables, x)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert np.std(want) > 0
    return jax.jit(lambda v, x: ops.apply(network, v, x)).lower(variables, x).as_text()


@pytest.mark.parametrize("level, size", [(1, (4, 6)), (2, (2, 2)), (3, (4, 6))])
def test_the_head_of_the_published_predictor(level, size):
    """Also where transposed convolutions have few cells."""
    x = np.random.default_rng(0).normal(size=(1, *size, 8)).astype(np.float32)
    _same(code_predictor.Head(level, 3, jnp.float32), x)


def test_the_published_autoencoder():
    x = np.random.default_rng(0).uniform(size=(1, 14, 8, 12, 9)).astype(np.float32)
    text = _same(vha.VHA(1, 9), x)
    assert "dim_numbers = [b, 0, 1, 2, f]" not in text  # no 3D convolution on CPUs
