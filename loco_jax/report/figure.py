"""The figure with the curves of one or several runs. A run has the same colour in all curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from loco_jax.report import drawings
from loco_jax.report.runs import Run
from loco_jax.runs import observation

# Parts of the time. They are paler than the runs' colours.
_PART_COLOURS = {
    "data": "#E8A33D",
    "device": "#6C9BC8",
    "save": "#B48CC0",
    "evaluation": "#93C47D",
    "setup": "#8A8A8A",
    "other": "#D4D4D4",
}
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
_UNIT_STEPS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def draw_runs(runs: Sequence[Run]) -> Figure:
    """Loss, validation scores, speed and the parts of the time, 1600 pixels wide at 100 dots an inch.

    Curves that no run has logged are left out, or say "not logged".
    """
    validation = list(dict.fromkeys(name for run in runs for name in run.names("validation/")))
    f1, losses = ([name for name in validation if word in name] for word in ("f1", "loss"))
    top = {"Loss in training": ["loss"]}
    if f1 or not losses:
        top["F1 on validation frames"] = f1
    if losses:
        title = losses[0].removeprefix("validation/") if len(losses) == 1 else "Losses"
        top[f"{title} on validation frames"] = losses
    people = {
        title: [name for name in validation if name.removeprefix("validation/").startswith(beginnings)]
        for title, beginnings in _PEOPLE.items()
    }
    panels = [top, people] if (people := {title: names for title, names in people.items() if names}) else [top]
    heights = [*[_ROW] * len(panels), max(_ROW - 0.8, 1.3 + 0.75 * len(runs))]
    figure = drawings.new_figure(sum(heights) + 0.6, w_pad=0.12)
    *rows, last = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, panel in zip(rows, panels):
        for axes, (title, names) in zip(np.atleast_1d(row.subplots(1, len(panel))), panel.items()):
            _draw_curves(axes, runs, names, title)
    speed, times = last.subplots(1, 2)
    _draw_curves(speed, runs, ["frames_per_second"], "Frames a second")
    _draw_time(times, runs)
    handles = [Line2D([], [], color=_colour(i), linewidth=3.5) for i in range(len(runs))]
    labels = [_short(run.name) + (f"  ({run.state})" if run.state else "") for run in runs]
    columns = max(1, min(len(runs), int(drawings.WIDTH / (0.105 * max(map(len, labels)) + 0.6))))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=12, frameon=False)
    return figure


def duration(seconds: float) -> str:
    """A time as text, with three digits, in h, min, s or ms."""
    size, unit = next((u for u in _UNIT_STEPS if seconds >= u[0]), _UNIT_STEPS[-1])
    return f"{seconds / size:.3g} {unit}"


def _colour(index: int) -> str:
    return CYCLE[index % len(CYCLE)]


def _short(text: str, most: int = 40) -> str:
    """A shortened name of a run. Matplotlib does not read it as a formula."""
    text = text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"
    return text.replace("$", r"\$")


def _draw_curves(axes: Axes, runs: Sequence[Run], names: Sequence[str], title: str) -> None:
    """Draws the named series of all runs. Colours tell the runs apart, and markers the names, if there are several."""
    _prepare(axes, title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    drawn, lasts = [], []
    for index, run in enumerate(runs):
        for number, name in enumerate(names):
            points = run.series(name)
            if len(points):
                drawn.append(points[:, 1])
                lasts.append(points[-1, 0])
                _draw_one(axes, points, _colour(index), number if len(names) > 1 else None)
    if not drawn:
        _say_missing(axes)
        return
    if max(lasts) > _LONGER * min(lasts) > 0:
        _make_log(axes, "x", max(lasts) / min(lasts))
        axes.set_xlabel("step (logarithmic)")
    values = np.concatenate(drawn)
    if all("f1" in name for name in names):
        axes.set_ylim(-0.02, 1.02)
    elif values.min() > 0 and (names == ["loss"] or values.max() > _WIDE * values.min()):
        _make_log(axes, "y", values.max() / values.min())
    else:
        axes.set_ylim(bottom=0 if values.min() >= 0 else None)
    if len(names) > 1:
        handles = [Line2D([], [], color=_GREY, **_look(i)) for i in range(len(names))]
        labels = [name.removeprefix("validation/") for name in names]
        columns = min(2 if title in _PEOPLE else 3, len(names))
        _legend_below(axes, handles, labels, columns, handlelength=3.2)
    elif title in _PEOPLE:
        axes.set_ylabel(names[0].removeprefix("validation/"))


def _make_log(axes: Axes, which: str, ratio: float) -> None:
    """Makes the axis "x" or "y" logarithmic, with plain numbers. `ratio` is its last value divided by its first."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ratio < 1e3:  # powers of ten alone would be few
        axis.set_major_locator(LogLocator(subs=(1, 3) if ratio > 30 else (1, 2, 5) if ratio > 4 else range(1, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _look(number: int) -> dict[str, Any]:
    return {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 5}


def _draw_one(axes: Axes, points: np.ndarray, colour: str, number: int | None) -> None:
    look: dict[str, Any] = {"color": colour, "linewidth": 1.8}
    if number is not None:
        look |= _look(number) | {"markevery": max(1, len(points) // 12)}
    elif len(points) == 1:
        look |= {"marker": "o", "markersize": 6}
    if len(points) > 60:  # noisy: the running mean shows the trend
        axes.plot(*points.T, color=colour, alpha=0.22, linewidth=0.8)
        weights = np.full(len(points) // 25, 1 / (len(points) // 25))
        points = np.stack([np.convolve(column, weights, mode="valid") for column in points.T], axis=-1)
    axes.plot(*points.T, **look)


def _draw_time(axes: Axes, runs: Sequence[Run]) -> None:
    """Draws a bar for each run: the share of its time that each part of the loop took."""
    _prepare(axes, "Where the time went")
    if not any(run.seconds for run in runs):
        _say_missing(axes)
        return
    for index, run in enumerate(runs):
        total = sum(run.seconds.values())
        axes.text(0, index - 0.31, _short(run.name), color=_colour(index), fontsize=11, va="bottom")
        axes.text(100, index - 0.31, duration(total) if total else "", fontsize=11, va="bottom", ha="right")
        if not total:
            axes.text(0, index, "not logged", color=_GREY, fontsize=11, va="center")
        left = 0.0
        for part, seconds in run.seconds.items():
            share = 100 * seconds / total
            axes.barh(index, share, left=left, height=0.5, color=_PART_COLOURS[part], edgecolor="white", linewidth=0.8)
            if share >= 7:
                axes.text(left + share / 2, index, f"{share:.0f} %", ha="center", va="center", fontsize=10)
            left += share
    axes.set(xlim=(0, 100), ylim=(max(len(runs), 3) - 0.4, -0.75), yticks=[], xlabel="% of the wall time")
    axes.spines["left"].set_visible(False)
    handles = [Patch(color=_PART_COLOURS[part]) for part in observation.PARTS]
    _legend_below(axes, handles, list(observation.PARTS), columns=len(handles), handlelength=1.2)


def _say_missing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color=_GREY)
    axes.set(xticks=[], yticks=[], xlabel="")


def _legend_below(axes: Axes, handles: list, labels: list[str], columns: int, handlelength: float) -> None:
    """Adds a legend below the axes, where it hides no curve."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": columns}
    axes.legend(handles, labels, fontsize=10, frameon=False, handlelength=handlelength, columnspacing=1.4, **place)


def _prepare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=14)
    axes.grid(color="0.9", which="major", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
