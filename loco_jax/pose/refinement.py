"""Corrected people, and which joints count then: the "+" rows of the paper's table (method section 5)."""

from typing import Any

import jax
import jax.numpy as jnp

from loco_jax.models import refiner
from loco_jax.pose.association import People


def refine(params: Any, people: People) -> People:
    """People whose holes are filled and whose joints are corrected; heads and scores stay. Places without a person
    stay 0."""
    sure = people.scores > refiner.LEAST_SCORE
    better = refiner.Refiner().apply(params, refiner.normalise(people.joints, sure))
    joints = refiner.restore(better, people.joints[..., 0, :])
    return people._replace(joints=jnp.where((people.scores[..., 0] > 0)[..., None, None], joints, people.joints))


def choose(people: People, better: People, least_joints: int) -> People:
    """The better ones of the people who have at least `least_joints` joints, their heads among them.

    Others stay as they are: of a few joints nothing can be said of the rest. With `least_joints` 1, as published, all
    people get the better poses.
    """
    enough = people.known.sum(axis=-1, dtype=jnp.int32) >= least_joints
    return people._replace(joints=jnp.where(enough[..., None, None], better.joints, people.joints))


def all_joints(
    points: jax.Array, scores: jax.Array, people: People, least_stray: float = 0.6
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What counts after refinement: all known joints of every person, and of the strays those above `least_stray`.

    Args:
      points: `[J, K, 3]` metres, as they were associated.
      scores: `[J, K]`.
      people: refined.
      least_stray: the confidence above which a point counts that belongs to nobody.

    Returns:
      Points `[M, 3]`, joint types `[M]` and which of them count `[M]`, M = N * 14 + J * K.
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


def match(people: People, true: jax.Array, present: jax.Array, most: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Who of the true people is meant by each found one: `[N]` indices into `true[P, 14, 3]`, and `[N]` whether any.

    That is the nearest of those with all joints `present[P, 14]`, by the mean distance over the joints that were found,
    if it is at most `most` metres. Several names of one person all mean that one.
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
