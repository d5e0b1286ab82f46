"""The figure with the curves of one or several runs. A run has the same colour in all curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from loco_jax.report import drawings
from loco_jax.report.runs import Run

# Curves of validation scores: titles, and the beginnings of the names that a curve shows.
_PEOPLE = {
    "People": ("people_", "named_twice"),
    "Pose errors (cm)": ("mpjpe", "pa_mpjpe"),
    "Widths over the true ones": ("width_",),
    "Joints higher on their own side": ("side_",),
    "Right and left told by a trunk": ("told_",),
}
# Okabe and Ito's colours, which people with colour blindness can tell apart.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"
_GREY = "0.35"
_ROW = 4.6  # inches
_WIDE = 30.0  # ratio of values from which the axis is logarithmic
_LONGER = 8.0  # ratio of two runs' steps from which the axis is logarithmic


def draw_runs(runs: Sequence[Run]) -> Figure:
    """Loss, validation scores and speed, 1600 pixels wide at 100 dots an inch.

    Curves that no run has logged are left out, or say "not logged".
    """
    validation = list(dict.fromkeys(name for run in runs for name in run.names("validation/")))
    f1, losses = ([name for name in validation if word in name] for word in ("f1", "loss"))
    top = {"Loss in training": ["loss"]}
    if f1 or not losses:
        top["F1 on validation frames"] = f1
    if losses:
        top["Losses on validation frames"] = losses
    top["Frames a second"] = ["frames_per_second"]
    people = {
        title: [name for name in validation if name.removeprefix("validation/").startswith(beginnings)]
        for title, beginnings in _PEOPLE.items()
    }
    panels = [top, people] if (people := {title: names for title, names in people.items() if names}) else [top]
    figure = drawings.new_figure(_ROW * len(panels) + 0.6, w_pad=0.12)
    for row, panel in zip(figure.subfigures(len(panels), 1, squeeze=False)[:, 0], panels):
        for axes, (title, names) in zip(np.atleast_1d(row.subplots(1, len(panel))), panel.items()):
            _draw_curves(axes, runs, names, title)
    handles = [Line2D([], [], color=_colour(i), linewidth=3.5) for i in range(len(runs))]
    labels = [_short(run.name) for run in runs]
    columns = max(1, min(len(runs), int(drawings.WIDTH / (0.105 * max(map(len, labels)) + 0.6))))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=12, frameon=False)
    return figure


def _colour(index: int) -> str:
    return CYCLE[index % len(CYCLE)]


def _short(text: str) -> str:
    """The name of a run in at most 40 letters. Matplotlib does not read it as a formula."""
    text = text if len(text) <= 40 else f"{text[:20]}…{text[-19:]}"
    return text.replace("$", r"\$")


def _draw_curves(axes: Axes, runs: Sequence[Run], names: Sequence[str], title: str) -> None:
    """Draws the named series of all runs. Colours tell the runs apart, and markers the names, if there are several."""
    axes.set_title(title, fontsize=14)
    axes.set_xlabel("step")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    drawn, lasts = [], []
    for index, run in enumerate(runs):
        for number, name in enumerate(names):
            points = run.series(name)
            if len(points):
                drawn.append(points[:, 1])
                lasts.append(points[-1, 0])
                _draw_one(axes, points, _colour(index), number)
    if not drawn:
        axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color=_GREY)
        return
    if max(lasts) > _LONGER * min(lasts) > 0:
        axes.set_xscale("log")
        axes.xaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())
    values = np.concatenate(drawn)
    if all("f1" in name for name in names):
        axes.set_ylim(-0.02, 1.02)
    elif values.min() > 0 and (names == ["loss"] or values.max() > _WIDE * values.min()):
        axes.set_yscale("log")
        axes.yaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())
    else:
        axes.set_ylim(bottom=0 if values.min() >= 0 else None)
    if len(names) > 1:
        handles = [Line2D([], [], color=_GREY, **_look(i)) for i in range(len(names))]
        labels = [name.removeprefix("validation/") for name in names]
        columns = min(2, len(names))
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": columns}
        axes.legend(handles, labels, fontsize=10, frameon=False, handlelength=3.2, columnspacing=1.4, **place)
    else:
        axes.set_ylabel(names[0].removeprefix("validation/"))


def _look(number: int) -> dict[str, Any]:
    return {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 5}


def _draw_one(axes: Axes, points: np.ndarray, colour: str, number: int) -> None:
    if len(points) > 60:  # noisy: the running mean shows the trend
        axes.plot(*points.T, color=colour, alpha=0.22, linewidth=0.8)
        weights = np.full(len(points) // 25, 1 / (len(points) // 25))
        points = np.stack([np.convolve(column, weights, mode="valid") for column in points.T], axis=-1)
    axes.plot(*points.T, color=colour, linewidth=1.8, markevery=max(1, len(points) // 12), **_look(number))
