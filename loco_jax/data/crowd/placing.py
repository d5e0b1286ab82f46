"""The places of the camera and of the people."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from loco_jax.data.crowd.poses import about_x, about_z
from loco_jax.data.crowd.settings import Crowd

_PERSONAL_SPACE = 0.6  # metres between two bodies
_CHEST_HEIGHT = 0.9  # metres; this point of a person is placed in the picture


class Limits(NamedTuple):
    """Ground distances of people, in metres."""

    nearest: jax.Array  # allowed by the crowd
    farthest: jax.Array
    visible_from: jax.Array  # of these, the nearest and the farthest distance that the picture shows
    visible_to: jax.Array


class View(NamedTuple):
    """The camera's place and direction."""

    rotation: jax.Array  # [3, 3] world to camera
    height: jax.Array  # metres
    pitch: jax.Array  # radians, down positive


def sample_view(key: PRNGKeyArray, crowd: Crowd) -> View:
    """A random camera."""
    height, aim, roll, tilt = jax.random.uniform(key, (4,), jnp.float32)
    low, high = crowd.camera_height
    height = low + (high - low) * height
    near, far = crowd.look_distance
    pitch = jnp.arctan2(height - 1.0, near + (far - near) * aim) + jnp.radians(jnp.float32(6.0)) * (tilt - 0.5)
    roll = jnp.radians(jnp.float32(4.0)) * (roll - 0.5)
    level = jnp.float32([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # camera axes in the world, one a row
    return View(about_z(roll, about_x(-pitch, level).T).T, height, pitch)


def _sample_distance(uniform, low, high, typical: float, longest: float):
    """Ground distances within [low, high], with density r exp(-r / typical).

    The area of the ground grows with r, and a street ends.
    """
    radius = np.linspace(0.0, longest, 1024)
    cumulative = 1 - (1 + radius / typical) * np.exp(-radius / typical)
    r, below = jnp.asarray(radius, jnp.float32), jnp.asarray(cumulative, jnp.float32)
    start, end = jnp.interp(low, r, below), jnp.interp(high, r, below)
    return jnp.clip(jnp.interp(start + (end - start) * uniform, below, r), low, high)


def ground_limits(crowd: Crowd, view: View) -> Limits:
    """The distances that the crowd allows, and those that the camera's picture shows."""
    drop = jnp.maximum(view.height - _CHEST_HEIGHT, 0.0)
    nearest = jnp.sqrt(jnp.maximum(crowd.min_distance**2 - drop**2, 0.01))
    farthest = jnp.sqrt(crowd.max_distance**2 - drop**2)
    picture_height = crowd.volume.image_size[0]
    bottom = view.pitch + 0.9 * math.atan((picture_height - crowd.camera.cy) / crowd.camera.fy)
    top = view.pitch - 0.9 * math.atan(crowd.camera.cy / crowd.camera.fy)
    visible_from = drop / jnp.tan(jnp.clip(bottom, 0.01, 1.5))
    visible_to = jnp.where(top > 0.0, drop / jnp.tan(jnp.maximum(top, 0.001)), farthest)
    low = jnp.clip(visible_from, nearest, farthest)
    return Limits(nearest, farthest, low, jnp.clip(visible_to, low, farthest))


def places(uniform_2xP: Float[jax.Array, "2 P"], crowd: Crowd, view: View, limits: Limits) -> Float[jax.Array, "P 2"]:
    """Ground positions: each in a random column of the picture, and at a random distance."""
    column_P, distance_P = uniform_2xP
    distance_P = _sample_distance(
        distance_P, limits.visible_from, limits.visible_to, crowd.typical_distance, crowd.max_distance
    )
    column_P = 1.06 * column_P - 0.03  # some stand across the picture's edge
    slope_P = (column_P * crowd.volume.image_size[1] - crowd.camera.cx) / crowd.camera.fx
    # The azimuth at which a point at that ground distance, pitched into the camera, has x / z = slope.
    ahead_P = slope_P * jnp.cos(view.pitch)
    shift_P = slope_P * (view.height - _CHEST_HEIGHT) * jnp.sin(view.pitch)
    shift_P = shift_P / (distance_P * jnp.sqrt(1 + ahead_P**2))
    azimuth_P = jnp.arctan(ahead_P) + jnp.arcsin(jnp.clip(shift_P, -0.9, 0.9))
    return distance_P[:, None] * jnp.stack([jnp.sin(azimuth_P), jnp.cos(azimuth_P)], axis=-1)


def keep_apart(
    places_Px2: Float[jax.Array, "P 2"], present_P: Bool[jax.Array, " P"], limits: Limits
) -> Float[jax.Array, "P 2"]:
    """Moves people apart who stand inside each other, and keeps them within the crowd's distances."""
    pairs_PxP = present_P[:, None] & present_P & ~jnp.eye(len(present_P), dtype=bool)

    def push(_, places_Px2):
        x_P, y_P = places_Px2[:, 0], places_Px2[:, 1]
        x_PxP, y_PxP = x_P[:, None] - x_P, y_P[:, None] - y_P
        closeness_PxP = jax.lax.rsqrt(x_PxP**2 + y_PxP**2 + 1e-6)
        # Each of the two moves half of the missing distance.
        step_PxP = jnp.where(pairs_PxP, jnp.maximum(0.5 * (_PERSONAL_SPACE * closeness_PxP - 1.0), 0.0), 0.0)
        x_P, y_P = x_P + jnp.sum(step_PxP * x_PxP, axis=1), y_P + jnp.sum(step_PxP * y_PxP, axis=1)
        radius_P = jnp.sqrt(x_P**2 + y_P**2 + 1e-6)
        return (
            jnp.stack([x_P, y_P], axis=-1) * (jnp.clip(radius_P, limits.nearest, limits.farthest) / radius_P)[:, None]
        )

    return jax.lax.fori_loop(0, 8, push, places_Px2)
