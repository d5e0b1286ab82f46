"""A small Code Predictor, ours: for CPUs, and for weights small enough to hand on."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from loco_jax.models import fast_block
from loco_jax.models.vha import code_shape
from loco_jax.volume import Volume

_FINEST = 4  # pixels a cell of the first features is high and wide
_BROADEST = 256  # channels; in deeper stages they no longer double

# Where the picture ends all would be zeros, and normalising those would make the gradients explode.
_START = nn.initializers.normal(0.1)


class CompactPredictor(nn.Module):
    """From a picture to a code, in stages that halve the grid and double the channels.

    Each stage is a few pre-normalised residual blocks. The code's cells see the features of their own stage and of the
    finer ones. Any size of picture will do: it is padded on the right and below to the whole grid of the code.

    Attributes:
      level: of the code's compression (1, 2 or 3): a cell is 8 * 2^level pixels a side.
      depth_bins: D of the volume; the code has D // 2^level channels.
      width: channels of the first stage.
      blocks: of every stage but the first, which has one.
      stride: pixels a voxel is high and wide.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    width: int = 32
    blocks: int = 2
    stride: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of pictures `[B, height, width, 3]`, uint8."""
        cell = self.stride * 2**self.level
        coarsest = max(cell, 32)
        _, height, width, _ = image.shape
        volume = Volume((height, width), self.stride, self.depth_bins)
        rows, columns, depth = code_shape(volume.shape, self.level)
        x = image.astype(self.dtype) / 127.5 - 1
        bottom, right = (coarsest * -(-n * cell // coarsest) - size for n, size in ((rows, height), (columns, width)))
        x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
        x = nn.Dense(self.width, bias_init=_START, dtype=self.dtype)(space_to_depth(x, _FINEST))
        x = fast_block.apply(PixelBlock(self.width, self.dtype), x)
        stages, channels, size = [x], self.width, _FINEST
        while size < coarsest:
            size, channels = 2 * size, min(2 * channels, _BROADEST)
            x = nn.Dense(channels, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(space_to_depth(x, 2)))
            for _ in range(self.blocks):
                x = fast_block.apply(PixelBlock(channels, self.dtype), x)
            stages.append(x)
        if size > cell:  # level 1: what the coarse cells know, to each of the finer ones
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        times = (1, 2, 4) if size > cell else (2, 4)
        features = [x, *(space_to_depth(s, n) for s, n in zip(stages[-2::-1], times))]
        x = jnp.concatenate([nn.RMSNorm(dtype=self.dtype)(f) for f in features], axis=-1)
        x = nn.Dense(_BROADEST, dtype=self.dtype)(x)
        for _ in range(self.blocks):
            x = fast_block.apply(PixelBlock(_BROADEST, self.dtype), x)
        x = nn.RMSNorm(dtype=self.dtype)(x)
        return nn.Dense(depth, dtype=self.dtype)(x)[:, :rows, :columns]


class PixelBlock(nn.Module):
    """Two pre-normalised residuals over `[B, h, w, width]`: one mixes neighbours, one the channels."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.Conv(self.width, (3, 3), dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        hidden = nn.Dense(2 * self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(hidden))


def space_to_depth(x: jax.Array, cell: int) -> jax.Array:
    """`[B, h, w, C]` to `[B, h / cell, w / cell, cell^2 * C]`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // cell, cell, width // cell, cell, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // cell, width // cell, cell * cell * channels)
