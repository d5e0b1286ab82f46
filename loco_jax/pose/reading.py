"""Poses that the compact predictor reads from the picture, moved to where the code finds people. Not in the paper.

The code's poses are coarse where joints are few voxels apart. At demo scale, poses read from the picture's features
have half their error (docs/experiments.md).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera, project
from loco_jax.pose.association import People

_TRUNK = np.array([skeleton.JOINTS.index("neck"), *skeleton.PAIRS["shoulders"], *skeleton.PAIRS["hips"]], np.int32)
_DOWN = np.array([0, 0.5, 0], np.float32)  # metres, from a head to its trunk


class Pose(NamedTuple):
    """A person's pose as the predictor reads it.

    Attributes:
      offsets: metres from the mid-hip, in axes whose z is the ray to it.
      side: the unit vector from the left to the right side, along x and z of those axes.
      distance: the logarithm of the mid-hip's distance in metres.
    """

    offsets: Float[Array, "*batch 14 3"]
    side: Float[Array, "*batch 2"]
    distance: Float[Array, "*batch"]


def unpack(numbers: Float[Array, "*batch 45"]) -> Pose:
    """The pose in the numbers that `CompactPredictor.read_poses` returns."""
    count = 3 * skeleton.NUM_JOINTS
    offsets = numbers[..., :count].reshape(*numbers.shape[:-1], skeleton.NUM_JOINTS, 3)
    return Pose(offsets, numbers[..., count : count + 2], numbers[..., -1])


def axes(ray: Float[Array, "*batch 3"]) -> Float[jax.Array, "*batch 3 3"]:
    """Rows x, y, z of unit vectors in camera axes: z along the ray, x along rows of pixels."""
    z = unit(ray)
    x = unit(jnp.cross(jnp.float32([0, 1, 0]), z))
    return jnp.stack([x, jnp.cross(z, x), z], axis=-2)


def unit(v: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Vectors scaled to length 1. Those shorter than 1e-6 stay shorter than 1."""
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)


def places(people: People, camera: Camera, image_size: tuple[int, int]) -> Float[jax.Array, "N 2"]:
    """The pixels of a picture of `image_size` at which people's poses are read: the middles of their trunks.

    If no joint of the trunk is known, it is the pixel half a metre below the head. Without a person, it is 0.
    """
    pixels_NxJx2 = project(camera, people.joints)[:, _TRUNK]
    known_NxJx1 = (people.known & (people.joints[..., 2] > 0))[:, _TRUNK, None]
    middle_Nx2 = jnp.sum(pixels_NxJx2, axis=1, where=known_NxJx1) / jnp.maximum(
        known_NxJx1.sum(axis=1, dtype=jnp.int32), 1
    )
    below_Nx2 = project(camera, people.joints[:, 0] + _DOWN)
    place_Nx2 = jnp.where(known_NxJx1.any(axis=1), middle_Nx2, below_Nx2)
    place_Nx2 = jnp.where((people.scores[:, :1] > 0) & jnp.isfinite(place_Nx2), place_Nx2, 0.0)
    height, width = image_size
    return jnp.clip(place_Nx2, 0.0, jnp.float32([width, height]))


def settle(people: People, offsets: Float[Array, "N 14 3"]) -> People:
    """People with the poses that were read for them, moved to where their joints were found.

    A pose moves by the mean difference of the found joints and its own, weighted by their scores. Heads move too.
    Scores do not change, so a joint that was not found gets a position and keeps the score 0.
    """
    scores_NxJx1 = people.scores[..., None]
    total_Nx1 = jnp.maximum(scores_NxJx1.sum(axis=1), 1e-6)
    root_Nx3 = (people.joints * scores_NxJx1).sum(axis=1) / total_Nx1
    for _ in range(3):  # the axes depend on the mid-hip, which each iteration finds more precisely
        pose_NxJx3 = from_axes(axes(root_Nx3), offsets)
        root_Nx3 = ((people.joints - pose_NxJx3) * scores_NxJx1).sum(axis=1) / total_Nx1
    exist_N = people.scores[:, 0] > 0
    return people._replace(joints=jnp.where(exist_N[:, None, None], pose_NxJx3 + root_Nx3[:, None], 0.0))


def to_axes(rows: Float[Array, "*batch 3 3"], vectors: Float[Array, "*batch J 3"]) -> Float[jax.Array, "*batch J 3"]:
    """The vectors' coordinates along the unit vectors in the rows of `rows`."""
    # Elementwise, as a matrix product may run at lower precision on an accelerator.
    return jnp.sum(rows[..., None, :, :] * vectors[..., None, :], axis=-1)


def from_axes(rows: Float[Array, "*batch 3 3"], vectors: Float[Array, "*batch J 3"]) -> Float[jax.Array, "*batch J 3"]:
    """The inverse of `to_axes`."""
    return jnp.sum(vectors[..., None] * rows[..., None, :, :], axis=-2)
