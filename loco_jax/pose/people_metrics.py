"""Measures of found people: how often each is named, errors of poses, and errors along the ray. NumPy, on the host.

`see` and `measure` work on one frame, `summarise` on the results of many. Positions are in metres in camera
coordinates, or in pixels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project_on_host
from loco_jax.pose import metrics, postures
from loco_jax.pose.boxes import overlap

FOUND_WITHIN = 0.8  # metres; a person is found if half of its joints have at most this error
TWICE_WITHIN = 0.25  # of a person's height in the picture
OVERLAP = 0.3  # boxes of greater intersection over union overlap
DISTANCE_EDGES = (0.0, 6.0, 10.0, 15.0, 25.0, np.inf)  # metres from the camera
HEIGHT_EDGES = (0.0, 20.0, 40.0, 80.0, 160.0, np.inf)  # pixels
CROWDING = ("0", "1", "2 or more")  # other people whose boxes overlap with a person's
WIDTHS = ("shoulders", "hips", "wrists")  # pairs of joints whose distance is compared
_LEAST_ALIGNED = 3  # joints; poses of fewer joints always align


class Seen(NamedTuple):
    """The true people of a frame.

    Attributes:
      joints: metres.
      known: whether these are targets; each person has at least one.
      uv: pixels.
      distance: metres from the camera to the mean of a person's known joints.
      height: pixels, see `heights`.
      posture: indices into `postures.POSTURES`.
      crowding: the number of other people whose boxes overlap with a person's.
    """

    joints: Float[np.ndarray, "M 14 3"]
    known: Bool[np.ndarray, "M 14"]
    uv: Float[np.ndarray, "M 14 2"]
    distance: Float[np.ndarray, "M"]
    height: Float[np.ndarray, "M"]
    posture: Int[np.ndarray, "M"]
    crowding: Int[np.ndarray, "M"]


class Found(NamedTuple):
    """A system's results for a frame's M true people.

    Attributes:
      distance, height, posture, crowding: of the true people, see `Seen`.
      predicted: the number of people that the system names.
      named: the number of these that belong to each true person: the one that finds it, and the others that are nearest
        to it in the picture.
      found: see `metrics.people_pairs`.
      twice: see `named_twice`.
      root_error, aligned_error: metres, see `pose_errors`; NaN for people who are not found.
      widths: those of `WIDTHS` divided by the true ones, or NaN.
      owner: the index of the true person to whom a matched joint belongs.
      along, across: errors of the matched joints in metres, see `ray_errors`.
    """

    distance: Float[np.ndarray, "M"]
    height: Float[np.ndarray, "M"]
    posture: Int[np.ndarray, "M"]
    crowding: Int[np.ndarray, "M"]
    predicted: int | Int[np.ndarray, "F"]
    named: Int[np.ndarray, "M"]
    found: Bool[np.ndarray, "M"]
    twice: Int[np.ndarray, "M"]
    root_error: Float[np.ndarray, "M"]
    aligned_error: Float[np.ndarray, "M"]
    widths: Float[np.ndarray, "M 3"]
    owner: Int[np.ndarray, "K"]
    along: Float[np.ndarray, "K"]
    across: Float[np.ndarray, "K"]


def see(joints: ArrayLike, known: ArrayLike, camera: Camera) -> Seen:
    """The people of `joints[P, 14, 3]` with a joint that is `known[P, 14]`."""
    joints, known = np.asarray(joints, np.float64), np.asarray(known, bool)
    there = known.any(axis=-1)
    joints, known = joints[there], known[there]
    uv = project_on_host(camera, joints)
    middle = joints.sum(axis=1, where=known[..., None]) / known.sum(axis=1)[:, None]
    return Seen(
        joints=joints,
        known=known,
        uv=uv,
        distance=np.linalg.norm(middle, axis=-1),
        height=heights(uv, known),
        posture=postures.classify(joints, known),
        crowding=overlaps(uv, known),
    )


def measure(
    seen: Seen,
    predicted: ArrayLike,
    known: ArrayLike,
    camera: Camera,
    rows: Float[np.ndarray, "R 4"],
    pairs: Int[np.ndarray, "K 2"],
) -> Found:
    """A system's results for the true people of a frame.

    The system names people with joints `predicted[N, 14, 3]`, of which those exist that are `known[N, 14]`. People
    without known joints do not count. `rows` are all the system's joints, type and position, and `pairs` are those of
    `metrics.match` for `rows` and the true joints.
    """
    predicted, known = np.asarray(predicted, np.float64), np.asarray(known, bool)
    exist = known.any(axis=-1)
    predicted, known = predicted[exist], known[exist]
    p, t = metrics.people_pairs(predicted, known, seen.joints, seen.known, FOUND_WITHIN).T
    away = picture_distances(project_on_host(camera, predicted), known, seen.uv, seen.known)
    whose = np.where(np.isfinite(away).any(axis=1), away.argmin(axis=1), -1) if away.size else np.full(len(away), -1)
    twice = named_twice(away, seen.height)
    whose[p] = t

    def of_found(values):
        result = np.full((len(seen.joints), *values.shape[1:]), np.nan)
        result[t] = values
        return result

    both = known[p] & seen.known[t]
    root_error, aligned_error = pose_errors(predicted[p], seen.joints[t], both)
    true_rows = metrics.people_rows(seen.joints, seen.known)
    along, across = ray_errors(rows[pairs[:, 0], 1:], true_rows[pairs[:, 1], 1:])
    return Found(
        distance=seen.distance,
        height=seen.height,
        posture=seen.posture,
        crowding=seen.crowding,
        predicted=len(predicted),
        named=np.bincount(whose[whose >= 0], minlength=len(seen.joints)),
        found=np.isin(np.arange(len(seen.joints)), t),
        twice=twice,
        root_error=of_found(root_error),
        aligned_error=of_found(aligned_error),
        widths=of_found(_ratio(widths(predicted[p], both), widths(seen.joints[t], both))),
        owner=np.nonzero(seen.known)[0][pairs[:, 1]],
        along=along.astype(np.float32),
        across=across.astype(np.float32),
    )


def summarise(found: Sequence[Found]) -> dict[str, Any]:
    """A system's measures over all people of some frames, as JSON; None for a division by 0.

    They are counts and their scores, mean errors of poses in cm over people, medians of widths divided by the true
    ones, and medians and means over matched joints of errors along and across the ray in cm. They are repeated by the
    true person's distance, height in the picture and posture, and by crowding. There, `predicted` counts the people who
    belong to such a true person, see `Found.named`, so people who belong to nobody count only in the whole.
    """
    first = np.cumsum([0, *(len(f.found) for f in found)])
    pooled = {name: np.concatenate([np.atleast_1d(getattr(f, name)) for f in found]) for name in Found._fields}
    pooled["owner"] += np.repeat(first[:-1], [len(f.owner) for f in found])
    everybody = Found(**pooled)

    crowding = np.minimum(everybody.crowding, len(CROWDING) - 1)
    groupings = {
        "by_distance": _ranges("metres", DISTANCE_EDGES, everybody.distance),
        "by_height": _ranges("pixels", HEIGHT_EDGES, everybody.height),
        "by_pose": _classes("pose", postures.POSTURES, everybody.posture),
        "by_crowding": _classes("overlapping", CROWDING, crowding),
    }
    return {
        **_measures(everybody, np.full(len(crowding), True), int(np.sum(everybody.predicted))),
        **{
            name: [{**title, **_measures(everybody, some, int(everybody.named[some].sum()))} for title, some in groups]
            for name, groups in groupings.items()
        },
    }


def _ranges(unit, edges, values):
    """Each range's title, and who is in it."""
    for low, high in zip(edges, edges[1:]):
        yield {unit: [low, high if np.isfinite(high) else None]}, (low <= values) & (values < high)


def _classes(what, names, numbers):
    """Each class's title, and who is in it."""
    for number, name in enumerate(names):
        yield {what: name}, numbers == number


def _measures(of: Found, some: np.ndarray, predicted: int) -> dict[str, Any]:
    true, found, twice = int(some.sum()), int(of.found[some].sum()), int(of.twice[some].sum())
    joints = some[of.owner]
    errors = {"along_cm": 100.0 * of.along[joints], "across_cm": 100.0 * of.across[joints]}
    return {
        "true": true,
        "predicted": predicted,
        "found": found,
        "named_twice": twice,
        "precision": found / predicted if predicted else None,
        "recall": found / true if true else None,
        "f1": 2 * found / (true + predicted) if true + predicted else None,
        "mpjpe_cm": _of_known(np.mean, 100 * of.root_error[some]),
        "pa_mpjpe_cm": _of_known(np.mean, 100 * of.aligned_error[some]),
        "widths": {name: _of_known(np.median, w) for name, w in zip(WIDTHS, of.widths[some].T)},
        **{name: {"median": _of_known(np.median, e), "mean": _of_known(np.mean, e)} for name, e in errors.items()},
    }


def boxes(uv: Float[np.ndarray, "M J 2"], known: Bool[np.ndarray, "M J"]) -> Float[np.ndarray, "M 2 2"]:
    """Boxes around the known joints, each a least and a greatest pixel."""
    there = known[..., None] & np.isfinite(uv)
    low = uv.min(axis=1, where=there, initial=np.inf)
    high = uv.max(axis=1, where=there, initial=-np.inf)
    return np.stack([low, high], axis=1)


def heights(uv: Float[np.ndarray, "M J 2"], known: Bool[np.ndarray, "M J"]) -> Float[np.ndarray, "M"]:
    """Pixels from the highest known joint down to the lowest."""
    low, high = np.moveaxis(boxes(uv, known), 1, 0)
    return high[:, 1] - low[:, 1]


def overlaps(uv: Float[np.ndarray, "M J 2"], known: Bool[np.ndarray, "M J"]) -> Int[np.ndarray, "M"]:
    """The number of other boxes that each person's box overlaps by more than `OVERLAP`."""
    around = boxes(uv, known).reshape(-1, 4)
    return ((overlap(around, around) > OVERLAP) & ~np.eye(len(uv), dtype=bool)).sum(axis=1)


def picture_distances(
    predicted_uv: Float[np.ndarray, "N J 2"],
    predicted_known: Bool[np.ndarray, "N J"],
    true_uv: Float[np.ndarray, "M J 2"],
    true_known: Bool[np.ndarray, "M J"],
) -> Float[np.ndarray, "N M"]:
    """Mean distances in pixels over the joints that are known and finite in both; infinite if there are none."""
    distances = np.linalg.norm(predicted_uv[:, None] - true_uv[None], axis=-1)
    both = predicted_known[:, None] & true_known[None] & np.isfinite(distances)
    count = both.sum(axis=-1)
    total = distances.sum(axis=-1, where=both)
    return np.divide(total, count, out=np.full(count.shape, np.inf), where=count > 0)


def named_twice(distances: Float[np.ndarray, "N M"], heights: Float[np.ndarray, "M"]) -> Int[np.ndarray, "M"]:
    """The number of people beyond the first that are named at each true person's place in the picture.

    A predicted person counts only for the nearest true one, and only if it is nearer than `TWICE_WITHIN` times its
    height. Arguments are in pixels, see `picture_distances` and `heights`.
    """
    if not distances.size:
        return np.zeros(len(heights), int)
    nearest = distances.argmin(axis=1)
    near = distances.min(axis=1) < TWICE_WITHIN * heights[nearest]
    return np.maximum(np.bincount(nearest[near], minlength=len(heights)) - 1, 0)


def pose_errors(
    predicted: Float[np.ndarray, "K 14 3"], true: Float[np.ndarray, "K 14 3"], known: Bool[np.ndarray, "K 14"]
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Mean errors in metres of the joints known of both, relative to the mid-hip (MPJPE) and aligned (PA-MPJPE).

    The first are NaN without both hips. The second are NaN for fewer than three joints. They are taken after the
    translation, rotation and scale that minimise the squared errors (Procrustes, without mirroring).
    """
    hips = list(skeleton.PAIRS["hips"])
    relative = [x - x[:, hips].mean(axis=1, keepdims=True) for x in (predicted, true)]
    root = np.where(known[:, hips].all(axis=1), _mean_distance(relative[0], relative[1], known), np.nan)
    count = known.sum(axis=1)
    weights = known[..., None] / np.maximum(count, 1)[:, None, None]
    p, t = (np.where(known[..., None], x - (x * weights).sum(axis=1, keepdims=True), 0.0) for x in (predicted, true))
    u, s, vt = np.linalg.svd(np.swapaxes(p, 1, 2) @ t)
    sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)  # for a rotation, and no mirror
    s[:, 2] *= sign
    u[:, :, 2] *= sign[:, None]
    scale = _ratio(s.sum(axis=1), np.square(p).sum(axis=(1, 2)))
    aligned = _mean_distance(scale[:, None, None] * p @ u @ vt, t, known)
    return root, np.where(count >= _LEAST_ALIGNED, aligned, np.nan)


def widths(joints: Float[np.ndarray, "K 14 3"], known: Bool[np.ndarray, "K 14"]) -> Float[np.ndarray, "K 3"]:
    """Distances between the right and the left joints of `WIDTHS`; NaN unless both are known."""
    pairs = [skeleton.PAIRS[name] for name in WIDTHS]
    both = np.stack([known[:, a] & known[:, b] for a, b in pairs], axis=-1)
    apart = np.stack([np.linalg.norm(joints[:, a] - joints[:, b], axis=-1) for a, b in pairs], axis=-1)
    return np.where(both, apart, np.nan)


def ray_errors(
    predicted: Float[np.ndarray, "K 3"], true: Float[np.ndarray, "K 3"]
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Absolute errors in metres along the ray from the camera through the true points, and across it."""
    error = predicted - true
    ray = true / np.linalg.norm(true, axis=-1, keepdims=True)
    along = (error * ray).sum(axis=-1)
    return np.abs(along), np.linalg.norm(error - along[:, None] * ray, axis=-1)


def _mean_distance(a, b, known):
    return np.linalg.norm(a - b, axis=-1).sum(axis=1, where=known) / np.maximum(known.sum(axis=1), 1)


def _ratio(a, b):
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _of_known(function, values):
    values = values[~np.isnan(values)]
    return float(function(values)) if len(values) else None
