"""Association against the method's text in plain Python, and people out of perfect points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.models import refiner
from loco_jax.pose import association, refinement

K = 6
REACH = [0, 0.5, 1, 1.5, 2, 1, 1.5, 2, 2, 2.5, 3, 2, 2.5, 3]  # method section 5


def by_the_text(points, scores):
    """Heads by falling confidence; for each, the nearest joint of every other type, if near enough and not taken."""
    joints, confidence = np.zeros((K, 14, 3), np.float32), np.zeros((K, 14), np.float32)
    taken = np.zeros((14, K), bool)
    for n in range(K):
        if scores[0, n] <= 0:
            continue
        joints[n, 0], confidence[n, 0], taken[0, n] = points[0, n], scores[0, n], True
        for j in range(1, 14):
            best, nearest = None, np.inf
            for k in range(K):
                away = np.linalg.norm(points[0, n].astype(np.float64) - points[j, k])
                if scores[j, k] > 0 and away < nearest:
                    best, nearest = k, away
            if best is not None and nearest < REACH[j] and not taken[j, best]:
                joints[n, j], confidence[n, j], taken[j, best] = points[j, best], scores[j, best], True
    return joints, confidence, (scores > 0) & ~taken


def made(seed, spread, share):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.4 * spread, 0.4 * spread, (14, K, 3)).astype(np.float32)
    scores = np.sort(rng.random((14, K)), axis=1)[:, ::-1] * (np.arange(K) < rng.binomial(K, share, (14, 1)))
    return points, scores.astype(np.float32)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_groups_as_the_text_says(seed, spread, share):
    points, scores = made(seed, spread, share)
    people = association.group(points, scores)
    joints, confidence, strays = by_the_text(points, scores)
    np.testing.assert_array_equal(people.scores, confidence)
    np.testing.assert_allclose(people.joints, joints, atol=1e-6)
    np.testing.assert_array_equal(people.strays, strays)


def test_of_equally_near_joints_the_first_is_meant():
    points, scores = np.zeros((14, K, 3), np.float32), np.zeros((14, K), np.float32)
    scores[0, 0], scores[1, :3] = 0.9, (0.8, 0.7, 0.6)
    points[1, 0], points[1, 1], points[1, 2] = (0, 0.4, 0), (0.3, 0, 0), (0, 0, 0.3)
    people = association.group(points, scores)
    assert people.scores[0, 1] == np.float32(0.7)
    np.testing.assert_array_equal(people.strays[1], [True, False, True, False, False, False])


def test_two_heads_at_one_place_are_two_people_and_the_better_has_the_joints():
    points = np.zeros((14, K, 3), np.float32)
    scores = np.zeros((14, K), np.float32)
    scores[0, :2], scores[1:, 0] = (0.9, 0.8), 0.5
    people = association.group(points, scores)
    np.testing.assert_array_equal(people.scores[:, 0] > 0, [True, True, False, False, False, False])
    assert (people.scores[0, 1:] == 0.5).all() and not people.scores[1, 1:].any() and not people.strays.any()


def test_frames_of_a_batch_are_apart():
    frames = [made(seed, 3, 0.8) for seed in range(3)]
    together = jax.vmap(association.group)(*(np.stack(x) for x in zip(*frames)))
    for i, frame in enumerate(frames):
        for one, many in zip(association.group(*frame), together):
            np.testing.assert_array_equal(one, many[i])


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match="want points"):
        association.group(np.zeros((13, K, 3)), np.zeros((13, K)))


def network(x, params):
    """The refiner in NumPy, from the method's text: 39 -> 128 -> 128 -> 39, and the positive part of the input."""
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    hidden = x
    for i, layer in enumerate(layers):
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        hidden = np.maximum(hidden, 0) if i < 2 else hidden
    return hidden + np.maximum(x, 0)


def test_refining_is_the_published_network_on_normalised_offsets():
    rng = np.random.default_rng(0)
    params = refiner.Refiner().init(jax.random.key(0), jnp.zeros((1, 39)))
    joints = rng.normal(0, 0.4, (K, 14, 3)).astype(np.float32) + 5
    scores = rng.random((K, 14)).astype(np.float32)
    scores[-1] = 0  # nobody
    joints[-1] = 0
    people = association.People(jnp.asarray(joints), jnp.asarray(scores), jnp.zeros((14, K), bool))
    half = np.array([0.27, 0.41, 0.67, 0.93, 0.41, 0.67, 0.92, 0.88, 1.28, 1.69, 0.88, 1.29, 1.70])[:, None]
    x = np.where(scores[:, 1:, None] > 0.2, 0.5 + (joints[:, 1:] - joints[:, :1]) / (2 * half), -1)
    offsets = (network(x.reshape(K, 39), params).reshape(K, 13, 3) - 0.5) * 2 * half
    better = refinement.refine(params, people).joints
    np.testing.assert_allclose(better[:-1, 1:], (joints[:, :1] + offsets)[:-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(better[:-1, 0], joints[:-1, 0])
    assert not better[-1].any()


def test_what_counts_after_refinement():
    points, scores = made(3, 4, 1.0)
    people = association.group(points, scores)
    params = refiner.Refiner().init(jax.random.key(0), jnp.zeros((1, 39)))
    people = refinement.refine(params, people)
    xyz, types, keep = (np.asarray(x) for x in refinement.all_joints(points, scores, people))
    exist = np.asarray(people.scores[:, 0] > 0)
    strays = np.asarray(people.strays) & (scores > 0.6)
    assert keep.sum() == 14 * exist.sum() + strays.sum() and strays.any() and exist.any()
    want = np.concatenate([np.asarray(people.joints)[exist].reshape(-1, 3), points[strays]])
    np.testing.assert_allclose(np.sort(xyz[keep], axis=0), np.sort(want, axis=0), atol=1e-6)
    np.testing.assert_array_equal(
        np.bincount(types[keep], minlength=14), exist.sum() + np.bincount(np.nonzero(strays)[0], minlength=14)
    )


@pytest.mark.parametrize("least", [1, 6, 10])
def test_who_has_few_joints_stays_as_it_is(least):
    points, scores = made(3, 4, 1.0)
    people = association.group(points, scores)
    heads = np.flatnonzero(np.asarray(people.scores)[:, 0])
    people = people._replace(
        joints=people.joints.at[heads[0], :10].set(5.0), scores=people.scores.at[heads[0], :10].set(0.5)
    )
    params = refiner.Refiner().init(jax.random.key(0), jnp.zeros((1, 39)))
    better = refinement.choose(people, refinement.refine(params, people), least)
    enough = (np.asarray(people.scores) > 0).sum(axis=1) >= least
    assert enough.any() and (least == 1 or not enough[heads].all())
    assert np.asarray(better.known)[enough].all()
    np.testing.assert_array_equal(np.asarray(better.joints)[~enough], np.asarray(people.joints)[~enough])
    np.testing.assert_array_equal(better.scores, people.scores)


def test_people_apart_from_each_other_come_out_whole():
    rng = np.random.default_rng(1)
    limits = np.array(REACH)[1:, None]
    directions = rng.normal(size=(K, 13, 3))
    offsets = 0.4 * limits * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    heads = np.arange(K)[:, None] * np.array([8.0, 0, 0]) + [0, 0, 10]
    people = np.concatenate([heads[:, None], heads[:, None] + offsets], axis=1).astype(np.float32)
    orders = [rng.permutation(K) for _ in range(14)]
    points = np.stack([people[order, j] for j, order in enumerate(orders)])
    found = association.group(points, np.linspace(0.9, 0.5, K, dtype=np.float32) * np.ones((14, 1), np.float32))
    np.testing.assert_allclose(found.joints, people[orders[0]], atol=1e-6)
    assert not found.strays.any()


def test_who_is_meant_is_who_is_nearest_on_average():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (4, 1, 3)) + rng.normal(0, 0.4, (4, 14, 3)) + [0, 0, 9]
    present = np.ones((4, 14), bool)
    present[3, 5] = False  # not all of it is known, so nobody means it
    joints, scores = np.zeros((K, 14, 3), np.float32), np.zeros((K, 14), np.float32)
    for n, (p, away, share) in enumerate([(0, 0.1, 1.0), (2, 0.9, 0.5), (2, 0.2, 0.7), (1, 1.1, 1.0), (3, 0.0, 1.0)]):
        scores[n] = np.where((rng.random(14) < share) | (np.arange(14) == 0), 0.5, 0)
        joints[n] = np.where(scores[n][:, None] > 0, true[p] + [0, 0, away], 0)  # n = 5 is nobody
    people = association.People(joints, scores, np.zeros((14, K), bool))
    index, meant = refinement.match(people, true, present)
    for n in range(K):
        known = scores[n] > 0
        means = [np.linalg.norm(joints[n] - t, axis=-1)[known].mean() if known.any() else np.inf for t in true[:3]]
        assert bool(meant[n]) == (min(means) <= 1.0)
        if meant[n]:
            assert int(index[n]) == np.argmin(means)
    assert np.asarray(meant)[:3].all() and np.asarray(index)[:3].tolist() == [0, 2, 2] and not meant[5]
