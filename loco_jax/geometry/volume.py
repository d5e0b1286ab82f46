"""The voxel grid in front of the camera: rows and columns of the picture, bins of distance.

A voxel is (row, column, bin). Its coordinates are continuous; callers round them if they need to.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera


@dataclasses.dataclass(frozen=True)
class Volume:
    """A grid of `shape` voxels; the defaults are the paper's (section 2 of the method).

    Attributes:
      image_size: height and width of the picture in pixels.
      stride: height and width of a voxel in pixels.
      depth_bins: number of bins of distance.
      max_distance: metres from the camera's centre to the last bin.

    Raises ValueError for impossible numbers.
    """

    image_size: tuple[int, int] = (1080, 1920)
    stride: int = 8
    depth_bins: int = 316
    max_distance: float = 100.0

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))  # a list would not be hashable
        sizes = {"image_size": min(self.image_size), "stride": self.stride, "depth_bins": self.depth_bins - 1}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"Volume.{name}={getattr(self, name)} is too small")
        if not 0 < self.max_distance < math.inf:
            raise ValueError(f"Volume.max_distance={self.max_distance} must be positive and finite")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, bins. Rows are padded to a multiple of 8 (the paper's 1080 / 8 = 135 becomes 136)."""
        height, width = self.image_size
        return 8 * math.ceil(height / self.stride / 8), math.ceil(width / self.stride), self.depth_bins

    @property
    def bin_size(self) -> float:
        """Metres per bin."""
        return self.max_distance / (self.depth_bins - 1)

    def to_voxels(self, camera: Camera, xyz: Float[Array, "... 3"]) -> Float[jax.Array, "... 3"]:
        """Continuous voxels of points in metres; NaN for points at or behind the camera."""
        uv = cameras.project(camera, xyz)
        bins = jnp.linalg.norm(xyz, axis=-1) / self.bin_size + 0 * uv[..., 0]  # NaN where there is no pixel
        return jnp.stack([uv[..., 1] / self.stride, uv[..., 0] / self.stride, bins], axis=-1)

    def to_camera(self, camera: Camera, voxels: Num[Array, "... 3"]) -> Float[jax.Array, "... 3"]:
        """Points in metres at continuous voxels: the inverse of `to_voxels`."""
        uv = jnp.stack([voxels[..., 1], voxels[..., 0]], axis=-1) * self.stride
        return cameras.back_project(camera, uv, voxels[..., 2] * self.bin_size)

    def in_view(self, camera: Camera, xyz: Float[Array, "... 3"]) -> Bool[jax.Array, "..."]:
        """Whether points are targets: in the picture or on its border, and at most `max_distance` away."""
        uv = cameras.project(camera, xyz)
        height, width = self.image_size
        u, v = uv[..., 0], uv[..., 1]
        near = jnp.linalg.norm(xyz, axis=-1) <= self.max_distance
        return (u >= 0) & (u <= width) & (v >= 0) & (v <= height) & near  # NaN compares false
