"""The look of people: some twenty capsules each, in clothes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from loco_jax.data.crowd import palette
from loco_jax.data.crowd.palette import choose, uniform
from loco_jax.data.crowd.shapes import Capsules
from loco_jax.geometry.skeleton import JTA_JOINTS

INDEX = {name: i for i, name in enumerate(JTA_JOINTS)}
PARTS = (
    "head", "hair", "neck", "trunk", "right_side", "left_side", "shoulders", "pelvis",
    "right_upper_arm", "left_upper_arm", "right_forearm", "left_forearm", "right_hand", "left_hand",
    "right_thigh", "left_thigh", "right_shank", "left_shank", "right_foot", "left_foot", "bag", "seat", "seat_leg",
)  # fmt: skip

# How far below its own skin a joint may lie, in metres, for an adult. Only surfaces farther in front hide it.
_DEPTHS = {
    "head_top": 0.13, "head_center": 0.15, "neck": 0.15, "elbow": 0.09, "wrist": 0.08, "knee": 0.12, "ankle": 0.1,
    "clavicle": 0.15, "shoulder": 0.12,
}  # fmt: skip
DEPTH_IN_BODY = np.array(
    [next((depth for part, depth in _DEPTHS.items() if name.endswith(part)), 0.17) for name in JTA_JOINTS], np.float32
)


class Clothes(NamedTuple):
    """The clothes of P people."""

    build: jax.Array  # [P] how thick, about 1
    colours: jax.Array  # [P, 6, 3] skin, hair, top, bottom, shoes, bag
    stripes: jax.Array  # [P] stripes a metre on the top, 0 for none
    stripe_colour: jax.Array  # [P, 3]
    sleeves: jax.Array  # [P] whether they are long
    shorts: jax.Array  # [P]
    skirt: jax.Array  # [P] how much wider the thighs are
    bag: jax.Array  # [P]


def sample_clothes(key: PRNGKeyArray, count: int) -> Clothes:
    """Random clothes for `count` people."""
    keys = jax.random.split(key, 13)
    tables = palette.SKIN, palette.HAIR, palette.TOPS, palette.BOTTOMS, palette.SHOES, palette.TOPS
    colours = [
        choose(k, table, count) * uniform(shade, (count, 1), 0.75, 1.25)
        for table, k, shade in zip(tables, keys, jax.random.split(keys[6], 6))
    ]
    u_5xP = uniform(keys[7], (5, count))
    return Clothes(
        build=1 + 0.11 * jax.random.truncated_normal(keys[8], -2, 2, (count,), jnp.float32),
        colours=jnp.stack(colours, axis=1),
        stripes=jnp.where(u_5xP[0] < 0.2, uniform(keys[9], (count,), 4.0, 14.0), 0.0),
        stripe_colour=choose(keys[10], palette.TOPS, count),
        sleeves=u_5xP[1] < 0.65,
        shorts=u_5xP[2] < 0.2,
        skirt=jnp.where(u_5xP[3] < 0.15, jnp.float32(0.35), 0.0),
        bag=u_5xP[4] < 0.22,
    )


def bodies(
    joints: Float[jax.Array, "P 22 3"],
    present: Bool[jax.Array, " P"],
    up: Float[jax.Array, "3"],
    height: Float[jax.Array, ""],
    clothes: Clothes,
) -> Capsules:
    """The `P * len(PARTS)` capsules of people and of their seats.

    Joints, `up` and the capsules are in camera coordinates; the camera is `height` metres above the ground.
    """

    def joint(name):
        return joints[:, INDEX[name]]

    def mix(a, b, share):
        return a + share * (b - a)

    def unit(v):
        return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)

    def length(a, b):
        return jnp.linalg.norm(joint(a) - joint(b), axis=-1)

    neck, top, centre, pelvis = joint("neck"), joint("head_top"), joint("head_center"), joint("spine4")
    right = unit(joint("right_hip") - joint("left_hip"))
    ahead = unit(jnp.cross(jnp.broadcast_to(up, right.shape), right))
    size = length("neck", "spine4") / 0.5  # relative to an adult
    s = size[:, None]
    crown = unit(top - neck)
    face = unit(jnp.cross(crown, right))
    c, build = clothes, clothes.build * size
    skin, hair, upper, lower, shoes, bag = (c.colours[:, i] for i in range(6))
    sleeve = jnp.where(c.sleeves[:, None], upper, skin)
    shank = jnp.where((c.shorts | (c.skirt > 0))[:, None], skin, lower)
    # Each part has two ends, a radius and a colour.
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
    worn = jnp.where(c.bag, 0.14 * size, 0.0)
    parts["bag"] = (mix(neck, pelvis, 0.2) + back, mix(neck, pelvis, 0.7) + back, worn, bag)
    above_ground = jnp.sum(pelvis * up, axis=-1) + height
    sits = above_ground < 0.75 * (length("right_hip", "right_knee") + length("right_knee", "right_ankle"))
    seat = pelvis - 0.2 * s * up - 0.05 * s * ahead
    wood = jnp.broadcast_to(palette.WOOD, skin.shape)
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
    return Capsules(
        ends.reshape(n, 2, 3),
        jnp.where(present[:, None], radius, 0.0).reshape(n),
        colour.reshape(n, 3),
        owner.reshape(n),
        (c.stripes[:, None] * is_top).reshape(n),
        jnp.broadcast_to(c.stripe_colour[:, None], colour.shape).reshape(n, 3),
    )
