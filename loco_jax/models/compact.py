"""Our small Code Predictor: for CPUs, and for weights that are small enough to share (docs/method.md)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped, UInt8

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.vha import code_shape

_FINEST = 4  # pixels a cell of the first stage is high and wide
_FINE = 8  # pixels a cell of the fine features is high and wide
_LEAST_PADDED = 64  # pixels: a volume has a multiple of 8 rows of 8 pixels, which the code's cells cover
_BROADEST = 256  # the most channels of a stage
_FINE_CHANNELS = 128
POSE_SIZE = 3 * skeleton.NUM_JOINTS + 3  # numbers a person, see `CompactPredictor.read_poses`
READOUTS = ("joints", "poses", "view")  # parts of the network that predict something other than the code

# The padding beside a picture must not become vectors of zeros: normalising zeros makes gradients explode.
_START = nn.initializers.normal(0.1)


class Features(NamedTuple):
    """The trunk's output for pictures: fine features, features of the code's cells, features of the whole picture."""

    fine: Float[Array, "B H/8 W/8 128"]
    cells: Float[Array, "B h w C"]
    scene: Float[Array, "B C"]


class CompactPredictor(nn.Module):
    """From a picture to a code: a trunk of stages that halve the grid, top-down connections, and a head.

    The `read_*` methods predict the joints' positions in the picture, people's poses, and the camera's direction and
    height from the same features, which their losses train. Pictures of any size are padded on the right and below to
    multiples of 64 pixels, or of the coarsest cells if these are larger.

    Attributes:
      level: of the code's compression (1, 2 or 3); a cell is 8 * 2^level pixels a side.
      depth_bins: D of the volume; the code has D // 2^level channels.
      width: channels of the first stage.
      blocks: in every stage except the first, which has one.
      coarsest: height and width of the last stage's cells in pixels.
      dtype: of the arithmetic; parameters stay float32.
    """

    level: int
    depth_bins: int
    width: int = 32
    blocks: int = 2
    coarsest: int = 64
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.trunk = Trunk(self._cell, self.width, self.blocks, max(self.coarsest, self._cell), self.dtype)
        self.head = Head(self._cell // _FINE, self.depth_bins // 2**self.level, self.blocks, self.dtype)
        self.joints = Readout(skeleton.NUM_JOINTS, bias=-4.0, dtype=self.dtype)
        self.poses = Readout(POSE_SIZE, hidden=_BROADEST, dtype=self.dtype)
        self.view = Readout(4, hidden=64, dtype=self.dtype)

    @property
    def _cell(self) -> int:
        return _FINE * 2**self.level

    def __call__(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Float[jax.Array, "B h w d"]:
        """The code of pictures by cameras with fields `[B]`."""
        batch, height, width, _ = image.shape
        features = self.features(image, camera)
        if self.is_initializing():
            self.read_joints(features), self.read_view(features)
            self.read_poses(features, jnp.zeros((batch, 1, 2), jnp.float32))
        return self.code(features, (height, width))

    def features(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Features:
        """The features of pictures by cameras with fields `[B]`."""
        return self.trunk(image, camera)

    def code(self, features: Features, image_size: tuple[int, int]) -> Float[jax.Array, "B h w d"]:
        """The code from the features of pictures of `image_size`."""
        rows, columns, _ = code_shape(Volume(image_size, depth_bins=self.depth_bins).shape, self.level)
        return self.head(features)[:, :rows, :columns]

    def read_joints(self, features: Features) -> Float[jax.Array, "B h w J"]:
        """Logits of the joints' heatmaps in the picture, a cell every 8 pixels."""
        return self.joints(features.fine)

    def read_poses(self, features: Features, places: Float[Array, "B P 2"]) -> Float[jax.Array, "B P 45"]:
        """The poses of the people at `places`, in pixels (u, v).

        A pose has the joints' offsets from the mid-hip in metres (14 x 3), the direction from the left to the right
        side (2), both in axes whose z is the ray to the mid-hip, and the logarithm of the mid-hip's distance in metres.
        """
        return self.poses(sample(features.fine, places / _FINE - 0.5))

    def read_view(self, features: Features) -> Float[jax.Array, "B 4"]:
        """The world's up in camera axes (3), and the logarithm of the camera's height in metres."""
        return self.view(features.scene)


class Trunk(nn.Module):
    """Stages from cells of 4 pixels to the coarsest, each with the rays of its cells; then top-down to 8 pixels."""

    cell: int  # height and width of the code's cells in pixels
    width: int
    blocks: int
    coarsest: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Features:
        _, height, width, _ = image.shape
        x = image.astype(self.dtype) / 127.5 - 1
        whole = max(self.coarsest, _LEAST_PADDED)
        x = jnp.pad(x, ((0, 0), (0, -height % whole), (0, -width % whole), (0, 0)))
        stem: dict[str, Any] = {"kernel_size": (3, 3), "strides": 2, "bias_init": _START, "dtype": self.dtype}
        x = nn.gelu(nn.Conv(self.width // 2, **stem)(x))
        x = nn.Conv(self.width, **stem)(x)
        x = PixelBlock(self.width, self.dtype)(x)
        stages, size, channels = {}, _FINEST, self.width
        while size < self.coarsest:
            size, channels = 2 * size, min(2 * channels, _BROADEST)
            x = nn.RMSNorm(dtype=self.dtype)(space_to_depth(x, 2))
            x = jnp.concatenate([x, _rays(camera, x.shape, size).astype(self.dtype)], axis=-1)
            x = nn.Dense(channels, dtype=self.dtype)(x)
            for _ in range(self.blocks):
                x = PixelBlock(channels, self.dtype)(x)
            stages[size] = x
        scene = jnp.mean(nn.RMSNorm(dtype=self.dtype)(x), axis=(1, 2))
        known = nn.Dense(_FINE_CHANNELS, dtype=self.dtype)(scene)[:, None, None]
        for size in sorted(stages, reverse=True):
            known = known + nn.Dense(_FINE_CHANNELS, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(stages[size]))
            if size > _FINE:
                known = jnp.repeat(jnp.repeat(known, 2, axis=1), 2, axis=2)
        return Features(nn.gelu(known), stages[self.cell], scene)


class Head(nn.Module):
    """From features to a code: a cell's input is its fine features and its own features."""

    fine: int  # height and width of a cell in fine features
    depth: int  # channels of the code
    blocks: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: Features) -> Float[jax.Array, "B h w d"]:
        parts = [features.cells, space_to_depth(features.fine, self.fine)]
        x = jnp.concatenate([nn.RMSNorm(dtype=self.dtype)(part) for part in parts], axis=-1)
        x = nn.Dense(_BROADEST, dtype=self.dtype)(x)
        for _ in range(self.blocks):
            x = PixelBlock(_BROADEST, self.dtype)(x)
        return nn.Dense(self.depth, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))


class Readout(nn.Module):
    """A linear layer on normalised features, after a hidden layer if `hidden`, with float32 results."""

    size: int
    hidden: int = 0
    bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*places C"]) -> Float[jax.Array, "*places N"]:
        x = nn.RMSNorm(dtype=self.dtype)(x)
        if self.hidden:
            x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype)(x))
        start = nn.initializers.normal(0.02)
        bias = nn.initializers.constant(self.bias)
        return nn.Dense(self.size, kernel_init=start, bias_init=bias, dtype=self.dtype)(x).astype(jnp.float32)


class PixelBlock(nn.Module):
    """Two pre-normalised residuals: the first mixes neighbours, the second channels."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[jax.Array, "B h w C"]:
        x = jnp.asarray(x) + nn.Conv(self.width, (3, 3), dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        hidden = nn.Dense(2 * self.width, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(hidden))


def space_to_depth(x: Shaped[Array, "B h w C"], cell: int) -> Shaped[Array, "B h//{cell} w//{cell} C*{cell}**2"]:
    """The `cell` x `cell` vectors of each cell as one vector."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // cell, cell, width // cell, cell, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // cell, width // cell, cell * cell * channels)


def sample(features: Float[Array, "B h w C"], places: Float[Array, "B P 2"]) -> Float[jax.Array, "B P C"]:
    """Bilinear interpolation at `places` (column, row) in cells; whole numbers are the middles of cells.

    Places outside the grid are moved to its border.
    """
    _, rows, columns, _ = features.shape
    column, row = jnp.clip(places[..., 0], 0, columns - 1), jnp.clip(places[..., 1], 0, rows - 1)
    left, top = jnp.floor(column).astype(jnp.int32), jnp.floor(row).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, columns - 1), jnp.minimum(top + 1, rows - 1)
    x, y = (column - left)[..., None], (row - top)[..., None]
    at = jax.vmap(lambda image, i, j: image[i, j])
    above = (1 - x) * at(features, top, left) + x * at(features, top, right)
    below = (1 - x) * at(features, bottom, left) + x * at(features, bottom, right)
    return ((1 - y) * above + y * below).astype(features.dtype)


def _rays(camera: Camera, shape: tuple[int, ...], size: int) -> jax.Array:
    """The slopes (x / z, y / z) `[B, h, w, 2]` of the rays through the middles of cells of `size` pixels."""
    batch, rows, columns, _ = shape
    u, v = ((jnp.arange(n, dtype=jnp.float32) + 0.5) * size for n in (columns, rows))
    fx, fy, cx, cy = (jnp.broadcast_to(jnp.asarray(f, jnp.float32), (batch,))[:, None] for f in camera)
    x, y = ((u - cx) / fx)[:, None], ((v - cy) / fy)[:, :, None]
    return jnp.stack([jnp.broadcast_to(slope, (batch, rows, columns)) for slope in (x, y)], axis=-1)
