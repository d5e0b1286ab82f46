"""Non-maximum suppression: of people who overlap in the picture it keeps the best, if the score suffices.

A network that is unsure of the distance finds a person several times along the ray. These overlap in the picture,
however far apart they are in space.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from loco_jax.geometry.camera import Camera, project
from loco_jax.pose.association import People


class Options(NamedTuple):
    """Options of `suppress`, see docs/predict.md. The defaults are for weights without options of their own.

    Attributes:
      min_score: the least score of a person, from 0 to 1. It is the mean confidence of 14 joints, 0 for holes.
      overlap: the least mean distance to a better person in the picture, divided by the diagonal of that person's box;
        0 keeps all.
    """

    min_score: float = 0.2
    overlap: float = 0.1

    def check(self, field: str) -> "Options":
        """Returns the options. Raises ValueError, naming the field, for numbers outside 0 to 1."""
        if not (0 <= self.min_score <= 1 and 0 <= self.overlap <= 1):
            raise ValueError(f"{field}: want min_score and overlap of 0 to 1; have {self.min_score}, {self.overlap}")
        return self


@jax.jit
def suppress(people: People, camera: Camera, options: Options) -> People:
    """The people who are kept, in the same places. The joints and scores of the others become 0.

    People are considered by falling score. A person is dropped if its mean distance in the picture to a kept person,
    over the joints known of both, is less than `overlap` times the kept one's height, the diagonal of the box around
    its joints.
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
    rank_N = jnp.argsort(jnp.argsort(-score_N, stable=True))
    covers_NxN = near_NxN & (rank_N[:, None] < rank_N)
    enough_N = exist_N & (score_N >= options.min_score)

    # Each iteration decides at least the best person that is still undecided, so the loop ends at the exact result.
    def choose(state):
        keep_N, _ = state
        return enough_N & ~(keep_N[:, None] & covers_NxN).any(axis=0), keep_N

    keep_N, _ = lax.while_loop(
        lambda state: jnp.any(state[0] != state[1]), choose, (enough_N, jnp.zeros_like(enough_N))
    )
    return people._replace(
        joints=jnp.where(keep_N[:, None, None], people.joints, 0.0),
        scores=jnp.where(keep_N[:, None], people.scores, 0.0),
    )
