"""Whole passes through the networks. This module chooses fast paths by platform, type and size.

The plain networks are the default. The fast paths in `ops.cpu` run on CPUs for large volumes, some in float32 only.
They do not run where several devices share the rows of a volume (`rows`), nor within `plain`, which is for export to
other runtimes. Where several devices share a batch, each runs them for its own frames. The results are the same except
for rounding.
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
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha, vha
from loco_jax.ops import rows
from loco_jax.ops.cpu import decoding, encoding, entropy
from loco_jax.ops.layers import apply, is_plain, plain
from loco_jax.pose import heatmaps, peaks
from loco_jax.pose.peaks import Peaks

__all__ = ["apply", "decode_at", "decode_peaks", "encode_joints", "logits_at", "plain", "render", "sum_entropy"]

# The least numbers of voxels for which the fast paths are faster. For peaks, voxels of one joint type: with the paper's
# 10 million they win, with the demo's 0.2 million they lose a fifth. For the loss, voxels of all joint types.
_LEAST_TO_SEARCH, _LEAST_TO_SUM = 2**20, 2**25


def render(
    network: nn.Module,
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    *,
    shape: tuple[int, int, int],
    sigma: float,
    subvoxel: bool,
    cells: bool = False,
) -> Float[jax.Array, "B ..."]:
    """Heatmaps `[B, J, H, W, D]` of a batch in the network's type; with `cells`, folded as a PatchVHA takes them."""
    one: Callable[..., jax.Array] = heatmaps.render
    if cells:
        one = functools.partial(heatmaps.render_cells, cell=2**network.level)
    one = functools.partial(one, sigma=sigma, subvoxel=subvoxel, dtype=network.dtype)
    if rows.count() > 1:
        return rows.render(one, voxels, present, shape, cell=2**network.level, folded=cells)
    return jax.vmap(functools.partial(one, shape=shape))(voxels, present)


def encode_joints(
    network: nn.Module,
    params: Any,
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    *,
    shape: tuple[int, int, int],
    sigma: float = 2.0,
    subvoxel: bool = False,
) -> Float[jax.Array, "B h w d"]:
    """The codes of the heatmaps that `heatmaps.render` makes of each frame. There are no gradients of `voxels`.

    The fast path computes them without the heatmaps. It runs on CPUs, for large volumes with few people.
    """
    options: dict[str, Any] = {"shape": shape, "sigma": sigma, "subvoxel": subvoxel}
    voxels = lax.stop_gradient(voxels)

    def dense(params, voxels, present):
        cells = isinstance(network, patch_vha.PatchVHA)
        x = render(network, voxels, present, cells=cells, **options)
        return apply(network, params, x, method="encode_cells" if cells else "encode")

    way = dense
    if isinstance(network, vha.VHA | patch_vha.PatchVHA) and rows.count() == 1:
        if encoding.pays(network, present.shape[1], shape, sigma):
            sparse = functools.partial(encoding.encode_joints, network, **options)
            way = functools.partial(lax.platform_dependent, cpu=sparse, default=dense)
    return _on_each_device(way, params, voxels, present)


def sum_entropy(
    network: patch_vha.PatchVHA,
    params: Any,
    features: Float[jax.Array, "B D h w C"],
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    *,
    shape: tuple[int, int, int],
    sigma: float = 2.0,
    subvoxel: bool = False,
    annotated: Bool[Array, "B J"] | None = None,
) -> Float[jax.Array, ""]:
    """The sum of a batch's cross-entropy over voxels. Those of joint types that are not `annotated` do not count.

    `features` are those of `PatchVHA.decode_features`; the rest is as for `heatmaps.render`. There are gradients of
    `params` and `features`. Large volumes of logits are not written on CPUs.
    """
    options: dict[str, Any] = {"shape": shape, "sigma": sigma, "subvoxel": subvoxel}
    voxels = lax.stop_gradient(voxels)

    def of_cells(params, x, target):
        target = target.astype(jnp.float32)
        logits = network.head.apply({"params": params}, x).astype(jnp.float32)
        losses = nn.softplus(logits) - logits * target
        return jnp.sum(losses if annotated is None else jnp.where(target < 0, 0, losses))

    def of_frames(params, x, voxels, present, *counted):
        target = render(network, voxels, present, cells=True, **options)
        for annotated_BxJ in counted:  # a target of -1 marks voxels that do not count
            of_channels = jnp.repeat(annotated_BxJ, 8**network.level, axis=1)
            target = jnp.where(of_channels[:, None, None, None], target, -1)
        if rows.count() == 1 and network.num_joints * math.prod(shape) > _LEAST_TO_SUM:
            return entropy.total(of_cells, params, x, target)[None]
        return of_cells(params, x, target)[None]

    features = rows.keep(features) if rows.count() > 1 else features
    counted = () if annotated is None else (annotated,)
    return jnp.sum(_on_each_device(of_frames, params["params"]["to_logits"], features, voxels, present, *counted))


def decode_peaks(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    subvoxel: bool = False,
    **options: Any,
) -> Peaks:
    """The peaks of `decode_peaks_and_offsets` with these options, moved by their offsets if `subvoxel`."""
    if is_plain():
        return peaks.find_peaks_plainly(decoding.whole(network, params, code, size), subvoxel=subvoxel, **options)
    found, offsets = decode_peaks_and_offsets(network, params, code, size, offsets=subvoxel, **options)
    return found if offsets is None else found._replace(voxels=found.voxels + offsets)


def decode_peaks_and_offsets(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    threshold: float | Float[Array, ""] = 0.1,
    max_peaks: int = 128,
    offsets: bool = True,
) -> tuple[Peaks, Float[jax.Array, "J K 3"] | None]:
    """The peaks that `peaks.find_peaks` finds in the heatmaps `[J, *size, D]` of one finite code, and their offsets.

    The peaks are whole voxels. The offsets are those that `find_peaks` adds with `subvoxel`, None if not asked for. The
    fast path does not write the heatmaps. It runs on CPUs, for large volumes in float32.
    """

    def find(source):
        found = peaks.search(source, threshold, max_peaks)
        return found, peaks.subvoxel_offsets(source, found) if offsets else None

    def dense(params, code):
        return find(peaks.of_volume(decoding.whole(network, params, code, size)))

    def fused(params, code):
        return decoding.search(network, params, code, size, threshold, find)

    if network.dtype == jnp.float32 and math.prod(size) * network.depth_bins >= _LEAST_TO_SEARCH:
        return lax.platform_dependent(params, code, cpu=fused, default=dense)
    return dense(params, code)


def decode_at(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    joints: Int[Array, " N"],
    at: Float[Array, "N 3"] | Int[Array, "N 3"],
) -> Float[jax.Array, " N"]:
    """Values of one code's heatmaps of `joints` at whole voxels `at`.

    Voxels outside the volume are moved to the nearest ones inside. A PatchVHA's head runs on the cells of these voxels
    only.
    """
    at = jnp.clip(at, 0, np.array([*size, network.depth_bins], np.int32) - 1).astype(jnp.int32)
    if not isinstance(network, patch_vha.PatchVHA):
        return decoding.whole(network, params, code, size)[joints, *at.T]
    features = apply(network, params, code[None], method="decode_features")[0]
    return nn.sigmoid(logits_at(network, params, features, joints, at))


def logits_at(
    network: patch_vha.PatchVHA,
    params: Any,
    features: Float[Array, "d h w C"],
    joints: Int[Array, " N"],
    at: Int[Array, "N 3"],
) -> Float[jax.Array, " N"]:
    """Logits of the heatmaps of `joints` at whole voxels `at` inside the volume, from one code's features."""
    row, column, depth = at.T
    cell, head = 2**network.level, params["params"]["to_logits"]
    cells_NxC = features[depth // cell, row // cell, column // cell]
    hidden_NxC = network.head.apply({"params": head}, cells_NxC, only_hidden=True)
    last, channel = head["Dense_1"], decoding.channel(joints, row, column, depth, cell)
    return jnp.sum(hidden_NxC * last["kernel"].T[channel], axis=-1) + last["bias"][channel]


def _on_each_device(function: Callable[..., jax.Array], params: Any, *batches: Array) -> jax.Array:
    """`function(params, *batches)`, which each of the devices that share the batch runs for its own frames.

    The compiler would gather the whole batch for loops over frames or cells and run them in full on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # There is nothing to share, devices share the rows of frames, or each device runs its own part already.
    if mesh.size == 1 or rows.count() > 1 or "batch" not in mesh.auto_axes:
        return function(params, *batches)
    whole, batch = PartitionSpec(), PartitionSpec("batch")
    in_specs = (whole, *(batch for _ in batches))
    return jax.shard_map(function, in_specs=in_specs, out_specs=batch, check_vma=False)(params, *batches)
