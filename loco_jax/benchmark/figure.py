"""The benchmark's times as a figure."""

import pathlib
from collections.abc import Sequence

from matplotlib import patches, ticker
from matplotlib.figure import Figure

from loco_jax.benchmark.measure import Row
from loco_jax.report.tables import duration


def plot(path: pathlib.Path, title: str, rows: Sequence[Row]) -> None:
    """Draws median times as bars on a logarithmic axis, with the range of all runs."""
    rows = [row for row in rows if row.seconds]
    figure = Figure(figsize=(9, 1.6 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        spread = [[row.median - min(row.seconds)], [max(row.seconds) - row.median]]
        colour = "C0" if row.implementation.startswith("ours") else "0.7"
        axes.barh(y, row.median, color=colour, xerr=spread, error_kw={"elinewidth": 0.8, "ecolor": "0.3"})
        label = (max(row.seconds), y), (4, 0)
        axes.annotate(duration(row.median), *label, textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [f"{row.function}: {row.implementation}" for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)  # room for the last label
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel(
        "median time of a run, and all runs (min: minutes, s: seconds, ms: milliseconds, us: microseconds)", fontsize=8
    )
    axes.set_title(title, fontsize=9)
    legend = [patches.Patch(color="C0", label="loco_jax"), patches.Patch(color="0.7", label="other implementations")]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
