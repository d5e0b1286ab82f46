"""Heatmaps to joints: the local maxima of volumes of voxels, on the device (method section 5).

A peak is a voxel above the threshold and greater than its 26 neighbours; voxels outside the volume count as 0. Equal
neighbours form a plateau. It is one peak if everything around it is lower, and its first voxel (in row, column, bin
order) represents it. A NaN is never a peak and hides no neighbour.

The volume is read once, for the maxima of blocks. Only blocks that reach the threshold are searched, so a crowd in 144
million voxels costs little more than this read. If there are too many such blocks, the whole volume is searched, with
the same result. A `Source` is searched in the same way without a written volume.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from loco_jax.geometry.arrays import Array

BLOCK = 8  # voxels a side
# The most blocks of a joint type that are searched, and their most candidates for each of `max_peaks`. The first pair
# that suffices is used. The first suffices for about 20 people, the second for 64: a Gaussian touches up to 8 blocks.
CAPACITIES = ((128, 2), (512, 4))
_PLAIN_ROOM = 4  # candidates for each of `max_peaks` in `find_peaks_plainly`
_NOWHERE = np.iinfo(np.int32).max  # no voxel's number


class Peaks(NamedTuple):
    """Peaks of each joint type, best first.

    Attributes:
      voxels: (row, column, bin).
      scores: the heatmap's values; 0 in empty places.
      count: the number of peaks; if it is more than K, the K best are listed.
    """

    voxels: Float[Array, "*B J K 3"]
    scores: Float[Array, "*B J K"]
    count: Int[Array, "*B J"]  # type: ignore[assignment]  # it hides the method of tuples


class Source(NamedTuple):
    """Heatmaps whose values are computed where they are needed.

    Attributes:
      shape: (J, H, W, D).
      highest: an upper bound of the values of each block; for blocks that do not reach the threshold, any number that
        is not above it.
      take: returns the values at index arrays (joint, row, column, bin) that broadcast and lie within the volume. In
        blocks that do not reach the threshold, it may return any number below it.
      exact: returns the exact values at index arrays `[J, K]`, also in those blocks.
      origin: the argument of `whole`.
      whole: returns all values `[J, H, W, D]`, for volumes with too many peaks to be searched in parts.
    """

    shape: tuple[int, ...]
    highest: Float[Array, "J h w d"]
    take: Callable[..., jax.Array]
    exact: Callable[..., jax.Array]
    origin: Any
    whole: Callable[[Any], jax.Array]


@functools.partial(jax.jit, static_argnames=("max_peaks", "subvoxel"))
def find_peaks(
    heatmaps: Float[Array, "*J H W D"],
    threshold: float | Float[Array, ""] = 0.1,
    max_peaks: int = 128,
    subvoxel: bool = False,
) -> Peaks:
    """The best `max_peaks` (K) local maxima of each heatmap.

    The threshold is 0 or more. Equal scores are ordered by row, column, bin. With `subvoxel`, each coordinate moves to
    the vertex of the parabola through the logarithms of the voxel and its two neighbours, which is exact for an
    isolated Gaussian. It moves by at most one voxel. It does not move on the volume's border or beside a value that is
    not positive.
    """
    source = of_volume(heatmaps)
    found = search(source, threshold, max_peaks)
    return found._replace(voxels=found.voxels + subvoxel_offsets(source, found)) if subvoxel else found


def search(source: Source, threshold: float | Float[Array, ""] = 0.1, max_peaks: int = 128) -> Peaks:
    """The peaks of a source at whole voxels, as `find_peaks` finds them. Raises ValueError for `max_peaks` below 1."""
    if max_peaks < 1:
        raise ValueError(f"max_peaks={max_peaks} must be at least 1")
    threshold = jnp.asarray(threshold, jnp.float32)
    num_joints, *shape = source.shape
    num_active = jnp.max(jnp.sum(source.highest > threshold, axis=(1, 2, 3), dtype=jnp.int32))
    nothing = jnp.zeros((num_joints, max_peaks), jnp.int32)
    state = nothing, nothing.astype(jnp.float32), nothing[:, 0], jnp.array(False)

    # Loops of at most one iteration stay branches under vmap. An iteration changes its own input. Otherwise XLA would
    # move the work out of the loop, as loop-invariant, and always do it.
    for num_blocks, candidates in CAPACITIES:

        def sparse(_, state, num_blocks=num_blocks, max_candidates=candidates * max_peaks):
            found = _sparse_peaks(source, state[-1], threshold, max_peaks, num_blocks, max_candidates)
            return *found, jnp.full_like(state[-1], -jnp.inf)

        turns = jnp.where(~state[3] & (num_active <= num_blocks), 1, 0)
        state = lax.fori_loop(0, turns, sparse, (*state, source.highest))[:4]

    def dense(state):
        *_, threshold, origin = state
        found = _dense_peaks(source.whole(origin), threshold, max_peaks)
        return *found, True, threshold + 1, jax.tree.map(jnp.zeros_like, origin)

    ids_JxK, scores_JxK, count_J, *_ = lax.while_loop(
        lambda state: ~state[3], dense, (*state, threshold, source.origin)
    )
    voxels_JxKx3 = jnp.stack(jnp.unravel_index(ids_JxK, tuple(shape)), axis=-1)
    return Peaks(jnp.where((scores_JxK > 0)[..., None], voxels_JxKx3, 0).astype(jnp.float32), scores_JxK, count_J)


def find_peaks_plainly(
    heatmaps: Float[Array, "*J H W D"],
    threshold: float | Float[Array, ""] = 0.1,
    max_peaks: int = 128,
    subvoxel: bool = False,
) -> Peaks:
    """The result of `find_peaks`, without branches, sorting by two keys, or scattering, which other runtimes may lack.

    It pools the whole volume, and looks at the best `_PLAIN_ROOM * max_peaks` voxels without a greater neighbour. If
    plateaus have more voxels than that, the result may differ.
    """
    source = of_volume(heatmaps)
    num_joints, *shape = source.shape
    flat_JxN = jnp.asarray(heatmaps).astype(jnp.float32).reshape(num_joints, -1)

    def take(joint, *voxel):
        number = (voxel[0] * shape[1] + voxel[1]) * shape[2] + voxel[2]
        number = jnp.broadcast_to(number, jnp.broadcast_shapes(joint.shape, number.shape))
        return jnp.take_along_axis(flat_JxN, number.reshape(num_joints, -1), axis=1).reshape(number.shape)

    source = source._replace(take=take, exact=take)
    values = jnp.where(jnp.isnan(flat_JxN), -jnp.inf, flat_JxN).reshape(source.shape)
    greatest = jnp.pad(values, [(0, 0), *[(1, 1)] * 3], constant_values=-jnp.inf)
    for axis, size in enumerate(shape, start=1):
        greatest = functools.reduce(jnp.maximum, (lax.slice_in_dim(greatest, i, i + size, axis=axis) for i in range(3)))
    standing = jnp.where((values >= greatest) & (values > threshold), values, -jnp.inf)
    room = min(_PLAIN_ROOM * max_peaks, flat_JxN.shape[1])
    scores_JxC, ids_JxC = lax.top_k(standing.reshape(num_joints, -1), room)
    voxels_JxCx3 = jnp.stack(_unravel(ids_JxC, shape), axis=-1)
    ids_JxC = jnp.where(scores_JxC > -jnp.inf, ids_JxC, _NOWHERE)
    equal_JxC = jnp.sum(
        _cubes(source, voxels_JxCx3 - 1, 3) == scores_JxC[..., None, None, None], axis=(2, 3, 4), dtype=jnp.int32
    )
    first_JxC = _plateaus(ids_JxC, equal_JxC - 1, shape)
    # Of equal numbers, `top_k` takes the first first. So the voxels stay in the order of their numbers.
    best_JxK, at_JxK = lax.top_k(jnp.where(first_JxC, scores_JxC, -jnp.inf), min(max_peaks, room))
    missing = [(0, 0), (0, max_peaks - at_JxK.shape[1])]
    scores_JxK = jnp.pad(jnp.where(best_JxK > -jnp.inf, best_JxK, 0.0), missing)
    voxels_JxKx3 = jnp.take_along_axis(voxels_JxCx3, jnp.pad(at_JxK, missing)[..., None], axis=1)
    voxels_JxKx3 = jnp.where(scores_JxK[..., None] > 0, voxels_JxKx3, 0).astype(jnp.float32)
    found = Peaks(voxels_JxKx3, scores_JxK, jnp.sum(first_JxC, axis=1, dtype=jnp.int32))
    return found._replace(voxels=voxels_JxKx3 + subvoxel_offsets(source, found)) if subvoxel else found


def _unravel(ids, shape):
    """`jnp.unravel_index` of numbers that lie within the shape, without checks."""
    row_column, bin = lax.div(ids, np.int32(shape[2])), lax.rem(ids, np.int32(shape[2]))
    return lax.div(row_column, np.int32(shape[1])), lax.rem(row_column, np.int32(shape[1])), bin


def of_volume(heatmaps: Float[Array, "*J H W D"]) -> Source:
    """Heatmaps as a source. Raises ValueError if they do not have four axes."""
    if heatmaps.ndim != 4:
        raise ValueError(f"want heatmaps [J, H, W, D]; have {heatmaps.shape}")
    volume = jnp.asarray(heatmaps)

    def take(*index):
        return volume.at[index].get(mode="promise_in_bounds")

    return Source(volume.shape, block_maxima(volume), take, take, (), lambda _: volume)


def subvoxel_offsets(source: Source, peaks: Peaks) -> Float[jax.Array, "J K 3"]:
    """The offsets in voxels that `find_peaks` adds to whole voxels with `subvoxel`; 0 in empty places."""
    shape = jnp.asarray(source.shape[1:], jnp.int32)
    joints = jnp.arange(source.shape[0], dtype=jnp.int32)[:, None]
    voxels_JxKx3 = peaks.voxels.astype(jnp.int32)

    def log_at(voxels):
        values = source.exact(joints, voxels[..., 0], voxels[..., 1], voxels[..., 2]).astype(jnp.float32)
        return jnp.log(jnp.where(values > 0, values, jnp.nan))

    centre, offsets = log_at(voxels_JxKx3), []
    for axis in range(3):
        step = jnp.eye(3, dtype=jnp.int32)[axis]
        before, after = (log_at(jnp.clip(voxels_JxKx3 + s * step, 0, shape - 1)) for s in (-1, 1))
        curvature = before - 2 * centre + after
        offset = jnp.clip(0.5 * (before - after) / jnp.where(curvature < 0, curvature, jnp.nan), -1, 1)
        on_border = (voxels_JxKx3[..., axis] == 0) | (voxels_JxKx3[..., axis] == shape[axis] - 1)
        offsets.append(jnp.where(on_border | jnp.isnan(offset) | (peaks.scores <= 0), 0.0, offset))
    return jnp.stack(offsets, axis=-1)


def _sparse_peaks(source, highest, threshold, max_peaks, num_blocks, max_candidates):
    """Ids `[J, K]`, scores `[J, K]`, count `[J]`, and whether there was room for all candidates.

    At most `num_blocks` blocks of a joint type may reach the threshold.
    """
    num_joints, *shape = source.shape
    grid = highest.shape[1:]
    highest_JxN = jnp.where(highest > threshold, highest, -jnp.inf).reshape(num_joints, -1)  # a NaN would come first
    best_JxA, block_JxA = lax.top_k(highest_JxN, min(num_blocks, int(np.prod(grid))))
    active_JxA = best_JxA > threshold

    # Read each active block with a halo of one voxel. A candidate has no greater neighbour.
    corner_JxAx3 = BLOCK * jnp.stack(jnp.unravel_index(block_JxA, grid), axis=-1)
    values = _cubes(source, corner_JxAx3 - 1, BLOCK + 2)
    inner = values[..., 1:-1, 1:-1, 1:-1]
    greatest = values
    for axis in (2, 3, 4):
        parts = (lax.slice_in_dim(greatest, i, i + BLOCK, axis=axis) for i in range(3))
        greatest = functools.reduce(jnp.maximum, parts)
    at = [corner_JxAx3[..., axis, None] + jnp.arange(BLOCK, dtype=jnp.int32) for axis in range(3)]
    inside = [a < size for a, size in zip(at, shape)]
    inside = inside[0][..., :, None, None] & inside[1][..., None, :, None] & inside[2][..., None, None, :]
    candidate = (inner >= greatest) & (inner > threshold) & inside & active_JxA[..., None, None, None]

    # List the candidates, which are few, and find plateaus among them.
    candidate_JxN = candidate.reshape(num_joints, -1)
    real_JxC, place_JxC = lax.top_k(candidate_JxN.astype(jnp.float32), min(max_candidates, candidate_JxN.shape[1]))
    real_JxC = real_JxC > 0
    block_JxC, *within = jnp.unravel_index(place_JxC, candidate.shape[1:])
    corner_JxCx3 = jnp.take_along_axis(corner_JxAx3, block_JxC[..., None], axis=1)
    voxels_JxCx3 = corner_JxCx3 + jnp.stack(within, axis=-1)
    around = _cubes(source, voxels_JxCx3 - 1, 3)
    scores_JxC = around[..., 1, 1, 1]
    equal_JxC = jnp.sum(around == scores_JxC[..., None, None, None], axis=(2, 3, 4), dtype=jnp.int32) - 1
    row_JxC, column_JxC, bin_JxC = jnp.moveaxis(voxels_JxCx3, -1, 0)
    ids_JxC = jnp.where(real_JxC, (row_JxC * shape[1] + column_JxC) * shape[2] + bin_JxC, _NOWHERE)
    first_JxC = _plateaus(ids_JxC, equal_JxC, shape)
    ids_JxK, scores_JxK = _best(ids_JxC, jnp.where(first_JxC, scores_JxC, -jnp.inf), max_peaks)
    complete = jnp.all(jnp.sum(candidate_JxN, axis=1, dtype=jnp.int32) <= max_candidates)
    return ids_JxK, scores_JxK, jnp.sum(first_JxC, axis=1, dtype=jnp.int32), complete


def block_maxima(heatmaps: Float[Array, "J H W D"]) -> Float[jax.Array, "J h w d"]:
    """The greatest value of each block, NaN ignored; -inf for blocks of nothing but NaN."""
    num_joints, *shape = heatmaps.shape
    padding = [(0, -size % BLOCK) for size in shape]
    h, w, d = ((size + rest) // BLOCK for size, (_, rest) in zip(shape, padding))
    padded = jnp.pad(heatmaps, [(0, 0), *padding[:2], (0, 0)], constant_values=-jnp.inf)
    x = padded.reshape(num_joints, h, BLOCK, w, BLOCK, shape[2])
    # On CPUs, `jnp.max` over rows and columns would lose earlier values at a NaN. Comparisons with NaN are false.
    rows_and_columns = (x[:, :, i, :, j] for i in range(BLOCK) for j in range(BLOCK))
    nothing: Any = -jnp.inf
    x = functools.reduce(lambda most, new: jnp.where(new > most, new, most), rows_and_columns, nothing)
    x = jnp.pad(x, [(0, 0)] * 3 + [padding[2]], constant_values=-jnp.inf)
    return jnp.max(x.reshape(num_joints, h, w, d, BLOCK), axis=-1).astype(jnp.float32)


def _cubes(source, corner_JxAx3, side):
    """Cubes `[J, A, side, side, side]` float32 at `corner`; 0 outside the volume, -inf for NaN."""
    index, inside = [], True
    for axis, size in enumerate(source.shape[1:]):
        at = corner_JxAx3[..., axis, None] + jnp.arange(side, dtype=jnp.int32)
        at = jnp.expand_dims(at, [other for other in (2, 3, 4) if other != 2 + axis])
        index.append(jnp.clip(at, 0, size - 1))
        inside = inside & (at >= 0) & (at < size)
    joints = jnp.arange(source.shape[0], dtype=jnp.int32)[:, None, None, None, None]
    values = source.take(joints, *index).astype(jnp.float32)
    return jnp.where(inside, jnp.where(jnp.isnan(values), -jnp.inf, values), 0.0)


def _plateaus(ids_JxC, equal_JxC, shape):
    """Whether candidates `[J, C]` are the first voxel of a plateau that is a peak. A single voxel is a plateau.

    Candidates have no greater neighbour, so two that touch are equal. If a candidate has more equal neighbours than
    candidates beside it, one of them has a greater neighbour. Then the plateau is no peak.
    """
    voxels_JxCx3 = jnp.stack(jnp.unravel_index(ids_JxC, shape), axis=-1)
    real_JxC = ids_JxC != _NOWHERE
    apart_JxCxC = jnp.abs(voxels_JxCx3[:, :, None] - voxels_JxCx3[:, None, :]).max(axis=-1)
    touch_JxCxC = (apart_JxCxC == 1) & real_JxC[:, :, None] & real_JxC[:, None, :]
    open_JxC = equal_JxC > jnp.sum(touch_JxCxC, axis=2, dtype=jnp.int32)
    label_JxC = jnp.where(open_JxC, -1, ids_JxC)

    def spread(state):
        label, _ = state
        lowest = jnp.min(jnp.where(touch_JxCxC, label[:, None, :], _NOWHERE), axis=2)
        return jnp.minimum(label, lowest), label

    label_JxC, _ = lax.while_loop(
        lambda state: jnp.any(state[0] != state[1]), spread, (label_JxC, jnp.full_like(label_JxC, -2))
    )
    return (label_JxC == ids_JxC) & real_JxC


def _best(ids_xN, scores_xN, max_peaks):
    """Ids and scores `[..., K]` of the best peaks, then zeros. Equal scores are in the order of their ids."""
    order = jnp.lexsort((ids_xN, -scores_xN))[..., :max_peaks]
    ids, scores = (jnp.take_along_axis(x, order, axis=-1) for x in (ids_xN, scores_xN))
    found = scores > -jnp.inf
    missing = [(0, 0)] * (ids.ndim - 1) + [(0, max_peaks - ids.shape[-1])]
    return jnp.pad(jnp.where(found, ids, 0), missing), jnp.pad(jnp.where(found, scores, 0.0), missing)


def _dense_peaks(heatmaps, threshold, max_peaks):
    """Ids `[J, K]`, scores `[J, K]`, count `[J]`, by max-pooling of whole volumes, one joint type at a time."""
    return lax.map(lambda volume: _dense_peaks_of_one(volume, threshold, max_peaks), heatmaps)


def _dense_peaks_of_one(volume, threshold, max_peaks):
    values = volume.astype(jnp.float32)
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    outside = jnp.float32(0.0)
    ids = jnp.arange(volume.size, dtype=jnp.int32).reshape(volume.shape)

    def settle(step, start):
        return lax.while_loop(lambda s: jnp.any(s[0] != s[1]), lambda s: (step(s[0]), s[0]), (step(start), start))[0]

    # Plateaus that are no peaks are removed from their edges: a voxel must be above all that are removed.
    alive = settle(
        lambda alive: alive & (values > _pool(jnp.where(alive, -jnp.inf, values), jnp.maximum, outside)),
        (values > threshold) & (values >= _pool(values, jnp.maximum, outside)),
    )
    label = settle(
        lambda label: jnp.where(alive, _pool(label, jnp.minimum, _NOWHERE), _NOWHERE), jnp.where(alive, ids, _NOWHERE)
    )
    first = alive & (label == ids)

    # No two peaks are neighbours, so a 2x2x2 block has at most one.
    def halve(x, fill):
        x = jnp.pad(x, [(0, size % 2) for size in x.shape], constant_values=fill)
        start, pick = x.dtype.type(fill), lax.max if fill < 0 else lax.min
        return lax.reduce_window(x, start, pick, (2, 2, 2), (2, 2, 2), "VALID").reshape(-1)

    scores, ids = halve(jnp.where(first, values, -jnp.inf), -jnp.inf), halve(jnp.where(first, ids, _NOWHERE), _NOWHERE)
    return *_best(ids, scores, max_peaks), jnp.sum(first, dtype=jnp.int32)


def _pool(x, pick, outside):
    """`pick` over the 3x3x3 neighbourhood of each voxel `[H, W, D]`."""
    for axis, size in enumerate(x.shape):
        padded = jnp.pad(x, [(int(a == axis),) * 2 for a in range(x.ndim)], constant_values=outside)
        before, after = (lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
        x = pick(x, pick(before, after))
    return x
