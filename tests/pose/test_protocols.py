"""Scores in other data sets' protocols: perfect people, known offsets in closed form, and brute force."""

import itertools

import numpy as np
import pytest

from loco_jax.geometry import skeleton
from loco_jax.pose import protocols

HIPS = [skeleton.JOINTS.index(f"{side}_hip") for side in ("right", "left")]
HEAD, NECK = (skeleton.JOINTS.index(name) for name in ("head_top", "neck"))


def people(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, 14, 3)) * [0.3, 0.6, 0.2] + rng.uniform(2, 9, (number, 1, 3))


def measured(predicted, true, partner, known=None, present=None, **rest):
    known = np.ones(predicted.shape[:2], bool) if known is None else known
    present = np.ones(true.shape[:2], bool) if present is None else present
    return protocols.measure(predicted, known, true, present, np.array(partner, int), **rest)


def test_perfect_people_have_all_points():
    true = people(3)
    scores = protocols.summarise([measured(true[[1, 2, 0]], true, [2, 0, 1])])
    assert scores["people"] == scores["matched"] == 3
    for kind in protocols.KINDS:
        assert scores[kind]["pck_all"] == scores[kind]["pck_matched"] == 1
        assert scores[kind]["auc_all"] == pytest.approx(30 / 31)  # nothing is less than 0 away
        assert scores[kind]["mpjpe_mm"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metres, pck", [(0.101, 1), (0.1499, 1), (0.1501, 0)])
def test_a_known_offset_has_closed_forms(metres, pck):
    true = people(4)
    scores = protocols.summarise([measured(true + [0, 0, metres], true, range(4))])
    assert scores["absolute"]["pck_all"] == pck
    assert scores["absolute"]["mpjpe_mm"] == pytest.approx(1000 * metres)
    assert scores["absolute"]["auc_all"] == pytest.approx(sum(metres < 0.005 * i for i in range(31)) / 31)
    for kind in ("relative", "bones"):
        assert scores[kind]["pck_all"] == 1 and scores[kind]["mpjpe_mm"] == pytest.approx(0, abs=1e-9)


def test_who_is_not_found_counts_among_all_and_not_among_the_matched():
    true = people(4)
    scores = protocols.summarise([measured(true[:3], true, [0, 1, 2, -1])])
    assert (scores["people"], scores["matched"]) == (4, 3)
    for kind in protocols.KINDS:
        assert scores[kind]["pck_all"] == 0.75 and scores[kind]["pck_matched"] == 1
        assert scores[kind]["auc_all"] == pytest.approx(0.75 * 30 / 31)
        assert scores[kind]["mpjpe_mm"] == pytest.approx(0, abs=1e-9)
    nobody = protocols.summarise([measured(true[:0], true[:0], [])])
    assert nobody["people"] == 0 and nobody["absolute"]["pck_all"] is None and not nobody["by_group"]


def test_a_joint_that_is_not_found_is_wrong_and_one_that_is_not_annotated_does_not_count():
    true, known, present = people(1), np.ones((1, 14), bool), np.ones((1, 14), bool)
    known[0, [NECK, HEAD]] = False
    present[0, HEAD] = False
    scores = protocols.summarise([measured(true, true, [0], known, present)])
    for kind in protocols.KINDS:
        assert scores[kind]["pck_all"] == pytest.approx(12 / 13)
        assert scores[kind]["mpjpe_mm"] == pytest.approx(0, abs=1e-9)
    known[0, HIPS[0]] = False  # there is no root
    scores = protocols.summarise([measured(true, true, [0], known, present)])
    assert scores["relative"]["pck_all"] == scores["bones"]["pck_all"] == scores["absolute_bones"]["pck_all"] == 0
    assert scores["absolute"]["pck_all"] == pytest.approx(11 / 13)
    present[0, HIPS[0]] = False  # nor is there a true one
    scores = protocols.summarise([measured(true, true, [0], known, present)])
    assert scores["relative"]["pck_all"] is None and scores["absolute"]["pck_all"] == pytest.approx(11 / 12)


def test_bones_of_larger_people_get_the_true_lengths():
    true = people(2)
    middle = true[:, HIPS].mean(axis=1, keepdims=True)
    larger = middle + 1.4 * (true - middle)
    everything = np.ones((2, 14), bool)
    np.testing.assert_allclose(protocols.with_bones(larger, true, everything), true, atol=1e-9)
    scores = protocols.summarise([measured(larger, true, range(2))])
    assert scores["bones"]["mpjpe_mm"] == pytest.approx(0, abs=1e-6) and scores["relative"]["pck_all"] < 1
    # Of other poses, each bone has its own direction and the true length.
    other = people(2, seed=1)
    fitted = protocols.with_bones(other, true, everything)
    for a, b in skeleton.LIMBS:
        if b in HIPS:
            continue
        ours, theirs, bone = (x[:, b] - x[:, a] for x in (other, true, fitted))
        np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), np.linalg.norm(theirs, axis=-1))
        np.testing.assert_allclose(np.cross(bone, ours), 0, atol=1e-9)
    known = everything.copy()
    known[:, skeleton.JOINTS.index("left_elbow")] = False
    kept = protocols.with_bones(other, true, known)
    elbow, wrist = (skeleton.JOINTS.index(f"left_{name}") for name in ("elbow", "wrist"))
    np.testing.assert_allclose(kept[:, wrist] - kept[:, elbow], other[:, wrist] - other[:, elbow])


def test_absolute_errors_with_true_bones_keep_the_found_root():
    true = people(3)
    middle = true[:, HIPS].mean(axis=1, keepdims=True)
    larger = middle + 1.4 * (true - middle) + [0.03, 0, 0.04]
    scores = protocols.summarise([measured(larger, true, range(3))])
    assert scores["absolute_bones"]["mpjpe_mm"] == pytest.approx(50) and scores["absolute_bones"]["pck_all"] == 1
    assert scores["absolute"]["mpjpe_mm"] > 60 and scores["bones"]["mpjpe_mm"] == pytest.approx(0, abs=1e-6)


def test_relative_errors_refer_to_people_of_the_universal_size():
    true = people(3)
    universal = 0.9 * true
    same = protocols.summarise([measured(universal, true, range(3), universal=universal)])
    assert [same[kind]["mpjpe_mm"] < 1e-6 for kind in protocols.KINDS] == [True, True, False, False]
    scores = protocols.summarise([measured(true, true, range(3), universal=universal)])
    away = np.linalg.norm(true - true[:, HIPS].mean(axis=1, keepdims=True), axis=-1)
    assert scores["relative"]["mpjpe_mm"] == pytest.approx(100 * away.mean())
    for kind in ("bones", "absolute", "absolute_bones"):
        assert scores[kind]["mpjpe_mm"] == pytest.approx(0, abs=1e-6)


def test_groups_have_equal_weight_and_hidden_joints_a_score():
    true, shifted = people(5), people(5) + [0, 0.2, 0]
    hidden = np.zeros((5, 14), bool)
    hidden[:, 3] = True
    good = measured(true, true, range(5), occluded=hidden, group=2)
    bad = measured(shifted[:1], true[:1], [0], occluded=hidden[:1], group=0)
    scores = protocols.summarise([good, bad, good])
    assert [g["group"] for g in scores["by_group"]] == [0, 2]
    assert [g["people"] for g in scores["by_group"]] == [1, 10]
    assert scores["absolute"]["pck_all"] == scores["absolute"]["pck_hidden"] == 0.5
    assert scores["absolute"]["mpjpe_mm"] == pytest.approx(100)


def test_scores_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    frames, rows = [], []
    for _ in range(6):
        n, m = rng.integers(0, 4, 2)
        true, predicted = people(m, rng.integers(99)), people(n, rng.integers(99))
        partner = np.full(m, -1)
        for j in range(min(n, m)):
            partner[j] = j
            predicted[j] = true[j] + rng.normal(size=(14, 3)) * 0.08 + rng.normal(size=3) * 0.05
        known, present = rng.random((n, 14)) < 0.9, rng.random((m, 14)) < 0.9
        known[:, HIPS] = True
        present[:, HIPS] = True
        frames.append(measured(predicted, true, partner, known, present))
        for person, joint in itertools.product(range(m), range(14)):
            if not present[person, joint]:
                continue
            p = partner[person]
            if p < 0 or not known[p, joint]:
                rows.append((p >= 0, np.inf, np.inf))
                continue
            roots = [(x[HIPS[0]] + x[HIPS[1]]) / 2 for x in (predicted[p], true[person])]
            absolute = predicted[p, joint] - true[person, joint]
            rows.append((True, np.linalg.norm(absolute - roots[0] + roots[1]), np.linalg.norm(absolute)))
    matched, *errors = (np.array(column) for column in zip(*rows))
    assert 0 < matched.sum() < len(matched)
    scores = protocols.summarise(frames)
    for kind, away in zip(("relative", "absolute"), errors):
        assert scores[kind]["pck_all"] == pytest.approx(np.mean([a < 0.15 for a in away]))
        assert scores[kind]["pck_matched"] == pytest.approx(np.mean([a < 0.15 for a in away[matched]]))
        auc = np.mean([np.mean(away < t / 1000) for t in range(0, 151, 5)])
        assert scores[kind]["auc_all"] == pytest.approx(auc)
        assert scores[kind]["mpjpe_mm"] == pytest.approx(1000 * np.mean([a for a in away if np.isfinite(a)]))


def test_people_are_matched_by_joints_that_are_near_in_both_axes():
    rng = np.random.default_rng(5)
    true = rng.uniform(0, 1000, (3, 14, 2)) + 5000 * np.arange(3)[:, None, None]
    known = np.ones((3, 14), bool)
    order = [2, 0, 1]
    np.testing.assert_array_equal(protocols.match(true[order] + 39, known, true, known, 40.0), [1, 2, 0])
    np.testing.assert_array_equal(protocols.match(true[order] + [0.0, 41], known, true, known, 40.0), [-1] * 3)
    # The first one chooses first, and takes whom the second would need.
    two = np.stack([true[0], true[0]])
    np.testing.assert_array_equal(protocols.match(two[:1], known[:1], two, known[:2], 40.0), [0, -1])
    # Heads alone are no match, and joints that are not known on both sides neither.
    only = np.zeros((1, 14), bool)
    only[0, HEAD] = True
    np.testing.assert_array_equal(protocols.match(true[:1], only, true[:1], known[:1], 40.0), [-1])
    np.testing.assert_array_equal(protocols.match(true[:1], ~only, true[:1], only, 40.0), [-1])
    # More joints win.
    far = true[:1].copy()
    far[0, 5:] += 500
    np.testing.assert_array_equal(
        protocols.match(np.concatenate([far, true[:1]]), known[:2], true[:1], known[:1], 40.0), [1]
    )
    np.testing.assert_array_equal(protocols.match(true[:0], known[:0], true, known, 40.0), [-1] * 3)
