"""Pictures of scenes: a town as a surveillance camera sees it, made on the device.

People are some twenty capsules each, in clothes. Around them are ground, road, buildings, parked cars, trees and poles,
under a sun that casts shadows. Every pixel casts one ray. The picture is cut into tiles. A tile tests only the bodies
whose outlines touch it, a few at a time, until all of them are tested.

Capsules are in camera coordinates, boxes in the world's.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from loco_jax.data.crowd import shading, shapes
from loco_jax.data.crowd.figures import DEPTH_IN_BODY, INDEX, bodies
from loco_jax.data.crowd.scenes import Scene
from loco_jax.data.crowd.settings import Crowd
from loco_jax.data.crowd.shading import World
from loco_jax.data.crowd.shapes import NEAREST, Capsules, concatenate, rotate
from loco_jax.data.crowd.stage import Light, Stage, sample_stage
from loco_jax.geometry.camera import Camera

_CHUNK = 2  # bodies that a tile tests together; with more, most tiles test empty places
_TILES_AT_ONCE = 64  # except on a CPU


class Picture(NamedTuple):
    """A picture, and what is seen in it.

    Attributes:
      image: `[H, W, 3]` uint8.
      depth: `[H, W]` float32 metres along the ray (Euclidean), infinite for the sky.
      person: `[H, W]` int32, the person whose body is seen there, -1 for none.
      occluded: `[P, 22]` bool, joints hidden by somebody or something else; False outside the picture.
      self_occluded: `[P, 22]` bool, joints hidden by the person's own body; False outside the picture.
    """

    image: jax.Array
    depth: jax.Array
    person: jax.Array
    occluded: jax.Array
    self_occluded: jax.Array


def take_picture(key: PRNGKeyArray, scene: Scene, crowd: Crowd) -> Picture:
    """A picture of one instant on a random stage."""
    key_stage, key_noise = jax.random.split(key)
    return render(sample_stage(key_stage, scene, crowd), scene, crowd, key_noise)


def render(stage: Stage, scene: Scene, crowd: Crowd, key: PRNGKeyArray, tiles_at_once: int | None = None) -> Picture:
    """A picture of one instant on a stage. The key is for the sensor's noise.

    It works on `tiles_at_once` tiles in parallel. The default is one on a CPU, which suits its caches, and many on
    other devices.
    """
    if tiles_at_once is None:
        tiles_at_once = 1 if jax.default_backend() == "cpu" else _TILES_AT_ONCE
    camera, (height, width) = crowd.camera, crowd.volume.image_size
    up = scene.rotation[:, 2]
    people = bodies(scene.joints, scene.present, up, scene.height, stage.clothes)
    offset = jnp.stack([0.0, 0.0, scene.height])
    things = stage.things._replace(ends=rotate(scene.rotation, stage.things.ends - offset))
    capsules = concatenate(people, things)
    # Capsules are at least nearly as wide as a pixel. Otherwise those far away would flicker.
    away_N = jnp.linalg.norm(capsules.ends.mean(axis=1), axis=-1)
    radius_N = jnp.where(capsules.radius > 0, jnp.maximum(capsules.radius, 0.45 * away_N / camera.fx), 0.0)
    radius_N = jnp.where((capsules.ends[..., 2] > NEAREST + radius_N[:, None]).all(axis=1), radius_N, 0.0)
    capsules = jax.lax.optimization_barrier(capsules._replace(radius=radius_N))
    shadow_ends, shadow_radius = _shadows(capsules, scene, stage.light)

    tile = (30, 32) if width <= 640 else (60, 64)
    rows, columns = -(-height // tile[0]), -(-width // tile[1])
    corners = (jnp.arange(n, dtype=jnp.int32) * side for n, side in zip((rows, columns), tile))
    corner_Tx2 = jnp.stack(jnp.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 2)
    outlines = (
        shapes.capsule_outlines(capsules.ends, capsules.radius, camera),
        shapes.capsule_outlines(shadow_ends, shadow_radius, camera),
        shapes.box_outlines(stage.boxes, scene, camera),
    )
    lists = jax.lax.optimization_barrier(tuple(_touching(outline, corner_Tx2, tile) for outline in outlines))
    world = World(capsules, shadow_ends, shadow_radius, stage.boxes, stage.light, scene.rotation, scene.height)
    see = functools.partial(_see_tile, world=world, camera=camera, tile=tile)
    batch_size = tiles_at_once if tiles_at_once > 1 else None
    colour, depth, person = jax.lax.map(see, (corner_Tx2, lists), batch_size=batch_size)

    def whole(x):
        x = x.reshape(rows, columns, *tile, *x.shape[3:])
        return jnp.moveaxis(x, 2, 1).reshape(rows * tile[0], columns * tile[1], *x.shape[4:])[:height, :width]

    colour, depth, person = whole(colour), whole(depth), whole(person)
    noise = stage.light.noise * jax.random.normal(key, (height, width, 1), jnp.float32)
    # A sensor's noise shows most in the dark, and is about the same in all colours.
    picture = jnp.clip(colour + noise * (1.3 - colour), 0.0, 1.0)
    image = jnp.round(255 * picture).astype(jnp.uint8)
    return Picture(image, depth, person, *_flags(scene, camera, depth, person))


def _shadows(capsules: Capsules, scene: Scene, light: Light):
    """The capsules' shadows on the ground: ends `[N, 2, 3]` in camera coordinates, and radii `[N]`."""
    up, sun = scene.rotation[:, 2], rotate(scene.rotation, light.sun)
    above = jnp.sum(capsules.ends * up, axis=-1) + scene.height
    ends = capsules.ends - (above / light.sun[2])[..., None] * sun
    in_front = (ends[..., 2] > 1.0).all(axis=1)
    return ends, jnp.where(in_front, capsules.radius, 0.0)


def _touching(outline_Nx4, corner_Tx2, tile):
    """For each tile the numbers of the outlines that touch it `[T, N + chunk]`, and how many there are `[T]`."""
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


def _see_tile(args, world: World, camera: Camera, tile):
    """Colours `[h, w, 3]` of a tile, from 0 to 1 as on a screen, distances and persons `[h, w]`."""
    corner, (near_capsules, near_shadows, near_boxes) = args
    rows, columns = ((corner[i] + jnp.arange(tile[i], dtype=jnp.int32)).astype(jnp.float32) for i in range(2))
    v, u = jnp.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
    ray_Qx3 = jnp.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, jnp.ones_like(u)], -1).reshape(-1, 3)
    ray_Qx3 = ray_Qx3 / jnp.linalg.norm(ray_Qx3, axis=-1, keepdims=True)
    world_Qx3 = jnp.stack([jnp.sum(world.rotation[:, i] * ray_Qx3, axis=-1) for i in range(3)], axis=-1)
    ray_Qx3, world_Qx3 = jax.lax.optimization_barrier((ray_Qx3, world_Qx3))
    q = ray_Qx3.shape[0]
    nothing = jnp.full(q, jnp.inf, jnp.float32), jnp.full(q, -1, jnp.int32)

    def nearer(state, distance_KxQ, numbers_K):
        best, which = state
        first = jnp.argmin(distance_KxQ, axis=0).astype(jnp.int32)
        distance = jnp.min(distance_KxQ, axis=0)
        return jnp.minimum(best, distance), jnp.where(distance < best, numbers_K[first], which)

    def look_at_capsules(state, numbers, there):
        ends, radius = world.capsules.ends[numbers], jnp.where(there, world.capsules.radius[numbers], 0.0)
        return nearer(state, shapes.hit_capsules(ray_Qx3, ends, radius), numbers)

    def look_at_boxes(state, numbers, there):
        distance = shapes.hit_boxes(world_Qx3, world.height, jax.tree.map(lambda x: x[numbers], world.boxes))
        return nearer(state, jnp.where(there[:, None], distance, jnp.inf), numbers)

    capsule_distance, capsule = _over(near_capsules, look_at_capsules, nothing)
    box_distance, box = _over(near_boxes, look_at_boxes, nothing)
    down = world_Qx3[:, 2]
    ground_distance = jnp.where(down < -1e-4, -world.height / jnp.minimum(down, -1e-4), jnp.inf)

    def look_at_shadows(state, numbers, there):
        ends, radius = world.shadow_ends[numbers], jnp.where(there, world.shadow_radius[numbers], -1.0)
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
    point_Qx3 = world_Qx3 * near[:, None] + jnp.stack([0.0, 0.0, world.height])
    shade = shading.in_shade(world.light, point_Qx3)
    is_sky = ~jnp.isfinite(distance)
    # Most tiles show one or two of the four kinds. A kind that a tile does not show costs nothing.
    colour = jnp.zeros_like(ray_Qx3)
    for here, colours in (
        (~(is_capsule | is_box | is_sky), lambda: shading.ground_colour(world, point_Qx3, near, in_shadow | shade)),
        (is_box, lambda: shading.box_colour(world, box, point_Qx3, near)),
        (is_capsule, lambda: shading.capsule_colour(world, capsule, ray_Qx3, near, shade)),
    ):
        colour = _paint(colour, here, colours)
    air = world.light.horizon * 0.9
    colour = air + jnp.exp(-near / world.light.haze)[:, None] * (colour - air)
    colour = _paint(colour, is_sky, lambda: shading.sky_colour(world.light, world_Qx3))
    colour = 1 - jnp.exp(-1.35 * world.light.exposure * colour * world.light.warmth)  # film does not clip
    colour = jnp.clip(colour, 1e-4, 1.0) ** (1 / 2.2)
    person = jnp.where(is_capsule, world.capsules.owner[jnp.maximum(capsule, 0)], -1)
    return colour.reshape(*tile, 3), distance.reshape(tile), person.reshape(tile)


def _paint(colour, here, colours):
    """`colour`, replaced by `colours()` where `here` is true. If that is nowhere, `colours` is not computed."""
    return jax.lax.cond(here.any(), lambda: jnp.where(here[:, None], colours(), colour), lambda: colour)


def _flags(scene: Scene, camera: Camera, depth, person):
    """Whether joints `[P, 22]` are hidden by something else, and whether by their own body."""
    height, width = depth.shape
    x, y, z = jnp.moveaxis(scene.joints, -1, 0)
    safe = jnp.maximum(z, NEAREST)
    u, v = camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy
    inside = (z > NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & scene.present[:, None]
    row, column = (jnp.clip(jnp.floor(c), 0, n - 1).astype(jnp.int32) for c, n in ((v, height), (u, width)))
    size = jnp.linalg.norm(scene.joints[:, INDEX["neck"]] - scene.joints[:, INDEX["spine4"]], axis=-1) / 0.5
    distance = jnp.linalg.norm(scene.joints, axis=-1)
    own = person[row, column] == jnp.arange(len(scene.joints), dtype=jnp.int32)[:, None]
    # Within a pixel, the depth of a far body's surface varies by about the pixel's width.
    margin = DEPTH_IN_BODY * jnp.maximum(size, 0.5)[:, None] + distance / camera.fx
    hidden = inside & (depth[row, column] < distance - jnp.where(own, margin, 0.0))
    return hidden & ~own, hidden & own
