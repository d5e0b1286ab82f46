"""Matching of found joints with true ones, with precision, recall and F1 (method section 6). NumPy, on the host.

Points `[N, 4]` have a joint type and three coordinates, in metres or in voxels; thresholds and errors have the same
unit. Functions raise ValueError for points of other shapes (except a bare `[]`), points that are not finite, and joint
types that are not whole numbers. Distances are computed in float64, so whole voxels compare exactly. A float32
coordinate has its stored value: 0.4 is stored as 0.400000006, which exceeds a threshold of 0.4.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

# Metres from the camera, for scores by distance. JTA's joints are 0 to 100 m away.
BAND_EDGES = (0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 100.0)


class Scores(NamedTuple):
    """Scores of one frame, or of many: sums of counts, and means of the rest."""

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float


def joint_scores(predicted: ArrayLike, true: ArrayLike, threshold: float, matching: str = "hungarian") -> Scores:
    """Scores of one frame over all joint types; the arguments are those of `match`.

    If nothing is predicted and nothing is true, the scores are 1. If only one of the two is empty, they are 0.
    """
    predicted, true = _points(predicted, "predicted"), _points(true, "true")
    tp = len(match(predicted, true, threshold, matching))
    fp, fn = len(predicted) - tp, len(true) - tp
    if tp + fp + fn == 0:
        return Scores(0, 0, 0, 1.0, 1.0, 1.0)
    return Scores(tp, fp, fn, tp / max(tp + fp, 1), tp / max(tp + fn, 1), 2 * tp / (2 * tp + fp + fn))


def mean_scores(frames: Sequence[Scores]) -> Scores:
    """Sums of counts, and means over frames of precision, recall and F1, as published.

    Raises ValueError without any frame.
    """
    if not frames:
        raise ValueError("a mean needs at least one frame")
    *counts, precision, recall, f1 = zip(*frames)
    return Scores(*map(sum, counts), *(math.fsum(x) / len(frames) for x in (precision, recall, f1)))


def match(
    predicted: ArrayLike, true: ArrayLike, threshold: float, matching: str = "hungarian"
) -> Int[np.ndarray, "K 2"]:
    """Pairs of joints of the same type, at most `threshold` apart, as indices into both in the order of `true`.

    "hungarian" finds the most pairs, and among such matchings the least total distance.
    "nearest" is the published protocol, one round of proposals. Every true joint proposes to its nearest prediction
    within the threshold. Every prediction keeps its nearest proposer. The others are not matched. Among equally near
    ones, the first is chosen.

    Raises ValueError also for a threshold that is negative or not finite, and for an unknown matching.
    """
    predicted, true = _points(predicted, "predicted"), _points(true, "true")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold={threshold} must be finite and not negative")
    if matching not in _MATCHINGS:
        raise ValueError(f"matching={matching!r} must be one of {', '.join(_MATCHINGS)}")
    found = [np.zeros((0, 2), np.intp)]
    for joint_type in np.intersect1d(predicted[:, 0], true[:, 0]):
        p, t = (np.flatnonzero(points[:, 0] == joint_type) for points in (predicted, true))
        rows, columns = _MATCHINGS[matching](cdist(predicted[p, 1:], true[t, 1:]), float(threshold))
        found.append(np.stack([p[rows], t[columns]], axis=-1))
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 1])]


def matched_errors(predicted: ArrayLike, true: ArrayLike, pairs: Int[np.ndarray, "K 2"]) -> Float[np.ndarray, "K"]:
    """Distances between the joints of pairs that `match` returns, in the coordinates' unit."""
    predicted, true = _points(predicted, "predicted"), _points(true, "true")
    return np.linalg.norm(predicted[pairs[:, 0], 1:] - true[pairs[:, 1], 1:], axis=-1)


def bands(
    predicted: ArrayLike, true: ArrayLike, pairs: Int[np.ndarray, "K 2"], edges: Sequence[float]
) -> Float[np.ndarray, "3 bands"]:
    """One frame's numbers of true and of found joints, and sums of errors, by the true joint's distance in metres.

    There is no precision by distance, because spurious predictions have no true joint. Points are in metres in camera
    coordinates. `pairs` are those of `match`. `edges` are ascending distances, one more than bands. A band includes its
    lower edge, and the last band its upper edge. Joints outside all bands do not count.
    """
    errors = matched_errors(predicted, true, pairs)
    distances = np.linalg.norm(_points(true, "true")[:, 1:], axis=-1)
    found = distances[pairs[:, 1]]
    return np.stack(
        [np.histogram(x, edges, weights=w)[0] for x, w in ((distances, None), (found, None), (found, errors))]
    )


def cloud_rows(
    points: Float[np.ndarray, "M 3"], types: Int[np.ndarray, "M"], keep: Bool[np.ndarray, "M"]
) -> Float[np.ndarray, "N 4"]:
    """Rows (joint type, three coordinates) of the points to keep."""
    return np.concatenate([types[keep, None], points[keep]], axis=1).astype(np.float64)


def peak_rows(values: ArrayLike, scores: ArrayLike) -> Float[np.ndarray, "N 4"]:
    """Rows (joint type, three coordinates) of peaks `values[J, K, 3]` where `scores[J, K]` are above 0."""
    types, places = np.nonzero(np.asarray(scores) > 0)
    return np.concatenate([types[:, None], np.asarray(values)[types, places]], axis=1).astype(np.float64)


def people_rows(values: ArrayLike, present: ArrayLike) -> Float[np.ndarray, "N 4"]:
    """Rows (joint type, three coordinates) of people's joints `values[P, J, 3]` that are `present[P, J]`."""
    people, types = np.nonzero(np.asarray(present))
    return np.concatenate([types[:, None], np.asarray(values)[people, types]], axis=1).astype(np.float64)


def people_pairs(
    predicted: ArrayLike, predicted_present: ArrayLike, true: ArrayLike, true_present: ArrayLike, threshold: float
) -> Int[np.ndarray, "K 2"]:
    """Pairs of predicted and true people that find each other, as indices into both in the order of `true`.

    A pair has at least half of the true person's joints within `threshold` metres, inclusive. There are as many pairs
    as possible, and among such matchings the least sum of mean distances over the joints known of both.

    Joints are `[N, J, 3]` and `[M, J, 3]`; `[N, J]` and `[M, J]` say which of them exist. True people without joints do
    not count.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    both = np.asarray(predicted_present, bool)[:, None] & np.asarray(true_present, bool)[None]
    distances = np.linalg.norm(predicted[:, None] - true[None], axis=-1)
    shares = ((distances <= threshold) & both).sum(axis=-1)
    shares = shares / np.maximum(np.asarray(true_present, bool).sum(axis=-1), 1)
    found = shares >= 0.5
    means = distances.sum(axis=-1, where=both) / np.maximum(both.sum(axis=-1), 1)
    pairs = np.stack(_assign(means, found), axis=-1)
    return pairs[np.argsort(pairs[:, 1])]


def _points(points: ArrayLike, name: str) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.shape == (0,):  # an empty list has no columns
        return points.reshape(0, 4)
    if points.ndim != 2 or points.shape[1] != 4:
        raise ValueError(f"{name} has shape {points.shape}, not [N, 4]: joint type and three coordinates")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} has values that are not finite")
    if (points[:, 0] % 1).any():
        raise ValueError(f"{name} has joint types, in its first column, that are not whole numbers")
    return points


def _assign(costs: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the most pairs that are allowed, and among those with the least sum of costs.

    Costs are scaled into 0 … 1. A pair that is not allowed costs more than all allowed ones together, but not so much
    that the other costs lose digits when they are added to it.
    """
    scale = costs.max(initial=0, where=allowed) or 1.0
    scaled = np.full(costs.shape, min(costs.shape) + 1.0)
    np.divide(costs, scale, out=scaled, where=allowed)
    rows, columns = linear_sum_assignment(scaled)
    real = allowed[rows, columns]
    return rows[real], columns[real]


def _nearest(distances: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows (predictions) and columns (true joints) of the pairs among `distances[N, M]`."""
    columns = np.flatnonzero(distances.min(axis=0) <= threshold)
    rows = distances[:, columns].argmin(axis=0)
    by_distance = np.argsort(distances[rows, columns], kind="stable")  # equally near proposers stay in order
    rows, first = np.unique(rows[by_distance], return_index=True)
    return rows, columns[by_distance[first]]


_MATCHINGS = {"hungarian": lambda distances, threshold: _assign(distances, distances <= threshold), "nearest": _nearest}
