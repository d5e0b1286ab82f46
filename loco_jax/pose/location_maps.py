"""True location maps of people, and the points that are read from maps (Mehta et al., "VNect", 2017).

A joint is read at a peak of its type's heatmap in the picture. People whose joints of a type lie in one cell share one
reading, and so do those in neighbouring cells, whose Gaussians have one peak.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.location_maps import Maps
from loco_jax.pose import heatmaps, peaks
from loco_jax.pose.people import Points

_MOST = np.iinfo(np.int32).max


def render(
    places: Float[Array, "P J 2"], present: Bool[Array, "P J"], grid: tuple[int, int], stride: int
) -> Float[jax.Array, "J H W"]:
    """Heatmaps in the picture: a Gaussian exp(-r^2) at every joint, r in cells; people combine by maximum.

    Args:
      places: pixels (u, v) of the joints. A cell is where its middle is.
      present: which joints there are.
      grid: rows and columns of cells (H, W).
      stride: pixels a cell is high and wide.
    """

    def add(maps, person):
        down, across = person
        return jnp.maximum(maps, down[:, :, None] * across[:, None, :]), None

    down, across = (heatmaps.along(places[..., 1 - axis], present, n, stride) for axis, n in enumerate(grid))
    start = jnp.zeros((places.shape[1], *grid), jnp.float32)
    return lax.scan(add, start, (down, across))[0]


def true_maps(joints: Float[Array, "P J 3"], present: Bool[Array, "P J"], camera: Camera, volume: Volume) -> Maps:
    """The location maps of people, with `render`'s heatmaps.

    A cell has the position of the nearest joint of its type, counted in whole cells. Of equally near ones the nearest
    to the camera counts. Maps without any joint are 0.

    Args:
      joints: metres in camera coordinates.
      present: which joints are targets, see `Volume.in_view`.
      camera: of the picture.
      volume: whose rows and columns the maps have.
    """
    rows, columns, _ = volume.shape
    places = cameras.project(camera, joints)
    maps = render(places, present, (rows, columns), volume.stride)
    # The nearest to the camera come first, type by type, and keep their cells from those who are no nearer.
    order_PxJ = jnp.argsort(jnp.where(present, jnp.linalg.norm(joints, axis=-1), jnp.inf), axis=0).astype(jnp.int32)
    joints, places = (jnp.take_along_axis(x, order_PxJ[..., None], axis=0) for x in (joints, places))
    present = jnp.take_along_axis(present, order_PxJ, axis=0)
    cells_PxJx2 = jnp.floor(jnp.where(present[..., None], places, 0) / volume.stride).astype(jnp.int32)
    cells_PxJx2 = jnp.clip(cells_PxJx2, 0, jnp.asarray([columns - 1, rows - 1], jnp.int32))

    def claim(best, person):
        away_JxHxW, xyz_JxHxWx3 = best
        cell_Jx2, joint_Jx3, present_J = person
        down = jnp.arange(rows, dtype=jnp.int32) - cell_Jx2[:, 1:]
        across = jnp.arange(columns, dtype=jnp.int32) - cell_Jx2[:, :1]
        away = jnp.square(down)[:, :, None] + jnp.square(across)[:, None, :]
        nearer = (away < away_JxHxW) & present_J[:, None, None]
        xyz = jnp.where(nearer[..., None], joint_Jx3[:, None, None], xyz_JxHxWx3)
        return (jnp.where(nearer, away, away_JxHxW), xyz), None

    nobody = jnp.full(maps.shape, _MOST, jnp.int32), jnp.zeros((*maps.shape, 3), jnp.float32)
    (_, xyz), _ = lax.scan(claim, nobody, (cells_PxJx2, joints.astype(jnp.float32), present))
    return Maps(maps, xyz)


def read(maps: Maps, max_peaks: int) -> Points:
    """The points of one picture's maps, whose heatmaps are from 0 to 1: the positions at the heatmaps' peaks.

    A peak is a strict maximum of 3 x 3 cells above 0.1, see `peaks.find_peaks`. Its value is the point's score.
    """
    found = peaks.find_peaks(maps.heatmaps[..., None], max_peaks=max_peaks)
    row_JxK, column_JxK = jnp.moveaxis(found.voxels[..., :2].astype(jnp.int32), -1, 0)
    types_Jx1 = jnp.arange(len(maps.heatmaps), dtype=jnp.int32)[:, None]
    xyz_JxKx3 = jnp.asarray(maps.xyz)[types_Jx1, row_JxK, column_JxK]
    somewhere = (found.scores > 0) & (xyz_JxKx3 != 0).any(axis=-1)  # no joint is in the camera's centre
    return Points(jnp.where(somewhere[..., None], xyz_JxKx3, 0.0), jnp.where(somewhere, found.scores, 0.0), found.count)
