"""Volumetric Heatmap Autoencoders: heatmaps to a code of a few thousand numbers, and back (method section 3).

`VHA` is the published network. `PatchVHA` is ours: the same code, learnt in a small fraction of the steps. What was
tried on the way to it is in README.md beside this file.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def code_shape(shape: tuple[int, int, int], level: int) -> tuple[int, int, int]:
    """The code's grid (h, w, d) of a volume (H, W, D): each halved `level` times, a rest of depth dropped."""
    rows, columns, bins = shape
    cell = 2**level
    return -(-rows // cell), -(-columns // cell), bins // cell


class VHA(nn.Module):
    """The published autoencoder; VHA(2) of 316 bins has 3,448,442 parameters.

    Attributes:
      level: how many times depth, height and width are halved (1, 2 or 3).
      depth_bins: D.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.level < 1 or self.depth_bins < 2**self.level:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}")
        bins = [self.depth_bins // 2**k for k in range(self.level + 1)]
        self.encoder_2d = [self._conv(b, 2, stride=2) for b in bins[1:]] + [self._conv(bins[-1], 2)]
        self.encoder_3d = [self._conv(4, 3), self._conv(1, 3)]
        self.decoder_3d = [self._conv(4, 3), self._conv(14, 3)]
        self.decoder_2d = [self._conv(b, 2) for b in bins[:0:-1]] + [self._conv(bins[0], 2)]

    def _conv(self, features: int, dims: int, stride: int = 1) -> nn.Conv:
        return nn.Conv(features, (5,) * dims, strides=stride, padding=2, dtype=self.dtype)

    def encode(self, heatmaps: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of heatmaps `[B, J, H, W, D]`. Rows and columns that do not halve evenly are padded."""
        batch, joints, _, _, bins = _check(heatmaps, self.depth_bins)
        x = _pad_to_cells(heatmaps, 2**self.level)
        x = x.reshape(batch * joints, *x.shape[2:4], bins)
        for conv in self.encoder_2d:
            x = nn.relu(conv(x))
        x = jnp.moveaxis(x.reshape(batch, joints, *x.shape[1:]), 1, -1)
        for conv in self.encoder_3d:
            x = nn.relu(conv(x))
        return x[..., 0]

    def decode(self, code: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Heatmaps `[B, J, H, W, D]` of a code `[B, h, w, d]`; `size` (H, W) cuts the padding off."""
        x = code[..., None]
        for conv in self.decoder_3d:
            x = nn.relu(conv(x))
        x = jnp.moveaxis(x, -1, 1)
        batch, joints = x.shape[:2]
        x = x.reshape(batch * joints, *x.shape[2:])
        for conv in self.decoder_2d[:-1]:
            x = nn.relu(upsample(conv(x)))
        x = nn.relu(self.decoder_2d[-1](x))
        x = x.reshape(batch, joints, *x.shape[1:])
        return x if size is None else x[:, :, : size[0], : size[1]]

    def __call__(self, heatmaps: jax.Array) -> jax.Array:
        """The reconstruction `[B, J, H, W, D]` of heatmaps of the same shape."""
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


class PatchVHA(nn.Module):
    """An autoencoder with the published code's size that works on cells, not voxels.

    Cells of 2^level voxels a side, of all 14 joints, become the channels of one vector; residual 3x3x3 convolutions mix
    neighbouring cells; a linear map makes the code's one channel. The decoder is its mirror image and ends in logits.

    Attributes:
      level: cells are 2^level voxels a side (1, 2 or 3).
      depth_bins: D.
      width: channels inside.
      blocks: residual blocks in the encoder, and as many in the decoder.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    width: int = 64
    blocks: int = 2
    dec_blocks: int = 0
    dtype: jnp.dtype = jnp.float32
    num_joints: int = 14

    def setup(self):
        cell = 2**self.level
        if self.level < 1 or self.depth_bins < cell:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}")
        self.fold_in = nn.Dense(self.width, dtype=self.dtype)
        self.encoder = [Block(self.width, self.dtype) for _ in range(self.blocks)]
        self.to_code = Conv3(1, self.dtype)
        self.from_code = Conv3(self.width, self.dtype)
        self.decoder = [Block(self.width, self.dtype) for _ in range(self.dec_blocks or self.blocks)]
        self.norm = nn.RMSNorm(dtype=self.dtype)
        self.fold_out = nn.Dense(
            self.num_joints * cell**3,
            dtype=self.dtype,
            bias_init=nn.initializers.constant(-5.0),
            kernel_init=nn.initializers.normal(0.02),
        )

    def encode(self, heatmaps: jax.Array) -> jax.Array:
        return self.encode_cells(fold(heatmaps, 2**self.level))

    def decode(self, code: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        cells = nn.sigmoid(self.decode_cells(code))
        x = unfold(cells, 2**self.level)
        return x if size is None else x[:, :, : size[0], : size[1]]

    def encode_cells(self, cells):
        x = self.fold_in(cells.astype(self.dtype))
        for block in self.encoder:
            x = block(x)
        return jnp.moveaxis(self.to_code(x)[..., 0], 1, -1)

    def decode_cells(self, code):
        x = self.from_code(jnp.moveaxis(code, -1, 1)[..., None].astype(self.dtype))
        for block in self.decoder:
            x = block(x)
        return self.fold_out(self.norm(x))

    def __call__(self, heatmaps):
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


def fold(heatmaps, cell):
    x = _pad_to_cells(heatmaps, cell, depth=True)
    b, j, H, W, D = x.shape
    x = x.reshape(b, j, H // cell, cell, W // cell, cell, D // cell, cell)
    return x.transpose(0, 6, 2, 4, 1, 3, 5, 7).reshape(b, D // cell, H // cell, W // cell, j * cell**3)


def unfold(x, cell):
    b, d, h, w, c = x.shape
    j = c // cell**3
    x = x.reshape(b, d, h, w, j, cell, cell, cell).transpose(0, 4, 2, 5, 3, 6, 1, 7)
    return x.reshape(b, j, h * cell, w * cell, d * cell)


class Block(nn.Module):
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        y = nn.RMSNorm(dtype=self.dtype)(x)
        y = nn.gelu(Conv3(self.width, self.dtype)(y))
        return x + Conv3(self.width, self.dtype)(y)


class Conv3(nn.Module):
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        b, d, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        x = jnp.concatenate([x[:, i : i + d] for i in range(3)], axis=-1).reshape(b * d, h, w, 3 * c)
        x = nn.Conv(self.features, (3, 3), dtype=self.dtype)(x)
        return x.reshape(b, d, h, w, self.features)


def upsample(x: jax.Array) -> jax.Array:
    """Bilinear x2 of `[B, h, w, C]`, half-pixel centres, the border repeated."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, s, s + size, axis=axis) for s in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def _pad_to_cells(heatmaps: jax.Array, cell: int, depth: bool = False) -> jax.Array:
    _, _, rows, columns, bins = heatmaps.shape
    pad = [(0, 0), (0, 0), (0, -rows % cell), (0, -columns % cell), (0, -bins % cell if depth else 0)]
    return jnp.pad(heatmaps, pad)


def _check(heatmaps: jax.Array, depth_bins: int) -> tuple[int, ...]:
    if heatmaps.ndim != 5 or heatmaps.shape[-1] != depth_bins:
        raise ValueError(f"want heatmaps [B, J, H, W, {depth_bins}]; have {heatmaps.shape}")
    return heatmaps.shape
