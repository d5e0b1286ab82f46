"""Spatial sharding: volumes too large for one device, whose rows several devices share.

Each device renders the heatmaps for its own strip of rows. The plain networks run on them, and the compiler exchanges
the rows that convolutions need of the neighbours (GSPMD). The ways without volumes loop over people and parts of a
volume, which the compiler could not share.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array
from loco_jax.pose import heatmaps

_SHARED = PartitionSpec("batch", None, "rows")


def count() -> int:
    """How many devices share the rows of a volume, under `jax.set_mesh`; 1 for none."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["rows"] if "rows" in mesh.auto_axes else 1


def keep(x: Float[jax.Array, "B _ rows ..."]) -> Float[jax.Array, "B _ rows ..."]:
    """`x` with its rows, axis 2 in all arrays here, shared; they need not divide evenly."""
    return lax.with_sharding_constraint(x, _SHARED)


def render(
    network: nn.Module, voxels: Float[Array, "B P J 3"], present: Bool[Array, "B P J"], *, shape, **options
) -> Float[jax.Array, "B J H W D"]:
    """`heatmaps.render` of a batch, its rows shared."""
    _, height = _strip(shape[0], 2**network.level)
    strip = functools.partial(heatmaps.render, shape=(height, *shape[1:]), **options)
    return keep(_in_strips(strip, voxels, present, height)[:, :, : shape[0]])


def render_cells(
    network: nn.Module, voxels: Float[Array, "B P J 3"], present: Bool[Array, "B P J"], *, shape, **options
) -> Float[jax.Array, "B d h w V"]:
    """`heatmaps.render_cells` of a batch, its rows shared."""
    cell = 2**network.level
    rows, height = _strip(shape[0], cell)
    strip = functools.partial(heatmaps.render_cells, shape=(height, *shape[1:]), cell=cell, **options)
    cells = _in_strips(strip, voxels, present, height)[:, :, :rows]
    if shape[0] % cell:  # a strip does not know where the volume ends
        inside = np.arange(rows * cell).reshape(rows, 1, 1, cell, 1, 1) < shape[0]
        split = cells.reshape(*cells.shape[:4], -1, cell, cell, cell)
        cells = jnp.where(inside, split, 0).reshape(cells.shape)
    return keep(cells)


def _strip(rows: int, cell: int) -> tuple[int, int]:
    """Rows of cells in all, and rows of voxels of a device's strip; the last strips may reach beyond the volume."""
    in_all = -(-rows // cell)
    if count() > in_all:
        raise ValueError(f"config.mesh.rows={count()}: the volume has only {in_all} rows of {cell} voxels to share")
    return in_all, -(-in_all // count()) * cell


def _in_strips(render: Callable[..., jax.Array], voxels, present, height: int) -> jax.Array:
    """What `render(voxels, present)` makes of each frame in each strip, the strips joined along axis 2."""

    def mine(voxels, present):
        # An even number of rows: halves round as they do in the whole volume.
        above = height * lax.axis_index("rows") * jnp.int32([1, 0, 0])
        return jax.vmap(render)(voxels - above, present)

    batch = PartitionSpec("batch")
    return jax.shard_map(mine, in_specs=(batch, batch), out_specs=_SHARED, check_vma=False)(voxels, present)
