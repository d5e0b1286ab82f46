"""The published Volumetric Heatmap Autoencoder: from heatmaps to a small code, and back (method section 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from loco_jax.geometry.arrays import Array

KERNEL, REACH = 5, 2  # the width of all kernels, and their half width rounded down


class VHA(nn.Module):
    """The published autoencoder; VHA(2) of 316 bins has 3,448,442 parameters.

    Its 2D layers treat each joint type's heatmap as a picture whose channels are the depth bins. Its 3D layers mix the
    joint types.

    Attributes:
      level: how many times depth, height and width are halved (1, 2 or 3).
      depth_bins: D.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        check_level(self.level, self.depth_bins)
        bins = [self.depth_bins // 2**k for k in range(self.level + 1)]
        self.encoder_2d = [self._conv(b, 2, stride=2) for b in bins[1:]] + [self._conv(bins[-1], 2)]
        self.encoder_3d = [self._conv(4, 3), self._conv(1, 3)]
        self.decoder_3d = [self._conv(4, 3), self._conv(14, 3)]
        self.decoder_2d = [self._conv(b, 2) for b in bins[:0:-1]] + [self._conv(bins[0], 2)]

    def _conv(self, features: int, dims: int, stride: int = 1) -> nn.Conv:
        return nn.Conv(features, (KERNEL,) * dims, stride, padding=REACH, dtype=self.dtype)

    def encode(self, heatmaps: Float[Array, "*B J H W D"]) -> Float[jax.Array, "*B h w d"]:
        """The code of heatmaps. Rows and columns that do not halve evenly are padded with zeros."""
        batch, joints, _, _, bins = check_heatmaps(heatmaps, self.depth_bins).shape
        x = jnp.pad(heatmaps, [(0, 0), (0, 0), *((0, -n % 2**self.level) for n in heatmaps.shape[2:4]), (0, 0)])
        x = self.encoder_2d[0](x.reshape(batch * joints, *x.shape[2:4], bins))
        return self.encode_further(x.reshape(batch, joints, *x.shape[1:]))

    def encode_further(self, x: Float[Array, "B J r c C"]) -> Float[jax.Array, "B h w d"]:
        """The code, from the first layer's output before its ReLU."""
        batch, joints = x.shape[:2]
        x = nn.relu(x.reshape(batch * joints, *x.shape[2:]))
        for conv in self.encoder_2d[1:]:
            x = nn.relu(conv(x))
        x = jnp.moveaxis(x.reshape(batch, joints, *x.shape[1:]), 1, -1)
        for conv in self.encoder_3d:
            x = nn.relu(conv(x))
        return x[..., 0]

    def decode(
        self, code: Float[jax.Array, "B h w d"], size: tuple[int, ...] | None = None
    ) -> Float[jax.Array, "B J H W D"]:
        """The heatmaps of a code, without padding if their `size` (H, W) is given."""
        x = jnp.moveaxis(self.spread(code), -1, 1)
        batch, joints = x.shape[:2]
        x = x.reshape(batch * joints, *x.shape[2:])
        for conv in self.decoder_2d[:-1]:
            x = nn.relu(upsample(conv(x)))
        x = nn.relu(self.decoder_2d[-1](x))
        x = x.reshape(batch, joints, *x.shape[1:])
        return x if size is None else x[:, :, : size[0], : size[1]]

    def spread(self, code: Float[jax.Array, "B h w d"]) -> Float[jax.Array, "B h w d J"]:
        """The 3D part of the decoder. The 2D layers turn its features for a joint type into that type's heatmap."""
        x = code[..., None]
        for conv in self.decoder_3d:
            x = nn.relu(conv(x))
        return x

    def __call__(self, heatmaps: Float[Array, "*B J H W D"]) -> Float[jax.Array, "*B J H W D"]:
        """The reconstruction of heatmaps."""
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


def upsample(x: Float[jax.Array, "B h w C"]) -> Float[jax.Array, "B 2*h 2*w C"]:
    """Bilinear interpolation to twice the size, with half-pixel centres and a repeated border."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, s, s + size, axis=axis) for s in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


# ---- Shared by both autoencoders


def code_shape(shape: tuple[int, int, int], level: int) -> tuple[int, int, int]:
    """The code's grid (h, w, d) for a volume (H, W, D), halved `level` times. H and W round up, D rounds down."""
    rows, columns, bins = shape
    cell = 2**level
    return -(-rows // cell), -(-columns // cell), bins // cell


def check_level(level: int, depth_bins: int) -> None:
    """Raises ValueError for a level below 1, or one that leaves no bins."""
    if level < 1 or depth_bins < 2**level:
        raise ValueError(f"level={level} does not fit depth_bins={depth_bins}")


def check_heatmaps(heatmaps: Float[Array, "..."], depth_bins: int) -> Float[Array, "B J H W D"]:
    """Returns the heatmaps. Raises ValueError if they are not `[B, J, H, W, depth_bins]`."""
    if heatmaps.ndim != 5 or heatmaps.shape[-1] != depth_bins:
        raise ValueError(f"want heatmaps [B, J, H, W, {depth_bins}]; have {heatmaps.shape}")
    return heatmaps
