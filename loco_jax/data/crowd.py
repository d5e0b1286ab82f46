"""The crowd: an endless, seeded stream of street scenes with JTA's statistics, joints only, made on the device.

World axes: the origin lies on the ground straight below the camera; x right, y ahead (where the camera looks, along the
ground) and z up, in metres. The camera is at (0, 0, height), and `rotation` turns world into camera axes:

    camera_xyz = rotation @ (world_xyz - (0, 0, height))

so that in camera coordinates the ground is `up @ xyz == -height`, with `up = rotation[:, 2]`. A body's own axes are the
same: x to its right, y ahead, z up, the origin between its hips.

Everything random is drawn once per scene (`_Person`, `_View`); the pose at a time is a pure function of that. So a
scene is the first instant of the sequence with the same key.

Where the numbers come from. Limbs as fractions of stature: Drillis & Contini (1966), as tabulated by Winter. Statures:
European adults. Leg angles over a stride: walking after Winter (1991) and Perry (1992), running after Novacheck (1998),
rounded to a degree. Walking speed 1.34 +- 0.26 m/s: Weidmann (1993). Group sizes, a zero-truncated Poisson law: James
(1953).
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume


@dataclasses.dataclass(frozen=True)
class Crowd:
    """What kind of scenes: hashable, so it can be a static argument of a jitted function.

    Attributes:
      volume: the picture's size, and how far joints are of interest.
      camera: intrinsics, plain floats.
      max_people: P, the padded number of people in a scene's arrays.
      min_people, mean_people, most_people: smallest, mean and largest number of people who are there. A few of them
        stand outside the picture.
      min_distance, max_distance: metres from the camera's centre to a person's hips, at a scene's instant (in a
        sequence, the first).
      typical_distance: metres along the ground; the most frequent distance, where the view allows it.
      camera_height: lowest and highest camera, metres.
      look_distance: nearest and farthest point that the camera is aimed at, metres along the ground. With the height it
        gives the pitch.
      activities: shares of walking, running, standing and sitting groups.

    Raises ValueError if the numbers contradict each other.
    """

    volume: Volume = Volume()
    camera: Camera = cameras.JTA
    max_people: int = 64
    min_people: int = 1
    mean_people: float = 22.0
    most_people: int = 60
    min_distance: float = 3.0
    max_distance: float = 100.0
    typical_distance: float = 14.0
    camera_height: tuple[float, float] = (1.0, 10.0)
    look_distance: tuple[float, float] = (12.0, 40.0)
    activities: tuple[float, float, float, float] = (0.55, 0.07, 0.28, 0.10)

    def __post_init__(self):
        if not 1 <= self.min_people <= self.mean_people <= self.most_people <= self.max_people:
            raise ValueError("need 1 <= min_people <= mean_people <= most_people <= max_people")
        if not 0 < self.min_distance < self.max_distance:
            raise ValueError("need 0 < min_distance < max_distance")
        if not 0 < self.camera_height[0] <= self.camera_height[1] < self.max_distance:
            raise ValueError("need 0 < lowest camera_height <= highest camera_height < max_distance")


FULL = Crowd()
DEMO = Crowd(
    volume=Volume(image_size=(270, 480), stride=8, depth_bins=80, max_distance=25.0),
    camera=cameras.JTA.scaled(1 / 4),
    max_people=8,
    min_people=2,
    mean_people=5.0,
    most_people=8,
    max_distance=25.0,
    typical_distance=5.0,
    camera_height=(1.0, 5.0),
    look_distance=(6.0, 15.0),
)


class Scene(NamedTuple):
    """People and the camera that sees them. A sequence has T frames; a single scene lacks that axis.

    Attributes:
      joints: `[T, P, 22, 3]` metres in camera coordinates, float32, in the order of `skeleton.JTA_JOINTS`; zeros for
        the padding. spine0 is just below the neck, spine4 the pelvis.
      present: `[T, P]` bool: somebody is there, in the picture or not.
      person_id: `[P]` int32, -1 for the padding; the same person all through a sequence.
      rotation: `[3, 3]`, world to camera axes (see the module).
      height: `[]`, metres from the ground to the camera.
    """

    joints: jax.Array
    present: jax.Array
    person_id: jax.Array
    rotation: jax.Array
    height: jax.Array


# First seed and number of seeds of each split. Seeds stay below 2^31, where int32 and uint32 agree.
SPLITS = {
    "test": (0, 2**20),
    "validation": (2**20, 2**20),
    "train": (2**21, 2**31 - 2**21),
}


def scene_key(split: str, index) -> jax.Array:
    """The random key of scene (or sequence) number `index` of a split; no key belongs to two splits.

    `index` is an integer, or an integer array `[]`, traced or not. Past the end of the split's range it starts over:
    test and validation have 2^20 scenes each, train 2^31 - 2^21. Raises ValueError if there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    first, count = SPLITS[split]
    if isinstance(index, int | np.integer):  # before JAX would cut it to 32 bits
        return jax.random.key(first + int(index) % count)
    return jax.random.key(first + jnp.mod(index, count).astype(jnp.int32))


def sample_scene(key: jax.Array, crowd: Crowd) -> Scene:
    """One scene at one instant, without the time axis: the first frame of `sample_sequence` with the same key."""
    scene = sample_sequence(key, crowd, num_frames=1)
    return scene._replace(joints=scene.joints[0], present=scene.present[0])


def sample_sequence(key: jax.Array, crowd: Crowd, num_frames: int, fps: float = 30.0) -> Scene:
    """A scene over `num_frames` frames, `fps` a second, seen by a camera at rest.

    Walkers and runners keep their heading and speed: they may leave the picture, pass the camera and, in different
    groups, cross each other's way.
    """
    key_view, key_people = jax.random.split(key)
    view = _sample_view(key_view, crowd)
    people, present_P = _sample_people(key_people, crowd, view)
    times_T = jnp.arange(num_frames, dtype=jnp.float32) / fps
    world_TxPxJx3 = jax.vmap(lambda time: jax.vmap(_pose, (0, None))(people, time))(times_T)
    world_TxPxJx3 = jax.lax.optimization_barrier(world_TxPxJx3)  # or XLA poses everybody once per output axis
    offset_3 = jnp.stack([0.0, 0.0, view.height])
    # Elementwise, as a matrix product may run at lower precision on an accelerator: at 100 m that costs decimetres.
    joints_TxPxJx3 = jnp.sum(view.rotation * (world_TxPxJx3 - offset_3)[..., None, :], axis=-1)
    ids_P = jnp.arange(crowd.max_people, dtype=jnp.int32)
    return Scene(
        joints=jnp.where(present_P[:, None, None], joints_TxPxJx3, 0.0),
        present=jnp.broadcast_to(present_P, (num_frames, crowd.max_people)),
        person_id=jnp.where(present_P, ids_P, -1),
        rotation=view.rotation,
        height=view.height,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The body: measures and the pose at a time.


class _Body(NamedTuple):
    """Metres; one number a person."""

    thigh: jax.Array
    shank: jax.Array
    foot: jax.Array  # from the sole to the ankle
    hip: jax.Array  # from the middle to a hip
    pelvis: jax.Array  # from between the hips up to spine4
    spine: jax.Array  # from each spine joint to the next, and to the neck
    head: jax.Array  # from the neck to the top of the head
    clavicle: jax.Array
    shoulder: jax.Array  # from the middle to a shoulder
    upper_arm: jax.Array
    forearm: jax.Array


class _Person(NamedTuple):
    """Everything `_pose` needs. Angles in radians, flexion forward positive; in pairs the right side comes first."""

    body: _Body
    position: jax.Array  # [2] on the ground, at time 0
    heading: jax.Array  # counterclockwise from above; 0 looks along the world's y
    speed: jax.Array  # metres a second
    cadence: jax.Array  # strides (double steps) a second
    phase: jax.Array  # of the right leg's stride at time 0, in strides
    legs: jax.Array  # [2, 11, 3] Fourier series of thigh, knee and ankle angles, right and left leg
    hip_spread: jax.Array  # abduction of both thighs
    bounce: jax.Array  # metres, how high a runner flies
    pelvis_twist: jax.Array  # how far the pelvis turns with the legs (and the chest against it)
    lean: jax.Array  # of the trunk, forward
    arms: jax.Array  # [2, 4] shoulder flexion, abduction and inward twist, elbow flexion
    arm_swing: jax.Array  # [2]
    head_turn: jax.Array  # to the left
    head_bow: jax.Array
    idle: jax.Array  # [11] phases of the small slow motions of arms, head and trunk
    idle_rate: jax.Array  # hertz


_WALK, _RUN, _STAND, _SIT = range(4)
_HARMONICS = 5
_SIDES = np.array([1.0, -1.0], np.float32)  # right, left

# Angles in degrees at 0, 5, ... 95 % of the stride, which begins as the foot touches the ground: the thigh against the
# vertical (forward positive), the knee's flexion, the ankle's dorsiflexion.
# fmt: off
_STRIDES = {
    _WALK: [
        [24, 23, 20, 16, 11, 6, 0, -5, -11, -15, -18, -18, -13, -4, 6, 15, 21, 25, 26, 25],
        [4, 10, 16, 20, 19, 16, 12, 9, 8, 10, 15, 25, 40, 55, 64, 63, 53, 38, 20, 6],
        [0, -4, -3, 1, 4, 6, 7, 8, 9, 9, 7, -3, -15, -18, -12, -5, 0, 2, 2, 0],
    ],
    _RUN: [
        [30, 28, 23, 15, 6, -4, -13, -20, -23, -21, -14, -4, 8, 20, 31, 39, 43, 43, 40, 35],
        [18, 28, 38, 42, 41, 35, 27, 20, 19, 28, 44, 63, 82, 94, 97, 90, 74, 52, 31, 18],
        [5, 10, 18, 24, 25, 20, 8, -8, -20, -20, -14, -8, -4, 0, 2, 3, 4, 5, 6, 6],
    ],
}
# fmt: on


def _fourier(samples_x20: list) -> np.ndarray:
    """Coefficients `[..., 11]` of 1, cos, sin, cos 2, sin 2 ... in radians, of angles `[..., 20]` in degrees."""
    spectrum = np.fft.rfft(np.radians(np.asarray(samples_x20)), axis=-1) / 10
    waves = spectrum[..., 1 : _HARMONICS + 1]
    pairs = np.stack([waves.real, -waves.imag], axis=-1).reshape(*waves.shape[:-1], -1)
    return np.concatenate([spectrum[..., :1].real / 2, pairs], axis=-1).astype(np.float32)


# [walk or run, 11, thigh knee ankle]
_GAITS = np.moveaxis(np.stack([_fourier(_STRIDES[_WALK]), _fourier(_STRIDES[_RUN])]), 1, 2)


def _basis(phase):
    """`[..., 11]`: 1, cos, sin, cos 2, sin 2 ... of a `phase[...]` in turns."""
    turns = 2 * math.pi * phase[..., None] * jnp.arange(1, _HARMONICS + 1, dtype=jnp.int32)
    waves = jnp.stack([jnp.cos(turns), jnp.sin(turns)], axis=-1).reshape(*turns.shape[:-1], -1)
    return jnp.concatenate([jnp.ones_like(waves[..., :1]), waves], axis=-1)


def _about_x(angle, v):
    """Vectors `v[..., 3]` turned by `angle[...]`: what points down swings forward."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    return jnp.stack(jnp.broadcast_arrays(x, c * y - s * z, s * y + c * z), axis=-1)


def _about_y(angle, v):
    """Vectors `v[..., 3]` turned by `angle[...]`: what points down swings to the left."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    return jnp.stack(jnp.broadcast_arrays(c * x + s * z, y, c * z - s * x), axis=-1)


def _about_z(angle, v):
    """Vectors `v[..., 3]` turned by `angle[...]`: what points ahead swings to the left."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    return jnp.stack(jnp.broadcast_arrays(c * x - s * y, s * x + c * y, z), axis=-1)


def _vector(x=0.0, y=0.0, z=0.0):
    return jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(a, jnp.float32) for a in (x, y, z))), axis=-1)


def _pose(person: _Person, time: jax.Array) -> jax.Array:
    """Joints `[22, 3]` in world coordinates of one person at a time in seconds."""
    body = person.body
    phases_2 = person.phase + person.cadence * time + jnp.float32([0.0, 0.5])  # the legs are half a stride apart
    idle_11 = jnp.sin(2 * math.pi * (person.idle_rate * time + person.idle))
    forward_2 = jnp.cos(2 * math.pi * phases_2)  # 1 when that leg is forward, -1 when it is behind
    pelvis_turn = person.pelvis_twist * forward_2[0]

    # Legs.
    hips_2x3 = _about_z(pelvis_turn, _vector(_SIDES * body.hip))
    angles_2x3 = jnp.sum(_basis(phases_2)[..., None] * person.legs, axis=1)
    thigh_2, shank_2 = angles_2x3[:, 0], angles_2x3[:, 0] - angles_2x3[:, 1]
    foot_2 = shank_2 + angles_2x3[:, 2]  # toes up positive
    spread_2 = -_SIDES * person.hip_spread
    knees_2x3 = hips_2x3 + _about_y(spread_2, _about_x(thigh_2, _vector(z=-body.thigh)))
    ankles_2x3 = knees_2x3 + _about_y(spread_2, _about_x(shank_2, _vector(z=-body.shank)))
    legs_6x3 = jnp.stack([hips_2x3, knees_2x3, ankles_2x3], axis=1).reshape(6, 3)

    # The lower foot, heel or ball, stands on the ground. A soft minimum, so that the hips do not jerk from foot to
    # foot; it lies below the minimum, so no foot sinks in, and by at most 7 mm.
    heel_2 = -0.9 * body.foot * jnp.sin(foot_2)
    ball_2 = 1.9 * body.foot * jnp.sin(foot_2)
    soles_2x2 = (ankles_2x3[:, 2] - body.foot * jnp.cos(foot_2))[:, None] + jnp.stack([heel_2, ball_2], axis=1)
    ground = -0.005 * jax.nn.logsumexp(-soles_2x2 / 0.005)
    flight = jnp.maximum(0.0, jnp.sin(math.pi * (jnp.mod(2 * phases_2[0], 1.0) - 0.72) / 0.28))
    lift = person.bounce * flight**2

    # Trunk: each segment leans and turns a bit more than the one below.
    share_5 = jnp.arange(1, 6, dtype=jnp.float32) / 5
    lean_5 = (person.lean + 0.02 * idle_11[0]) * share_5
    turn_5 = pelvis_turn * (1 - 2 * share_5)
    pelvis_3 = _vector(z=body.pelvis)
    spine_5x3 = pelvis_3 + jnp.cumsum(_about_z(turn_5, _about_x(-lean_5, _vector(z=jnp.full(5, body.spine)))), axis=0)
    neck_3 = spine_5x3[-1]
    spines_5x3 = jnp.concatenate([spine_5x3[-2::-1], pelvis_3[None]])

    def of_chest(v):
        return _about_z(turn_5[-1], _about_x(-lean_5[-1], v))

    # Head.
    head_turn = person.head_turn + 0.15 * idle_11[1]
    bow = person.head_bow + lean_5[-1] + 0.05 * idle_11[2]
    head_2x3 = _vector(y=jnp.float32([0.06, 0.12]) * body.head, z=jnp.float32([1.0, 0.55]) * body.head)
    head_2x3 = neck_3 + _about_z(head_turn, _about_x(-bow, head_2x3))

    # Arms: each swings against the leg of its side.
    arms_2x4 = person.arms + 0.05 * idle_11[3:].reshape(2, 4)
    flexion_2 = arms_2x4[:, 0] - person.arm_swing * forward_2
    elbow_2 = jnp.maximum(arms_2x4[:, 3] - 0.4 * person.arm_swing * forward_2, 0.02)

    def of_shoulder(v_2x3):
        v_2x3 = _about_x(flexion_2, _about_z(_SIDES * arms_2x4[:, 2], v_2x3))
        return of_chest(_about_y(-_SIDES * arms_2x4[:, 1], v_2x3))

    clavicles_2x3 = neck_3 + of_chest(_vector(_SIDES * body.clavicle, z=-0.25 * body.shoulder))
    shoulders_2x3 = neck_3 + of_chest(_vector(_SIDES * body.shoulder, z=-0.25 * body.shoulder))
    elbows_2x3 = shoulders_2x3 + of_shoulder(_vector(z=jnp.full(2, -body.upper_arm)))
    wrists_2x3 = elbows_2x3 + of_shoulder(_about_x(elbow_2, _vector(z=-body.forearm)))
    arms_8x3 = jnp.stack([clavicles_2x3, shoulders_2x3, elbows_2x3, wrists_2x3], axis=1).reshape(8, 3)

    joints_Jx3 = jnp.concatenate([head_2x3, neck_3[None], arms_8x3, spines_5x3, legs_6x3])
    walked_3 = _about_z(person.heading, _vector(y=person.speed * time))
    origin_3 = walked_3 + jnp.concatenate([person.position, (lift - ground)[None]])
    return origin_3 + _about_z(person.heading, joints_Jx3)


# ---------------------------------------------------------------------------------------------------------------------
# Who is there, where, and what they do: drawn once a scene.


class _View(NamedTuple):
    rotation: jax.Array  # [3, 3] world to camera
    height: jax.Array
    pitch: jax.Array  # radians, down positive


# Degrees: shoulder flexion, abduction, inward twist, elbow; first the arm that does something, then the other one.
# fmt: off
_ARM_POSES = np.radians(np.array([
    [[0, 6, 10, 18], [0, 6, 10, 18]],  # hanging
    [[25, 10, 65, 100], [30, 10, 70, 95]],  # crossed
    [[40, 35, 35, 145], [0, 6, 10, 15]],  # phone at the ear
    [[20, 6, 30, 100], [0, 6, 15, 20]],  # looking at the phone
    [[-12, 16, 25, 40], [-12, 16, 25, 40]],  # hands in the pockets
    [[-15, 42, 75, 85], [-15, 42, 75, 85]],  # hands on the hips
    [[45, 12, 25, 75], [15, 8, 20, 45]],  # talking with the hands
    [[30, 6, 20, 50], [30, 6, 20, 50]],  # hands on the knees, or carrying something
    [[0, 8, 15, 90], [0, 8, 15, 90]],  # elbows bent, to run
], np.float32))
_ARM_POSE_SHARES = np.array([
    [75, 0, 6, 7, 8, 0, 0, 4, 0],  # walk
    [0, 0, 0, 0, 0, 0, 0, 0, 100],  # run
    [32, 14, 8, 14, 12, 8, 12, 0, 0],  # stand
    [6, 14, 5, 20, 0, 0, 15, 40, 0],  # sit
]) / 100
# fmt: on
_LOOKING_AT_PHONE = 3

_GROUP_RATE = 1.0  # of the Poisson law of group sizes; 1 to 5 people
_PERSONAL_SPACE = 0.6  # metres between two bodies
_CHEST_HEIGHT = 0.9  # metres; what is put into the picture


def _pick(uniform, shares):
    """The index `[...]` drawn by `uniform[...]` from `shares[..., N]`, which add up to 1."""
    up_to = jnp.cumsum(jnp.asarray(shares, jnp.float32), axis=-1)[..., :-1]
    return jnp.sum(uniform[..., None] >= up_to, axis=-1, dtype=jnp.int32)


def _sample_view(key, crowd: Crowd) -> _View:
    height, aim, roll, tilt = jax.random.uniform(key, (4,), jnp.float32)
    low, high = crowd.camera_height
    height = low + (high - low) * height
    near, far = crowd.look_distance
    pitch = jnp.arctan2(height - 1.0, near + (far - near) * aim) + jnp.radians(jnp.float32(6.0)) * (tilt - 0.5)
    roll = jnp.radians(jnp.float32(4.0)) * (roll - 0.5)
    level = jnp.float32([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # camera axes in the world, one a row
    return _View(_about_z(roll, _about_x(-pitch, level).T).T, height, pitch)


@functools.lru_cache
def _people_shares(fewest: int, mean: float, most: int) -> np.ndarray:
    """Probabilities of `fewest` to `most` people: the law n exp(-rate n), whose rate is set for the mean."""
    count = np.arange(fewest, most + 1)

    def shares(rate):
        log = np.log(count) - rate * count
        weights = np.exp(log - log.max())
        return weights / weights.sum()

    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shares(middle) @ count > mean else (low, middle)
    return shares(low)


def _sample_distance(uniform, low, high, typical: float, longest: float):
    """Ground distances within [low, high], density r exp(-r / typical): ground area grows with r, a street ends."""
    r = np.linspace(0.0, longest, 1024)
    below = 1 - (1 + r / typical) * np.exp(-r / typical)  # the cumulative distribution
    r, below = jnp.asarray(r, jnp.float32), jnp.asarray(below, jnp.float32)
    start, end = jnp.interp(low, r, below), jnp.interp(high, r, below)
    return jnp.clip(jnp.interp(start + (end - start) * uniform, below, r), low, high)


def _ground_limits(crowd: Crowd, view: _View):
    """Nearest and farthest ground distance of a person, by the crowd's distances and by the picture's edges."""
    drop = jnp.maximum(view.height - _CHEST_HEIGHT, 0.0)
    nearest = jnp.sqrt(jnp.maximum(crowd.min_distance**2 - drop**2, 0.01))
    farthest = jnp.sqrt(crowd.max_distance**2 - drop**2)
    picture_height = crowd.volume.image_size[0]
    bottom = view.pitch + 0.9 * math.atan((picture_height - crowd.camera.cy) / crowd.camera.fy)
    top = view.pitch - 0.9 * math.atan(crowd.camera.cy / crowd.camera.fy)
    visible_from = drop / jnp.tan(jnp.clip(bottom, 0.01, 1.5))
    visible_to = jnp.where(top > 0.0, drop / jnp.tan(jnp.maximum(top, 0.001)), farthest)
    low = jnp.clip(visible_from, nearest, farthest)
    return nearest, farthest, low, jnp.clip(visible_to, low, farthest)


def _places(uniform_2xP, crowd: Crowd, view: _View, limits):
    """Ground positions `[P, 2]`: a uniform column of the picture, and a distance."""
    _, farthest, low, high = limits
    column_P, distance_P = uniform_2xP
    distance_P = _sample_distance(distance_P, low, high, crowd.typical_distance, crowd.max_distance)
    column_P = 1.06 * column_P - 0.03  # some stand across the picture's edge
    slope_P = (column_P * crowd.volume.image_size[1] - crowd.camera.cx) / crowd.camera.fx
    # The azimuth at which a point at that ground distance, pitched into the camera, has x / z = slope.
    ahead_P = slope_P * jnp.cos(view.pitch)
    shift_P = slope_P * (view.height - _CHEST_HEIGHT) * jnp.sin(view.pitch)
    shift_P = shift_P / (distance_P * jnp.sqrt(1 + ahead_P**2))
    azimuth_P = jnp.arctan(ahead_P) + jnp.arcsin(jnp.clip(shift_P, -0.9, 0.9))
    return distance_P[:, None] * jnp.stack([jnp.sin(azimuth_P), jnp.cos(azimuth_P)], axis=-1)


def _keep_apart(places_Px2, present_P, nearest, farthest):
    """Pushes people apart who stand inside each other, and back between the distances."""
    pairs_PxP = present_P[:, None] & present_P & ~jnp.eye(len(present_P), dtype=bool)

    def push(_, places_Px2):
        x_P, y_P = places_Px2[:, 0], places_Px2[:, 1]
        x_PxP, y_PxP = x_P[:, None] - x_P, y_P[:, None] - y_P
        closeness_PxP = jax.lax.rsqrt(x_PxP**2 + y_PxP**2 + 1e-6)
        # Each of the two goes half the way that is missing.
        step_PxP = jnp.where(pairs_PxP, jnp.maximum(0.5 * (_PERSONAL_SPACE * closeness_PxP - 1.0), 0.0), 0.0)
        x_P, y_P = x_P + jnp.sum(step_PxP * x_PxP, axis=1), y_P + jnp.sum(step_PxP * y_PxP, axis=1)
        radius_P = jnp.sqrt(x_P**2 + y_P**2 + 1e-6)
        return jnp.stack([x_P, y_P], axis=-1) * (jnp.clip(radius_P, nearest, farthest) / radius_P)[:, None]

    return jax.lax.fori_loop(0, 8, push, places_Px2)


def _bodies(uniform_2xP, normal_6xP) -> tuple[_Body, jax.Array]:
    """Bodies and statures `[P]`: women and men 1.50 to 1.90 m, and some children 1.05 to 1.45 m."""
    kind_P, age_P = uniform_2xP
    child_P = kind_P < 0.07
    adult_P = jnp.where(kind_P < 0.53, 1.63 + 0.065 * normal_6xP[0], 1.76 + 0.07 * normal_6xP[0])
    stature_P = jnp.where(child_P, 1.05 + 0.4 * age_P, adult_P)

    leg_P = stature_P * (1 + 0.02 * normal_6xP[1]) * jnp.where(child_P, jnp.float32(0.96), 1.0)
    arm_P = stature_P * (1 + 0.03 * normal_6xP[2]) * jnp.where(child_P, jnp.float32(0.96), 1.0)
    breadth_P = stature_P * (1 + 0.05 * normal_6xP[3])
    hip_P = stature_P * (1 + 0.05 * normal_6xP[4])
    head_P = stature_P * 0.152 * (1 + 0.03 * normal_6xP[5]) * jnp.where(child_P, jnp.float32(1.18), 1.0)
    pelvis_P = 0.03 * stature_P
    return _Body(
        thigh=0.245 * leg_P,
        shank=0.246 * leg_P,
        foot=0.039 * leg_P,
        hip=0.052 * hip_P,  # the joints; the hips' breadth is nearly twice that
        pelvis=pelvis_P,
        spine=(stature_P - 0.53 * leg_P - pelvis_P - head_P) / 5,
        head=head_P,
        clavicle=0.03 * breadth_P,
        shoulder=0.116 * breadth_P,  # the joints; 0.129 is the bony breadth
        upper_arm=0.186 * arm_P,
        forearm=0.146 * arm_P,
    ), stature_P


class _Groups(NamedTuple):
    """What the members of a group share, and each one's place in it; one number a person."""

    group: jax.Array  # number of the group
    activity: jax.Array
    speed: jax.Array
    heading: jax.Array
    offset: jax.Array  # [P, 2] metres from the group's place


def _groups(uniform_7xP, normal_4xP, crowd: Crowd, count) -> _Groups:
    """Groups of 1 to 5 for `count` people: side by side, or standing in a circle."""
    P = crowd.max_people
    size_P, activity_P, circle_P, turn_P, kind_P, spin_P, street_P = uniform_7xP
    speed_P, veer_P, *jitter_2xP = normal_4xP

    # Groups fill the list of people one after the other. Here an index is a group's.
    shares_5 = _GROUP_RATE ** np.arange(1, 6) / np.array([math.factorial(n) for n in range(1, 6)])
    size_P = 1 + _pick(size_P, shares_5 / shares_5.sum())
    end_P = jnp.cumsum(size_P, dtype=jnp.int32)
    start_P = end_P - size_P
    size_P = jnp.clip(count - start_P, 1, size_P)  # the last one may be cut short
    activity_P = _pick(activity_P, np.array(crowd.activities) / sum(crowd.activities))
    speed_AxP = jnp.stack([1.34 + 0.26 * speed_P, 3.0 + 0.5 * speed_P, 0 * speed_P, 0 * speed_P])
    speed_P = jnp.take_along_axis(speed_AxP, activity_P[None], axis=0)[0]
    circle_P = (activity_P == _STAND) & (circle_P < 0.7) & (size_P > 1)
    # Most walk along the street, one way or the other; who sits looks across it; the others look anywhere.
    street = 2 * math.pi * street_P[0]
    along_P = (
        street
        + math.pi * (spin_P < 0.5).astype(jnp.float32)
        + jnp.where(activity_P == _SIT, jnp.float32(math.pi / 2), 0.0)
        + 0.15 * veer_P
    )
    anywhere_P = (activity_P == _STAND) | (kind_P < 0.2)
    heading_P = jnp.where(anywhere_P, 2 * math.pi * turn_P, along_P)

    # From here on an index is a person's.
    person_P = jnp.arange(P, dtype=jnp.int32)
    group_P = jnp.sum(person_P[:, None] >= end_P, axis=1, dtype=jnp.int32)
    member_P = person_P - start_P[group_P]
    size_P, circle_P, heading_P = size_P[group_P], circle_P[group_P], heading_P[group_P]
    jitter_Px2 = 0.06 * jnp.stack(jitter_2xP, axis=-1)
    abreast_Px3 = _vector(0.75 * (member_P - (size_P - 1).astype(jnp.float32) / 2))
    abreast_Px2 = _about_z(heading_P, abreast_Px3)[:, :2]
    around_P = heading_P + 2 * math.pi * member_P.astype(jnp.float32) / size_P
    radius_P = 0.45 / jnp.sin(math.pi / jnp.maximum(size_P, 2).astype(jnp.float32))
    around_Px2 = radius_P[:, None] * jnp.stack([jnp.cos(around_P), jnp.sin(around_P)], axis=-1)
    return _Groups(
        group=group_P,
        activity=activity_P[group_P],
        speed=speed_P[group_P],
        heading=jnp.where(circle_P, around_P + math.pi / 2, heading_P),  # in a circle, to its middle
        offset=jnp.where(circle_P[:, None], around_Px2, abreast_Px2) + jitter_Px2,
    )


@functools.lru_cache
def _strides() -> np.ndarray:
    """Length of a stride in statures that `_GAITS` makes, walking and running, from the feet's way while they stand."""
    phases = np.array([[0.08, 0.40], [0.05, 0.30]])
    turns = 2 * math.pi * phases[..., None] * np.arange(1, _HARMONICS + 1)
    waves = np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(2, 2, -1)
    basis = np.concatenate([np.ones((2, 2, 1)), waves], axis=-1)
    thigh, knee, _ = np.moveaxis(np.einsum("apk,akj->apj", basis, _GAITS), -1, 0)
    ankle = 0.245 * np.sin(thigh) + 0.246 * np.sin(thigh - knee)
    return ((ankle[:, 0] - ankle[:, 1]) / (phases[:, 1] - phases[:, 0])).astype(np.float32)


def _sample_people(key, crowd: Crowd, view: _View) -> tuple[_Person, jax.Array]:
    """People `[P]` and which of them are present `[P]`."""
    P = crowd.max_people
    # One draw for everything, as each costs compile time; the barrier keeps XLA from repeating it in every kernel.
    key_uniform, key_normal = jax.random.split(key)
    uniform_28xP = jax.random.uniform(key_uniform, (28, P), jnp.float32)
    normal_28xP = jax.random.truncated_normal(key_normal, -2.0, 2.0, (28, P), jnp.float32)
    uniform_28xP, normal_28xP = jax.lax.optimization_barrier((uniform_28xP, normal_28xP))
    for_count, for_places, for_groups, for_bodies, uniform_16xP = jnp.split(uniform_28xP, [1, 3, 10, 12])
    varied_groups, varied_bodies, varied_18xP = jnp.split(normal_28xP, [4, 10])

    shares = _people_shares(crowd.min_people, crowd.mean_people, crowd.most_people)
    count = crowd.min_people + _pick(for_count[0, 0], shares)
    present_P = jnp.arange(P, dtype=jnp.int32) < count
    groups = _groups(for_groups, varied_groups, crowd, count)
    limits = _ground_limits(crowd, view)
    places_Px2 = _places(for_places, crowd, view, limits)[groups.group] + groups.offset
    body, stature_P = _bodies(for_bodies, varied_bodies)
    phase_P, pose_P, hand_P, knee_P, bend_P, *idle_11xP = uniform_16xP
    walk_P, run_P, sit_P = (groups.activity == a for a in (_WALK, _RUN, _SIT))

    # Strides: walking, step length and step rate both grow with the root of the speed (Grieve & Gear 1966); running,
    # the rate hardly changes. The thighs swing as far as the stride is long.
    speed_P = groups.speed
    cadence_P = jnp.where(
        run_P, 1.4 * jnp.sqrt(1.75 / stature_P), jnp.sqrt(jnp.maximum(speed_P, 1e-3)) / (0.72 * stature_P)
    )
    moves_P = walk_P | run_P
    gait_P = run_P.astype(jnp.int32)
    swing_P = jnp.where(moves_P, speed_P / (cadence_P * stature_P * jnp.asarray(_strides())[gait_P]), 0.0)
    gait_PxKx3 = jnp.asarray(_GAITS)[gait_P]
    gait_PxKx3 = gait_PxKx3.at[:, 1:, 0].multiply(swing_P[:, None])

    # Who keeps still has a constant pose, its feet flat on the ground: the ankle takes back what thigh and knee tilt.
    stand_knee_2xP = jnp.radians(3.0 + 14.0 * jnp.stack([knee_P, 1 - knee_P]) * bend_P**2)
    still_thigh_2xP = jnp.where(sit_P, jnp.radians(86.0 + 3.0 * varied_18xP[:2]), 0.55 * stand_knee_2xP)
    still_knee_2xP = jnp.where(sit_P, jnp.radians(84.0 + 8.0 * varied_18xP[2:4]), stand_knee_2xP)
    still_2xPx3 = jnp.stack([still_thigh_2xP, still_knee_2xP, still_knee_2xP - still_thigh_2xP], axis=-1)
    still_Px2x1x3 = jnp.moveaxis(still_2xPx3, 0, 1)[:, :, None]
    still_Px2xKx3 = jnp.pad(still_Px2x1x3, ((0, 0), (0, 0), (0, 2 * _HARMONICS), (0, 0)))
    legs_Px2xKx3 = jnp.where(moves_P[:, None, None, None], gait_PxKx3[:, None], still_Px2xKx3)

    def by_activity(walk, run, stand, sit):
        return jnp.radians(jnp.array([walk, run, stand, sit], jnp.float32))[groups.activity]

    arm_pose_P = _pick(pose_P, jnp.asarray(_ARM_POSE_SHARES, jnp.float32)[groups.activity])
    arms_Px2x4 = jnp.asarray(_ARM_POSES)[arm_pose_P]
    arms_Px2x4 = jnp.where(hand_P[:, None, None] < 0.8, arms_Px2x4, arms_Px2x4[:, ::-1])  # most are right-handed
    arms_Px2x4 = arms_Px2x4 + jnp.radians(jnp.float32(5.0)) * jnp.moveaxis(varied_18xP[4:12].reshape(2, 4, P), -1, 0)
    swings_Px2 = arms_Px2x4[..., 3] < jnp.radians(jnp.float32(35.0))  # an arm that is busy does not swing
    swings_Px2 = jnp.where(run_P[:, None] | swings_Px2, jnp.float32(1.0), 0.15)
    return _Person(
        body=body,
        position=_keep_apart(places_Px2, present_P, *limits[:2]),
        heading=groups.heading + jnp.where(moves_P, 0.0, 0.2 * varied_18xP[12]),
        speed=speed_P,
        cadence=jnp.where(moves_P, cadence_P, 0.0),
        phase=phase_P,
        legs=legs_Px2xKx3,
        hip_spread=by_activity(-2.0, -3.0, 2.0, 5.0) + jnp.radians(jnp.float32(1.5)) * varied_18xP[13],
        bounce=jnp.where(run_P, jnp.float32(0.05), 0.0),
        pelvis_twist=by_activity(5.0, 8.0, 0.0, 0.0),
        lean=by_activity(3.0, 9.0, 2.0, 6.0) + by_activity(2.0, 2.0, 2.5, 8.0) * varied_18xP[14],
        arms=arms_Px2x4,
        arm_swing=(by_activity(20.0, 35.0, 0.0, 0.0) * jnp.minimum(swing_P, 1.4))[:, None] * swings_Px2,
        head_turn=by_activity(10.0, 5.0, 20.0, 20.0) * varied_18xP[15],
        head_bow=jnp.where(arm_pose_P == _LOOKING_AT_PHONE, jnp.radians(jnp.float32(25.0)), 0.0)
        + 0.08 * varied_18xP[16],
        idle=jnp.stack(idle_11xP, axis=-1),
        idle_rate=0.2 + 0.05 * varied_18xP[17],
    ), present_P
