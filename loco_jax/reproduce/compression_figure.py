"""What compression buys, as a table and as a figure of what `compression.measure` returns."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from loco_jax.report import drawings, tables
from loco_jax.report.figure import CYCLE, MARKERS
from loco_jax.reproduce import codecs
from loco_jax.reproduce.compression import BITS, PEAKS

_NOTE = (
    "Means of bytes and F1 (hungarian matching), medians of times. Compressing begins with joints: it renders and "
    "compresses heatmaps, or encodes and packs a code. Restoring ends with peaks. Bytes are those of the numbers "
    "alone: shapes and the parameters of a decoder are not counted."
)
_SHAPES = dict(zip((*codecs.LOSSLESS, PEAKS), "hp<>*"))  # markers of the ways without a network
_GREY = "0.55"
_SIZE = 10  # points
_THRESHOLD = "0.4 m"  # of the drawn F1


def table(found: Mapping[str, Any]) -> str:
    """Bytes, how many times fewer than raw, F1 in percent and milliseconds, as Markdown."""
    raw, thresholds = 4 * math.prod(found["heatmaps"]), list(found["ways"][0]["f1"])
    header = ["way", "bytes", "times smaller", *(f"F1 @{t}" for t in thresholds), "compress (ms)", "restore (ms)"]
    rows = [
        [
            _label(way, found),
            f"{way['bytes']:,.0f}",
            f"{raw / way['bytes']:,.0f}",
            *(tables.number(way["f1"][t], 1, 100) for t in thresholds),
            *(f"{1000 * way['seconds'][name]:,.1f}" for name in ("compress", "restore")),
        ]
        for way in found["ways"]
    ]
    note = f"{found['data']}: {found['frames']:,} frames. {_NOTE}"
    return "\n".join([tables.table(header, rows), "", note])


def figure(found: Mapping[str, Any]) -> Figure:
    """Bytes a frame against F1 at `_THRESHOLD`: a marker for each way, a line for each network through its bits."""
    drawing = drawings.new_figure(height=8.0, w_pad=0.12)
    axes = drawing.subplots()
    handles = [_head("Heatmaps of joints")]

    def draw(ways, **look):
        axes.plot([way["bytes"] for way in ways], [100 * way["f1"][_THRESHOLD] for way in ways], **look)

    for way in found["ways"]:
        if "network" not in way:
            # Hollow, since some of them lie on each other.
            colour = "black" if _label(way, found) == way["name"] else _GREY
            look = {**_marker(_SHAPES[way["name"]], colour), "markerfacecolor": "none", "markeredgewidth": 1.8}
            draw([way], **look)
            handles.append(Line2D([], [], label=_label(way, found), **look))
    bits = dict(zip(BITS, MARKERS))
    handles.append(_head("\nCodes of autoencoders"))
    networks = dict.fromkeys(way["network"] for way in found["ways"] if "network" in way)
    for network, colour in zip(networks, itertools.cycle(CYCLE)):
        ways = [way for way in found["ways"] if way.get("network") == network]
        draw(ways, color=colour, linewidth=1.8)
        for way in ways:
            draw([way], **_marker(bits[way["bits"]], colour))
        handles.append(Line2D([], [], label=network, color=colour, linewidth=1.8))
    handles.append(_head("\nTheir bits a number"))
    names = {number: codecs.FLOATS[number].name if number in codecs.FLOATS else str(number) for number in bits}
    handles += [Line2D([], [], label=names[number], **_marker(shape, "0.35")) for number, shape in bits.items()]

    axes.set_title(f"{found['data']}, {found['frames']:,} frames", fontsize=14)
    axes.set(xscale="log", ylim=(-2, 102))
    axes.set_xlabel("bytes a frame (logarithmic)", fontsize=13)
    axes.set_ylabel(f"F1 at {_THRESHOLD} (%)", fontsize=13)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
    axes.tick_params(labelsize=12)
    axes.grid(color="0.9", linewidth=0.6)
    drawing.legend(handles=handles, loc="outside right upper", fontsize=12, frameon=False)
    return drawing


def _marker(shape: str, colour: str) -> dict[str, Any]:
    return {"marker": shape, "color": colour, "linestyle": "", "markersize": _SIZE}


def _head(text: str) -> Line2D:
    return Line2D([], [], label=text, linestyle="")


def _label(way: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The way's name; and where Gaussians are centred, if heatmaps of both kinds were measured."""
    both = len({w["subvoxel"] for w in found["ways"]}) > 1
    return way["name"] + (", whole voxels" if both and "network" not in way and not way["subvoxel"] else "")


def _bytes(number: float) -> str:
    """A number of bytes with a unit."""
    size, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= s), (1, "B"))
    return f"{number / size:g} {unit}"
