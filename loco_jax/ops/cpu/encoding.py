"""Codes from joints, without the volume between them (method sections 2, 3).

Over 99.9 % of a volume is zero. An encoder's first layer is linear, so its result is its bias plus the sum over joints
of its results for the voxels that each joint owns (`heatmaps.owned_values`). The network computes the other layers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha, vha
from loco_jax.models.vha import KERNEL
from loco_jax.ops import layers
from loco_jax.pose import heatmaps
from loco_jax.pose.heatmaps import Cubes

_OVERHEAD = 8  # dense multiplications that cost as much as a sparse one
_PEOPLE = 8  # computed at once
CELL_AXES = (1, 2, 0)  # of rows, columns and depths in cells `[d, h, w, C]`


def pays(network: nn.Module, people: int, shape: tuple[int, int, int], sigma: float) -> bool:
    """Whether the first layer has less work for the cubes of so many people than for the volume."""
    side = heatmaps.cube_side(sigma)
    if isinstance(network, patch_vha.PatchVHA):
        cell = 2**network.level
        cube = (heatmaps.cells_of(sigma, cell) * cell) ** 3
    else:
        # A result depends on 25 * side voxels instead of 25 * bins, at every second row and column.
        cube = 4 * ((side + KERNEL - 2) // 2 + 1) ** 2 * min(side, shape[2])
    return 0 < _OVERHEAD * people * cube < math.prod(shape)


def encode_joints(
    network: vha.VHA | patch_vha.PatchVHA,
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
    if isinstance(network, patch_vha.PatchVHA):
        layer, cell = params["params"]["embed"], 2**network.level
        kernel = layer["kernel"].reshape(network.num_joints, cell, cell, cell, -1)
        # The kernel keeps its own type, in which its gradients are summed over frames.
        x = lax.map(lambda cubes: _embed(kernel, layer["bias"], cubes, shape, sigma, network.dtype), cubes)
        return layers.apply(network, params, x, method="encode_embedded")
    layer = params["params"]["encoder_2d_0"]
    kernel, bias = (layer[name].astype(network.dtype) for name in ("kernel", "bias"))
    rows, columns, _ = vha.code_shape(shape, network.level)
    grid = rows << (network.level - 1), columns << (network.level - 1)
    x = _first_layer(kernel, bias, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), cubes), grid, shape, sigma)
    return layers.apply(network, params, x.reshape(*cubes.count.shape, *x.shape[1:]), method="encode_further")


# ---- The published network's first layer: a 5 x 5 convolution of stride 2, whose channels are the bins


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _first_layer(kernel, bias, cubes, grid, shape, sigma):
    """The first layer's results `[N, *grid, C]` for N volumes, before the ReLU."""
    dimensions = lax.GatherDimensionNumbers(offset_dims=(1, 2, 3, 4), collapsed_slice_dims=(), start_index_map=(2,))

    def of_volume(cubes):
        def some(i, y):
            start, first_bin, patches = _patches(i, cubes, grid, shape, sigma)
            sizes = (KERNEL, KERNEL, patches.shape[-1], kernel.shape[-1])
            kernels = lax.gather(kernel, first_bin[:, None], dimensions, sizes, mode="promise_in_bounds")
            found = jnp.einsum("nhwabd,nabdf->nhwf", patches.astype(kernel.dtype), kernels)
            return add_windows(y, start, found, (0, 1))

        return over_people(cubes, some, jnp.broadcast_to(bias, (*grid, *bias.shape)))

    return lax.map(of_volume, cubes)  # one after the other, so that the data stay in the processor's cache


def _first_layer_forward(kernel, bias, cubes, *options):
    return _first_layer(kernel, bias, cubes, *options), (kernel, cubes)


def _first_layer_backward(grid, shape, sigma, saved, gradient):
    kernel, cubes = saved

    def of_volume(of_kernel, volume):
        cubes, gradient = volume

        def some(i, of_kernel):
            start, first_bin, patches = _patches(i, cubes, grid, shape, sigma)
            windows = windows_of(gradient, start, patches.shape[1:3], (0, 1))
            options = {"preferred_element_type": of_kernel.dtype}
            found = jnp.einsum("nhwabd,nhwf->dnabf", patches.astype(windows.dtype), windows, **options)
            return of_kernel.at[first_bin + np.arange(len(found), dtype=np.int32)[:, None]].add(found)

        return over_people(cubes, some, of_kernel), None

    # float32, because it is the sum of many small numbers.
    start = jnp.zeros((kernel.shape[2], *kernel.shape[:2], kernel.shape[3]), jnp.float32)
    of_kernel = jnp.moveaxis(lax.scan(of_volume, start, (cubes, gradient))[0], 0, 2).astype(kernel.dtype)
    return of_kernel, jnp.sum(gradient, axis=(0, 1, 2)), None


_first_layer.defvjp(_first_layer_forward, _first_layer_backward)


def _patches(i, cubes, grid, shape, sigma):
    """The input of the first layer from the i-th group of people.

    Returns the first row and column `[n, 2]` of the results that their cubes reach, the first bins of their cubes
    `[n]`, and the voxels `[n, h, w, 5, 5, bins]` under the kernel at each result from there on.
    """
    people = _people(i, cubes)
    side = heatmaps.cube_side(sigma)
    low = cubes.rounded.at[people].get(mode="clip") - side // 2
    # `size` results along an axis are as many as a cube can reach. At the end of the grid they are shifted inward.
    size = [min((side + KERNEL - 2) // 2 + 1, n) for n in grid]
    first = jnp.clip(-((2 - low[:, :2]) // 2), 0, np.subtract(grid, size, dtype=np.int32))
    bins = min(side, shape[2])
    first_bin = jnp.clip(low[:, 2], 0, shape[2] - bins)
    begin = jnp.concatenate([2 * first - 2, first_bin[:, None]], axis=-1)
    sides = (*(2 * n - 2 + KERNEL for n in size), bins)
    values = heatmaps.owned_values(cubes, people, begin, sides, shape, sigma)
    h, w = (2 * n - 1 for n in size)
    taps = [[values[:, a : a + h : 2, b : b + w : 2] for b in range(KERNEL)] for a in range(KERNEL)]
    return first, first_bin, jnp.stack([jnp.stack(row, axis=3) for row in taps], axis=3)


# ---- PatchVHA's embedding


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _embed(kernel, bias, cubes, shape, sigma, dtype):
    """The embedded cells `[d, h, w, C]` of a frame, for a kernel `[J, cell, cell, cell, C]`."""

    def of_joint(y, joint):
        kernel, cubes = joint

        def some(i, y):
            first, values = cells_of_people(i, cubes, kernel.shape[0], shape, sigma)
            return add_windows(y, first, jnp.einsum("nhawbdc,abcf->ndhwf", values.astype(dtype), kernel), CELL_AXES)

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
            windows = windows_of(gradient, first, (d, h, w), CELL_AXES)
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


# ---- Both


def windows_of(
    x: Float[jax.Array, "..."], starts: Int[jax.Array, "n axes"], sizes: tuple[int, ...], axes: tuple[int, ...]
) -> Float[jax.Array, "n ..."]:
    """Windows `[n, *sizes, C]` of `x[*grid, C]` that begin at `starts[n]` along `axes`."""
    offsets = tuple(range(1, x.ndim + 1))
    dimensions = lax.GatherDimensionNumbers(offset_dims=offsets, collapsed_slice_dims=(), start_index_map=axes)
    return lax.gather(x, starts, dimensions, (*sizes, x.shape[-1]), mode="promise_in_bounds")


def add_windows(
    x: Float[jax.Array, "..."],
    starts: Int[jax.Array, "n axes"],
    windows: Float[jax.Array, "n ..."],
    axes: tuple[int, ...],
) -> Float[jax.Array, "..."]:
    """`x` with the windows of `windows_of` added."""
    dimensions = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, x.ndim + 1)), inserted_window_dims=(), scatter_dims_to_operand_dims=axes
    )
    return lax.scatter_add(x, starts, windows, dimensions, mode="promise_in_bounds")


def over_people(cubes: Cubes, some: Callable[[Any, Any], Any], start: Any) -> Any:
    """The state after `some(i, state)` for each group of people who have cubes."""
    return lax.fori_loop(0, -(-cubes.count // _PEOPLE), some, start)


def _people(i, cubes):
    """The i-th group `[n]` of people who have cubes; the last group is filled up with a number that nobody has."""
    nobody = cubes.order.shape[0]
    return lax.dynamic_slice(jnp.pad(cubes.order, (0, _PEOPLE), constant_values=nobody), [i * _PEOPLE], [_PEOPLE])
