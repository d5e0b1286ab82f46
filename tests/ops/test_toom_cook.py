"""Convolutions by evaluation and interpolation, against the plain ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import signal

from loco_jax.ops.cpu import matmul_conv, toom_cook

NHWC = ("NHWC", "HWIO", "NHWC")


def _inputs(shape, kernel_size, channels, features, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(*shape, channels)).astype(np.float32),
        rng.normal(size=(*kernel_size, channels, features)).astype(np.float32),
    )


def _plain(x, kernel, padding):
    """By SciPy, channel by channel, in float64."""
    x, kernel = np.pad(np.float64(x), ((0, 0), *padding, (0, 0))), np.float64(kernel)
    return np.stack(
        [
            sum(signal.correlate(x[..., c], kernel[None, :, :, c, n], mode="valid") for c in range(x.shape[-1]))
            for n in range(kernel.shape[-1])
        ],
        axis=-1,
    )


def _close(found, want):
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "shape, kernel_size, padding",
    [
        ((2, 9, 14), (3, 3), ((1, 1), (1, 1))),  # tiles that stick out on both sides
        ((1, 8, 12), (3, 3), ((1, 1), (1, 1))),  # tiles that fit
        ((1, 1, 1), (3, 3), ((1, 1), (1, 1))),
        ((1, 9, 8), (4, 4), ((1, 2), (1, 2))),
        ((2, 11, 10), (5, 5), ((2, 2), (0, 4))),
        ((1, 27, 5), (7, 1), ((3, 3), (0, 0))),
        ((2, 5, 27), (1, 7), ((0, 0), (3, 3))),
        ((1, 6, 9), (1, 3), ((0, 0), (1, 1))),
        ((1, 9, 6), (5, 3), ((0, 0), (0, 0))),
    ],
)
def test_equals_the_plain_convolution(shape, kernel_size, padding):
    x, kernel = _inputs(shape, kernel_size, 6, 5)
    _close(jax.jit(toom_cook.conv, static_argnums=2)(x, kernel, padding), _plain(x, kernel, padding))


@pytest.mark.parametrize("tiles, size", [(4, 2**23), (240, 3000), (4, 3000)])
def test_a_part_at_a_time(monkeypatch, tiles, size):
    """Few tiles at once, few channels at once, and both: 6 channels make 2 parts."""
    monkeypatch.setattr(toom_cook, "_TILES", tiles)
    monkeypatch.setattr(toom_cook, "_BYTES", size)
    x, kernel = _inputs((2, 21, 7), (3, 3), 6, 5)
    padding = ((1, 1), (1, 1))
    compiled = jax.jit(lambda x, kernel: toom_cook.conv(x, kernel, padding))
    assert "stablehlo.while" in compiled.lower(x, kernel).as_text()
    _close(compiled(x, kernel), _plain(x, kernel, padding))


@pytest.mark.parametrize("kernel_size", [(3, 3), (4, 4), (5, 5), (7, 1)])
def test_rounding_with_many_channels(kernel_size):
    x, kernel = _inputs((1, 12, 12), kernel_size, 448, 4)
    _close(jax.jit(toom_cook.conv)(x, kernel), _plain(x, kernel, ((0, 0), (0, 0))))


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel: sides must be of 1, 3, 4, 5, 7"):
        toom_cook.conv(jnp.zeros((1, 8, 8, 1)), jnp.zeros((2, 3, 1, 1)))


# A convolution that is worth it, small: 3 x 40 tiles.
SHAPE, KERNEL, PADDING = (1, 26, 40), (7, 1), ((3, 3), (0, 0))


def _convolve(x, kernel, **options):
    return matmul_conv.convolve(x, kernel, (1, 1), PADDING, dimension_numbers=NHWC, **options)


def _lowered(x, kernel, platform="cpu", **options):
    traced = jax.jit(lambda x, kernel: _convolve(x, kernel, **options)).trace(x, kernel)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_which_convolutions_it_takes():
    """In float32 on CPUs those of many cells and channels; the others are XLA's."""
    x, kernel = _inputs(SHAPE, KERNEL, 48, 64)
    assert "stablehlo.convolution" not in _lowered(x, kernel)
    assert "stablehlo.convolution" in _lowered(x, kernel, "cuda")
    assert "stablehlo.convolution" in _lowered(jnp.bfloat16(x), jnp.bfloat16(kernel))
    assert "stablehlo.convolution" in _lowered(x[..., :47], kernel[:, :, :47])
    assert "stablehlo.convolution" in _lowered(x[:, :, :8], kernel)
    assert "stablehlo.convolution" in _lowered(x, kernel[:, :, :24], feature_group_count=2)
    assert not toom_cook.pays((1, 99, 99, 64), (1, 1, 64, 64), ((0, 0), (0, 0)))
    assert not toom_cook.pays((1, 99, 99, 64), (2, 2, 64, 64), ((0, 0), (0, 0)))


def test_gradients_are_those_of_the_plain_convolution():
    """Reverse and forward, under jit and vmap."""
    x, kernel = _inputs((2, *SHAPE), KERNEL, 48, 64)
    assert "stablehlo.convolution" not in _lowered(x[0], kernel)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), PADDING, dimension_numbers=NHWC)

    def results(conv):
        def loss(x, kernel):
            return jnp.mean(jnp.sin(conv(x, kernel) / 20))

        def both(x, kernel):
            return jax.grad(loss, (0, 1))(x, kernel), jax.jvp(conv, (x, kernel), (x + 1, kernel - 1))

        return jax.tree.leaves(jax.jit(jax.vmap(both, (0, None)))(x, kernel))

    for ours, theirs in zip(results(_convolve), results(plain), strict=True):
        _close(ours, theirs)


def test_pictures_over_devices():
    """A batch split over devices stays split, and no device asks another for its pictures."""
    x, kernel = _inputs((jax.device_count(), *SHAPE[1:]), KERNEL, 48, 64)
    split = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch"))
    compiled = jax.jit(_convolve, out_shardings=split).lower(jax.device_put(x, split), kernel).compile()
    assert "all-gather" not in compiled.as_text()
    _close(compiled(jax.device_put(x, split), kernel), _plain(x, kernel, PADDING))
