"""Whole passes through the networks, each in the way that is fastest where it runs. This is the place that chooses.

The plain networks are the default. The ways of `ops.cpu` are for CPUs, large volumes, and some for float32 only.
On other devices, and where several devices share the rows of a volume (`rows`), heatmaps are written and the networks
run on them. Where several devices share a batch, each device runs the ways of `ops.cpu` for its own frames.
All ways give the same results but for rounding.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha, vha
from loco_jax.ops import rows
from loco_jax.ops.cpu import decoding, encoding, entropy
from loco_jax.ops.layers import PaddedVHA, apply
from loco_jax.pose import heatmaps, peaks
from loco_jax.pose.peaks import Peaks

__all__ = ["PaddedVHA", "apply", "decode_at", "decode_peaks", "encode_joints", "logits_at", "render", "sum_entropy"]

# Voxels from which the ways without volumes are faster. A joint type's, for peaks: the paper's 10 million win, the
# demo's 0.2 million lose a fifth. All joint types', for the loss: smaller volumes are faster, and sooner compiled.
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
    """A batch's heatmaps `[B, J, H, W, D]` in the network's type; with `cells`, folded as a PatchVHA takes them."""
    options = {"shape": shape, "sigma": sigma, "subvoxel": subvoxel, "dtype": network.dtype}
    if rows.count() > 1:
        return (rows.render_cells if cells else rows.render)(network, voxels, present, **options)
    one = functools.partial(heatmaps.render_cells, cell=2**network.level) if cells else heatmaps.render
    return jax.vmap(functools.partial(one, **options))(voxels, present)


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
    """The codes of the heatmaps of a batch's joints; arguments as for `heatmaps.render`. Voxels have no gradients.

    On CPUs, if there are few joints beside the volume, the heatmaps are not written.
    """
    options: dict[str, Any] = {"shape": shape, "sigma": sigma, "subvoxel": subvoxel}
    voxels = lax.stop_gradient(voxels)

    def dense(params, voxels, present):
        cells = isinstance(network, patch_vha.PatchVHA)
        x = render(network, voxels, present, cells=cells, **options)
        return apply(network, params, x, method="encode_cells" if cells else "encode")

    if rows.count() > 1:
        return dense(params, voxels, present)
    way = dense
    if _is_known(network) and encoding.pays(network, present.shape[1], shape, sigma):
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
    positive_weight: float = 0.0,
) -> Float[jax.Array, ""]:
    """The sum over voxels of a batch's cross-entropy, each counting 1 + positive_weight * target times.

    `features` are those of `PatchVHA.decode_features`; the rest is as for `heatmaps.render`. There are gradients of
    `params` and `features`. On CPUs, if the volumes are large, they are not written.
    """
    options: dict[str, Any] = {"shape": shape, "sigma": sigma, "subvoxel": subvoxel}
    voxels = lax.stop_gradient(voxels)

    def dense(params, x, voxels, present):
        target = render(network, voxels, present, cells=True, **options).astype(jnp.float32)
        logits = network.head.apply({"params": params}, x).astype(jnp.float32)
        entropy = nn.softplus(logits) - logits * target
        return jnp.sum(entropy * (1 + positive_weight * target) if positive_weight else entropy)

    head = params["params"]["to_logits"]
    if rows.count() > 1:
        return dense(head, rows.keep(features), voxels, present)
    way = dense
    if network.num_joints * math.prod(shape) > _LEAST_TO_SUM and voxels.shape[1]:
        in_parts = functools.partial(
            entropy.value_and_gradients, network=network, positive_weight=positive_weight, **options
        )
        way = _with_gradients(in_parts, dense)
    return jnp.sum(_on_each_device(lambda *arguments: way(*arguments)[None], head, features, voxels, present))


def _with_gradients(of_cpu: Callable[..., Any], plain: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`plain`, whose value and gradients of the first two arguments come from `of_cpu` on CPUs."""

    @jax.custom_vjp
    def way(*arguments):
        return both(*arguments)[0]

    def both(*arguments):
        return lax.platform_dependent(*arguments, cpu=of_cpu, default=jax.value_and_grad(plain, (0, 1)))

    def backward(gradients, change):
        return *jax.tree.map(lambda g: (change * g).astype(g.dtype), gradients), None, None

    way.defvjp(both, backward)
    return way


def decode_peaks(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    threshold: float | Float[Array, ""] = 0.1,
    max_peaks: int = 128,
    subvoxel: bool = False,
    volume_dtype: DTypeLike | None = None,
) -> Peaks:
    """The peaks that `peaks.find_peaks` finds in the heatmaps `[J, *size, D]` of one finite code.

    On CPUs, large float32 heatmaps are not written. On other devices heatmaps are rounded to `volume_dtype`, if given.
    """
    found, offsets = decode_peaks_and_offsets(network, params, code, size, threshold, max_peaks, volume_dtype, subvoxel)
    return found if offsets is None else found._replace(voxels=found.voxels + offsets)


def decode_peaks_and_offsets(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    threshold: float | Float[Array, ""] = 0.1,
    max_peaks: int = 128,
    volume_dtype: DTypeLike | None = None,
    offsets: bool = True,
) -> tuple[Peaks, Float[jax.Array, "J K 3"] | None]:
    """`decode_peaks` at whole voxels, and if asked for the `offsets` that it would add to them with `subvoxel`."""

    def find(source):
        found = peaks.search(source, threshold, max_peaks)
        return found, peaks.subvoxel_offsets(source, found) if offsets else None

    def dense(params, code, dtype=None):
        volume = decoding.whole(network, params, code, size)
        return find(peaks.of_volume(volume if dtype is None else volume.astype(dtype)))

    def fused(params, code):
        return decoding.search(network, params, code, size, threshold, find)

    fast = _is_known(network) and network.dtype == jnp.float32
    fast = fast and math.prod(size) * network.depth_bins >= _LEAST_TO_SEARCH
    if not fast and volume_dtype is None:
        return dense(params, code)
    rounded = functools.partial(dense, dtype=volume_dtype)
    return lax.platform_dependent(params, code, cpu=fused if fast else dense, default=rounded)


def decode_at(
    network: nn.Module,
    params: Any,
    code: Float[Array, "h w d"],
    size: tuple[int, int],
    joints: Int[Array, " N"],
    at: Float[Array, "N 3"] | Int[Array, "N 3"],
) -> Float[jax.Array, " N"]:
    """The values at whole voxels `at` of the heatmaps of `joints` that one code makes.

    Voxels outside the volume count as the nearest ones inside. A PatchVHA's head sees the cells of those voxels only.
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
    """Logits at whole voxels `at`, inside the volume, of the heatmaps of `joints`; of one code's features."""
    row, column, depth = at.T
    cell, head = 2**network.level, params["params"]["to_logits"]
    cells_NxC = features[depth // cell, row // cell, column // cell]
    hidden_NxC = network.head.apply({"params": head}, cells_NxC, only_hidden=True)
    last, channel = head["Dense_1"], decoding.channel(joints, row, column, depth, cell)
    return jnp.sum(hidden_NxC * last["kernel"].T[channel], axis=-1) + last["bias"][channel]


def _is_known(network: nn.Module) -> TypeGuard[vha.VHA | patch_vha.PatchVHA]:
    return isinstance(network, vha.VHA | patch_vha.PatchVHA)


def _on_each_device(function: Callable[..., jax.Array], params: Any, *batches: Array) -> jax.Array:
    """`function(params, *batches)`, run by each of the devices that share the batch for its own frames.

    Left to the compiler, loops over frames or joints would gather the whole batch and run in full on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or "batch" not in mesh.auto_axes:  # nothing to share, or each device runs its own part already
        return function(params, *batches)
    whole, batch = PartitionSpec(), PartitionSpec("batch")
    in_specs = (whole, *(batch for _ in batches))
    return jax.shard_map(function, in_specs=in_specs, out_specs=batch, check_vma=False)(params, *batches)
