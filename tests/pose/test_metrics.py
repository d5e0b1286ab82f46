"""Both matchings against slow and plain ones, and the scores against numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.pose import metrics

MATCHINGS = ("hungarian", "nearest")

# Few types on a small grid, so that ties, duplicates and distances exactly at the threshold are common; sixteenths, so
# that squares and their sums are exact and both sides of a comparison agree to the last bit.
_whole = st.tuples(st.integers(0, 1), *[st.integers(0, 3)] * 3)
_broken = st.tuples(st.integers(0, 1), *[st.integers(-32, 32).map(lambda i: i / 16)] * 3)
_points = st.lists(_whole, max_size=6) | st.lists(_broken, max_size=6)
_thresholds = st.sampled_from([0.0, 1.0, math.sqrt(2), 1.5, 2.0, 3.0, 1e6]) | st.floats(1e-3, 4)


def _distance(a, b) -> float:
    return math.inf if a[0] != b[0] else math.sqrt(sum((x - y) ** 2 for x, y in zip(a[1:], b[1:])))


def _best(predicted, true, threshold) -> tuple[int, float]:
    """The most pairs and, among those, the least total distance, by trying everything: prediction by prediction."""
    options = {frozenset(): (0, 0.0)}  # true joints taken -> (minus pairs, total distance)
    for p in predicted:
        for taken, (pairs, total) in list(options.items()):
            for t, joint in enumerate(true):
                distance = _distance(p, joint)
                if t not in taken and distance <= threshold:
                    key, value = taken | {t}, (pairs - 1, total + distance)
                    options[key] = min(value, options.get(key, value))
    pairs, total = min(options.values())
    return -pairs, total


def _proposals(predicted, true, threshold) -> set[tuple[int, int]]:
    """The published protocol, word by word (method section 6)."""
    proposals = {}
    for t, joint in enumerate(true):
        same_type = [p for p in range(len(predicted)) if predicted[p][0] == joint[0]]
        if same_type:
            nearest = min(same_type, key=lambda p: _distance(predicted[p], joint))
            if _distance(predicted[nearest], joint) <= threshold:
                proposals.setdefault(nearest, []).append(t)
    return {(p, min(ts, key=lambda t: _distance(predicted[p], true[t]))) for p, ts in proposals.items()}


def _mutual(predicted, true, threshold) -> set[tuple[int, int]]:
    """Mutual nearest neighbours: what "nearest" is often mistaken for."""
    return {
        (p, t)
        for p, t in itertools.product(range(len(predicted)), range(len(true)))
        if _distance(predicted[p], true[t]) <= threshold
        and p == min(range(len(predicted)), key=lambda i: _distance(predicted[i], true[t]))
        and t == min(range(len(true)), key=lambda i: _distance(predicted[p], true[i]))
    }


def _line(*xs: float, joint_type: int = 0) -> np.ndarray:
    return np.array([[joint_type, x, 0, 0] for x in xs], float).reshape(-1, 4)


def _pairs(*arguments) -> set[tuple[int, int]]:
    return {tuple(pair) for pair in metrics.match(*arguments).tolist()}


@given(_points, _points, _thresholds)
@settings(max_examples=400, deadline=None)
def test_hungarian_has_the_most_pairs_then_the_least_distance(predicted, true, threshold):
    pairs = metrics.match(predicted, true, threshold)
    number, total = _best(predicted, true, threshold)
    assert len(pairs) == number
    assert metrics.matched_errors(predicted, true, pairs).sum() == pytest.approx(total, rel=1e-12, abs=1e-12)


@given(_points, _points, _thresholds)
@settings(max_examples=400, deadline=None)
def test_nearest_is_one_round_of_proposals(predicted, true, threshold):
    assert _pairs(predicted, true, threshold, "nearest") == _proposals(predicted, true, threshold)


@pytest.mark.parametrize("matching", MATCHINGS)
@given(predicted=_points, true=_points, threshold=_thresholds)
@settings(max_examples=100, deadline=None)
def test_pairs_are_disjoint_of_one_type_near_and_in_order(matching, predicted, true, threshold):
    pairs = metrics.match(predicted, true, threshold, matching)
    assert pairs.shape == (len(pairs), 2) and pairs.dtype.kind == "i"
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert (np.diff(pairs[:, 1]) > 0).all()
    assert all(_distance(predicted[p], true[t]) <= threshold for p, t in pairs)


def test_the_three_rules_differ():
    # Near 0, the prediction 0.4 is nearest to both true joints and keeps 0.5; -0.5 gets no proposal.
    # Near 100, the prediction 100 is proposed to by 101 alone; 99.4 would be nearer, but has a nearer one itself.
    predicted, true = _line(0.4, -0.5, 100.0, 99.1), _line(0.0, 0.5, 101.0, 99.4)
    assert _mutual(predicted, true, 1.0) == {(0, 1), (3, 3)}
    assert _pairs(predicted, true, 1.0, "nearest") == {(0, 1), (2, 2), (3, 3)}
    assert _pairs(predicted, true, 1.0, "hungarian") == {(0, 1), (1, 0), (2, 2), (3, 3)}


def test_nearest_is_proposed_by_the_true_joints():
    a, b = _line(0.0, 1.1), _line(0.2, 0.5)
    assert _pairs(a, b, 2.0, "nearest") == {(0, 0)}
    assert _pairs(b, a, 2.0, "nearest") == {(0, 0), (1, 1)}


def test_nearest_takes_the_first_of_equally_near_ones():
    assert _pairs(_line(1.0, -1.0), _line(0.0), 1.0, "nearest") == {(0, 0)}
    assert _pairs(_line(0.0), _line(-1.0, 1.0), 1.0, "nearest") == {(0, 0)}
    assert _pairs(_line(0.0, 0.0), _line(*[0.9, 0.5, 0.7] * 100), 1.0, "nearest") == {(0, 1)}


def test_hungarian_prefers_pairs_to_distance_and_then_distance():
    assert _pairs(_line(0.0, 1.0), _line(1.0, 2.0), 1.0) == {(0, 0), (1, 1)}  # and not 1 with 1 alone
    assert _pairs(_line(0.0, 1.0), _line(0.9, 0.1), 2.0) == {(0, 1), (1, 0)}


@pytest.mark.parametrize("threshold", [1.0, 1e3, 1e9, 1e300])
def test_hungarian_sees_small_distances_under_large_thresholds(threshold):
    predicted = _line(*range(40))
    true = predicted[np.random.default_rng(0).permutation(40)] + [0, 1e-7, 0, 0]
    pairs = metrics.match(predicted, true, threshold)
    np.testing.assert_array_equal(predicted[pairs[:, 0], 1], np.round(true[pairs[:, 1], 1]))
    assert len(pairs) == 40


def test_hungarian_loses_no_digits_to_the_pairs_that_cannot_be():
    # In each of 20 places two predictions want one true joint and one prediction has the choice of two: a third pair is
    # impossible everywhere, and the right choices differ from the wrong ones by 1e-9.
    generator = np.random.default_rng(0)
    predicted, true, total = [], [], 0.0
    for place in range(20):
        distances = generator.permutation([0.3, 0.3 + 1e-9])
        predicted += [[0, place, y, 0] for y in (*distances, 9)]
        true += [[0, place, y, 0] for y in (0, *(9 + distances[::-1]))]
        total += 0.6
    pairs = metrics.match(predicted, true, 0.4)
    assert len(pairs) == 40
    assert metrics.matched_errors(predicted, true, pairs).sum() == pytest.approx(total, abs=2e-10)


def test_hungarian_of_a_crowd_is_better_than_nearest():
    generator = np.random.default_rng(0)
    points = [np.column_stack([np.arange(840) % 14, generator.uniform(0, 8, (840, 3))]) for _ in range(2)]
    optimal, nearest = (metrics.match(*points, 1.2, matching) for matching in MATCHINGS)
    assert len(optimal) > len(nearest) > 300


@pytest.mark.parametrize("matching", MATCHINGS)
def test_types_are_never_mixed(matching):
    predicted = np.array([[0, 1, 2, 3], [1, 1, 2, 3]])
    true = np.array([[1, 1, 2, 3], [2, 1, 2, 3], [0, 1, 2, 4]])
    assert _pairs(predicted, true, 5, matching) == {(1, 0), (0, 2)}
    assert metrics.joint_scores(predicted, true, 0, matching)[:3] == (1, 1, 2)


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_the_threshold_is_inclusive_and_exact_for_voxels(matching, dtype):
    true = np.array([[3, 135, 239, 315]], dtype)
    for offset, reached in [((0, 0, 0), 0), ((0, 1, 0), 1), ((1, 1, 0), 2**0.5), ((0, 0, 2), 2), ((1, 1, 1), 3**0.5)]:
        predicted = true - np.array([[0, *offset]], dtype)
        assert metrics.joint_scores(predicted, true, reached, matching).tp == 1
        if reached:
            assert metrics.joint_scores(predicted, true, np.nextafter(reached, 0), matching).tp == 0


def test_scores_by_hand():
    scores = metrics.joint_scores(_line(0.0, 1.0, 9.0, 8.0, 7.0), _line(0.1, 1.1, 4.0), 0.4)
    assert scores == metrics.Scores(tp=2, fp=3, fn=1, precision=2 / 5, recall=2 / 3, f1=pytest.approx(1 / 2))


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("empty", [np.zeros((0, 4)), []])
def test_empty_frames(matching, empty):
    some = _line(1.0, 2.0)
    assert metrics.joint_scores(empty, empty, 1, matching) == (0, 0, 0, 1, 1, 1)
    assert metrics.joint_scores(some, empty, 1, matching) == (0, 2, 0, 0, 0, 0)
    assert metrics.joint_scores(empty, some, 1, matching) == (0, 0, 2, 0, 0, 0)
    assert metrics.joint_scores(some, some + [0, 9, 0, 0], 1, matching) == (0, 2, 2, 0, 0, 0)
    assert metrics.matched_errors(empty, some, metrics.match(empty, some, 1, matching)).shape == (0,)


def test_means_are_over_frames_and_not_over_joints():
    predicted = [_line(0.0), _line(0.0, 9.0), []]
    true = [_line(0.0), _line(0.0, 1.0, 2.0, 3.0), []]
    frames = [metrics.joint_scores(p, t, 0.5) for p, t in zip(predicted, true)]
    assert [frame.f1 for frame in frames] == pytest.approx([1, 1 / 3, 1])
    mean = metrics.mean_scores(frames)
    assert mean == metrics.Scores(2, 1, 3, *(pytest.approx(x) for x in (2.5 / 3, 2.25 / 3, (2 + 1 / 3) / 3)))
    with pytest.raises(ValueError, match="a mean needs at least one frame"):
        metrics.mean_scores([])


def test_errors_and_bands():
    true = _line(5.0, 10.0, 15.0, 30.0, 31.0)  # on both edges, and beyond the last
    predicted = _line(31.0, 5.5, 14.75, 10.25, 50.0)
    pairs = metrics.match(predicted, true, 0.5)
    assert metrics.matched_errors(predicted, true, pairs).tolist() == [0.5, 0.25, 0.25, 0.0]
    frame = metrics.bands(predicted, true, pairs, edges=(0, 10, 30, 31, 90))
    nobody = metrics.bands([], [], np.zeros((0, 2), int), edges=(0, 10, 30, 31, 90))
    np.testing.assert_array_equal(frame, [[1, 2, 1, 1], [1, 2, 0, 1], [0.5, 0.5, 0, 0]])
    np.testing.assert_array_equal(nobody, np.zeros((3, 4)))
    last = metrics.bands(predicted, true, pairs, edges=(0, 31))
    assert last[0].tolist() == [5]


@pytest.mark.parametrize(
    "predicted, threshold, matching, message",
    [
        (np.zeros((2, 3)), 1, "nearest", r"predicted has shape \(2, 3\), not \[N, 4\]"),
        (np.zeros(4), 1, "nearest", "shape"),
        (np.zeros((0, 3)), 1, "nearest", "shape"),
        (_line(np.nan), 1, "hungarian", "not finite"),
        (_line(np.inf), 1, "nearest", "not finite"),
        (_line(1.0, joint_type=0.5), 1, "nearest", "whole"),
        (_line(1.0), -0.1, "nearest", "threshold=-0.1"),
        (_line(1.0), math.nan, "nearest", "threshold=nan"),
        (_line(1.0), 1, "mutual", "matching='mutual' must be one of hungarian, nearest"),
    ],
)
def test_bad_input(predicted, threshold, matching, message):
    for empty in ([], _line(1.0)):  # checked before any short cut
        with pytest.raises(ValueError, match=message):
            metrics.joint_scores(predicted, empty, threshold, matching)
    with pytest.raises(ValueError, match="true has values that are not finite"):
        metrics.joint_scores([], _line(np.nan), 1)


def test_people_are_found_by_half_of_their_joints():
    true = np.zeros((2, 4, 3)) + [[[0, 0, 5]], [[9, 0, 5]]]
    predicted = true[::-1] + 0.0
    everything = np.ones((2, 4), bool)

    def found(people, known):
        return len(metrics.people_pairs(people, known, true, everything, 0.5))

    assert found(predicted, everything) == 2
    predicted[0, :2] += 3  # of the second person two of four are still near
    assert found(predicted, everything) == 2
    predicted[0, 2] += 3
    assert found(predicted, everything) == 1
    assert found(predicted, everything & (np.arange(4) != 3)) == 1
    assert found(np.repeat(true[:1], 3, axis=0), np.ones((3, 4), bool)) == 1  # three times the same person
    assert found(np.zeros((0, 4, 3)), np.zeros((0, 4), bool)) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_people_found_is_the_best_pairing(seed):
    rng = np.random.default_rng(seed)
    predicted, true = (rng.normal(0, 0.6, (n, 5, 3)) for n in (3, 4))
    known, present = (rng.random((n, 5)) < 0.8 for n in (3, 4))
    best = 0
    for pairing in itertools.permutations(range(4), 3):
        count = 0
        for p, t in enumerate(pairing):
            near = (np.linalg.norm(predicted[p] - true[t], axis=-1) <= 0.9) & known[p] & present[t]
            count += present[t].any() and 2 * near.sum() >= present[t].sum()
        best = max(best, count)
    assert len(metrics.people_pairs(predicted, known, true, present, 0.9)) == best
