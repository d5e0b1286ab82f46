"""The published refiner: a person's joints relative to the head, corrected and completed (method section 5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Metres: half of the range of the offsets from the head, joints 1 to 13.
RANGE = np.float32([0.27, 0.41, 0.67, 0.93, 0.41, 0.67, 0.92, 0.88, 1.28, 1.69, 0.88, 1.29, 1.70])
HOLE = -1.0
LEAST_SCORE = 0.2  # a joint of lower confidence is taken for a hole


class Refiner(nn.Module):
    """From normalised offsets `[..., 39]` to better ones: 39 -> 128 -> 128 -> 39, plus ReLU of the input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(128)(x))
        hidden = nn.relu(nn.Dense(128)(hidden))
        return nn.Dense(39)(hidden) + nn.relu(x)


def normalise(joints: jax.Array, known: jax.Array) -> jax.Array:
    """Offsets `[..., 39]` from the head, of `joints[..., 14, 3]` in metres; -1 where not `known[..., 14]`."""
    offsets = joints[..., 1:, :] - joints[..., :1, :]
    scaled = 0.5 + offsets / (2 * RANGE[:, None])
    scaled = jnp.where(known[..., 1:, None], scaled, HOLE)
    return scaled.reshape(*scaled.shape[:-2], 39)


def restore(offsets: jax.Array, head: jax.Array) -> jax.Array:
    """Joints `[..., 14, 3]` in metres of normalised `offsets[..., 39]` and `head[..., 3]`."""
    offsets = (offsets.reshape(*offsets.shape[:-1], 13, 3) - 0.5) * (2 * RANGE[:, None])
    return jnp.concatenate([head[..., None, :], head[..., None, :] + offsets], axis=-2)
