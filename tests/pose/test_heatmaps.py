"""Rendered heatmaps against the method's formula, written densely in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loco_jax.pose import heatmaps

# With a cube of side 11 (sigma 2) one axis is longer than two cubes, one a little longer than one, one shorter.
SHAPE = (13, 9, 24)
PEOPLE, JOINTS = 3, 2
SIGMAS = (0.2, 0.3, 1, 1.5, 2, 2.7, 4.0, 8.0)

_coordinates = st.one_of(
    st.integers(-2, 25).map(float),
    st.integers(-4, 50).map(lambda i: i / 2),  # halves are rounded to even
    st.floats(-2, 26, width=32),
    st.floats(-40, 60, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 1e5, -1e5]),
)
_people = st.tuples(
    hnp.arrays(np.float32, (PEOPLE, JOINTS, 3), elements=_coordinates, fill=st.nothing()),
    hnp.arrays(bool, (PEOPLE, JOINTS), elements=st.sampled_from([True, True, True, False]), fill=st.nothing()),
)


@functools.partial(jax.jit, static_argnames=("shape", "sigma"))
def _render(voxels, present, shape=SHAPE, sigma=2):
    """Whole and sub-voxel, in one compilation."""
    return tuple(heatmaps.render(voxels, present, shape, sigma, subvoxel) for subvoxel in (False, True))


def _formula(voxels, present, shape, sigma, subvoxel):
    side = next(side for side in itertools.count(1, 2) if side >= 5 * sigma)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)
    result = np.zeros((voxels.shape[1], *shape))
    for p, j in np.argwhere(present & np.isfinite(voxels).all(-1)):
        voxel = voxels[p, j].astype(float)
        rounded = np.rint(voxel)
        squared_r = ((at - (voxel if subvoxel else rounded)) ** 2).sum(-1)
        in_cube = (np.abs(at - rounded) <= side // 2).all(-1)
        result[j] = np.maximum(result[j], np.where(in_cube, np.exp(-squared_r / sigma**2), 0))
    return result


def _assert_formula(got, voxels, present, sigma=2, subvoxel=False, rtol=1e-4):
    want = _formula(voxels, present, got.shape[1:], sigma, subvoxel)
    # The tolerance is relative: the smallest values, in the cube's corners, are around 1e-9.
    np.testing.assert_allclose(np.asarray(got, float), want, rtol=rtol, atol=1e-30)


def _random_people(seed, *batch):
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(-3, np.array(SHAPE) + 2, (*batch, PEOPLE, JOINTS, 3)).astype(np.float32)
    return voxels, rng.random((*batch, PEOPLE, JOINTS)) < 0.8


@pytest.mark.parametrize(
    "sigma, side",
    [(2, 11), (4, 21), (8, 41), (1, 5), (1.5, 9), (2.2, 11), (2.3, 13), (0.3, 3), (0.21, 3), (0.2, 1), (0.01, 1)],
)
def test_cube_side(sigma, side):
    assert heatmaps.cube_side(sigma) == side


@pytest.mark.parametrize("sigma", SIGMAS)
@given(_people)
@settings(max_examples=40, deadline=None)
def test_render_is_the_formula(sigma, people):
    whole, subvoxel = _render(*people, sigma=sigma)
    assert whole.shape == subvoxel.shape == (JOINTS, *SHAPE) and whole.dtype == subvoxel.dtype == jnp.float32
    _assert_formula(whole, *people, sigma)
    _assert_formula(subvoxel, *people, sigma, subvoxel=True)


def test_one_joint_by_hand():
    voxels = np.array([[[6.4, 4, 11.6], [6, 4, 12]]], np.float32)
    whole, subvoxel = (np.asarray(h[0]) for h in _render(voxels, np.array([[True, False]])))
    assert np.argwhere(whole == 1).tolist() == [[6, 4, 12]]
    assert whole[6, 4, 13] == pytest.approx(np.exp(-1 / 4))
    assert whole[4, 3, 15] == pytest.approx(np.exp(-(4 + 1 + 9) / 4))
    assert np.argwhere(whole).min(0).tolist() == [1, 0, 7]
    assert np.argwhere(whole).max(0).tolist() == [11, 8, 17]
    assert ((whole > 0) == (subvoxel > 0)).all()  # the cube is around the rounded voxel
    assert subvoxel[6, 4, 12] == pytest.approx(np.exp(-(0.16 + 0.16) / 4))
    assert subvoxel[7, 4, 11] == pytest.approx(np.exp(-(0.36 + 0.36) / 4))
    assert not _render(voxels, np.array([[True, False]]))[0][1].any()  # the absent one


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("axis", range(3))
def test_a_joint_outside_leaves_only_what_reaches_in(axis, side):
    """Five voxels out, half a cube, one layer is left; six out, nothing."""
    border = 0 if side < 0 else SHAPE[axis] - 1
    voxels = np.tile(np.array([6, 4, 12], np.float32), (PEOPLE, JOINTS, 1))
    voxels[0, 0, axis], voxels[0, 1, axis] = border + 5 * side, border + 6 * side
    present = np.array([[True, True]] + [[False, False]] * (PEOPLE - 1))
    near, beyond = np.asarray(_render(voxels, present)[0])
    assert not beyond.any()
    assert set(np.nonzero(near)[axis]) == {border}
    assert near.max() == pytest.approx(np.exp(-25 / 4))


@given(_people, st.permutations(range(PEOPLE)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_people_does_not_matter(people, order):
    voxels, present = people
    for one, other in zip(_render(voxels, present), _render(voxels[order], present[order])):
        np.testing.assert_array_equal(one, other)


def test_absent_and_broken_joints_leave_no_trace():
    voxels, present = _random_people(0)
    for nowhere in ([3, np.nan, 5], [np.inf, 1, 1], [1, 1, -np.inf]):
        voxels[1] = nowhere
        # A copy: the device may still be reading when the array changes.
        with_broken = _render(voxels.copy(), present | (np.arange(PEOPLE) == 1)[:, None])
        voxels[1] = 5
        absent = _render(voxels.copy(), present & (np.arange(PEOPLE) != 1)[:, None])
        for one, other in zip(with_broken, absent):
            assert one.any()
            np.testing.assert_array_equal(one, other)
    for empty in _render(voxels, np.zeros_like(present)):
        assert not empty.any()


def test_joint_types_do_not_mix():
    voxels, present = _random_people(1)
    alone = _render(voxels, present & (np.arange(JOINTS) == 1))
    for both, one in zip(_render(voxels, present), alone):
        assert one[1].any() and not one[0].any()
        np.testing.assert_array_equal(both[1], one[1])


def test_no_people():
    got = heatmaps.render(jnp.zeros((0, JOINTS, 3)), jnp.zeros((0, JOINTS), bool), SHAPE, dtype=jnp.bfloat16)
    assert got.shape == (JOINTS, *SHAPE) and got.dtype == jnp.bfloat16 and not got.any()
    got = heatmaps.render(jnp.zeros((PEOPLE, 0, 3)), jnp.zeros((PEOPLE, 0), bool), SHAPE)
    assert got.shape == (0, *SHAPE)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 8)])
def test_volumes_smaller_than_the_cube(shape):
    for seed in range(5):
        voxels, present = _random_people(seed)
        voxels = voxels * np.float32(0.5)
        whole, subvoxel = _render(voxels, present, shape)
        _assert_formula(whole, voxels, present)
        _assert_formula(subvoxel, voxels, present, subvoxel=True)


def test_bfloat16_without_jit():
    voxels, present = _random_people(2)
    for subvoxel in (False, True):
        got = heatmaps.render(jnp.asarray(voxels), jnp.asarray(present), SHAPE, subvoxel=subvoxel, dtype=jnp.bfloat16)
        assert got.dtype == jnp.bfloat16
        _assert_formula(got, voxels, present, subvoxel=subvoxel, rtol=2**-8)  # a bfloat16 has 8 bits, rounded


def test_frames_together_are_frames_alone():
    voxels, present = _random_people(3, 4)
    together = jax.jit(jax.vmap(_render))(voxels, present)
    for frame in range(4):
        for one, other in zip(together, _render(voxels[frame], present[frame])):
            np.testing.assert_allclose(one[frame], other, rtol=1e-5)
    _assert_formula(together[0][2], voxels[2], present[2])


@pytest.mark.parametrize(
    "voxels, present",
    [
        ((PEOPLE, JOINTS, 3), (PEOPLE, JOINTS + 1)),
        ((PEOPLE, JOINTS, 3), (1, JOINTS)),  # would broadcast
        ((PEOPLE, JOINTS, 3), (PEOPLE, JOINTS, 3)),
        ((PEOPLE, JOINTS, 2), (PEOPLE, JOINTS)),
        ((JOINTS, 3), (JOINTS,)),
        ((1, PEOPLE, JOINTS, 3), (1, PEOPLE, JOINTS)),
    ],
)
def test_wrong_shapes_are_refused(unchecked, voxels, present):
    with pytest.raises(ValueError, match="want voxels"):
        heatmaps.render(jnp.zeros(voxels), jnp.zeros(present, bool), SHAPE)


@pytest.mark.parametrize("sigma", [0, -2.0, float("nan")])
def test_wrong_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        heatmaps.render(jnp.zeros((PEOPLE, JOINTS, 3)), jnp.zeros((PEOPLE, JOINTS), bool), SHAPE, sigma)


@pytest.mark.parametrize(("shape", "cell"), [((13, 11, 18), 4), ((9, 8, 20), 8), ((8, 6, 4), 2)])
@pytest.mark.parametrize("subvoxel", [False, True])
def test_cells_are_the_heatmaps_in_another_order(shape, cell, subvoxel):
    rng = np.random.default_rng(0)
    voxels = jnp.asarray(rng.uniform(-0.2, 1.2, (5, 3, 3)) * np.array(shape), jnp.float32)
    present = jnp.asarray(rng.uniform(size=(5, 3)) < 0.7)
    cells = np.asarray(heatmaps.render_cells(voxels, present, shape, cell, 2.0, subvoxel, jnp.float32))
    volumes = np.asarray(heatmaps.render(voxels, present, shape, 2.0, subvoxel))
    h, w, d = (-(-size // cell) for size in shape)
    assert cells.shape == (d, h, w, 3 * cell**3)
    expected = np.zeros_like(cells)
    for joint, row, column, depth in np.ndindex(volumes.shape):
        channel = ((joint * cell + row % cell) * cell + column % cell) * cell + depth % cell
        expected[depth // cell, row // cell, column // cell, channel] = volumes[joint, row, column, depth]
    np.testing.assert_array_equal(cells, expected)
