"""Location Maps: where joints are in the picture, and three maps with their positions (Mehta et al., "VNect", 2017).

Several people are read from the same maps, as in the LoCO paper's comparison.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models import cells

_METRES = 10.0  # the unit of the network's numbers: people stand about so far away
_RARE = -4.0  # logit of the heatmaps at the start: most cells have no joint


class Maps(NamedTuple):
    """For each joint type, a heatmap in the picture and positions.

    Attributes:
      heatmaps: from 0 to 1, or logits; see the function that returns them.
      xyz: metres in camera coordinates, meaningful where the heatmap is high.
    """

    heatmaps: Float[Array, "*batch J H W"]
    xyz: Float[Array, "*batch J H W 3"]


class LocationMapsPredictor(nn.Module):
    """From a picture to location maps, a cell every 8 pixels.

    Attributes:
      width, blocks, coarsest, dtype: see `compact.CompactPredictor`.
    """

    width: int = 32
    blocks: int = 2
    coarsest: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Maps:
        """Maps of pictures by cameras with fields `[B]`; the heatmaps as logits."""
        num_joints = skeleton.NUM_JOINTS
        bias = (_RARE,) * num_joints + (0.0, 0.0, 1.0) * num_joints
        network = cells.CellNetwork(len(bias), self.width, self.blocks, self.coarsest, self.dtype, bias)
        numbers_BxNxHxW = jnp.moveaxis(network(image, camera), -1, 1)
        batch, _, *grid = numbers_BxNxHxW.shape
        xyz_BxJx3xHxW = _METRES * numbers_BxNxHxW[:, num_joints:].reshape(batch, num_joints, 3, *grid)
        return Maps(numbers_BxNxHxW[:, :num_joints], jnp.moveaxis(xyz_BxJx3xHxW, 2, -1))
