"""Decoding on CPUs: the same heatmaps and the same peaks as the plain networks' in a fraction of the time.

The published network's wide convolutions go through `fast_conv`, one joint type after the other, and its 3D ones are
done as 2D ones. Peaks are found band by band as the results come, so that no more than one joint type's heatmaps exist
at a time. PatchVHA's last and widest layer is left out for cells so near to an empty one that they cannot reach the
threshold, and of the others only the maxima are kept, until it is known which blocks reach it.

In the published network's transforms, a number that is not finite would spread over more voxels than in the plain one:
codes must be finite.

On other devices the plain networks are the fast ones, and in bfloat16 they would differ by more than a little: there
the plain networks are what is computed.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from loco_jax import peaks
from loco_jax.models import fast_conv, vha
from loco_jax.peaks import BLOCK, Peaks, Source

_LEAST_VOXELS = 2**20  # of a joint type: the paper's 10 million win, the demo's 0.2 million lose a fifth
# Of a PatchVHA's volume, 28 kB each; 60 people need 311. Not less than `peaks.CAPACITIES`, see `_patch_source`.
MAX_BLOCKS = 1024
CHUNK = 128  # blocks at a time


def pays(network: nn.Module, size: tuple[int, int]) -> bool:
    """Whether the ways of this module are faster on a CPU: not for small volumes, whose layers are narrow."""
    known = isinstance(network, vha.VHA | vha.PatchVHA) and network.dtype == jnp.float32
    return known and size[0] * size[1] * network.depth_bins >= _LEAST_VOXELS


def decode(
    network: vha.VHA | vha.PatchVHA, params: Any, code: jax.Array, size: tuple[int, int], fast: bool | None = None
) -> jax.Array:
    """Heatmaps `[J, H, W, D]` of one finite code `[h, w, d]`, as the network's `decode` makes them.

    `fast` asks for this module's way on CPUs, or for the plain one; None takes what `pays`.
    """
    dense = functools.partial(_dense, network, size=size)
    if not (isinstance(network, vha.VHA) and (pays(network, size) if fast is None else fast)):
        return dense(params, code)

    def in_bands(params, code):
        return _of_each_joint(network, params, code, size)[:, : size[0]]

    return lax.platform_dependent(params, code, cpu=in_bands, default=dense)


def decode_peaks(
    network: vha.VHA | vha.PatchVHA,
    params: Any,
    code: jax.Array,
    size: tuple[int, int],
    threshold: float = 0.1,
    max_peaks: int = 128,
    subvoxel: bool = False,
    fast: bool | None = None,
) -> Peaks:
    """The peaks of the heatmaps of one finite code `[h, w, d]`: those `peaks.find_peaks` finds in what `decode` makes.

    `fast` asks for this module's way on CPUs, or for the plain one; None takes what `pays`.
    """
    find = functools.partial(peaks.search, threshold=threshold, max_peaks=max_peaks, subvoxel=subvoxel)

    def dense(params, code):
        return find(peaks.of_volume(_dense(network, params, code, size)))

    def fused(params, code):
        if isinstance(network, vha.PatchVHA):
            return find(_patch_source(network, params, code, size, threshold))
        found = _of_each_joint(network, params, code, size, _with_maxima, lambda x: find(_joint_source(*x, size)))
        return jax.tree.map(lambda x: x[:, 0], found)

    if not (pays(network, size) if fast is None else fast):
        return dense(params, code)
    return lax.platform_dependent(params, code, cpu=fused, default=dense)


def _dense(network, params, code, size):
    return network.apply(params, code[None], size, method="decode")[0]


# --- the published network


def _of_each_joint(network, params, code, size, each_band=lambda band: band, then=lambda x: x):
    """Each joint type's heatmaps `[H', W, D]`, stacked; H' is at least H, and what is in rows from H on is 0.

    They come in bands `[p, W, D]`, p being the rows of results of a tile. What `each_band` makes of one is stacked,
    its first axis is joined with that of bands, and what `then` makes of that is stacked.
    """
    x = network.apply(params, code[None], method="spread")[0]
    params = params["params"]
    num_layers = sum(name.startswith("decoder_2d") for name in params)
    layers = [params[f"decoder_2d_{i}"] for i in range(num_layers)]
    products = [fast_conv.transform_kernel(layer["kernel"], fast_conv.TILE) for layer in layers]

    def bands(x, product, finish):
        x = jnp.pad(x, ((2, 2), (2, 2), (0, 0)))
        y = fast_conv.conv_bands(x, product, (5, 5), fast_conv.TILE, finish)
        return jax.tree.map(lambda band: band.reshape(-1, *band.shape[2:]), y)

    def one(x):
        for layer, product in zip(layers[:-1], products):
            rows, columns = x.shape[:2]
            x = bands(x, product, lambda i, band, bias=layer["bias"]: band + bias)[:rows, :columns]
            x = nn.relu(vha.upsample(x[None])[0])

        def finish(i, band):
            row = i * band.shape[0] + jnp.arange(band.shape[0])
            band = nn.relu(band[:, : size[1]] + layers[-1]["bias"])
            return each_band(jnp.where((row < size[0])[:, None, None], band, 0.0))

        return then(bands(x, products[-1], finish))

    return lax.map(one, jnp.moveaxis(x, -1, 0))


def _with_maxima(band):
    """A band, which is as high as a block, and the maxima of its blocks."""
    return band, peaks.block_maxima(band[None])[0]


def _joint_source(heatmap, highest, size):
    source = peaks.of_volume(heatmap[None])
    shape = (1, *size, heatmap.shape[-1])
    return source._replace(shape=shape, highest=highest[None], whole=lambda _: heatmap[None, : size[0]])


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

    # A number's rounding depends on how many are computed at once: what might reach the threshold is looked into. So is
    # everything if something is not finite, for a NaN may hide what it is compared with.
    highest = _cell_maxima(network, params, features, threshold).reshape(depth, rows, columns, joints)
    highest = jnp.where(jnp.all(jnp.isfinite(features)), highest, jnp.inf)
    highest = jnp.pad(highest, [*((0, -s % side) for s in (depth, rows, columns)), (0, 0)], constant_values=-jnp.inf)
    highest = jnp.max(highest.reshape(d, side, h, side, w, side, joints), axis=(1, 3, 5))
    highest_dxhxwxJ = nn.sigmoid(highest) * (1 + 1e-5)
    listed_N = jnp.any(highest_dxhxwxJ > threshold, axis=-1).reshape(-1)
    slot_N = jnp.cumsum(listed_N) - 1
    most = -(-min(MAX_BLOCKS, listed_N.size) // CHUNK) * CHUNK
    block_M = jnp.nonzero(listed_N, size=most, fill_value=0)[0]

    def voxels(i, values):
        block_C = lax.dynamic_slice_in_dim(block_M, i * CHUNK, CHUNK)
        within = jnp.meshgrid(*[jnp.arange(side)] * 3, indexing="ij")
        at = [b[:, None, None, None] * side + x for b, x in zip(jnp.unravel_index(block_C, grid), within)]
        z, y, x = (jnp.minimum(a, s - 1) for a, s in zip(at, (depth, rows, columns)))
        heat = vha.unfold(nn.sigmoid(head(flat[(z * rows + y) * columns + x])), cell)
        return lax.dynamic_update_slice_in_dim(values, heat.reshape(CHUNK, joints, BLOCK**3), i * CHUNK, axis=0)

    num_listed = jnp.sum(listed_N)
    turns = jnp.minimum(-(-num_listed // CHUNK), most // CHUNK)
    values_MxJxV = lax.fori_loop(0, turns, voxels, jnp.zeros((most, joints, BLOCK**3)))

    def take(joint, row, column, bin):
        block = ((bin // BLOCK) * h + row // BLOCK) * w + column // BLOCK
        voxel = ((row % BLOCK) * BLOCK + column % BLOCK) * BLOCK + bin % BLOCK
        slot = jnp.clip(slot_N[block], 0, most - 1)
        return jnp.where(listed_N[block], values_MxJxV[slot, joint, voxel], 0.0)

    def exact(*index):
        def one(args):
            joint, row, column, bin = args
            logits = head(flat[((bin // cell) * rows + row // cell) * columns + column // cell])
            return nn.sigmoid(logits[jnp.arange(len(bin)), _channel(joint, row, column, bin, cell)])

        return lax.map(one, jnp.broadcast_arrays(*index))

    # More blocks than there is room for are more than `search` looks into of a joint type. So it takes the dense way if
    # all seem to reach the threshold.
    highest_JxN = jnp.transpose(highest_dxhxwxJ, (3, 1, 2, 0))
    highest_JxN = jnp.where(num_listed > most, jnp.inf, highest_JxN)
    shape = (joints, *size, network.depth_bins)
    return Source(shape, highest_JxN, take, exact, code, lambda code: _dense(network, params, code, size))


def _cell_maxima(network, params, features_dxhxwxC, threshold):
    """The greatest logits of cells `[N, J]`; -inf where it is certain that they do not reach the threshold.

    The last layer is linear. So for a cell whose hidden vector is at a distance from some point, its logits are at most
    those of the point and that distance times the norms of the layer's columns (Cauchy and Schwarz): within a radius
    none of them reaches the threshold. Around the mean of all cells, which is that of empty ones, this holds for most.
    """
    cell, joints = 2**network.level, network.num_joints

    def head(features, only_hidden=False):
        return network.apply(params, features, method=lambda net, x: net.to_logits(x, only_hidden))

    flat = features_dxhxwxC.reshape(-1, features_dxhxwxC.shape[-1])
    centre = jnp.mean(head(flat[:: len(flat) // 4096 + 1], only_hidden=True), axis=0)
    last = params["params"]["to_logits"]["Dense_1"]
    room = jax.scipy.special.logit(threshold) - (centre @ last["kernel"] + last["bias"])
    norms = jnp.linalg.norm(last["kernel"], axis=0)
    rounding = 1e-3 + 1e-5 * jnp.linalg.norm(centre) * norms
    radius = jnp.min((room - rounding) / norms)

    def near(layer):
        return jnp.linalg.norm(head(layer, only_hidden=True) - centre, axis=-1) * (1 + 1e-5) < radius

    far_N = ~lax.map(near, features_dxhxwxC).reshape(-1)
    count = CHUNK * (BLOCK // cell) ** 3
    cell_N = jnp.nonzero(far_N, size=-(-far_N.size // count) * count, fill_value=0)[0]

    def maxima(i, highest):
        some = lax.dynamic_slice_in_dim(cell_N, i * count, count)
        logits = head(flat[some]).reshape(count, joints, cell**3)
        return highest.at[some].set(jnp.max(logits, axis=-1))

    turns = -(-jnp.sum(far_N) // count)
    return lax.fori_loop(0, turns, maxima, jnp.full((far_N.size, joints), -jnp.inf))


def _channel(joint, row, column, bin, cell):
    """Where a voxel is among the channels of its cell, see `vha.fold`."""
    return ((joint * cell + row % cell) * cell + column % cell) * cell + bin % cell
