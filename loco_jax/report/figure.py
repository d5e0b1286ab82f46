"""The figure that compares runs. A run has the same colour in all curves."""

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
_GREY = "0.35"
_ROW = 4.6  # inches
_WIDE = 30.0  # ratio of values from which the axis is logarithmic
_LONGER = 8.0  # ratio of two runs' steps from which the axis is logarithmic
_UNIT_STEPS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def draw_runs(runs: Sequence[Run]) -> Figure:
    """Loss, validation scores, speed and where the time went, 1600 pixels wide at 100 dots an inch.

    What no run has logged is left out, or called "not logged".
    """
    f1, losses = _all_names(runs, "validation/", "f1"), _all_names(runs, "validation/", "loss")
    people = {title: _beginning_with(runs, beginnings) for title, beginnings in _PEOPLE.items()}
    people = {title: names for title, names in people.items() if names}
    bars = max(2.6, 1.3 + 0.75 * len(runs))
    heights = [_ROW, *[_ROW] * bool(people), max(_ROW - 0.8, bars)]
    figure = drawings.new_figure(sum(heights) + 0.6, w_pad=0.12)
    rows = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    top = list(np.atleast_1d(rows[0].subplots(1, 3 if f1 and losses else 2)))
    _draw_curves(top[0], runs, ["loss"], "Loss in training")
    if f1 or not losses:
        _draw_curves(top[1], runs, f1, "F1 on validation frames")
    if losses:
        title = losses[0].removeprefix("validation/") if len(losses) == 1 else "Losses"
        _draw_curves(top[-1], runs, losses, f"{title} on validation frames")
    if people:
        for axes, (title, names) in zip(np.atleast_1d(rows.pop(1).subplots(1, len(people))), people.items()):
            _draw_curves(axes, runs, names, title, columns=2)
    speed, times = rows[1].subplots(1, 2)
    _draw_curves(speed, runs, ["frames_per_second"], "Frames a second")
    _draw_time(times, runs)
    handles = [Line2D([], [], color=_colour(i), linewidth=3.5) for i in range(len(runs))]
    labels = [f"{_short(run.name)}  ({run.state})" if run.state else _short(run.name) for run in runs]
    columns = max(1, min(len(runs), int(drawings.WIDTH / (0.105 * max(map(len, labels)) + 0.6))))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=12, frameon=False)
    return figure


def duration(seconds: float) -> str:
    """A time with three digits in the greatest unit that is not longer than it."""
    size, unit = next((u for u in _UNIT_STEPS if seconds >= u[0]), _UNIT_STEPS[-1])
    return f"{seconds / size:.3g} {unit}"


def _colour(index: int) -> str:
    return drawings.CYCLE[index % len(drawings.CYCLE)]


def _short(text: str, most: int = 40) -> str:
    """A run's name, shortened, without anything that matplotlib would read as a formula."""
    text = text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"
    return text.replace("$", r"\$")


def _all_names(runs: Sequence[Run], *words: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.names(*words)))


def _beginning_with(runs: Sequence[Run], beginnings: tuple[str, ...]) -> list[str]:
    return [name for name in _all_names(runs, "validation/") if name.removeprefix("validation/").startswith(beginnings)]


def _draw_curves(axes: Axes, runs: Sequence[Run], names: Sequence[str], title: str, columns: int = 3) -> None:
    """The named series of all runs. Colours stand for runs; if there are several names, markers stand for those."""
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
        _legend_below(axes, handles, labels, columns=min(columns, len(names)), handlelength=3.2)
    elif title in _PEOPLE:
        axes.set_ylabel(names[0].removeprefix("validation/"))


def _make_log(axes: Axes, which: str, ratio: float) -> None:
    """Makes the axis "x" or "y" logarithmic, with plain numbers; `ratio` is that of its ends."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ratio < 1e3:  # powers of ten alone would be few
        axis.set_major_locator(LogLocator(subs=(1, 3) if ratio > 30 else (1, 2, 5) if ratio > 4 else range(1, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _look(number: int) -> dict[str, Any]:
    dash = drawings.DASHES[number % len(drawings.DASHES)]
    return {"linestyle": dash, "marker": drawings.MARKERS[number % len(drawings.MARKERS)], "markersize": 5}


def _draw_one(axes: Axes, points: np.ndarray, colour: str, number: int | None) -> None:
    look: dict[str, Any] = {"color": colour, "linewidth": 1.8}
    if number is not None:
        look |= _look(number) | {"markevery": max(1, len(points) // 12)}
    elif len(points) == 1:
        look |= {"marker": "o", "markersize": 6}
    if len(points) > 60:  # noisy: the running mean shows the trend
        axes.plot(*points.T, color=colour, alpha=0.22, linewidth=0.8)
        points = drawings.smooth(points, len(points) // 25)
    axes.plot(*points.T, **look)


def _draw_time(axes: Axes, runs: Sequence[Run]) -> None:
    """A bar for each run: the share of its time that each part of the loop took."""
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
    """A legend below the axes, where it hides no curve."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": columns}
    axes.legend(handles, labels, fontsize=10, frameon=False, handlelength=handlelength, columnspacing=1.4, **place)


def _prepare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=14)
    axes.grid(color="0.9", which="major", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
