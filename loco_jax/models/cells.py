"""The trunk of the compact predictor with a head that keeps its finest grid: numbers for each cell of 8 pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import compact

STRIDE = 8  # pixels a cell is high and wide
_CHANNELS = 128  # of the head: those of the trunk's fine features
_ROWS = 8  # a volume's rows are a multiple of this


class CellNetwork(nn.Module):
    """From a picture to `size` numbers for each cell: the trunk, further blocks, and a linear layer.

    The cells are the rows and columns of the volume of the picture.

    Attributes:
      size: how many numbers a cell has.
      width, blocks, coarsest, dtype: see `compact.CompactPredictor`; the head has `blocks` too.
      bias: of the numbers at the start: `size` of them.
    """

    size: int
    width: int
    blocks: int
    coarsest: int
    dtype: DTypeLike
    bias: tuple[float, ...]

    @nn.compact
    def __call__(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Float[jax.Array, "B H W N"]:
        _, height, width, _ = image.shape
        rows, columns, _ = Volume((height, width), STRIDE).shape
        trunk = compact.Trunk(STRIDE, self.width, self.blocks, max(self.coarsest, STRIDE * _ROWS), self.dtype)
        features = trunk(image, camera)
        x = jnp.concatenate([nn.RMSNorm(dtype=self.dtype)(part) for part in (features.fine, features.cells)], axis=-1)
        x = nn.Dense(_CHANNELS, dtype=self.dtype)(x[:, :rows, :columns])
        for _ in range(self.blocks):
            x = compact.PixelBlock(_CHANNELS, self.dtype)(x)
        start = nn.initializers.normal(0.02)
        last = nn.Dense(self.size, kernel_init=start, bias_init=_exactly(self.bias), dtype=self.dtype)
        return last(nn.RMSNorm(dtype=self.dtype)(x)).astype(jnp.float32)


def _exactly(numbers: tuple[float, ...]) -> nn.initializers.Initializer:
    """An initialiser that makes a vector of these numbers."""
    return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(jnp.asarray(numbers, dtype), shape)
