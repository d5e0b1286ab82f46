"""Volumes whose rows are shared by several devices, where one is too large for one device.

Heatmaps are rendered by each device for its own strip of rows; the networks run on them as they are, and the compiler
exchanges the rows that convolutions need of the neighbours (GSPMD). The ways of volumes that fit, with their loops over
people and parts, would not be shared; so all goes through the heatmaps here.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from loco_jax.models import vha
from loco_jax.ops.cpu import cell_entropy
from loco_jax.pose import heatmaps

_SHARED = PartitionSpec("batch", None, "rows")


def count() -> int:
    """How many devices share the rows of a volume, under `jax.set_mesh`; 1 for none."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["rows"] if "rows" in mesh.auto_axes else 1


def render(network: nn.Module, voxels: jax.Array, present: jax.Array, shape: tuple[int, int, int], **options):
    """`heatmaps.render` of a batch, `[B, J, H, W, D]`, its rows shared."""
    cell = 2**network.level
    _, height = _strip(shape[0], cell)
    strip = functools.partial(heatmaps.render, shape=(height, *shape[1:]), **options)
    return _keep(_in_strips(strip, voxels, present, height)[:, :, : shape[0]])


def render_cells(network: vha.PatchVHA, voxels: jax.Array, present: jax.Array, shape: tuple[int, int, int], **options):
    """`heatmaps.render_cells` of a batch, `[B, d, h, w, J * cell^3]`, its rows shared."""
    cell = 2**network.level
    rows, height = _strip(shape[0], cell)
    strip = functools.partial(heatmaps.render_cells, shape=(height, *shape[1:]), cell=cell, **options)
    cells = _in_strips(strip, voxels, present, height)[:, :, :rows]
    if shape[0] % cell:  # a strip does not know where the volume ends
        inside = np.arange(rows * cell).reshape(rows, 1, 1, cell, 1, 1) < shape[0]
        split = cells.reshape(*cells.shape[:4], -1, cell, cell, cell)
        cells = jnp.where(inside, split, 0).reshape(cells.shape)
    return _keep(cells)


def encode_joints(network: nn.Module, params: Any, voxels: jax.Array, present: jax.Array, **options) -> jax.Array:
    """As `fast_encode.encode_joints`."""
    options = {**options, "dtype": network.dtype}
    voxels = lax.stop_gradient(voxels)
    if isinstance(network, vha.PatchVHA):
        return network.apply(params, render_cells(network, voxels, present, **options), method="encode_cells")
    return network.apply(params, render(network, voxels, present, **options), method="encode")


def sum_entropy(
    network: vha.PatchVHA,
    params: Any,
    x: jax.Array,
    voxels: jax.Array,
    present: jax.Array,
    positive_weight: float = 0.0,
    **options,
) -> jax.Array:
    """As `cell_entropy.sum_entropy`."""
    target = render_cells(network, lax.stop_gradient(voxels), present, dtype=network.dtype, **options)
    head = {"params": params["params"]["to_logits"]}
    return cell_entropy.of_targets(network, head, _keep(x), target, positive_weight)


def _strip(rows: int, cell: int) -> tuple[int, int]:
    """Rows of cells in all, and rows of voxels of a device's strip; the last strips may reach beyond the volume."""
    in_all = -(-rows // cell)
    if count() > in_all:
        raise ValueError(f"config.mesh.rows={count()}: the volume has only {in_all} rows of {cell} voxels to share")
    return in_all, -(-in_all // count()) * cell


def _in_strips(render: Callable[..., jax.Array], voxels, present, height: int) -> jax.Array:
    """What `render(voxels, present)` makes of each frame in each strip, the strips behind each other along axis 2."""

    def mine(voxels, present):
        # An even number of rows: halves round as they do in the whole volume.
        above = height * lax.axis_index("rows") * jnp.int32([1, 0, 0])
        return jax.vmap(render)(voxels - above, present)

    batch = PartitionSpec("batch")
    return jax.shard_map(mine, in_specs=(batch, batch), out_specs=_SHARED, check_vma=False)(voxels, present)


def _keep(x: jax.Array) -> jax.Array:
    """`x` with its rows, axis 2 in all arrays here, shared; they need not divide evenly."""
    return lax.with_sharding_constraint(x, _SHARED)
