"""Corrected people, and which joints count then: the "+" rows of the paper's table (method section 5)."""

from typing import Any

import jax
import jax.numpy as jnp

from loco_jax.association import People
from loco_jax.models import refiner


def refine(params: Any, people: People) -> jax.Array:
    """Joints `[N, 14, 3]` in metres of people whose holes are filled and whose joints are corrected; heads stay.

    Places without a person stay 0.
    """
    known = people.scores > refiner.LEAST_SCORE
    better = refiner.Refiner().apply(params, refiner.normalise(people.joints, known))
    joints = refiner.restore(better, people.joints[..., 0, :])
    return jnp.where(people.scores[..., :1, None] > 0, joints, 0.0)


def all_joints(
    points: jax.Array, scores: jax.Array, people: People, least_stray: float = 0.6
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What counts after refinement: every joint of every person, and of the strays those above `least_stray`.

    Args:
      points: `[J, K, 3]` metres, as they were associated.
      scores: `[J, K]`.
      people: refined.
      least_stray: the confidence above which a point counts that belongs to nobody.

    Returns:
      Points `[M, 3]`, joint types `[M]` and which of them count `[M]`, M = N * 14 + J * K.
    """
    num_people, num_joints = people.scores.shape
    types_NxJ = jnp.broadcast_to(jnp.arange(num_joints), (num_people, num_joints))
    exist_NxJ = jnp.broadcast_to(people.scores[:, :1] > 0, (num_people, num_joints))
    types_JxK = jnp.broadcast_to(jnp.arange(num_joints)[:, None], scores.shape)
    keep_JxK = people.strays & (scores > least_stray)
    return (
        jnp.concatenate([people.joints.reshape(-1, 3), points.reshape(-1, 3)]),
        jnp.concatenate([types_NxJ.reshape(-1), types_JxK.reshape(-1)]),
        jnp.concatenate([exist_NxJ.reshape(-1), keep_JxK.reshape(-1)]),
    )
