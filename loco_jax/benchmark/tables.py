"""Measurements as Markdown and as a figure."""

import pathlib
from collections.abc import Sequence

from matplotlib import lines, patches, ticker
from matplotlib.figure import Figure

from loco_jax.benchmark import measure
from loco_jax.benchmark.measure import Row

HEADER = (
    "function", "implementation", "median", "least to most", "runs", "frames/s", "ratio", "share", "memory",
    "result",
)  # fmt: skip
_WIDTHS = (28, 28, 8, 20, 4, 8, 6, 7, 8, 6)


def head() -> str:
    """The first two lines of a Markdown table."""
    rule = [("-" * (width + 1)) + ("-" if i < 2 else ":") for i, width in enumerate(_WIDTHS)]
    return f"{_in_columns(HEADER)}\n|{'|'.join(rule)}|"


def line(row: Row) -> str:
    """A line of the Markdown table."""
    if not row.seconds:
        return _in_columns((row.function, row.implementation, *[""] * (len(HEADER) - 3), row.note))
    share = row.floor / row.median if row.floor else 0.0
    cells = (
        row.function,
        row.implementation,
        seconds(row.median),
        f"{seconds(min(row.seconds))} to {seconds(max(row.seconds))}",
        str(len(row.seconds)),
        f"{row.frames / row.median:.3g}",
        "1" if row.ratio is None else f"{row.ratio:.3g}",
        f"{100 * share:.{0 if share >= 0.1 else 1}f} %" if share else "",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB",
        "" if row.equal is None else "equal" if row.equal else f"differs by {row.difference:.2g}",
    )
    return _in_columns(cells)


def _in_columns(cells: Sequence[str]) -> str:
    padded = [f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, _WIDTHS))]
    return f"| {' | '.join(padded)} |"


def seconds(value: float) -> str:
    """A time with three digits and a unit."""
    unit, size = ("s", 1.0) if value >= 1 else ("ms", 1e-3) if value >= 1e-3 else ("us", 1e-6)
    return f"{value / size:.3g} {unit}"


def limits(rows: Sequence[Row]) -> str:
    """A sentence about the machine's speeds over all cases."""
    words = []
    for name in measure.LIMITS:
        speeds = [measure.speed(name, s) / 1e9 for row in rows if row.implementation == name for s in row.seconds]
        unit = "GFLOP/s" if name == measure.PRODUCT else "GB/s"
        words.append(f"{name.removeprefix('limit: ')} {min(speeds):.3g} to {max(speeds):.3g} {unit}")
    return f"The machine's limits while this ran: {', '.join(words)}."


def plot(path: pathlib.Path, title: str, rows: Sequence[Row]) -> None:
    """Draws median times as bars on a logarithmic axis, with their range and the machine's least time."""
    rows = [row for row in rows if row.seconds and row.implementation not in measure.LIMITS]
    figure = Figure(figsize=(9, 1.6 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        first = y == 0 or rows[y - 1].function != row.function
        spread = [[row.median - min(row.seconds)], [max(row.seconds) - row.median]]
        colour = "C0" if row.implementation.startswith("ours") else "0.7"
        axes.barh(y, row.median, color=colour, xerr=spread, error_kw={"elinewidth": 0.8, "ecolor": "0.3"})
        if row.floor:
            axes.plot([row.floor] * 2, [y - 0.4, y + 0.4], color="C3", linewidth=1.5)
        axes.annotate(
            seconds(row.median), (max(row.seconds), y), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
        if first and y:
            axes.axhline(y - 0.5, color="0.85", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row.function}: {row.implementation}" for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    least, most = min(min(row.floor or row.median, row.median) for row in rows), max(max(row.seconds) for row in rows)
    axes.set_xlim(least / 2, most * (2 * most / least) ** 0.12)  # room for the last label
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("median time of a run (s: seconds, ms: milliseconds, us: microseconds), logarithmic", fontsize=8)
    axes.set_title(title, fontsize=9)
    legend = [
        patches.Patch(color="C0", label="loco_jax"),
        patches.Patch(color="0.7", label="other implementations"),
        lines.Line2D([], [], color="0.3", linewidth=0.8, label="least to most of all runs"),
        lines.Line2D([], [], color="C3", linewidth=1.5, label="least time this machine allows the dense computation"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
