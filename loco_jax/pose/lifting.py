"""From joints relative to the mid-hip, its place in the picture and its distance, to joints in metres."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera, back_project
from loco_jax.pose import reading

HEIGHT = 1.9  # metres that the longer side of an ordinary person's box spans, including its margin


def compose(
    offsets: Float[Array, "N J 3"], root: Float[Array, "N 2"], distance: Float[Array, "N"], camera: Camera
) -> Float[jax.Array, "N J 3"]:
    """Joints in metres in camera coordinates.

    Args:
      offsets: metres from the mid-hip, in axes whose z is the ray to it, see `reading.axes`.
      root: pixels of the mid-hip.
      distance: metres of the mid-hip from the camera.
      camera: of the picture.
    """
    middle = back_project(camera, root, distance)
    return middle[:, None] + reading.from_axes(reading.axes(middle), offsets)


def seen_from(boxes: Float[Array, "*N 4"], camera: Camera) -> Float[jax.Array, "*N 4"]:
    """Boxes independent of the camera: slopes of the ray to the middle, and logarithms of the sides in slopes."""
    focal = jnp.stack([jnp.asarray(f, jnp.float32) for f in (camera.fx, camera.fy)], axis=-1)
    centre = jnp.stack([jnp.asarray(f, jnp.float32) for f in (camera.cx, camera.cy)], axis=-1)
    low, high = (boxes[..., :2] - centre) / focal, (boxes[..., 2:] - centre) / focal
    return jnp.concatenate([(low + high) / 2, jnp.log(jnp.maximum(high - low, 1e-6))], axis=-1)


def ordinary_distance(seen: Float[Array, "*N 4"]) -> Float[jax.Array, "*N"]:
    """The logarithm of the distance in metres of ordinary people whose boxes are `seen_from` the camera."""
    return jnp.log(jnp.float32(HEIGHT)) - seen[..., 2:].max(axis=-1)
