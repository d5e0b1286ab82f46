"""Capsules and boxes: where a ray hits them, and where they are in a picture."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from loco_jax.data.crowd.scenes import Scene
from loco_jax.geometry.camera import Camera

NEAREST = 0.2  # metres in front of the camera; nothing nearer is drawn
BUILDING, CAR, CABIN = range(3)


class Capsules(NamedTuple):
    """Line segments with a thickness."""

    ends: jax.Array  # [N, 2, 3]
    radius: jax.Array  # [N]; 0 or less: not there
    colour: jax.Array  # [N, 3]
    owner: jax.Array  # [N] the person, -1 for a thing
    stripes: jax.Array  # [N] a metre along the axis
    stripe_colour: jax.Array  # [N, 3]


class Boxes(NamedTuple):
    """Boxes that stand upright in the world."""

    centre: jax.Array  # [X, 2] on the ground
    half: jax.Array  # [X, 2] half of length and width
    low: jax.Array  # [X] metres above the ground
    high: jax.Array  # [X]; not above `low`: not there
    yaw: jax.Array  # [X] of the length against the world's x
    colour: jax.Array  # [X, 3]
    style: jax.Array  # [X] BUILDING, CAR (its body) or CABIN
    seed: jax.Array  # [X] 0 to 1


def concatenate(*shapes):
    """Capsules, or boxes, in one."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *shapes)


def rotate(rotation, v):
    """Turns `v[..., 3]`; elementwise, because a matrix product may run at lower precision."""
    return jnp.sum(rotation * v[..., None, :], axis=-1)


def to_box(yaw, x, y):
    """Coordinates along a box's length and width, of `x` and `y` from its centre along the world's axes."""
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    return c * x + s * y, c * y - s * x


def from_box(yaw, x, y):
    """The inverse of `to_box`."""
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    return c * x - s * y, s * x + c * y


# ---- Outlines in the picture


def _pixels(camera: Camera, xyz, least_z: float):
    """Columns and rows `[...]` of points `[..., 3]`, as if none was nearer than `least_z`."""
    z = jnp.maximum(xyz[..., 2], least_z)
    return camera.fx * xyz[..., 0] / z + camera.cx, camera.fy * xyz[..., 1] / z + camera.cy


def capsule_outlines(
    ends_Nx2x3: Float[jax.Array, "N 2 3"], radius_N: Float[jax.Array, " N"], camera: Camera
) -> Float[jax.Array, "N 4"]:
    """Rectangles (top, bottom, left, right) in pixels around capsules; empty for absent capsules."""
    u, v = _pixels(camera, ends_Nx2x3, NEAREST)
    z, radius_Nx1 = jnp.maximum(ends_Nx2x3[..., 2], NEAREST), radius_N[:, None]
    # A ball off the axis looks larger than its radius; near the picture's corners by up to a half.
    reach = 1.6 * max(camera.fx, camera.fy) * radius_Nx1 / jnp.maximum(z - radius_Nx1, 0.5 * z)
    top = jnp.where(radius_N > 0, jnp.min(v - reach, axis=1), 1e9)
    sides = jnp.max(v + reach, axis=1), jnp.min(u - reach, axis=1), jnp.max(u + reach, axis=1)
    return jnp.stack([top, *sides], axis=-1)


def box_outlines(boxes: Boxes, scene: Scene, camera: Camera) -> Float[jax.Array, "X 4"]:
    """As `capsule_outlines`, of boxes. A box that is partly behind the camera may be anywhere in the picture."""
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)], np.float32)
    local = signs[None] * boxes.half[:, None]
    xy = jnp.stack(from_box(boxes.yaw[:, None], local[..., 0], local[..., 1]), axis=-1) + boxes.centre[:, None]
    z = (jnp.broadcast_to((z - scene.height)[:, None, None], (*xy.shape[:2], 1)) for z in (boxes.low, boxes.high))
    corners = rotate(scene.rotation, jnp.concatenate([jnp.concatenate([xy, each], axis=-1) for each in z], axis=1))
    u, v = _pixels(camera, corners, 0.05)
    in_front = corners[..., 2] > 0.05
    behind = (corners[..., 2] < 0.05).any(axis=1)
    there = (boxes.high > boxes.low) & in_front.any(axis=1)
    top, left = (jnp.where(behind, -1e6, pixel.min(axis=1)) for pixel in (v, u))
    bottom, right = (jnp.where(behind, 1e6, pixel.max(axis=1)) for pixel in (v, u))
    return jnp.stack([jnp.where(there, top, 1e9), bottom, left, right], axis=-1)


# ---- Rays


def hit_capsules(
    ray_Qx3: Float[jax.Array, "Q 3"], ends_Kx2x3: Float[jax.Array, "K 2 3"], radius_K: Float[jax.Array, " K"]
) -> Float[jax.Array, "K Q"]:
    """Distances along unit rays from the origin to capsules; infinite where there is no hit."""
    a_Kx3, axis_Kx3 = ends_Kx2x3[:, 0], ends_Kx2x3[:, 1] - ends_Kx2x3[:, 0]

    def dot(x, y):
        return sum(x[i] * y[i] for i in range(3))

    ray = [ray_Qx3[None, :, i] for i in range(3)]
    a, axis = ([m[:, None, i] for i in range(3)] for m in (a_Kx3, axis_Kx3))
    # Measured from the ray's point beside the capsule's middle, numbers are small enough for float32.
    start = dot([a[i] + 0.5 * axis[i] for i in range(3)], ray)
    from_a = [start * ray[i] - a[i] for i in range(3)]
    r2 = jnp.square(radius_K)[:, None]
    axis2, along, beside = dot(axis, axis), dot(axis, ray), dot(axis, from_a)
    turn, away2 = dot(ray, from_a), dot(from_a, from_a)
    qa, qb, qc = axis2 - along * along, axis2 * turn - beside * along, axis2 * away2 - beside * beside - r2 * axis2
    disc = qb * qb - qa * qc
    side = (-qb - jnp.sqrt(jnp.maximum(disc, 0.0))) / jnp.maximum(qa, 1e-9)
    at = beside + side * along
    on_side = (disc >= 0) & (at > 0) & (at < axis2) & (qa > 1e-9)
    best = jnp.where(on_side, side, jnp.inf)
    for end in (0.0, 1.0):
        from_end = [from_a[i] - end * axis[i] for i in range(3)]
        b, c = dot(ray, from_end), dot(from_end, from_end) - r2
        d = b * b - c
        best = jnp.minimum(best, jnp.where(d >= 0, -b - jnp.sqrt(jnp.maximum(d, 0.0)), jnp.inf))
    distance = start + best
    return jnp.where((distance > 0) & (radius_K > 0)[:, None], distance, jnp.inf)


def hit_boxes(ray_Qx3: Float[jax.Array, "Q 3"], height: Float[jax.Array, ""], boxes: Boxes) -> Float[jax.Array, "X Q"]:
    """Distances along rays in world axes from the camera, at this height, to boxes; infinite where there is no hit."""
    x, y, z = (ray_Qx3[None, :, i] for i in range(3))
    yaw, centre = boxes.yaw[:, None], boxes.centre
    rays = *to_box(yaw, x, y), jnp.broadcast_to(z, (len(boxes.low), z.shape[1]))
    starts = *to_box(yaw, -centre[:, :1], -centre[:, 1:]), (height - 0.5 * (boxes.low + boxes.high))[:, None]
    halves = boxes.half[:, :1], boxes.half[:, 1:], 0.5 * (boxes.high - boxes.low)[:, None]
    enter, leave = [], []
    for d, o, h in zip(rays, starts, halves):
        d = jnp.where(jnp.abs(d) < 1e-6, 1e-6, d)
        t0, t1 = (-o - h) / d, (-o + h) / d
        enter.append(jnp.minimum(t0, t1))
        leave.append(jnp.maximum(t0, t1))
    first, last = functools.reduce(jnp.maximum, enter), functools.reduce(jnp.minimum, leave)
    return jnp.where((first < last) & (first > 0.05) & (halves[2] > 0), first, jnp.inf)
