"""The people of a scene and their activities: all that is random about people, drawn once per scene.

Limbs as fractions of stature: Drillis & Contini (1966), as tabulated by Winter. Statures: European adults. Walking
speed 1.34 +- 0.26 m/s: Weidmann (1993). Group sizes, a zero-truncated Poisson law: James (1953).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from loco_jax.data.crowd.placing import View, ground_limits, keep_apart, places
from loco_jax.data.crowd.poses import GAITS, HARMONICS, RUN, SIT, STAND, WALK, Body, Person, about_z, vector
from loco_jax.data.crowd.settings import Crowd

# Degrees: shoulder flexion, abduction, inward twist, elbow; first of the arm that does something, then of the other.
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

_GROUP_SHARES = np.array([1 / math.factorial(n) for n in range(1, 6)])  # of groups of 1 to 5 people: Poisson, rate 1


def _pick(uniform, shares):
    """The index `[...]` drawn by `uniform[...]` from `shares[..., N]`, which add up to 1."""
    up_to = jnp.cumsum(jnp.asarray(shares, jnp.float32), axis=-1)[..., :-1]
    return jnp.sum(uniform[..., None] >= up_to, axis=-1, dtype=jnp.int32)


@functools.lru_cache
def people_shares(fewest: int, mean: float, most: int) -> Float[np.ndarray, " N"]:
    """Probabilities of `fewest` to `most` people: the law n exp(-rate n), with the rate that gives this mean."""
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


def _bodies(uniform_2xP, normal_6xP) -> tuple[Body, jax.Array]:
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
    return Body(
        thigh=0.245 * leg_P,
        shank=0.246 * leg_P,
        foot=0.039 * leg_P,
        hip=0.052 * hip_P,  # to the joint; the hips' breadth is nearly twice that
        pelvis=pelvis_P,
        spine=(stature_P - 0.53 * leg_P - pelvis_P - head_P) / 5,
        head=head_P,
        clavicle=0.03 * breadth_P,
        shoulder=0.116 * breadth_P,  # to the joint; 0.129 is the bony breadth
        upper_arm=0.186 * arm_P,
        forearm=0.146 * arm_P,
    ), stature_P


class _Groups(NamedTuple):
    """The properties that the members of a group share, and each member's place in it; one number a person."""

    group: jax.Array  # its number
    activity: jax.Array
    speed: jax.Array
    heading: jax.Array
    offset: jax.Array  # [P, 2] metres from the group's place


def _groups(uniform_7xP, normal_4xP, crowd: Crowd, count) -> _Groups:
    """Groups of 1 to 5 for `count` people: side by side, or standing in a circle."""
    P = crowd.max_people
    size_P, activity_P, circle_P, turn_P, kind_P, spin_P, street_P = uniform_7xP
    speed_P, veer_P, *jitter_2xP = normal_4xP

    # Groups fill the list of people one after the other. Up to the next comment, P counts groups.
    size_P = 1 + _pick(size_P, _GROUP_SHARES / _GROUP_SHARES.sum())
    end_P = jnp.cumsum(size_P, dtype=jnp.int32)
    start_P = end_P - size_P
    size_P = jnp.clip(count - start_P, 1, size_P)  # the last one may be cut short
    activity_P = _pick(activity_P, np.array(crowd.activities) / sum(crowd.activities))
    speed_AxP = jnp.stack([1.34 + 0.26 * speed_P, 3.0 + 0.5 * speed_P, 0 * speed_P, 0 * speed_P])
    speed_P = jnp.take_along_axis(speed_AxP, activity_P[None], axis=0)[0]
    circle_P = (activity_P == STAND) & (circle_P < 0.7) & (size_P > 1)
    # Most walk along the street, in either direction. People who sit look across it. The others look anywhere.
    street = 2 * math.pi * street_P[0]
    along_P = (
        street
        + math.pi * (spin_P < 0.5).astype(jnp.float32)
        + jnp.where(activity_P == SIT, jnp.float32(math.pi / 2), 0.0)
        + 0.15 * veer_P
    )
    anywhere_P = (activity_P == STAND) | (kind_P < 0.2)
    heading_P = jnp.where(anywhere_P, 2 * math.pi * turn_P, along_P)

    # From here on, P counts people.
    person_P = jnp.arange(P, dtype=jnp.int32)
    group_P = jnp.sum(person_P[:, None] >= end_P, axis=1, dtype=jnp.int32)
    member_P = person_P - start_P[group_P]
    size_P, circle_P, heading_P = size_P[group_P], circle_P[group_P], heading_P[group_P]
    jitter_Px2 = 0.06 * jnp.stack(jitter_2xP, axis=-1)
    abreast_Px3 = vector(0.75 * (member_P - (size_P - 1).astype(jnp.float32) / 2))
    abreast_Px2 = about_z(heading_P, abreast_Px3)[:, :2]
    around_P = heading_P + 2 * math.pi * member_P.astype(jnp.float32) / size_P
    radius_P = 0.45 / jnp.sin(math.pi / jnp.maximum(size_P, 2).astype(jnp.float32))
    around_Px2 = radius_P[:, None] * jnp.stack([jnp.cos(around_P), jnp.sin(around_P)], axis=-1)
    return _Groups(
        group=group_P,
        activity=activity_P[group_P],
        speed=speed_P[group_P],
        heading=jnp.where(circle_P, around_P + math.pi / 2, heading_P),  # in a circle, towards its middle
        offset=jnp.where(circle_P[:, None], around_Px2, abreast_Px2) + jitter_Px2,
    )


@functools.lru_cache
def _stride_lengths() -> np.ndarray:
    """Lengths in statures of the strides in `GAITS`: how far a foot moves back against the hips while it stands."""
    phases = np.array([[0.08, 0.40], [0.05, 0.30]])
    turns = 2 * math.pi * phases[..., None] * np.arange(1, HARMONICS + 1)
    waves = np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(2, 2, -1)
    basis = np.concatenate([np.ones((2, 2, 1)), waves], axis=-1)
    thigh, knee, _ = np.moveaxis(np.einsum("apk,akj->apj", basis, GAITS), -1, 0)
    ankle = 0.245 * np.sin(thigh) + 0.246 * np.sin(thigh - knee)
    return ((ankle[:, 0] - ankle[:, 1]) / (phases[:, 1] - phases[:, 0])).astype(np.float32)


def sample_people(key: PRNGKeyArray, crowd: Crowd, view: View) -> tuple[Person, Bool[jax.Array, " P"]]:
    """People, all arrays with a leading axis P, and which of them are present."""
    P = crowd.max_people
    # One draw for everything, because each costs compile time. The barrier keeps XLA from repeating it in every kernel.
    key_uniform, key_normal = jax.random.split(key)
    uniform_28xP = jax.random.uniform(key_uniform, (28, P), jnp.float32)
    normal_28xP = jax.random.truncated_normal(key_normal, -2.0, 2.0, (28, P), jnp.float32)
    uniform_28xP, normal_28xP = jax.lax.optimization_barrier((uniform_28xP, normal_28xP))
    for_count, for_places, for_groups, for_bodies, uniform_16xP = jnp.split(uniform_28xP, [1, 3, 10, 12])
    varied_groups, varied_bodies, varied_18xP = jnp.split(normal_28xP, [4, 10])

    shares = people_shares(crowd.min_people, crowd.mean_people, crowd.most_people)
    count = crowd.min_people + _pick(for_count[0, 0], shares)
    present_P = jnp.arange(P, dtype=jnp.int32) < count
    groups = _groups(for_groups, varied_groups, crowd, count)
    limits = ground_limits(crowd, view)
    places_Px2 = places(for_places, crowd, view, limits)[groups.group] + groups.offset
    body, stature_P = _bodies(for_bodies, varied_bodies)
    phase_P, pose_P, hand_P, knee_P, bend_P, *idle_11xP = uniform_16xP
    walk_P, run_P, sit_P = (groups.activity == a for a in (WALK, RUN, SIT))

    # In walking, step length and step rate both grow with the root of the speed (Grieve & Gear 1966). In running, the
    # rate hardly changes. The swing of the thighs fits the length of the stride.
    speed_P = groups.speed
    cadence_P = jnp.where(
        run_P, 1.4 * jnp.sqrt(1.75 / stature_P), jnp.sqrt(jnp.maximum(speed_P, 1e-3)) / (0.72 * stature_P)
    )
    moves_P = walk_P | run_P
    gait_P = run_P.astype(jnp.int32)
    swing_P = jnp.where(moves_P, speed_P / (cadence_P * stature_P * jnp.asarray(_stride_lengths())[gait_P]), 0.0)
    gait_PxKx3 = jnp.asarray(GAITS)[gait_P]
    gait_PxKx3 = gait_PxKx3.at[:, 1:, 0].multiply(swing_P[:, None])

    # People who keep still have a constant pose. The ankle undoes the tilt of thigh and knee, so that feet are flat.
    stand_knee_2xP = jnp.radians(3.0 + 14.0 * jnp.stack([knee_P, 1 - knee_P]) * bend_P**2)
    still_thigh_2xP = jnp.where(sit_P, jnp.radians(86.0 + 3.0 * varied_18xP[:2]), 0.55 * stand_knee_2xP)
    still_knee_2xP = jnp.where(sit_P, jnp.radians(84.0 + 8.0 * varied_18xP[2:4]), stand_knee_2xP)
    still_2xPx3 = jnp.stack([still_thigh_2xP, still_knee_2xP, still_knee_2xP - still_thigh_2xP], axis=-1)
    still_Px2x1x3 = jnp.moveaxis(still_2xPx3, 0, 1)[:, :, None]
    still_Px2xKx3 = jnp.pad(still_Px2x1x3, ((0, 0), (0, 0), (0, 2 * HARMONICS), (0, 0)))
    legs_Px2xKx3 = jnp.where(moves_P[:, None, None, None], gait_PxKx3[:, None], still_Px2xKx3)

    def by_activity(walk, run, stand, sit):
        return jnp.radians(jnp.array([walk, run, stand, sit], jnp.float32))[groups.activity]

    arm_pose_P = _pick(pose_P, jnp.asarray(_ARM_POSE_SHARES, jnp.float32)[groups.activity])
    arms_Px2x4 = jnp.asarray(_ARM_POSES)[arm_pose_P]
    arms_Px2x4 = jnp.where(hand_P[:, None, None] < 0.8, arms_Px2x4, arms_Px2x4[:, ::-1])  # most are right-handed
    arms_Px2x4 = arms_Px2x4 + jnp.radians(jnp.float32(5.0)) * jnp.moveaxis(varied_18xP[4:12].reshape(2, 4, P), -1, 0)
    swings_Px2 = arms_Px2x4[..., 3] < jnp.radians(jnp.float32(35.0))  # a busy arm does not swing
    swings_Px2 = jnp.where(run_P[:, None] | swings_Px2, jnp.float32(1.0), 0.15)
    return Person(
        body=body,
        position=keep_apart(places_Px2, present_P, limits),
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
