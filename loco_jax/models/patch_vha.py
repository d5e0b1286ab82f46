"""Our autoencoder: a code of the published size, learnt in a small fraction of the steps (docs/method.md)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from loco_jax.geometry.arrays import Array
from loco_jax.models.vha import check_heatmaps, check_level

# An empty cell must not become a vector of zeros: normalising zeros makes gradients explode.
_START = nn.initializers.normal(0.1)


class PatchVHA(nn.Module):
    """An autoencoder with the published code's size that works on cells instead of voxels.

    The voxels of a cell, 2^level a side and of all joint types, become the channels of one vector. Residual blocks mix
    neighbouring cells, and a convolution computes the code's single channel. The decoder is the mirror image of the
    encoder. Its results are logits, which a sigmoid turns into heatmaps.

    Attributes:
      level: cells are 2^level voxels a side (1, 2 or 3).
      depth_bins: D.
      width: hidden channels.
      blocks: residual blocks in the encoder, and also in the decoder.
      num_joints: J.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    width: int = 64
    blocks: int = 2
    num_joints: int = 14
    dtype: DTypeLike = jnp.float32

    def setup(self):
        check_level(self.level, self.depth_bins)
        # If the volume ends within the last cell along the depth, the code has no number for that cell, which is
        # decoded from its neighbour's.
        cut = 1 if self.depth_bins % 2**self.level else 0
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

    def encode(self, heatmaps: Float[Array, "*B J H W D"]) -> Float[jax.Array, "*B h w d"]:
        """The code of heatmaps. Zeros fill up cells at the volume's end."""
        return self.encode_cells(fold(check_heatmaps(heatmaps, self.depth_bins), 2**self.level))

    def decode(
        self, code: Float[Array, "B h w d"], size: tuple[int, ...] | None = None
    ) -> Float[jax.Array, "B J H W D"]:
        """The heatmaps of a code, without padding if their `size` (H, W) is given."""
        x = unfold(nn.sigmoid(self.decode_cells(code)), 2**self.level)[..., : self.depth_bins]
        return x if size is None else x[:, :, : size[0], : size[1]]

    def encode_cells(self, cells: Float[Array, "B D h w V"]) -> Float[jax.Array, "B h w d"]:
        """The code of folded heatmaps, see `fold`."""
        return self.encode_embedded(self.embed(cells))

    def encode_embedded(self, x: Float[Array, "B D h w C"]) -> Float[jax.Array, "B h w d"]:
        """The code of embedded cells."""
        for block in self.encoder:
            x = block(x)
        return jnp.moveaxis(self.to_code(self.code_norm(x))[..., 0], 1, -1)

    def decode_cells(self, code: Float[Array, "B h w d"]) -> Float[jax.Array, "B D h w V"]:
        """The folded logits of a code's heatmaps."""
        return self.to_logits(self.decode_features(code))

    def decode_features(self, code: Float[Array, "B h w d"]) -> Float[jax.Array, "B D h w C"]:
        """The features of cells, which the head turns into logits."""
        x = self.from_code(jnp.moveaxis(code, -1, 1)[..., None])
        for block in self.decoder:
            x = block(x)
        return x

    def __call__(self, heatmaps: Float[Array, "*B J H W D"]) -> Float[jax.Array, "*B J H W D"]:
        """The reconstruction of heatmaps."""
        return self.decode(self.encode(heatmaps), heatmaps.shape[2:4])


class Block(nn.Module):
    """Two pre-normalised residuals over cells: the first mixes neighbours, the second channels.

    A second 3x3x3 convolution in place of the two layers over channels costs twice as much and learns more slowly.
    """

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B D h w C"]) -> Float[jax.Array, "B D h w C"]:
        x = jnp.asarray(x) + CellConv(self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        hidden = nn.Dense(2 * self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(hidden))


class Head(nn.Module):
    """From the features of cells to the logits of their voxels, through one wider layer."""

    hidden: int
    voxels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*cells C"], only_hidden: bool = False) -> Float[jax.Array, "*cells V"]:
        x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x)))
        if only_hidden:
            return x
        return nn.Dense(
            self.voxels,
            kernel_init=nn.initializers.normal(0.02),
            bias_init=nn.initializers.constant(-5.0),  # almost all voxels are empty, so start at sigmoid(-5)
            dtype=self.dtype,
        )(x)


class CellConv(nn.Module):
    """A zero-padded 3x3x3 convolution over cells."""

    features: int
    depth_padding: tuple[int, int] = (1, 1)
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D h w C"]) -> Float[jax.Array, "B E h w F"]:
        layer = CellKernel(self.features, self.bias_init, name="Conv_0")
        kernel, bias = (a.astype(self.dtype) for a in layer(x.shape[-1]))
        kernel = jnp.moveaxis(kernel.reshape(3, 3, 3, -1, self.features), 2, 0)
        layout = ("NDHWC", "DHWIO", "NDHWC")
        padding = (self.depth_padding, (1, 1), (1, 1))
        x = jnp.asarray(x, self.dtype)
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=layout) + bias


class CellKernel(nn.Module):
    """The parameters of a `CellConv`. The axes of the kernel are `[row, column, (depth, channel), feature]`."""

    features: int
    bias_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "3 3 3*{channels} F"], Float[Array, " F"]]:
        shape = (3, 3, 3 * channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return kernel, self.param("bias", self.bias_init, (self.features,), jnp.float32)


def fold(heatmaps: Float[Array, "B J H W D"], cell: int) -> Float[jax.Array, "B d h w V"]:
    """Heatmaps in cells of V = J * cell^3 voxels, ordered joint, row, column, bin. Zeros fill up the last cells."""
    x = jnp.pad(heatmaps, [(0, 0), (0, 0), *((0, -size % cell) for size in heatmaps.shape[2:])])
    batch, joints, *shape = x.shape
    h, w, d = (size // cell for size in shape)
    x = x.reshape(batch, joints, h, cell, w, cell, d, cell)
    return x.transpose(0, 6, 2, 4, 1, 3, 5, 7).reshape(batch, d, h, w, joints * cell**3)


def unfold(cells: Float[jax.Array, "B d h w V"], cell: int) -> Float[jax.Array, "B J H W D"]:
    """The inverse of `fold`, padding included: H = h * cell, W = w * cell, D = d * cell."""
    batch, d, h, w, channels = cells.shape
    joints = channels // cell**3
    x = cells.reshape(batch, d, h, w, joints, cell, cell, cell).transpose(0, 4, 2, 5, 3, 6, 1, 7)
    return x.reshape(batch, joints, h * cell, w * cell, d * cell)
