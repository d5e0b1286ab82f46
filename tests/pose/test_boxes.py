"""Boxes of people: against boxes made by hand, slices of pictures, and scores by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.geometry import skeleton
from loco_jax.pose import boxes


def _random_boxes(rng, number, size=40.0):
    low = rng.uniform(0, 100, (number, 2))
    return np.concatenate([low, low + rng.uniform(1, size, (number, 2))], axis=1).astype(np.float32)


def test_a_box_is_around_the_known_joints_with_a_margin():
    pixels = np.zeros((3, 14, 2), np.float32)
    pixels[0, :3] = (10, 20), (30, 120), (900, 900)
    pixels[1, 5] = 50, 60
    known = np.zeros((3, 14), bool)
    known[0, :2] = known[1, 5] = True
    found = np.asarray(boxes.around(pixels, known))
    np.testing.assert_allclose(found[0], [10 - 6, 20 - 6, 30 + 6, 120 + 6], rtol=1e-5)
    np.testing.assert_allclose(found[1], [48, 58, 52, 62], rtol=1e-5)  # a single joint: 4 x 4 pixels
    np.testing.assert_allclose(found[2], [-2, -2, 2, 2], rtol=1e-5)


def test_places_behind_the_camera_do_not_matter():
    pixels = np.full((1, 14, 2), np.nan, np.float32)
    pixels[0, :2] = (10, 20), (30, 120)
    assert np.isfinite(boxes.around(pixels, np.arange(14)[None] < 2)).all()


def test_squares_are_a_quarter_wider_than_the_longer_side():
    np.testing.assert_allclose(boxes.squares(np.float32([[10, 20, 30, 100]])), [[-30, 10, 70, 110]])


def test_jitter_moves_and_scales():
    box = np.float32([[10, 20, 30, 100]])
    np.testing.assert_allclose(boxes.jittered(box, np.zeros((1, 4), np.float32)), box)
    np.testing.assert_allclose(boxes.jittered(box, np.float32([[1, -1, 0, 0]])), [[12, 12, 32, 92]], rtol=1e-5)
    wide = np.asarray(boxes.jittered(box, np.float32([[0, 0, 1, 0]])))
    np.testing.assert_allclose(wide, [[20 - 10 * np.exp(0.1), 20, 20 + 10 * np.exp(0.1), 100]], rtol=1e-5)


def test_targets_are_gaussians_at_the_middles():
    made = np.float32([[0, 0, 24, 40], [40, 8, 64, 56], [0, 0, 8, 8]])
    there = np.array([True, True, False])
    found = boxes.targets(made, there, (8, 10), 8)
    rows, columns = np.mgrid[:8, :10] + 0.5
    away = [(columns - x / 8) ** 2 + (rows - y / 8) ** 2 for x, y in ((12, 20), (52, 32))]
    np.testing.assert_allclose(found.heat, np.exp(-np.min(away, axis=0)), atol=1e-6)
    near = np.max(np.exp(-np.array(away)), axis=0) > 1e-6
    np.testing.assert_array_equal(np.asarray(found.owner)[near], np.argmin(away, axis=0)[near])
    nobody = boxes.targets(made, np.zeros(3, bool), (8, 10), 8)
    assert float(nobody.heat.max()) == 0


def test_true_targets_give_the_boxes_back():
    made = np.float32([[3, 5, 30, 50], [40, 8, 61, 56], [50, 60, 72, 77]])
    target = boxes.targets(made, np.ones(3, bool), (12, 12), 8)
    numbers = boxes.encode(jnp.asarray(made)[target.owner], 8)
    np.testing.assert_allclose(boxes.decode(numbers, 8), made[np.asarray(target.owner)], rtol=1e-5, atol=1e-4)
    found = boxes.find(target.heat, numbers, 8, 5)
    exist = np.asarray(found.scores) > 0
    assert exist.sum() == 3 and (np.diff(found.scores) <= 0).all()
    by_left = np.argsort(np.asarray(found.boxes)[exist, 0])
    np.testing.assert_allclose(np.asarray(found.boxes)[exist][by_left], made, rtol=1e-4, atol=1e-3)
    assert not np.asarray(found.boxes)[~exist].any()
    assert (np.asarray(boxes.find(target.heat, numbers, 8, 5, threshold=1.0).scores) == 0).all()


def test_crops_at_identity_scale_are_slices():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = boxes.crops(image, np.float32([[3, 5, 35, 37], [38, 18, 70, 50]]), 32)
    np.testing.assert_allclose(found[0], image[5:37, 3:35], atol=1e-3)
    np.testing.assert_allclose(found[1], image[18:50, 38:70], atol=1e-3)


def test_crops_of_ramps_are_ramps_and_the_border_goes_on():
    rows, columns = np.mgrid[:60, :80].astype(np.uint8)
    image = np.stack([rows, columns, 0 * rows], axis=-1)
    box = np.float32([[10.3, 20.7, 26.3, 52.7]])
    steps = (np.arange(16) + 0.5) / 16
    found = np.asarray(boxes.crops(image, box, 16))[0]
    np.testing.assert_allclose(found[..., 0], np.broadcast_to((20.7 + 32 * steps - 0.5)[:, None], (16, 16)), atol=1e-3)
    np.testing.assert_allclose(found[..., 1], np.broadcast_to(10.3 + 16 * steps - 0.5, (16, 16)), atol=1e-3)
    outside = np.asarray(boxes.crops(image, np.float32([[-40, -40, -8, -8]]), 8))
    np.testing.assert_allclose(outside, np.broadcast_to(np.float32(image[0, 0]), outside.shape))


def test_places_in_a_crop_map_back():
    rng = np.random.default_rng(1)
    made, pixels = _random_boxes(rng, 5), rng.uniform(0, 100, (5, 14, 2)).astype(np.float32)
    places = boxes.to_crop(pixels, made)
    np.testing.assert_allclose(boxes.from_crop(places, made), pixels, rtol=1e-4, atol=1e-3)
    corners = boxes.to_crop(made.reshape(5, 2, 2), made)
    np.testing.assert_allclose(corners, np.broadcast_to([[0, 0], [1, 1]], (5, 2, 2)), atol=1e-5)


def _iou(a, b):
    """By counting the points of a fine grid that both boxes hold."""
    x, y = np.meshgrid(np.arange(0, 40, 0.1) + 0.05, np.arange(0, 40, 0.1) + 0.05)
    inside = [(x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3]) for box in (a, b)]
    return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


def test_overlap_is_intersection_over_union():
    made = np.float32([[0, 0, 10, 20], [5, 0, 15, 20], [2, 5, 8, 9], [20, 20, 39, 30], [18, 3, 30, 25]])
    found = boxes.overlap(made, made)
    want = [[_iou(a, b) for b in made] for a in made]
    np.testing.assert_allclose(found, want, atol=0.01)
    np.testing.assert_allclose(found[0, 1], 1 / 3, rtol=1e-6)
    assert boxes.overlap(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)) == 0
    assert boxes.overlap(made, np.zeros((0, 4), np.float32)).shape == (5, 0)


def _slow_precision(scores, right, true):
    """The area under the envelope, by going through all thresholds."""
    points = []
    for threshold in scores:
        named = scores >= threshold
        points.append((right[named].sum() / true, right[named].sum() / named.sum()))
    recalls = sorted({0.0, *(r for r, _ in points)})
    return sum((b - a) * max(p for r, p in points if r >= b) for a, b in zip(recalls, recalls[1:]))


def test_average_precision_of_simple_cases():
    scores = np.float32([0.9, 0.5])
    assert boxes.average_precision(scores, np.array([True, True]), 2) == 1
    assert boxes.average_precision(scores, np.array([False, False]), 2) == 0
    assert boxes.average_precision(scores[:1], np.array([True]), 2) == 0.5
    assert boxes.average_precision(scores, np.array([False, True]), 1) == 0.5
    assert boxes.average_precision(scores[:0], np.zeros(0, bool), 3) == 0
    assert boxes.average_precision(scores, np.array([False, False]), 0) is None


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    scores, right = rng.permutation(30).astype(np.float32) / 30, rng.random(30) < 0.6
    true = int(right.sum()) + seed
    assert boxes.average_precision(scores, right, true) == pytest.approx(_slow_precision(scores, right, true))


def test_each_true_box_is_found_once_by_the_best():
    true = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]])
    found = np.float32([[1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 4], [21, 0, 30, 10], [50, 50, 60, 60]])
    scores = np.float32([0.9, 0.8, 0.7, 0.6, 0.95])
    np.testing.assert_array_equal(boxes.hits(found, scores, true), [True, False, False, True, False])
    np.testing.assert_array_equal(boxes.hits(found, scores, true[:0]), [False] * 5)
    assert boxes.hits(found[:0], scores[:0], true).shape == (0,)


def test_joints_are_right_within_a_share_of_the_torso():
    true = np.zeros((3, 14, 2), np.float32)
    true[:, skeleton.JOINTS.index("right_hip")] = 30, 40  # the torso is 50 pixels
    true[:, 0] = 7, 7
    found = true.copy()
    found[0, 0] += [9.9, 0]
    found[1, 0] += [0, 10.1]
    known = np.ones((3, 14), bool)
    known[0, 1] = known[2, skeleton.JOINTS.index("left_shoulder")] = False
    right, counts = boxes.correct(found, true, known)
    assert right[0, 0] and not right[1, 0] and not counts[0, 1]
    np.testing.assert_array_equal(counts.sum(axis=1), [13, 14, 0])
    assert right.sum() == 26


def test_gradients_of_boxes_are_finite():
    made = jnp.zeros((12, 12, 4))
    gradient = jax.grad(lambda numbers: jnp.sum(boxes.decode(numbers, 8)))(made)
    assert np.isfinite(gradient).all()
