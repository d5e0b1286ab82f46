"""Pictures of a network's results.

Figures are made without pyplot, so they need no display and leave no global state. `figure.savefig` saves them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project
from loco_jax.geometry.volume import Volume
from loco_jax.media import overlays
from loco_jax.pose import metrics

_BLUE, _VERMILLION, _BLACK = "#0072B2", "#D55E00", "#000000"  # of Okabe and Ito, for people with colour blindness
WIDTH = 16.0  # inches, at 100 dots an inch
_ROW, _COLUMN, _BIN = range(3)  # of voxels
_DOWN, _AHEAD = 1, 2  # of metres
_NEAR = 2.0  # voxels, the greatest distance of a pair


def new_figure(height: float, w_pad: float) -> Figure:
    """An empty figure that is 1600 pixels wide at 100 dots an inch. The arguments are in inches."""
    return Figure(figsize=(WIDTH, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=w_pad, h_pad=0.1))


def projections(volume: Volume, true: ArrayLike, predicted: ArrayLike, code: ArrayLike, title: str = "") -> Figure:
    """The true and the predicted peaks of one scene from three sides, and the code.

    A found joint is a blue dot in or near a blue ring, its true place. A missed one is an empty vermillion diamond, and
    a spurious one a black cross. The pairs are those of the "hungarian" matching within 2 voxels.

    Args:
      volume: the grid, for the axes.
      true: `[M, 4]` joint type and voxel (row, column, bin).
      predicted: `[N, 4]`, as `true`.
      code: `[h, w, d]`, drawn as its maxima along each axis.
      title: the heading.

    Raises ValueError if `metrics.match` refuses the points.
    """
    marks = _marks(predicted, true)
    rows, columns, _ = volume.shape
    # Half of the width is for the columns, half for the bins. A row is as high as a column is wide.
    picture_height = float(np.clip(0.42 * WIDTH * rows / columns, 2.5, 7.0))
    figure = new_figure(picture_height + 5.6, w_pad=0.1)
    grid = figure.add_gridspec(2, 2, height_ratios=(picture_height, 4.0))
    _draw_view(figure.add_subplot(grid[0, 0]), volume, marks, "Picture plane", x=_COLUMN, y=_ROW)
    _draw_view(figure.add_subplot(grid[0, 1]), volume, marks, "Side view", x=_BIN, y=_ROW)
    _draw_view(figure.add_subplot(grid[1, 0]), volume, marks, "Top view", x=_COLUMN, y=_BIN)
    _draw_code(figure, grid[1, 1], np.asarray(code, np.float32))
    figure.suptitle(title, fontsize=15)
    ring, *others = (Line2D([], [], **mark.look) for mark in marks)
    handles: list[Any] = [(ring, others[0]), *others[1:]]
    labels = [mark.label for mark in marks[1:]]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=13, frameon=False, markerscale=1.5)
    return figure


def people(
    image: ArrayLike,
    camera: Camera,
    found: tuple[ArrayLike, ArrayLike],
    true: tuple[ArrayLike, ArrayLike],
    title: str = "",
) -> Figure:
    """A picture with the people found in it, and beside it the found and the true people from above.

    Dots and rings in the view from above are at the means of people's known joints. Both axes have the same scale.

    Args:
      image: `[H, W, 3]` uint8.
      camera: the picture's camera.
      found: joints `[N, 14, 3]` in metres in camera coordinates, and which of them are known `[N, 14]`.
      true: true people, as `found`.
      title: the heading.
    """
    image = np.asarray(image)
    height, width = image.shape[:2]
    found_people, true_people = ([*zip(*map(np.asarray, some))] for some in (found, true))
    figure = Figure(figsize=(WIDTH, 0.64 * WIDTH * height / width + 0.9), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    left.axis("off")
    persons = []
    for number, (joints, known) in enumerate(found_people, start=1):
        places, pixels = (np.where(known[:, None], x, np.nan) for x in (joints, project(camera, joints)))
        persons.append(overlays.Person(number, 1.0, places, pixels, known.astype(float)))
        colour = overlays.colour(number)
        mark = {"color": colour, "marker": "o", "markersize": 7}
        _draw_from_above(right, joints, known, {"color": colour, "linewidth": 2.0}, mark)
    left.imshow(overlays.draw(image, persons), extent=(0, width, height, 0))
    for joints, known in true_people:
        _draw_from_above(right, joints, known, {"color": "0.2", "linewidth": 1.4}, _hollow("o", "0.2", 14, 1.6))
    depths = (joints[known][:, _AHEAD].max() for joints, known in [*found_people, *true_people] if known.any())
    far = 1.08 * max([1.0, *depths])
    half = [(0 - camera.cx) / camera.fx * far, (width - camera.cx) / camera.fx * far]
    right.fill([0, *half], [0, far, far], color="0.95", zorder=0)
    right.set(xlabel="right (m)", ylabel="ahead (m)", xlim=half, ylim=(0, far), aspect="equal")
    right.set_title("from above: found (dots), true (rings), in view (grey)", fontsize=11)
    right.grid(color="0.88", linewidth=0.6)
    figure.suptitle(title, fontsize=15)
    return figure


def poses(
    true: Float[np.ndarray, "N 14 3"],
    found: Mapping[str, tuple[Float[np.ndarray, "N 14 3"], Bool[np.ndarray, "N 14"]]],
    title: str = "",
) -> Figure:
    """Up to five people side by side from the front, over their true poses in grey.

    Args:
      true: joints in metres in camera coordinates.
      found: the rows of the figure by name: joints like `true`, and which of them are known. The last row is blue.
      title: the heading.
    """
    count = min(len(true), 5)
    figure = Figure(figsize=(WIDTH, 4.0 * len(found)), dpi=100, layout="constrained")
    all_axes = figure.subplots(len(found), max(count, 1), squeeze=False)
    for row, (name, (joints, known)) in zip(all_axes, found.items()):
        colour = _BLUE if name == list(found)[-1] else _VERMILLION
        for person, axes in enumerate(row[:count]):
            _draw_limbs(axes, true[person], np.ones(len(true[person]), bool), _DOWN, color="0.75", linewidth=4)
            look: dict[str, Any] = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 3}
            _draw_limbs(axes, joints[person], known[person], _DOWN, **look)
            axes.set(aspect="equal", title=f"person {person + 1}, {name}")
            axes.invert_yaxis()
            axes.axis("off")
    figure.suptitle(f"{title}; grey: the truth", fontsize=15)
    return figure


def _draw_limbs(axes: Axes, joints: np.ndarray, known: np.ndarray, vertical: int, **look: Any):
    """Draws the limbs between known joints. x goes to the right, and the coordinate `vertical` up."""
    for a, b in skeleton.LIMBS:
        if known[a] and known[b]:
            axes.plot(joints[[a, b], 0], joints[[a, b], vertical], **look)


def _draw_from_above(axes: Axes, joints: np.ndarray, known: np.ndarray, look: dict[str, Any], mark: dict[str, Any]):
    _draw_limbs(axes, joints, known, _AHEAD, **look)
    if known.any():
        axes.plot(*joints[known][:, [0, _AHEAD]].mean(axis=0), **mark)


class _Marks(NamedTuple):
    """Voxels of one kind, their look, and their label in the legend."""

    voxels: Float[np.ndarray, "K 3"]
    look: dict[str, Any]
    label: str


def _marks(predicted: ArrayLike, true: ArrayLike) -> list[_Marks]:
    """True places of found joints (rings), found joints (dots), missed (diamonds) and spurious ones (crosses)."""
    pairs = metrics.match(predicted, true, _NEAR)
    predicted, true = (np.asarray(points, float).reshape(-1, 4)[:, 1:] for points in (predicted, true))
    missed, spurious = np.delete(true, pairs[:, 1], axis=0), np.delete(predicted, pairs[:, 0], axis=0)
    size = 6.0
    found = f"found within {_NEAR:g} voxels: {len(pairs)}"
    dot = _hollow("o", _BLUE, 0.45 * size, width=0) | {"markerfacecolor": _BLUE}
    return [
        _Marks(true[pairs[:, 1]], _hollow("o", _BLUE, size, width=0.8), ""),
        _Marks(predicted[pairs[:, 0]], dot, found),
        _Marks(missed, _hollow("D", _VERMILLION, size, width=1.4), f"missed: {len(missed)}"),
        _Marks(spurious, _hollow("x", _BLACK, size, width=1.4), f"spurious: {len(spurious)}"),
    ]


def _hollow(marker: str, colour: str, size: float, width: float) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": width,
    }


def _draw_view(axes: Axes, volume: Volume, marks: Sequence[_Marks], title: str, x: int, y: int):
    """Draws all marks by two coordinates. Rows go down as in the picture. Bins have a second axis in metres."""
    names = (f"row ({volume.stride} px)", f"column ({volume.stride} px)", f"bin ({volume.bin_size:.3g} m)")
    axes.set(title=title, xlabel=names[x], ylabel=names[y])
    axes.set(xlim=(-1.5, volume.shape[x] + 0.5), ylim=(-1.5, volume.shape[y] + 0.5))
    if y == _ROW:
        axes.invert_yaxis()
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for mark in marks:
        axes.plot(mark.voxels[:, x], mark.voxels[:, y], **mark.look)
    metres = (lambda bins: bins * volume.bin_size, lambda metres: metres / volume.bin_size)
    if x == _BIN:
        axes.secondary_xaxis("top", functions=metres).set_xlabel("distance from the camera (m)")
    if y == _BIN:
        axes.secondary_yaxis("right", functions=metres).set_ylabel("distance from the camera (m)")


def _draw_code(figure: Figure, cell, code: np.ndarray):
    """Draws maxima of the code along each axis, arranged like the three views, with one scale of colours."""
    h, w, d = code.shape
    views: tuple[tuple[Any, ...], ...] = (
        (0, 0, "code from the front", code.max(2), "w", "h", "upper"),
        (0, 1, "code from the side", code.max(1), "d", "h", "upper"),
        (1, 0, "code from above", code.max(0).T, "w", "d", "lower"),
    )
    low, high = min(view.min() for _, _, _, view, *_ in views), code.max()
    grid = cell.subgridspec(2, 2, width_ratios=(w, d), height_ratios=(h, d))
    for row, column, title, view, x_label, y_label, origin in views:
        axes = figure.add_subplot(grid[row, column])
        image = axes.imshow(view, vmin=low, vmax=high, origin=origin, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=x_label, ylabel=y_label)
    corner = figure.add_subplot(grid[1, 1])
    corner.axis("off")
    facts = f"{h} × {w} × {d}\n{code.size:,} values\nmean {code.mean():.3g}, σ {code.std():.3g}\nmaxima along each axis"
    corner.text(0.5, 0.6, facts, ha="center", va="center", linespacing=1.5)
    figure.colorbar(image, ax=corner, label="code")
