"""Association of joints to people: each head gets the nearest joints of the other types (method section 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array

# Metres from the head within which a joint may belong to it, in the order of `skeleton.JOINTS`.
REACH = np.array([0, 0.5, 1, 1.5, 2, 1, 1.5, 2, 2, 2.5, 3, 2, 2.5, 3], np.float32)


class People(NamedTuple):
    """People in the order of the list of heads, best head first.

    Attributes:
      joints: metres in camera coordinates; 0 for holes and in empty places.
      scores: confidences; 0 for holes. `scores[:, 0] > 0` says which people exist.
      strays: whether a point belongs to nobody.
    """

    joints: Float[Array, "*batch N 14 3"]
    scores: Float[Array, "*batch N 14"]
    strays: Bool[Array, "*batch J K"]

    @property
    def known(self) -> Bool[Array, "*batch N 14"]:
        """Whether each joint has a position, found or filled in: one that is not 0, the camera's centre."""
        return (self.joints != 0).any(axis=-1)


@jax.jit
def group(points: Float[Array, "J K 3"], scores: Float[Array, "J K"]) -> People:
    """Associates points in metres, sorted by score within each type. Empty places have the score 0.

    Heads choose in the order of their confidence. A head considers only the nearest joint of a type, and the first of
    equally near ones. If that joint is out of reach or belongs to an earlier head, the head has a hole there. Raises
    ValueError for other shapes.
    """
    if points.shape != (len(REACH), points.shape[1], 3) or scores.shape != points.shape[:2]:
        raise ValueError(
            f"want points [{len(REACH)}, K, 3] and scores [{len(REACH)}, K]; have {points.shape}, {scores.shape}"
        )
    exists_JxK = scores > 0
    heads_N = exists_JxK[0]
    away_JxNxK = jnp.linalg.norm(points[0][None, :, None] - points[:, None], axis=-1)
    away_JxNxK = jnp.where(exists_JxK[:, None], away_JxNxK, jnp.inf)
    nearest_JxN = jnp.argmin(away_JxNxK, axis=2).astype(jnp.int32)
    near_JxN = jnp.min(away_JxNxK, axis=2) < jnp.asarray(REACH)[:, None]
    # Heads choose independently, so a joint belongs to the first head that chooses it.
    order_N = jnp.arange(points.shape[1], dtype=jnp.int32)
    is_head_Jx1 = (jnp.arange(len(REACH), dtype=jnp.int32) == 0)[:, None]
    near_JxN = (near_JxN | is_head_Jx1) & heads_N
    nearest_JxN = jnp.where(is_head_Jx1, order_N, nearest_JxN)  # two heads at one place are two people
    last = len(order_N)
    chosen_JxNxK = near_JxN[..., None] & (nearest_JxN[..., None] == order_N)
    first_JxK = jnp.min(jnp.where(chosen_JxNxK, order_N[:, None], last), axis=1)
    has_JxN = near_JxN & (jnp.take_along_axis(first_JxK, nearest_JxN, axis=1) == order_N)
    joints_JxNx3 = jnp.where(has_JxN[..., None], jnp.take_along_axis(points, nearest_JxN[..., None], axis=1), 0.0)
    scores_JxN = jnp.where(has_JxN, jnp.take_along_axis(scores, nearest_JxN, axis=1), 0.0)
    return People(jnp.swapaxes(joints_JxNx3, 0, 1), scores_JxN.T, exists_JxK & (first_JxK == last))
