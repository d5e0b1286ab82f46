"""Boxes of people in a picture: targets, detections, crops, and scores of them.

A box is (left, top, right, bottom) in pixels from the picture's top left corner. Pixel centres are at
half-integers. Boxes are found on the device and scored on the host, in NumPy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.pose import heatmaps, peaks

MARGIN = 0.06  # of a box's longer side: bodies are thicker than their joints
LEAST_SIDE = 4.0  # pixels; a single joint has a box too
WIDER = 1.25  # side of the square around a box, as a multiple of the box's longer side
JITTER = 0.1  # standard deviation in training, as a share of a box's sides
LEAST_OVERLAP = 0.5  # intersection over union from which a box finds a true one
NUMBERS = 4  # of a box: see `encode`
TORSO = (skeleton.JOINTS.index("left_shoulder"), skeleton.JOINTS.index("right_hip"))


class Boxes(NamedTuple):
    """Boxes found in a picture, best first; scores are 0 in empty places."""

    boxes: Float[Array, "*batch N 4"]
    scores: Float[Array, "*batch N"]


class Targets(NamedTuple):
    """Training targets of a detector on a grid of cells.

    Attributes:
      heat: Gaussians at the boxes' middles, the maximum where they overlap.
      owner: the index of the box whose Gaussian is the highest there.
    """

    heat: Float[Array, "H W"]
    owner: Int[Array, "H W"]


def around(pixels: Float[Array, "*people J 2"], known: Bool[Array, "*people J"]) -> Float[jax.Array, "*people 4"]:
    """Boxes around the known joints, with a margin of `MARGIN`; of `LEAST_SIDE` at (0, 0) for people without any."""
    low = jnp.where(known[..., None], pixels, jnp.inf).min(axis=-2)
    high = jnp.where(known[..., None], pixels, -jnp.inf).max(axis=-2)
    somebody = known.any(axis=-1, keepdims=True)
    low, high = jnp.where(somebody, low, 0.0), jnp.where(somebody, high, 0.0)
    sides = high - low
    sides = jnp.maximum(sides + 2 * MARGIN * sides.max(axis=-1, keepdims=True), LEAST_SIDE)
    return _of_middle((low + high) / 2, sides)


def middle_and_sides(boxes: Float[Array, "*N 4"]) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    """Middles (u, v), and widths and heights, in pixels."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def squares(boxes: Float[Array, "*N 4"]) -> Float[jax.Array, "*N 4"]:
    """Squares about the boxes' middles, `WIDER` times as wide as the longer side."""
    middle, sides = middle_and_sides(boxes)
    return _of_middle(middle, jnp.broadcast_to(WIDER * sides.max(axis=-1, keepdims=True), sides.shape))


def jittered(boxes: Float[Array, "*N 4"], noise: Float[Array, "*N 4"]) -> Float[jax.Array, "*N 4"]:
    """Boxes moved by `noise[..., :2]` and scaled by exp of `noise[..., 2:]`, both times `JITTER` of the sides."""
    middle, sides = middle_and_sides(boxes)
    return _of_middle(middle + JITTER * noise[..., :2] * sides, sides * jnp.exp(JITTER * noise[..., 2:]))


def targets(boxes: Float[Array, "P 4"], there: Bool[Array, "P"], shape: tuple[int, int], stride: int) -> Targets:
    """The targets of a detector with `shape` cells of `stride` pixels, for the boxes that are `there`."""
    middle, _ = middle_and_sides(boxes)
    down, across = (heatmaps.along(middle[:, 1 - axis], there, n, stride) for axis, n in enumerate(shape))
    heat_PxHxW = down[:, :, None] * across[:, None]
    return Targets(heat_PxHxW.max(axis=0), heat_PxHxW.argmax(axis=0).astype(jnp.int32))


def encode(boxes: Float[Array, "*H W 4"], stride: int) -> Float[jax.Array, "*H W 4"]:
    """A detector's numbers for the box at each cell.

    They are the box's middle relative to the cell's, in cells, and the logarithms of its sides in pixels.
    """
    middle, sides = middle_and_sides(boxes)
    return jnp.concatenate([middle / stride - _cells(boxes.shape), jnp.log(sides)], axis=-1)


def decode(numbers: Float[Array, "*H W 4"], stride: int) -> Float[jax.Array, "*H W 4"]:
    """The boxes of the numbers at each cell: the inverse of `encode`."""
    middle = (numbers[..., :2] + _cells(numbers.shape)) * stride
    return _of_middle(middle, jnp.exp(numbers[..., 2:]))


def find(
    heat: Float[Array, "H W"], numbers: Float[Array, "H W 4"], stride: int, most: int, threshold: float = 0.1
) -> Boxes:
    """The boxes at the best `most` peaks of a heatmap that are above the threshold.

    Peaks are strict maxima of 3 x 3 cells, see `peaks.find_peaks`.
    """
    found = peaks.find_peaks(heat[None, :, :, None], threshold, most)
    row, column = (found.voxels[0, :, axis].astype(jnp.int32) for axis in range(2))
    boxes = decode(numbers, stride)[row, column]
    return Boxes(jnp.where(found.scores[0][:, None] > 0, boxes, 0.0), found.scores[0])


def crops(
    image: UInt8[Array, "height width 3"], boxes: Float[Array, "N 4"], size: int
) -> Float[jax.Array, "N {size} {size} 3"]:
    """The contents of the boxes, each scaled to `size` x `size` pixels: bilinear samples from 0 to 255.

    Outside the picture, its border is repeated.
    """
    height, width, _ = image.shape
    steps = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    left, top, right, bottom = jnp.moveaxis(jnp.asarray(boxes)[..., None], 1, 0)
    column = jnp.clip(left + steps * (right - left) - 0.5, 0, width - 1)
    row = jnp.clip(top + steps * (bottom - top) - 0.5, 0, height - 1)
    x0, y0 = jnp.floor(column).astype(jnp.int32), jnp.floor(row).astype(jnp.int32)
    x1, y1 = jnp.minimum(x0 + 1, width - 1), jnp.minimum(y0 + 1, height - 1)
    x, y = (column - x0)[:, None, :, None], (row - y0)[:, :, None, None]
    image = jnp.asarray(image)

    def at(rows, columns):
        return image[rows[:, :, None], columns[:, None, :]].astype(jnp.float32)

    above = (1 - x) * at(y0, x0) + x * at(y0, x1)
    below = (1 - x) * at(y1, x0) + x * at(y1, x1)
    return jnp.asarray((1 - y) * above + y * below)


def to_crop(pixels: Float[Array, "*N J 2"], boxes: Float[Array, "*N 4"]) -> Float[jax.Array, "*N J 2"]:
    """Pixels of the picture as places in a box: (0, 0) is its top left corner, (1, 1) its bottom right one."""
    boxes = boxes[..., None, :]
    return jnp.asarray(pixels - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2])


def from_crop(places: Float[Array, "*N J 2"], boxes: Float[Array, "*N 4"]) -> Float[jax.Array, "*N J 2"]:
    """Pixels of the picture at places in a box: the inverse of `to_crop`."""
    boxes = boxes[..., None, :]
    return jnp.asarray(boxes[..., :2]) + places * (boxes[..., 2:] - boxes[..., :2])


def _of_middle(middle, sides):
    return jnp.concatenate([middle - sides / 2, middle + sides / 2], axis=-1)


def _cells(shape):
    """Middles (column, row) of the cells `[H, W, 2]`."""
    rows, columns = (jnp.arange(n, dtype=jnp.float32) + 0.5 for n in shape[-3:-1])
    return jnp.stack(jnp.broadcast_arrays(columns[None], rows[:, None]), axis=-1)


# ---- Scores, on the host


def overlap(boxes: Float[np.ndarray, "N 4"], others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Intersection over union of each box with each other one; 0 if both are empty."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    area, other = ((b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (boxes, others))
    union = area[:, None] + other - shared
    return np.divide(shared, union, out=np.zeros(shared.shape, shared.dtype), where=union > 0)


def hits(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, "N"], true: Float[np.ndarray, "M 4"]
) -> Bool[np.ndarray, "N"]:
    """Which boxes of a picture find a true one.

    The better score chooses first. A box finds the true one that it overlaps most, if that is `LEAST_OVERLAP` or more,
    and nobody has found it before.
    """
    overlaps, found, free = overlap(boxes, true), np.zeros(len(boxes), bool), np.ones(len(true), bool)
    for i in np.argsort(-scores, kind="stable") if len(true) else ():
        best = overlaps[i].argmax()
        found[i] = free[best] and overlaps[i, best] >= LEAST_OVERLAP
        free[best] &= ~found[i]
    return found


def average_precision(scores: Float[np.ndarray, "N"], hits: Bool[np.ndarray, "N"], true: int) -> float | None:
    """The area under the precision-recall curve of the detections in all pictures together.

    The precision at a recall is the greatest one at that recall or a higher one (all-point interpolation). None without
    `true` boxes.
    """
    if not true:
        return None
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(right / true, prepend=0) * best))


def correct(
    found: Float[np.ndarray, "N J 2"],
    true: Float[np.ndarray, "N J 2"],
    known: Bool[np.ndarray, "N J"],
    share: float = 0.2,
) -> tuple[Bool[np.ndarray, "N J"], Bool[np.ndarray, "N J"]]:
    """Which joints are right, and which joints count, for PCK; places are in pixels of the picture.

    A joint is right if it is nearer to its true place than `share` of the person's torso in the picture, from the left
    shoulder to the right hip. Known joints count, of people with a known left shoulder and right hip.
    """
    torso = np.linalg.norm(true[:, TORSO[0]] - true[:, TORSO[1]], axis=-1)
    counts = known & np.all(known[:, list(TORSO)], axis=1, keepdims=True)
    away = np.linalg.norm(found - true, axis=-1)
    return counts & (away < share * torso[:, None]), counts
