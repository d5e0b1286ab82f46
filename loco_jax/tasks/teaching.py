"""Further losses of the compact predictor's features: joints, poses and the camera's pose.

The loss of codes teaches the places of people, but hardly left from right: at demo scale both shoulders lie in one
Gaussian. These losses teach it directly, and train the trunk. The "+" rows use the poses that it learns to read.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Bool, Float, PRNGKeyArray

from loco_jax import ops
from loco_jax.data.frames import Frames, only_annotated
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.volume import Volume
from loco_jax.pose import location_maps, reading
from loco_jax.tasks import each_joint, sides

_HIPS = skeleton.PAIRS["hips"]
_NECK = skeleton.JOINTS.index("neck")
# `[6, 1]` which of the pairs of `sides` belong to the trunk: shoulders and hips.
_OF_TRUNK = np.array([[skeleton.JOINTS[i].endswith(("shoulder", "hip"))] for i in sides.RIGHT])
_JOINTS, _SIDES = 0.2, 20.0  # weights; sides are hardest to learn, and would count little beside the rest of a pose
_READINGS = 3  # number of readings of each person in a step
_SHIFT = 0.1  # metres, the standard deviation of the places of those readings
# Units of errors. The Huber loss is quadratic below one unit and linear above.
_METRES = 0.3  # of offsets
_LOG_DISTANCE = 0.1  # of a distance's logarithm: a tenth of the distance
_UP = 0.1  # of the components of the world's up, a unit vector: 6 degrees
_LOG_HEIGHT = 0.3  # of the logarithm of the camera's height: a third of it


def true_poses(joints: Float[Array, "*batch 14 3"]) -> reading.Pose:
    """The poses of people with joints in metres. Absent people, whose joints are 0, get some finite numbers."""
    root = jnp.mean(joints[..., _HIPS, :], axis=-2)
    distance = jnp.maximum(jnp.linalg.norm(root, axis=-1), 0.1)
    ray = jnp.where((root == 0).all(axis=-1, keepdims=True), jnp.float32([0, 0, 1]), root)
    offsets = reading.to_axes(reading.axes(ray), joints - root[..., None, :])
    across = jnp.sum(offsets[..., sides.RIGHT, :] - offsets[..., sides.LEFT, :], axis=-2, where=_OF_TRUNK)
    return reading.Pose(offsets, reading.unit(across[..., ::2]), jnp.log(distance))


def places(
    joints: Float[Array, "*batch 14 3"], camera: cameras.Camera, up: Float[Array, "*batch"] | float = 0.5
) -> Float[jax.Array, "*batch 2"]:
    """Pixels of points between mid-hip and neck, at the share `up` of the way from the hips; NaN behind the camera."""
    root = jnp.mean(joints[..., _HIPS, :], axis=-2)
    up = jnp.asarray(up, jnp.float32)[..., None]
    return cameras.project(camera, (1 - up) * root + up * joints[..., _NECK, :])


def losses(
    network: Any, variables: Any, features: Any, frames: Frames, volume: Volume, key: PRNGKeyArray
) -> dict[str, Float[jax.Array, ""]]:
    """A batch's mean cross-entropy of joints, mean error of poses, and error of the camera's pose where it is known."""

    def read(method, *arguments):
        return ops.apply(network, variables, features, *arguments, method=method)

    found = {"joints_error": _JOINTS * _joints_error(read("read_joints"), frames, volume)}
    # Each person is read at several places of its body, so that the readout works at all of them.
    frames = frames._replace(joints=_repeat(frames.joints), present=_repeat(frames.present))
    up_key, shift_key = jax.random.split(key)
    people, true = frames.joints.shape[:2], true_poses(frames.joints)
    camera = frames.camera.expanded()
    place = places(frames.joints, camera, jax.random.uniform(up_key, people, jnp.float32))
    there = _readable(frames, place, volume)
    noise = jax.random.normal(shift_key, (*people, 2), jnp.float32)
    shift = _SHIFT * (camera.fx / jnp.exp(true.distance))[..., None] * noise
    place = lax.stop_gradient(jnp.where(there[..., None], place + shift, 0))
    error = pose_error(reading.unpack(read("read_poses", place)), true)
    found["pose_error"] = jnp.sum(error, where=there) / jnp.maximum(there.sum(dtype=jnp.int32), 1)
    if frames.ground is not None:
        view = read("read_view")
        up = jnp.mean(optax.huber_loss((view[:, :3] - frames.ground[:, :3]) / _UP), axis=-1)
        height = optax.huber_loss((view[:, 3] - jnp.log(frames.ground[:, 3])) / _LOG_HEIGHT)
        found["view_error"] = jnp.mean(up + height)
    return found


def pose_error(found: reading.Pose, true: reading.Pose) -> Float[jax.Array, "*batch"]:
    """Sums of the errors of offsets, of differences between right and left, of the side and of the distance."""

    def huber(error, axes=(-2, -1)):
        return jnp.mean(optax.huber_loss(error), axis=axes)

    def across(pose):
        return pose.offsets[..., sides.RIGHT, :] - pose.offsets[..., sides.LEFT, :]

    return (
        huber((found.offsets - true.offsets) / _METRES)
        + _SIDES * huber((across(found) - across(true)) / _METRES)
        + _SIDES * huber(found.side - true.side, axes=-1)
        + optax.huber_loss((found.distance - true.distance) / _LOG_DISTANCE)
    )


def readable(frames: Frames, volume: Volume) -> Bool[jax.Array, "B P"]:
    """Which people's poses can be read: people with all joints, whose middle is in the picture and near enough."""
    camera = frames.camera.expanded()
    return _readable(frames, places(frames.joints, camera), volume)


def _readable(frames, place_BxPx2, volume):
    height, width = volume.image_size
    inside = ((place_BxPx2 >= 0) & (place_BxPx2 <= jnp.float32([width, height]))).all(axis=-1)
    near = true_poses(frames.joints).distance <= jnp.log(jnp.float32(volume.max_distance))
    return frames.present.all(axis=-1) & inside & near  # NaN compares false


def _joints_error(logits_BxHxWxJ, frames, volume):
    """Cross-entropy a joint with Gaussians at the joints' places in the picture; the maximum where people overlap."""
    camera = frames.camera.expanded(2)
    present_BxPxJ = frames.present & volume.in_view(camera, frames.joints)
    places = cameras.project(camera, frames.joints)
    render = functools.partial(location_maps.render, grid=logits_BxHxWxJ.shape[1:3], stride=volume.stride)
    target = jax.vmap(render)(places, present_BxPxJ)
    entropy = optax.sigmoid_binary_cross_entropy(logits_BxHxWxJ, jnp.moveaxis(lax.stop_gradient(target), 1, -1))
    if frames.origin is not None:
        entropy = jnp.moveaxis(only_annotated(jnp.moveaxis(entropy, -1, 1), frames), 1, -1)
    return each_joint(jnp.sum(entropy), present_BxPxJ)


def _repeat(people_BxP):
    return jnp.repeat(people_BxP, _READINGS, axis=1)
