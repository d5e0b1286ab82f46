"""Scores of people in the protocols of MuPoTS-3D (Mehta et al. 2018) and CMU Panoptic. NumPy, on the host.

`measure` works on one frame, `summarise` on the results of many. People are matched in the picture, as MuPoTS-3D's
script does. All annotated joints of people with a joint in view count. Errors are of four kinds:

- relative: joints relative to the mid-hip.
- bones: relative, after the found person's bones are set to the true lengths, as MuPoTS-3D's script does.
- absolute: joints in camera coordinates.
- absolute_bones: absolute, with the true lengths of bones from the found mid-hip outwards, as the script does here too.

The scripts of MuPoTS-3D take its joint "pelvis" as the root. Our people have none, so the root is the mid-hip of both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from loco_jax.geometry import skeleton

PIXELS = 40.0  # of MuPoTS-3D's files, by which a joint may be off, across and down, to count for a match
PCK_WITHIN = 0.15  # metres
AUC_WITHIN = 0.005 * np.arange(31)  # metres
KINDS = ("relative", "bones", "absolute", "absolute_bones")
_HIPS = list(skeleton.PAIRS["hips"])
_NECK = skeleton.JOINTS.index("neck")
_HEAD = skeleton.JOINTS.index("head_top")  # which does not count for a match
# The start and the end of each bone, from the mid-hip (None) outwards.
_BONES = [
    *((None, end) for end in (_NECK, *_HIPS)),
    *((_NECK, _HEAD) if start == _HEAD else (start, end) for start, end in skeleton.LIMBS if end not in _HIPS),
]


class Errors(NamedTuple):
    """A frame's errors. M is the number of true people.

    Attributes:
      group: the sequence or activity.
      matched: whether somebody was found there.
      joints: in metres, by kind as in `KINDS`; infinite for joints not found, NaN for joints not annotated.
      occluded: whether the true joint is hidden, as far as that is known.
    """

    group: int
    matched: Bool[np.ndarray, "M"]
    joints: Float[np.ndarray, "4 M 14"]
    occluded: Bool[np.ndarray, "M 14"]


def match(
    predicted_uv: Float[np.ndarray, "N 14 2"],
    predicted_known: Bool[np.ndarray, "N 14"],
    true_uv: Float[np.ndarray, "M 14 2"],
    true_known: Bool[np.ndarray, "M 14"],
    pixels: float,
) -> Int[np.ndarray, "M"]:
    """The predicted person that each true one is matched with, or -1.

    True people choose in their order, among those who are left, the one with the most joints that are less than
    `pixels` off, both across and down. The head top does not count.
    """
    with np.errstate(invalid="ignore"):
        near = (np.abs(true_uv[:, None] - predicted_uv[None]) < pixels).all(axis=-1)
    votes = near & true_known[:, None] & predicted_known[None]
    votes[..., _HEAD] = False
    counts = votes.sum(axis=-1)
    chosen = np.full(len(true_uv), -1)
    for person, count in enumerate(counts):
        count = np.where(np.isin(np.arange(len(count)), chosen), 0, count)
        if count.max(initial=0) > 0:
            chosen[person] = count.argmax()
    return chosen


def with_bones(
    predicted: Float[np.ndarray, "K 14 3"], true: Float[np.ndarray, "K 14 3"], known: Bool[np.ndarray, "K 14"]
) -> Float[np.ndarray, "K 14 3"]:
    """The predicted people with the true lengths of bones, from the mid-hip outwards; directions stay.

    A bone keeps its length unless both its ends are known.
    """
    fitted = predicted.copy()
    starts = [(x[:, _HIPS].mean(axis=1), x) for x in (predicted, true, fitted)]
    for start, end in _BONES:
        ours, theirs, base = (middle if start is None else x[:, start] for middle, x in starts)
        bone = predicted[:, end] - ours
        length, wanted = np.linalg.norm(bone, axis=-1), np.linalg.norm(true[:, end] - theirs, axis=-1)
        both = known[:, end] & (known[:, _HIPS].all(axis=1) if start is None else known[:, start]) & (length > 0)
        fitted[:, end] = base + bone * np.divide(wanted, length, out=np.ones_like(length), where=both)[:, None]
    return fitted


def measure(
    predicted: ArrayLike,
    predicted_known: ArrayLike,
    true: ArrayLike,
    present: ArrayLike,
    partner: Int[np.ndarray, "M"],
    occluded: ArrayLike | None = None,
    group: int = 0,
    universal: ArrayLike | None = None,
) -> Errors:
    """A frame's errors, for predicted `[N, 14, 3]` and true `[M, 14, 3]` people and the result of `match`.

    `present[M, 14]` says which true joints are annotated. Unknown joints of a predicted person count as not found. If
    one of its hips is unknown, all its joints do, except for the kind "absolute". True people without both hips have
    errors of that kind only. The kinds "relative" and "bones" refer to `universal[M, 14, 3]` if it is given, as the
    script does.
    """
    predicted, known = np.asarray(predicted, np.float64), np.asarray(predicted_known, bool)
    true, present = np.asarray(true, np.float64), np.asarray(present, bool)
    found = partner >= 0
    same_size = true if universal is None else np.asarray(universal, np.float64)
    p, known, t, u, there = (
        predicted[partner[found]],
        known[partner[found]],
        true[found],
        same_size[found],
        present[found],
    )
    rooted = known[:, _HIPS].all(axis=1, keepdims=True)
    errors = np.full((len(KINDS), len(true), true.shape[1]), np.inf)
    ours, theirs = (x[:, _HIPS].mean(axis=1, keepdims=True) for x in (p, u))
    relative = [x - ours - (u - theirs) for x in (p, with_bones(p, u, known & there))]
    for kind, error in zip(KINDS, (*relative, p - t, with_bones(p, t, known & there) - t)):
        counts = known if kind == "absolute" else known & rooted
        errors[KINDS.index(kind), found] = np.where(counts, np.linalg.norm(error, axis=-1), np.inf)
    hidden = np.zeros_like(present) if occluded is None else np.asarray(occluded, bool)
    with_root = present & present[:, _HIPS].all(axis=1, keepdims=True)
    counted = np.stack([present if kind == "absolute" else with_root for kind in KINDS])
    return Errors(group, found, np.where(counted, errors, np.nan), hidden)


def summarise(errors: Sequence[Errors]) -> dict[str, Any]:
    """Scores of some frames, as JSON: means over the groups that have people, and each group's.

    By kind of error, and by "all" or "matched" true people: 3DPCK at 15 cm and AUC, shares of joints; MPJPE in mm of
    the matched people's joints that are found. "all" has 3DPCK of "hidden" joints too. None stands for nobody.
    """
    numbers = sorted({e.group for e in errors if len(e.matched)})
    by_group = [{"group": number, **_scores([e for e in errors if e.group == number])} for number in numbers]
    return {**_means(by_group), "by_group": by_group}


def _means(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    summed = {"people": sum(g["people"] for g in groups), "matched": sum(g["matched"] for g in groups)}
    first = groups[0] if groups else _scores([])
    means = {
        kind: {name: _mean([g[kind][name] for g in groups if g[kind][name] is not None]) for name in first[kind]}
        for kind in KINDS
    }
    return summed | means


def _scores(errors: Sequence[Errors]) -> dict[str, Any]:
    matched = np.concatenate([e.matched for e in errors] or [np.zeros(0, bool)])
    hidden = np.concatenate([e.occluded for e in errors] or [np.zeros((0, skeleton.NUM_JOINTS), bool)])
    joints = np.concatenate([e.joints for e in errors] or [np.zeros((len(KINDS), 0, skeleton.NUM_JOINTS))], axis=1)
    scores: dict[str, Any] = {"people": len(matched), "matched": int(matched.sum())}
    for kind, away in zip(KINDS, joints):
        there = ~np.isnan(away)
        of_all, of_matched = away[there], away[matched][there[matched]]
        scores[kind] = {
            "pck_all": _mean(of_all < PCK_WITHIN),
            "pck_matched": _mean(of_matched < PCK_WITHIN),
            "pck_hidden": _mean(away[there & hidden] < PCK_WITHIN),
            "auc_all": _mean(of_all[:, None] < AUC_WITHIN),
            "auc_matched": _mean(of_matched[:, None] < AUC_WITHIN),
            "mpjpe_mm": _mean(1000 * of_matched[np.isfinite(of_matched)]),
        }
    return scores


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if np.size(values) else None
