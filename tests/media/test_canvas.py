"""Resampling for a network, against the pinhole camera's formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.geometry.camera import Camera
from loco_jax.media.canvas import CELL, GREY, MOST_PIXELS, fill, plan, to_user

TRAINED, TRAINED_SIZE = Camera(200.0, 210.0, 160.0, 120.0), (240, 320)
lengths = st.integers(1, 6000)
focals = st.floats(20, 9000)


@settings(max_examples=300, deadline=None)
@given(st.tuples(lengths, lengths), st.builds(Camera, focals, focals, st.floats(-50, 5000), st.floats(-50, 5000)))
def test_a_plan_keeps_angles_and_room(size, camera):
    canvas = plan(size, camera, TRAINED, TRAINED_SIZE)
    for inner, start, outer in zip(canvas.picture_size, canvas.origin, canvas.size):
        assert inner >= 1 and 0 <= start <= outer - inner
    assert all(n == t or (n > t and n % CELL == 0) for n, t in zip(canvas.size, TRAINED_SIZE))
    largest = MOST_PIXELS * math.prod(TRAINED_SIZE)
    rows, columns = (max(n, t) for n, t in zip(canvas.picture_size, TRAINED_SIZE))
    assert (rows - 1) * (columns - 1) <= largest
    assert 0 < canvas.shrink <= 1
    # A pixel of the picture and its place in the canvas lie on one ray; shrunk, only as far as the ray is shrunk too.
    for u in (0.0, 0.3, 1.0):
        x, y = (u * size[1] - camera.cx) / camera.fx, (u * size[0] - camera.cy) / camera.fy
        placed_x = (canvas.origin[1] + u * canvas.picture_size[1] - canvas.camera.cx) / canvas.camera.fx
        placed_y = (canvas.origin[0] + u * canvas.picture_size[0] - canvas.camera.cy) / canvas.camera.fy
        assert (placed_x, placed_y) == pytest.approx((x * canvas.shrink, y * canvas.shrink), rel=1e-6, abs=1e-6)
    # The optical axis is where it was in training, or the picture lies at the canvas's edge on that side.
    for own, trained, inner, start, outer in zip(
        canvas.camera[2:], TRAINED[2:], canvas.picture_size[::-1], canvas.origin[::-1], canvas.size[::-1]
    ):
        assert abs(own - trained) <= 0.51 or start == (0 if own > trained else outer - inner)
    # Focal lengths are those trained with, but for whole pixels.
    for inner, own, trained in (
        (canvas.picture_size[1], canvas.camera.fx, TRAINED.fx),
        (canvas.picture_size[0], canvas.camera.fy, TRAINED.fy),
    ):
        if inner > 1:
            assert own == pytest.approx(trained, rel=0.51 / (inner - 0.5))
    if canvas.shrink < 1:
        assert rows * columns > 0.8 * largest or min(canvas.picture_size) == 1


def test_the_trained_camera_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (*TRAINED_SIZE, 3), np.uint8)
    canvas = plan(TRAINED_SIZE, TRAINED, TRAINED, TRAINED_SIZE)
    assert canvas == (TRAINED_SIZE, (0, 0), TRAINED_SIZE, TRAINED, 1.0)
    np.testing.assert_array_equal(fill(canvas, image), image)


@pytest.mark.parametrize(
    ("axis", "origin"),
    [((25.0, 50.0), (95, 148)), ((625.0, 50.0), (95, 0)), ((25.0, 500.0), (0, 148)), ((-300.0, -300.0), (190, 295))],
    ids=["of its own", "left of it", "above it", "right of it and below"],
)
def test_a_smaller_picture_lies_where_its_axis_was_in_training(axis, origin):
    """A picture of 50 by 100 pixels, at half their size, cut from one that was as in training or larger."""
    canvas = plan((100, 50), Camera(400.0, 420.0, *axis), TRAINED, TRAINED_SIZE)
    assert canvas.picture_size == (50, 25) and canvas.origin == origin
    filled = fill(canvas, np.full((100, 50, 3), 7, np.uint8))
    assert filled.shape == (240, 320, 3)
    inside = np.zeros((240, 320), bool)
    inside[origin[0] : origin[0] + 50, origin[1] : origin[1] + 25] = True
    assert (filled[inside] == 7).all() and (filled[~inside] == GREY).all()


def test_who_was_shrunk_comes_nearer_as_a_whole():
    rng = np.random.default_rng(0)
    camera = Camera(70.0, 60.0, 300.0, 210.0)
    canvas = plan((480, 640), camera, TRAINED, TRAINED_SIZE)
    assert canvas.shrink < 0.7
    joints = rng.normal(0, 0.3, (3, 14, 3)) + np.array([[0, 0, 12], [8, -1, 20], [-3, 2, 9]])[:, None]
    known = rng.random((3, 14)) < 0.7
    moved = to_user(canvas, np.where(known[..., None], joints, 0), known)
    assert (moved[~known] == 0).all()
    for person, before, there in zip(moved, joints, known):
        middle, was = person[there, 2].mean(), before[there, 2].mean()
        assert middle == pytest.approx(canvas.shrink * was)
        np.testing.assert_allclose(person[there, 2] - middle, before[there, 2] - was, atol=1e-9)
        # Everything stays where it is in the picture.
        own = person[there, :2] / person[there, 2:] * camera[:2] + camera[2:]
        inside = before[there, :2] / before[there, 2:] * canvas.camera[:2] + canvas.camera[2:]
        placed = own * np.array(canvas.picture_size[::-1]) / [640, 480] + canvas.origin[::-1]
        np.testing.assert_allclose(placed, inside, atol=1e-6)


def test_nobody_gets_behind_the_camera():
    canvas = plan((480, 640), Camera(30.0, 30.0, 320.0, 240.0), TRAINED, TRAINED_SIZE)
    joints = np.stack([np.zeros(14), np.zeros(14), np.linspace(0.5, 3, 14)], axis=-1)[None]
    assert (to_user(canvas, joints, np.ones((1, 14), bool))[..., 2] > 0).all()
