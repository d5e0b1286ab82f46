"""From heatmaps to people: peaks, points in metres, association; on the device (method section 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.pose import association, peaks
from loco_jax.pose.association import People
from loco_jax.pose.peaks import Peaks


class Points(NamedTuple):
    """Peaks as points, best first.

    Attributes:
      xyz: `[J, K, 3]` metres in camera coordinates.
      scores: `[J, K]`; 0 in empty places, and of peaks in the camera's centre, where nobody is.
      count: `[J]` how many peaks there are; above K, only the K best are listed.
    """

    xyz: jax.Array
    scores: jax.Array
    count: jax.Array


def find_points(heatmaps: jax.Array, camera: Camera, volume: Volume, max_peaks: int, subvoxel: bool) -> Points:
    """The points of all joints in `heatmaps[J, H, W, D]`; on whole voxels, as published, unless `subvoxel`."""
    return in_metres(peaks.find_peaks(heatmaps, max_peaks=max_peaks, subvoxel=subvoxel), camera, volume)


def in_metres(found: Peaks, camera: Camera, volume: Volume) -> Points:
    """Peaks as points."""
    scores = jnp.where(found.voxels[..., 2] > 0, found.scores, 0.0)
    return Points(volume.to_camera(camera, found.voxels), scores, found.count)


def find_people(points: Points) -> People:
    """The people of points."""
    return association.group(points.xyz, points.scores)
