"""Decoding on CPUs: the same peaks as in the plain networks' heatmaps in a fraction of the time.

The published network's wide convolutions go through `fast_conv`, one joint type after the other, and its 3D ones are
done as 2D ones. For peaks, its last and widest layer is left out for tiles so near to empty ones that they cannot reach
the threshold. So is PatchVHA's for such cells, and of the others only the maxima are kept, until it is known which
blocks reach it. Volumes are never written.

In the published network's transforms, a number that is not finite would spread over more voxels than in the plain one:
codes must be finite. Neighbours that are exactly equal in the plain one may come apart by rounding: of a plateau, say
where an untrained network's empty places are above the threshold, several peaks are found in place of one.

On other devices the plain networks are the fast ones, and in bfloat16 they would differ by more than a little: there
the plain networks are what is computed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from loco_jax.models import vha
from loco_jax.models.vha import KERNEL, REACH
from loco_jax.ops.cpu import fast_conv
from loco_jax.pose import peaks
from loco_jax.pose.peaks import BLOCK, Peaks, Source

_LEAST_VOXELS = 2**20  # of a joint type: the paper's 10 million win, the demo's 0.2 million lose a fifth
# Of a PatchVHA's volume, 28 kB each; 60 people need 311. Not less than `peaks.CAPACITIES`, see `_patch_source`.
MAX_BLOCKS = 1024
CHUNK = 128  # blocks at a time
_TILES = 32  # at a time
_CENTRES = 128  # of cells that cannot reach the threshold


def pays(network: nn.Module, size: tuple[int, int]) -> bool:
    """Whether the ways of this module are faster on a CPU: not for small volumes, whose layers are narrow."""
    known = isinstance(network, vha.VHA | vha.PatchVHA) and network.dtype == jnp.float32
    return known and size[0] * size[1] * network.depth_bins >= _LEAST_VOXELS


def decode_peaks(
    network: vha.VHA | vha.PatchVHA,
    params: Any,
    code: jax.Array,
    size: tuple[int, int],
    threshold: float = 0.1,
    max_peaks: int = 128,
    subvoxel: bool = False,
    fast: bool | None = None,
    volume_dtype: jnp.dtype | None = None,
) -> Peaks:
    """The peaks of the heatmaps of one finite code `[h, w, d]`: those `peaks.find_peaks` finds in the plain ones.

    `fast` asks for this module's way on CPUs, or for the plain one; None takes what `pays`. Elsewhere heatmaps are
    rounded to `volume_dtype`; None leaves them as they are.
    """
    find = functools.partial(peaks.search, threshold=threshold, max_peaks=max_peaks, subvoxel=subvoxel)
    return _search(network, params, code, size, threshold, find, fast, volume_dtype)


def decode_peaks_and_offsets(
    network: vha.VHA | vha.PatchVHA,
    params: Any,
    code: jax.Array,
    size: tuple[int, int],
    threshold: float = 0.1,
    max_peaks: int = 128,
    fast: bool | None = None,
    volume_dtype: jnp.dtype | None = None,
) -> tuple[Peaks, jax.Array]:
    """`decode_peaks` at whole voxels, and the offsets `[J, K, 3]` that it would add to them with `subvoxel`."""

    def find(source):
        found = peaks.search(source, threshold, max_peaks)
        return found, peaks.subvoxel_offsets(source, found)

    return _search(network, params, code, size, threshold, find, fast, volume_dtype)


def decode_at(
    network: vha.VHA | vha.PatchVHA,
    params: Any,
    code: jax.Array,
    size: tuple[int, int],
    joints: jax.Array,
    at: jax.Array,
) -> jax.Array:
    """Values `[N]` at whole voxels `at[N, 3]` of the heatmaps of `joints[N]`, of those that one code `[h, w, d]` makes.

    A PatchVHA's head sees the cells of those voxels alone; a published network's volumes are written. Of voxels outside
    the volume the nearest one inside counts.
    """
    at = jnp.clip(at, 0, np.int32([*size, network.depth_bins]) - 1).astype(jnp.int32)
    if not isinstance(network, vha.PatchVHA):
        return _dense(network, params, code, size)[joints, *at.T]
    features = network.apply(params, code[None], method="decode_features")[0]
    return nn.sigmoid(logits_at(network, params, features, joints, at))


def logits_at(network: vha.PatchVHA, params: Any, features: jax.Array, joints: jax.Array, at: jax.Array) -> jax.Array:
    """Logits `[N]` at whole voxels `at[N, 3]`, int32 and inside the volume, of the heatmaps of `joints[N]`.

    `features` are one code's, `[d, h, w, C]`, see `PatchVHA.decode_features`.
    """
    row, column, depth = at.T
    cell = 2**network.level
    cells_NxC = features[depth // cell, row // cell, column // cell]
    hidden_NxC = network.apply(params, cells_NxC, method=lambda net, x: net.to_logits(x, only_hidden=True))
    last, channel = params["params"]["to_logits"]["Dense_1"], _channel(joints, row, column, depth, cell)
    return jnp.sum(hidden_NxC * last["kernel"].T[channel], axis=-1) + last["bias"][channel]


def _search(network, params, code, size, threshold, find: Callable[[Source], Any], fast, volume_dtype):
    """What `find` makes of sources that have what reaches the threshold, of some joint types each; put together."""

    def dense(params, code, dtype=None):
        heatmaps = _dense(network, params, code, size)
        return find(peaks.of_volume(heatmaps if dtype is None else heatmaps.astype(dtype)))

    def fused(params, code):
        if isinstance(network, vha.PatchVHA):
            return find(_patch_source(network, params, code, size, threshold))

        def one(tiles, last):
            source, tiles = _joint_source(last, size, threshold, tiles)
            return tiles, jax.tree.map(lambda x: x[0], find(source))

        return _of_each_joint(network, params, code, one, _no_tiles(size, network.depth_bins))

    fast = pays(network, size) if fast is None else fast
    if not fast and volume_dtype is None:
        return dense(params, code)
    rounded = functools.partial(dense, dtype=volume_dtype)
    return lax.platform_dependent(params, code, cpu=fused if fast else dense, default=rounded)


def _dense(network, params, code, size):
    return network.apply(params, code[None], size, method="decode")[0]


# --- the published network


class _Last(NamedTuple):
    """A joint type's last layer: `features` that go in, zeros around; `kernel[D, 5, 5, C]`; what that multiplies by.

    Features are `[h * BLOCK + 4, w * BLOCK + 4, C]`: results are whole blocks.
    """

    features: jax.Array
    kernel: jax.Array
    bias: jax.Array
    products: jax.Array


def _of_each_joint(network, params, code, then, state=()):
    """What `then` makes of the last layer of each joint type, stacked; it takes a state and hands it on as well."""
    x = network.apply(params, code[None], method="spread")[0]
    params = params["params"]
    num_layers = sum(name.startswith("decoder_2d") for name in params)
    layers = [params[f"decoder_2d_{i}"] for i in range(num_layers)]
    products = [fast_conv.transform_kernel(layer["kernel"]) for layer in layers]
    kernel, bias = jnp.moveaxis(layers[-1]["kernel"], -1, 0), layers[-1]["bias"]

    def one(state, x):
        x = jnp.pad(x, (*[(REACH, REACH)] * 2, (0, 0)))
        for i, (layer, product) in enumerate(zip(layers[:-1], products)):
            x = fast_conv.conv(x, product, (KERNEL, KERNEL), then=lambda band, bias=layer["bias"]: band + bias)
            x = nn.relu(vha.upsample(x[None])[0])
            rest = (-s % BLOCK if i == num_layers - 2 else 0 for s in x.shape[:2])
            x = jnp.pad(x, (*((REACH, REACH + r) for r in rest), (0, 0)))
        return then(state, _Last(x, kernel, bias, products[-1]))

    return lax.scan(one, state, jnp.moveaxis(x, -1, 0))[1]


def _no_tiles(size, bins):
    """Room for all tiles of results, which are as high and as wide as blocks."""
    count = -(-size[0] // BLOCK) * -(-size[1] // BLOCK)
    return jnp.zeros((-(-count // _TILES) * _TILES, BLOCK, BLOCK, bins), jnp.float32)


def _joint_source(last, size, threshold, values_MxBxBxD):
    """A joint type's heatmap as a source that has the voxels of tiles that may reach the threshold, `_TILES` at a time.

    They come into `values`, which is handed on: filling as much with zeros for each joint type would take longer than
    all else. What is in it beforehand is not looked at.
    """
    h, w = (-(-s // BLOCK) for s in size)
    listed_N = _may_reach(last, size, threshold).reshape(-1)
    slot_N = jnp.cumsum(listed_N, dtype=jnp.int32) - 1
    tile_M = jnp.nonzero(listed_N, size=len(values_MxBxBxD), fill_value=0)[0].astype(jnp.int32)

    sides = *fast_conv.TILE, last.features.shape[-1]

    def some(i, state):
        values_MxBxBxD, highest_Nxd = state
        tiles = lax.dynamic_slice_in_dim(tile_M, i * _TILES, _TILES)

        def cut(tile):
            return lax.dynamic_slice(last.features, (tile // w * BLOCK, tile % w * BLOCK, np.int32(0)), sides)

        # One after the other: a gather of them all takes longer.
        heat = nn.relu(fast_conv.conv_tiles(lax.map(cut, tiles), last.products, (KERNEL, KERNEL)) + last.bias)
        highest_Nxd = highest_Nxd.at[tiles].set(peaks.block_maxima(heat)[:, 0, 0])
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

    def whole(features):
        heat = fast_conv.conv(features, last.products, (KERNEL, KERNEL), then=lambda band: nn.relu(band + last.bias))
        return heat[None, : size[0], : size[1]]

    highest_1xhxwxd = highest_Nxd.reshape(1, h, w, -1)
    return Source((1, *size, bins), highest_1xhxwxd, take, exact, last.features, whole), values_MxBxBxD


def _may_reach(last, size, threshold):
    """Which tiles `[h, w]` of results may reach the threshold: all but those that certainly do not.

    For features that differ from some vector by so much, results differ from that vector's by at most as much times the
    norm of the kernel (Cauchy and Schwarz), so within a radius none of them reaches the threshold. Empty places, which
    are the most, all have about the same features: the median.

    That holds for exact results and for those of any plain convolution in float32. Sums of n products, or of squares,
    are off by n half eps of the sum of what is added without signs, whatever the order; the bound has room for four
    times as much. Squares below the least number, `tiny`, may be lost: together n of it, of a length the root of that.
    """
    n, number = last.kernel[0].size, jnp.finfo(jnp.float32)
    rounding, lost = 2 * n * float(number.eps), float(n * number.tiny)
    some = last.features[REACH:-REACH, REACH:-REACH].reshape(-1, last.features.shape[-1])
    centre_C = jnp.median(_sample(some, 128), axis=0)
    norm_D = jnp.sqrt(jnp.sum(jnp.square(last.kernel), axis=(1, 2, 3))) + lost**0.5
    empty_D = last.bias + jnp.matmul(jnp.sum(last.kernel, axis=(1, 2)), centre_C, precision="highest")
    size_D = KERNEL * (jnp.linalg.norm(centre_C) + lost**0.5) * norm_D + jnp.abs(last.bias) + threshold
    radius = jnp.min((threshold - empty_D - (rounding * size_D + lost)) / norm_D)

    square_HxW = jnp.sum(jnp.square(last.features - centre_C), axis=-1)
    for axis in (0, 1):
        length = square_HxW.shape[axis] - KERNEL + 1
        square_HxW = sum(lax.slice_in_dim(square_HxW, i, i + length, axis=axis) for i in range(KERNEL))
    # A NaN is far.
    far_HxW = ~(jnp.sqrt(square_HxW) * (1 + rounding) + lost**0.5 < radius)[: size[0], : size[1]]
    far_HxW = jnp.pad(far_HxW, [(0, -s % BLOCK) for s in size])
    h, w = (s // BLOCK for s in far_HxW.shape)
    return jnp.any(far_HxW.reshape(h, BLOCK, w, BLOCK), axis=(1, 3))


# --- PatchVHA


def _patch_source(network, params, code, size, threshold):
    """A PatchVHA's heatmaps as a source that has the voxels of blocks where any joint type reaches the threshold."""
    features = network.apply(params, code[None], method="decode_features")[0]
    depth, rows, columns, width = features.shape
    cell, joints = 2**network.level, network.num_joints
    side = BLOCK // cell
    grid = d, h, w = tuple(-(-s // side) for s in (depth, rows, columns))
    flat = features.reshape(-1, width)

    def head(features):
        return network.apply(params, features, method=lambda net, x: net.to_logits(x))

    # What might reach the threshold is looked into; the sigmoid's own rounding is far below 1e-5. So is everything if
    # something is not finite, for a NaN may hide what it is compared with.
    highest = _cell_maxima(network, params, features, threshold).reshape(depth, rows, columns, joints)
    highest = jnp.where(jnp.all(jnp.isfinite(features)), highest, jnp.inf)
    highest = jnp.pad(highest, [*((0, -s % side) for s in (depth, rows, columns)), (0, 0)], constant_values=-jnp.inf)
    highest = jnp.max(highest.reshape(d, side, h, side, w, side, joints), axis=(1, 3, 5))
    highest_dxhxwxJ = nn.sigmoid(highest) * (1 + 1e-5)
    listed_N = jnp.any(highest_dxhxwxJ > threshold, axis=-1).reshape(-1)
    slot_N = jnp.cumsum(listed_N, dtype=jnp.int32) - 1
    most = -(-min(MAX_BLOCKS, listed_N.size) // CHUNK) * CHUNK
    block_M = jnp.nonzero(listed_N, size=most, fill_value=0)[0].astype(jnp.int32)

    def voxels(i, values):
        block_C = lax.dynamic_slice_in_dim(block_M, i * CHUNK, CHUNK)
        within = jnp.meshgrid(*[jnp.arange(side, dtype=jnp.int32)] * 3, indexing="ij")
        at = [b[:, None, None, None] * side + x for b, x in zip(jnp.unravel_index(block_C, grid), within)]
        z, y, x = (jnp.minimum(a, s - 1) for a, s in zip(at, (depth, rows, columns)))
        heat = vha.unfold(nn.sigmoid(head(flat[(z * rows + y) * columns + x])), cell)
        return lax.dynamic_update_slice_in_dim(values, heat.reshape(CHUNK, joints, BLOCK**3), i * CHUNK, axis=0)

    num_listed = jnp.sum(listed_N, dtype=jnp.int32)
    turns = jnp.minimum(-(-num_listed // CHUNK), most // CHUNK)
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
            return nn.sigmoid(logits[jnp.arange(len(bin), dtype=jnp.int32), _channel(joint, row, column, bin, cell)])

        return lax.map(one, jnp.broadcast_arrays(*index))

    # More blocks than there is room for are more than `search` looks into of a joint type. So it takes the dense way if
    # all seem to reach the threshold.
    highest_JxN = jnp.transpose(highest_dxhxwxJ, (3, 1, 2, 0))
    highest_JxN = jnp.where(num_listed > most, jnp.inf, highest_JxN)
    shape = (joints, *size, network.depth_bins)
    return Source(shape, highest_JxN, take, exact, code, lambda code: _dense(network, params, code, size))


def _cell_maxima(network, params, features_dxhxwxC, threshold):
    """The greatest logits of cells `[N, J]`, or a little more; -inf where certainly none reaches the threshold.

    Around the mean of all cells, which is that of empty ones, most are so near that they cannot, see `_around`; of the
    others most are so near to another cell, one of a sample. What is a little more has room for the rounding of logits
    that are computed otherwise.
    """
    cell, joints = 2**network.level, network.num_joints

    def hidden_of(features):
        return network.apply(params, features, method=lambda net, x: net.to_logits(x, True))

    flat = features_dxhxwxC.reshape(-1, features_dxhxwxC.shape[-1])
    layers = params["params"]["to_logits"]
    last, stray = layers["Dense_1"], _stray(layers)
    rounding, lost = _rounding(last)
    norm = jnp.max(_norms(last))
    # The sigmoid and its inverse are right but for a few eps of their arguments and results.
    few = 16 * float(jnp.finfo(jnp.float32).eps)
    limit = jax.scipy.special.logit(jnp.asarray(threshold * (1 - few), jnp.float32))
    limit -= few * (1 + jnp.abs(limit))
    sample_KxH = hidden_of(_sample(flat, 4096))

    near_mean = _around(jnp.mean(sample_KxH, axis=0, keepdims=True), last, limit, stray)
    far_N = ~lax.map(lambda layer: near_mean(hidden_of(layer)), features_dxhxwxC).reshape(-1)
    count = CHUNK * (BLOCK // cell) ** 3

    def of_far_cells(far_N, change, state):
        """The state, changed by `change(cells, state)` for some far cells at a time, perhaps twice for the first."""
        size = -(-far_N.size // count) * count
        cell_N = jnp.nonzero(far_N, size=size, fill_value=jnp.argmax(far_N))[0].astype(jnp.int32)
        some = functools.partial(lax.dynamic_slice_in_dim, cell_N, slice_size=count)
        turns = -(-jnp.sum(far_N, dtype=jnp.int32) // count)
        return lax.fori_loop(0, turns, lambda i, state: change(some(i * count), state), state)

    near_sample = _around(_sample(sample_KxH, _CENTRES), last, limit, stray)
    far_N = of_far_cells(far_N, lambda cells, far_N: far_N.at[cells].set(~near_sample(hidden_of(flat[cells]))), far_N)

    def maxima(cells, highest):
        hidden = hidden_of(flat[cells])
        logits = (hidden @ last["kernel"] + last["bias"]).reshape(count, joints, cell**3)
        length = jnp.linalg.norm(hidden, axis=-1, keepdims=True) + lost**0.5
        more = (rounding * length + stray) * norm + rounding * jnp.max(jnp.abs(last["bias"])) + lost
        return highest.at[cells].set(jnp.max(logits, axis=-1) + more)

    return of_far_cells(far_N, maxima, jnp.full((far_N.size, joints), -jnp.inf, jnp.float32))


def _around(centre_KxH, last, limit, stray=0.0):
    """Tells of hidden vectors `[N, H]` which are so near to a centre that certainly no logit of theirs reaches a limit.

    The last layer is linear. So where a hidden vector is at a distance from some point, its logits are at most those of
    the point and that distance times the norms of the layer's columns (Cauchy and Schwarz): within a radius none of
    them reaches the limit.

    That holds for exact logits and for those of any plain product in float32, also of hidden vectors that are as far
    as `stray` from those given. Sums of n products are off by n half eps of the sum of what is added without signs,
    whatever the order; the bound has room for twice as much: of a centre's logits and of others, and of the three
    products that make the square of a distance. Numbers below the least, `tiny`, may be lost: together some n of it, of
    a length the root of that. What overflows is no distance, and far.
    """
    rounding, lost = _rounding(last)
    norm_V, size_V = _norms(last), jnp.abs(last["bias"]) + jnp.abs(limit)
    square_K = jnp.sum(jnp.square(centre_KxH), axis=-1)
    length_Kx1 = jnp.sqrt(square_K)[:, None] * (1 + rounding) + lost**0.5
    room_KxV = limit - (jnp.matmul(centre_KxH, last["kernel"], precision="highest") + last["bias"])
    room_KxV -= rounding * (length_Kx1 * norm_V + size_V) + lost
    radius_K = jnp.min(room_KxV / norm_V, axis=-1) * (1 - rounding) - (stray + lost**0.5)

    def near(hidden):
        square = jnp.sum(jnp.square(hidden), axis=-1, keepdims=True) + square_K
        # Half the square of the distance, at most: where the last product overflows, so do the squares.
        half = 0.5 * (1 + rounding) * square - jnp.matmul(hidden, centre_KxH.T, precision="highest")
        return jnp.any((half < 0.5 * jnp.square(radius_K)) & (radius_K > 0), axis=-1)

    return near


def _rounding(last):
    """Of products with a layer: what they may be off by, as a part; and what may be lost of numbers that vanish."""
    n, number = len(last["kernel"]), jnp.finfo(jnp.float32)
    return 2 * (n + 2) * float(number.eps), 16 * n * float(number.tiny)


def _norms(last):
    """Of the columns of a layer's kernel, at least."""
    rounding, lost = _rounding(last)
    return jnp.linalg.norm(last["kernel"], axis=0) * (1 + rounding) + lost**0.5


def _stray(layers):
    """How far apart two hidden vectors may be that are made of the same features by sums in different order.

    Normalised, features are no longer than the root of their number w times the greatest scale. All is off by half eps
    for each of w products and some more operations, each time; and GELU makes neither numbers nor differences much
    greater.
    """
    first, number = layers["Dense_0"], jnp.finfo(jnp.float32)
    w = len(first["kernel"])
    norm = jnp.linalg.norm(first["kernel"]) + (first["kernel"].size * float(number.tiny)) ** 0.5
    longest = w**0.5 * jnp.max(jnp.abs(layers["RMSNorm_0"]["scale"])) * norm + jnp.linalg.norm(first["bias"])
    return 2 * (w + 16) * float(number.eps) * longest


def _sample(x_NxC, count):
    """So many of the rows, spread evenly by the golden ratio: in step with none of the axes that they are made of."""
    count = min(count, len(x_NxC))
    return x_NxC[(np.arange(count) * (5**0.5 - 1) / 2 % 1 * len(x_NxC)).astype(np.int32)]


def _channel(joint, row, column, bin, cell):
    """Where a voxel is among the channels of its cell, see `vha.fold`."""
    return ((joint * cell + row % cell) * cell + column % cell) * cell + bin % cell
