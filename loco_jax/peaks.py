"""Heatmaps to joints: the local maxima of volumes of voxels, on the device (method section 5).

A peak is a voxel above the threshold and strictly greater than its 26 neighbours (what lies outside the volume counts
as 0). Where neighbours are equal, the plateau is taken as one: it is a peak if everything around it is lower, and
its first voxel (in row, column, bin order) stands for it. A NaN is never a peak and hides no neighbour.

The volume is read once, for the maxima of blocks. Only blocks that reach the threshold are looked into, so a crowd of
joints in 144 million voxels costs one pass over memory. Frames too full for that take a dense way to the same answer.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BLOCK = 8  # voxels a side
MAX_BLOCKS = 512  # a joint type; 64 people whose Gaussians each touch 8 blocks
_NOWHERE = np.iinfo(np.int32).max  # no voxel's number


class Peaks(NamedTuple):
    """Peaks of each joint type, best first.

    Attributes:
      voxels: `[J, K, 3]` float32 (row, column, bin).
      scores: `[J, K]` float32, the heatmap's value; 0 in empty places.
      count: `[J]` int32, how many there are; above K, only the K best are listed.
    """

    voxels: jax.Array
    scores: jax.Array
    count: jax.Array


@functools.partial(jax.jit, static_argnames=("max_peaks", "subvoxel"))
def find_peaks(heatmaps: jax.Array, threshold: float = 0.1, max_peaks: int = 128, subvoxel: bool = False) -> Peaks:
    """The best `max_peaks` (K) local maxima of each of `heatmaps[J, H, W, D]` (any float type).

    The threshold is 0 or more. Equal scores are ordered by row, column, bin. With `subvoxel`, each coordinate moves to
    the top of the parabola through the logarithms of the voxel and its two neighbours: exact for an isolated Gaussian.
    It moves at most one voxel, and not at all on the volume's border or beside a value that is not positive.
    """
    if heatmaps.ndim != 4:
        raise ValueError(f"want heatmaps [J, H, W, D]; have {heatmaps.shape}")
    if max_peaks < 1:
        raise ValueError(f"max_peaks={max_peaks} must be at least 1")
    threshold = jnp.asarray(threshold, jnp.float32)
    ids_JxK, scores_JxK, count_J, complete = _sparse_peaks(heatmaps, threshold, max_peaks)

    # A loop of at most one turn: a branch that stays a branch under vmap.
    def dense(state):
        return *_dense_peaks(heatmaps, threshold, max_peaks), True

    ids_JxK, scores_JxK, count_J, _ = lax.while_loop(
        lambda state: ~state[-1], dense, (ids_JxK, scores_JxK, count_J, complete)
    )
    voxels_JxKx3 = jnp.stack(jnp.unravel_index(ids_JxK, heatmaps.shape[1:]), axis=-1)
    whole = Peaks(jnp.where((scores_JxK > 0)[..., None], voxels_JxKx3, 0).astype(jnp.float32), scores_JxK, count_J)
    return whole._replace(voxels=whole.voxels + subvoxel_offsets(heatmaps, whole)) if subvoxel else whole


def subvoxel_offsets(heatmaps: jax.Array, peaks: Peaks) -> jax.Array:
    """How far `[J, K, 3]`, in voxels, the tops of log-parabolas are from whole-voxel `peaks` of `heatmaps[J, H, W, D]`.

    What `find_peaks` adds with `subvoxel`; 0 in empty places.
    """
    shape = jnp.asarray(heatmaps.shape[1:])
    joints = jnp.arange(heatmaps.shape[0])[:, None]
    voxels_JxKx3 = peaks.voxels.astype(jnp.int32)

    def log_at(voxels):
        values = heatmaps[joints, voxels[..., 0], voxels[..., 1], voxels[..., 2]].astype(jnp.float32)
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


def _sparse_peaks(heatmaps, threshold, max_peaks):
    """Ids `[J, K]`, scores `[J, K]`, count `[J]`, and whether that is all: blocks and candidates had room enough."""
    num_joints, *shape = heatmaps.shape
    max_candidates = 4 * max_peaks
    grid = tuple(-(-size // BLOCK) for size in shape)
    highest_JxN = _block_maxima(heatmaps, grid).reshape(num_joints, -1)
    num_blocks = min(MAX_BLOCKS, highest_JxN.shape[1])
    best_JxA, block_JxA = lax.top_k(highest_JxN, num_blocks)
    active_JxA = best_JxA > threshold

    # Each active block with a halo of one voxel, and of each of its voxels the greatest and the equal neighbours.
    corner_JxAx3 = BLOCK * jnp.stack(jnp.unravel_index(block_JxA, grid), axis=-1)
    values = _cubes(heatmaps, corner_JxAx3 - 1, BLOCK + 2)
    inner = values[..., 1:-1, 1:-1, 1:-1]
    greatest, equal = jnp.full_like(inner, -jnp.inf), jnp.zeros(inner.shape, jnp.int32)
    for r, c, b in np.ndindex(3, 3, 3):
        if (r, c, b) != (1, 1, 1):
            neighbour = values[..., r : r + BLOCK, c : c + BLOCK, b : b + BLOCK]
            greatest, equal = jnp.maximum(greatest, neighbour), equal + (neighbour == inner)
    at = [corner_JxAx3[..., axis, None] + jnp.arange(BLOCK) for axis in range(3)]
    inside = [a < size for a, size in zip(at, shape)]
    ids = (at[0][..., :, None, None] * shape[1] + at[1][..., None, :, None]) * shape[2] + at[2][..., None, None, :]
    inside = inside[0][..., :, None, None] & inside[1][..., None, :, None] & inside[2][..., None, None, :]
    candidate = (inner >= greatest) & (inner > threshold) & inside & active_JxA[..., None, None, None]

    # Few of them are candidates: list those, and settle plateaus among the list.
    place_JxC, num_candidates_J = _first_true(candidate.reshape(num_joints, -1), max_candidates)

    def take(x, fill):
        return jnp.take_along_axis(x.reshape(num_joints, -1), place_JxC, axis=1, mode="fill", fill_value=fill)

    ids_JxC, scores_JxC = take(ids, _NOWHERE), take(inner, -jnp.inf)
    first_JxC = _plateaus(ids_JxC, take(equal, 0), shape)
    ids_JxK, scores_JxK = _best(ids_JxC, jnp.where(first_JxC, scores_JxC, -jnp.inf), max_peaks)
    complete = jnp.all(num_candidates_J <= max_candidates) & jnp.all(jnp.sum(highest_JxN > threshold, 1) <= num_blocks)
    return ids_JxK, scores_JxK, jnp.sum(first_JxC, axis=1, dtype=jnp.int32), complete


def _block_maxima(heatmaps, grid):
    """The greatest value of each block, `[J, *grid]` float32; blocks cut by the border keep what is inside."""
    padding = [(0, BLOCK * blocks - size) for blocks, size in zip(grid, heatmaps.shape[1:])]
    padded = jnp.pad(heatmaps, [(0, 0), *padding], constant_values=-jnp.inf)
    (h, w, d), num_joints = grid, heatmaps.shape[0]
    blocks = padded.reshape(num_joints, h, BLOCK, w, BLOCK, d, BLOCK)
    return jnp.max(blocks, axis=(2, 4, 6), where=~jnp.isnan(blocks), initial=-jnp.inf).astype(jnp.float32)


def _cubes(heatmaps, corner_JxAx3, side):
    """Cubes `[J, A, side, side, side]` float32 at `corner`; 0 outside the volume, -inf for NaN."""
    index, inside = [], True
    for axis, size in enumerate(heatmaps.shape[1:]):
        at = corner_JxAx3[..., axis, None] + jnp.arange(side)
        broadcast = [slice(None), slice(None), None, None, None]
        broadcast[2 + axis] = slice(None)
        index.append(jnp.clip(at, 0, size - 1)[tuple(broadcast)])
        inside = inside & ((at >= 0) & (at < size))[tuple(broadcast)]
    joints = jnp.arange(heatmaps.shape[0])[:, None, None, None, None]
    values = heatmaps.at[joints, *index].get(mode="promise_in_bounds").astype(jnp.float32)
    return jnp.where(inside, jnp.where(jnp.isnan(values), -jnp.inf, values), 0.0)


def _first_true(mask_JxN, size):
    """Places `[J, size]` of the first true entries of each row (N where there are no more), and how many there are."""
    rank_JxN = jnp.cumsum(mask_JxN, axis=1)
    places = jax.vmap(lambda ranks: jnp.searchsorted(ranks, jnp.arange(1, size + 1)))(rank_JxN)
    return places, rank_JxN[:, -1]


def _plateaus(ids_JxC, equal_JxC, shape):
    """Which candidates `[J, C]` are the first of a plateau that nothing around it exceeds. A lone voxel is one.

    Candidates are not below any neighbour, so two that touch have the same value. One with more equal neighbours than
    there are candidates beside it touches a voxel of its height that is below another: then the plateau is no peak.
    """
    voxels_JxCx3 = jnp.stack(jnp.unravel_index(ids_JxC, shape), axis=-1)
    real_JxC = ids_JxC != _NOWHERE
    apart_JxCxC = jnp.abs(voxels_JxCx3[:, :, None] - voxels_JxCx3[:, None, :]).max(axis=-1)
    touch_JxCxC = (apart_JxCxC == 1) & real_JxC[:, :, None] & real_JxC[:, None, :]
    open_JxC = equal_JxC > jnp.sum(touch_JxCxC, axis=2)
    label_JxC = jnp.where(open_JxC, -1, ids_JxC)

    def spread(state):
        label, _ = state
        lowest = jnp.min(jnp.where(touch_JxCxC, label[:, None, :], _NOWHERE), axis=2)
        return jnp.minimum(label, lowest), label

    label_JxC, _ = lax.while_loop(
        lambda state: jnp.any(state[0] != state[1]), spread, (label_JxC, jnp.full_like(label_JxC, -2))
    )
    return (label_JxC == ids_JxC) & real_JxC


def _best(ids_JxN, scores_JxN, max_peaks):
    """Ids and scores `[J, K]` of the best, equal scores in the order of their ids; zeros behind them."""
    order = jnp.lexsort((ids_JxN, -scores_JxN), axis=1)[:, :max_peaks]
    ids, scores = (jnp.take_along_axis(x, order, axis=1) for x in (ids_JxN, scores_JxN))
    found = scores > -jnp.inf
    ids, scores = jnp.where(found, ids, 0), jnp.where(found, scores, 0.0)
    missing = [(0, 0), (0, max_peaks - ids.shape[1])]
    return jnp.pad(ids, missing), jnp.pad(scores, missing)


def _dense_peaks(heatmaps, threshold, max_peaks):
    """As `_sparse_peaks`, by max-pooling the whole volume; for volumes with too much in them."""
    shape = heatmaps.shape[1:]
    values = heatmaps.astype(jnp.float32)
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    outside = jnp.float32(0.0)
    ids = jnp.broadcast_to(jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape), heatmaps.shape)

    def settle(step, start):
        return lax.while_loop(lambda s: jnp.any(s[0] != s[1]), lambda s: (step(s[0]), s[0]), (step(start), start))[0]

    # A plateau dies from its edge: a voxel goes when it is not above all that has already gone.
    alive = settle(
        lambda alive: alive & (values > _pool(jnp.where(alive, -jnp.inf, values), jnp.maximum, outside)),
        (values > threshold) & (values >= _pool(values, jnp.maximum, outside)),
    )
    label = settle(
        lambda label: jnp.where(alive, _pool(label, jnp.minimum, _NOWHERE), _NOWHERE), jnp.where(alive, ids, _NOWHERE)
    )
    first = alive & (label == ids)

    # No two peaks are neighbours, so a 2x2x2 block has at most one: an eighth is left to choose from.
    padding = [(0, 0)] + [(0, size % 2) for size in shape]

    def halve(x, fill):
        x = jnp.pad(x, padding, constant_values=fill)
        return lax.reduce_window(x, fill, lax.max if fill < 0 else lax.min, (1, 2, 2, 2), (1, 2, 2, 2), "VALID")

    scores = halve(jnp.where(first, values, -jnp.inf), -jnp.inf).reshape(heatmaps.shape[0], -1)
    ids = halve(jnp.where(first, ids, _NOWHERE), _NOWHERE).reshape(heatmaps.shape[0], -1)
    return *_best(ids, scores, max_peaks), jnp.sum(first, axis=(1, 2, 3), dtype=jnp.int32)


def _pool(x, pick, outside):
    """`pick` over each voxel's 3x3x3 neighbourhood `[J, H, W, D]`, one axis after the other."""
    for axis in (1, 2, 3):
        padding = [(0, 0)] * 4
        padding[axis] = (1, 1)
        padded = jnp.pad(x, padding, constant_values=outside)
        size = x.shape[axis]
        before, after = (lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
        x = pick(x, pick(before, after))
    return x
