"""Tests of fast residual blocks against the modules: results, gradients, batches, and where they are used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax.geometry.camera import Camera
from loco_jax.models import compact, vha
from loco_jax.ops.cpu import fast_block
from tests.support import python


def _block(dims, channels):
    return vha.Block(channels, jnp.float32) if dims == 5 else compact.PixelBlock(channels, jnp.float32)


def _params(block, x, seed=0):
    """Random ones, biases and scales as well."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)

    def draw(s):
        return (rng.normal(size=s.shape) / np.sqrt(np.prod(s.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _apply(block, params, x, fast):
    return block.apply(params, x, method=functools.partial(fast_block.apply, fast=fast))


def _close(found, want, tolerance=1e-5):
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


sizes = st.one_of(
    st.tuples(st.integers(1, 2), *[st.integers(1, 10)] * 2, st.sampled_from([4, 24])),
    st.tuples(st.integers(1, 2), *[st.integers(1, 10)] * 3, st.sampled_from([4, 24])),
)


@pytest.mark.parametrize("whole", [True, False])
@given(shape=sizes, tiles=st.integers(1, 3))
@settings(max_examples=6, deadline=None)
def test_blocks_are_the_modules(shape, tiles, whole):
    """In float64 the module is the oracle; a length that is no multiple of a tile, of a slab, or shorter than both."""
    x = 3 * np.random.default_rng(1).normal(size=shape).astype(np.float32)
    block = _block(len(shape), shape[-1])
    params = _params(block, x)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(fast_block, "_WHOLE", 2**30 if whole else 0)
        m.setattr(fast_block, "_SLAB", tiles * 4 * int(np.prod(shape[2:])))
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
    network = vha.PatchVHA(2, 64, 64)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 14, 8, 8, 64), jnp.float32))
    large, small = (jax.ShapeDtypeStruct((1, n, n, 16), jnp.float32) for n in (20, 4))
    decode = functools.partial(network.apply, method="decode_features")
    assert set(params["params"]["decoder_0"]) == {"RMSNorm_0", "RMSNorm_1", "CellConv_0", "Dense_0", "Dense_1"}
    assert _uses(decode, params, large) and not _uses(decode, params, small)
    rounded = functools.partial(network.clone(dtype=jnp.bfloat16).apply, method="decode_features")
    assert not _uses(rounded, params, large)
    trunk = compact.CompactPredictor(2, 80)
    image = jax.ShapeDtypeStruct((1, 540, 960, 3), jnp.uint8)
    camera = Camera(500.0, 500.0, 480.0, 270.0)
    params = jax.eval_shape(trunk.init, jax.random.key(0), image, camera)
    names = {"RMSNorm_0", "RMSNorm_1", "Conv_0", "Dense_0", "Dense_1"}
    assert set(params["params"]["trunk"]["PixelBlock_0"]) == names
    assert _uses(functools.partial(trunk.apply, camera=camera), params, image)


@pytest.mark.parametrize("kind", ["patch", "compact"])
def test_networks_are_the_same_with_it(kind, monkeypatch):
    if kind == "patch":
        network, method = vha.PatchVHA(2, 34, 16, blocks=1), "decode_features"
        like = jnp.zeros((1, 14, 8, 8, 34))
        x = np.random.default_rng(0).normal(size=(2, 7, 6, 8)).astype(np.float32)
    else:
        network, method = compact.CompactPredictor(2, 16, width=8, blocks=1), None
        x = like = np.random.default_rng(0).integers(0, 256, (2, 100, 130, 3)).astype(np.uint8)
    camera = {} if kind == "patch" else {"camera": Camera(100.0, 100.0, 65.0, 50.0)}
    params = jax.jit(network.init)(jax.random.key(0), like, **camera)
    run = functools.partial(network.apply, method=method, **camera)
    want = jax.jit(lambda p, x: run(p, x))(params, x)
    monkeypatch.setattr(fast_block, "_LEAST", 0)
    found = jax.jit(lambda p, x: run(p, x))(params, x)
    assert _uses(run, params, x)
    _close(found, want)
    assert not np.array_equal(found, want)


def test_a_batch_over_eight_devices():
    # What is compiled runs but once.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    command = "from tests.ops import test_fast_block; test_fast_block.check_devices()"
    process = python("-c", command, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said


def check_devices():
    """Value and gradients of a batch shared by 8 devices are the module's on one, and no image goes to another."""
    fast_block._WHOLE = fast_block._SLAB = 0  # several slabs, of one tile each
    for shape in ((8, 10, 5, 4), (16, 6, 4, 5, 4)):
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        block = _block(len(shape), shape[-1])
        _check_shared(block, _params(block, x), x)


def _check_shared(block, params, x):
    devices = jax.devices()
    assert len(devices) == 8
    mesh = Mesh(np.array(devices), ("batch",))
    whole, batch = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))

    def value(params, x, fast):
        return _apply(block, params, x, fast)

    gradient = jax.grad(lambda params, x, fast: jnp.sum(jnp.sin(value(params, x, fast))), (0, 1))

    def both(function):
        shared = jax.jit(functools.partial(function, fast=True), in_shardings=(whole, batch))
        compiled = shared.lower(params, x).compile()
        text = compiled.as_text()
        assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
        found = compiled(*jax.device_put((params, x), (whole, batch)))
        return found, jax.jit(functools.partial(function, fast=False))(params, x), text

    found, want, text = both(value)
    assert "while" in text and not np.array_equal(found, want)  # another way
    assert found.sharding.is_equivalent_to(batch, x.ndim)
    _close(found, want)
    found, want, _ = both(gradient)
    assert found[1].sharding.is_equivalent_to(batch, x.ndim)
    jax.tree.map(_close, found, want)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(want))
