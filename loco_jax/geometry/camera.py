"""The pinhole camera: metres to pixels and back.

Axes are as in JTA: x right, y down, z forward, in metres from the camera's centre. Pixels are measured from the
picture's top left corner.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from loco_jax.geometry.arrays import Array


class Camera(NamedTuple):
    """Intrinsics in pixels: numbers, or arrays that broadcast against the points' leading axes."""

    fx: float | np.floating | Array
    fy: float | np.floating | Array
    cx: float | np.floating | Array
    cy: float | np.floating | Array

    def scaled(self, factor: float | Num[Array, "..."]) -> "Camera":
        """The camera of the picture after resizing by `factor`."""
        return Camera(*(factor * f for f in self))

    def expanded(self, axes: int = 1) -> "Camera":
        """A batch's cameras with fields `[B, 1, ...]`, which broadcast over so many further `axes` of points."""
        return Camera(*(jnp.expand_dims(jnp.asarray(f), tuple(range(-axes, 0))) for f in self))

    def as_batch(self) -> "Camera":
        """A batch of this one camera, in float32."""
        return Camera(*(jnp.asarray(f, jnp.float32)[None] for f in self))


JTA = Camera(fx=1158.0, fy=1158.0, cx=960.0, cy=540.0)


def project(camera: Camera, xyz: Float[Array, "... 3"]) -> Float[jax.Array, "... 2"]:
    """Pixels (u right, v down) of points in metres; NaN for points at or behind the camera (z <= 0)."""
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    in_front = z > 0
    z = jnp.where(in_front, z, 1.0)  # a division by zero would make gradients NaN
    u = camera.fx * x / z + camera.cx
    v = camera.fy * y / z + camera.cy
    return jnp.where(in_front[..., None], jnp.stack([u, v], axis=-1), jnp.nan)


def project_on_host(camera: Camera, xyz: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 2"]:
    """The pixels (float64) of points in metres, NaN for those that are not in front of the camera.

    It is `project` in NumPy, for code that must not use a device or needs more digits.
    """
    in_front = xyz[..., 2:] > 0
    uv = xyz[..., :2] / np.where(in_front, xyz[..., 2:], 1.0)
    uv = uv * np.array([camera.fx, camera.fy], np.float64) + np.array([camera.cx, camera.cy], np.float64)
    return np.where(in_front, uv, np.nan)


def back_project(
    camera: Camera, uv: Num[Array, "... 2"], distance: Num[Array, "..."] | float
) -> Float[jax.Array, "... 3"]:
    """Points in metres at pixels `uv` and at a distance in metres from the camera's centre.

    The distance is measured along the ray; it is not z (method section 2).
    """
    x = (uv[..., 0] - camera.cx) / camera.fx
    y = (uv[..., 1] - camera.cy) / camera.fy
    ray = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    return jnp.asarray(distance)[..., None] * ray / jnp.linalg.norm(ray, axis=-1, keepdims=True)
