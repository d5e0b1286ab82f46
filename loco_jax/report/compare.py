"""Tables that compare runs with each other and with the poster, as Markdown and as an HTML page with curves."""

import base64
import dataclasses
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from matplotlib.figure import Figure

from loco_jax.report import tables
from loco_jax.report.runs import Run
from loco_jax.runs import observation

_NOTHING = "–"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; }
img { max-width: 100%; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
tr.poster { color: #666; background: #f6f6f6; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, a table whose first column is text, and a note below the table."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def sections(runs: Sequence[Run]) -> list[Section]:
    """The tables that have rows."""
    parts = "; ".join(f"`{part}`: {meaning}" for part, meaning in observation.PARTS.items())
    made = [
        _by_run("What was run", runs, _facts),
        *_scores(runs),
        _by_run("Last scores on validation frames", runs, _validation),
        _by_run("Where the time went", runs, _time, f"{parts}. `input_wait`: {observation.NAMES['input_wait']}."),
        _differences(runs),
    ]
    return [section for section in made if section.rows]


def to_markdown(all_sections: Sequence[Section]) -> str:
    """The sections as Markdown."""

    def cells(row):
        return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]

    parts = ["# Runs"]
    for section in all_sections:
        parts += [f"## {section.heading}", tables.table(cells(section.header), [cells(row) for row in section.rows])]
        parts += [section.note] * bool(section.note)
    return "\n\n".join(parts) + "\n"


def to_html(all_sections: Sequence[Section], drawing: Figure) -> str:
    """The sections as an HTML page below the drawing; it needs no other file and no network."""
    picture = io.BytesIO()
    drawing.savefig(picture, format="png")
    encoded = base64.b64encode(picture.getvalue()).decode()
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Runs</title>\n<style>{_STYLE}</style>',
        f'<h1>Runs</h1>\n<img alt="Curves of the runs" src="data:image/png;base64,{encoded}">',
    ]
    for section in all_sections:
        rows = [f"<tr{' class=poster' * (row[0] == 'poster')}>{_cells('td', row)}</tr>" for row in section.rows]
        table = "\n".join([f"<table>\n<tr>{_cells('th', section.header)}</tr>", *rows, "</table>"])
        parts.append(f'<h2>{_inline(section.heading)}</h2>\n<div class="table">{table}</div>')
        parts.append(f"<p>{_inline(section.note)}</p>")
    return "\n".join(parts) + "\n"


def _cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in row)


def _inline(text: str) -> str:
    """Text as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _by_run(
    heading: str, runs: Sequence[Run], facts: Callable[[Run], Mapping[str, str | None]], note: str = ""
) -> Section:
    """A row for each fact, a column for each run. Facts that no run has are left out."""
    columns = [facts(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name) or _NOTHING for column in columns)] for name in names]
    rows = [row for row in rows if set(row[1:]) != {_NOTHING}]
    return Section(heading, ["", *(run.name for run in runs)], rows, note)


def _facts(run: Run) -> dict[str, str | None]:
    config, data = run.config, run.config.get("data", {})
    source, wanted = data.get("source"), config.get("steps", 0)
    losses, rates = (run.series(name)[:, 1] for name in ("loss", "frames_per_second"))
    rate = np.median(rates) if len(rates) else 0
    peaks = [run.series(name)[:, 1].max() for name in run.names("peak_bytes")]
    training = sum(run.seconds.get(part, 0.0) for part in observation.TRAINING)
    return {
        "task": config.get("task"),
        "config": config.get("name"),
        # Only an evaluation knows whether it is the real JTA.
        "data": run.results.get("data") if source in (None, "jta") else f"{source}, {config.get('scale')} scale",
        "batch": str(data["batch_size"]) if "batch_size" in data else None,
        "parameters": f"{run.parameters:,}" if run.parameters else None,
        "steps": f"{run.step:,}" + f" of {wanted:,}" * (run.step < wanted) if run.records or wanted else None,
        "loss at the end": f"{losses[-1]:.4g}" if len(losses) else None,
        "time of training": tables.duration(training) if training else None,
        "time in all": tables.duration(sum(run.seconds.values())) if run.seconds else None,
        "frames/s, median": f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" if len(rates) else None,
        "most memory": f"{max(peaks) / 2**30:.2f} GiB" if peaks else None,
    }


def _scores(runs: Sequence[Run]) -> list[Section]:
    """The tables of scores from `--mode=eval`, with the poster's rows."""
    levels = sorted({run.results["level"] for run in runs if "scores" in run.results})
    vha_posters, loco_posters = [tables.vha_poster_row(n) for n in levels], tables.loco_poster_rows()
    # A key of the results, the heading, the header, a function that makes rows of results, the poster's rows.
    kinds: tuple[tuple[str, str, list[str], Callable[[Any], list[list[str]]], list[list[str]]], ...] = (
        ("scores", "VHA", tables.VHA_HEADER, tables.vha_rows, vha_posters),
        ("systems", "LoCO, matched as published (`nearest`)", tables.LOCO_HEADER, _rows_of("nearest"), loco_posters),
        ("systems", "LoCO, best matching (`hungarian`)", tables.LOCO_HEADER, _rows_of("hungarian"), []),
        ("systems", "LoCO, people", tables.PEOPLE_HEADER, tables.people_rows, []),
        ("after_cm", "refiner", tables.REFINER_HEADER, tables.refiner_rows, []),
    )
    made = []
    for key, heading, header, make, posters in kinds:
        rows, about = [], []
        for run in (run for run in runs if key in run.results):
            results = run.results
            try:
                rows += [[run.name, *row] for row in make(results)]
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{run.name}: eval/results.json is not as this version writes it ({error!r}); score the run again "
                    "with --mode=eval"
                ) from error
            weights = f"step {results['step']:,}" if "step" in results else f"weights {results.get('weights')}"
            about.append(f"{run.name}: {results.get('frames')} frames of {results.get('data')}, {weights}")
        note = tables.PEOPLE_NOTE if make is tables.people_rows else f"In percent, errors in cm. {'; '.join(about)}."
        if posters and not all(str(run.results.get("data")).startswith("JTA") for run in runs if key in run.results):
            note += " The poster's figures are on other data: JTA."
        if rows:
            rows += [["poster", *row] for row in posters]
            made.append(Section(f"Scores: {heading}", ["run", *header], rows, note))
    return made


def _rows_of(matching: str) -> Callable[[Mapping[str, Any]], list[list[str]]]:
    return lambda results: [row for row in tables.loco_rows(results) if row[1] == f"`{matching}`"]


def _validation(run: Run) -> dict[str, str | None]:
    lasts = {name.removeprefix("validation/"): run.series(name)[-1] for name in run.names("validation/")}
    if not lasts:
        return {}
    step = int(max(step for step, _ in lasts.values()))
    return {"at step": f"{step:,}", **{name: f"{value:.3f}" for name, (_, value) in lasts.items()}}


def _time(run: Run) -> dict[str, str | None]:
    total, waits = sum(run.seconds.values()), run.series("input_wait")[:, 1]
    parts = {part: f"{tables.duration(s)} ({100 * s / total:.1f} %)" for part, s in run.seconds.items()}
    return {
        **{part: parts.get(part) for part in observation.PARTS},
        "input_wait, mean": f"{100 * waits.mean():.1f} %" if len(waits) else None,
    }


def _differences(runs: Sequence[Run]) -> Section:
    """The fields in which configs differ."""

    def fields(run: Run) -> dict[str, str | None]:
        flat = traverse_util.flatten_dict(run.config, sep=".")
        return {name: '""' if value == "" else str(value) for name, value in flat.items()}

    note = f"All other fields are equal. {_NOTHING}: the config has no such field."
    found = _by_run("Where the configs differ", [run for run in runs if run.config], fields, note)
    rows = [row for row in found.rows if len(set(row[1:])) > 1]
    return dataclasses.replace(found, rows=sorted(rows, key=lambda row: row[0]))
