"""Skeleton, camera and volume against the method's numbers, written out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import JTA, Camera, back_project, project, project_on_host
from loco_jax.geometry.volume import Volume

DEMO = Volume((270, 480), 8, 80, 25.0)
VOLUMES = [(Volume(), JTA), (DEMO, JTA.scaled(0.25))]

# Every number of these is exact in float32, and so are the pixels.
EXACT = Camera(fx=512.0, fy=512.0, cx=960.0, cy=540.0)

_near = st.tuples(st.floats(-30, 30), st.floats(-15, 15), st.floats(0.5, 90))
_part = st.floats(0, 1)


# --- skeleton


def test_joints_are_the_methods():
    assert skeleton.JTA_JOINTS == tuple(
        "head_top head_center neck right_clavicle right_shoulder right_elbow right_wrist left_clavicle left_shoulder "
        "left_elbow left_wrist spine0 spine1 spine2 spine3 spine4 right_hip right_knee right_ankle left_hip left_knee "
        "left_ankle".split()
    )
    sides = [[f"{side}_{part}" for part in ("shoulder", "elbow", "wrist")] for side in ("right", "left")]
    sides += [[f"{side}_{part}" for part in ("hip", "knee", "ankle")] for side in ("right", "left")]
    assert skeleton.JOINTS == ("head_top", "neck", *sum(sides, []))
    assert skeleton.FROM_JTA == (0, 2, 4, 5, 6, 8, 9, 10, 16, 17, 18, 19, 20, 21)
    assert (skeleton.NUM_JOINTS, skeleton.NUM_JTA_JOINTS) == (14, 22)


def test_limbs_are_a_tree_over_all_joints():
    assert len(skeleton.LIMBS) == skeleton.NUM_JOINTS - 1
    reached = {0}
    for _ in skeleton.LIMBS:
        reached |= {j for limb in skeleton.LIMBS if reached & set(limb) for j in limb}
    assert reached == set(range(skeleton.NUM_JOINTS))


def test_limbs_are_the_same_left_and_right():
    names = {frozenset(skeleton.JOINTS[j] for j in limb) for limb in skeleton.LIMBS}
    swap = {"left": "right", "right": "left"}
    mirrored = {frozenset("_".join(swap.get(w, w) for w in name.split("_")) for name in limb) for limb in names}
    assert mirrored == names


# --- camera


def test_jta_camera():
    assert JTA == (1158, 1158, 960, 540)
    assert JTA.scaled(0.25) == (289.5, 289.5, 240, 135)


@pytest.mark.parametrize(
    "xyz, uv",
    [
        ((0, 0, 7), (960, 540)),
        ((1, 0, 1), (960 + 1158, 540)),  # right
        ((0, 1, 2), (960, 540 + 579)),  # down
        ((-3, -1.5, 6), (960 - 579, 540 - 289.5)),
    ],
)
def test_project_by_hand(xyz, uv):
    np.testing.assert_allclose(project(JTA, jnp.array(xyz, float)), uv, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_host_projects_as_the_device(seed):
    xyz = np.random.default_rng(seed).normal(0, 5, (4, 7, 3))
    camera = Camera(1100.0, 1000.0, 400.0, 300.0)
    found, expected = project_on_host(camera, xyz), project(camera, xyz)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-3)  # pixels near 0 are differences of large numbers


@given(_near)
@settings(max_examples=100, deadline=None)
def test_project_and_back_project_are_inverse(xyz):
    xyz = jnp.array(xyz, jnp.float32)
    again = back_project(JTA, project(JTA, xyz), jnp.linalg.norm(xyz))
    np.testing.assert_allclose(again, xyz, rtol=0, atol=1e-4)


def test_a_smaller_picture_has_smaller_pixels():
    xyz = jnp.array([[1.0, 2.0, 3.0], [-4.0, 0.5, 20.0]])
    np.testing.assert_allclose(project(JTA.scaled(0.25), xyz), 0.25 * project(JTA, xyz), rtol=1e-6)


def test_cameras_broadcast():
    xyz = jax.random.uniform(jax.random.key(0), (3, 5, 3), minval=1.0, maxval=9.0)
    factors = jnp.array([0.25, 0.5, 1.0])[:, None]
    uv = project(JTA.scaled(factors), xyz)
    for i in range(3):
        np.testing.assert_allclose(uv[i], project(JTA.scaled(float(factors[i, 0])), xyz[i]), rtol=1e-6)
    distance = jnp.linalg.norm(xyz, axis=-1)
    np.testing.assert_allclose(back_project(JTA.scaled(factors), uv, distance), xyz, atol=1e-5)


@pytest.mark.parametrize("z", [0.0, -0.0, -1e-3, -5.0])
def test_behind_the_camera_is_nowhere(z):
    xyz = jnp.array([[0.1, 0.2, z], [0.1, 0.2, 5.0]])
    assert np.isnan(project(JTA, xyz)).tolist() == [[True, True], [False, False]]
    assert np.isnan(Volume().to_voxels(JTA, xyz)[:, :2]).tolist() == [[True, True], [False, False]]
    assert Volume().in_view(JTA, xyz).tolist() == [False, True]


def test_gradients_stay_finite_behind_the_camera():
    xyz = jnp.array([[0.1, 0.2, 0.0], [0.1, 0.2, -1.0], [0.1, 0.2, 5.0]])
    gradient = jax.grad(lambda xyz: jnp.nansum(project(JTA, xyz)))(xyz)
    assert np.isfinite(gradient).all() and not gradient[:2].any() and gradient[2].all()


# --- volume


@pytest.mark.parametrize(
    "volume, shape, bin_size",
    [
        (Volume(), (136, 240, 316), 0.31746),
        (DEMO, (40, 60, 80), 0.31646),
        (Volume(depth_bins=1000), (136, 240, 1000), 0.1001),  # the poster's "10 cm"
        (Volume((8, 9), 8, 2, 1.0), (8, 2, 2), 1.0),
        (Volume((65, 64), 8, 11, 5.0), (16, 8, 11), 0.5),
    ],
)
def test_shape_and_bin_size(volume, shape, bin_size):
    assert volume.shape == shape
    assert volume.bin_size == pytest.approx(bin_size, abs=5e-6)


@pytest.mark.parametrize(
    "xyz, voxel",
    [
        ((0, 0, 100), (540 / 8, 960 / 8, 315)),
        ((3, 0, 4), (540 / 8, (960 + 1158 * 3 / 4) / 8, 5 * 315 / 100)),  # 5 m away, not 4
        ((0, -5, 12), ((540 - 1158 * 5 / 12) / 8, 960 / 8, 13 * 315 / 100)),
        ((-2, 1, 2), ((540 + 1158 / 2) / 8, (960 - 1158) / 8, 3 * 315 / 100)),
    ],
)
def test_to_voxels_by_hand(xyz, voxel):
    np.testing.assert_allclose(Volume().to_voxels(JTA, jnp.array(xyz, float)), voxel, rtol=1e-5)


@given(st.integers(0, 135), st.integers(0, 239), st.integers(0, 315))
@settings(max_examples=100, deadline=None)
def test_to_camera_is_the_methods_formula(row, column, depth_bin):
    ray = ((8 * column - 960) / 1158, (8 * row - 540) / 1158, 1)
    length = math.sqrt(sum(x * x for x in ray))
    expected = [x / length * depth_bin * 100 / 315 for x in ray]
    got = Volume().to_camera(JTA, jnp.array([row, column, depth_bin]))
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("volume, camera", VOLUMES)
@given(parts=st.tuples(_part, _part, st.floats(0.01, 1)))
@settings(max_examples=60, deadline=None)
def test_voxels_there_and_back(volume, camera, parts):
    voxel = jnp.array([part * (n - 1) for part, n in zip(parts, volume.shape)], jnp.float32)
    xyz = volume.to_camera(camera, voxel)
    np.testing.assert_allclose(volume.to_voxels(camera, xyz), voxel, rtol=0, atol=1e-3)
    np.testing.assert_allclose(jnp.linalg.norm(xyz), voxel[2] * volume.bin_size, rtol=1e-5)


@given(_near)
@settings(max_examples=60, deadline=None)
def test_points_there_and_back(xyz):
    xyz = jnp.array(xyz, jnp.float32)
    np.testing.assert_allclose(Volume().to_camera(JTA, Volume().to_voxels(JTA, xyz)), xyz, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "xyz, seen",
    [
        ((-1.875, 0, 1), True),  # column 0
        ((-1.876, 0, 1), False),
        ((1.875, 0, 1), True),  # u = 1920: JTA leaves out only what is greater
        ((1.876, 0, 1), False),
        ((0, -1.0546875, 1), True),
        ((0, -1.0556875, 1), False),
        ((0, 1.0546875, 1), True),  # v = 1080
        ((0, 1.0556875, 1), False),
        ((0, 0, 100), True),
        ((0, 0, 100.001), False),
        ((60, 0, 80.001), False),  # 100.001 m away, though not 100 m deep
        ((math.nan, 0, 1), False),
        ((0, 0, math.nan), False),
    ],
)
def test_in_view_at_the_borders(xyz, seen):
    assert bool(Volume().in_view(EXACT, jnp.array(xyz, float))) is seen


def test_a_volume_is_a_static_argument():
    assert hash(DEMO) == hash(Volume((270, 480), 8, 80, 25.0)) and DEMO != Volume()

    @jax.jit
    def through(xyz):
        return DEMO.to_camera(JTA, DEMO.to_voxels(JTA, xyz))

    xyz = jnp.array([[[1.0, 2.0, 3.0]], [[-1.0, 0.0, 7.0]]])
    np.testing.assert_allclose(through(xyz), xyz, atol=1e-5)
    to_voxels = jax.jit(Volume.to_voxels, static_argnums=0)
    np.testing.assert_allclose(to_voxels(DEMO, JTA, xyz), DEMO.to_voxels(JTA, xyz), rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": (0, 480)},
        {"image_size": (270, -1)},
        {"stride": 0},
        {"stride": -8},
        {"depth_bins": 1},
        {"max_distance": 0.0},
        {"max_distance": -1.0},
        {"max_distance": math.nan},
    ],
)
def test_bad_volumes(arguments):
    with pytest.raises(ValueError, match=f"Volume.{next(iter(arguments))}="):
        Volume(**arguments)
