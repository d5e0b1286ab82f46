"""A document that compares runs with each other and with the poster: HTML, or Markdown with a picture."""

import base64
import dataclasses
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from matplotlib.figure import Figure

from loco_jax.report import figure, tables
from loco_jax.report.runs import Run, RunError
from loco_jax.runs import observation

SUFFIXES = (".html", ".md")
_NOTHING = "–"
_HIDDEN_FIELDS = ("demo",)  # of a config: the name of another config, which a message suggests
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1500px; margin: 2em auto; padding: 0 1em; }
h1, h2 { font-weight: 600; line-height: 1.2; }
h2 { margin: 2em 0 .6em; font-size: 1.25em; }
img { max-width: 100%; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 2px solid #999; }
th:first-child, td:first-child { text-align: left; }
tr.poster { color: #666; background: #f6f6f6; }
p.note { color: #555; max-width: 75em; }
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


def write(runs: Sequence[Run], output: epath.Path) -> list[epath.Path]:
    """Writes the document, and with Markdown its picture beside it. Returns the files."""
    drawing, all_sections = figure.draw_runs(runs), sections(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".html":
        output.write_text(to_html(all_sections, _png(drawing)), encoding="utf-8")
        return [output]
    picture = output.with_suffix(".png")
    picture.write_bytes(_png(drawing))
    output.write_text(to_markdown(all_sections, picture.name), encoding="utf-8")
    return [output, picture]


def check_output(output: epath.Path) -> None:
    """Raises ValueError for a file name that ends in none of SUFFIXES."""
    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output={output}: want a file that ends in {' or '.join(SUFFIXES)}")


def to_markdown(all_sections: Sequence[Section], picture: str = "") -> str:
    """The document as Markdown, with a picture of that file name."""

    def cells(row):
        return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]

    parts = ["# Runs"]
    if picture:
        parts.append(f"![Curves of the runs](<{picture}>)")
    for section in all_sections:
        table = tables.table(cells(section.header), [cells(row) for row in section.rows])
        parts += [f"## {section.heading}", table, *([section.note] if section.note else [])]
    return "\n\n".join(parts) + "\n"


def to_html(all_sections: Sequence[Section], picture: bytes) -> str:
    """The document as one HTML page with the picture (PNG) in it; it needs no other file and no network."""
    encoded = base64.b64encode(picture).decode()
    parts = [f'<h1>Runs</h1>\n<img alt="Curves of the runs" src="data:image/png;base64,{encoded}">']
    for section in all_sections:
        kinds = [' class="poster"' if row[0] == "poster" else "" for row in section.rows]
        rows = [f"<tr{kind}>{_cells('td', row)}</tr>" for kind, row in zip(kinds, section.rows)]
        head = _cells("th", section.header)
        table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"
        note = f'\n<p class="note">{_inline(section.note)}</p>' if section.note else ""
        parts.append(f'<h2>{_inline(section.heading)}</h2>\n<div class="table">{table}</div>{note}')
    head = f'<meta charset="utf-8">\n<title>Runs</title>\n<style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in row)


def _inline(text: str) -> str:
    """Text as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _png(drawing: Figure) -> bytes:
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return file.getvalue()


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
        "time of training": figure.duration(training) if training else None,
        "time in all": figure.duration(sum(run.seconds.values())) if run.seconds else None,
        "frames/s, median": f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" if len(rates) else None,
        "most memory": "{:.2f} GiB of {}".format(*run.peak_gib) if run.peak_gib else None,
    }


def _scores(runs: Sequence[Run]) -> list[Section]:
    """The tables of scores from `--mode=eval`, by task."""
    made = []
    for key, make in (("scores", _vha_scores), ("systems", _loco_scores), ("after_cm", _refiner_scores)):
        if scored := [run for run in runs if key in run.results]:
            made += make(scored)
    return made


def _vha_scores(runs: Sequence[Run]) -> list[Section]:
    rows = _of_results(runs, tables.vha_rows)
    rows += [["poster", *tables.vha_poster_row(n)] for n in sorted({run.results["level"] for run in runs})]
    metres = _of_results(runs, _in_metres)
    header = ["run", *(f"F1 @{t}" for t in tables.LOCO_THRESHOLDS), "error (cm)"]
    note = "At sub-voxel positions, `hungarian` matching; error: mean distance of joints found within 2 voxels."
    return [
        Section("Scores: VHA", ["run", *tables.VHA_HEADER], rows, _percent_of(runs)),
        Section("Scores: VHA, in metres", header, metres, note),
    ]


def _loco_scores(runs: Sequence[Run]) -> list[Section]:
    """Scores with the published matching and the poster's; with the best matching; and of people."""
    rows = _of_results(runs, tables.loco_rows)
    posters = [["poster", *row] for row in tables.loco_poster_rows()]

    def pick(rows, matching):  # without the column of the matching
        return [[*row[:2], *row[3:]] for row in rows if row[2] == f"`{matching}`"]

    header = ["run", "system", *tables.LOCO_HEADER[2:]]
    published = [row[:-1] for row in pick([*rows, *posters], "nearest")]  # this matching has no errors
    people = _of_results(runs, tables.people_rows)
    return [
        Section("Scores: LoCO, matched as published (`nearest`)", header[:-1], published, _percent_of(runs)),
        Section("Scores: LoCO, best matching (`hungarian`)", header, pick(rows, "hungarian")),
        Section("Scores: LoCO, people", ["run", *tables.PEOPLE_HEADER], people, tables.PEOPLE_NOTE),
    ]


def _refiner_scores(runs: Sequence[Run]) -> list[Section]:
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.results["after_cm"]))

    def row(summary):
        errors = [summary[when].get(kind) for kind in kinds for when in ("before_cm", "after_cm")]
        return [[tables.number(error) for error in (*errors, summary["clean_cm"])]]

    header = ["run", *(f"{kind}, {when}" for kind in kinds for when in ("before", "after")), "clean, after"]
    note = f"Mean errors of joints in cm, by what was done to them. {_tested(runs)}"
    return [Section("Scores: refiner", header, _of_results(runs, row), note)]


def _of_results(runs: Sequence[Run], make: Callable[[dict[str, Any]], list[list[str]]]) -> list[list[str]]:
    """The rows that `make` gives for each run's results, with the run's name in front."""
    rows = []
    for run in runs:
        try:
            rows += [[run.name, *row] for row in make(run.results)]
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{run.name}: eval/results.json is not as this version writes it ({error!r}); score the run again with "
                "--mode=eval"
            ) from error
    return rows


def _in_metres(summary: dict[str, Any]) -> list[list[str]]:
    scores = summary["scores"]["hungarian"]["noise 0"]
    f1s = [f"{100 * scores[t]['f1']:.1f}" if t in scores else "" for t in tables.LOCO_THRESHOLDS]
    return [[*f1s, tables.number(summary["error_cm"])]]


def _percent_of(runs: Sequence[Run]) -> str:
    elsewhere = not all(str(run.results.get("data")).startswith("JTA") for run in runs)
    return f"In percent. {_tested(runs)}" + " The poster's figures are on other data: JTA." * elsewhere


def _tested(runs: Sequence[Run]) -> str:
    """A sentence about the frames and the weights of the scores."""

    def facts(name, results):
        weights = f"step {results['step']:,}" if "step" in results else f"weights {results.get('weights', '?')}"
        return f"{name}: {results.get('frames', '?')} frames of {results.get('data') or 'unnamed data'}, {weights}"

    return f"Means over frames. {'; '.join(facts(run.name, run.results) for run in runs)}."


def _validation(run: Run) -> dict[str, str | None]:
    lasts = {name.removeprefix("validation/"): run.series(name)[-1] for name in run.names("validation/")}
    if not lasts:
        return {}
    step = int(max(step for step, _ in lasts.values()))
    return {"at step": f"{step:,}", **{name: f"{value:.3f}" for name, (_, value) in lasts.items()}}


def _time(run: Run) -> dict[str, str | None]:
    total, waits = sum(run.seconds.values()), run.series("input_wait")[:, 1]
    parts = {part: f"{figure.duration(s)} ({100 * s / total:.1f} %)" for part, s in run.seconds.items()}
    return {
        **{part: parts.get(part) for part in observation.PARTS},
        "a step, median": figure.duration(float(np.median(run.step_seconds))) if len(run.step_seconds) else None,
        "input_wait, mean": f"{100 * waits.mean():.1f} %" if len(waits) else None,
    }


def _differences(runs: Sequence[Run]) -> Section:
    """The fields in which configs differ."""

    def fields(run: Run) -> dict[str, str | None]:
        flat = traverse_util.flatten_dict(run.config, sep=".")
        return {name: '""' if value == "" else str(value) for name, value in flat.items()}

    note = f"All other fields are equal. {_NOTHING}: the config has no such field."
    found = _by_run("Where the configs differ", [run for run in runs if run.config], fields, note)
    rows = [row for row in found.rows if len(set(row[1:])) > 1 and row[0] not in _HIDDEN_FIELDS]
    return dataclasses.replace(found, rows=sorted(rows, key=lambda row: row[0]))
