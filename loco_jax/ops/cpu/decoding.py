"""The peaks of a decoded code on CPUs, found without writing its heatmaps.

The last layer of an autoencoder takes most of the time. It is skipped where a bound proves that no voxel reaches the
threshold: the results of a linear layer for two inputs differ at most by the difference of the inputs times the norm of
the kernel (Cauchy and Schwarz). Most of a volume is almost empty, so most inputs are near to a few others. For a
published network the bound decides about tiles of each joint type's heatmap, and other wide convolutions run in
`tiles`. For a PatchVHA it decides about cells.

Codes of the published network must be finite: in the transforms, a number that is not finite spreads over more voxels
than in the plain network. Neighbouring voxels that are equal in the plain network may differ by rounding here. So a
plateau, such as an empty place of an untrained network, may have several peaks in place of one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha, vha
from loco_jax.models.vha import KERNEL, REACH
from loco_jax.ops import layers
from loco_jax.ops.cpu import tiles
from loco_jax.pose import peaks
from loco_jax.pose.peaks import BLOCK, Source

# The most blocks of a PatchVHA's volume that are computed, 28 kB each; 60 people need 311. It is at least as much as
# `peaks.CAPACITIES`, see `_patch_source`.
MAX_BLOCKS = 1024
_CHUNK = 128  # blocks computed at a time
_TILES = 32  # tiles computed at a time
_CENTRES = 128  # cells with which others are compared
_EPS = float(jnp.finfo(jnp.float32).eps)


def search(
    network: vha.VHA | patch_vha.PatchVHA,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    threshold: Any,
    find: Callable[[Source], Any],
) -> Any:
    """`find(source)` with a leading axis J, where the source has the voxels that may exceed the threshold."""
    if isinstance(network, patch_vha.PatchVHA):
        return find(_patch_source(network, params, code, size, threshold))

    def one(values, last):
        source, values = _joint_source(last, size, threshold, values)
        return values, jax.tree.map(lambda x: x[0], find(source))

    count = -(-size[0] // BLOCK) * -(-size[1] // BLOCK)
    room = jnp.zeros((-(-count // _TILES) * _TILES, BLOCK, BLOCK, network.depth_bins), jnp.float32)
    return _of_each_joint(network, params, code, one, room)


def whole(
    network: nn.Module, params: Any, code: Float[Array, "h w d"], size: tuple[int, int]
) -> Float[jax.Array, "J H W D"]:
    """The heatmaps `[J, H, W, D]` of a code `[h, w, d]`."""
    return layers.apply(network, params, code[None], size, method="decode")[0]


# ---- The published network


class _Last(NamedTuple):
    """A joint type's last layer: its padded input, its `kernel[D, 5, 5, C]`, and the kernel's `products`.

    Features are `[h * BLOCK + 4, w * BLOCK + 4, C]`, so that the results are whole blocks.
    """

    features: jax.Array
    kernel: jax.Array
    bias: jax.Array
    products: jax.Array


def _of_each_joint(network, params, code, then, state):
    """The stacked results of `then(state, last)`, which returns a new state and a result, for each joint type."""
    x = layers.apply(network, params, code[None], method="spread")[0]
    convs = [params["params"][f"decoder_2d_{i}"] for i in range(network.level + 1)]
    products = [tiles.transform_kernel(conv["kernel"]) for conv in convs]
    kernel, bias = jnp.moveaxis(convs[-1]["kernel"], -1, 0), convs[-1]["bias"]

    def one(state, x):
        x = jnp.pad(x, (*[(REACH, REACH)] * 2, (0, 0)))
        for i, (conv, product) in enumerate(zip(convs[:-1], products)):
            x = tiles.convolve(x, product) + conv["bias"]
            x = nn.relu(vha.upsample(x[None])[0])
            rest = (-s % BLOCK if i == network.level - 1 else 0 for s in x.shape[:2])
            x = jnp.pad(x, (*((REACH, REACH + r) for r in rest), (0, 0)))
        return then(state, _Last(x, kernel, bias, products[-1]))

    return lax.scan(one, state, jnp.moveaxis(x, -1, 0))[1]


def _joint_source(last, size, threshold, values_MxBxBxD):
    """A source of a joint type's heatmap with the voxels of the tiles that may reach the threshold, and `values`.

    The voxels are written to `values`, which the joint types share: to allocate zeros for each would take longer than
    everything else. Its former contents do not matter.
    """
    h, w = (-(-s // BLOCK) for s in size)
    listed_N = _may_reach(last, size, threshold).reshape(-1)
    slot_N = jnp.cumsum(listed_N, dtype=jnp.int32) - 1
    tile_M = jnp.nonzero(listed_N, size=len(values_MxBxBxD), fill_value=0)[0].astype(jnp.int32)
    sides = tiles.TILE, tiles.TILE, last.features.shape[-1]

    def some(i, state):
        values_MxBxBxD, highest_Nxd = state
        chosen = lax.dynamic_slice_in_dim(tile_M, i * _TILES, _TILES)

        def cut(tile):
            return lax.dynamic_slice(last.features, (tile // w * BLOCK, tile % w * BLOCK, np.int32(0)), sides)

        # A single gather of all tiles takes longer.
        results = tiles.convolve_tiles(lax.map(cut, chosen), last.products)
        heat = nn.relu(results + last.bias)
        highest_Nxd = highest_Nxd.at[chosen].set(peaks.block_maxima(heat)[:, 0, 0])
        return lax.dynamic_update_slice_in_dim(values_MxBxBxD, heat, i * _TILES, axis=0), highest_Nxd

    bins = len(last.bias)
    state = values_MxBxBxD, jnp.full((h * w, -(-bins // BLOCK)), -jnp.inf, jnp.float32)
    turns = -(-jnp.sum(listed_N, dtype=jnp.int32) // _TILES)
    values_MxBxBxD, highest_Nxd = lax.fori_loop(0, turns, some, state)

    def take(_, row, column, bin):
        tile = row // BLOCK * w + column // BLOCK
        value = values_MxBxBxD[jnp.maximum(slot_N[tile], 0), row % BLOCK, column % BLOCK, bin]
        return jnp.where(listed_N[tile], value, 0.0)

    def exact(*index):
        def one(args):
            _, row, column, bin = args
            patch = lax.dynamic_slice(last.features, (row, column, np.int32(0)), last.kernel.shape[1:])
            return nn.relu(jnp.vdot(patch, last.kernel[bin], precision="highest") + last.bias[bin])

        index = jnp.broadcast_arrays(*index)
        return lax.map(one, [x.reshape(-1) for x in index]).reshape(index[0].shape)

    def dense(features):
        heat = nn.relu(tiles.convolve(features, last.products) + last.bias)
        return heat[None, : size[0], : size[1]]

    highest_1xhxwxd = highest_Nxd.reshape(1, h, w, -1)
    return Source((1, *size, bins), highest_1xhxwxd, take, exact, last.features, dense), values_MxBxBxD


def _may_reach(last, size, threshold):
    """Whether each tile `[h, w]` of results may reach the threshold.

    The centre is the median of the features, which is that of empty places. The bound holds for exact results and for
    float32 sums in any order, whose errors are at most n / 2 eps of the sum of magnitudes.
    """
    rounding = 2 * last.kernel[0].size * _EPS
    some = last.features[REACH:-REACH, REACH:-REACH].reshape(-1, last.features.shape[-1])
    centre_C = jnp.median(_sample(some, 128), axis=0)
    norm_D = jnp.sqrt(jnp.sum(jnp.square(last.kernel), axis=(1, 2, 3)))
    empty_D = last.bias + jnp.matmul(jnp.sum(last.kernel, axis=(1, 2)), centre_C, precision="highest")
    size_D = KERNEL * jnp.linalg.norm(centre_C) * norm_D + jnp.abs(last.bias) + threshold
    radius = jnp.min((threshold - empty_D - rounding * size_D) / norm_D)

    square_HxW = jnp.sum(jnp.square(last.features - centre_C), axis=-1)
    for axis in (0, 1):
        length = square_HxW.shape[axis] - KERNEL + 1
        square_HxW = sum(lax.slice_in_dim(square_HxW, i, i + length, axis=axis) for i in range(KERNEL))
    near_HxW = jnp.sqrt(square_HxW) * (1 + rounding) < radius  # False for NaN
    far_HxW = jnp.pad(~near_HxW[: size[0], : size[1]], [(0, -s % BLOCK) for s in size])
    h, w = (s // BLOCK for s in far_HxW.shape)
    return jnp.any(far_HxW.reshape(h, BLOCK, w, BLOCK), axis=(1, 3))


# ---- PatchVHA


def _patch_source(network, params, code, size, threshold):
    """A source of a PatchVHA's heatmaps with the voxels of blocks in which a joint type may reach the threshold."""
    features = layers.apply(network, params, code[None], method="decode_features")[0]
    depth, rows, columns, width = features.shape
    cell, joints = 2**network.level, network.num_joints
    side = BLOCK // cell
    grid = d, h, w = tuple(-(-s // side) for s in (depth, rows, columns))
    flat = features.reshape(-1, width)

    def head(features):
        return network.head.apply({"params": params["params"]["to_logits"]}, features)

    # The sigmoid's rounding is far below 1e-5. If a number is not finite, everything is listed, because a comparison
    # with NaN may hide a number.
    highest = _cell_maxima(network, params, features, threshold).reshape(depth, rows, columns, joints)
    highest = jnp.where(jnp.all(jnp.isfinite(features)), highest, jnp.inf)
    highest = jnp.pad(highest, [*((0, -s % side) for s in (depth, rows, columns)), (0, 0)], constant_values=-jnp.inf)
    highest = jnp.max(highest.reshape(d, side, h, side, w, side, joints), axis=(1, 3, 5))
    highest_dxhxwxJ = nn.sigmoid(highest) * (1 + 1e-5)
    listed_N = jnp.any(highest_dxhxwxJ > threshold, axis=-1).reshape(-1)
    slot_N = jnp.cumsum(listed_N, dtype=jnp.int32) - 1
    most = -(-min(MAX_BLOCKS, listed_N.size) // _CHUNK) * _CHUNK
    block_M = jnp.nonzero(listed_N, size=most, fill_value=0)[0].astype(jnp.int32)

    def voxels(i, values):
        block_C = lax.dynamic_slice_in_dim(block_M, i * _CHUNK, _CHUNK)
        within = jnp.meshgrid(*[jnp.arange(side, dtype=jnp.int32)] * 3, indexing="ij")
        at = [b[:, None, None, None] * side + x for b, x in zip(jnp.unravel_index(block_C, grid), within)]
        z, y, x = (jnp.minimum(a, s - 1) for a, s in zip(at, (depth, rows, columns)))
        heat = patch_vha.unfold(nn.sigmoid(head(flat[(z * rows + y) * columns + x])), cell)
        return lax.dynamic_update_slice_in_dim(values, heat.reshape(_CHUNK, joints, BLOCK**3), i * _CHUNK, axis=0)

    num_listed = jnp.sum(listed_N, dtype=jnp.int32)
    turns = jnp.minimum(-(-num_listed // _CHUNK), most // _CHUNK)
    values_MxJxV = lax.fori_loop(0, turns, voxels, jnp.zeros((most, joints, BLOCK**3), jnp.float32))

    def take(joint, row, column, bin):
        block = ((bin // BLOCK) * h + row // BLOCK) * w + column // BLOCK
        voxel = ((row % BLOCK) * BLOCK + column % BLOCK) * BLOCK + bin % BLOCK
        slot = jnp.clip(slot_N[block], 0, most - 1)
        return jnp.where(listed_N[block], values_MxJxV[slot, joint, voxel], 0.0)

    def exact(*index):
        def one(args):
            joint, row, column, bin = args
            logits = head(flat[((bin // cell) * rows + row // cell) * columns + column // cell])
            return nn.sigmoid(logits[jnp.arange(len(bin), dtype=jnp.int32), channel(joint, row, column, bin, cell)])

        return lax.map(one, jnp.broadcast_arrays(*index))

    # If there is no room for all listed blocks, every block counts as reaching the threshold. These are more than
    # `peaks.search` looks into, so it searches the whole volume.
    highest_JxN = jnp.transpose(highest_dxhxwxJ, (3, 1, 2, 0))
    highest_JxN = jnp.where(num_listed > most, jnp.inf, highest_JxN)
    shape = (joints, *size, network.depth_bins)
    return Source(shape, highest_JxN, take, exact, code, lambda code: whole(network, params, code, size))


def _cell_maxima(network, params, features_dxhxwxC, threshold):
    """Upper bounds `[N, J]` of the logits of cells, -inf where certainly no logit reaches the threshold.

    Most cells are so near to the mean of all cells, which is that of empty ones, that none of their logits reaches the
    threshold. Most others are as near to one of a sample of cells. The bounds are the greatest logits with room for
    rounding.
    """
    cell, joints = 2**network.level, network.num_joints
    head = {"params": params["params"]["to_logits"]}
    last = head["params"]["Dense_1"]
    flat = features_dxhxwxC.reshape(-1, features_dxhxwxC.shape[-1])

    def hidden_of(features):
        return network.head.apply(head, features, only_hidden=True)

    limit = jax.scipy.special.logit(jnp.asarray(threshold, jnp.float32))
    sample_KxH = hidden_of(_sample(flat, 4096))
    near_mean = _around(jnp.mean(sample_KxH, axis=0, keepdims=True), last, limit)
    far_N = ~lax.map(lambda layer: near_mean(hidden_of(layer)), features_dxhxwxC).reshape(-1)
    count = _CHUNK * (BLOCK // cell) ** 3

    def of_far_cells(far_N, change, state):
        """The state after `change(cells, state)` for groups of far cells; the first cell may come twice."""
        size = -(-far_N.size // count) * count
        cell_N = jnp.nonzero(far_N, size=size, fill_value=jnp.argmax(far_N))[0].astype(jnp.int32)
        some = functools.partial(lax.dynamic_slice_in_dim, cell_N, slice_size=count)
        turns = -(-jnp.sum(far_N, dtype=jnp.int32) // count)
        return lax.fori_loop(0, turns, lambda i, state: change(some(i * count), state), state)

    near_sample = _around(_sample(sample_KxH, _CENTRES), last, limit)
    far_N = of_far_cells(far_N, lambda cells, far_N: far_N.at[cells].set(~near_sample(hidden_of(flat[cells]))), far_N)

    def maxima(cells, highest):
        hidden = hidden_of(flat[cells])
        logits = (hidden @ last["kernel"] + last["bias"]).reshape(count, joints, cell**3)
        size = jnp.linalg.norm(hidden, axis=-1, keepdims=True) * jnp.max(jnp.linalg.norm(last["kernel"], axis=0))
        more = _rounding(last) * (size + jnp.max(jnp.abs(last["bias"])))
        return highest.at[cells].set(jnp.max(logits, axis=-1) + more)

    return of_far_cells(far_N, maxima, jnp.full((far_N.size, joints), -jnp.inf, jnp.float32))


def _around(centre_KxH, last, limit):
    """A function that returns whether hidden vectors `[N, H]` are so near to a centre that no logit exceeds a limit.

    Within a radius of a centre no logit reaches the limit, for any order of sums in float32. Vectors whose squares
    overflow are not near.
    """
    rounding = _rounding(last)
    norm_V = jnp.linalg.norm(last["kernel"], axis=0)
    square_K = jnp.sum(jnp.square(centre_KxH), axis=-1)
    room_KxV = limit - (jnp.matmul(centre_KxH, last["kernel"], precision="highest") + last["bias"])
    room_KxV -= rounding * (jnp.sqrt(square_K)[:, None] * norm_V + jnp.abs(last["bias"]) + jnp.abs(limit) + 1)
    radius_K = jnp.min(room_KxV / norm_V, axis=-1) * (1 - rounding)

    def near(hidden):
        square = jnp.sum(jnp.square(hidden), axis=-1, keepdims=True) + square_K
        # A bound of half the squared distance.
        half = 0.5 * (1 + rounding) * square - jnp.matmul(hidden, centre_KxH.T, precision="highest")
        return jnp.any((half < 0.5 * jnp.square(radius_K)) & (radius_K > 0), axis=-1)

    return near


def _rounding(last):
    """A bound of the error of products with a layer and of its input, relative to the sum of magnitudes."""
    return 4 * (len(last["kernel"]) + 64) * _EPS


def _sample(x_NxC, count):
    """`count` of the rows, spread evenly by the golden ratio, so that they do not follow the period of an axis."""
    count = min(count, len(x_NxC))
    return x_NxC[(np.arange(count) * (5**0.5 - 1) / 2 % 1 * len(x_NxC)).astype(np.int32)]


def channel(joint: Any, row: Any, column: Any, bin: Any, cell: int) -> Any:
    """The index of a voxel among the channels of its cell, see `patch_vha.fold`."""
    return ((joint * cell + row % cell) * cell + column % cell) * cell + bin % cell
