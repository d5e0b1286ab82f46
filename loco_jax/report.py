"""Results as Markdown tables, beside the poster's figures."""

from collections.abc import Mapping, Sequence
from typing import Any

# F1 in percent at 0, 1 and 2 voxels (poster, "Compression levels").
POSTER_VHA = {1: (97.1, 98.4, 98.5), 2: (92.5, 97.0, 97.1), 3: (56.5, 90.3, 92.9)}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns lined up; the first is text, the others are numbers."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells):
        return "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def vha_table(summary: Mapping[str, Any]) -> str:
    """The summary of a VHA's evaluation: F1 beside the poster's, precision and recall, errors by distance."""
    thresholds = ("0 vx", "1 vx", "2 vx")
    hungarian = summary["scores"]["hungarian"]
    name, data = summary["network"], summary.get("data", "")
    level = summary["level"]

    def row(label, where, scores):
        values = [f"{100 * scores[t][m]:.1f}" for t in thresholds for m in ("precision", "recall", "f1")]
        return [label, where, *values]

    header = ["network", "data", *(f"{m} @{t}" for t in thresholds for m in ("PR", "RE", "F1"))]
    rows = []
    for noise, scores in hungarian.items():
        part = float(noise.split()[1])
        label = name if part == 0 else f"{name}, {100 * part:.0f} % noise on the code"
        rows.append(row(label, data, scores))
    rows.append(row(f"{name}, `nearest` matching", data, summary["scores"]["nearest"]["noise 0"]))
    poster = [f"{f:.1f}" for f in POSTER_VHA[level]]
    rows.append([f"poster: VHA({level})", "JTA, test split", *(x for f in poster for x in ("", "", f))])
    error = summary["error_cm"]
    bands = [
        [
            f"{b['metres'][0]:g} to {b['metres'][1]:g} m",
            f"{b['joints']:,}",
            "" if b["recall"] is None else f"{100 * b['recall']:.1f}",
            "" if b["error_cm"] is None else f"{b['error_cm']:.1f}",
        ]
        for b in summary["by_distance"]
        if b["joints"]
    ]
    lines = [
        table(header, rows),
        "",
        f"Mean over {summary['frames']:,} frames, in percent."
        + ("" if data.startswith("JTA") else " The poster's figures are on other data: JTA."),
        "In metres, at sub-voxel positions: F1 "
        + ", ".join(f"{100 * s['f1']:.1f} @{t}" for t, s in hungarian["noise 0"].items() if t.endswith(" m"))
        + ".",
        f"Localisation error of joints found within 2 voxels: {'none found' if error is None else f'{error:.1f} cm'}. "
        f"The code's mean is {summary['code']['mean']:.3g}, its standard deviation {summary['code']['std']:.3g}.",
        "",
        table(["distance", "joints", "recall @2 vx", "error (cm)"], bands),
    ]
    if summary["frames_with_too_many_peaks"]:
        lines += [
            "",
            f"{summary['frames_with_too_many_peaks']} frames had more peaks than config.max_peaks; best kept.",
        ]
    return "\n".join(lines)
