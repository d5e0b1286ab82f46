"""Spatial sharding: several devices share the rows of volumes that are too large for one.

Each device renders the heatmaps of its own strip of rows. The plain networks run on them, and the compiler (GSPMD)
exchanges the neighbouring rows that convolutions need. The fast paths loop over people and parts of a volume, which the
compiler could not share.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array

_SHARED = PartitionSpec("batch", None, "rows")


def count() -> int:
    """The number of devices that share the rows of a volume, under `jax.set_mesh`; 1 if none do."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["rows"] if "rows" in mesh.auto_axes else 1


def keep(x: Float[jax.Array, "B _ rows ..."]) -> Float[jax.Array, "B _ rows ..."]:
    """`x` with its rows, axis 2, shared; they need not divide evenly."""
    return lax.with_sharding_constraint(x, _SHARED)


def render(
    one: Callable[..., jax.Array],
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    shape: tuple[int, int, int],
    cell: int,
    folded: bool,
) -> Float[jax.Array, "B _ rows ..."]:
    """`one(voxels, present, shape=shape)` of each frame of a batch, with the rows shared.

    `one` is `heatmaps.render`, or `heatmaps.render_cells` if the result is `folded`. A strip has whole rows of cells,
    and the last ones may reach beyond the volume. Raises ValueError for fewer rows of cells than devices.
    """
    rows = -(-shape[0] // cell)
    if count() > rows:
        raise ValueError(f"config.mesh.rows={count()}: the volume has only {rows} rows of {cell} voxels to share")
    height = -(-rows // count()) * cell

    def strip(voxels, present):
        # The height is even (a multiple of a cell), so halves round as they do in the whole volume.
        above = height * lax.axis_index("rows") * jnp.int32([1, 0, 0])
        return jax.vmap(functools.partial(one, shape=(height, *shape[1:])))(voxels - above, present)

    batch = PartitionSpec("batch")
    x = jax.shard_map(strip, in_specs=(batch, batch), out_specs=_SHARED, check_vma=False)(voxels, present)
    x = x[:, :, : rows if folded else shape[0]]
    if folded and shape[0] % cell:  # a strip does not know where the volume ends
        inside = np.arange(rows * cell).reshape(rows, 1, 1, cell, 1, 1) < shape[0]
        split = x.reshape(*x.shape[:4], -1, cell, cell, cell)
        x = jnp.where(inside, split, 0).reshape(x.shape)
    return keep(x)
