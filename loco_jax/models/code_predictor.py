"""The published Code Predictor: from a picture to the code of its heatmaps (method section 4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import inception
from loco_jax.models.vha import code_shape

_CELL = 2 * inception.STRIDE  # pixels between the head's features after pooling
_GREY = 127.5


class CodePredictor(nn.Module):
    """Inception v3 and a head of four layers; at level 2 of 316 bins it has 65,847,855 parameters.

    For full HD the head's grid is the code's. Pictures of other sizes are padded with grey on the right and below, by
    at most 43 pixels, so that the code's last cells have features. Results outside the code's grid are dropped. Thus
    the features of a cell have the same position relative to it in pictures of any size.

    Attributes:
      level: of the code's compression (1, 2 or 3).
      depth_bins: D of the volume; the code has D // 2^level channels.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: UInt8[Array, "*B height width C"], camera: Camera | None = None
    ) -> Float[jax.Array, "B h w d"]:
        """The code of pictures, for a volume of 8 pixels a voxel. The published network ignores `camera`.

        The published last layer is linear, so results may be negative, although codes are not. Raises ValueError for
        pictures smaller than 64 x 64, and for levels that do not exist.
        """
        if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < _CELL:
            raise ValueError(f"want pictures [B, H, W, 3] of at least {_CELL} x {_CELL} pixels; have {image.shape}")
        if self.level not in PLANS or self.depth_bins < 2**self.level:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}; levels are 1, 2 and 3")
        height, width = image.shape[1:3]
        rows, columns, depth = code_shape(Volume((height, width), depth_bins=self.depth_bins).shape, self.level)
        bottom, right = (max(least_size(size) - size, 0) for size in (height, width))
        x = jnp.pad(image.astype(self.dtype), ((0, 0), (0, bottom), (0, right), (0, 0)), constant_values=_GREY)
        x = inception.Inception(dtype=self.dtype, name="trunk")(x)
        return Head(self.level, depth, self.dtype, name="head")(x)[:, :rows, :columns]


def least_size(size: int) -> int:
    """The least height or width in pixels at which the trunk has features for a whole picture of `size` pixels."""
    return _CELL * max(-(-size // _CELL) - 1, 1) + inception.MARGIN


class Head(nn.Module):
    """From the trunk's features `[B, 2m, 2n, C]` to a code `[B, (m + 1) s, (n + 1) s, depth]`, s = 2^(3 - level).

    It pools by 2. Three layers with kernels of 4 and ReLU follow, with 1024, 512 and 256 channels, and a linear 1 x 1
    layer. At level 2, as published, the first layer is transposed and doubles the grid. Levels 1 and 3 are ours. At
    level 1 the second layer doubles the grid too. At level 3 the first layer only adds the cell by which the code's
    grid is longer than the features'. Kernels have the same sizes at all levels.
    """

    level: int
    depth: int  # channels of the code
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[jax.Array, "B k l d"]:
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for i, (features, (doubles, padding)) in enumerate(zip((1024, 512, 256), PLANS[self.level])):
            # A result of a transposed convolution with stride 2 depends on only a quarter of the kernel.
            init = nn.initializers.variance_scaling(8.0 if doubles else 2.0, "fan_in", "truncated_normal")
            x = nn.Conv(
                features,
                (4, 4),
                input_dilation=2 if doubles else 1,
                padding=(padding, padding),
                kernel_init=init,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x)
            x = nn.relu(x)
        return nn.Conv(self.depth, (1, 1), dtype=self.dtype, name="layer_3")(x)


# For each level and each of the head's layers with kernels of 4: whether it doubles the grid, and its padding before
# and after. Layers that double the grid have an input dilation of 2, and their padding is 3 minus PyTorch's.
PLANS = {
    1: ((True, (3, 3)), (True, (2, 2)), (False, (1, 2))),
    2: ((True, (3, 3)), (False, (1, 2)), (False, (1, 2))),
    3: ((False, (2, 2)), (False, (1, 2)), (False, (1, 2))),
}
