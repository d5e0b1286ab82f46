"""From heatmaps to people, on the device: peaks, points in metres, association (method section 5)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.pose import association, peaks
from loco_jax.pose.association import People
from loco_jax.pose.peaks import Peaks


class Points(NamedTuple):
    """Peaks as points, best first.

    Attributes:
      xyz: metres in camera coordinates.
      scores: 0 in empty places, and for peaks in the camera's centre, where no joint can be.
      count: the number of peaks; if it is more than K, the K best are listed.
    """

    xyz: Float[Array, "*batch J K 3"]
    scores: Float[Array, "*batch J K"]
    count: Int[Array, "*batch J"] | None  # type: ignore[assignment]  # the name is that of a method of tuples


def find_points(
    heatmaps: Float[Array, "J H W D"], camera: Camera, volume: Volume, max_peaks: int, subvoxel: bool
) -> Points:
    """The points of all joints' heatmaps; on whole voxels, as published, unless `subvoxel`."""
    return in_metres(peaks.find_peaks(heatmaps, max_peaks=max_peaks, subvoxel=subvoxel), camera, volume)


def in_metres(found: Peaks, camera: Camera, volume: Volume) -> Points:
    """Peaks as points."""
    scores = jnp.where(found.voxels[..., 2] > 0, found.scores, 0.0)
    return Points(volume.to_camera(camera, found.voxels), scores, found.count)


def find_people(points: Points) -> People:
    """The people of points."""
    return association.group(points.xyz, points.scores)
