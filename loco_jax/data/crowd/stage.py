"""The parts of a scene that do not change: clothes, light, houses, cars, trees."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from loco_jax.data.crowd import palette
from loco_jax.data.crowd.figures import INDEX, Clothes, sample_clothes
from loco_jax.data.crowd.palette import choose, uniform
from loco_jax.data.crowd.scenes import Scene
from loco_jax.data.crowd.settings import Crowd
from loco_jax.data.crowd.shapes import BUILDING, CABIN, CAR, Boxes, Capsules, concatenate, from_box, to_box

NUM_CARS = 6
_NUM_TREES, _NUM_POLES, _NUM_BINS = 6, 4, 4
_NUM_RING, _NUM_HOUSES = 14, 8  # buildings around everything, and nearer ones


class Light(NamedTuple):
    """Light, air, ground and the camera's sensor."""

    sun: jax.Array  # [3] unit vector to it, world
    sun_strength: jax.Array
    warmth: jax.Array  # [3] colour of the light
    zenith: jax.Array  # [3]
    horizon: jax.Array  # [3]
    haze: jax.Array  # metres until two thirds of a colour are the air's
    exposure: jax.Array
    noise: jax.Array
    road: jax.Array  # [3] direction of the road and how far it passes to the left of the camera
    road_width: jax.Array
    ground: jax.Array  # [2, 3] colours of pavement and asphalt
    tile: jax.Array  # metres a paving stone is wide
    shade: jax.Array  # [3] a line on the ground; one side lies in the shade of objects behind the camera


class Stage(NamedTuple):
    """The look of a scene: all that stays the same from frame to frame."""

    clothes: Clothes  # of the people
    things: Capsules  # trees, poles, bins and wheels, in the world
    boxes: Boxes  # buildings and cars; the last are the bodies of cars, then their cabins
    light: Light


def sample_stage(key: PRNGKeyArray, scene: Scene, crowd: Crowd) -> Stage:
    """The look of a scene, or of a sequence.

    Nothing stands where people are, and houses hide nobody. Only pelvises count for this, and of a long sequence about
    60 instants. In between somebody may brush past a thing or pass behind the corner of a house.
    """
    keys = jax.random.split(key, 5)
    joints_TxPxJx3 = scene.joints.reshape(-1, *scene.joints.shape[-3:])
    every = max(1, joints_TxPxJx3.shape[0] // 60)
    present_TxP = scene.present.reshape(-1, scene.present.shape[-1])[::every]
    pelvis_TxPx3 = joints_TxPxJx3[::every, :, INDEX["spine4"]]
    world_TxPx3 = jnp.sum(pelvis_TxPx3[..., None] * scene.rotation, axis=-2)  # camera to world, without the height
    feet_Nx2 = jnp.where(present_TxP[..., None], world_TxPx3[..., :2], 1e4).reshape(-1, 2)
    light = _sample_light(keys[0])
    cars = _sample_cars(keys[1], crowd, light, feet_Nx2)
    things = _sample_things(keys[2], crowd, feet_Nx2, cars)
    houses = _sample_houses(keys[3], crowd, feet_Nx2)
    return Stage(sample_clothes(keys[4], scene.present.shape[-1]), things, concatenate(houses, cars), light)


def _sample_light(key) -> Light:
    keys = jax.random.split(key, 16)
    azimuth, height = uniform(keys[0], (), 0, 2 * math.pi), uniform(keys[1], (), 0.35, 1.2)
    clear = uniform(keys[2], ())  # 0 overcast, 1 blue
    sun = jnp.stack([jnp.cos(azimuth) * jnp.cos(height), jnp.sin(azimuth) * jnp.cos(height), jnp.sin(height)])
    warm = uniform(keys[3], ()) * (1.2 - height)
    blue, grey = jnp.float32([0.16, 0.33, 0.72]), jnp.float32([0.55, 0.58, 0.62])
    heading = uniform(keys[4], (), 0, math.pi)
    line = uniform(keys[5], (), 0, 2 * math.pi)
    pavement = jnp.float32([0.36, 0.34, 0.31]) * uniform(keys[6], (), 0.6, 1.25)
    tint = 1 + 0.12 * uniform(keys[7], (3,), -1, 1)
    return Light(
        sun=sun,
        sun_strength=1.9 * clear * jnp.sqrt(clear),
        warmth=jnp.float32([1.0, 0.96, 0.9]) - warm * jnp.float32([0.0, 0.12, 0.3]),
        zenith=clear * blue + (1 - clear) * grey * 0.9,
        horizon=jnp.float32([0.72, 0.77, 0.82]) * (0.8 + 0.25 * clear),
        haze=jnp.exp(uniform(keys[8], (), math.log(120.0), math.log(1500.0))),
        exposure=jnp.exp(uniform(keys[9], (), -0.25, 0.3)) / (1 + 0.45 * clear),
        noise=uniform(keys[10], (), 0.004, 0.022),
        road=jnp.stack([jnp.cos(heading), jnp.sin(heading), uniform(keys[11], (), 5.0, 16.0)]),
        road_width=uniform(keys[12], (), 5.5, 9.0),
        ground=jnp.stack([pavement * tint, jnp.float32([0.085, 0.087, 0.092]) * uniform(keys[13], (), 0.7, 1.6)]),
        tile=uniform(keys[14], (), 0.4, 1.1),
        shade=jnp.stack([jnp.cos(line), jnp.sin(line), uniform(keys[15], (), -4.0, 25.0)]),
    )


def _clearance(centre_Nx2, half_Nx2, yaw_N, feet_Mx2):
    """Metres `[N]` from rectangles on the ground to the nearest of the feet; negative inside."""
    dx, dy = (feet_Mx2[None, :, i] - centre_Nx2[:, None, i] for i in range(2))
    along, across = to_box(yaw_N[:, None], dx, dy)
    outside = jnp.stack([jnp.abs(along), jnp.abs(across)], axis=-1) - half_Nx2[:, None]
    return jnp.min(jnp.max(outside, axis=-1), axis=1)


def _in_front(key, crowd, count, near, far):
    """Places `[count, 2]` on the ground, evenly over the camera's field of view and the logarithm of the distance."""
    key_a, key_d = jax.random.split(key)
    reach = 1.15 * math.atan(crowd.volume.image_size[1] / 2 / crowd.camera.fx)
    angle = uniform(key_a, (count,), -reach, reach)
    distance = jnp.exp(uniform(key_d, (count,), math.log(near), math.log(far)))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1) * distance[:, None]


def _sample_cars(key, crowd, light, feet_Mx2) -> Boxes:
    keys = jax.random.split(key, 6)
    n = NUM_CARS
    # Cars are parked on both edges of the road.
    direction, offset = light.road[:2], light.road[2]
    across = jnp.stack([-direction[1], direction[0]])
    across = across * jnp.sign(across[1] + 1e-6)
    along_n = uniform(keys[0], (n,), -1, 1) * 0.6 * crowd.max_distance
    side_n = jnp.where(uniform(keys[1], (n,)) < 0.5, jnp.float32(-0.5), 0.5)
    centre_nx2 = along_n[:, None] * direction + (offset + side_n * (light.road_width - 1.9))[:, None] * across
    yaw_n = jnp.full(n, jnp.arctan2(direction[1], direction[0]))
    size_n = uniform(keys[2], (n,), 0.92, 1.12)
    half_nx2 = jnp.stack([2.15 * size_n, 0.88 * size_n], axis=-1)
    free_n = _clearance(centre_nx2, half_nx2, yaw_n, feet_Mx2) > 0.6
    free_n &= jnp.linalg.norm(centre_nx2, axis=-1) > 6.0
    apart = jnp.abs(along_n[:, None] - along_n[None]) + 10.0 * jnp.abs(side_n[:, None] - side_n[None])
    free_n &= ~jnp.any((apart < 5.2) & np.tri(n, k=-1, dtype=bool), axis=1)
    body = Boxes(
        centre=centre_nx2,
        half=half_nx2,
        low=jnp.full(n, 0.22, jnp.float32),
        high=0.86 * size_n + jnp.where(free_n, jnp.float32(0.0), -10.0),
        yaw=yaw_n,
        colour=choose(keys[3], palette.CARS, n),
        style=jnp.full(n, CAR, jnp.int32),
        seed=uniform(keys[4], (n,)),
    )
    cabin = body._replace(
        centre=centre_nx2 - 0.15 * direction,
        half=half_nx2 * jnp.float32([0.55, 0.86]),
        low=body.high,
        high=jnp.where(free_n, 1.42 * size_n, -10.0),
        style=jnp.full(n, CABIN, jnp.int32),
    )
    return concatenate(body, cabin)


def _sample_houses(key, crowd, feet_Mx2) -> Boxes:
    keys = jax.random.split(key, 8)
    far, n, m = crowd.max_distance, _NUM_RING, _NUM_HOUSES
    # A ring of fronts behind everybody.
    reach = 1.3 * math.atan(crowd.volume.image_size[1] / 2 / crowd.camera.fx)
    angle_n = reach * (2 * (jnp.arange(n, dtype=jnp.float32) + 0.5) / n - 1)
    distance_n = far * uniform(keys[0], (n,), 1.16, 1.35)
    width = 2 * reach * 1.3 * far / n
    centre = jnp.stack([jnp.sin(angle_n), jnp.cos(angle_n)], axis=-1) * distance_n[:, None]
    half = jnp.stack([jnp.full(n, 0.55 * width, jnp.float32), jnp.full(n, 0.08 * far, jnp.float32)], axis=-1)
    ring = _buildings(keys[2:5], centre, half, uniform(keys[1], (n,), 6.0, 22.0) + 0.05 * far, -angle_n)
    # Nearer houses, where they hide nobody.
    k = jax.random.split(keys[7], 5)
    centre, half = _in_front(keys[5], crowd, m, 0.4 * far, 1.1 * far), uniform(keys[6], (m, 2), 0.05, 0.13) * far
    near = _buildings(k[2:], centre, half, uniform(k[0], (m,), 4.0, 14.0), uniform(k[1], (m,), 0, math.pi))
    angles_M, distances_M = jnp.arctan2(feet_Mx2[:, 0], feet_Mx2[:, 1]), jnp.linalg.norm(feet_Mx2, axis=-1)
    radius_m = jnp.linalg.norm(near.half, axis=-1) + 1.0
    distance_m = jnp.linalg.norm(near.centre, axis=-1)
    spread_m = jnp.arcsin(jnp.minimum(radius_m / distance_m, 1.0))
    apart_mxM = jnp.abs(angles_M - jnp.arctan2(near.centre[:, 0], near.centre[:, 1])[:, None])
    hides_mxM = (apart_mxM < spread_m[:, None]) & (distances_M > (distance_m - radius_m)[:, None]) & (distances_M < 5e3)
    free_m = ~hides_mxM.any(axis=1) & (distance_m > radius_m + 3.0)
    return concatenate(ring, near._replace(high=jnp.where(free_m, near.high, -10.0)))


def _buildings(keys, centre, half, high, yaw) -> Boxes:
    n = len(yaw)
    colour = choose(keys[0], palette.WALLS, n) * uniform(keys[1], (n, 1), 0.6, 1.1)
    low, style = jnp.zeros(n, jnp.float32), jnp.full(n, BUILDING, jnp.int32)
    return Boxes(centre, half, low, high, yaw, colour, style, uniform(keys[2], (n,)))


def _sample_things(key, crowd, feet_Mx2, cars: Boxes) -> Capsules:
    """Trees (a trunk and three balls of leaves), poles, bins, and the wheels of the cars."""
    keys = jax.random.split(key, 8)
    n = _NUM_TREES + _NUM_POLES + _NUM_BINS
    place_nx2 = _in_front(keys[0], crowd, n, 6.0, 0.95 * crowd.max_distance)
    free_n = _clearance(place_nx2, jnp.full((n, 2), 0.3, jnp.float32), jnp.zeros(n, jnp.float32), feet_Mx2) > 0.35
    # A tree just before the camera would hide everything.
    far_n = jnp.linalg.norm(place_nx2, axis=-1) > 9.0
    free_n &= (far_n | (jnp.arange(n, dtype=jnp.int32) >= _NUM_TREES)) & (uniform(keys[7], (n,)) < 0.75)
    (trees, poles, bins), free = (jnp.split(x, [_NUM_TREES, _NUM_TREES + _NUM_POLES]) for x in (place_nx2, free_n))

    def upright(place_kx2, low, high):
        low_k, high_k = (jnp.broadcast_to(jnp.asarray(z, jnp.float32), place_kx2.shape[:1]) for z in (low, high))
        return jnp.stack([jnp.concatenate([place_kx2, z[:, None]], axis=-1) for z in (low_k, high_k)], axis=1)

    def capsules(ends, radius, colour, there):
        k = len(ends)
        nobody, plain = jnp.full(k, -1, jnp.int32), jnp.zeros(k, jnp.float32)
        radius, colour = jnp.broadcast_to(jnp.float32(radius), k), jnp.broadcast_to(colour, (k, 3))
        return Capsules(ends, jnp.where(there, radius, 0.0), colour, nobody, plain, jnp.zeros((k, 3), jnp.float32))

    size_t = uniform(keys[1], (_NUM_TREES,), 0.75, 1.3)
    spread_tx3x3 = uniform(keys[2], (_NUM_TREES, 3, 3), -1, 1) * jnp.float32([0.8, 0.8, 0.5])
    leaves = jnp.concatenate([trees, 3.6 * size_t[:, None]], axis=-1)[:, None] + spread_tx3x3 * size_t[:, None, None]
    leaves = jnp.repeat(leaves.reshape(-1, 1, 3), 2, axis=1)
    green = palette.LEAVES * uniform(keys[3], (_NUM_TREES, 1), 0.6, 1.5)
    wheel_at = jnp.float32([[1.35, 0.8], [1.35, -0.8], [-1.35, 0.8], [-1.35, -0.8]])
    yaw, centre, there = cars.yaw[:NUM_CARS], cars.centre[:NUM_CARS], cars.high[:NUM_CARS] > 0
    wheels = centre[:, None] + jnp.stack(from_box(yaw[:, None], wheel_at[:, 0], wheel_at[:, 1]), axis=-1)
    pole_ends = upright(poles, 0.0, uniform(keys[4], (_NUM_POLES,), 2.6, 7.0))
    return concatenate(
        capsules(upright(trees, 0.0, 2.6 * size_t), 0.14 * size_t, palette.TRUNK, free[0]),
        capsules(leaves, jnp.repeat(1.15 * size_t, 3), jnp.repeat(green, 3, axis=0), jnp.repeat(free[0], 3)),
        capsules(pole_ends, 0.07, choose(keys[5], palette.POLES, _NUM_POLES), free[1]),
        capsules(upright(bins, 0.2, 0.75), 0.26, choose(keys[6], palette.BINS, _NUM_BINS), free[2]),
        capsules(upright(wheels.reshape(-1, 2), 0.31, 0.32), 0.31, palette.WHEEL, jnp.repeat(there, 4)),
    )
