"""From relative joints, the mid-hip's pixels and its distance to joints in metres."""

import jax
import numpy as np
import pytest

from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.pose import boxes, lifting, reading

CAMERA = Camera(*(np.float32(f) for f in (100.0, 110.0, 64.0, 48.0)))


def test_true_numbers_give_the_true_joints():
    rng = np.random.default_rng(0)
    joints = (rng.uniform(-1, 1, (5, 14, 3)) + rng.uniform([-3, -1, 4], [3, 1, 20], (5, 1, 3))).astype(np.float32)
    root = joints[:, list(skeleton.PAIRS["hips"])].mean(axis=1)
    offsets = reading.to_axes(reading.axes(root), joints - root[:, None])
    distance = np.linalg.norm(root, axis=-1)
    found = lifting.compose(offsets, cameras.project(CAMERA, root), distance, CAMERA)
    np.testing.assert_allclose(found, joints, rtol=1e-4, atol=1e-4)


def test_boxes_in_slopes_do_not_depend_on_the_camera():
    seen = lifting.seen_from(np.float32([[54, 37, 74, 92]]), CAMERA)
    np.testing.assert_allclose(seen, [[0, (64.5 - 48) / 110, np.log(0.2), np.log(0.5)]], rtol=1e-5, atol=1e-6)
    twice = lifting.seen_from(np.float32([[108, 74, 148, 184]]), CAMERA.scaled(2))
    np.testing.assert_allclose(twice, seen, rtol=1e-5, atol=1e-6)


def test_somebody_upright_is_about_as_far_as_their_box_says():
    person = np.zeros((1, 14, 3), np.float32) + np.float32([0, 0, 8])
    person[0, :, 1] = np.linspace(-0.85, 0.85, 14)  # 1.7 m
    box = boxes.around(cameras.project(CAMERA, person), np.ones((1, 14), bool))
    distance = np.exp(lifting.ordinary_distance(lifting.seen_from(box, CAMERA)))
    assert float(distance[0]) == pytest.approx(8, rel=0.02)


def test_gradients_of_joints_are_finite_for_absent_people():
    def total(offsets, root, distance):
        return lifting.compose(offsets, root, distance, CAMERA).sum()

    nobody = np.zeros((1, 14, 3), np.float32), np.zeros((1, 2), np.float32), np.ones(1, np.float32)
    assert all(np.isfinite(g).all() for g in jax.grad(total, argnums=(0, 1, 2))(*nobody))
