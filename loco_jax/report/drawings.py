"""Pictures of a network's results and of its training.

Figures are made without pyplot, so they need no display and leave no global state. `figure.savefig` saves them.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project
from loco_jax.geometry.volume import Volume
from loco_jax.media import overlays
from loco_jax.pose import metrics

# Okabe and Ito's colours, which people with colour blindness can tell apart.
_BLUE, _VERMILLION, _BLACK = "#0072B2", "#D55E00", "#000000"
CYCLE = (_BLUE, _VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", _BLACK)
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"

WIDTH = 16.0  # inches, at 100 dots an inch
_ROW, _COLUMN, _BIN = range(3)  # of voxels
_DOWN, _AHEAD = 1, 2  # of metres


def new_figure(height: float, w_pad: float) -> Figure:
    """An empty figure 1600 pixels wide at 100 dots an inch; arguments in inches."""
    return Figure(figsize=(WIDTH, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=w_pad, h_pad=0.1))


def projections(
    volume: Volume, true: ArrayLike, predicted: ArrayLike, code: ArrayLike, title: str = "", threshold: float = 2.0
) -> Figure:
    """The true and the found peaks of one scene from three sides, and the code.

    A found joint is a blue dot in or near a blue ring, its true place. A missed one is an empty vermillion diamond, a
    spurious one a black cross. The pairs are those of the "hungarian" matching.

    Args:
      volume: the grid, for the axes.
      true: `[M, 4]` joint type and voxel (row, column, bin).
      predicted: `[N, 4]` the same.
      code: `[h, w, d]`, drawn as its maxima along each axis.
      title: a line above it all.
      threshold: the greatest distance of a pair in voxels.

    Raises:
      ValueError: for a code that is not `[h, w, d]`, or points or a threshold that `metrics.match` would not take.
    """
    code = np.asarray(code, np.float32)
    if code.ndim != 3:
        raise ValueError(f"code has shape {code.shape}, not [h, w, d]")
    peaks = _Peaks(predicted, true, threshold)
    rows, columns, _ = volume.shape
    # Half the figure for the columns, half for the bins, and every row as high as a column is wide.
    picture_height = float(np.clip(0.42 * WIDTH * rows / columns, 2.5, 7.0))
    figure = new_figure(picture_height + 5.6, w_pad=0.1)
    grid = figure.add_gridspec(2, 2, height_ratios=(picture_height, 4.0))
    _draw_view(figure.add_subplot(grid[0, 0]), volume, peaks, "Picture plane", x=_COLUMN, y=_ROW)
    _draw_view(figure.add_subplot(grid[0, 1]), volume, peaks, "Side view", x=_BIN, y=_ROW)
    _draw_view(figure.add_subplot(grid[1, 0]), volume, peaks, "Top view", x=_COLUMN, y=_BIN)
    _draw_code(figure, grid[1, 1], code)
    if title:
        figure.suptitle(title, fontsize=15)
    handles, labels = peaks.legend()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=13, frameon=False, markerscale=1.5)
    return figure


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Training curves: numbers whose name contains "loss" on a logarithmic axis, those with "f1" from 0 to 1.

    Args:
      records: one dictionary a log step, with "step" and any other names. Values that are not finite numbers, and
        losses that are not positive, are left out.

    Raises:
      ValueError: for a record without "step".
    """
    if any("step" not in record for record in records):
        raise ValueError('a record has no "step"')
    losses = _series(records, "loss", smallest=np.finfo(float).tiny)
    f1s = _series(records, "f1", smallest=0.0)
    figure = new_figure(6.0, w_pad=0.15)
    left, right = figure.subplots(1, 2, sharex=True)
    _draw_series(left, losses, "Loss")
    if losses:
        left.set_yscale("log")
    _draw_series(right, f1s, "F1")
    right.set_ylim(-0.02, 1.02)
    return figure


def people(
    image: ArrayLike,
    camera: Camera,
    found: tuple[ArrayLike, ArrayLike],
    true: tuple[ArrayLike, ArrayLike],
    title: str = "",
) -> Figure:
    """The people found in one picture, drawn over it; beside it, found and true people on the ground from above.

    From above, dots and rings are at the means of people's known joints. Both axes have the same scale.

    Args:
      image: `[H, W, 3]` uint8.
      camera: that took it.
      found: joints `[N, 14, 3]` in metres in camera coordinates, and which of them are known `[N, 14]`.
      true: the same of the true people.
      title: a line above it all.
    """
    image = np.asarray(image)
    height, width = image.shape[:2]
    figure = Figure(figsize=(WIDTH, 0.64 * WIDTH * height / width + 0.9), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    left.axis("off")
    persons = []
    for number, (joints, known) in enumerate(zip(*map(np.asarray, found)), start=1):
        uv = np.asarray(project(camera, joints))
        with_holes = [np.where(known[:, None], x, np.nan) for x in (joints, uv)]
        persons.append(overlays.Person(number, 1.0, with_holes[0], with_holes[1], known.astype(float)))
        colour = overlays.colour(number)
        mark = {"color": colour, "marker": "o", "markersize": 7}
        _draw_from_above(right, joints, known, {"color": colour, "linewidth": 2.0}, mark)
    left.imshow(overlays.draw(image, persons), extent=(0, width, height, 0))
    for joints, known in zip(*map(np.asarray, true)):
        _draw_from_above(right, joints, known, {"color": "0.2", "linewidth": 1.4}, _hollow("o", "0.2", 14, 1.6))
    far = max([1.0, *(p[k][:, 2].max() for p, k in zip(*map(np.asarray, true)) if k.any())])
    far = 1.08 * max([far, *(p[k][:, 2].max() for p, k in zip(*map(np.asarray, found)) if k.any())])
    half = [(0 - camera.cx) / camera.fx * far, (width - camera.cx) / camera.fx * far]
    right.fill([0, *half], [0, far, far], color="0.95", zorder=0)
    right.set(xlabel="right (m)", ylabel="ahead (m)", xlim=half, ylim=(0, far), aspect="equal")
    right.set_title("from above: found (dots), true (rings), in view (grey)", fontsize=11)
    right.grid(color="0.88", linewidth=0.6)
    if title:
        figure.suptitle(title, fontsize=15)
    return figure


def poses(
    true: Float[np.ndarray, "N 14 3"],
    found: Mapping[str, tuple[Float[np.ndarray, "N 14 3"], Bool[np.ndarray, "N 14"]]],
    title: str = "",
) -> Figure:
    """Up to five people side by side from the front, over their true poses in grey.

    Args:
      true: `[N, 14, 3]` metres in camera coordinates.
      found: a row of the figure each, by name: joints like `true`, and which of them are known `[N, 14]`. The last row
        is blue.
      title: a line above it all.
    """
    count = min(len(true), 5)
    figure = Figure(figsize=(WIDTH, 4.0 * len(found)), dpi=100, layout="constrained")
    all_axes = figure.subplots(len(found), max(count, 1), squeeze=False)
    for row, (name, (joints, known)) in zip(all_axes, found.items()):
        look = {
            "color": _BLUE if name == list(found)[-1] else _VERMILLION,
            "linewidth": 1.8,
            "marker": "o",
            "markersize": 3,
        }
        for person, axes in enumerate(row[:count]):
            everything = np.ones(len(true[person]), bool)
            _draw_limbs(axes, true[person], everything, _DOWN, color="0.75", linewidth=4)
            _draw_limbs(axes, joints[person], known[person], _DOWN, **look)
            axes.set(aspect="equal", title=f"person {person + 1}, {name}")
            axes.invert_yaxis()
            axes.axis("off")
    if title:
        figure.suptitle(f"{title}; grey: the truth", fontsize=15)
    return figure


def _draw_limbs(axes: Axes, joints: np.ndarray, known: np.ndarray, vertical: int, **look: Any):
    """The limbs between known joints; x to the right, and the coordinate `vertical` up."""
    for a, b in skeleton.LIMBS:
        if known[a] and known[b]:
            axes.plot(joints[[a, b], 0], joints[[a, b], vertical], **look)


def _draw_from_above(axes: Axes, joints: np.ndarray, known: np.ndarray, look: dict[str, Any], mark: dict[str, Any]):
    _draw_limbs(axes, joints, known, _AHEAD, **look)
    if known.any():
        axes.plot(*joints[known][:, [0, _AHEAD]].mean(axis=0), **mark)


def smooth(points: Float[np.ndarray, "K 2"], window: int) -> Float[np.ndarray, "M 2"]:
    """Means of points `[K, 2]` over a window of points, where the window is full."""
    weights = np.full(window, 1 / window)
    return np.stack([np.convolve(column, weights, mode="valid") for column in points.T], axis=-1)


class _Peaks:
    """Found, missed and spurious voxels `[K, 3]`, and how each looks."""

    def __init__(self, predicted: ArrayLike, true: ArrayLike, threshold: float):
        pairs = metrics.match(predicted, true, threshold)
        predicted, true = (np.asarray(points, float).reshape(-1, 4)[:, 1:] for points in (predicted, true))
        self.found, self.found_true = predicted[pairs[:, 0]], true[pairs[:, 1]]
        self.missed = np.delete(true, pairs[:, 1], axis=0)
        self.spurious = np.delete(predicted, pairs[:, 0], axis=0)
        self._threshold = threshold
        # Sixty people have 840 joints: the more marks there are, the smaller they must be.
        size = float(np.clip(9 - 1.6 * math.log10(1 + len(true) + len(self.spurious)), 4.0, 7.0))

        # Looks of rings at true places, dots at found ones, diamonds at missed ones, crosses at spurious ones.
        self._ring = _hollow("o", _BLUE, size, width=0.8)
        self._dot = _hollow("o", _BLUE, 0.45 * size, width=0) | {"markerfacecolor": _BLUE}
        self._diamond = _hollow("D", _VERMILLION, size, width=1.4)
        self._cross = _hollow("x", _BLACK, size, width=1.4)

    def draw(self, axes: Axes, x: int, y: int):
        """Draws all marks by two of their three coordinates; missed and spurious ones on top."""
        axes.plot(self.found_true[:, x], self.found_true[:, y], **self._ring)
        axes.plot(self.found[:, x], self.found[:, y], **self._dot)
        axes.plot(self.missed[:, x], self.missed[:, y], **self._diamond)
        axes.plot(self.spurious[:, x], self.spurious[:, y], **self._cross)

    def legend(self) -> tuple[list, list[str]]:
        """Handles and labels, with the counts."""
        ring, dot, diamond, cross = (
            Line2D([], [], **look) for look in (self._ring, self._dot, self._diamond, self._cross)
        )
        near = f"within {self._threshold:g} voxel{'s' * (self._threshold != 1)}"
        counts = (f"found {near}: {len(self.found)}", f"missed: {len(self.missed)}", f"spurious: {len(self.spurious)}")
        return [(ring, dot), diamond, cross], list(counts)


def _hollow(marker: str, colour: str, size: float, width: float) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": width,
    }


def _draw_view(axes: Axes, volume: Volume, peaks: _Peaks, title: str, x: int, y: int):
    """All peaks by two of their coordinates. Rows go down as in the picture; bins have a second axis in metres."""
    names = (f"row ({volume.stride} px)", f"column ({volume.stride} px)", f"bin ({volume.bin_size:.3g} m)")
    axes.set(title=title, xlabel=names[x], ylabel=names[y])
    axes.set(xlim=_limits(volume.shape[x]), ylim=_limits(volume.shape[y]))
    if y == _ROW:
        axes.invert_yaxis()
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    peaks.draw(axes, x, y)
    metres = (lambda bins: bins * volume.bin_size, lambda metres: metres / volume.bin_size)
    if x == _BIN:
        axes.secondary_xaxis("top", functions=metres).set_xlabel("distance from the camera (m)")
    if y == _BIN:
        axes.secondary_yaxis("right", functions=metres).set_ylabel("distance from the camera (m)")


def _limits(voxels: int) -> tuple[float, float]:
    """The limits of an axis: all voxels, and a margin for marks on the border."""
    margin = 0.5 + 0.015 * voxels
    return -margin, voxels - 1 + margin


def _draw_code(figure: Figure, cell, code: np.ndarray):
    """Maxima of the code along each axis, arranged like the three views, with one scale of colours."""
    h, w, d = code.shape
    views: tuple[tuple[Any, ...], ...] = (
        ("code from the front", code.max(2), "w", "h", "upper"),
        ("code from the side", code.max(1), "d", "h", "upper"),
        ("code from above", code.max(0).T, "w", "d", "lower"),
    )
    low, high = min(view.min() for _, view, *_ in views), code.max()
    high = high if high > low else low + 1  # one scale for all, even of a constant
    grid = cell.subgridspec(2, 2, width_ratios=_spread(w, d), height_ratios=_spread(h, d))
    all_axes = [figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 0))]
    for axes, (title, view, x_label, y_label, origin) in zip(all_axes, views):
        image = axes.imshow(view, vmin=low, vmax=high, cmap="viridis", origin=origin, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label, rotation=0, labelpad=12)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
    corner = figure.add_subplot(grid[1, 1])
    corner.axis("off")
    facts = f"{h} × {w} × {d}\n{code.size:,} values\nmean {code.mean():.3g}, σ {code.std():.3g}\nmaxima along each axis"
    corner.text(0.5, 0.6, facts, ha="center", va="center", linespacing=1.5, transform=corner.transAxes)
    figure.colorbar(image, ax=all_axes + [corner], label="code", pad=0.02)


def _spread(a: int, b: int) -> tuple[float, float]:
    """Ratios of two sides' lengths, limited so that both stay legible."""
    ratio = float(np.clip(a / b, 0.6, 1.7))
    return ratio, 1.0


def _series(records: Sequence[Mapping[str, Any]], word: str, smallest: float) -> dict[str, np.ndarray]:
    """(step, value) `[K, 2]` of every name with `word` in it, in the order of steps."""
    names = dict.fromkeys(name for record in records for name in record if word in name.lower())
    series = {}
    for name in names:
        logged = [(record["step"], record[name]) for record in records if isinstance(record.get(name), Real)]
        points = np.asarray(sorted(logged), float).reshape(-1, 2)
        points = points[np.isfinite(points[:, 1]) & (points[:, 1] >= smallest)]
        if len(points):
            series[name] = points
    return series


def _draw_series(axes: Axes, series: Mapping[str, np.ndarray], label: str):
    axes.set_title(label, fontsize=14)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_ylabel(label)
    axes.grid(color="0.9", which="both", linewidth=0.6)
    axes.set_axisbelow(True)
    if not series:
        axes.text(0.5, 0.5, f"no {label} logged", ha="center", va="center", transform=axes.transAxes, color="0.4")
        return
    for i, (name, points) in enumerate(series.items()):
        look: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "linestyle": DASHES[i % len(DASHES)]}
        look |= {"marker": MARKERS[i % len(MARKERS)], "markersize": 6, "markevery": max(1, len(points) // 12)}
        if len(points) > 100:  # noisy: the running mean shows the trend
            axes.plot(*points.T, color=look["color"], alpha=0.25, linewidth=0.8)
            points = smooth(points, len(points) // 25)
        axes.plot(*points.T, label=name, linewidth=1.8, **look)
    axes.legend(loc="best", fontsize=11, ncols=1 + len(series) // 6, handlelength=3.5)
