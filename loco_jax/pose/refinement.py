"""Refinement of people, and the joints that count after it: the "+" rows of the paper's table (method section 5)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.models import refiner
from loco_jax.pose.association import People


def refine(params: Any, people: People) -> People:
    """People with filled holes and corrected joints. Heads, scores and empty places do not change."""
    sure = people.scores > refiner.LEAST_SCORE
    better: Any = refiner.Refiner().apply(params, refiner.normalise(people.joints, sure))
    joints = refiner.restore(better, people.joints[..., 0, :])
    return people._replace(joints=jnp.where((people.scores[..., 0] > 0)[..., None, None], joints, people.joints))


def choose(people: People, better: People, least_joints: int) -> People:
    """People with the better poses where they have at least `least_joints` joints, heads included.

    The others keep their poses, because few joints do not determine the rest. The published value is 1.
    """
    enough = people.known.sum(axis=-1, dtype=jnp.int32) >= least_joints
    return people._replace(joints=jnp.where(enough[..., None, None], better.joints, people.joints))


def all_joints(
    points: Float[Array, "J K 3"], scores: Float[Array, "J K"], people: People, least_stray: float = 0.6
) -> tuple[Float[jax.Array, "M 3"], Int[jax.Array, "M"], Bool[jax.Array, "M"]]:
    """Points in metres, their joint types, and whether they count after refinement; M = N * 14 + J * K.

    All known joints of the refined `people` count, and of the associated `points` the strays whose score is above
    `least_stray`.
    """
    num_people, num_joints = people.scores.shape
    types_NxJ = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32), (num_people, num_joints))
    types_JxK = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32)[:, None], scores.shape)
    keep_JxK = people.strays & (scores > least_stray)
    return (
        jnp.concatenate([people.joints.reshape(-1, 3), points.reshape(-1, 3)]),
        jnp.concatenate([types_NxJ.reshape(-1), types_JxK.reshape(-1)]),
        jnp.concatenate([people.known.reshape(-1), keep_JxK.reshape(-1)]),
    )


def match(
    people: People, true: Float[Array, "P 14 3"], present: Bool[Array, "P 14"], most: float = 1.0
) -> tuple[Int[Array, "N"], Bool[Array, "N"]]:
    """For each found person, the index of its true person, and whether it has one.

    It is the nearest of the true people with all joints, by the mean distance over the joints that were found, if that
    is at most `most` metres. Several found people can have the same true person.
    """
    known_NxJ = people.known
    away_NxPxJ = jnp.linalg.norm(people.joints[:, None] - true[None], axis=-1)
    mean_NxP = (
        jnp.sum(away_NxPxJ * known_NxJ[:, None], axis=-1) / jnp.maximum(known_NxJ.sum(-1, dtype=jnp.int32), 1)[:, None]
    )
    mean_NxP = jnp.where(present.all(axis=-1), mean_NxP, jnp.inf)
    return jnp.argmin(mean_NxP, axis=1).astype(jnp.int32), (people.scores[:, 0] > 0) & (
        jnp.min(mean_NxP, axis=1) <= most
    )
