"""Joints to volumetric heatmaps, on the device (method section 2)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array

_FAR = -1e4  # pixels: the place of absent joints, whose Gaussian is then 0 in any picture


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


def along(
    places: Float[Array, "*N"], present: Bool[Array, "*N"], cells: int, stride: int
) -> Float[jax.Array, "*N {cells}"]:
    """A Gaussian exp(-r^2) at each place, in a row of cells from 0 on; r in cells, from their middles.

    Places, and the `stride` of the cells, are in pixels. Those that are not `present` have none.
    """
    middles = (jnp.arange(cells, dtype=jnp.float32) + 0.5) * stride
    away = jnp.where(present, places, _FAR)[..., None] - middles
    return jnp.exp(-jnp.square(away / stride))


def render_cells(
    voxels: Float[Array, "*P J 3"],
    present: Bool[Array, "*P J"],
    shape: tuple[int, int, int],
    cell: int,
    sigma: float,
    subvoxel: bool,
    dtype: DTypeLike,
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
    box = [min(cells_of(sigma, cell), size) for size in grid]
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


def cells_of(sigma: float, cell: int) -> int:
    """The greatest number of cells along an axis that a joint's cube touches."""
    return (cube_side(sigma) + cell - 2) // cell + 1


class Cubes(NamedTuple):
    """The cubes of one joint type.

    Attributes:
      count: the number of cubes that touch the volume.
      order: indices of people, those with such cubes first.
      touch: whether a person has one.
      centre: of the Gaussians.
      rounded: the middles of the cubes.
      rivals: whether the cubes of two people overlap; true for a person's own cube.
    """

    count: Int[jax.Array, "*J"]  # type: ignore[assignment]  # it hides the method of tuples
    order: Int[jax.Array, "*J P"]
    touch: Bool[jax.Array, "*J P"]
    centre: Float[jax.Array, "*J P 3"]
    rounded: Int[jax.Array, "*J P 3"]
    rivals: Bool[jax.Array, "*J P P"]


def find_cubes(
    voxels: Float[Array, "P J 3"],
    present: Bool[Array, "P J"],
    shape: tuple[int, int, int],
    sigma: float,
    subvoxel: bool,
) -> Cubes:
    """The cubes of `render` with these arguments, with a leading axis J."""
    _check(voxels, present, sigma)
    voxels_JxPx3, present_JxP = jnp.swapaxes(voxels, 0, 1), jnp.swapaxes(present, 0, 1)
    present_JxP, centre, rounded = _centres(voxels_JxPx3, present_JxP, shape, sigma, subvoxel)
    half = cube_side(sigma) // 2
    touch = present_JxP & ((rounded >= -half) & (rounded < np.array(shape, np.int32) + half)).all(axis=-1)
    meet_JxPxP = (jnp.abs(rounded[:, :, None] - rounded[:, None]) <= 2 * half).all(axis=-1)
    rivals = meet_JxPxP & touch[:, None] & touch[:, :, None]
    count, order = jnp.sum(touch, axis=1, dtype=jnp.int32), jnp.argsort(~touch, axis=1).astype(jnp.int32)
    return Cubes(count, order, touch, centre, rounded, rivals)


def owned_values(
    cubes: Cubes,
    people: Int[Array, " n"],
    starts: Int[Array, "n 3"],
    sides: tuple[int, ...],
    shape: tuple[int, int, int],
    sigma: float,
) -> Float[jax.Array, "n R C B"]:
    """One joint type's heatmap in a window for each of `people`, at the voxels that the person owns, and 0 elsewhere.

    The person whose Gaussian is the greatest at a voxel owns it, the first of equals. So the maximum of `render` is the
    sum over people. Windows begin at `starts`, have `sides`, and may leave the volume. Values are 0 outside the volume
    and for indices that no person has.
    """
    rivals_nxP = cubes.rivals.at[people].get(mode="fill", fill_value=False)
    rank_nxP = jnp.cumsum(rivals_nxP, axis=1, dtype=jnp.int32)

    def contend(i, best):
        # Exponents are computed only here, so that those of a voxel are equal in all windows, bit for bit.
        exponent_nxRxCxB, owner_nxRxCxB = best
        rival_n = jnp.argmax(rivals_nxP & (rank_nxP == i + 1), axis=1).astype(people.dtype)
        parts = _exponents(starts, sides, cubes.centre[rival_n], cubes.rounded[rival_n], sigma)
        rows, columns, bins = (
            jnp.where((at >= 0) & (at < size) & (i < rank_nxP[:, -1:]), along, -jnp.inf)
            for size, (at, along) in zip(shape, parts)
        )
        exponent = rows[:, :, None, None] + columns[:, None, :, None] + bins[:, None, None, :]
        greater = exponent > exponent_nxRxCxB
        return jnp.maximum(exponent, exponent_nxRxCxB), jnp.where(greater, _each(rival_n), owner_nxRxCxB)

    size = (len(people), *sides)
    nobody = jnp.full(size, -jnp.inf, jnp.float32), jnp.full(size, -1, people.dtype)
    exponent, owner = lax.fori_loop(0, jnp.max(rank_nxP[:, -1]), contend, nobody)
    return jnp.where(owner == _each(people), jnp.exp(exponent), 0.0)


def _each(x_n):
    return x_n[:, None, None, None]


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
