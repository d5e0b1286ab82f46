"""Each person once: of people who overlap in the picture the best stays, and nobody of too low a score.

A network that is unsure of the distance names a person several times along the ray. Such names lie on each other in the
picture, whatever is between them in space.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from loco_jax.geometry.camera import Camera, project
from loco_jax.pose import metrics
from loco_jax.pose.association import People


class Options(NamedTuple):
    """Who is kept. The defaults are what suits the released weights, see docs/suppression.md.

    Attributes:
      min_score: the least score of a person, from 0 to 1: the mean of its 14 joints' confidences, 0 for holes.
      overlap: how near somebody may come to a better person, in that one's heights in the picture; 0 to keep all.
    """

    min_score: float = 0.2
    overlap: float = 0.1

    def check(self, field: str) -> "Options":
        """Itself. Raises ValueError, naming the field, for numbers that cannot be."""
        if not (0 <= self.min_score <= 1 and 0 <= self.overlap <= 1):
            raise ValueError(f"{field}: want min_score and overlap of 0 to 1; have {self.min_score}, {self.overlap}")
        return self


@jax.jit
def suppress(people: People, camera: Camera, options: Options) -> People:
    """The people who stay; the others do not exist any more: their joints and scores are 0. Places stay.

    The better ones come first, by their scores; of equals, the first in order. Whoever is too near to somebody kept is
    left out: if the mean distance in the picture, over the joints that both know, is below `overlap` times the height
    there of the one kept. That is the diagonal of the box around its joints.
    """
    score_N = people.scores.mean(axis=-1)
    exist_N = people.scores[:, 0] > 0
    pixels_NxJx2 = project(camera, people.joints)
    known_NxJ = people.known & (people.joints[..., 2] > 0)
    both_NxNxJ = known_NxJ[:, None] & known_NxJ[None]
    apart_NxNxJ = jnp.linalg.norm(pixels_NxJx2[:, None] - pixels_NxJx2[None], axis=-1)
    apart_NxN = jnp.where(both_NxNxJ, apart_NxNxJ, 0.0).sum(-1) / jnp.maximum(both_NxNxJ.sum(-1, dtype=jnp.int32), 1)
    least_Nx2 = jnp.where(known_NxJ[..., None], pixels_NxJx2, jnp.inf).min(axis=1)
    most_Nx2 = jnp.where(known_NxJ[..., None], pixels_NxJx2, -jnp.inf).max(axis=1)
    height_N = jnp.linalg.norm(most_Nx2 - least_Nx2, axis=-1)
    near_NxN = both_NxNxJ.any(-1) & (apart_NxN < options.overlap * height_N[:, None])
    order_N = jnp.argsort(-score_N, stable=True)
    rank_N = jnp.argsort(order_N)

    def choose(place, keep_N):
        best = order_N[place]
        return keep_N & ~(keep_N[best] & near_NxN[best] & (rank_N > place))

    keep_N = lax.fori_loop(0, len(order_N), choose, exist_N & (score_N >= options.min_score))
    return people._replace(
        joints=jnp.where(keep_N[:, None, None], people.joints, 0.0),
        scores=jnp.where(keep_N[:, None], people.scores, 0.0),
    )


def best_people_options(
    found: People,
    cameras: Camera,
    true: np.ndarray,
    present: np.ndarray,
    threshold: float,
    min_scores: Sequence[float] = tuple(i / 50 for i in range(36)),
    overlaps: Sequence[float] = (0.1, 0.15, 0.2, 0.25, 0.3),
) -> tuple[Options, float]:
    """The options with which most people are found and fewest are made up, and the F1 of people that they give.

    Args:
      found: of each frame, a leading axis F, before any suppression.
      cameras: `[F]` each.
      true: `[F, P, 14, 3]` joints in metres.
      present: `[F, P, 14]` which of those are there.
      threshold: metres, see `metrics.people_found`.
      min_scores: to be tried.
      overlaps: to be tried; 0 is not among them, so that each person is named once.

    Of options that are equally good the first is taken.
    """
    there = int(np.asarray(present).any(axis=-1).sum())
    suppress_all = jax.jit(jax.vmap(suppress, in_axes=(0, 0, None)))

    def f1(options: Options) -> float:
        kept = jax.device_get(suppress_all(found, cameras, options))
        frames = zip(kept.joints, kept.joints.any(axis=-1), true, present)
        number = sum(metrics.people_found(*frame, threshold) for frame in frames)
        return 2 * number / max(int((kept.scores[..., 0] > 0).sum()) + there, 1)

    scores = {options: f1(options) for options in itertools.starmap(Options, itertools.product(min_scores, overlaps))}
    best = max(scores, key=scores.get)
    return best, scores[best]
