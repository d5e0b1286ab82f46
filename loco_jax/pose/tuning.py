"""A search for the rules of refinement and suppression that suit a network best, on frames with known people."""

import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.pose import metrics, refinement, suppression
from loco_jax.pose.association import People
from loco_jax.pose.people import Points

_MIN_SCORES = tuple(i / 50 for i in range(36))


def best_rules(
    points: Points,
    found: People,
    better: People,
    true: Float[np.ndarray, "F P 14 3"],
    present: Bool[np.ndarray, "F P 14"],
    thresholds: Sequence[float],
    least_joints: Sequence[int] = (1, 3, 5, 7, 9, 11, skeleton.NUM_JOINTS),
    least_strays: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6),
) -> tuple[int, float]:
    """The `least_joints` and `least_stray` with which refinement gains most F1 of joints, averaged over thresholds.

    Rules that lower F1 at any threshold are worse than all rules that do not.

    `points`, their people `found`, and all these people refined, `better`, have a leading axis F. `true` joints that
    are `present` are targets. Thresholds are in metres. The values to try are those of `refinement.choose` and
    `refinement.all_joints`.
    """
    wanted = [metrics.people_rows(*frame) for frame in zip(true, present)]

    def f1(frames):
        scores = [[metrics.joint_scores(*both, metres) for both in zip(frames, wanted)] for metres in thresholds]
        return np.array([metrics.mean_scores(of_all).f1 for of_all in scores])

    plain = f1([metrics.peak_rows(*frame) for frame in zip(points.xyz, points.scores)])

    def gain(rules):
        chosen = refinement.choose(found, better, rules[0])
        count = jax.vmap(functools.partial(refinement.all_joints, least_stray=rules[1]))
        clouds = jax.device_get(count(points.xyz, points.scores, chosen))
        gains = f1([metrics.cloud_rows(*cloud) for cloud in zip(*clouds)]) - plain
        return min(gains.min(), 0.0), gains.mean()

    return max(itertools.product(least_joints, least_strays), key=gain)


def best_people_options(
    found: People,
    cameras: Camera,
    true: Float[np.ndarray, "F P 14 3"],
    present: Bool[np.ndarray, "F P 14"],
    threshold: float,
    min_scores: Sequence[float] = _MIN_SCORES,
    overlaps: Sequence[float] = (0.1, 0.15, 0.2, 0.25, 0.3),
) -> tuple[suppression.Options, float]:
    """The options of suppression that give the highest F1 of people, and that F1. The first of equals is returned.

    `found` people, before any suppression, have a leading axis F, and `cameras` fields `[F]`. `true` joints that are
    `present` are targets. For the threshold see `metrics.people_pairs`. The overlaps to try do not include 0, so that
    each person is named once.
    """
    there = int(np.asarray(present).any(axis=-1).sum())
    suppress_all = jax.jit(jax.vmap(suppression.suppress, in_axes=(0, 0, None)))

    def f1(options: suppression.Options) -> float:
        kept = jax.device_get(suppress_all(found, cameras, options))
        frames = zip(kept.joints, kept.joints.any(axis=-1), true, present)
        number = sum(len(metrics.people_pairs(*frame, threshold)) for frame in frames)
        return 2 * number / max(int((kept.scores[..., 0] > 0).sum()) + there, 1)

    every = itertools.starmap(suppression.Options, itertools.product(min_scores, overlaps))
    scores = {options: f1(options) for options in every}
    best = max(scores, key=scores.__getitem__)
    return best, scores[best]
