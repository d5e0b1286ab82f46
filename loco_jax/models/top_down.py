"""A top-down network: a detector of people's middles, a 2D pose network for crops, lifting to 3D, and the distance.

The detector shares the trunk of the compact Code Predictor. It finds objects as points (Zhou et al. 2019). Lifting
takes 2D joints to 3D ones (Martinez et al. 2017).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models.compact import Features, PixelBlock, Readout, Trunk, space_to_depth

STRIDE = 8  # pixels of a detector's cell
CROP = 64  # pixels of a crop, in height and width
HEATMAP = 16  # cells of a crop's heatmaps, in height and width
PLACE = 3  # numbers of a person's place: see `TopDown.place`
_DETECTOR = 64  # channels of the detector
_REACH = 2  # cells to each side of a heatmap's maximum, over which a joint's place is averaged
_CHANNELS = (2, 4, 4)  # of a crop's features with cells of 4, 8 and 16 pixels, in widths of the trunk


class Pose(NamedTuple):
    """The output of the pose network for crops.

    Attributes:
      heatmaps: logits, whose softmax over the cells says where the joint is; see `places`.
      there: logits that the joint is in the picture.
      summary: features of the whole crop.
    """

    heatmaps: Float[Array, "N 16 16 J"]
    there: Float[Array, "N J"]
    summary: Float[Array, "N C"]


class TopDown(nn.Module):
    """The four networks of the top-down system. Each method is one of them.

    Attributes:
      width, blocks, coarsest, dtype: of the trunk, see `compact.CompactPredictor`; `width` also of the pose network.
      lifting: width of the lifting network.
    """

    width: int = 32
    blocks: int = 2
    coarsest: int = 64
    lifting: int = 256
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.trunk = Trunk(STRIDE, self.width, self.blocks, self.coarsest, self.dtype)
        self.detector = Detector(self.dtype)
        self.poses = PoseNetwork(self.width, self.dtype)
        self.lifter = Lifter(self.lifting, self.dtype)
        self.placer = Readout(PLACE, hidden=self.lifting, dtype=self.dtype)

    def __call__(
        self, image: UInt8[Array, "B height width 3"], camera: Camera
    ) -> tuple[Float[jax.Array, "B H W 5"], Float[jax.Array, "1 J 3"], Float[jax.Array, "1 3"]]:
        """Runs all networks once, for new parameters; `camera` has fields `[B]`."""
        pose = self.look(jnp.zeros((1, CROP, CROP, 3), jnp.float32))
        joints, there = places(pose.heatmaps), nn.sigmoid(pose.there)
        box = jnp.zeros((1, 4), jnp.float32)
        return self.detect(self.trunk(image, camera)), self.lift(joints, there), self.place(pose, joints, there, box)

    def features(self, image: UInt8[Array, "B height width 3"], camera: Camera) -> Features:
        """The trunk's features of pictures by cameras with fields `[B]`."""
        return self.trunk(image, camera)

    def detect(self, features: Features) -> Float[jax.Array, "B H W 5"]:
        """The logit of a person's middle, and the numbers of its box (`boxes.encode`), at cells of `STRIDE` pixels.

        The grid is that of the trunk, which may be larger than the picture.
        """
        return self.detector(features.fine)

    def look(self, crops: Float[Array, "N 64 64 3"]) -> Pose:
        """The joints of the person in the middle of crops, whose values are 0 to 255."""
        return self.poses(crops)

    def lift(self, joints: Float[Array, "N J 2"], there: Float[Array, "N J"]) -> Float[jax.Array, "N J 3"]:
        """Offsets in metres from the mid-hip, in axes whose z is the ray to it, of joints at places in a crop.

        Args:
          joints: from (0, 0) to (1, 1).
          there: from 0 to 1, how surely the joint is in the picture.
        """
        return self.lifter(joints, there)

    def place(
        self, pose: Pose, joints: Float[Array, "N J 2"], there: Float[Array, "N J"], box: Float[Array, "N 4"]
    ) -> Float[jax.Array, "N 3"]:
        """Where people are, by their crops and boxes.

        Args:
          pose: seen in the crops.
          joints, there: see `lift`.
          box: the slopes of the ray to the box's middle, and the logarithms of the slopes that its sides span.

        Returns:
          The mid-hip relative to the middle of the hips in `joints`, in crops, and the logarithm of its distance
          relative to that of a person of ordinary height with this box, see `lifting.ordinary_distance`.
        """
        return self.placer(jnp.concatenate([pose.summary, _flat(joints), there, box], axis=-1))


class Detector(nn.Module):
    """A block on fine features, and five numbers a cell: a logit and a box."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[jax.Array, "B H W 5"]:
        x = PixelBlock(_DETECTOR, self.dtype)(nn.Dense(_DETECTOR, dtype=self.dtype)(x))
        logit = Readout(1, bias=-4.0, dtype=self.dtype)(x)
        box = Readout(4, dtype=self.dtype)(x)
        return jnp.concatenate([logit, box + jnp.float32([0, 0, 3, 4])], axis=-1)  # starts at boxes of 20 x 55 pixels


class PoseNetwork(nn.Module):
    """A small 2D pose network: cells of 4, 8 and 16 pixels, and back to those of 4."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, crops: Float[Array, "N 64 64 3"]) -> Pose:
        first, *deeper = (times * self.width for times in _CHANNELS)
        x = crops.astype(self.dtype) / 127.5 - 1
        x = nn.gelu(nn.Conv(first // 2, (3, 3), 2, bias_init=nn.initializers.normal(0.1), dtype=self.dtype)(x))
        x = nn.Conv(first, (3, 3), 2, dtype=self.dtype)(x)
        stages = [PixelBlock(first, self.dtype)(x)]
        for channels in deeper:
            x = nn.RMSNorm(dtype=self.dtype)(space_to_depth(stages[-1], 2))
            x = PixelBlock(channels, self.dtype)(nn.Dense(channels, dtype=self.dtype)(x))
            stages.append(PixelBlock(channels, self.dtype)(x))
        summary = jnp.mean(nn.RMSNorm(dtype=self.dtype)(stages[-1]), axis=(1, 2))
        x = nn.Dense(first, dtype=self.dtype)(summary)[:, None, None]
        for stage in reversed(stages):
            if x.shape[1] > 1:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = x + nn.Dense(first, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(stage))
        heatmaps = Readout(skeleton.NUM_JOINTS, dtype=self.dtype)(PixelBlock(first, self.dtype)(x))
        there = Readout(skeleton.NUM_JOINTS, hidden=64, dtype=self.dtype)(summary)
        return Pose(heatmaps, there, summary.astype(jnp.float32))


class Lifter(nn.Module):
    """Two residual blocks of two layers each (Martinez et al. 2017), with RMSNorm in place of batch normalisation."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, joints: Float[Array, "N J 2"], there: Float[Array, "N J"]) -> Float[jax.Array, "N J 3"]:
        def layer(x):
            return nn.relu(nn.RMSNorm(dtype=self.dtype)(nn.Dense(self.width, dtype=self.dtype)(x)))

        # Most joints are near the crop's middle, and its sides at -2 and 2.
        x = layer(jnp.concatenate([4 * _flat(joints) - 2, there], axis=-1))
        for _ in range(2):
            x = x + layer(layer(x))
        offsets = nn.Dense(3 * skeleton.NUM_JOINTS, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype)(x)
        return offsets.reshape(-1, skeleton.NUM_JOINTS, 3).astype(jnp.float32)


def places(heatmaps: Float[Array, "N H W J"]) -> Float[jax.Array, "N J 2"]:
    """Places (u, v) from (0, 0) to (1, 1): the softmax's mean over the 5 x 5 cells around its maximum.

    While left and right look alike to the network, the mean over all cells would lie between the two.
    """
    _, rows, columns, _ = heatmaps.shape
    shares = nn.softmax(heatmaps, axis=(1, 2))
    best = jnp.argmax(shares.reshape(len(shares), rows * columns, -1), axis=1).astype(jnp.int32)[:, None, None]
    row, column = (jnp.arange(n, dtype=jnp.int32) for n in (rows, columns))
    near_rows = jnp.abs(row[:, None, None] - best // columns) <= _REACH
    near = near_rows & (jnp.abs(column[:, None] - best % columns) <= _REACH)
    shares = jnp.where(near, shares, 0.0)
    total = jnp.sum(shares, axis=(1, 2))
    u, v = ((n.astype(jnp.float32) + 0.5) / len(n) for n in (column, row))
    across = jnp.sum(shares * u[:, None], axis=(1, 2)) / total
    return jnp.stack([across, jnp.sum(shares * v[:, None, None], axis=(1, 2)) / total], axis=-1)


def _flat(x):
    return x.reshape(x.shape[0], -1)
