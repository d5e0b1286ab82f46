"""Smooth tracks: of what moves evenly, of noise, with limbs of one length, and without gaps."""

import numpy as np
import pytest

from loco_jax.geometry import skeleton
from loco_jax.pose import smoothing
from loco_jax.pose.tracking import Tracked

RNG = np.random.default_rng(2)
BODY = RNG.normal(0, 0.3, (14, 3))


def walk(times, speed=(1.2, 0.0, -0.5)):
    """A stiff person who glides."""
    return BODY + np.array([-1.0, 0.3, 9.0]) + np.multiply.outer(times, speed)[:, None]


def jitter(joints):
    return np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).mean()


def frames_of(times, people, ids):
    """Frames of some people's joints `[T, J, 3]`, who are in a frame if a joint is known there."""
    frames = []
    for t, time in enumerate(times):
        there = [p for p in range(len(people)) if np.isfinite(people[p][t]).any()]
        joints = np.array([people[p][t] for p in there]).reshape(-1, 14, 3)
        scores = np.isfinite(joints).all(axis=-1) * 0.7
        frames.append(Tracked(time, joints, scores, np.array([ids[p] for p in there], int)))
    return frames


@pytest.mark.parametrize("times", [np.arange(40) / 30, np.arange(12) / 3, np.cumsum(RNG.uniform(0.02, 0.3, 30))])
def test_who_moves_evenly_stays(times):
    np.testing.assert_allclose(smoothing.smooth_person(times, walk(times)), walk(times), atol=0.03)
    still = walk(times, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(smoothing.smooth_person(times, still), still, atol=1e-9)


def test_noise_becomes_less():
    times = np.arange(60) / 30
    true = walk(times)
    noisy = true + RNG.normal(0, 0.05, true.shape) + RNG.normal(0, 0.2, (60, 1, 3))
    found = smoothing.smooth_person(times, noisy)
    assert jitter(found) < 0.1 * jitter(noisy)
    assert np.linalg.norm(found - true, axis=-1).mean() < 0.4 * np.linalg.norm(noisy - true, axis=-1).mean()


def test_limbs_have_one_length_the_median():
    times = np.arange(21) / 10
    noisy = walk(times) + RNG.normal(0, 0.1, (21, 14, 3))
    found = smoothing.smooth_person(times, noisy)
    for a, b in skeleton.LIMBS:
        lengths = np.linalg.norm(found[:, a] - found[:, b], axis=-1)
        wanted = np.median(np.linalg.norm(noisy[:, a] - noisy[:, b], axis=-1))
        np.testing.assert_allclose(lengths, wanted, rtol=1e-9)


def test_constant_limbs_turn_nothing_and_move_nobody():
    joints = RNG.normal(0, 0.5, (6, 14, 3))
    lengths = RNG.uniform(0.2, 0.6, len(skeleton.LIMBS))
    found = smoothing.with_constant_limbs(joints, lengths, np.ones((6, 14), bool))
    np.testing.assert_allclose(found.mean(axis=1), joints.mean(axis=1), atol=1e-12)
    for (a, b), length in zip(skeleton.LIMBS, lengths):
        before, after = joints[:, b] - joints[:, a], found[:, b] - found[:, a]
        before *= length / np.linalg.norm(before, axis=-1, keepdims=True)
        np.testing.assert_allclose(after, before, atol=1e-12)


def test_unknown_joints():
    """One is never known, one only in the middle; both are ends of limbs that others hang on."""
    times = np.arange(9) / 10
    joints = walk(times, (0.0, 0.0, 0.0))
    never, middle = skeleton.JOINTS.index("right_shoulder"), skeleton.JOINTS.index("left_knee")
    joints[:, never] = np.nan
    joints[:4, middle] = np.nan
    joints[5:, middle] = np.nan
    found = smoothing.smooth_person(times, joints)
    assert np.isnan(found[:, never]).all() and np.isfinite(np.delete(found, never, axis=1)).all()
    wanted = walk(times, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(np.delete(found, never, axis=1), np.delete(wanted, never, axis=1), atol=1e-6)


@pytest.mark.parametrize("end", [False, True])
def test_joints_that_are_seen_for_a_while_do_not_drag_the_others(end):
    """An arm that is seen only in the first or last fifth, while the shoulder before it is never seen."""
    times = np.arange(150) / 30
    true = walk(times)
    noisy = true + RNG.normal(0, 0.04, true.shape)
    arm = [skeleton.JOINTS.index(name) for name in ("left_elbow", "left_wrist")]
    unseen = slice(None, 120) if end else slice(30, None)
    noisy[unseen, arm] = np.nan
    noisy[:, skeleton.JOINTS.index("left_shoulder")] = np.nan
    errors = np.linalg.norm(smoothing.smooth_person(times, noisy) - true, axis=-1)
    assert np.nanmax(np.delete(errors, arm, axis=1)) < 0.15 and errors[:, arm].max() < 0.25


def test_tracks_have_no_gaps_and_what_is_filled_in_has_score_0():
    times = np.arange(20) / 10
    one, other = walk(times), walk(times, (0.0, 0.0, 0.0)) + [3, 0, 0]
    seen = one.copy()
    seen[6:11] = np.nan
    late = other.copy()
    late[:15] = np.nan
    frames = frames_of(times, [seen, late], ids=[4, 2])
    found = smoothing.smooth(frames)
    assert [sorted(frame.ids.tolist()) for frame in found] == [[4]] * 15 + [[2, 4]] * 5
    for t, frame in enumerate(found):
        row = frame.ids.tolist().index(4)
        np.testing.assert_allclose(frame.joints[row], one[t], atol=0.05)
        assert (frame.scores[row] == (0 if 6 <= t < 11 else 0.7)).all() and frame.time == times[t]
    assert [frame.ids.tolist() for frame in frames[6:8]] == [[], []]  # the argument stays


def test_few_frames():
    assert smoothing.smooth([]) == []
    one = frames_of([0.0], [walk(np.zeros(1))], ids=[7])
    (found,) = smoothing.smooth(one)
    np.testing.assert_array_equal(found.joints, one[0].joints)
    nobody = frames_of([0.0, 0.1], [], ids=[])
    assert [frame.joints.shape for frame in smoothing.smooth(nobody)] == [(0, 14, 3)] * 2
