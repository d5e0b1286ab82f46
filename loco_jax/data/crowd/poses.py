"""How people move: the measures of a body, and its pose at a time.

Leg angles over a stride: walking after Winter (1991) and Perry (1992), running after Novacheck (1998), rounded to a
degree.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


class Body(NamedTuple):
    """Measures in metres, one number a person."""

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


class Person(NamedTuple):
    """Everything that `pose` needs. Angles are in radians, flexion forward positive; the right side comes first."""

    body: Body
    position: jax.Array  # [2] on the ground, at time 0
    heading: jax.Array  # counterclockwise from above; 0 looks along the world's y
    speed: jax.Array  # metres a second
    cadence: jax.Array  # strides (double steps) a second
    phase: jax.Array  # of the right leg's stride at time 0, in strides
    legs: jax.Array  # [2, 11, 3] Fourier series of thigh, knee and ankle angles, right and left leg
    hip_spread: jax.Array  # abduction of both thighs
    bounce: jax.Array  # metres, how high a runner flies
    pelvis_twist: jax.Array  # how far the pelvis turns with the legs, and the chest against it
    lean: jax.Array  # of the trunk, forward
    arms: jax.Array  # [2, 4] shoulder flexion, abduction and inward twist, elbow flexion
    arm_swing: jax.Array  # [2]
    head_turn: jax.Array  # to the left
    head_bow: jax.Array
    idle: jax.Array  # [11] phases of the small slow motions of arms, head and trunk
    idle_rate: jax.Array  # hertz


WALK, RUN, STAND, SIT = range(4)
HARMONICS = 5
_SIDES = np.array([1.0, -1.0], np.float32)  # right, left

# Angles in degrees at 0, 5, ... 95 % of the stride, which begins as the foot touches the ground: the thigh against the
# vertical (forward positive), the knee's flexion, the ankle's dorsiflexion.
# fmt: off
_STRIDES = [
    [  # walking
        [24, 23, 20, 16, 11, 6, 0, -5, -11, -15, -18, -18, -13, -4, 6, 15, 21, 25, 26, 25],
        [4, 10, 16, 20, 19, 16, 12, 9, 8, 10, 15, 25, 40, 55, 64, 63, 53, 38, 20, 6],
        [0, -4, -3, 1, 4, 6, 7, 8, 9, 9, 7, -3, -15, -18, -12, -5, 0, 2, 2, 0],
    ],
    [  # running
        [30, 28, 23, 15, 6, -4, -13, -20, -23, -21, -14, -4, 8, 20, 31, 39, 43, 43, 40, 35],
        [18, 28, 38, 42, 41, 35, 27, 20, 19, 28, 44, 63, 82, 94, 97, 90, 74, 52, 31, 18],
        [5, 10, 18, 24, 25, 20, 8, -8, -20, -20, -14, -8, -4, 0, 2, 3, 4, 5, 6, 6],
    ],
]
# fmt: on


def _fourier(samples_x20: np.ndarray) -> np.ndarray:
    """Coefficients `[..., 11]` of 1, cos, sin, cos 2, sin 2 ... in radians, of angles `[..., 20]` in degrees."""
    spectrum = np.fft.rfft(np.radians(samples_x20), axis=-1) / 10
    waves = spectrum[..., 1 : HARMONICS + 1]
    pairs = np.stack([waves.real, -waves.imag], axis=-1).reshape(*waves.shape[:-1], -1)
    return np.concatenate([spectrum[..., :1].real / 2, pairs], axis=-1).astype(np.float32)


GAITS = np.moveaxis(_fourier(np.array(_STRIDES)), 1, 2)  # [walk or run, 11, thigh knee ankle]


def _basis(phase):
    """`[..., 11]`: 1, cos, sin, cos 2, sin 2 ... of a `phase[...]` in turns."""
    turns = 2 * math.pi * phase[..., None] * jnp.arange(1, HARMONICS + 1, dtype=jnp.int32)
    waves = jnp.stack([jnp.cos(turns), jnp.sin(turns)], axis=-1).reshape(*turns.shape[:-1], -1)
    return jnp.concatenate([jnp.ones_like(waves[..., :1]), waves], axis=-1)


def _turn(axes: tuple[int, int], angle, v):
    """Turns vectors `v[..., 3]` by `angle[...]` from the first of two axes to the second."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    turned = [v[..., i] for i in range(3)]
    a, b = (turned[i] for i in axes)
    turned[axes[0]], turned[axes[1]] = c * a - s * b, s * a + c * b
    return jnp.stack(jnp.broadcast_arrays(*turned), axis=-1)


about_x = functools.partial(_turn, (1, 2))  # what points down swings forward
about_y = functools.partial(_turn, (2, 0))  # what points down swings to the left
about_z = functools.partial(_turn, (0, 1))  # what points ahead swings to the left


def vector(x=0.0, y=0.0, z=0.0):
    return jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(a, jnp.float32) for a in (x, y, z))), axis=-1)


def pose(person: Person, time: Float[jax.Array, ""]) -> Float[jax.Array, "22 3"]:
    """Joints of one person in world coordinates, in metres, at a time in seconds."""
    body = person.body
    phases_2 = person.phase + person.cadence * time + jnp.float32([0.0, 0.5])  # the legs are half a stride apart
    idle_11 = jnp.sin(2 * math.pi * (person.idle_rate * time + person.idle))
    forward_2 = jnp.cos(2 * math.pi * phases_2)  # 1 when that leg is forward, -1 when it is behind
    pelvis_turn = person.pelvis_twist * forward_2[0]

    # Legs.
    hips_2x3 = about_z(pelvis_turn, vector(_SIDES * body.hip))
    angles_2x3 = jnp.sum(_basis(phases_2)[..., None] * person.legs, axis=1)
    thigh_2, shank_2 = angles_2x3[:, 0], angles_2x3[:, 0] - angles_2x3[:, 1]
    foot_2 = shank_2 + angles_2x3[:, 2]  # toes up positive
    spread_2 = -_SIDES * person.hip_spread
    knees_2x3 = hips_2x3 + about_y(spread_2, about_x(thigh_2, vector(z=-body.thigh)))
    ankles_2x3 = knees_2x3 + about_y(spread_2, about_x(shank_2, vector(z=-body.shank)))
    legs_6x3 = jnp.stack([hips_2x3, knees_2x3, ankles_2x3], axis=1).reshape(6, 3)

    # The lower foot, heel or ball, stands on the ground. The soft minimum keeps the hips from jerking from foot to
    # foot. It lies at most 7 mm below the minimum, so no foot sinks in.
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
    pelvis_3 = vector(z=body.pelvis)
    spine_5x3 = pelvis_3 + jnp.cumsum(about_z(turn_5, about_x(-lean_5, vector(z=jnp.full(5, body.spine)))), axis=0)
    neck_3 = spine_5x3[-1]
    spines_5x3 = jnp.concatenate([spine_5x3[-2::-1], pelvis_3[None]])

    def of_chest(v):
        return about_z(turn_5[-1], about_x(-lean_5[-1], v))

    # Head.
    head_turn = person.head_turn + 0.15 * idle_11[1]
    bow = person.head_bow + lean_5[-1] + 0.05 * idle_11[2]
    head_2x3 = vector(y=jnp.float32([0.06, 0.12]) * body.head, z=jnp.float32([1.0, 0.55]) * body.head)
    head_2x3 = neck_3 + about_z(head_turn, about_x(-bow, head_2x3))

    # Arms: each swings against the leg of its side.
    arms_2x4 = person.arms + 0.05 * idle_11[3:].reshape(2, 4)
    flexion_2 = arms_2x4[:, 0] - person.arm_swing * forward_2
    elbow_2 = jnp.maximum(arms_2x4[:, 3] - 0.4 * person.arm_swing * forward_2, 0.02)

    def of_shoulder(v_2x3):
        v_2x3 = about_x(flexion_2, about_z(_SIDES * arms_2x4[:, 2], v_2x3))
        return of_chest(about_y(-_SIDES * arms_2x4[:, 1], v_2x3))

    clavicles_2x3 = neck_3 + of_chest(vector(_SIDES * body.clavicle, z=-0.25 * body.shoulder))
    shoulders_2x3 = neck_3 + of_chest(vector(_SIDES * body.shoulder, z=-0.25 * body.shoulder))
    elbows_2x3 = shoulders_2x3 + of_shoulder(vector(z=jnp.full(2, -body.upper_arm)))
    wrists_2x3 = elbows_2x3 + of_shoulder(about_x(elbow_2, vector(z=-body.forearm)))
    arms_8x3 = jnp.stack([clavicles_2x3, shoulders_2x3, elbows_2x3, wrists_2x3], axis=1).reshape(8, 3)

    joints_Jx3 = jnp.concatenate([head_2x3, neck_3[None], arms_8x3, spines_5x3, legs_6x3])
    walked_3 = about_z(person.heading, vector(y=person.speed * time))
    origin_3 = walked_3 + jnp.concatenate([person.position, (lift - ground)[None]])
    return origin_3 + about_z(person.heading, joints_Jx3)
