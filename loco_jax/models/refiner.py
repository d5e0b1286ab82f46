"""The published refiner: a person's joints relative to the head, corrected and completed (method section 5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array

# Half of the range of offsets from the head in metres, for joints 1 to 13.
RANGE = np.array([0.27, 0.41, 0.67, 0.93, 0.41, 0.67, 0.92, 0.88, 1.28, 1.69, 0.88, 1.29, 1.70], np.float32)
HOLE = -1.0
LEAST_SCORE = 0.2  # a joint of lower confidence counts as missing


class Refiner(nn.Module):
    """From normalised offsets to better ones: 39 -> 128 -> 128 -> 39, plus ReLU of the input."""

    @nn.compact
    def __call__(self, x: Float[Array, "*people 39"]) -> Float[jax.Array, "*people 39"]:
        hidden = nn.relu(nn.Dense(128)(x))
        hidden = nn.relu(nn.Dense(128)(hidden))
        return nn.Dense(39)(hidden) + nn.relu(x)


def normalise(joints: Float[Array, "*people 14 3"], known: Bool[Array, "*people 14"]) -> Float[jax.Array, "*people 39"]:
    """Offsets from the head of joints in metres, scaled to about 0 to 1; -1 for joints that are not `known`."""
    offsets = joints[..., 1:, :] - joints[..., :1, :]
    scaled = 0.5 + offsets / (2 * RANGE[:, None])
    scaled = jnp.where(known[..., 1:, None], scaled, HOLE)
    return scaled.reshape(*scaled.shape[:-2], 39)


def restore(offsets: Float[Array, "*people 39"], head: Float[Array, "*people 3"]) -> Float[jax.Array, "*people 14 3"]:
    """The inverse of `normalise`: joints in metres from offsets and a head in metres."""
    offsets = (offsets.reshape(*offsets.shape[:-1], 13, 3) - 0.5) * (2 * RANGE[:, None])
    return jnp.concatenate([head[..., None, :], head[..., None, :] + offsets], axis=-2)
