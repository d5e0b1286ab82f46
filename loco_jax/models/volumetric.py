"""Uncompressed volumetric heatmaps: a network that predicts the volumes themselves, with depth bins as channels.

It is the poster's system without a code, see docs/method.md.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models import cells

_RARE = -5.0  # logit at the start, as PatchVHA's: almost all voxels are empty


class VolumetricPredictor(nn.Module):
    """From a picture to volumetric heatmaps, a cell every 8 pixels.

    Attributes:
      depth_bins: D of the volume; a cell has a channel for each joint type and bin.
      width, blocks, coarsest, dtype: see `compact.CompactPredictor`.
    """

    depth_bins: int
    width: int = 32
    blocks: int = 2
    coarsest: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Float[jax.Array, "B J H W D"]:
        """Logits of the heatmaps of pictures by cameras with fields `[B]`."""
        size = skeleton.NUM_JOINTS * self.depth_bins
        network = cells.CellNetwork(size, self.width, self.blocks, self.coarsest, self.dtype, (_RARE,) * size)
        logits_BxHxWxN = network(image, camera)
        logits = logits_BxHxWxN.reshape(*logits_BxHxWxN.shape[:3], skeleton.NUM_JOINTS, self.depth_bins)
        return jnp.moveaxis(logits, 3, 1)
