"""The 3D convolution in bands against SciPy's correlation, and 2D ones of padded channels against plain ones."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import ndimage

from loco_jax.ops.cpu import convolution


@pytest.mark.parametrize("depth, reach, channels, features", [(7, 5, 3, 4), (8, 5, 4, 1), (19, 5, 1, 4), (9, 3, 2, 2)])
def test_convolution_in_bands(depth, reach, channels, features):
    rng = np.random.default_rng(depth)
    x = rng.normal(size=(2, 6, 5, depth, channels)).astype(np.float32)
    kernel = rng.normal(size=(reach, reach, reach, channels, features)).astype(np.float32)
    padding = [(reach // 2, reach // 2)] * 3
    options = {"dimension_numbers": ("NHWDC", "HWDIO", "NHWDC")}

    def convolve(x, kernel):
        return convolution.convolve_3d(x, kernel, (1, 1, 1), padding, **options)

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


@pytest.mark.parametrize(
    "name, value",
    [
        ("strides", (2, 2, 2)),
        ("strides", (1, 1, 2)),
        ("lhs_dilation", (1, 2, 1)),
        ("rhs_dilation", (2, 1, 1)),
        ("feature_group_count", 2),
        ("padding", "SAME"),
        ("dimension_numbers", None),
        ("dimension_numbers", ("NHWDC", "DHWIO", "NHWDC")),
    ],
)
def test_what_is_not_known_is_refused(name, value):
    arguments = {"strides": (1, 1, 1), "padding": [(1, 1)] * 3, name: value}
    with pytest.raises(ValueError, match=f"convolve_3d: {name}="):
        convolution.convolve_3d(np.zeros((1, 3, 3, 3, 3)), np.zeros((3, 3, 3, 3, 3)), **arguments)


def test_as_flax_calls_it():
    """Its layout, its defaults, and a precision, which reaches the convolution that is done."""
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 6, 2)).astype(np.float32)
    options = {"features": 3, "kernel_size": (3, 3, 3), "padding": 1, "precision": "highest"}
    plain, ours = (nn.Conv(**options, conv_general_dilated=way) for way in (None, convolution.convolve_3d))
    params = plain.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(params, x), plain.apply(params, x), rtol=1e-4, atol=1e-5)
    assert "HIGHEST" in str(jax.jit(ours.apply).lower(params, x).as_text())


@pytest.mark.parametrize("channels, features, stride", [(5, 11, 2), (16, 8, 1)])
def test_padded_channels_change_nothing(channels, features, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 7, channels)).astype(np.float32)
    g = rng.normal(size=(2, -(-9 // stride), -(-7 // stride), features)).astype(np.float32)

    def results_of(conv):
        conv = nn.Conv(features, (5, 5), stride, padding=2, conv_general_dilated=conv)
        params = nn.Conv(features, (5, 5), stride, padding=2).init(jax.random.key(0), x)
        y, pull = jax.vjp(jax.jit(conv.apply), params, x)
        return y, pull(g), jax.jit(conv.apply).lower(params, x).as_text()

    (y, gradients, text), (plain_y, plain_gradients, _) = results_of(convolution.convolve_padded), results_of(None)
    for one, other in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves((plain_y, plain_gradients))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert f"x{-(-channels // 8) * 8}xf32>, tensor<5x5x" in line and f"x{-(-features // 8) * 8}xf32>" in line
