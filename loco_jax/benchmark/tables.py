"""What was measured, as Markdown, JSON and a plot."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loco_jax.benchmark import measure
from loco_jax.benchmark.measure import Row
from loco_jax.report import tables as report

_NAMES = ("function", "implementation")
HEADER = (*_NAMES, "median", "least to most", "runs", "CPU time", "times ours", "share", "memory", "result")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the implementations; of the limits, see `limits`."""
    return report.table(HEADER, [_cells(row) for row in rows if not is_limit(row)])


def is_limit(row: Row) -> bool:
    return row.implementation in (measure.COPY, measure.READ, measure.PRODUCT)


def _cells(row: Row) -> list[str]:
    if not row.seconds:
        return [row.function, row.implementation, *[""] * (len(HEADER) - 3), row.note]
    result = "" if row.equal is None else "equal" if row.equal else f"differs by {row.difference:.2g}"
    return [
        row.function,
        row.implementation,
        seconds(row.median),
        f"{seconds(min(row.seconds))} to {seconds(max(row.seconds))}",
        str(len(row.seconds)),
        seconds(float(np.median(row.cpu_seconds))),
        "1" if row.ratio is None else f"{row.ratio:.3g}",
        "" if not row.floor else f"{100 * row.share:{'.0f' if row.share >= 0.1 else '.2g'}} %",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB",
        row.note or result,
    ]


def beside_our_others(rows: Sequence[Row]) -> str:
    """Of functions that have several ways of ours, how others compare to those after the first; or ""."""
    words = []
    for mine in rows:
        if not (mine.implementation.startswith("ours") and mine.seconds and mine.ratio is not None):
            continue
        theirs = [row for row in rows if row.function == mine.function and row.ratio is not None and row.seconds]
        listed = ", ".join(
            f"{row.implementation} {measure.ratio(row.seconds, mine.seconds):.3g}"
            for row in theirs
            if not row.implementation.startswith("ours")
        )
        words.append(f"{mine.function}, times {mine.implementation}: {listed}.")
    return "\n".join(words)


def seconds(value: float) -> str:
    """With a unit, and three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def limits(rows: Sequence[Row]) -> str:
    """The machine's speeds, over all cases, in words."""
    words = []
    for name in (measure.COPY, measure.READ, measure.PRODUCT):
        speeds = [measure.speed(name, s) for row in rows if row.implementation == name for s in row.seconds]
        if speeds:
            unit = "GFLOP/s" if name == measure.PRODUCT else "GB/s"
            words.append(f"{name.removeprefix('limit: ')} {min(speeds) / 1e9:.3g} to {max(speeds) / 1e9:.3g} {unit}")
    return "The machine's limits while this ran: " + ", ".join(words) + "."


def scaling(what: str, values: Sequence[Any], rows: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    """A Markdown table: a line for each implementation, a column for each value.

    Times are of a frame; over batches, frames in a second and memory.
    """

    def cell(row):
        if not row.seconds:
            return row.note
        if what != "batch":
            return seconds(row.median / row.frames)
        memory = "" if row.peak_bytes is None else f", {row.peak_bytes / 1e6:,.0f} MB"
        return f"{row.frames / row.median:.3g} frames/s{memory}"

    lines = [[*name, *map(cell, of_values)] for name, of_values in rows.items()]
    return report.table((*_NAMES, *(f"{what} {value}" for value in values)), lines)


def write_json(path: pathlib.Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Everything, with all times of all rounds."""
    content = {**about, "rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def plot(path: pathlib.Path, title: str, rows: Sequence[Row]) -> None:
    """Median times as bars, on a logarithmic axis, with their spread; a stroke where the machine's limit is."""
    rows = [row for row in rows if row.seconds and not is_limit(row)]
    figure = Figure(figsize=(9, 1 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    functions = list(dict.fromkeys(row.function for row in rows))
    for y, row in enumerate(rows):
        first = y == 0 or rows[y - 1].function != row.function
        spread = [[row.median - min(row.seconds)], [max(row.seconds) - row.median]]
        colour = "C0" if first or row.implementation.startswith("ours") else "0.65"
        axes.barh(y, row.median, color=colour, xerr=spread, error_kw={"elinewidth": 0.8, "ecolor": "0.3"})
        if row.floor:
            axes.plot([row.floor] * 2, [y - 0.4, y + 0.4], color="C3", linewidth=1.5)
        if first and functions.index(row.function):
            axes.axhline(y - 0.5, color="0.85", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row.function}: {row.implementation}" for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds; blue: ours, red: the least that the machine allows the plain way")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=150)
