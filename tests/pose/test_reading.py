"""Poses from the picture at people's places: true poses read where people are found give the true people back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.pose import association, reading
from loco_jax.tasks import teaching

CAMERA = Camera(500.0, 520.0, 240.0, 135.0)
NECK, HIPS = skeleton.JOINTS.index("neck"), skeleton.PAIRS["hips"]


def standing(rng, count=4):
    """Joints `[count, 14, 3]` of people around (x, 0, 8), no two joints in one place."""
    return (rng.normal(0, 0.3, (count, 14, 3)) + [[[2.0 * i - 3, 0, 8 + i]] for i in range(count)]).astype(np.float32)


def found(joints, scores):
    scores = np.broadcast_to(np.asarray(scores, np.float32), joints.shape[:2])
    joints = np.where(scores[..., None] > 0, joints, 0)
    return association.People(jnp.asarray(joints), jnp.asarray(scores), jnp.zeros((14, len(joints)), bool))


def test_axes_are_those_of_a_turned_camera():
    angle = 0.4
    turned = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    np.testing.assert_allclose(reading.axes(3 * jnp.asarray(turned[2])), turned, atol=1e-6)
    rays = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    rows = np.asarray(reading.axes(jnp.asarray(rays)))
    np.testing.assert_allclose(rows @ rows.swapaxes(1, 2), np.broadcast_to(np.eye(3), rows.shape), atol=1e-5)
    assert np.allclose(np.linalg.det(rows), 1, atol=1e-5) and np.allclose(rows[:, 0, 1], 0, atol=1e-6)


def test_a_place_is_the_middle_of_what_is_known_of_the_trunk():
    joints = np.zeros((5, 14, 3), np.float32)
    joints[:, 0] = [1, -1, 10]
    joints[0, NECK], joints[0, HIPS[0]], joints[0, HIPS[1]] = [1, -0.7, 10], [1.1, 0, 10], [0.9, 0, 10]
    joints[1, NECK] = [1, -0.7, 10]
    joints[2, skeleton.JOINTS.index("right_ankle")] = [3, 1, 10]  # not of the trunk
    joints[3, NECK] = [1, -0.7, -1]  # behind the camera
    scores = (joints != 0).any(-1).astype(np.float32)
    scores[4] = 0  # nobody
    want = [[240 + 50, 135 - 52 * 0.7 / 3], [290, 135 - 52 * 0.7], *2 * [[290, 135 - 52 * 0.5]], [0, 0]]
    people = association.People(jnp.asarray(joints), jnp.asarray(scores), None)
    np.testing.assert_allclose(reading.places(people, CAMERA, (270, 480)), want, rtol=1e-5)
    np.testing.assert_allclose(reading.places(people, CAMERA, (100, 250)), np.minimum(want, [250, 100]), rtol=1e-5)


def test_true_poses_give_true_people_back():
    """Whatever joints were found, if these are right."""
    rng = np.random.default_rng(1)
    true = standing(rng)
    scores = rng.uniform(0.2, 1, true.shape[:2]) * (rng.random(true.shape[:2]) < 0.6)
    scores[:, 0] = 0.5
    scores[-1] = 0  # nobody
    pose = teaching.true_poses(jnp.asarray(true))
    people = jax.jit(reading.settle)(found(true, scores), pose.offsets)
    np.testing.assert_allclose(people.joints[:-1], true[:-1], atol=2e-3)
    assert not np.asarray(people.joints)[-1].any()
    np.testing.assert_array_equal(people.scores, scores.astype(np.float32))


@pytest.mark.parametrize("sure", [0.1, 0.9])
def test_joints_count_by_their_scores(sure):
    """Two joints of a pose that is a point are found at two places: the person goes to the weighted mean of those."""
    joints = np.zeros((1, 14, 3), np.float32)
    joints[0, 0], joints[0, NECK] = [0, 0, 10], [0, 0, 12]
    scores = np.zeros((1, 14))
    scores[0, 0], scores[0, NECK] = 1 - sure, sure
    people = reading.settle(found(joints, scores), jnp.zeros((1, 14, 3)))
    np.testing.assert_allclose(people.joints[0], np.tile([0, 0, 10 + 2 * sure], (14, 1)), atol=1e-5)
