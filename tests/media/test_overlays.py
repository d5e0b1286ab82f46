"""Skeletons are drawn where the joints are and nowhere else."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from loco_jax.geometry import skeleton
from loco_jax.media import overlays
from loco_jax.media.overlays import Person

GREY = np.full((1000, 1200, 3), 120, np.uint8)
FRONT = {
    "head_top": (0, -9), "neck": (0, -6),
    "right_shoulder": (-2, -6), "right_elbow": (-3, -3), "right_wrist": (-3, 0),
    "left_shoulder": (2, -6), "left_elbow": (3, -3), "left_wrist": (3, 0),
    "right_hip": (-1, 0), "right_knee": (-1.5, 4), "right_ankle": (-2, 8),
    "left_hip": (1, 0), "left_knee": (1.5, 4), "left_ankle": (2, 8),
}  # fmt: skip


def person(x, y, size, id=1, z=10.0, scores=1.0):
    """Somebody seen from the front, whose head top is 9 sizes above (x, y)."""
    pixels = np.array([FRONT[name] for name in skeleton.JOINTS]) * size + [x, y]
    joints = np.full((14, 3), float(z))
    return Person(id, 0.9, joints, pixels.astype(float), np.broadcast_to(scores, 14))


def is_colour(image, colour, tolerance=6):
    return np.abs(image.astype(int) - ImageColor.getrgb(colour)).max(axis=-1) <= tolerance


def at(image, x, y):
    return image[round(y), round(x)]


def test_limbs_have_their_colours_and_sides():
    drawn = overlays.draw(GREY, [person(600, 500, 40)])
    strong, pale = overlays.colour(1), overlays.paler(overlays.colour(1))
    assert is_colour(at(drawn, 600 - 1.75 * 40, 500 + 6 * 40), strong)  # the middle of the right shin
    assert is_colour(at(drawn, 600 + 1.75 * 40, 500 + 6 * 40), pale)
    for a, b in skeleton.LIMBS:
        u, v = (person(600, 500, 40).pixels[[a, b]] * [[0.35], [0.65]]).sum(0)
        assert (at(drawn, u, v) != 120).any()


def test_the_rest_of_the_picture_stays():
    noise = np.random.default_rng(0).integers(0, 256, GREY.shape, np.uint8)
    before = noise.copy()
    drawn = overlays.draw(noise, [person(600, 500, 20)])
    np.testing.assert_array_equal(noise, before)
    changed = (drawn != noise).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert 0.002 < changed.mean() < 0.05
    assert columns.min() > 600 - 3 * 20 - 20 and columns.max() < 600 + 3 * 20 + 20
    assert rows.min() > 500 - 9 * 20 - 70 and rows.max() < 500 + 8 * 20 + 20


def test_nobody_changes_nothing_but_small_pictures_grow():
    np.testing.assert_array_equal(overlays.draw(GREY, []), GREY)
    small = np.random.default_rng(0).integers(0, 256, (90, 321, 3), np.uint8)
    assert overlays.draw(small, []).shape == (270, 963, 3)
    assert overlays.drawn_size((1, 1)) == (8, 8)
    drawn = overlays.draw(np.full((270, 480, 3), 120, np.uint8), [person(240, 130, 10)])
    assert is_colour(at(drawn, 2 * (240 - 17.5), 2 * (130 + 60)), overlays.colour(1))


def test_the_nearer_is_on_top():
    far, near = person(600, 500, 30, id=1, z=20), person(600, 500, 30, id=2, z=5)
    for people in ([far, near], [near, far]):
        drawn = overlays.draw(GREY, people)
        assert is_colour(at(drawn, 600 - 1.75 * 30, 500 + 6 * 30), overlays.colour(2))


def test_limbs_to_joints_that_were_not_seen_are_thinner():
    scores = np.array([0.0 if "ankle" in name else 1.0 for name in skeleton.JOINTS])
    widths = []
    for each in (1.0, scores):
        row = overlays.draw(GREY, [person(600, 500, 40, scores=each)])[round(500 + 6 * 40)]
        widths.append((row != 120).any(axis=-1)[:600].sum())
    assert 0 < widths[1] < 0.8 * widths[0]


def test_holes_and_what_is_far_outside_are_left_out():
    whole = person(600, 500, 30)
    pixels = whole.pixels.copy()
    pixels[skeleton.JOINTS.index("right_knee")] = np.nan
    pixels[skeleton.JOINTS.index("left_ankle")] = 1e12
    drawn = overlays.draw(GREY, [whole._replace(pixels=pixels)])
    assert (at(drawn, 600 - 1.25 * 30, 500 + 2 * 30) == 120).all()  # the right thigh
    assert (at(drawn, 600 + 1.75 * 30, 500 + 6 * 30) == 120).all()  # the left shin
    assert (at(drawn, 600 + 1.25 * 30, 500 + 2 * 30) != 120).any()  # the left thigh
    nothing = whole._replace(pixels=np.full((14, 2), np.nan), joints=np.full((14, 3), np.nan))
    np.testing.assert_array_equal(overlays.draw(GREY, [nothing]), GREY)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (1500, 7)])
@pytest.mark.parametrize("place", [(0, 0), (-500, 20), (2, 900)])
def test_any_size_of_picture_and_any_place(size, place):
    drawn = overlays.draw(np.zeros((*size, 3), np.uint8), [person(*place, 30, id=123)])
    assert drawn.shape == (*overlays.drawn_size(size), 3) and drawn.dtype == np.uint8


def test_what_no_file_can_hold_is_shrunk():
    assert overlays.drawn_size((20, 70000)) == (5, 16384)
    drawn = overlays.draw(np.full((400, 65536, 3), 120, np.uint8), [person(32000, 240, 20)])
    assert drawn.shape == (100, 16384, 3)
    assert is_colour(drawn[50:, 7985:8000], overlays.colour(1)).sum() > 100  # the right side, around x = 32000 / 4


def test_ids_stay_in_the_picture_and_colours_repeat():
    drawn = overlays.draw(GREY, [person(600, 200, 25, id=7)])  # the head is above the picture's edge
    assert is_colour(drawn[:60, 500:700], overlays.colour(7)).sum() > 100
    assert overlays.colour(1) == overlays.colour(len(overlays.COLOURS) + 1) != overlays.colour(2)
    assert all(sum(ImageColor.getrgb(overlays.paler(c))) > sum(ImageColor.getrgb(c)) for c in overlays.COLOURS)
    Image.fromarray(drawn)


def overlap(a, b):
    """Pixels that two boxes (left, top, right, bottom) share."""
    return np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))


@pytest.mark.parametrize("spacing", [12, 25, 60])
@pytest.mark.parametrize("top", [60, 400])  # at the picture's upper edge, and below it
def test_labels_of_close_people_cover_no_label_and_no_other_head(spacing, top):
    """Twelve people side by side, a head's width apart or less; heads are between head_top and neck."""
    people = [person(300 + spacing * i, top + 9 * 8 + 5 * (i % 3), 8, id=90 + i, z=5 + i % 4) for i in range(12)]
    boxes = overlays.label_boxes(people, GREY.shape[:2])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [1200, 1000]).all() and (boxes[:, 2] > boxes[:, 0] + 10).all()
    for i, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in boxes[:i])
        heads = [np.concatenate([p.pixels[:2].min(0) - [10, 0], p.pixels[:2].max(0) + [10, 0]]) for p in people]
        assert not any(overlap(box, head) for k, head in enumerate(heads) if k != i)
        assert np.abs((box[:2] + box[2:]) / 2 - people[i].pixels[0]).max() < 250  # near its person
    drawn = overlays.draw(GREY, people)
    for p, box in zip(people, boxes.round().astype(int)):
        assert is_colour(drawn[box[1] : box[3], box[0] : box[2]], overlays.colour(p.id)).mean() > 0.3


def test_a_label_alone_is_above_the_head_and_those_outside_have_none():
    alone, outside = person(600, 500, 40), person(-2000, 500, 40)
    box, none = overlays.label_boxes([alone, outside], GREY.shape[:2])
    assert np.isnan(none).all()
    assert box[3] < alone.pixels[0, 1] < box[3] + 60 and abs(box[[0, 2]].mean() - 600) < 1
    crowded = overlays.label_boxes([person(600, 500, 40)] * 200, (60, 100))  # there is no room for all
    assert crowded.shape == (200, 4) and overlays.label_boxes([], (60, 100)).shape == (0, 4)
