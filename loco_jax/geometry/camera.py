"""The pinhole camera: metres to pixels and back.

Axes as in JTA: x right, y down, z forward, in metres from the camera's centre; pixels from the picture's top left
corner.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Camera(NamedTuple):
    """Intrinsics in pixels. Numbers, or arrays that broadcast against the points' leading axes."""

    fx: float | jax.Array
    fy: float | jax.Array
    cx: float | jax.Array
    cy: float | jax.Array

    def scaled(self, factor: float) -> "Camera":
        """The same camera after its picture is resized by `factor`."""
        return Camera(*(factor * f for f in self))


JTA = Camera(fx=1158.0, fy=1158.0, cx=960.0, cy=540.0)


def project(camera: Camera, xyz: jax.Array) -> jax.Array:
    """Pixels `[..., 2]` (u right, v down) of points `xyz[..., 3]` in metres.

    Points at or behind the camera (z <= 0) have no picture: they come back as NaN.
    """
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    in_front = z > 0
    z = jnp.where(in_front, z, 1.0)  # no division by zero, so that gradients stay finite
    u = camera.fx * x / z + camera.cx
    v = camera.fy * y / z + camera.cy
    return jnp.where(in_front[..., None], jnp.stack([u, v], axis=-1), jnp.nan)


def back_project(camera: Camera, uv: jax.Array, distance: jax.Array) -> jax.Array:
    """Points `[..., 3]` in metres at `distance[...]` metres from the camera's centre, seen at pixels `uv[..., 2]`.

    The distance is Euclidean, along the ray, and not z (method section 2).
    """
    x = (uv[..., 0] - camera.cx) / camera.fx
    y = (uv[..., 1] - camera.cy) / camera.fy
    ray = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    return jnp.asarray(distance)[..., None] * ray / jnp.linalg.norm(ray, axis=-1, keepdims=True)
