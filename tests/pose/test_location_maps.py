"""True location maps in closed form; reading them gives the joints back where no two people share a cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.geometry.camera import Camera, project
from loco_jax.geometry.volume import Volume
from loco_jax.models.location_maps import Maps
from loco_jax.pose import location_maps, metrics, people

VOLUME = Volume(image_size=(128, 192), depth_bins=16, max_distance=25.0)
CAMERA = Camera(150.0, 160.0, 96.0, 64.0)
ROWS, COLUMNS, _ = VOLUME.shape

_true_maps = jax.jit(location_maps.true_maps, static_argnames="volume")


def _seen_at(u, v, z):
    return np.stack([(u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z, z], axis=-1).astype(np.float32)


def _apart(rng, count=5):
    """People whose joints of a type are at least three cells apart: each has a part of the grid of its own."""
    parts = [(r, c) for r in range(0, ROWS - 2, 4) for c in range(0, COLUMNS - 2, 4)]
    joints = np.zeros((count, 14, 3), np.float32)
    for j in range(14):
        for p, part in enumerate(rng.choice(len(parts), count, replace=False)):
            row, column = parts[part]
            u, v = 8 * (column + rng.uniform(0, 2)), 8 * (row + rng.uniform(0, 2))
            joints[p, j] = _seen_at(u, v, rng.uniform(3, 20))
    return joints


@pytest.mark.parametrize("seed", range(3))
def test_reading_true_maps_gives_the_joints_back(seed):
    rng = np.random.default_rng(seed)
    joints, present = _apart(rng), rng.random((5, 14)) < 0.8
    points = location_maps.read(_true_maps(joints, present, CAMERA, VOLUME), max_peaks=8)
    for j in range(14):
        true = joints[present[:, j], j]
        found = np.asarray(points.xyz[j])[np.asarray(points.scores[j]) > 0]
        assert len(found) == len(true) == int(points.count[j])
        np.testing.assert_array_equal(found[np.lexsort(found.T)], true[np.lexsort(true.T)])
    scores = np.asarray(points.scores)[np.asarray(points.scores) > 0]
    assert scores.min() >= np.exp(-0.5) - 1e-6 and scores.max() <= 1  # at most half a cell from the cell's middle
    rows = metrics.peak_rows(points.xyz, points.scores)
    assert metrics.joint_scores(rows, metrics.people_rows(joints, present), 1e-6).f1 == 1


def test_whole_people_come_back():
    """Two people with joints some cells apart, by the same association as LoCO's."""
    offsets = np.zeros((14, 3), np.float32)
    offsets[:, 1] = np.linspace(0, 1.6, 14)
    offsets[:, 0] = 0.3 * (-1) ** np.arange(14)
    joints = np.float32([[-2, -0.7, 6], [2, -0.8, 7]])[:, None] + 0.8 * offsets
    found = people.find_people(location_maps.read(_true_maps(joints, np.ones((2, 14), bool), CAMERA, VOLUME), 8))
    exist = np.asarray(found.scores[:, 0] > 0)
    got = np.asarray(found.joints)[exist]
    assert exist.sum() == 2
    np.testing.assert_array_equal(got[np.argsort(got[:, 0, 0])], joints)


@pytest.mark.parametrize("nearer", [0, 1])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_people_on_the_same_pixels_share_one_reading(nearer, shift):
    """That of the nearer one; whoever comes first, and whose joint is nearer to the cell's middle."""
    depth = np.where(np.arange(2) == nearer, 5.0, 12.0)
    joints = np.zeros((2, 14, 3), np.float32)
    for p in range(2):
        joints[p] = _seen_at(8 * (6.5 + (p == nearer) * shift), 8 * 7.5, depth[p])
    points = location_maps.read(_true_maps(joints, np.ones((2, 14), bool), CAMERA, VOLUME), max_peaks=4)
    assert (np.asarray(points.count) == 1).all() and (np.asarray(points.scores > 0).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(points.xyz[:, 0], joints[nearer])


def test_the_maps_in_closed_form():
    """Cell by cell, in NumPy: whose Gaussian is greatest, and the position of the nearest joint in whole cells."""
    rng = np.random.default_rng(7)
    z = rng.uniform(3, 20, (4, 14))
    joints = _seen_at(rng.uniform(0, 192, z.shape), rng.uniform(0, 128, z.shape), z)
    present = rng.random(z.shape) < 0.7
    present[:, 5] = False
    maps = _true_maps(joints, present, CAMERA, VOLUME)
    uv = np.asarray(project(CAMERA, jnp.asarray(joints)), np.float64)
    row, column = np.mgrid[:ROWS, :COLUMNS]
    for j in range(14):
        heat, want = np.zeros((ROWS, COLUMNS)), np.zeros((ROWS, COLUMNS, 3))
        best = np.full((ROWS, COLUMNS), np.inf)
        for p in sorted(np.flatnonzero(present[:, j]), key=lambda p: np.linalg.norm(joints[p, j])):
            u, v = uv[p, j] / 8
            heat = np.maximum(heat, np.exp(-((column + 0.5 - u) ** 2) - (row + 0.5 - v) ** 2))
            away = (column - min(int(u), COLUMNS - 1)) ** 2 + (row - min(int(v), ROWS - 1)) ** 2
            want[away < best] = joints[p, j]
            best = np.minimum(best, away)
        np.testing.assert_allclose(maps.heatmaps[j], heat, atol=1e-5)
        np.testing.assert_array_equal(maps.xyz[j], want.astype(np.float32))
    assert not np.asarray(maps.heatmaps[5]).any() and not np.asarray(maps.xyz[5]).any()


def test_who_is_behind_the_camera_or_absent_leaves_no_trace():
    joints = np.concatenate([_apart(np.random.default_rng(3), 2), np.full((1, 14, 3), [0.5, 0, -4], np.float32)])
    present = np.ones((3, 14), bool)
    present[2] = False
    some = _true_maps(joints, present, CAMERA, VOLUME)
    jax.tree.map(np.testing.assert_array_equal, some, _true_maps(joints[:2], present[:2], CAMERA, VOLUME))


def test_low_heatmaps_and_points_in_the_camera_are_not_read():
    heatmaps = np.zeros((14, 6, 6), np.float32)
    heatmaps[0, 1, 1], heatmaps[0, 4, 4], heatmaps[1, 2, 2] = 0.09, 0.5, 0.9
    xyz = np.ones((14, 6, 6, 3), np.float32)
    xyz[1] = 0
    points = location_maps.read(Maps(heatmaps, xyz), max_peaks=3)
    np.testing.assert_array_equal(points.scores[0], np.float32([0.5, 0, 0]))
    assert not np.asarray(points.scores[1:]).any() and not np.asarray(points.xyz[1:]).any()
