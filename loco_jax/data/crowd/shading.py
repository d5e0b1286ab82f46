"""The colours of surfaces and of the sky, in linear light.

Points are `[Q, 3]` in world coordinates unless a name says otherwise; `near` `[Q]` is their distance from the camera.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from loco_jax.data.crowd.shapes import BUILDING, CABIN, CAR, Boxes, Capsules, from_box, to_box
from loco_jax.data.crowd.stage import NUM_CARS, Light

Colours = Float[jax.Array, "Q 3"]
Points = Float[jax.Array, "Q 3"]
Distances = Float[jax.Array, " Q"]


class World(NamedTuple):
    """Everything that a ray can meet."""

    capsules: Capsules  # in camera coordinates
    shadow_ends: jax.Array  # [N, 2, 3] on the ground, camera coordinates
    shadow_radius: jax.Array  # [N]
    boxes: Boxes
    light: Light
    rotation: jax.Array  # [3, 3] world to camera
    height: jax.Array


def _hash(*numbers):
    """Random numbers from 0 to 1 that depend on whole numbers."""
    x = sum(n * k for n, k in zip(numbers, (12.9898, 78.233, 37.719)))
    x = jnp.sin(x) * 43758.547
    return x - jnp.floor(x)


def in_shade(light: Light, point_Qx3: Points) -> Bool[jax.Array, " Q"]:
    """Whether points are in the shade of objects behind the camera."""
    return point_Qx3[:, 0] * light.shade[0] + point_Qx3[:, 1] * light.shade[1] > light.shade[2]


def _lit(light: Light, normal, in_shadow):
    """Light `[Q, 1]` on surfaces with these normals, from the sun and from the sky."""
    facing = jnp.maximum(jnp.sum(normal * light.sun, axis=-1), 0.0)
    sun = jnp.where(in_shadow, 0.0, light.sun_strength * facing)
    return (0.62 + 0.28 * normal[..., 2] + sun)[..., None]


def ground_colour(world: World, point_Qx3: Points, near: Distances, in_shadow: Bool[jax.Array, " Q"]) -> Colours:
    """Pavement, kerb and road."""
    light = world.light
    x, y = point_Qx3[:, 0], point_Qx3[:, 1]
    along = x * light.road[0] + y * light.road[1]
    side = jnp.where(light.road[0] >= 0, jnp.float32(1.0), -1.0)
    across = (-x * light.road[1] + y * light.road[0]) * side - light.road[2]
    # Details finer than a pixel fade out.
    fine = jnp.exp(-near / 14.0)
    grain = _hash(jnp.floor(x * 23), jnp.floor(y * 23)) - 0.5
    patch = _hash(jnp.floor(x / 2.3), jnp.floor(y / 1.7)) - 0.5
    tx, ty = x / light.tile, y / light.tile
    stone = _hash(jnp.floor(tx), jnp.floor(ty)) - 0.5
    away = jnp.minimum(jnp.abs(tx - jnp.round(tx)), jnp.abs(ty - jnp.round(ty))) * light.tile
    joint = (away < 0.012 + 0.0006 * near).astype(jnp.float32)
    relief = 1 + fine * (0.22 * stone + 0.2 * grain) - 0.35 * joint * jnp.exp(-near / 22.0)
    pavement = light.ground[0] * relief[:, None]
    half = 0.5 * light.road_width
    on_road = jnp.abs(across) < half
    kerb = jnp.abs(jnp.abs(across) - half) < 0.12
    dashes = (jnp.abs(across) < 0.08) & (jnp.mod(along, 6.0) < 3.0)
    asphalt = light.ground[1] * (1 + 0.5 * fine * grain + 0.15 * patch)[:, None]
    asphalt = jnp.where(dashes[:, None], 0.6, asphalt)
    ground = jnp.where(on_road[:, None], asphalt, pavement)
    ground = jnp.where(kerb[:, None], 0.42, ground)
    normal = jnp.float32([0.0, 0.0, 1.0])
    # It is dark under the cars.
    cars = jax.tree.map(lambda a: a[-2 * NUM_CARS : -NUM_CARS], world.boxes)
    lx, ly = to_box(cars.yaw[:, None], x - cars.centre[:, :1], y - cars.centre[:, 1:])
    outside = jnp.maximum(jnp.abs(lx) - cars.half[:, :1], jnp.abs(ly) - cars.half[:, 1:])
    dark = jnp.max(jnp.where((cars.high > 0)[:, None], jnp.clip(0.7 - outside / 0.5, 0, 0.8), 0.0), axis=0)
    return ground * _lit(light, normal, in_shadow) * (1 - dark)[:, None]


def box_colour(world: World, box: Int[jax.Array, " Q"], point_Qx3: Points, near: Distances) -> Colours:
    """Houses and cars; `box` has the numbers of boxes, -1 where there is none."""
    some = jax.tree.map(lambda x: x[jnp.maximum(box, 0)], world.boxes)
    lx, ly = to_box(some.yaw, point_Qx3[:, 0] - some.centre[:, 0], point_Qx3[:, 1] - some.centre[:, 1])
    z = point_Qx3[:, 2]
    over_x, over_y = jnp.abs(lx) / some.half[:, 0], jnp.abs(ly) / some.half[:, 1]
    over_z = jnp.abs(z - 0.5 * (some.low + some.high)) / (0.5 * (some.high - some.low))
    on_top = (over_z >= jnp.maximum(over_x, over_y)) & (z > some.low + 0.01)
    on_end = (over_x > over_y) & ~on_top
    side_x, side_y = jnp.where(on_end, jnp.sign(lx), 0.0), jnp.where(on_end, 0.0, jnp.sign(ly))
    sides = (jnp.where(on_top, 0.0, n) for n in from_box(some.yaw, side_x, side_y))
    normal = jnp.stack([*sides, on_top.astype(jnp.float32)], axis=-1)
    across = jnp.where(on_end, ly, lx)
    # Windows in rows, a shop front below.
    wide, tall = 2.0 + 1.4 * some.seed, 3.0 + 0.5 * some.seed
    wx, wz = across / wide, (z - 0.6) / tall
    number = _hash(jnp.floor(wx), jnp.floor(wz), some.seed * 50)
    fx, fz = wx - jnp.floor(wx), wz - jnp.floor(wz)
    window = (jnp.abs(fx - 0.5) < 0.27) & (jnp.abs(fz - 0.42) < 0.28) & (z < some.high - 0.8)
    shop = (z < 2.9) & (jnp.abs(fx - 0.5) < 0.42) & (z > 0.3)
    glass = jnp.float32([0.1, 0.13, 0.17]) * (0.5 + 2.2 * number**3)[:, None]
    stone = 1 + 0.1 * (_hash(jnp.floor(across * 3), jnp.floor(z * 5)) - 0.5) * jnp.exp(-near / 25)
    ledge = jnp.where(jnp.mod(z, tall) < 0.12, jnp.float32(0.8), 1.0)
    wall = some.colour * (stone * ledge)[:, None]
    wall = jnp.where((window | shop)[:, None], glass, wall)
    wall = jnp.where(on_top[:, None], 0.3 * some.colour, wall)
    # Cars: glass around the cabin, a dark sill, lights.
    pane = (some.style == CABIN) & ~on_top & (over_z < 0.75) & (jnp.abs(jnp.abs(across) - 0.25) > 0.06)
    lamp = (some.style == CAR) & on_end & (jnp.abs(over_y - 0.75) < 0.18) & (jnp.abs(z - 0.62) < 0.1)
    paint = some.colour * jnp.where((some.style == CAR) & (z < 0.36) & ~on_top, jnp.float32(0.35), 1.0)[:, None]
    paint = jnp.where(pane[:, None], jnp.float32([0.05, 0.06, 0.07]), paint)
    lights = jnp.where(lx[:, None] > 0, jnp.float32([0.9, 0.9, 0.8]), jnp.float32([0.5, 0.03, 0.03]))
    paint = jnp.where(lamp[:, None], lights, paint)
    colour = jnp.where((some.style == BUILDING)[:, None], wall, paint)
    return colour * _lit(world.light, normal, False)


def capsule_colour(
    world: World, capsule: Int[jax.Array, " Q"], ray_Qx3: Points, near: Distances, in_shade: Bool[jax.Array, " Q"]
) -> Colours:
    """People and things; `capsule` has the numbers of capsules. Rays are in camera coordinates."""
    some = jax.tree.map(lambda x: x[jnp.maximum(capsule, 0)], world.capsules)
    point = ray_Qx3 * near[:, None]
    a, axis = some.ends[:, 0], some.ends[:, 1] - some.ends[:, 0]
    length2 = jnp.maximum(jnp.sum(axis * axis, axis=-1), 1e-9)
    along = jnp.clip(jnp.sum((point - a) * axis, axis=-1) / length2, 0, 1)
    normal = (point - a - along[:, None] * axis) / jnp.maximum(some.radius, 1e-6)[:, None]
    normal, point = (
        jnp.stack([jnp.sum(world.rotation[:, i] * v, axis=-1) for i in range(3)], axis=-1) for v in (normal, point)
    )  # in world axes
    metres = along * jnp.sqrt(length2)
    striped = (some.stripes > 0) & (jnp.mod(metres * some.stripes, 1.0) < 0.5)
    colour = jnp.where(striped[:, None], some.stripe_colour, some.colour)
    # Leaves and cloth have a texture.
    is_leaf = (some.radius > 0.6) & (some.owner < 0)
    leaf = sum(_hash(*(jnp.floor(point[:, i] * fine + fine) for i in range(3))) for fine in (6.0, 13.0, 29.0)) / 3
    folds = 1 + 0.12 * jnp.sin(31 * metres + 9 * normal[:, 0]) * jnp.sin(17 * normal[:, 1] + 11 * metres)
    colour = colour * jnp.where(is_leaf, 0.45 + leaf, jnp.where(some.owner >= 0, folds, 1.0))[:, None]
    return colour * _lit(world.light, normal, in_shade)


def sky_colour(light: Light, world_Qx3: Points) -> Colours:
    """The sky in these directions, with clouds."""
    up = jnp.clip(world_Qx3[:, 2], 0.0, 1.0)
    sky = light.horizon + (1 - jnp.exp(-4.5 * up))[:, None] * (light.zenith - light.horizon)
    x, y = (world_Qx3[:, i] / (up + 0.12) for i in range(2))
    cloud = jnp.sin(1.9 * x + 1.3 * jnp.sin(1.1 * y)) + jnp.sin(2.7 * y + 1.7 * jnp.sin(1.6 * x))
    cloud = cloud + 0.5 * jnp.sin(5 * x - 4 * y)
    return sky + (jnp.clip(0.35 * cloud, 0, 0.7) * (1 - jnp.exp(-6 * up)))[:, None] * (0.95 - sky)
