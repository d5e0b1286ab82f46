"""Tests of fast residual blocks against the modules: results, gradients, batches, and where they are used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax import ops
from loco_jax.geometry.camera import Camera
from loco_jax.models import compact, patch_vha
from loco_jax.ops.cpu import blocks
from tests.support import devices, python


def _block(dims, channels):
    return patch_vha.Block(channels, jnp.float32) if dims == 5 else compact.PixelBlock(channels, jnp.float32)


def _params(block, x, seed=0):
    """Random ones, biases and scales as well."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)

    def draw(s):
        return (rng.normal(size=s.shape) / np.sqrt(np.prod(s.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _apply(block, params, x, fast):
    return blocks.compute(block.apply, params, x) if fast else block.apply(params, x)


def _close(found, want, tolerance=1e-5):
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


# Lengths that are no multiple of a tile or of a slab, or shorter; slabs of some tiles, 0 for a single pass.
CASES = [((2, 7, 5, 24), 0), ((1, 10, 1, 4), 2), ((2, 1, 3, 6, 4), 0), ((1, 9, 2, 5, 24), 1), ((1, 10, 4, 3, 4), 3)]


@pytest.mark.parametrize("shape, tiles", CASES)
def test_blocks_are_the_modules(shape, tiles, monkeypatch):
    """In float64 the module is the oracle."""
    x = 3 * np.random.default_rng(1).normal(size=shape).astype(np.float32)
    block = _block(len(shape), shape[-1])
    params = _params(block, x)
    monkeypatch.setattr(blocks, "_WHOLE", 0 if tiles else 2**30)
    monkeypatch.setattr(blocks, "_SLAB", tiles * 4 * int(np.prod(shape[2:])))
    found = jax.jit(functools.partial(_apply, block, fast=True))(params, x)
    with jax.enable_x64(True):
        exact = block.clone(dtype=jnp.float64)
        want = exact.apply(jax.tree.map(lambda p: p.astype(np.float64), params), x.astype(np.float64))
        want = np.asarray(want)
    assert want.dtype == np.float64 and found.dtype == np.float32 and found.shape == shape
    _close(found, want)


@pytest.mark.parametrize("dims", [4, 5])
def test_it_is_no_less_exact_with_many_channels(dims):
    shape = (1, 13, 8, 64) if dims == 4 else (1, 13, 5, 6, 64)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    block = _block(dims, 64)
    params = _params(block, x)
    _close(_apply(block, params, x, True), _apply(block, params, x, False))


@pytest.mark.parametrize("dims", [4, 5])
def test_gradients_are_the_modules(dims):
    shape = (2, 6, 5, 8) if dims == 4 else (2, 6, 4, 5, 8)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    block = _block(dims, 8)
    params = _params(block, x)

    def loss(params, x, fast):
        return jnp.sum(jnp.sin(_apply(block, params, x, fast)))

    found, want = (jax.jit(jax.grad(functools.partial(loss, fast=f), (0, 1)))(params, x) for f in (True, False))
    jax.tree.map(lambda a, b: _close(a, b, 1e-6), found, want)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(want))


@pytest.mark.parametrize("dims", [4, 5])
def test_under_vmap(dims):
    shape = (3, 1, 6, 5, 8) if dims == 4 else (3, 1, 6, 4, 5, 8)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    block = _block(dims, 8)
    params = _params(block, x[0])
    found = jax.jit(jax.vmap(lambda x: _apply(block, params, x, True)))(x)
    _close(found, np.stack([_apply(block, params, one, False) for one in x]))


def _uses(function, *args):
    """Whether the fast way is among what is traced."""
    return "custom_vjp_call" in str(jax.make_jaxpr(function)(*args))


def test_large_float32_blocks_take_it_by_themselves_and_names_stay():
    network = patch_vha.PatchVHA(2, 64, 64)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 14, 8, 8, 64), jnp.float32))
    large, small = (jax.ShapeDtypeStruct((1, n, n, 16), jnp.float32) for n in (20, 4))
    decode = functools.partial(ops.apply, network, method="decode_features")
    assert set(params["params"]["decoder_0"]) == {"RMSNorm_0", "RMSNorm_1", "CellConv_0", "Dense_0", "Dense_1"}
    assert _uses(decode, params, large) and not _uses(decode, params, small)
    rounded = functools.partial(ops.apply, network.clone(dtype=jnp.bfloat16), method="decode_features")
    assert not _uses(rounded, params, large)
    trunk = compact.CompactPredictor(2, 80)
    image = jax.ShapeDtypeStruct((1, 540, 960, 3), jnp.uint8)
    camera = Camera(500.0, 500.0, 480.0, 270.0)
    params = jax.eval_shape(trunk.init, jax.random.key(0), image, camera)
    names = {"RMSNorm_0", "RMSNorm_1", "Conv_0", "Dense_0", "Dense_1"}
    assert set(params["params"]["trunk"]["PixelBlock_0"]) == names
    assert _uses(functools.partial(ops.apply, trunk, camera=camera), params, image)


@pytest.mark.parametrize("kind", ["patch", "compact"])
def test_networks_are_the_same_with_it(kind, monkeypatch):
    if kind == "patch":
        network, method = patch_vha.PatchVHA(2, 34, 16, blocks=1), "decode_features"
        like = jnp.zeros((1, 14, 8, 8, 34))
        x = np.random.default_rng(0).normal(size=(2, 7, 6, 8)).astype(np.float32)
    else:
        network, method = compact.CompactPredictor(2, 16, width=8, blocks=1), None
        x = like = np.random.default_rng(0).integers(0, 256, (2, 100, 130, 3)).astype(np.uint8)
    camera = {} if kind == "patch" else {"camera": Camera(100.0, 100.0, 65.0, 50.0)}
    params = jax.jit(network.init)(jax.random.key(0), like, **camera)
    run = functools.partial(ops.apply, network, method=method, **camera)
    want = jax.jit(functools.partial(network.apply, method=method, **camera))(params, x)
    monkeypatch.setattr(blocks, "_LEAST", 0)
    found = jax.jit(lambda p, x: run(p, x))(params, x)
    assert _uses(run, params, x)
    _close(found, want)
    assert not np.array_equal(found, want)


def test_a_batch_over_eight_devices():
    command = "from tests.ops import test_blocks; test_blocks.check_devices()"
    process = python("-c", command, **devices(8))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said


def check_devices():
    """Value and gradients of a batch shared by 8 devices are the module's on one, and no image goes to another."""
    devices = jax.devices()
    assert len(devices) == 8
    blocks._WHOLE = blocks._SLAB = 0  # several slabs, of one tile each
    x = np.random.default_rng(1).normal(size=(8, 6, 4, 5, 4)).astype(np.float32)
    block = _block(x.ndim, x.shape[-1])
    params = _params(block, x)
    mesh = Mesh(np.array(devices), ("batch",))
    whole, batch = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))

    def both(params, x, fast):
        loss = jax.grad(lambda params, x: jnp.sum(jnp.sin(_apply(block, params, x, fast))), (0, 1))
        return _apply(block, params, x, fast), loss(params, x)

    shared = jax.jit(functools.partial(both, fast=True), in_shardings=(whole, batch)).lower(params, x).compile()
    text = shared.as_text()
    assert "while" in text and not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    value, gradients = shared(*jax.device_put((params, x), (whole, batch)))
    want, of_module = jax.jit(functools.partial(both, fast=False))(params, x)
    assert not np.array_equal(value, want)  # it is another computation
    for array in (value, gradients[1]):
        assert array.sharding.is_equivalent_to(batch, x.ndim)
    _close(value, want)
    jax.tree.map(_close, gradients, of_module)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(of_module))
