"""Poses that the compact predictor reads from the picture, put where the code finds people.

The code says who is where, but with joints a few voxels apart its poses are coarse. The features of the picture say how
somebody stands; at demo scale twice as well (docs/experiments.md). Not in the paper.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project
from loco_jax.pose.association import People

_TRUNK = np.int32([skeleton.JOINTS.index("neck"), *skeleton.PAIRS["shoulders"], *skeleton.PAIRS["hips"]])
_DOWN = np.float32([0, 0.5, 0])  # metres, from a head to its trunk


class Pose(NamedTuple):
    """What can be read at a person's place; leading axes `[...]`.

    Attributes:
      offsets: `[..., 14, 3]` metres from the mid-hip, in axes whose z is the ray to it.
      side: `[..., 2]` the direction from the left to the right side, along x and z of those axes, of length 1.
      distance: `[...]` the logarithm of the mid-hip's distance in metres.
    """

    offsets: jax.Array
    side: jax.Array
    distance: jax.Array


def unpack(numbers: jax.Array) -> Pose:
    """What `CompactPredictor.read_poses` gives, `[..., 45]`, by name."""
    count = 3 * skeleton.NUM_JOINTS
    offsets = numbers[..., :count].reshape(*numbers.shape[:-1], skeleton.NUM_JOINTS, 3)
    return Pose(offsets, numbers[..., count : count + 2], numbers[..., -1])


def axes(ray: jax.Array) -> jax.Array:
    """Unit vectors x, y, z, rows of `[..., 3, 3]`, in camera axes: z along `ray[..., 3]`, x along rows of pixels."""
    z = unit(ray)
    x = unit(jnp.cross(jnp.float32([0, 1, 0]), z))
    return jnp.stack([x, jnp.cross(z, x), z], axis=-2)


def unit(v: jax.Array) -> jax.Array:
    """Vectors `[..., 3]` at length 1; shorter ones than a micrometre stay short."""
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)


def places(people: People, camera: Camera, image_size: tuple[int, int]) -> jax.Array:
    """Pixels `[N, 2]` of the middles of people's trunks in a picture of `image_size`: where their poses are read.

    If no joint of the trunk is known, the place is half a metre below the head. Where nobody is, it is 0.
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


def settle(people: People, offsets_Nx14x3: jax.Array) -> People:
    """People with the poses that were read for them, moved to where their joints were found, the heads too.

    A pose is moved by the mean way from its joints to those found, which count by their scores. Scores stay, so a joint
    that was not found has a place but still a score of 0.
    """
    scores_NxJx1 = people.scores[..., None]
    total_Nx1 = jnp.maximum(scores_NxJx1.sum(axis=1), 1e-6)
    root_Nx3 = (people.joints * scores_NxJx1).sum(axis=1) / total_Nx1
    for _ in range(3):  # the axes are those of the mid-hip, which each turn finds better
        pose_NxJx3 = from_axes(axes(root_Nx3), offsets_Nx14x3)
        root_Nx3 = ((people.joints - pose_NxJx3) * scores_NxJx1).sum(axis=1) / total_Nx1
    exist_N = people.scores[:, 0] > 0
    return people._replace(joints=jnp.where(exist_N[:, None, None], pose_NxJx3 + root_Nx3[:, None], 0.0))


def to_axes(rows: jax.Array, vectors: jax.Array) -> jax.Array:
    """Vectors `[..., J, 3]` along the unit vectors in the rows of `rows[..., 3, 3]`."""
    # Elementwise, as a matrix product may run at lower precision on an accelerator.
    return jnp.sum(rows[..., None, :, :] * vectors[..., None, :], axis=-1)


def from_axes(rows: jax.Array, vectors: jax.Array) -> jax.Array:
    """The inverse of `to_axes`."""
    return jnp.sum(vectors[..., None] * rows[..., None, :, :], axis=-2)
