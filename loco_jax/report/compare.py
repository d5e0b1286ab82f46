"""A document that compares runs with each other and with the poster: HTML, or Markdown with a picture."""

import base64
import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from loco_jax.report import figure, tables
from loco_jax.report.runs import Run, RunError, flat
from loco_jax.runs import observation

SUFFIXES = (".html", ".md")
_NOTHING = "–"
_UNTOLD_FIELDS = ("demo",)  # of a config: a command that is suggested in its place
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
    """A heading, a table whose first column is text, and a note."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def sections(runs: Sequence[Run]) -> list[Section]:
    """The tables that have rows."""
    made = [_facts(runs), *_scores(runs), _validation(runs), _time(runs), _differences(runs)]
    return [section for section in made if section is not None and section.rows]


def write(runs: Sequence[Run], output: epath.Path) -> list[epath.Path]:
    """Writes the document, and with Markdown its picture beside it; returns the files.

    Raises ValueError for another suffix than SUFFIXES.
    """
    check_output(output)
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
    """Raises ValueError for a file name that `write` would not take."""
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
        rows = [f"<tr{_kind(row)}>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in section.rows]
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in section.header)
        table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"
        note = f'\n<p class="note">{_inline(section.note)}</p>' if section.note else ""
        parts.append(f'<h2>{_inline(section.heading)}</h2>\n<div class="table">{table}</div>{note}')
    head = f'<meta charset="utf-8">\n<title>Runs</title>\n<style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _kind(row: Sequence[str]) -> str:
    return ' class="poster"' if row[0] == "poster" else ""


def _inline(text: str) -> str:
    """Text as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _png(drawing: Figure) -> bytes:
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return file.getvalue()


def _by_run(
    heading: str, runs: Sequence[Run], facts: dict[str, Callable[[Run], str | None]], note: str = ""
) -> Section:
    """A row for each fact, a column for each run. Facts that no run has are left out."""
    rows = [[name, *(fact(run) or "" for run in runs)] for name, fact in facts.items()]
    rows = [[row[0], *(cell or _NOTHING for cell in row[1:])] for row in rows if any(row[1:])]
    return Section(heading, ["", *(run.name for run in runs)], rows, note)


def _facts(runs: Sequence[Run]) -> Section:
    facts: dict[str, Callable[[Run], str | None]] = {
        "task": lambda run: run.config.get("task"),
        "config": lambda run: run.config.get("name"),
        "data": _data,
        "batch": lambda run: _text(run.config.get("data", {}).get("batch_size")),
        "parameters": lambda run: f"{run.parameters:,}" if run.parameters else None,
        "steps": _steps,
        "loss at the end": lambda run: _last(run, "loss", "{:.4g}"),
        "time of training": lambda run: _duration(sum(run.seconds.get(part, 0.0) for part in observation.TRAINING)),
        "time in all": lambda run: _duration(sum(run.seconds.values())),
        "frames/s, median": _frame_rate,
        "most memory": _memory,
    }
    return _by_run("What was run", runs, facts)


def _data(run: Run) -> str | None:
    source, scale = run.config.get("data", {}).get("source"), run.config.get("scale")
    if source in (None, "jta"):  # an evaluation knows whether it is the real JTA
        return run.results.get("data")
    return f"{source}, {scale} scale"


def _steps(run: Run) -> str | None:
    wanted = run.config.get("steps")
    if wanted is None:
        return f"{run.step:,}" if run.records else None
    return f"{run.step:,} of {wanted:,}" if run.step < wanted else f"{run.step:,}"


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _last(run: Run, name: str, form: str) -> str | None:
    points = run.series(name)
    return form.format(points[-1, 1]) if len(points) else None


def _frame_rate(run: Run) -> str | None:
    points = run.series("frames_per_second")
    if not len(points):
        return None
    rate = np.median(points[:, 1])
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _duration(seconds: float) -> str | None:
    return figure.duration(seconds) if seconds else None


def _memory(run: Run) -> str | None:
    if run.peak_bytes is None:
        return None
    size, whose = run.peak_bytes
    return f"{size / 2**30:.2f} GiB of {'a device' if whose == 'device' else 'the process'}"


def _scores(runs: Sequence[Run]) -> list[Section]:
    """The tables of each task, from `--mode=eval`."""
    made = []
    for key, make in (("scores", _vha_scores), ("systems", _loco_scores), ("after_cm", _refiner_scores)):
        some = [run for run in runs if key in run.results]
        made += make(some) if some else []
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
    run, system, _, *columns = ["run", *tables.LOCO_HEADER]

    def pick(some, matching):
        return [[run, system, *cells] for run, system, name, *cells in some if name == f"`{matching}`"]

    published = [row[:-1] for row in pick([*rows, *posters], "nearest")]  # which has no errors
    header = [run, system, *columns]
    people = _of_results(runs, tables.people_rows)
    return [
        Section("Scores: LoCO, matched as published (`nearest`)", header[:-1], published, _percent_of(runs)),
        Section("Scores: LoCO, best matching (`hungarian`)", header, pick(rows, "hungarian")),
        Section("Scores: LoCO, people", [run, *tables.PEOPLE_HEADER], people, tables.PEOPLE_NOTE),
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
    """Rows of each run's results, after its name."""
    rows = []
    for run in runs:
        try:
            rows += [[run.name, *row] for row in make(run.results)]
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{run.name}: eval/results.json is not as this version writes it ({error!r}); score it anew with "
                "--mode=eval"
            ) from error
    return rows


def _in_metres(summary: dict[str, Any]) -> list[list[str]]:
    scores = summary["scores"]["hungarian"]["noise 0"]
    f1s = [f"{100 * scores[t]['f1']:.1f}" if t in scores else "" for t in tables.LOCO_THRESHOLDS]
    return [[*f1s, tables.number(summary["error_cm"])]]


def _percent_of(runs: Sequence[Run]) -> str:
    elsewhere = not all(str(run.results.get("data")).startswith("JTA") for run in runs)
    return f"In percent. {_tested(runs)}" + " The poster's figures are of JTA: other data." * elsewhere


def _tested(runs: Sequence[Run]) -> str:
    """A sentence about the frames and the weights of the scores."""
    of = [
        f"{run.name}: {run.results.get('frames', '?')} frames of {run.results.get('data') or 'unnamed data'}, "
        + (f"step {run.results['step']:,}" if "step" in run.results else f"weights {run.results.get('weights', '?')}")
        for run in runs
    ]
    return f"Means over frames. {'; '.join(of)}."


def _validation(runs: Sequence[Run]) -> Section:
    names = dict.fromkeys(name for run in runs for name in run.names("validation/"))

    def fact(name: str) -> Callable[[Run], str | None]:
        return lambda run: _last(run, name, "{:.3f}")

    facts = {name.removeprefix("validation/"): fact(name) for name in names}
    told = {"at step": _validated} | facts if facts else {}
    return _by_run("Last scores on validation frames", runs, told)


def _validated(run: Run) -> str | None:
    names = run.names("validation/")
    return f"{max(int(run.series(name)[-1, 0]) for name in names):,}" if names else None


def _time(runs: Sequence[Run]) -> Section:
    def fact(part: str) -> Callable[[Run], str | None]:
        def of(run: Run) -> str | None:
            if not run.seconds:
                return None
            return f"{figure.duration(run.seconds[part])} ({100 * run.seconds[part] / sum(run.seconds.values()):.1f} %)"

        return of

    def step(run: Run) -> str | None:
        return _duration(float(np.median(run.step_seconds))) if len(run.step_seconds) else None

    facts = {part: fact(part) for part in observation.PARTS}
    facts |= {"a step, median": step, "input_wait, mean": _mean_wait}
    parts = "; ".join(f"`{part}`: {meaning}" for part, meaning in observation.PARTS.items())
    note = f"{parts}. `input_wait`: {observation.NAMES['input_wait']}."
    return _by_run("Where the time went", runs, facts, note)


def _mean_wait(run: Run) -> str | None:
    waits = run.series("input_wait")
    return f"{100 * waits[:, 1].mean():.1f} %" if len(waits) else None


def _differences(runs: Sequence[Run]) -> Section | None:
    """The fields in which configs differ."""
    runs = [run for run in runs if run.config]
    if len(runs) < 2:
        return None
    configs = [flat(run.config) for run in runs]
    rows = []
    for name in sorted(set().union(*configs) - set(_UNTOLD_FIELDS)):
        values = [_value(config[name]) if name in config else _NOTHING for config in configs]
        if len(set(values)) > 1:
            rows.append([name, *values])
    note = f"All other fields are alike. {_NOTHING}: the config has no such field."
    return Section("Where the configs differ", ["", *(run.name for run in runs)], rows, note)


def _value(value: Any) -> str:
    return '""' if value == "" else str(value)
