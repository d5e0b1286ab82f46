"""A PatchVHA's codes from joints, without the volume between them (method sections 2, 3).

Over 99.9 % of a volume is zero. The embedding is linear, so its result is its bias plus the sum over joints of its
results for the voxels that each joint owns (`heatmaps.owned_values`). The network computes the other layers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha
from loco_jax.ops import layers
from loco_jax.pose import heatmaps
from loco_jax.pose.heatmaps import Cubes

_OVERHEAD = 8  # dense multiplications that cost as much as a sparse one
_PEOPLE = 8  # computed at once
_AXES = (1, 2, 0)  # of rows, columns and depths in cells `[d, h, w, C]`


def pays(network: patch_vha.PatchVHA, people: int, shape: tuple[int, int, int], sigma: float) -> bool:
    """Whether the embedding has less work for the cubes of so many people than for the volume."""
    cell = 2**network.level
    cube = (heatmaps.cells_of(sigma, cell) * cell) ** 3
    return 0 < _OVERHEAD * people * cube < math.prod(shape)


def encode_joints(
    network: patch_vha.PatchVHA,
    params: Any,
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    *,
    shape: tuple[int, int, int],
    sigma: float,
    subvoxel: bool,
) -> Float[jax.Array, "B h w d"]:
    """The codes of `ops.encode_joints`, without the heatmaps. Only the parameters have gradients."""
    find = functools.partial(heatmaps.find_cubes, shape=shape, sigma=sigma, subvoxel=subvoxel)
    cubes = jax.vmap(find)(voxels, present)
    layer, cell = params["params"]["embed"], 2**network.level
    kernel = layer["kernel"].reshape(network.num_joints, cell, cell, cell, -1)
    # The kernel keeps its own type, in which its gradients are summed over frames.
    x = lax.map(lambda cubes: _embed(kernel, layer["bias"], cubes, shape, sigma, network.dtype), cubes)
    return layers.apply(network, params, x, method="encode_embedded")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _embed(kernel, bias, cubes, shape, sigma, dtype):
    """The embedded cells `[d, h, w, C]` of a frame, for a kernel `[J, cell, cell, cell, C]`."""

    def of_joint(y, joint):
        kernel, cubes = joint

        def some(i, y):
            first, values = cells_of_people(i, cubes, kernel.shape[0], shape, sigma)
            return add_windows(y, first, jnp.einsum("nhawbdc,abcf->ndhwf", values.astype(dtype), kernel))

        return over_people(cubes, some, y), None

    h, w, d = (-(-size // kernel.shape[1]) for size in shape)
    kernel, bias = kernel.astype(dtype), bias.astype(dtype)
    return lax.scan(of_joint, jnp.broadcast_to(bias, (d, h, w, *bias.shape)), (kernel, cubes))[0]


def _embed_forward(kernel, bias, cubes, shape, sigma, dtype):
    return _embed(kernel, bias, cubes, shape, sigma, dtype), (kernel, cubes)


def _embed_backward(shape, sigma, dtype, saved, gradient):
    def of_joint(joint):
        kernel, cubes = joint

        def some(i, of_kernel):
            first, values = cells_of_people(i, cubes, kernel.shape[0], shape, sigma)
            _, h, _, w, _, d, _ = values.shape
            windows = windows_of(gradient, first, (d, h, w))
            options = {"preferred_element_type": kernel.dtype}
            return of_kernel + jnp.einsum("nhawbdc,ndhwf->abcf", values.astype(dtype), windows, **options)

        return over_people(cubes, some, jnp.zeros_like(kernel))

    return lax.map(of_joint, saved), jnp.sum(gradient, axis=(0, 1, 2), dtype=saved[0].dtype), None


_embed.defvjp(_embed_forward, _embed_backward)


def cells_of_people(i: Any, cubes: Cubes, cell: int, shape: tuple[int, int, int], sigma: float):
    """The cells that the cubes of the i-th group of people can reach.

    Returns the row, column and depth `[n, 3]` of the first cells, and their voxels `[n, h, cell, w, cell, d, cell]`.
    """
    people = _people(i, cubes)
    grid = [-(-n // cell) for n in shape]
    size = [min(heatmaps.cells_of(sigma, cell), n) for n in grid]
    low = cubes.rounded.at[people].get(mode="clip") - heatmaps.cube_side(sigma) // 2
    first = jnp.clip(low // cell, 0, np.subtract(grid, size, dtype=np.int32))
    values = heatmaps.owned_values(cubes, people, first * cell, tuple(n * cell for n in size), shape, sigma)
    return first, values.reshape(-1, *(n for s in size for n in (s, cell)))


def windows_of(
    x: Float[jax.Array, "D H W C"], first: Int[jax.Array, "n 3"], sizes: tuple[int, int, int]
) -> Float[jax.Array, "n d h w C"]:
    """Windows `[n, *sizes, C]` of cells that begin at the row, column and depth `first`."""
    dimensions = lax.GatherDimensionNumbers((1, 2, 3, 4), collapsed_slice_dims=(), start_index_map=_AXES)
    return lax.gather(x, first, dimensions, (*sizes, x.shape[-1]), mode="promise_in_bounds")


def add_windows(
    x: Float[jax.Array, "D H W C"], first: Int[jax.Array, "n 3"], windows: Float[jax.Array, "n d h w C"]
) -> Float[jax.Array, "D H W C"]:
    """`x` with the windows of `windows_of` added."""
    dimensions = lax.ScatterDimensionNumbers((1, 2, 3, 4), inserted_window_dims=(), scatter_dims_to_operand_dims=_AXES)
    return lax.scatter_add(x, first, windows, dimensions, mode="promise_in_bounds")


def over_people(cubes: Cubes, some: Callable[[Any, Any], Any], start: Any) -> Any:
    """The state after `some(i, state)` for each group of people who have cubes."""
    return lax.fori_loop(0, -(-cubes.count // _PEOPLE), some, start)


def _people(i, cubes):
    """The i-th group `[n]` of people who have cubes; the last group is filled up with a number that nobody has."""
    nobody = cubes.order.shape[0]
    return lax.dynamic_slice(jnp.pad(cubes.order, (0, _PEOPLE), constant_values=nobody), [i * _PEOPLE], [_PEOPLE])
