"""Convolutions and pooling that CPUs like: the same numbers as XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage, signal

from loco_jax.models.code_predictor import PLANS, Head
from loco_jax.ops.cpu import matmul_conv

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
    y = matmul_conv.convolve(jnp.float32(x), jnp.float32(kernel), (stride, stride), "VALID", dimension_numbers=NHWC)
    np.testing.assert_allclose(y, [by_scipy(picture, kernel, stride) for picture in x], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", ((1, 2), (0, 1)), ((0, 0), (0, 2))])
def test_with_padding(padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 6, 7, 3)), rng.normal(size=(3, 3, 3, 4))
    y = matmul_conv.convolve(jnp.float32(x), jnp.float32(kernel), (1, 1), padding, dimension_numbers=NHWC)
    rows, columns = ((1, 1), (1, 1)) if padding == "SAME" else padding
    padded = np.pad(x[0], (rows, columns, (0, 0)))
    np.testing.assert_allclose(y[0], by_scipy(padded, kernel, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_gradients(kernel_size):
    """Those of the plain convolution, for both arguments, also under vmap."""
    rng = np.random.default_rng(0)
    x, kernel = jnp.float32(rng.normal(size=(2, 1, 6, 7, 3))), jnp.float32(rng.normal(size=(*kernel_size, 3, 4)))

    def gradients(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)))

        return jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None)))(x, kernel)

    for ours, plain in zip(gradients(matmul_conv.convolve), gradients(lax.conv_general_dilated)):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level, size", [(1, (4, 6)), (2, (2, 2)), (2, (4, 6))])
def test_few_cells(level, size):
    """The head's transposed convolutions of few cells, padded, against plain ones."""
    head = Head(level, 3, jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, *size, 8)).astype(np.float32)
    variables = jax.jit(head.init)(jax.random.key(0), x)
    y = x.reshape(1, size[0] // 2, 2, size[1] // 2, 2, 8).mean((2, 4))
    for i, (doubles, padding) in enumerate(PLANS[level]):
        kernel, bias = variables["params"][f"layer_{i}"]["kernel"], variables["params"][f"layer_{i}"]["bias"]
        conv, stride = (lax.conv_transpose, (2, 2)) if doubles else (lax.conv_general_dilated, (1, 1))
        y = nn.relu(conv(y, kernel, stride, (padding, padding), dimension_numbers=NHWC) + bias)
    last = variables["params"]["layer_3"]
    expected = y @ last["kernel"][0, 0] + last["bias"]
    np.testing.assert_allclose(jax.jit(head.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


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
        ours, plain = (
            jax.device_get(results(conv)) for conv in (matmul_conv.convolve_dilated, lax.conv_general_dilated)
        )
    assert plain[1][1].dtype == np.float64 and np.abs(plain[1][1]).min() > 1e-6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, plain)


@pytest.mark.parametrize(
    "name, value",
    [
        ("lhs_dilation", None),
        ("window_strides", (1, 2)),
        ("rhs_dilation", (2, 1)),
        ("feature_group_count", 2),
        ("padding", "SAME"),
        ("dimension_numbers", ("NCHW", "HWIO", "NHWC")),
    ],
)
def test_what_the_gradient_of_a_dilated_kernel_does_not_know(name, value):
    arguments = {"window_strides": (1, 1), "padding": ((3, 3), (3, 3)), "lhs_dilation": (2, 2), name: value}
    with pytest.raises(ValueError, match=f"convolve_dilated: {name}="):
        matmul_conv.convolve_dilated(np.zeros((1, 4, 4, 4)), np.zeros((3, 3, 4, 4)), **arguments)


@pytest.mark.parametrize("platform, convolutions", [("cpu", 0), ("cuda", 1)])
def test_the_gradient_of_a_dilated_kernel_is_a_product_on_cpus(platform, convolutions):
    def change(kernel, x, g):
        options = {"lhs_dilation": (2, 2), "dimension_numbers": NHWC}
        of_kernel = jax.vjp(lambda k: matmul_conv.convolve_dilated(x, k, (1, 1), ((3, 3), (3, 3)), **options), kernel)[
            1
        ]
        return of_kernel(g)

    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 4, 3, 5), (1, 6, 7, 3), (1, 14, 16, 5)))
    text = jax.jit(change).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


@pytest.mark.parametrize("size", [(3, 3), (4, 7), (11, 8)])
def test_max_pool(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = ((n - 3) // 2 + 1 for n in size)
    expected = ndimage.maximum_filter(x, (1, 3, 3, 1))[:, 1::2, 1::2][:, :rows, :columns]
    np.testing.assert_array_equal(matmul_conv.max_pool(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(matmul_conv.max_pool(jnp.asarray(x)), nn.max_pool(x, (3, 3), (2, 2)))


def test_no_bare_convolution_is_left_on_cpus():
    """XLA's slow ones have no padding at all: none may remain in what is compiled for a CPU."""
    x, kernel = jnp.zeros((1, 9, 9, 3)), jnp.zeros((3, 3, 3, 4))
    f = jax.jit(lambda x, k: matmul_conv.convolve(x, k, (1, 1), "VALID", dimension_numbers=NHWC))
    text = f.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert "pad = [[0, 1], [0, 0]]" in text
    text = f.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text and "pad = [[0, 1], [0, 0]]" not in text
