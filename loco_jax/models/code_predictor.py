"""The published Code Predictor: from a picture to the code of its heatmaps (method section 4)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import inception
from loco_jax.models.vha import code_shape
from loco_jax.ops.cpu import matmul_conv

# A trunk is made with dtype=... and maps pictures [B, H, W, 3] in 0 to 255 to features, a cell every 32 pixels:
# [B, (H - 43) // 32, (W - 43) // 32, C], with any C. It does its own normalisation.
TRUNKS: dict[str, Callable[..., nn.Module]] = {"inception": inception.Inception}

_CELL = 2 * inception.STRIDE  # pixels between the features that the head sees, after its pooling
_GREY = 127.5


class CodePredictor(nn.Module):
    """A trunk and a head of four layers; at level 2 of 316 bins, with Inception, 65,847,855 parameters.

    For full HD the head's grid is the code's. Pictures of other sizes are padded with grey on the right and below, by
    43 pixels at most, where they lack features for the code's last cells, and what is beyond the code's grid is cut
    off. So the features of a cell come from the same place relative to it in pictures of any size, which stretching
    the result would not give.

    Attributes:
      level: of the code's compression (1, 2 or 3).
      depth_bins: D of the volume; the code has D // 2^level channels.
      trunk: one of TRUNKS.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    trunk: str = "inception"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, camera: Camera | None = None) -> jax.Array:
        """Code `[B, h, w, d]` of pictures `[B, H, W, 3]`, uint8, for a volume of 8 pixels a voxel.

        The published network knows nothing of `camera`.
        The published last layer is linear: where the code, which is never negative, should be 0, this may be below.
        Raises ValueError for pictures smaller than 64 x 64, and for levels and trunks that there are not.
        """
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk={self.trunk!r}; there are {', '.join(TRUNKS)}")
        if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < _CELL:
            raise ValueError(f"want pictures [B, H, W, 3] of at least {_CELL} x {_CELL} pixels; have {image.shape}")
        if self.level not in PLANS or self.depth_bins < 2**self.level:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}; levels are 1, 2 and 3")
        height, width = image.shape[1:3]
        rows, columns, depth = code_shape(Volume((height, width), depth_bins=self.depth_bins).shape, self.level)
        bottom, right = (max(least_size(size) - size, 0) for size in (height, width))
        x = jnp.pad(image.astype(self.dtype), ((0, 0), (0, bottom), (0, right), (0, 0)), constant_values=_GREY)
        x = TRUNKS[self.trunk](dtype=self.dtype, name="trunk")(x)
        return Head(self.level, depth, self.dtype, name="head")(x)[:, :rows, :columns]


def least_size(size: int) -> int:
    """Pixels, high or wide, from which the trunk makes features for all of a picture of `size` pixels."""
    return _CELL * max(-(-size // _CELL) - 1, 1) + inception.MARGIN


class Head(nn.Module):
    """From the trunk's features `[B, 2m, 2n, C]` to a code `[B, (m + 1) s, (n + 1) s, depth]`, s = 2^(3 - level).

    Pooling by 2, then three layers with kernels of 4 and ReLU, to 1024, 512 and 256 channels, then a linear 1 x 1
    layer. At level 2, as published, the first of them is transposed and doubles the grid. Levels 1 and 3 are ours: at
    level 1 the second one doubles it again, in place of keeping it; at level 3 the first one only lengthens the grid
    by the one cell that the features fall short of the code. The sizes of their kernels are the same at all levels.

    Attributes:
      level: 1, 2 or 3.
      depth: channels of the code.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for i, (features, (doubles, padding)) in enumerate(zip((1024, 512, 256), PLANS[self.level])):
            # Of a transposed convolution with stride 2, an output sees but a quarter of the kernel.
            init = nn.initializers.variance_scaling(8.0 if doubles else 2.0, "fan_in", "truncated_normal")
            convolve = matmul_conv.convolve_dilated if doubles else matmul_conv.convolve
            columns = x.shape[2]
            if doubles:
                x = matmul_conv.pad_few(x)
            x = nn.Conv(
                features,
                (4, 4),
                input_dilation=2 if doubles else 1,
                padding=(padding, padding),
                kernel_init=init,
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"layer_{i}",
            )(x)
            if doubles:
                x = x[:, :, : 2 * columns + 2 * padding[0] - 4]
            x = nn.relu(x)
        return nn.Conv(self.depth, (1, 1), dtype=self.dtype, name="layer_3")(x)


# Of the head's three layers with kernels of 4: whether it doubles the grid, and the zeros it adds before and after (for
# one that doubles, around its cells set two apart: a padding of p in PyTorch's terms is 3 - p here).
PLANS = {
    1: ((True, (3, 3)), (True, (2, 2)), (False, (1, 2))),
    2: ((True, (3, 3)), (False, (1, 2)), (False, (1, 2))),
    3: ((False, (2, 2)), (False, (1, 2)), (False, (1, 2))),
}
