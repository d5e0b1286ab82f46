"""Codes straight from joints against the dense encoders on rendered heatmaps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loco_jax import ops
from loco_jax.models import patch_vha, vha
from loco_jax.ops.cpu import encoding
from loco_jax.pose import heatmaps
from tests.support.autoencoders import PEOPLE, random_crowd, random_params

SHAPE = (20, 26, 30)  # two cubes of sigma 2 long; neither halves evenly thrice
NETWORKS = [vha.VHA(level, SHAPE[2]) for level in (1, 2, 3)]
NETWORKS += [patch_vha.PatchVHA(level, SHAPE[2], width=8, blocks=1) for level in (1, 2, 3)]

_inside = st.tuples(*(st.integers(-2 * size, 6 * size).map(lambda i: i / 4) for size in SHAPE))
_near = st.tuples(*(st.integers(2 * size - 16, 2 * size + 16).map(lambda i: i / 4) for size in SHAPE))  # overlap
_border = st.tuples(*(st.sampled_from([-6.0, -5, -0.5, 0, 1, size - 1, size, size + 3.5]) for size in SHAPE))
_nowhere = st.sampled_from([(np.nan, 1.0, 1.0), (np.inf, 1.0, 1.0), (1e9, 1.0, 1.0), (-100.0, 3.0, 3.0)])
_voxel = st.one_of(_inside, _near, _near, _border, st.just((10.0, 12.0, 15.0)), _nowhere)  # one of them coincides


@st.composite
def _crowds(draw):
    """Voxels `[P, 14, 3]` and which are present: a few places, dealt out to people and joints."""
    places = np.array(draw(st.lists(_voxel, min_size=1, max_size=12)), np.float32)
    dealt = draw(hnp.arrays(np.int8, (PEOPLE, 14), elements=st.integers(0, 11)))
    chance = draw(st.sampled_from([0.0, 0.2, 1.0, 1.0]))
    present = np.random.default_rng(draw(st.integers(0, 99))).random((PEOPLE, 14)) < chance
    return places[dealt % len(places)], present


@pytest.fixture(scope="module", autouse=True)
def several_turns():
    """Loops that a few people in a small volume would leave after one turn."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(encoding, "_PEOPLE", 2)
        yield


def _encoder(encode, network, shape, sigma=2.0, subvoxel=False):
    """Of a batch."""
    return functools.partial(encode, network, shape=shape, sigma=sigma, subvoxel=subvoxel)


def _encode_densely(network, params, voxels, present, **options):
    """By the plain network, of whole heatmaps."""
    render = functools.partial(heatmaps.render, dtype=network.dtype, **options)
    return network.apply(params, jax.vmap(render)(voxels, present), method="encode")


@functools.cache
def _both(network, shape=SHAPE, sigma=2.0, subvoxel=False):
    """The sparse and the dense encoder, compiled."""
    encoders = encoding.encode_joints, _encode_densely
    return [jax.jit(_encoder(encode, network, shape, sigma, subvoxel)) for encode in encoders]


@functools.cache
def _params(network):
    params = random_params(network, network.depth_bins, seed=network.level)
    # Almost all the volume is empty: with larger biases joints would not be seen beside it.
    return jax.tree.map(lambda x: 0.1 * x if x.ndim == 1 else x, params)


def _assert_equal(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def _name(network):
    return f"{type(network).__name__}{network.level}"


@pytest.mark.parametrize("network, subvoxel", [(n, n.level == 2) for n in NETWORKS] + [(NETWORKS[1], False)])
@given(_crowds())
@settings(max_examples=20, deadline=None)
def test_sparse_is_dense(network, subvoxel, crowd):
    crowd = [x[None] for x in crowd]
    sparse, dense = (encode(_params(network), *crowd) for encode in _both(network, subvoxel=subvoxel))
    _assert_equal(sparse, dense)


@pytest.mark.parametrize("network", NETWORKS, ids=_name)
def test_codes_show_the_joints(network):
    """Or what is compared above would hardly depend on them."""
    _, dense = _both(network)
    voxels, present = random_crowd(0, SHAPE, 1)
    full, empty = (np.asarray(dense(_params(network), voxels, present & some)) for some in (True, False))
    assert np.abs(full - empty).max() > 0.2 * np.abs(full).max()


@pytest.mark.parametrize("sigma", [0.3, 4.0, 8.0])
@pytest.mark.parametrize("network", [NETWORKS[1], NETWORKS[4]], ids=_name)
def test_other_sigmas(network, sigma):
    """Cubes of one voxel; and of 41, larger than the volume."""
    crowd = random_crowd(1, SHAPE, 2)
    _assert_equal(*(encode(_params(network), *crowd) for encode in _both(network, SHAPE, sigma, subvoxel=True)))


@pytest.mark.parametrize("network", [NETWORKS[1], NETWORKS[4]], ids=_name)
def test_under_vmap(network):
    crowd = random_crowd(2, SHAPE, 3, 2)
    sparse, dense = _both(network)
    got = jax.jit(jax.vmap(sparse, (None, 0, 0)))(_params(network), *crowd)
    for i in range(3):
        _assert_equal(got[i], dense(_params(network), *(x[i] for x in crowd)))


@pytest.mark.parametrize("network", [NETWORKS[1], NETWORKS[2], NETWORKS[4]], ids=_name)
def test_gradients_are_the_dense_ones(network):
    voxels, present = random_crowd(3, SHAPE, 2)
    voxels[0, 1] = voxels[0, 0]
    present[1, :, 3:] = False
    weight = np.random.default_rng(4).normal(size=(2, *vha.code_shape(SHAPE, network.level)))

    def loss(encode, params):
        return jnp.sum(weight * jnp.square(encode(params, voxels, present)))

    got, want = (jax.jit(jax.grad(functools.partial(loss, e)))(_params(network)) for e in _both(network, subvoxel=True))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        _assert_equal(one, other, 1e-4)
    first = want["params"]["embed" if isinstance(network, patch_vha.PatchVHA) else "encoder_2d_0"]
    assert all(np.abs(x).max() > 0 for x in first.values())


@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[3]], ids=_name)
def test_many_gradients_add_up_in_bfloat16(network):
    """Of a frame 37 times, 37 times that of the frame: next to the sum, one is lost in bfloat16's rounding."""
    crowd = [np.repeat(x, 37, axis=0) for x in random_crowd(6, SHAPE, 1)]
    encode = _encoder(encoding.encode_joints, network.clone(dtype=jnp.bfloat16), SHAPE)

    @jax.jit
    @jax.grad
    def gradient(params, frames):
        return jnp.sum(frames[:, None, None, None] * encode(params, *crowd).astype(jnp.float32))

    layer = "embed" if isinstance(network, patch_vha.PatchVHA) else "encoder_2d_0"
    found = (gradient(_params(network), np.arange(37) < count)["params"][layer].values() for count in (37, 1))
    for many, one in zip(*found, strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(many, 37 * one, rtol=2**-7, atol=2**-10 * np.abs(many).max())


@pytest.mark.parametrize("network", NETWORKS[1::3], ids=_name)
def test_chosen_by_size(network):
    """Many people in a small volume, large cubes, and nobody go the dense way; few people the sparse one."""
    for people, sigma, sparse in ((PEOPLE, 4.0, False), (0, 2.0, False), (1, 0.3, True)):
        crowd = [x[:, :people] for x in random_crowd(5, SHAPE, 1)]
        encoders = [_encoder(encode, network, SHAPE, sigma) for encode in (ops.encode_joints, _encode_densely)]
        chosen = str(jax.make_jaxpr(encoders[0])(_params(network), *crowd))
        assert ("while" in chosen) == sparse
        assert encoding.pays(network, people, SHAPE, sigma) == sparse
        if sparse:
            _assert_equal(*(jax.jit(encode)(_params(network), *crowd) for encode in encoders))
        elif people == 0:
            assert jax.eval_shape(encoders[0], _params(network), *crowd).shape == (1, 5, 7, 7)


def test_the_papers_frames_are_sparse():
    for network in (vha.VHA(2, 316), patch_vha.PatchVHA(2, 316)):
        assert encoding.pays(network, 64, (136, 240, 316), 2.0)
