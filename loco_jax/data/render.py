"""Pictures of the crowd: a square in a town as a surveillance camera sees it, made on the device.

People are some twenty capsules each, in clothes; around them ground, road, buildings, parked cars, trees and poles,
under a sun that casts shadows. Every pixel casts one ray. The picture is cut into tiles, and a tile looks at those
bodies only whose outlines touch it, a few at a time, until there are no more: none is ever left out.

Camera axes as everywhere; world axes as in `crowd`. Bodies live in camera coordinates, boxes in the world's.

    python -m loco_jax.data.render --output=docs/crowd_pictures.jpg     # a sheet of samples
"""

import functools
import math
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image

from loco_jax import cli
from loco_jax.cli import compilation
from loco_jax.data import crowd as crowds
from loco_jax.data.crowd import Crowd, Scene
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JTA_JOINTS, NUM_JTA_JOINTS

_CHUNK = 2  # bodies that a tile looks at together; with more, most tiles look at empty places
_TILES_AT_ONCE = 64  # off the CPU
_NEAREST = 0.2  # metres in front of the camera; what is nearer is not drawn
_NUM_CARS, _NUM_TREES, _NUM_POLES, _NUM_BINS = 6, 6, 4, 4
_NUM_RING, _NUM_HOUSES = 14, 8  # buildings around everything, and nearer ones
_BUILDING, _CAR, _CABIN = range(3)


class Stage(NamedTuple):
    """Everything of a scene's look that does not move.

    Attributes:
      clothes: of the people, see `_Clothes`; arrays `[P, ...]`.
      things: capsules of trees, poles, bins and wheels in the world: ends `[S, 2, 3]`, radii `[S]`, colours `[S, 3]`.
      boxes: buildings and cars in the world, see `_Boxes`; arrays `[X, ...]`.
      light: sun, sky, ground and camera, see `_Light`.
    """

    clothes: "_Clothes"
    things: "_Capsules"
    boxes: "_Boxes"
    light: "_Light"


class Picture(NamedTuple):
    """What the camera sees.

    Attributes:
      image: `[H, W, 3]` uint8.
      depth: `[H, W]` float32 metres along the ray (Euclidean), infinite for the sky.
      person: `[H, W]` int32, whose body is seen there, -1 for none.
      occluded: `[P, 22]` bool, joints hidden by somebody or something else; False for those outside the picture.
      self_occluded: `[P, 22]` bool, joints hidden by the person's own body; False for those outside the picture.
    """

    image: jax.Array
    depth: jax.Array
    person: jax.Array
    occluded: jax.Array
    self_occluded: jax.Array


class _Clothes(NamedTuple):
    build: jax.Array  # [P] how thick, about 1
    colours: jax.Array  # [P, 6, 3] skin, hair, top, bottom, shoes, bag
    stripes: jax.Array  # [P] stripes a metre on the top, 0 for none
    stripe_colour: jax.Array  # [P, 3]
    sleeves: jax.Array  # [P] long sleeves?
    shorts: jax.Array  # [P]
    skirt: jax.Array  # [P] how much wider the thighs are
    bag: jax.Array  # [P]


class _Capsules(NamedTuple):
    ends: jax.Array  # [N, 2, 3]
    radius: jax.Array  # [N]; 0 or less: not there
    colour: jax.Array  # [N, 3]
    owner: jax.Array  # [N] the person, -1 for a thing
    stripes: jax.Array  # [N] a metre along the axis
    stripe_colour: jax.Array  # [N, 3]


class _Boxes(NamedTuple):
    centre: jax.Array  # [X, 2] on the ground
    half: jax.Array  # [X, 2] half of length and width
    low: jax.Array  # [X] metres above the ground
    high: jax.Array  # [X]; not above `low`: not there
    yaw: jax.Array  # [X] of the length against the world's x
    colour: jax.Array  # [X, 3]
    style: jax.Array  # [X] building, car body or cabin
    seed: jax.Array  # [X] 0 to 1


class _Light(NamedTuple):
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
    shade: jax.Array  # [3] a line on the ground; one side lies in the shade of what is behind the camera


# ---------------------------------------------------------------------------------------------------------------------
# The stage


def sample_stage(key: jax.Array, scene: Scene, crowd: Crowd) -> Stage:
    """The look of a scene, or of a sequence.

    Nothing stands where somebody is, and houses hide nobody: as far as pelvises tell, and of a long sequence at 60 or
    so instants of it. In between somebody may brush past a thing or pass behind the corner of a house.
    """
    keys = jax.random.split(key, 5)
    joints_TxPxJx3 = scene.joints.reshape(-1, *scene.joints.shape[-3:])
    every = max(1, joints_TxPxJx3.shape[0] // 60)
    present_TxP = scene.present.reshape(-1, scene.present.shape[-1])[::every]
    pelvis_TxPx3 = joints_TxPxJx3[::every, :, JTA_JOINTS.index("spine4")]
    world_TxPx3 = jnp.sum(pelvis_TxPx3[..., None] * scene.rotation, axis=-2)  # camera to world, without the height
    feet_Nx2 = jnp.where(present_TxP[..., None], world_TxPx3[..., :2], 1e4).reshape(-1, 2)
    light = _sample_light(keys[0])
    cars = _sample_cars(keys[1], crowd, light, feet_Nx2)
    things = _sample_things(keys[2], crowd, feet_Nx2, cars)
    houses = _sample_houses(keys[3], crowd, feet_Nx2)
    boxes = jax.tree.map(lambda *x: jnp.concatenate(x), houses, cars)
    clothes = _sample_clothes(keys[4], scene.present.shape[-1])
    return Stage(clothes, things, boxes, light)


def _uniform(key, shape, low=0.0, high=1.0):
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def _rgb(*colours: str) -> np.ndarray:
    """Colours `[N, 3]` in linear light of "rrggbb" as on a screen."""
    values = np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in colours])
    return (values**2.2).astype(np.float32)


_SKIN = _rgb("f1c9a5", "e0ac69", "c68642", "8d5524", "5c3a1e", "ffdbac")
_HAIR = _rgb("1c1410", "3b2716", "6a4a2a", "a07a45", "8a8a8a", "0e0e10", "7a2e1d")
_TOPS = _rgb(
    "1b1f2a", "2f3e5c", "7a1f24", "e8e6df", "56683b", "b5894a", "3f3f44", "9aa3ad", "1d5c63", "d8b13c", "c44f38",
    "6d4c7d", "f3f3f3", "111111", "2757a5", "84a9c0",
)  # fmt: skip
_BOTTOMS = _rgb("1a2238", "2b3a55", "3c3c40", "111114", "6b5a45", "9b8a6c", "4a5568", "556070", "dcd5c4", "27402f")
_SHOES = _rgb("111111", "e9e9e9", "5a3b22", "2a2a33", "a03030")
_WALLS = _rgb("b7a58c", "c9bda6", "8f6a55", "a8a8a3", "d8cfbf", "7c7f84", "9a4f3a", "c4a878")
_CARS = _rgb("c9ccd1", "16181c", "7f1d1d", "1f3f77", "f1f1f1", "4b4f55", "31543d", "b39b6b")


def _choose(key, table, shape):
    return jnp.asarray(table)[jax.random.randint(key, shape, 0, len(table), jnp.int32)]


def _sample_light(key) -> _Light:
    keys = jax.random.split(key, 16)
    azimuth, height = _uniform(keys[0], (), 0, 2 * math.pi), _uniform(keys[1], (), 0.35, 1.2)
    clear = _uniform(keys[2], ())  # 0 overcast, 1 blue
    sun = jnp.stack([jnp.cos(azimuth) * jnp.cos(height), jnp.sin(azimuth) * jnp.cos(height), jnp.sin(height)])
    warm = _uniform(keys[3], ()) * (1.2 - height)
    blue, grey = jnp.float32([0.16, 0.33, 0.72]), jnp.float32([0.55, 0.58, 0.62])
    heading = _uniform(keys[4], (), 0, math.pi)
    line = _uniform(keys[5], (), 0, 2 * math.pi)
    pavement = jnp.float32([0.36, 0.34, 0.31]) * _uniform(keys[6], (), 0.6, 1.25)
    tint = 1 + 0.12 * _uniform(keys[7], (3,), -1, 1)
    return _Light(
        sun=sun,
        sun_strength=1.9 * clear * jnp.sqrt(clear),
        warmth=jnp.float32([1.0, 0.96, 0.9]) - warm * jnp.float32([0.0, 0.12, 0.3]),
        zenith=clear * blue + (1 - clear) * grey * 0.9,
        horizon=jnp.float32([0.72, 0.77, 0.82]) * (0.8 + 0.25 * clear),
        haze=jnp.exp(_uniform(keys[8], (), math.log(120.0), math.log(1500.0))),
        exposure=jnp.exp(_uniform(keys[9], (), -0.25, 0.3)) / (1 + 0.45 * clear),
        noise=_uniform(keys[10], (), 0.004, 0.022),
        road=jnp.stack([jnp.cos(heading), jnp.sin(heading), _uniform(keys[11], (), 5.0, 16.0)]),
        road_width=_uniform(keys[12], (), 5.5, 9.0),
        ground=jnp.stack([pavement * tint, jnp.float32([0.085, 0.087, 0.092]) * _uniform(keys[13], (), 0.7, 1.6)]),
        tile=_uniform(keys[14], (), 0.4, 1.1),
        shade=jnp.stack([jnp.cos(line), jnp.sin(line), _uniform(keys[15], (), -4.0, 25.0)]),
    )


def _clearance(centre_Nx2, half_Nx2, yaw_N, feet_Mx2):
    """Metres `[N]` from rectangles on the ground to the nearest of the feet; negative inside."""
    c, s = jnp.cos(yaw_N)[:, None], jnp.sin(yaw_N)[:, None]
    dx, dy = (feet_Mx2[None, :, i] - centre_Nx2[:, None, i] for i in range(2))
    outside = jnp.stack([jnp.abs(c * dx + s * dy), jnp.abs(c * dy - s * dx)], axis=-1) - half_Nx2[:, None]
    return jnp.min(jnp.max(outside, axis=-1), axis=1)


def _in_front(key, crowd, count, near, far):
    """Places `[count, 2]` on the ground, evenly over the camera's field of view and the logarithm of the distance."""
    key_a, key_d = jax.random.split(key)
    reach = 1.15 * math.atan(crowd.volume.image_size[1] / 2 / crowd.camera.fx)
    angle = _uniform(key_a, (count,), -reach, reach)
    distance = jnp.exp(_uniform(key_d, (count,), math.log(near), math.log(far)))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1) * distance[:, None]


def _sample_cars(key, crowd, light, feet_Mx2) -> _Boxes:
    keys = jax.random.split(key, 6)
    n = _NUM_CARS
    # Parked on both edges of the road; where that is depends on the road alone.
    direction, offset = light.road[:2], light.road[2]
    across = jnp.stack([-direction[1], direction[0]])
    across = across * jnp.sign(across[1] + 1e-6)
    along_n = _uniform(keys[0], (n,), -1, 1) * 0.6 * crowd.max_distance
    side_n = jnp.where(_uniform(keys[1], (n,)) < 0.5, jnp.float32(-0.5), 0.5)
    centre_nx2 = along_n[:, None] * direction + (offset + side_n * (light.road_width - 1.9))[:, None] * across
    yaw_n = jnp.full(n, jnp.arctan2(direction[1], direction[0]))
    size_n = _uniform(keys[2], (n,), 0.92, 1.12)
    half_nx2 = jnp.stack([2.15 * size_n, 0.88 * size_n], axis=-1)
    free_n = _clearance(centre_nx2, half_nx2, yaw_n, feet_Mx2) > 0.6
    free_n &= jnp.linalg.norm(centre_nx2, axis=-1) > 6.0
    apart = jnp.abs(along_n[:, None] - along_n[None]) + 10.0 * jnp.abs(side_n[:, None] - side_n[None])
    free_n &= ~jnp.any((apart < 5.2) & np.tri(n, k=-1, dtype=bool), axis=1)
    colour_nx3, seed_n = _choose(keys[3], _CARS, (n,)), _uniform(keys[4], (n,))
    gone_n = jnp.where(free_n, jnp.float32(0.0), -10.0)
    body = _Boxes(
        centre_nx2,
        half_nx2,
        jnp.full(n, 0.22, jnp.float32),
        0.86 * size_n + gone_n,
        yaw_n,
        colour_nx3,
        jnp.full(n, _CAR, jnp.int32),
        seed_n,
    )
    cabin = body._replace(
        centre=centre_nx2 - 0.15 * direction,
        half=half_nx2 * jnp.float32([0.55, 0.86]),
        low=body.high,
        high=jnp.where(free_n, 1.42 * size_n, -10.0),
        style=jnp.full(n, _CABIN, jnp.int32),
    )
    return jax.tree.map(lambda *x: jnp.concatenate(x), body, cabin)


def _sample_houses(key, crowd, feet_Mx2) -> _Boxes:
    keys = jax.random.split(key, 8)
    far, n = crowd.max_distance, _NUM_RING
    # A ring of fronts behind everybody.
    reach = 1.3 * math.atan(crowd.volume.image_size[1] / 2 / crowd.camera.fx)
    angle_n = reach * (2 * (jnp.arange(n, dtype=jnp.float32) + 0.5) / n - 1)
    distance_n = far * _uniform(keys[0], (n,), 1.16, 1.35)
    width = 2 * reach * 1.3 * far / n
    ring = _Boxes(
        centre=jnp.stack([jnp.sin(angle_n), jnp.cos(angle_n)], axis=-1) * distance_n[:, None],
        half=jnp.stack([jnp.full(n, 0.55 * width, jnp.float32), jnp.full(n, 0.08 * far, jnp.float32)], axis=-1),
        low=jnp.zeros(n, jnp.float32),
        high=_uniform(keys[1], (n,), 6.0, 22.0) + 0.05 * far,
        yaw=-angle_n,
        colour=_choose(keys[2], _WALLS, (n,)) * _uniform(keys[3], (n, 1), 0.6, 1.1),
        style=jnp.full(n, _BUILDING, jnp.int32),
        seed=_uniform(keys[4], (n,)),
    )
    # Nearer ones, where they stand before nobody.
    m = _NUM_HOUSES
    near = _sample_near_houses(keys[5:], crowd, m)
    angles_M, distances_M = jnp.arctan2(feet_Mx2[:, 0], feet_Mx2[:, 1]), jnp.linalg.norm(feet_Mx2, axis=-1)
    radius_m = jnp.linalg.norm(near.half, axis=-1) + 1.0
    distance_m = jnp.linalg.norm(near.centre, axis=-1)
    spread_m = jnp.arcsin(jnp.minimum(radius_m / distance_m, 1.0))
    apart_mxM = jnp.abs(angles_M - jnp.arctan2(near.centre[:, 0], near.centre[:, 1])[:, None])
    hides_mxM = (apart_mxM < spread_m[:, None]) & (distances_M > (distance_m - radius_m)[:, None]) & (distances_M < 5e3)
    free_m = ~hides_mxM.any(axis=1) & (distance_m > radius_m + 3.0)
    near = near._replace(high=jnp.where(free_m, near.high, -10.0))
    return jax.tree.map(lambda *x: jnp.concatenate(x), ring, near)


def _sample_near_houses(keys, crowd, m) -> _Boxes:
    k = jax.random.split(keys[2], 5)
    far = crowd.max_distance
    centre_mx2 = _in_front(keys[0], crowd, m, 0.4 * far, 1.1 * far)
    half_mx2 = _uniform(keys[1], (m, 2), 0.05, 0.13) * far
    return _Boxes(
        centre_mx2,
        half_mx2,
        jnp.zeros(m, jnp.float32),
        _uniform(k[0], (m,), 4.0, 14.0),
        _uniform(k[1], (m,), 0, math.pi),
        _choose(k[2], _WALLS, (m,)) * _uniform(k[3], (m, 1), 0.6, 1.1),
        jnp.full(m, _BUILDING, jnp.int32),
        _uniform(k[4], (m,)),
    )


def _sample_things(key, crowd, feet_Mx2, cars: _Boxes) -> _Capsules:
    """Trees (a trunk and three balls of leaves), poles, bins, and the wheels of the cars."""
    keys = jax.random.split(key, 8)
    n = _NUM_TREES + _NUM_POLES + _NUM_BINS
    place_nx2 = _in_front(keys[0], crowd, n, 6.0, 0.95 * crowd.max_distance)
    free_n = _clearance(place_nx2, jnp.full((n, 2), 0.3, jnp.float32), jnp.zeros(n, jnp.float32), feet_Mx2) > 0.35
    # A tree just before the camera would hide everything.
    far_n = jnp.linalg.norm(place_nx2, axis=-1) > 9.0
    free_n &= (far_n | (jnp.arange(n, dtype=jnp.int32) >= _NUM_TREES)) & (_uniform(keys[7], (n,)) < 0.75)
    trees, poles, bins = jnp.split(place_nx2, [_NUM_TREES, _NUM_TREES + _NUM_POLES])

    def upright(place_kx2, low, high):
        low_k, high_k = (jnp.broadcast_to(jnp.asarray(z, jnp.float32), place_kx2.shape[:1]) for z in (low, high))
        return jnp.stack([jnp.concatenate([place_kx2, z[:, None]], axis=-1) for z in (low_k, high_k)], axis=1)

    size_t = _uniform(keys[1], (_NUM_TREES,), 0.75, 1.3)
    trunks = upright(trees, 0.0, 2.6 * size_t)
    spread_tx3x3 = _uniform(keys[2], (_NUM_TREES, 3, 3), -1, 1) * jnp.float32([0.8, 0.8, 0.5])
    leaves = jnp.concatenate([trees, 3.6 * size_t[:, None]], axis=-1)[:, None] + spread_tx3x3 * size_t[:, None, None]
    leaves = jnp.repeat(leaves.reshape(-1, 1, 3), 2, axis=1)
    green = _rgb("3f5d2a")[0] * _uniform(keys[3], (_NUM_TREES, 1), 0.6, 1.5)
    wheel_at = jnp.float32([[1.35, 0.8], [1.35, -0.8], [-1.35, 0.8], [-1.35, -0.8]])
    yaw, centre, there = cars.yaw[:_NUM_CARS], cars.centre[:_NUM_CARS], cars.high[:_NUM_CARS] > 0
    c, s = jnp.cos(yaw)[:, None], jnp.sin(yaw)[:, None]
    wheels = centre[:, None] + jnp.stack(
        [c * wheel_at[:, 0] - s * wheel_at[:, 1], s * wheel_at[:, 0] + c * wheel_at[:, 1]], -1
    )
    wheels = upright(wheels.reshape(-1, 2), 0.31, 0.32)
    groups = (
        (trunks, 0.14 * size_t, jnp.broadcast_to(_rgb("5d4a38"), (_NUM_TREES, 3)), free_n[:_NUM_TREES]),
        (leaves, jnp.repeat(1.15 * size_t, 3), jnp.repeat(green, 3, axis=0), jnp.repeat(free_n[:_NUM_TREES], 3)),
        (
            upright(poles, 0.0, _uniform(keys[4], (_NUM_POLES,), 2.6, 7.0)),
            jnp.full(_NUM_POLES, 0.07, jnp.float32),
            _choose(keys[5], _rgb("55585c", "8b8f92", "2c3a33"), (_NUM_POLES,)),
            free_n[_NUM_TREES : _NUM_TREES + _NUM_POLES],
        ),
        (
            upright(bins, 0.2, 0.75),
            jnp.full(_NUM_BINS, 0.26, jnp.float32),
            _choose(keys[6], _rgb("2f4f3a", "4c4f55", "7a3b2a"), (_NUM_BINS,)),
            free_n[_NUM_TREES + _NUM_POLES :],
        ),
        (
            wheels,
            jnp.full(4 * _NUM_CARS, 0.31, jnp.float32),
            jnp.broadcast_to(_rgb("17181a"), (4 * _NUM_CARS, 3)),
            jnp.repeat(there, 4),
        ),
    )
    ends, radius, colour, there = (jnp.concatenate(x) for x in zip(*groups))
    count = len(radius)
    return _Capsules(
        ends,
        jnp.where(there, radius, 0.0),
        colour,
        jnp.full(count, -1, jnp.int32),
        jnp.zeros(count, jnp.float32),
        jnp.zeros((count, 3), jnp.float32),
    )


def _sample_clothes(key, count) -> _Clothes:
    keys = jax.random.split(key, 13)
    colours = [
        _choose(k, table, (count,)) * _uniform(shade, (count, 1), 0.75, 1.25)
        for table, k, shade in zip((_SKIN, _HAIR, _TOPS, _BOTTOMS, _SHOES, _TOPS), keys, jax.random.split(keys[6], 6))
    ]
    u_5xP = _uniform(keys[7], (5, count))
    return _Clothes(
        build=1 + 0.11 * jax.random.truncated_normal(keys[8], -2, 2, (count,), jnp.float32),
        colours=jnp.stack(colours, axis=1),
        stripes=jnp.where(u_5xP[0] < 0.2, _uniform(keys[9], (count,), 4.0, 14.0), 0.0),
        stripe_colour=_choose(keys[10], _TOPS, (count,)),
        sleeves=u_5xP[1] < 0.65,
        shorts=u_5xP[2] < 0.2,
        skirt=jnp.where(u_5xP[3] < 0.15, jnp.float32(0.35), 0.0),
        bag=u_5xP[4] < 0.22,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Bodies

_INDEX = {name: i for i, name in enumerate(JTA_JOINTS)}
PARTS = (
    "head", "hair", "neck", "trunk", "right_side", "left_side", "shoulders", "pelvis",
    "right_upper_arm", "left_upper_arm", "right_forearm", "left_forearm", "right_hand", "left_hand",
    "right_thigh", "left_thigh", "right_shank", "left_shank", "right_foot", "left_foot", "bag", "seat", "seat_leg",
)  # fmt: skip

# How far from its own skin a joint may be, metres for an adult: it counts as hidden only by what is farther in front.
_DEPTH_IN_BODY = np.full(NUM_JTA_JOINTS, 0.17, np.float32)
for _name, _depth in {
    "head_top": 0.13, "head_center": 0.15, "neck": 0.15, "elbow": 0.09, "wrist": 0.08, "knee": 0.12, "ankle": 0.1,
    "clavicle": 0.15, "shoulder": 0.12,
}.items():  # fmt: skip
    for _joint, _i in _INDEX.items():
        if _joint.endswith(_name):
            _DEPTH_IN_BODY[_i] = _depth


def bodies(joints: jax.Array, present: jax.Array, up: jax.Array, height: jax.Array, clothes: _Clothes) -> _Capsules:
    """The capsules of people `joints[P, 22, 3]` in camera coordinates, `[P * len(PARTS)]`, seats included."""

    def joint(name):
        return joints[:, _INDEX[name]]

    def mix(a, b, share):
        return a + share * (b - a)

    def unit(v):
        return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)

    neck, top, centre, pelvis = joint("neck"), joint("head_top"), joint("head_center"), joint("spine4")
    right = unit(joint("right_hip") - joint("left_hip"))
    ahead = unit(jnp.cross(jnp.broadcast_to(up, right.shape), right))
    size = jnp.linalg.norm(neck - pelvis, axis=-1) / 0.5  # against an adult
    s = size[:, None]
    crown = unit(top - neck)
    face = unit(jnp.cross(crown, right))
    c, build = clothes, clothes.build * size
    skin, hair, upper, lower, shoes, bag = (c.colours[:, i] for i in range(6))
    sleeve = jnp.where(c.sleeves[:, None], upper, skin)
    shank = jnp.where((c.shorts | (c.skirt > 0))[:, None], skin, lower)
    parts = {
        "head": (top - 0.1 * s * crown, centre - 0.02 * s * crown, 0.092 * size, skin),
        "hair": (top - (0.1 * crown + 0.02 * face) * s, centre + (0.03 * crown - 0.035 * face) * s, 0.1 * size, hair),
        "neck": (neck, centre, 0.055 * size, skin),
        "trunk": (mix(neck, pelvis, 0.1), pelvis, 0.13 * build, upper),
        "shoulders": (joint("right_shoulder"), joint("left_shoulder"), 0.065 * build, upper),
        "pelvis": (joint("right_hip"), joint("left_hip"), 0.12 * build, lower),
    }
    for side in ("right", "left"):
        shoulder, elbow, wrist = (joint(f"{side}_{name}") for name in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (joint(f"{side}_{name}") for name in ("hip", "knee", "ankle"))
        below = 0.159 * jnp.linalg.norm(knee - ankle, axis=-1)  # from the ankle to the sole
        sole = ankle - (jnp.maximum(below - 0.045 * size, 0.0))[:, None] * up
        parts |= {
            f"{side}_side": (mix(neck, shoulder, 0.65) - 0.07 * s * crown, mix(pelvis, hip, 0.8), 0.1 * build, upper),
            f"{side}_upper_arm": (shoulder, elbow, 0.052 * build, sleeve * 0.98),
            f"{side}_forearm": (elbow, wrist, 0.042 * build, sleeve * 0.96),
            f"{side}_hand": (wrist, wrist + 0.1 * s * unit(wrist - elbow), 0.04 * size, skin),
            f"{side}_thigh": (hip, knee, (0.085 + 0.05 * c.skirt) * build * (1 + c.skirt), lower),
            f"{side}_shank": (knee, ankle, 0.06 * build, shank),
            f"{side}_foot": (sole - 0.03 * s * ahead, sole + 0.15 * s * ahead, 0.045 * size, shoes),
        }
    back = -0.16 * s * ahead * build[:, None]
    parts["bag"] = (
        mix(neck, pelvis, 0.2) + back,
        mix(neck, pelvis, 0.7) + back,
        jnp.where(c.bag, 0.14 * size, 0.0),
        bag,
    )
    above_ground = jnp.sum(pelvis * up, axis=-1) + height
    sits = above_ground < 0.75 * (
        jnp.linalg.norm(joint("right_hip") - joint("right_knee"), axis=-1)
        + jnp.linalg.norm(joint("right_knee") - joint("right_ankle"), axis=-1)
    )
    seat = pelvis - 0.2 * s * up - 0.05 * s * ahead
    wood = jnp.broadcast_to(_rgb("6b5136"), skin.shape)
    at_ground = seat - (jnp.sum(seat * up, axis=-1) + height)[:, None] * up
    parts["seat"] = (seat - 0.45 * s * right, seat + 0.45 * s * right, jnp.where(sits, 0.09 * size, 0.0), wood)
    parts["seat_leg"] = (seat, at_ground, jnp.where(sits, 0.06 * size, 0.0), 0.6 * wood)

    ends = jnp.stack([jnp.stack(parts[name][:2], axis=1) for name in PARTS], axis=1)
    radius = jnp.stack([parts[name][2] for name in PARTS], axis=1)
    colour = jnp.stack([parts[name][3] for name in PARTS], axis=1)
    is_top = np.array([name in ("trunk", "right_side", "left_side") for name in PARTS])
    is_seat = np.array([name.startswith("seat") for name in PARTS])
    owner = jnp.where(is_seat, -1, jnp.arange(len(joints), dtype=jnp.int32)[:, None])
    n = radius.size
    return _Capsules(
        ends.reshape(n, 2, 3),
        jnp.where(present[:, None], radius, 0.0).reshape(n),
        colour.reshape(n, 3),
        owner.reshape(n),
        (is_top * c.stripes[:, None]).reshape(n),
        jnp.broadcast_to(c.stripe_colour[:, None], colour.shape).reshape(n, 3),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rays


def take_picture(key: jax.Array, scene: Scene, crowd: Crowd) -> Picture:
    """A picture of one instant, stage and all."""
    key_stage, key_noise = jax.random.split(key)
    return render(sample_stage(key_stage, scene, crowd), scene, crowd, key_noise)


def render(stage: Stage, scene: Scene, crowd: Crowd, key: jax.Array, tiles_at_once: int | None = None) -> Picture:
    """A picture of one instant on a stage; the key is the sensor's noise.

    Of its tiles, `tiles_at_once` are worked on side by side: by default one on a CPU, whose caches that suits, and
    many elsewhere.
    """
    if tiles_at_once is None:
        tiles_at_once = 1 if jax.default_backend() == "cpu" else _TILES_AT_ONCE
    camera, (height, width) = crowd.camera, crowd.volume.image_size
    up = scene.rotation[:, 2]
    people = bodies(scene.joints, scene.present, up, scene.height, stage.clothes)
    offset = jnp.stack([0.0, 0.0, scene.height])
    things = stage.things._replace(ends=_rotate(scene.rotation, stage.things.ends - offset))
    capsules = jax.tree.map(lambda *x: jnp.concatenate(x), people, things)
    # No thinner than most of a pixel, or the far ones would come and go.
    away_N = jnp.linalg.norm(capsules.ends.mean(axis=1), axis=-1)
    radius_N = jnp.where(capsules.radius > 0, jnp.maximum(capsules.radius, 0.45 * away_N / camera.fx), 0.0)
    radius_N = jnp.where((capsules.ends[..., 2] > _NEAREST + radius_N[:, None]).all(axis=1), radius_N, 0.0)
    capsules = jax.lax.optimization_barrier(capsules._replace(radius=radius_N))
    shadows = _shadows(capsules, scene, stage.light)

    tile = (30, 32) if width <= 640 else (60, 64)
    rows, columns = -(-height // tile[0]), -(-width // tile[1])
    corners = (jnp.arange(n, dtype=jnp.int32) * side for n, side in zip((rows, columns), tile))
    corner_Tx2 = jnp.stack(jnp.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 2)
    lists = jax.lax.optimization_barrier(
        (
            _touching(_outline(capsules.ends, capsules.radius, camera), corner_Tx2, tile),
            _touching(_outline(shadows[0], shadows[1], camera), corner_Tx2, tile),
            _touching(_box_outline(stage.boxes, scene, camera), corner_Tx2, tile),
        )
    )
    view = _View(capsules, shadows[0], shadows[1], stage.boxes, stage.light, scene.rotation, scene.height)
    see = functools.partial(_see_tile, view=view, camera=camera, tile=tile)
    batch_size = tiles_at_once if tiles_at_once > 1 else None
    colour, depth, person = jax.lax.map(see, (corner_Tx2, lists), batch_size=batch_size)

    def whole(x):
        x = x.reshape(rows, columns, *tile, *x.shape[3:])
        return jnp.moveaxis(x, 2, 1).reshape(rows * tile[0], columns * tile[1], *x.shape[4:])[:height, :width]

    colour, depth, person = whole(colour), whole(depth), whole(person)
    noise = stage.light.noise * jax.random.normal(key, (height, width, 1), jnp.float32)
    # The grain of a sensor shows most in the dark, and in all colours about alike.
    picture = jnp.clip(colour + noise * (1.3 - colour), 0.0, 1.0)
    image = jnp.round(255 * picture).astype(jnp.uint8)
    return Picture(image, depth, person, *_flags(scene, camera, depth, person))


class _View(NamedTuple):
    capsules: _Capsules
    shadow_ends: jax.Array  # [N, 2, 3] on the ground, camera coordinates
    shadow_radius: jax.Array  # [N]
    boxes: _Boxes
    light: _Light
    rotation: jax.Array
    height: jax.Array


def _rotate(rotation, v):
    """`v[..., 3]` turned; elementwise, as a matrix product may be done at lower precision."""
    return jnp.sum(rotation * v[..., None, :], axis=-1)


def _shadows(capsules: _Capsules, scene: Scene, light: _Light):
    """The capsules' shadows on the ground: ends `[N, 2, 3]` in camera coordinates, and radii `[N]`."""
    up, sun = scene.rotation[:, 2], _rotate(scene.rotation, light.sun)
    above = jnp.sum(capsules.ends * up, axis=-1) + scene.height
    ends = capsules.ends - (above / light.sun[2])[..., None] * sun
    in_front = (ends[..., 2] > 1.0).all(axis=1)
    return ends, jnp.where(in_front, capsules.radius, 0.0)


def _outline(ends_Nx2x3, radius_N, camera: Camera):
    """Rectangles `[N, 4]` (top, bottom, left, right) in pixels around capsules; empty ones for those not there."""
    z = jnp.maximum(ends_Nx2x3[..., 2], _NEAREST)
    u, v = (f * ends_Nx2x3[..., i] / z + c for i, f, c in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy)))
    # A ball off the axis looks larger than its radius; near the picture's corners by up to a half.
    reach = 1.6 * max(camera.fx, camera.fy) * radius_N[:, None] / jnp.maximum(z - radius_N[:, None], 0.5 * z)
    there = radius_N > 0
    low_v, high_v = jnp.min(v - reach, axis=1), jnp.max(v + reach, axis=1)
    low_u, high_u = jnp.min(u - reach, axis=1), jnp.max(u + reach, axis=1)
    return jnp.stack([jnp.where(there, low_v, 1e9), high_v, low_u, high_u], axis=-1)


def _box_outline(boxes: _Boxes, scene: Scene, camera: Camera):
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)], np.float32)
    local = signs[None] * boxes.half[:, None]
    c, s = jnp.cos(boxes.yaw)[:, None], jnp.sin(boxes.yaw)[:, None]
    xy = jnp.stack([c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]], axis=-1)
    xy = xy + boxes.centre[:, None]
    corners = jnp.concatenate(
        [
            jnp.concatenate([xy, jnp.broadcast_to((z - scene.height)[:, None, None], (*xy.shape[:2], 1))], axis=-1)
            for z in (boxes.low, boxes.high)
        ],
        axis=1,
    )
    corners = _rotate(scene.rotation, corners)
    z = corners[..., 2]
    u, v = (
        f * corners[..., i] / jnp.maximum(z, 0.05) + c
        for i, f, c in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy))
    )
    behind = (z < 0.05).any(axis=1)  # partly: anywhere in the picture
    there = (boxes.high > boxes.low) & (z > 0.05).any(axis=1)
    low = jnp.where(behind[:, None], -1e6, jnp.stack([v.min(axis=1), u.min(axis=1)], axis=-1))
    high = jnp.where(behind[:, None], 1e6, jnp.stack([v.max(axis=1), u.max(axis=1)], axis=-1))
    return jnp.stack([jnp.where(there, low[:, 0], 1e9), high[:, 0], low[:, 1], high[:, 1]], axis=-1)


def _touching(outline_Nx4, corner_Tx2, tile):
    """For each tile, the numbers of the outlines that touch it, `[T, N + chunk]` and how many they are `[T]`."""
    top, bottom, left, right = jnp.moveaxis(outline_Nx4, -1, 0)
    row, column = corner_Tx2[:, :1], corner_Tx2[:, 1:]
    touch_TxN = (top <= row + tile[0]) & (bottom >= row) & (left <= column + tile[1]) & (right >= column)
    place_TxN = jnp.cumsum(touch_TxN, axis=1, dtype=jnp.int32) - 1
    count = outline_Nx4.shape[0]
    place_TxN = jnp.where(touch_TxN, place_TxN, count + _CHUNK)
    numbers = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), place_TxN.shape)
    empty = jnp.full((corner_Tx2.shape[0], count + _CHUNK), -1, jnp.int32)
    tiles = jnp.arange(corner_Tx2.shape[0], dtype=jnp.int32)
    listed = empty.at[tiles[:, None], place_TxN].set(numbers, mode="drop", unique_indices=True)
    return listed, jnp.sum(touch_TxN, axis=1, dtype=jnp.int32)


def _over(listed, step, start):
    """Folds `step(state, numbers[chunk], there[chunk])` over a tile's list, a chunk at a time."""
    numbers_N, count = listed

    def more(state):
        return state[0] < count

    def body(state):
        i, inner = state
        numbers = jax.lax.dynamic_slice(numbers_N, (i,), (_CHUNK,))
        return i + _CHUNK, step(inner, jnp.maximum(numbers, 0), numbers >= 0)

    return jax.lax.while_loop(more, body, (jnp.int32(0), start))[1]


def _hit_capsules(ray_Qx3, ends_Kx2x3, radius_K):
    """Distances `[K, Q]` along unit rays from the origin to capsules; infinite where there is no hit."""
    a_Kx3, axis_Kx3 = ends_Kx2x3[:, 0], ends_Kx2x3[:, 1] - ends_Kx2x3[:, 0]

    def dot(x, y):
        return sum(x[i] * y[i] for i in range(3))

    ray, a, axis = (
        [m[..., i][s] for i in range(3)]
        for m, s in ((ray_Qx3, np.s_[None]), (a_Kx3, np.s_[:, None]), (axis_Kx3, np.s_[:, None]))
    )
    # From the ray's point beside the capsule's middle: small numbers, of which float32 has digits enough.
    start = dot([a[i] + 0.5 * axis[i] for i in range(3)], ray)
    from_a = [start * ray[i] - a[i] for i in range(3)]
    r2 = jnp.square(radius_K)[:, None]
    axis2, along, beside, turn, away2 = (
        dot(axis, axis),
        dot(axis, ray),
        dot(axis, from_a),
        dot(ray, from_a),
        dot(from_a, from_a),
    )
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


def _hit_boxes(ray_Qx3, height, boxes: _Boxes):
    """Distances `[K, Q]` from the camera along world rays to boxes, and which face: 0, 1 of the sides, 2 the top."""
    c, s = jnp.cos(boxes.yaw)[:, None], jnp.sin(boxes.yaw)[:, None]
    x, y, z = (ray_Qx3[None, :, i] for i in range(3))
    rays = [c * x + s * y, c * y - s * x, jnp.broadcast_to(z, (len(boxes.low), z.shape[1]))]
    cx, cy = -boxes.centre[:, :1], -boxes.centre[:, 1:]
    starts = [c * cx + s * cy, c * cy - s * cx, (height - 0.5 * (boxes.low + boxes.high))[:, None]]
    halves = [boxes.half[:, :1], boxes.half[:, 1:], 0.5 * (boxes.high - boxes.low)[:, None]]
    enter, leave = [], []
    for d, o, h in zip(rays, starts, halves):
        d = jnp.where(jnp.abs(d) < 1e-6, 1e-6, d)
        t0, t1 = (-o - h) / d, (-o + h) / d
        enter.append(jnp.minimum(t0, t1))
        leave.append(jnp.maximum(t0, t1))
    first, last = functools.reduce(jnp.maximum, enter), functools.reduce(jnp.minimum, leave)
    hit = (first < last) & (first > 0.05) & (halves[2] > 0)
    face = jnp.where(enter[2] >= first, 2, jnp.where(enter[1] >= first, 1, 0))
    return jnp.where(hit, first, jnp.inf), face


def _see_tile(args, view: _View, camera: Camera, tile):
    """Colours `[h, w, 3]` 0 to 1 as on a screen, distances and persons of a tile."""
    corner, (near_capsules, near_shadows, near_boxes) = args
    rows, columns = ((corner[i] + jnp.arange(tile[i], dtype=jnp.int32)).astype(jnp.float32) for i in range(2))
    v, u = jnp.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
    ray_Qx3 = jnp.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, jnp.ones_like(u)], -1).reshape(-1, 3)
    ray_Qx3 = ray_Qx3 / jnp.linalg.norm(ray_Qx3, axis=-1, keepdims=True)
    world_Qx3 = jnp.stack([jnp.sum(view.rotation[:, i] * ray_Qx3, axis=-1) for i in range(3)], axis=-1)
    ray_Qx3, world_Qx3 = jax.lax.optimization_barrier((ray_Qx3, world_Qx3))
    q = ray_Qx3.shape[0]
    nothing = jnp.full(q, jnp.inf, jnp.float32), jnp.full(q, -1, jnp.int32)

    def nearer(state, distance_KxQ, numbers_K):
        best, which = state
        first = jnp.argmin(distance_KxQ, axis=0).astype(jnp.int32)
        distance = jnp.min(distance_KxQ, axis=0)
        return jnp.minimum(best, distance), jnp.where(distance < best, numbers_K[first], which)

    def look_at_capsules(state, numbers, there):
        distance = _hit_capsules(
            ray_Qx3, view.capsules.ends[numbers], jnp.where(there, view.capsules.radius[numbers], 0.0)
        )
        return nearer(state, distance, numbers)

    def look_at_boxes(state, numbers, there):
        some = jax.tree.map(lambda x: x[numbers], view.boxes)
        distance, _ = _hit_boxes(world_Qx3, view.height, some)
        return nearer(state, jnp.where(there[:, None], distance, jnp.inf), numbers)

    capsule_distance, capsule = _over(near_capsules, look_at_capsules, nothing)
    box_distance, box = _over(near_boxes, look_at_boxes, nothing)
    down = world_Qx3[:, 2]
    ground_distance = jnp.where(down < -1e-4, -view.height / jnp.minimum(down, -1e-4), jnp.inf)

    def look_at_shadows(state, numbers, there):
        ends, radius = view.shadow_ends[numbers], jnp.where(there, view.shadow_radius[numbers], -1.0)
        point_Qx3 = jnp.where(jnp.isfinite(ground_distance), ground_distance, 0.0)[:, None] * ray_Qx3
        axis_Kx3 = ends[:, 1] - ends[:, 0]
        from_a = [point_Qx3[None, :, i] - ends[:, :1, i] for i in range(3)]
        along = sum(from_a[i] * axis_Kx3[:, None, i] for i in range(3))
        along = jnp.clip(along / jnp.maximum(jnp.sum(axis_Kx3**2, axis=-1), 1e-9)[:, None], 0, 1)
        away2 = sum(jnp.square(from_a[i] - along * axis_Kx3[:, None, i]) for i in range(3))
        return state | jnp.any(away2 < (jnp.sign(radius) * radius**2)[:, None], axis=0)

    in_shadow = _over(near_shadows, look_at_shadows, jnp.zeros(q, bool))

    distance = jnp.minimum(jnp.minimum(capsule_distance, box_distance), ground_distance)
    distance, capsule, box, in_shadow = jax.lax.optimization_barrier((distance, capsule, box, in_shadow))
    is_capsule = (capsule >= 0) & (capsule_distance <= distance)
    is_box = (box >= 0) & (box_distance <= distance) & ~is_capsule
    near = jnp.where(jnp.isfinite(distance), distance, 0.0)
    point_Qx3 = world_Qx3 * near[:, None] + jnp.stack([0.0, 0.0, view.height])
    shade = _in_shade(view.light, point_Qx3)
    is_sky = ~jnp.isfinite(distance)
    # Most tiles show one or two of the four, and what a tile does not show costs it nothing.
    colour = jnp.zeros_like(ray_Qx3)
    for here, colours in (
        (~(is_capsule | is_box | is_sky), lambda: _ground_colour(view, point_Qx3, near, in_shadow | shade)),
        (is_box, lambda: _box_colour(view, box, world_Qx3, point_Qx3, near)),
        (is_capsule, lambda: _capsule_colour(view, capsule, ray_Qx3, near, shade)),
    ):
        colour = _paint(colour, here, colours)
    air = view.light.horizon * 0.9
    colour = air + jnp.exp(-near / view.light.haze)[:, None] * (colour - air)
    colour = _paint(colour, is_sky, lambda: _sky_colour(view.light, world_Qx3))
    colour = 1 - jnp.exp(-1.35 * view.light.exposure * colour * view.light.warmth)  # film does not clip
    colour = jnp.clip(colour, 1e-4, 1.0) ** (1 / 2.2)
    person = jnp.where(is_capsule, view.capsules.owner[jnp.maximum(capsule, 0)], -1)
    return colour.reshape(*tile, 3), distance.reshape(tile), person.reshape(tile)


def _paint(colour, here, colours):
    """`colour` with `colours()` where it is `here`; if that is nowhere, nothing is computed."""
    return jax.lax.cond(here.any(), lambda: jnp.where(here[:, None], colours(), colour), lambda: colour)


def _hash(*numbers):
    """Noise 0 to 1 of whole numbers."""
    x = sum(n * k for n, k in zip(numbers, (12.9898, 78.233, 37.719)))
    x = jnp.sin(x) * 43758.547
    return x - jnp.floor(x)


def _in_shade(light: _Light, point_Qx3):
    return point_Qx3[:, 0] * light.shade[0] + point_Qx3[:, 1] * light.shade[1] > light.shade[2]


def _lit(light: _Light, normal, in_shadow):
    """Light `[Q, 1]` on surfaces with world normals: sun, and the sky from above."""
    facing = jnp.maximum(jnp.sum(normal * light.sun, axis=-1), 0.0)
    sun = jnp.where(in_shadow, 0.0, light.sun_strength * facing)
    return (0.62 + 0.28 * normal[..., 2] + sun)[..., None]


def _ground_colour(view: _View, point_Qx3, near, in_shadow):
    light = view.light
    x, y = point_Qx3[:, 0], point_Qx3[:, 1]
    along = x * light.road[0] + y * light.road[1]
    side = jnp.where(light.road[0] >= 0, jnp.float32(1.0), -1.0)
    across = (-x * light.road[1] + y * light.road[0]) * side - light.road[2]
    # What is finer than a pixel fades out.
    fine = jnp.exp(-near / 14.0)
    grain = _hash(jnp.floor(x * 23), jnp.floor(y * 23)) - 0.5
    patch = _hash(jnp.floor(x / 2.3), jnp.floor(y / 1.7)) - 0.5
    tx, ty = x / light.tile, y / light.tile
    stone = _hash(jnp.floor(tx), jnp.floor(ty)) - 0.5
    away = jnp.minimum(jnp.abs(tx - jnp.round(tx)), jnp.abs(ty - jnp.round(ty))) * light.tile
    joint = (away < 0.012 + 0.0006 * near).astype(jnp.float32)
    pavement = (
        light.ground[0] * (1 + fine * (0.22 * stone + 0.2 * grain) - 0.35 * joint * jnp.exp(-near / 22.0))[:, None]
    )
    half = 0.5 * light.road_width
    on_road = jnp.abs(across) < half
    kerb = jnp.abs(jnp.abs(across) - half) < 0.12
    dashes = (jnp.abs(across) < 0.08) & (jnp.mod(along, 6.0) < 3.0)
    asphalt = light.ground[1] * (1 + 0.5 * fine * grain + 0.15 * patch)[:, None]
    asphalt = jnp.where(dashes[:, None], 0.6, asphalt)
    ground = jnp.where(on_road[:, None], asphalt, pavement)
    ground = jnp.where(kerb[:, None], 0.42, ground)
    normal = jnp.float32([0.0, 0.0, 1.0])
    # Under the cars it is dark.
    cars = jax.tree.map(lambda a: a[-2 * _NUM_CARS : -_NUM_CARS], view.boxes)
    c, s = jnp.cos(cars.yaw)[:, None], jnp.sin(cars.yaw)[:, None]
    dx, dy = x - cars.centre[:, :1], y - cars.centre[:, 1:]
    outside = jnp.maximum(jnp.abs(c * dx + s * dy) - cars.half[:, :1], jnp.abs(c * dy - s * dx) - cars.half[:, 1:])
    dark = jnp.max(jnp.where((cars.high > 0)[:, None], jnp.clip(0.7 - outside / 0.5, 0, 0.8), 0.0), axis=0)
    return ground * _lit(light, normal, in_shadow) * (1 - dark)[:, None]


def _box_colour(view: _View, box, world_Qx3, point_Qx3, near):
    some = jax.tree.map(lambda x: x[jnp.maximum(box, 0)], view.boxes)
    c, s = jnp.cos(some.yaw), jnp.sin(some.yaw)
    dx, dy = point_Qx3[:, 0] - some.centre[:, 0], point_Qx3[:, 1] - some.centre[:, 1]
    lx, ly, z = c * dx + s * dy, c * dy - s * dx, point_Qx3[:, 2]
    over_x, over_y = jnp.abs(lx) / some.half[:, 0], jnp.abs(ly) / some.half[:, 1]
    over_z = jnp.abs(z - 0.5 * (some.low + some.high)) / (0.5 * (some.high - some.low))
    on_top = (over_z >= jnp.maximum(over_x, over_y)) & (z > some.low + 0.01)
    on_end = (over_x > over_y) & ~on_top
    side_x, side_y = jnp.where(on_end, jnp.sign(lx), 0.0), jnp.where(on_end, 0.0, jnp.sign(ly))
    normal = jnp.stack(
        [
            jnp.where(on_top, 0.0, c * side_x - s * side_y),
            jnp.where(on_top, 0.0, s * side_x + c * side_y),
            on_top.astype(jnp.float32),
        ],
        -1,
    )
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
    pane = (some.style == _CABIN) & ~on_top & (over_z < 0.75) & (jnp.abs(jnp.abs(across) - 0.25) > 0.06)
    lamp = (some.style == _CAR) & on_end & (jnp.abs(over_y - 0.75) < 0.18) & (jnp.abs(z - 0.62) < 0.1)
    paint = some.colour * jnp.where((some.style == _CAR) & (z < 0.36) & ~on_top, jnp.float32(0.35), 1.0)[:, None]
    paint = jnp.where(pane[:, None], jnp.float32([0.05, 0.06, 0.07]), paint)
    paint = jnp.where(
        lamp[:, None], jnp.where(lx[:, None] > 0, jnp.float32([0.9, 0.9, 0.8]), jnp.float32([0.5, 0.03, 0.03])), paint
    )
    colour = jnp.where((some.style == _BUILDING)[:, None], wall, paint)
    return colour * _lit(view.light, normal, False)


def _capsule_colour(view: _View, capsule, ray_Qx3, near, in_shade):
    some = jax.tree.map(lambda x: x[jnp.maximum(capsule, 0)], view.capsules)
    point = ray_Qx3 * near[:, None]
    a, axis = some.ends[:, 0], some.ends[:, 1] - some.ends[:, 0]
    length2 = jnp.maximum(jnp.sum(axis * axis, axis=-1), 1e-9)
    along = jnp.clip(jnp.sum((point - a) * axis, axis=-1) / length2, 0, 1)
    normal = (point - a - along[:, None] * axis) / jnp.maximum(some.radius, 1e-6)[:, None]
    normal = jnp.stack([jnp.sum(view.rotation[:, i] * normal, axis=-1) for i in range(3)], axis=-1)  # to the world
    metres = along * jnp.sqrt(length2)
    striped = (some.stripes > 0) & (jnp.mod(metres * some.stripes, 1.0) < 0.5)
    colour = jnp.where(striped[:, None], some.stripe_colour, some.colour)
    # Leaves and cloth are not smooth.
    is_leaf = (some.radius > 0.6) & (some.owner < 0)
    world = jnp.stack([jnp.sum(view.rotation[:, i] * point, axis=-1) for i in range(3)], axis=-1)
    leaf = sum(_hash(*(jnp.floor(world[:, i] * fine + fine) for i in range(3))) for fine in (6.0, 13.0, 29.0)) / 3
    folds = 1 + 0.12 * jnp.sin(31 * metres + 9 * normal[:, 0]) * jnp.sin(17 * normal[:, 1] + 11 * metres)
    colour = colour * jnp.where(is_leaf, 0.45 + leaf, jnp.where(some.owner >= 0, folds, 1.0))[:, None]
    return colour * _lit(view.light, normal, in_shade)


def _sky_colour(light: _Light, world_Qx3):
    up = jnp.clip(world_Qx3[:, 2], 0.0, 1.0)
    sky = light.horizon + (1 - jnp.exp(-4.5 * up))[:, None] * (light.zenith - light.horizon)
    x, y = (world_Qx3[:, i] / (up + 0.12) for i in range(2))
    cloud = (
        jnp.sin(1.9 * x + 1.3 * jnp.sin(1.1 * y))
        + jnp.sin(2.7 * y + 1.7 * jnp.sin(1.6 * x))
        + 0.5 * jnp.sin(5 * x - 4 * y)
    )
    return sky + (jnp.clip(0.35 * cloud, 0, 0.7) * (1 - jnp.exp(-6 * up)))[:, None] * (0.95 - sky)


def _flags(scene: Scene, camera: Camera, depth, person):
    """Whether joints are hidden, `[P, 22]`: by others, and by the own body."""
    height, width = depth.shape
    x, y, z = jnp.moveaxis(scene.joints, -1, 0)
    safe = jnp.maximum(z, _NEAREST)
    u, v = camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy
    inside = (z > _NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & scene.present[:, None]
    row, column = (jnp.clip(jnp.floor(c), 0, n - 1).astype(jnp.int32) for c, n in ((v, height), (u, width)))
    size = jnp.linalg.norm(scene.joints[:, _INDEX["neck"]] - scene.joints[:, _INDEX["spine4"]], axis=-1) / 0.5
    distance = jnp.linalg.norm(scene.joints, axis=-1)
    own = person[row, column] == jnp.arange(len(scene.joints), dtype=jnp.int32)[:, None]
    # Within a pixel the surface of a far body is as deep as the pixel is wide.
    margin = _DEPTH_IN_BODY * jnp.maximum(size, 0.5)[:, None] + distance / camera.fx
    hidden = inside & (depth[row, column] < distance - jnp.where(own, margin, 0.0))
    return hidden & ~own, hidden & own


# ---------------------------------------------------------------------------------------------------------------------
# The command


def sheet(count: int = 12, columns: int = 3) -> np.ndarray:
    """Sample pictures of the validation split side by side, `[H, W, 3]` uint8: the first two thirds at full scale."""
    cells = []
    for crowd, some in ((crowds.FULL, 2 * count // 3), (crowds.DEMO, count - 2 * count // 3)):
        shoot = jax.jit(functools.partial(_sample_picture, crowd=crowd))
        for index in range(some):
            picture = Image.fromarray(np.asarray(shoot(index).image)).resize((480, 270), Image.Resampling.LANCZOS)
            cells.append(np.asarray(picture))
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, count - columns + 1, columns)]
    return np.concatenate(rows, axis=0)


def _sample_picture(index, crowd):
    key = crowds.scene_key("validation", index)
    return take_picture(jax.random.fold_in(key, 1), crowds.sample_scene(key, crowd), crowd)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    compilation.use_cache()
    try:
        cli.check_devices()
    except ValueError as error:
        sys.exit(f"loco_jax: {error}")
    path = pathlib.Path(flags.FLAGS.output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet()).save(path, quality=85)
    print(f"Wrote {path}")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "The sheet, a JPEG or PNG.", required=True)
    cli.start(main)
