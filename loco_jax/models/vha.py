"""Volumetric Heatmap Autoencoders: heatmaps to a code of a few thousand numbers, and back (method section 3).

`VHA` is the published network. `PatchVHA` is ours: the same code, learnt in a small fraction of the steps. What was
tried on the way to it is in README.md beside this file.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from loco_jax.ops.cpu import fast_block
from loco_jax.ops.cpu.convolution import convolve_3d, convolve_padded

KERNEL, REACH = 5, 2  # voxels: the published network's kernels, and how far from its middle one sees


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
      pad_channels: whether the 2D layers compute with multiples of 8 channels, see `convolve_padded`. Parameters and
        results stay what they are.
    """

    level: int
    depth_bins: int
    dtype: jnp.dtype = jnp.float32
    pad_channels: bool = False

    def setup(self):
        if self.level < 1 or self.depth_bins < 2**self.level:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}")
        bins = [self.depth_bins // 2**k for k in range(self.level + 1)]
        self.encoder_2d = [self._conv(b, 2, stride=2) for b in bins[1:]] + [self._conv(bins[-1], 2)]
        self.encoder_3d = [self._conv(4, 3), self._conv(1, 3)]
        self.decoder_3d = [self._conv(4, 3), self._conv(14, 3)]
        self.decoder_2d = [self._conv(b, 2) for b in bins[:0:-1]] + [self._conv(bins[0], 2)]

    def _conv(self, features: int, dims: int, stride: int = 1) -> nn.Conv:
        convolve = convolve_3d if dims == 3 else convolve_padded if self.pad_channels else None
        return nn.Conv(
            features, (KERNEL,) * dims, stride, padding=REACH, dtype=self.dtype, conv_general_dilated=convolve
        )

    def encode(self, heatmaps: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of heatmaps `[B, J, H, W, D]`. Rows and columns that do not halve evenly are padded."""
        batch, joints, _, _, bins = _check(heatmaps, self.depth_bins)
        x = _pad_to_cells(heatmaps, 2**self.level)
        x = x.reshape(batch * joints, *x.shape[2:4], bins)
        for conv in self.encoder_2d:
            x = nn.relu(conv(x))
        return self.fuse(jnp.moveaxis(x.reshape(batch, joints, *x.shape[1:]), 1, -1))

    def fuse(self, x: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of what the 2D layers make of each joint's heatmap, `[B, h, w, d, J]`."""
        for conv in self.encoder_3d:
            x = nn.relu(conv(x))
        return x[..., 0]

    def decode(self, code: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Heatmaps `[B, J, H, W, D]` of a code `[B, h, w, d]`; `size` (H, W) cuts the padding off."""
        x = jnp.moveaxis(self.spread(code), -1, 1)
        batch, joints = x.shape[:2]
        x = x.reshape(batch * joints, *x.shape[2:])
        for conv in self.decoder_2d[:-1]:
            x = nn.relu(upsample(conv(x)))
        x = nn.relu(self.decoder_2d[-1](x))
        x = x.reshape(batch, joints, *x.shape[1:])
        return x if size is None else x[:, :, : size[0], : size[1]]

    def spread(self, code: jax.Array) -> jax.Array:
        """What the 2D layers make each joint's heatmap of, `[B, h, w, d, J]`, from a code `[B, h, w, d]`."""
        x = code[..., None]
        for conv in self.decoder_3d:
            x = nn.relu(conv(x))
        return x

    def __call__(self, heatmaps: jax.Array) -> jax.Array:
        """The reconstruction `[B, J, H, W, D]` of heatmaps of the same shape."""
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


class PatchVHA(nn.Module):
    """An autoencoder with the published code's size that works on cells instead of voxels.

    The voxels of a cell, 2^level a side and of all joints, become the channels of one vector. Residual blocks mix
    neighbouring cells, and a convolution makes the code's single channel. The decoder is the mirror image and ends in
    logits: a sigmoid makes heatmaps of them.

    Attributes:
      level: cells are 2^level voxels a side (1, 2 or 3).
      depth_bins: D.
      width: channels inside.
      blocks: residual blocks in the encoder, and as many in the decoder.
      num_joints: J.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    width: int = 64
    blocks: int = 2
    num_joints: int = 14
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        cell = 2**self.level
        if self.level < 1 or self.depth_bins < cell:
            raise ValueError(f"level={self.level} does not fit depth_bins={self.depth_bins}")
        # Where the last cell along the depth is cut off by the volume's end, the code has none for it: its neighbour
        # speaks for it.
        cut = 1 if self.depth_bins % cell else 0
        self.embed = nn.Dense(self.width, bias_init=_START, dtype=self.dtype)
        self.encoder = [Block(self.width, self.dtype) for _ in range(self.blocks)]
        self.code_norm = nn.RMSNorm(dtype=self.dtype)
        self.to_code = CellConv(1, depth_padding=(1, 1 - cut), dtype=self.dtype)
        self.from_code = CellConv(self.width, depth_padding=(1, 1 + cut), bias_init=_START, dtype=self.dtype)
        self.decoder = [Block(self.width, self.dtype) for _ in range(self.blocks)]
        self.to_logits = self.head

    @property
    def head(self) -> "Head":
        """The decoder's last layers, with the parameters `to_logits`."""
        return Head(4 * self.width, self.num_joints * 8**self.level, self.dtype)

    def encode(self, heatmaps: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of heatmaps `[B, J, H, W, D]`. What does not fill a cell is padded with zeros."""
        _check(heatmaps, self.depth_bins)
        return self.encode_cells(fold(heatmaps, 2**self.level))

    def decode(self, code: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Heatmaps `[B, J, H, W, D]` of a code `[B, h, w, d]`; `size` (H, W) cuts the padding off."""
        x = unfold(nn.sigmoid(self.decode_cells(code)), 2**self.level)[..., : self.depth_bins]
        return x if size is None else x[:, :, : size[0], : size[1]]

    def encode_cells(self, cells: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of folded heatmaps, see `fold`."""
        return self.encode_embedded(self.embed(cells))

    def encode_embedded(self, x: jax.Array) -> jax.Array:
        """Code `[B, h, w, d]` of cells that are embedded, `[B, d, h, w, width]`."""
        for block in self.encoder:
            x = fast_block.apply(block, x)
        return jnp.moveaxis(self.to_code(self.code_norm(x))[..., 0], 1, -1)

    def decode_cells(self, code: jax.Array) -> jax.Array:
        """Logits of a code `[B, h, w, d]`, folded as the heatmaps are."""
        return self.to_logits(self.decode_features(code))

    def decode_features(self, code: jax.Array) -> jax.Array:
        """What the logits of each cell are made of, `[B, d, h, w, width]`."""
        x = self.from_code(jnp.moveaxis(code, -1, 1)[..., None])
        for block in self.decoder:
            x = fast_block.apply(block, x)
        return x

    def __call__(self, heatmaps: jax.Array) -> jax.Array:
        """The reconstruction `[B, J, H, W, D]` of heatmaps of the same shape."""
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


# An empty cell would be a vector of zeros, and normalising that would make its gradients explode.
_START = nn.initializers.normal(0.1)


class Block(nn.Module):
    """Two pre-normalised residuals over cells `[B, d, h, w, width]`: one mixes neighbours, one the channels.

    A second 3x3x3 convolution in place of the channels' two cheap layers costs twice as much and learns more slowly.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + CellConv(self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        hidden = nn.Dense(2 * self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(hidden))


class Head(nn.Module):
    """From `[B, d, h, w, width]` to the logits of every cell's voxels, through one wider layer."""

    hidden: int
    voxels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, only_hidden: bool = False) -> jax.Array:
        x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x)))
        if only_hidden:
            return x
        return nn.Dense(
            self.voxels,
            kernel_init=nn.initializers.normal(0.02),
            bias_init=nn.initializers.constant(-5.0),  # almost all voxels are empty: sigmoid(-5) is where they start
            dtype=self.dtype,
        )(x)


class CellConv(nn.Module):
    """A 3x3x3 convolution of `[B, d, h, w, C]`, with zeros around.

    Done as 2D convolutions over three neighbouring depths at once: on CPUs several times faster than XLA's 3D ones.
    """

    features: int
    depth_padding: tuple[int, int] = (1, 1)
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), self.depth_padding, (0, 0), (0, 0), (0, 0)))
        depth = x.shape[1] - 2
        x = jnp.concatenate([x[:, i : i + depth] for i in range(3)], axis=-1)
        y = nn.Conv(self.features, (3, 3), bias_init=self.bias_init, dtype=self.dtype)(x.reshape(-1, *x.shape[2:]))
        return y.reshape(-1, depth, *y.shape[1:])


def fold(heatmaps: jax.Array, cell: int) -> jax.Array:
    """Cells `[B, d, h, w, J * cell^3]` of heatmaps `[B, J, H, W, D]`, padded with zeros to whole cells."""
    x = _pad_to_cells(heatmaps, cell, depth=True)
    batch, joints, *shape = x.shape
    h, w, d = (size // cell for size in shape)
    x = x.reshape(batch, joints, h, cell, w, cell, d, cell)
    return x.transpose(0, 6, 2, 4, 1, 3, 5, 7).reshape(batch, d, h, w, joints * cell**3)


def unfold(cells: jax.Array, cell: int) -> jax.Array:
    """The inverse of `fold`, padding included: `[B, J, h * cell, w * cell, d * cell]`."""
    batch, d, h, w, channels = cells.shape
    joints = channels // cell**3
    x = cells.reshape(batch, d, h, w, joints, cell, cell, cell).transpose(0, 4, 2, 5, 3, 6, 1, 7)
    return x.reshape(batch, joints, h * cell, w * cell, d * cell)


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
