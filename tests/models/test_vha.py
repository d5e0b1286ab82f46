"""The published autoencoder against the method's table written out in NumPy, and what both autoencoders share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.models import patch_vha, vha
from tests.support.autoencoders import code_and_heatmaps, random_heatmaps, random_params, shapes

FULL = (136, 240, 316)
DEMO = (40, 60, 80)
# docs/method.md, section 3: "code 1 x D/2^k x H'/2^k x W'/2^k (integer division: 158, 79, 39)"
CODES = {
    (1, FULL): (68, 120, 158),
    (2, FULL): (34, 60, 79),
    (3, FULL): (17, 30, 39),
    (1, DEMO): (20, 30, 40),
    (2, DEMO): (10, 15, 20),
    (3, DEMO): (5, 7 + 1, 10),  # 60 columns do not halve thrice: padded
}


def table(level: int, depth_bins: int) -> list[tuple[int, int, int]]:
    """(dimensions, channels in, channels out) of method.md's layers, top to bottom; all kernels are 5 wide."""
    d = [depth_bins // 2**i for i in range(4)]
    encoder_2d = {
        1: [(d[0], d[1]), (d[1], d[1])],
        2: [(d[0], d[1]), (d[1], d[2]), (d[2], d[2])],
        3: [(d[0], d[1]), (d[1], d[2]), (d[2], d[3]), (d[3], d[3])],
    }[level]
    decoder_2d = {
        1: [(d[1], d[1]), (d[1], d[0])],
        2: [(d[2], d[2]), (d[2], d[1]), (d[1], d[0])],
        3: [(d[3], d[3]), (d[3], d[2]), (d[2], d[1]), (d[1], d[0])],
    }[level]
    fuser = [(14, 4), (4, 1), (1, 4), (4, 14)]
    return [(2, *io) for io in encoder_2d] + [(3, *io) for io in fuser] + [(2, *io) for io in decoder_2d]


def layers(params, level: int) -> list[dict]:
    """The network's layers in the table's order, found by the names that lists get in flax."""
    params = params["params"]
    names = [f"{part}_{i}" for part, n in PARTS(level) for i in range(n)]
    assert sorted(params) == sorted(names)
    return [params[name] for name in names]


def PARTS(level):
    return (("encoder_2d", level + 1), ("encoder_3d", 2), ("decoder_3d", 2), ("decoder_2d", level + 1))


@pytest.mark.parametrize("depth_bins", [316, 80, 17])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_published_layers_are_the_tables(level, depth_bins):
    params = shapes(vha.VHA(level, depth_bins), depth_bins)
    wanted = table(level, depth_bins)
    for layer, (dims, fan_in, fan_out) in zip(layers(params, level), wanted, strict=True):
        assert {name: x.shape for name, x in layer.items()} == {
            "kernel": (*(5,) * dims, fan_in, fan_out),
            "bias": (fan_out,),
        }
    count = sum(5**dims * fan_in * fan_out + fan_out for dims, fan_in, fan_out in wanted)
    assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_the_released_network_has_its_number_of_parameters():
    assert sum(x.size for x in jax.tree.leaves(shapes(vha.VHA(2, 316), 316))) == 3_448_442


def convolve(x: np.ndarray, layer: dict, stride: int = 1) -> np.ndarray:
    """`[B, *grid, C]` with kernels `[5, ..., C, C']`, zeros of width 2 around. Sums in float64."""
    kernel, dims = np.asarray(layer["kernel"], np.float64), x.ndim - 2
    padded = np.pad(x.astype(np.float64), [(0, 0), *[(2, 2)] * dims, (0, 0)])
    out = [(size + 4 - 5) // stride + 1 for size in x.shape[1:-1]]
    result = np.zeros((x.shape[0], *out, kernel.shape[-1])) + np.asarray(layer["bias"])
    for offset in np.ndindex(*(5,) * dims):
        window = tuple(slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, out))
        result += padded[(slice(None), *window)] @ kernel[offset]
    return result


def resize(x: np.ndarray) -> np.ndarray:
    """Bilinear x2 of `[B, h, w, C]` from the definition: output i lies at (i + 0.5) / 2 - 0.5, held inside."""
    for axis in (1, 2):
        size = x.shape[axis]
        at = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = (1 - part) * x.take(low, axis) + part * x.take(high, axis)
    return x


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def encode_by_hand(params, level: int, heatmaps: np.ndarray) -> np.ndarray:
    per_joint, fuser = layers(params, level)[: level + 1], layers(params, level)[level + 1 : level + 3]
    joints = []
    for j in range(14):
        x = heatmaps[:, j]
        for i, layer in enumerate(per_joint):
            x = relu(convolve(x, layer, stride=2 if i < level else 1))
        joints.append(x)
    x = np.stack(joints, axis=-1)  # [B, h, w, d, 14]
    for layer in fuser:
        x = relu(convolve(x, layer))
    return x[..., 0]


def decode_by_hand(params, level: int, code: np.ndarray) -> np.ndarray:
    rest = layers(params, level)[level + 3 :]
    x = code[..., None]
    for layer in rest[:2]:
        x = relu(convolve(x, layer))
    result = []
    for j in range(14):
        y = x[..., j]
        for layer in rest[2:-1]:
            y = relu(resize(convolve(y, layer)))
        result.append(relu(convolve(y, rest[-1])))
    return np.stack(result, axis=1)


@pytest.mark.parametrize("level, shape", [(1, (6, 4, 9)), (2, (8, 12, 17)), (2, (9, 6, 16)), (3, (8, 16, 17))])
def test_published_network_computes_the_table(level, shape):
    """Depths that are no multiple of 2^level lose their rest; a picture that is none (9 x 6) is padded with zeros."""
    network = vha.VHA(level, shape[-1])
    params = random_params(network, shape[-1])
    heatmaps = random_heatmaps(2, 14, *shape)
    cell = 2**level
    padded = np.pad(heatmaps, [(0, 0)] * 2 + [(0, -size % cell) for size in shape[:2]] + [(0, 0)])
    code = encode_by_hand(params, level, padded)
    found = decode_by_hand(params, level, code)
    assert (code > 0).mean() > 0.3 and (found > 0).mean() > 0.3
    got_code, got = code_and_heatmaps(network, params, heatmaps)
    np.testing.assert_allclose(got_code, code, rtol=1e-4, atol=1e-4 * code.max())
    np.testing.assert_allclose(got, found[:, :, : shape[0], : shape[1]], rtol=1e-4, atol=1e-4 * found.max())


# ---- Both


@pytest.mark.parametrize("level, shape", CODES)
@pytest.mark.parametrize("kind", [vha.VHA, patch_vha.PatchVHA])
def test_code_sizes(kind, level, shape):
    network = kind(level, shape[-1])
    heatmaps = jax.ShapeDtypeStruct((2, 14, *shape), jnp.float32)
    params = shapes(network, shape[-1])
    code = jax.eval_shape(functools.partial(network.apply, method="encode"), params, heatmaps)
    assert code.shape == (2, *CODES[level, shape])
    assert vha.code_shape(shape, level) == CODES[level, shape]
    found = jax.eval_shape(lambda p, c: network.apply(p, c, shape[:2], method="decode"), params, code)
    assert found.shape == heatmaps.shape
    assert jax.eval_shape(network.apply, params, heatmaps).shape == heatmaps.shape


@pytest.mark.parametrize("kind", [vha.VHA, functools.partial(patch_vha.PatchVHA, width=8, blocks=1)])
def test_bad_shapes_are_told(kind):
    for level, depth_bins in ((0, 16), (3, 7), (-1, 16)):
        with pytest.raises(ValueError, match=f"level={level} does not fit depth_bins={depth_bins}"):
            kind(level, depth_bins).init(jax.random.key(0), jnp.zeros((1, 14, 8, 8, depth_bins)))
    network = kind(1, 16)
    params = shapes(network, 16)
    for shape in ((1, 14, 8, 8, 15), (14, 8, 8, 16)):
        with pytest.raises(ValueError, match=r"want heatmaps \[B, J, H, W, 16\]"):
            jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize("kind", [vha.VHA, functools.partial(patch_vha.PatchVHA, width=8, blocks=1)])
def test_bfloat16_is_float32_but_for_rounding(kind):
    heatmaps = random_heatmaps(1, 14, 4, 6, 8)
    params = random_params(kind(1, 8), 8)
    exact = code_and_heatmaps(kind(1, 8), params, heatmaps)
    rounded = code_and_heatmaps(kind(1, 8, dtype=jnp.bfloat16), params, heatmaps)
    for a, b in zip(exact, rounded):
        assert a.dtype == jnp.float32 and b.dtype == jnp.bfloat16
        assert float(jnp.std(a)) > 1e-3
        assert float(jnp.max(jnp.abs(a - b.astype(jnp.float32)))) < 0.1 * float(jnp.max(jnp.abs(a)))
