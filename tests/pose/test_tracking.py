"""Identities of people who walk, stop, vanish, cross, and are unsure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.pose import tracking
from loco_jax.pose.tracking import Settings, Sighting, Tracker

BODY = np.random.default_rng(1).normal(0, 0.3, (14, 3))
BODY -= BODY.mean(axis=0)
PATIENCE = Settings().patience


def sighting(time, *places, scores=None):
    joints = np.array([BODY + place for place in places]).reshape(-1, 14, 3)
    scores = [1.0] * len(places) if scores is None else scores
    return Sighting(time, joints, np.repeat(np.array(scores, float)[:, None], 14, axis=1))


def follow(*frames, **changes):
    """The identities in each frame."""
    tracker = Tracker(Settings(**changes))
    return [tracker.update(frame).tolist() for frame in frames]


def test_people_keep_their_identities_in_any_order_and_new_ones_get_new_ids():
    a, b, c = [0, 0, 8], [3, 0, 9], [-4, 0, 12]
    found = follow(sighting(0.0, a, b), sighting(0.1, b, a), sighting(0.2, c, a, b), sighting(0.3), sighting(0.4, b, c))
    assert found == [[1, 2], [2, 1], [3, 1, 2], [], [2, 3]]


def test_an_absent_person_is_forgotten_after_a_while():
    place = [0, 0, 8]
    nobody = sighting(PATIENCE / 2)
    assert follow(sighting(0.0, place), nobody, sighting(PATIENCE, place)) == [[1], [], [1]]
    assert follow(sighting(0.0, place), nobody, sighting(PATIENCE + 0.01, place)) == [[1], [], [2]]
    for first in range(100):  # whatever the rounding of times
        frames = [sighting((first + n) / 30, *[place] * (n in (0, 30))) for n in range(31)]
        assert follow(*frames)[30] == [1]


def test_people_in_every_frame_are_followed_however_rare_frames_are():
    place = [0, 0, 8]
    assert follow(*(sighting(5.0 * t, place) for t in range(4))) == [[1]] * 4
    assert follow(sighting(0.0, place), sighting(5.0), sighting(10.0, place)) == [[1], [], [2]]


@pytest.mark.parametrize(("fps", "speed"), [(30, 1.4), (30, 3.0), (5, 1.4), (3, 3.0), (2, 1.4), (2, 3.0)])
def test_walkers_are_followed_whatever_the_frame_rate(fps, speed):
    frames = [sighting(t / fps, [speed * t / fps - 5, 0, 8]) for t in range(20)]
    assert follow(*frames) == [[1]] * 20


@pytest.mark.parametrize("gap", [0.3, 0.9])
def test_two_who_cross_behind_something_go_on_in_their_directions(gap):
    """Both vanish before they meet and come back beyond each other, so only their speeds tell who is who."""

    def at(time):
        return [1.4 * time - 1.4, 0, 8], [1.4 - 1.4 * time, 0, 8]

    times = [t for t in np.arange(0, 2.05, 0.1) if abs(t - 1.0) >= gap / 2]
    found = follow(*(sighting(t, *at(t)) for t in times))
    assert found == [[1, 2]] * len(times)


def test_the_most_people_keep_their_identities():
    """The nearest pair first would leave the other two with nobody near."""
    found = follow(sighting(0.0, [0, 0, 5], [0.9, 0, 5]), sighting(0.15, [0.8, 0, 5], [1.7, 0, 5]))
    assert found == [[1, 2], [1, 2]]


def test_nobody_jumps():
    assert follow(sighting(0.0, [0, 0, 5]), sighting(1 / 30, [2, 0, 5])) == [[1], [2]]
    # Far away the distance is uncertain, but not the direction.
    assert follow(sighting(0.0, [0, 0, 50]), sighting(1 / 30, [0, 0, 54])) == [[1], [1]]
    assert follow(sighting(0.0, [0, 0, 50]), sighting(1 / 30, [4, 0, 50])) == [[1], [2]]


def test_missing_joints_do_not_move_a_person():
    """Half of the joints are missing in turns. Their means are far from each other."""
    upper, lower = (np.where(np.arange(14)[:, None] < n, 1.0, np.nan) for n in (7, 14))
    lower[:7] = np.nan
    body = BODY + np.where(np.arange(14)[:, None] < 7, [0, -3.0, 0], [0, 3.0, 0])
    frames = [body + [0, 0, 8], (body + [0, 0, 8]) * upper, (body + [0, 0, 8]) * lower, (body + [0, 0, 8]) * upper]
    found = follow(*(Sighting(t / 10, person[None], np.ones((1, 14))) for t, person in enumerate(frames)))
    assert found == [[1]] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 10, 30]))
def test_people_far_from_each_other_never_mix(seed, fps):
    """Walkers on lines 3 m apart, who come and go, with errors of 5 cm and in random order."""
    rng = np.random.default_rng(seed)
    speeds = rng.uniform(-2, 2, 5)
    whose = {}
    tracker = Tracker()
    for t in range(30):
        there = rng.permutation(np.flatnonzero(rng.random(5) < 0.9))
        places = [np.array([3.0 * p - 6, 0, 12 + speeds[p] * t / fps]) + rng.normal(0, 0.05, 3) for p in there]
        for p, number in zip(there, tracker.update(sighting(t / fps, *places))):
            assert whose.setdefault(number, p) == p
    assert len(whose) >= 5 or fps > 3


def test_a_frame_without_people_and_frames_of_one_person():
    assert [frame.ids.tolist() for frame in tracking.follow([sighting(0.0), sighting(0.1, [0, 0, 5])])] == [[], [1]]
    assert tracking.follow([]) == []
