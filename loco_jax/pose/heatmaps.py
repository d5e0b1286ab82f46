"""Joints to volumetric heatmaps, on the device (method section 2)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array


def cube_side(sigma: float) -> int:
    """The side in voxels of the cube to which a joint's Gaussian is cut: 5 sigma, rounded up to an odd number."""
    side = math.ceil(5 * sigma)
    return side + 1 - side % 2


def render(
    voxels: Float[Array, "*P J 3"],
    present: Bool[Array, "*P J"],
    shape: tuple[int, int, int],
    sigma: float = 2.0,
    subvoxel: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[jax.Array, "J H W D"]:
    """Heatmaps with a Gaussian exp(-r^2 / sigma^2) at every joint. People combine by maximum.

    One windowed scatter computes and writes the voxels of the joints' cubes only.

    Args:
      voxels: continuous (row, column, bin), inside the volume or not. P may be 0.
      present: whether each joint exists. A joint whose voxel is not finite counts as absent.
      shape: rows, columns and bins of the volume (H, W, D).
      sigma: of the Gaussian in voxels; a Python number, because the shape of the cubes depends on it.
      subvoxel: whether the Gaussian's centre is the continuous voxel instead of the rounded one.
      dtype: of the heatmaps; the Gaussian is computed in float32.
    """
    num_people, num_joints = _check(voxels, present, sigma)
    heatmaps_JxHxWxD = jnp.zeros((num_joints, *shape), dtype)
    if num_people == 0:
        return heatmaps_JxHxWxD
    present_PxJ, centre_PxJx3, rounded_PxJx3 = _centres(voxels, present, shape, sigma, subvoxel)
    # A box inside the volume that is as large as a cube, or as the volume if that is smaller.
    half = cube_side(sigma) // 2
    box = tuple(min(2 * half + 1, size) for size in shape)
    start_PxJx3 = jnp.clip(rounded_PxJx3 - half, 0, np.subtract(shape, box, dtype=np.int32))
    rows, columns, bins = (along for _, along in _exponents(start_PxJx3, box, centre_PxJx3, rounded_PxJx3, sigma))
    exponent = rows[..., :, None, None] + columns[..., None, :, None] + bins[..., None, None, :]
    values_PxJxRxCxB = jnp.where(present_PxJ[..., None, None, None], jnp.exp(exponent), 0.0)
    joint_PxJx1 = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32)[None, :, None], (num_people, num_joints, 1))
    return lax.scatter_max(
        heatmaps_JxHxWxD,
        jnp.concatenate([joint_PxJx1, start_PxJx3], axis=-1),
        values_PxJxRxCxB.astype(dtype),
        lax.ScatterDimensionNumbers(
            update_window_dims=(2, 3, 4), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 1, 2, 3)
        ),
        mode="promise_in_bounds",
    )


def render_cells(
    voxels: Float[Array, "*P J 3"],
    present: Bool[Array, "*P J"],
    shape: tuple[int, int, int],
    cell: int,
    sigma: float = 2.0,
    subvoxel: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[jax.Array, "d h w V"]:
    """The heatmaps of `render` in cells of `cell` voxels a side, V = J * cell^3.

    The channels of a cell are its voxels in the order joint, row, column, bin. Zeros fill up the last cells. Voxels are
    written to their cells directly, which costs far less than to transpose the finished volume.
    """
    num_people, num_joints = _check(voxels, present, sigma)
    h, w, d = grid = [-(-size // cell) for size in shape]
    cells = jnp.zeros((d, h, w, num_joints * cell**3), dtype)
    if num_people == 0:
        return cells
    present_PxJ, centre_PxJx3, rounded_PxJx3 = _centres(voxels, present, shape, sigma, subvoxel)
    low_PxJx3 = rounded_PxJx3 - cube_side(sigma) // 2
    most = (cube_side(sigma) + cell - 2) // cell + 1  # cells along an axis that a cube touches
    box = [min(most, size) for size in grid]
    start_PxJx3 = jnp.clip(low_PxJx3 // cell, 0, np.subtract(grid, box, dtype=np.int32))
    # In the order of cells: [P, J, depths, rows, columns of cells, row, column, bin in a cell].
    exponent = jnp.where(present_PxJ, jnp.float32(0.0), -jnp.inf).reshape(num_people, num_joints, *[1] * 6)
    sides = [cell * count for count in box]
    for axis, (at, along) in enumerate(_exponents(cell * start_PxJx3, sides, centre_PxJx3, rounded_PxJx3, sigma)):
        along = jnp.where(at < shape[axis], along, -jnp.inf).reshape(num_people, num_joints, box[axis], cell)
        mine = 2 + (axis + 1) % 3, 5 + axis
        exponent = exponent + jnp.expand_dims(along, [i for i in range(2, 8) if i not in mine])
    values = jnp.exp(exponent).astype(dtype).reshape(*exponent.shape[:5], cell**3)
    first_J = cell**3 * jnp.arange(num_joints, dtype=jnp.int32)
    channel_PxJx1 = jnp.broadcast_to(first_J[:, None], (num_people, num_joints, 1))
    return lax.scatter_max(
        cells,
        jnp.concatenate([jnp.roll(start_PxJx3, 1, axis=-1), channel_PxJx1], axis=-1),
        values,
        lax.ScatterDimensionNumbers(
            update_window_dims=(2, 3, 4, 5), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1, 2, 3)
        ),
        mode="promise_in_bounds",
    )


def _check(voxels: Array, present: Array, sigma: float) -> tuple[int, ...]:
    if voxels.ndim != 3 or voxels.shape[-1] != 3 or present.shape != voxels.shape[:2]:
        raise ValueError(f"want voxels [P, J, 3] and present [P, J]; have {voxels.shape} and {present.shape}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma={sigma} must be positive and finite")
    return present.shape


def _centres(voxels, present, shape, sigma, subvoxel):
    """Whether joints exist `[...]`, their Gaussians' centres `[..., 3]`, and the middles of their cubes, int32."""
    # Far coordinates are clipped so that they fit integers. No cube there touches the volume.
    present = present & jnp.isfinite(voxels).all(axis=-1)
    far = max(shape) + 2.0 * cube_side(sigma)
    voxels = jnp.clip(jnp.where(present[..., None], voxels, 0.0), -far, far).astype(jnp.float32)
    rounded = jnp.round(voxels).astype(jnp.int32)
    return present, voxels if subvoxel else rounded.astype(jnp.float32), rounded


def _exponents(starts, sides, centre, rounded, sigma):
    """For each axis, the voxels `[..., side]` of boxes and that part of Gaussians' exponents, -inf outside cubes."""
    for axis, side in enumerate(sides):
        at = starts[..., axis, None] + jnp.arange(side, dtype=jnp.int32)
        within = jnp.abs(at - rounded[..., axis, None]) <= cube_side(sigma) // 2
        yield at, jnp.where(within, -jnp.square((at - centre[..., axis, None]) / sigma), -jnp.inf)
