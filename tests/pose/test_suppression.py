"""Each person once: against the rule in plain Python, and on people made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.geometry import camera as cameras
from loco_jax.pose import suppression, tuning
from loco_jax.pose.association import People
from loco_jax.pose.suppression import Options

CAMERA = cameras.JTA
N = 8


# Somebody who stands: metres from the head, to the right and down.
POSE = np.float32(
    [
        (0, 0), (0, 0.3), (-0.2, 0.35), (-0.25, 0.65), (-0.3, 0.9), (0.2, 0.35), (0.25, 0.65), (0.3, 0.9),
        (-0.1, 0.85), (-0.12, 1.3), (-0.15, 1.7), (0.1, 0.85), (0.12, 1.3), (0.15, 1.7),
    ]
)  # fmt: skip


def standing(x, z, height=1.0):
    """Somebody whose head is at `x`, 1 m above the axis, at distance `z`: `[14, 3]` metres."""
    return np.pad(POSE, [(0, 0), (0, 1)]) * height + [x, -1.0, z]


def people_of(*joints_and_scores):
    """People in the first places of N, of joints `[14, 3]` and a score, or `[14]` scores with 0 for holes."""
    joints, scores = np.zeros((N, 14, 3), np.float32), np.zeros((N, 14), np.float32)
    for i, (person, score) in enumerate(joints_and_scores):
        scores[i] = score
        joints[i] = np.where(scores[i][:, None] > 0, person, 0)
    return People(joints, scores, np.zeros((14, N), bool))


def kept(people, min_score=0.0, overlap=0.2):
    left = suppression.suppress(people, CAMERA, Options(min_score, overlap))
    exist = np.asarray(left.scores[:, 0] > 0)
    np.testing.assert_array_equal(left.joints, np.where(exist[:, None, None], people.joints, 0))
    np.testing.assert_array_equal(left.scores, np.where(exist[:, None], people.scores, 0))
    return np.flatnonzero(exist).tolist()


def by_the_rule(people, min_score, overlap):
    """The text of `suppress`, one person after the other, in float64."""
    joints = people.joints.astype(np.float64)
    uv = np.full((N, 14, 2), np.nan)
    for i in range(N):
        for j in range(14):
            x, y, z = joints[i, j]
            if z > 0:
                uv[i, j] = CAMERA.fx * x / z + CAMERA.cx, CAMERA.fy * y / z + CAMERA.cy
    known = np.isfinite(uv).all(-1)
    score = people.scores.astype(np.float64).sum(axis=1) / 14
    there = [i for i in range(N) if people.scores[i, 0] > 0]
    chosen, closest = [], np.inf  # how close a decision was, as a share of its limit
    for i in sorted(there, key=lambda i: (-score[i], i)):
        if score[i] < min_score:
            continue
        for k in chosen:
            both = known[i] & known[k]
            if not both.any():
                continue
            box = uv[k][known[k]]
            limit = overlap * np.hypot(*(box.max(axis=0) - box.min(axis=0)))
            apart = np.linalg.norm(uv[i] - uv[k], axis=1)[both].mean()
            closest = min(closest, abs(apart - limit) / max(limit, 1))
            if apart < limit:
                break
        else:
            chosen.append(i)
    return sorted(chosen), closest


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.4]), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_keeps_whom_the_rule_keeps(seed, min_score, overlap):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rng.integers(0, N + 1)):
        person = standing(rng.uniform(-1.5, 1.5), rng.uniform(4, 12), rng.uniform(0.6, 1.1))
        scores = rng.uniform(0.1, 1, 14) * (rng.random(14) < rng.choice([0.2, 0.7, 1.0]))
        scores[0] = rng.random() * (rng.random() < 0.9)  # without a head nobody is there
        made.append((person + rng.normal(0, 0.1, (14, 3)), scores))
    people = people_of(*made)
    want, closest = by_the_rule(people, min_score, overlap)
    if closest > 1e-3:
        assert kept(people, min_score, overlap) == want


def test_twice_along_a_ray_is_once():
    person = standing(1.0, 8.0)
    names = people_of((1.15 * person, 0.3), (person, 0.5), (0.8 * person, 0.4), (standing(-2.0, 8.0), 0.2))
    assert kept(names) == [1, 3]
    assert kept(names, overlap=0.0) == [0, 1, 2, 3]


def test_side_by_side_and_one_behind_another_are_two():
    assert kept(people_of((standing(0.0, 8.0), 0.5), (standing(0.6, 8.0), 0.4))) == [0, 1]
    # Heads at the same place of the picture, but the one behind is less high there.
    near, behind = standing(0.0, 6.0), standing(0.0, 12.0)
    behind[:, 1] -= 1.0
    assert kept(people_of((near, 0.5), (behind, 0.4))) == [0, 1]


def test_who_is_left_out_leaves_out_nobody():
    a, b, c = (standing(x, 8.0) for x in (0.0, 0.25, 0.5))
    assert kept(people_of((a, 0.5), (b, 0.4), (c, 0.3))) == [0, 2]


def test_holes_count_in_the_score_but_not_in_the_distance():
    person = standing(0.0, 8.0)
    half = np.where(np.arange(14) < 7, 0.8, 0.0)
    assert kept(people_of((person, half), (1.1 * person, 0.5))) == [1]  # 0.4 and 0.5
    other = np.where((np.arange(14) > 6) | (np.arange(14) == 0), 0.6, 0.0)
    assert kept(people_of((person, half), (1.1 * person, other))) == [0]  # by the heads alone


def test_the_least_score_is_kept_and_whoever_is_filled_in_stays():
    person = people_of((standing(0.0, 8.0), 0.25), (standing(2.0, 8.0), 0.125))
    assert kept(person, min_score=0.25) == [0]
    filled = person._replace(scores=np.where(np.arange(14) < 7, person.scores, 0).astype(np.float32))
    assert kept(filled, min_score=0.125) == [0]  # joints that the refiner filled in have no score


def test_the_best_options_are_those_of_the_most_f1():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(4):
        true = [standing(x, rng.uniform(6, 9)) for x in (-2.0, 0.0, 2.0)]
        twice = [(1.2 * person, 0.4) for person in true[:2]]
        nobody = [(standing(x, 5.0), 0.1) for x in (-1.0, 1.0)]
        frames.append((people_of(*[(person, 0.5) for person in true], *twice, *nobody), np.stack(true)))
    found = jax.tree.map(lambda *x: np.stack(x), *[people for people, _ in frames])
    true = np.stack([person for _, person in frames])
    camera = cameras.Camera(*(jnp.full(4, f) for f in CAMERA))
    present = np.ones((4, 3, 14), bool)
    best, f1 = tuning.best_people_options(found, camera, true, present, 0.8, (0.0, 0.2, 0.6), (0.0, 0.1))
    assert best == Options(0.2, 0.1) and f1 == 1.0
    _, without = tuning.best_people_options(found, camera, true, present, 0.8, (0.0,), (0.0,))
    assert without == pytest.approx(2 * 3 / (7 + 3))


@pytest.mark.parametrize("options", [Options(-0.1, 0.1), Options(1.1, 0.1), Options(0.1, 2.0), Options(float("nan"))])
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match="config.people: want min_score and overlap of 0 to 1"):
        options.check("config.people")
