"""Ids over frames against walks whose people are known."""

import numpy as np
import pytest

from loco_jax.predict.follow import PATIENCE, Follower

BODY = np.random.default_rng(0).normal(0, 0.3, (14, 3))


def bodies(*places):
    return np.array([BODY + place for place in places]).reshape(-1, 14, 3)


def test_walkers_keep_their_ids_whatever_their_order():
    rng = np.random.default_rng(1)
    starts, steps = rng.uniform(-10, 10, (6, 3)) * [1, 0, 1] + [0, 0, 20], rng.uniform(-0.1, 0.1, (6, 3)) * [1, 0, 1]
    starts[:, 0] += 5 * np.arange(6)
    follower, ids = Follower(), None
    for t in range(30):
        order = rng.permutation(6)
        found = bodies(*(starts + t * steps)[order]) + rng.normal(0, 0.02, (6, 14, 3))
        found[rng.random((6, 14)) < 0.3] = np.nan
        now = dict(zip(order.tolist(), follower.update(found, t / 30)))
        assert ids is None or now == ids
        ids = now
    assert sorted(ids.values()) == [1, 2, 3, 4, 5, 6]


def test_new_people_get_new_ids_and_the_missing_are_awaited():
    follower = Follower()
    a, b, c = [0, 0, 5], [3, 0, 5], [-3, 0, 5]
    assert follower.update(bodies(a, b), 0.0) == [1, 2]
    assert follower.update(bodies(c, b), 0.1) == [3, 2]
    assert follower.update(bodies(), 0.2) == []
    assert follower.update(bodies(a), 0.3) == [1]
    assert follower.update(bodies(a), 0.1 + PATIENCE) == [1]  # the others have been away for that long
    assert follower.update(bodies(b, a), 0.2 + PATIENCE) == [4, 1]


@pytest.mark.parametrize(("fps", "speed"), [(30, 1.4), (30, 3.0), (5, 1.4), (2, 3.0), (1, 1.4)])
def test_walkers_are_followed_whatever_the_frame_rate(fps, speed):
    follower = Follower()
    for t in range(20):
        assert follower.update(bodies([speed * t / fps - 5, 0, 8]), t / fps) == [1]


def test_who_walks_behind_something_is_found_again():
    follower = Follower()
    assert follower.update(bodies([0, 0, 8]), 0.0) == [1]
    for t in range(1, 20):
        assert follower.update(bodies(), t / 30) == []
    assert follower.update(bodies([1.4 * 20 / 30, 0, 8]), 20 / 30) == [1]


def test_the_most_people_keep_their_ids():
    """The nearest pair first would leave the other two with nobody near."""
    follower = Follower()
    assert follower.update(bodies([0, 0, 5], [0.9, 0, 5]), 0.0) == [1, 2]
    assert follower.update(bodies([0.8, 0, 5], [1.7, 0, 5]), 0.15) == [1, 2]


def test_nobody_jumps():
    follower = Follower()
    assert follower.update(bodies([0, 0, 5]), 0.0) == [1]
    assert follower.update(bodies([1, 0, 5]), 1 / 30) == [2]
    follower = Follower()
    assert follower.update(bodies([0, 0, 50]), 0.0) == [1]  # where depth is uncertain
    assert follower.update(bodies([0, 0, 52]), 1 / 30) == [1]
