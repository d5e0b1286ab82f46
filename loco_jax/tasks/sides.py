"""Right and left in the heatmaps that an autoencoder makes of a code: a loss, and a score.

Both look at pairs of joints, such as the shoulders, that are at least `APART` voxels apart in the picture. Nearer ones
share a Gaussian.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from loco_jax import ops
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.volume import Volume

APART = 1.5  # voxels
# The right and the left joints of the six pairs: shoulders, elbows, wrists, hips, knees, ankles.
RIGHT, LEFT = zip(*[(i, j) for i, j in enumerate(skeleton.MIRROR) if i < j], strict=True)
# `[2, 4]` right and left joints of the pairs that are scored.
MEASURED = np.array(list(skeleton.PAIRS.values()), np.int32).T


def far_apart(
    voxels: Float[jax.Array, "P J 3"], present: Bool[Array, "P J"], pairs: Int32[np.ndarray, "2 S"]
) -> Bool[Array, "P S"]:
    """Whether both joints of a pair are present and at least `APART` voxels apart in the picture."""
    right, left = pairs
    away_PxS = jnp.linalg.norm(voxels[:, right, :2] - voxels[:, left, :2], axis=-1)
    return present[:, right] & present[:, left] & (away_PxS >= APART)


def error(
    network: Any,
    params: Any,
    volume: Volume,
    features: Float[jax.Array, "B d h w C"],
    voxels: Float[jax.Array, "B P J 3"],
    present: Bool[Array, "B P J"],
) -> Float[jax.Array, ""]:
    """The error of telling right from left in the heatmaps of a PatchVHA's `features`.

    The mean of softplus(-d) over four differences d of logits for each of the six pairs. At a joint's place its own
    heatmap should be higher than that of the other side's joint. A joint's heatmap should be higher at its own place
    than at the other's. If nothing tells the sides apart, the error is log 2.
    """
    sides_2x6 = np.array([RIGHT, LEFT], np.int32)
    joints_2x2xPx6 = np.broadcast_to(sides_2x6[:, None, None], (2, 2, voxels.shape[1], 6))

    def of_frame(features, voxels_PxJx3, present_PxJ):
        apart_Px6 = far_apart(voxels_PxJx3, present_PxJ, sides_2x6)
        inside = jnp.clip(jnp.round(voxels_PxJx3), 0, np.int32(volume.shape) - 1)
        voxels_PxJx3 = jnp.where(present_PxJ[..., None], inside, 0).astype(jnp.int32)
        at_2xPx6x3 = jnp.moveaxis(voxels_PxJx3[:, sides_2x6], 1, 0)
        at_2x2xPx6x3 = jnp.broadcast_to(at_2xPx6x3, (2, *at_2xPx6x3.shape))
        found = ops.logits_at(
            network, params, features, joints_2x2xPx6.reshape(-1), at_2x2xPx6x3.reshape(-1, 3)
        ).reshape(joints_2x2xPx6.shape)
        own, other = jnp.stack([found[0, 0], found[1, 1]]), jnp.stack([found[0, 1], found[1, 0]])
        wrong_Px6 = jnp.mean(nn.softplus(other - own) + nn.softplus(other[::-1] - own), axis=0) / 2
        return jnp.sum(wrong_Px6, where=apart_Px6), jnp.sum(apart_Px6, dtype=jnp.int32)

    errors, count = jax.vmap(of_frame)(features, voxels, present)
    return jnp.sum(errors) / jnp.maximum(jnp.sum(count, dtype=jnp.int32), 1)


def own_side(
    network: Any,
    params: Any,
    volume: Volume,
    code: Float[jax.Array, "h w d"],
    voxels: Float[jax.Array, "P J 3"],
    present: Bool[Array, "P J"],
) -> Float[jax.Array, "4"]:
    """The number of joints of each pair whose heatmap is higher at their own voxel than at the other joint's.

    Equal heights count half.
    """
    apart_Px4 = far_apart(voxels, present, MEASURED)
    voxels = jnp.where(present[..., None], jnp.round(voxels), 0)
    at_SxPx2x4x3 = jnp.stack([voxels[:, MEASURED], voxels[:, MEASURED[::-1]]])
    joints_SxPx2x4 = jnp.broadcast_to(MEASURED, at_SxPx2x4x3.shape[:-1])
    places = joints_SxPx2x4.reshape(-1), at_SxPx2x4x3.reshape(-1, 3)
    values = ops.decode_at(network, params, code, volume.shape[:2], *places)
    here, there = values.reshape(joints_SxPx2x4.shape)
    won_Px2x4 = (here > there) + 0.5 * (here == there).astype(jnp.float32)
    return jnp.sum(won_Px2x4 * apart_Px4[:, None], axis=(0, 1))
