"""The page that `loco_jax.reproduce` writes: the poster's tables with our rows, and the figures that belong to them."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from loco_jax.data import streams
from loco_jax.geometry import skeleton
from loco_jax.models import vha
from loco_jax.report import tables
from loco_jax.report.figure import CYCLE, MARKERS
from loco_jax.reproduce import compression, compression_figure, crowding, experiments, records, studies
from loco_jax.reproduce.experiments import Settings
from loco_jax.reproduce.records import Done
from loco_jax.runs import files

_MATCHING = "nearest"  # the published protocol
_MIDDLE = "0.8 m"
_GT = ("GT Location Maps", "GT volumetric heatmaps", "GT volumetric heatmaps, sub-voxel")
_POSTER = {name.lower().replace(" + refine", "+"): scores for name, scores in tables.POSTER_LOCO.items()}
_CODES, _OTHERS = "loco2", ("volumetric", "volumetric_squared", "location_maps", "top_down")  # compared in words
_CURVES = ("loco1", "loco2", "loco3", "volumetric", "location_maps")


def write(settings: Settings, output: epath.Path) -> epath.Path:
    """Writes poster.md, its figures and `records.FILE` into the folder `output`; returns the page's path.

    The page has the rows of the workdir, and those of the file that was there before. What is not there yet is named as
    missing. Raises ValueError if the file there is damaged or has results of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    known, note = records.update(settings, output / records.FILE)
    done = {name: entry for name, entry in known.items() if entry.row.config}
    missing = _missing(known)
    lines = ["# The poster's tables", "", *_about(settings, done), ""]
    if note:
        lines += [note, ""]
    if missing:
        lines += [f"Not done yet: {'; '.join(missing)}.", ""]
    lines += ["## Systems", "", *_systems(done), "", "## Compression levels", "", *_autoencoders(done, settings)]
    if figure := _curves(done):
        _save(figure, output / "code.png")
        lines += [
            "",
            "## What predicting a code gains",
            "",
            "![F1 over minutes of training](code.png)",
            "",
            *_errors(done),
        ]
    lines += _studies(known, output)
    path = output / "poster.md"
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def _missing(known: Mapping[str, Done]) -> list[str]:
    """The rows that are not trained, and the studies that are not done on the others."""
    rows = [row.label for row in experiments.ROWS if row.config and row.name not in known]
    for name, study in studies.OF_ROW.items():
        row = experiments.BY_NAME[name]
        if row.config and name in known and not known[name].study:
            rows.append(f"{study.label}, {row.label}")
        elif not row.config and name not in known:
            rows.append(study.label)
    return rows


def _save(figure: Figure, path: epath.Path) -> None:
    """Writes a figure completely or not at all, since other processes may write it too."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    files.write_bytes(path, png.getvalue())


def _where(done: Mapping[str, Done]) -> str:
    """The machines, versions and days of the trainings."""
    trainings = [training for entry in done.values() for training in entry.trainings]
    named = dict.fromkeys(_machine(training["machine"]) for training in trainings)
    days = sorted(t["finished"].partition("T")[0] for t in trainings)
    where = f"Trained on {'; '.join(named)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}." if days else ""
    speeds = {entry.row.label: entry.trainings[-1].get("speed", 1.0) for entry in done.values()}
    other = [f"{label} {speed:.2g}" for label, speed in speeds.items() if speed != 1.0]
    if other:
        where += f" Relative speed of a machine where it is not 1 (`--speed`): {', '.join(other)}."
        where += " The minutes of these rows are the measured ones times that speed."
    return where


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{facts['cores']} cores, {facts['device']}, JAX {facts['jax']}"


def _about(settings: Settings, done: Mapping[str, Done]) -> list[str]:
    """How the numbers are made, in Markdown."""
    command = f"python -m loco_jax.reproduce --scale={settings.scale} --budget={settings.budget:g}"
    command += "".join(f" --config.{name}={value}" for name, value in settings.shared.items())
    budget, extra = settings.budget, f"{settings.extra:.3g} minutes"
    share = budget * experiments.AUTOENCODER_SHARE
    return [
        f"`{command}`. {_where(done)}".strip(),
        "",
        f"Each system is trained for {budget:g} minutes. Those with the published VHA are trained for {1.5 * budget:g} "
        "minutes, since it needs longer. A LoCO's autoencoder gets a third of the time, at the default learning rate. "
        f'So the autoencoders of "Compression levels" are trained for {share:.3g} minutes, and the published ones for '
        f"{1.5 * share:.3g}. Each system that finds people first tries three learning rates for {extra} each, and "
        f'validation frames decide. The refiner of a row with "+" is trained for {extra} on the people that the system '
        "finds in training scenes. On CPUs minutes are processor time: the work of all threads, divided by the number "
        "of cores.",
        "",
        "All systems learn from the same labels, with a new trunk of the compact network. So LoCO is trained without "
        "the losses that teach its features and without the loss that separates left from right. It keeps the "
        "cross-entropy of the heatmaps that its code decodes to, with weight 0.01 (not on the published VHA). The rows "
        'with "+" follow the published rules in all systems: a person of one joint is refined, and a joint of nobody '
        "counts from a score of 0.6.",
    ]


def system_rows(done: Mapping[str, Done]) -> list[list[str]]:
    """The rows of the table of systems: ours, each followed by the poster's figures if it has this row."""
    rows: list[list[str]] = []
    bounds: dict[str, Any] = {}
    for entry in done.values():
        if entry.row.is_autoencoder:
            continue
        systems = entry.results["systems"]
        bounds |= {name: systems[name] for name in _GT if name in systems}
        own = next(iter(systems))
        rows += [[entry.row.label, *_scores(systems[own]), *entry.cells], *_poster_row(entry.row.poster)]
        # Without people in training scenes no refiner could be trained.
        refined = _scores(systems[f"{own}+"]) if f"{own}+" in systems else ["–"] * 10
        rows += [[f"{entry.row.label}+", *refined, "", "", ""], *_poster_row(f"{entry.row.poster}+")]
    for name in [name for name in _GT if name in bounds]:
        rows += [[name, *_scores(bounds[name]), "", "", ""], *_poster_row(name)]
    return rows


def autoencoder_rows(done: Mapping[str, Done], settings: Settings) -> list[list[str]]:
    """The rows of the table of autoencoders."""
    rows = []
    for entry in (e for e in done.values() if e.row.is_autoencoder):
        scores = entry.results["scores"][_MATCHING]["noise 0"]
        level = entry.results["level"]
        poster = tables.POSTER_VHA[level] if entry.row.poster else None
        seconds = entry.results.get("seconds_a_frame", {})
        volume = streams.volume_of(experiments.config_of(entry.row, settings)).shape
        code = vha.code_shape(volume, level)
        rows.append([
            entry.row.label,
            *(f"{100 * scores[t]['f1']:.1f}" + (f" / {poster[i]:.1f}" if poster else "")
              for i, t in enumerate(tables.VHA_THRESHOLDS)),
            " × ".join(map(str, code)), f"{skeleton.NUM_JOINTS * math.prod(volume) / math.prod(code):,.0f}",
            *(tables.number(seconds.get(stage), 0, 1000) for stage in ("encode", "decode")),
            *entry.cells,
        ])  # fmt: skip
    return rows


def _systems(done: Mapping[str, Done]) -> list[str]:
    header = [
        "system", *(f"{m} @{t}" for t in tables.LOCO_THRESHOLDS for m in tables.MEASURES), f"optimal F1 @{_MIDDLE}",
        "minutes", "frames", "parameters",
    ]  # fmt: skip
    text = [
        tables.table(header, system_rows(done)),
        "",
        f"In percent, `{_MATCHING}` matching as published; optimal F1 is with `hungarian` matching. The poster's "
        "figures are on JTA, and its systems were trained for longer. Minutes are those of all networks of a "
        "system without the search for the learning rate and without the refiner. The frames of a LoCO are those of "
        "its autoencoder, which learns from joints, and those of its predictor. Parameters are those that are "
        "trained, the autoencoder's among them.",
        *_answers(done),
        *_detector(done),
    ]
    return text


def _detector(done: Mapping[str, Done]) -> list[str]:
    """What the parts of the top-down system are worth, and whether that makes a baseline."""
    if "top_down" not in done:
        return []
    found = done["top_down"].detector
    ap, pck = (found.get(name) for name in ("ap50", "pck"))
    poor = min(ap or 0.0, pck or 0.0) < 0.5
    values = f"AP50 {tables.number(ap, 1, 100)} %, PCK@0.2 of its crops {tables.number(pck, 1, 100)} %"
    note = "; below 50 %: not a baseline yet" if poor else ""
    return ["", f"The detector of the top-down system, on validation frames: {values}{note}."]


def _answers(done: Mapping[str, Done]) -> list[str]:
    """Whether codes beat the other systems here, as the poster claims, by F1 at 0.8 m."""

    if _CODES not in done:
        return []
    codes, lines = done[_CODES], [""]
    for other in (done[name] for name in _OTHERS if name in done):
        verb = "beats" if _f1(codes) > _f1(other) else "does not beat"
        lines.append(
            f"- {codes.row.label} ({_f1(codes):.1f}) {verb} {other.row.label} ({_f1(other):.1f}) in F1 at {_MIDDLE}."
        )
    return lines


def _f1(entry: Done) -> float:
    """The F1 of the system in percent, not refined."""
    return 100 * next(iter(entry.results["systems"].values()))[_MATCHING][_MIDDLE]["f1"]


def _scores(system: Mapping[str, Any]) -> list[str]:
    values = [system[_MATCHING][t][m] for t in tables.LOCO_THRESHOLDS for m in tables.MEASURES.values()]
    return [f"{100 * value:.1f}" for value in (*values, system["hungarian"][_MIDDLE]["f1"])]


def _poster_row(name: str) -> list[list[str]]:
    scores = _POSTER.get(name.lower())
    return [[f"*poster: {name}*", *(f"{v:.1f}" for t in scores for v in t), "", "", "", ""]] if scores else []


def _autoencoders(done: Mapping[str, Done], settings: Settings) -> list[str]:
    header = [
        "network", *(f"F1 @{t}" for t in tables.VHA_THRESHOLDS), "code", "times smaller", "encode (ms)", "decode (ms)",
        "minutes", "frames", "parameters",
    ]  # fmt: skip
    note = (
        f"F1 in percent, `{_MATCHING}` matching as published; ours / the poster's on JTA, after longer "
        "training. Times smaller: numbers in the heatmaps over numbers in the code. With "
        "bins of 10 cm a voxel is a third as deep."
    )
    return [tables.table(header, autoencoder_rows(done, settings)), "", note]


def _errors(done: Mapping[str, Done]) -> list[str]:
    """A table of the code's own loss and of the prediction's error, for each level."""
    rows = []
    for name in ("loco1", "loco2", "loco3", "loco2_published"):
        if entry := done.get(name):
            systems = entry.results["systems"]
            true = next(system for label, system in systems.items() if "true code" in label)
            values = [100 * (1 - true[_MATCHING][_MIDDLE]["f1"]), 100 - _f1(entry)]
            rows.append([entry.row.label, *(f"{value:.1f}" for value in values), f"{entry.results['code_error']:.3g}"])
    header = ["system", f"1 - F1 @{_MIDDLE} of the true code", "of the predicted code", "error of the code"]
    return [
        tables.table(header, rows),
        "",
        "In percent, except the error. The first column is the loss by compression. The second minus the first is the "
        "loss by prediction. The error of the code is its mean square; the code's own mean square is about 1 for "
        "PatchVHA. The scale of a VHA's code is free, so errors of different autoencoders are not comparable.",
    ]


def _curves(done: Mapping[str, Done]) -> Figure | None:
    """F1 on validation frames over minutes of training; a LoCO's begin when its autoencoder is trained."""
    known = [done[name] for name in _CURVES if name in done]
    if not known:
        return None
    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(known):
        points = np.array(entry.curve).reshape(-1, 2)  # also without an evaluation
        look: dict[str, Any] = {"color": CYCLE[number], "marker": MARKERS[number], "label": entry.row.label}
        axes.plot(points[:, 0], 100 * points[:, 1], **look)
    axes.set(xlabel="minutes of training, autoencoder included", ylabel=f"F1 at {_MIDDLE}, validation frames (%)")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(color="0.9")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _studies(known: Mapping[str, Done], output: epath.Path) -> list[str]:
    """What compression gains, and how time depends on the number of people, if they are measured."""
    lines = []
    ways = [entry for name in ("heatmaps", *experiments.AUTOENCODERS) if (entry := known.get(name)) and entry.study]
    if ways:
        together = compression.together([entry.study["found"] for entry in ways])
        lines += _study("compression", "What compression gains", ways, together, compression_figure, output)
    timed = [entry for name, entry in known.items() if entry.study and studies.OF_ROW[name] is studies.CROWDING]
    if timed:
        seconds = {entry.row.label: entry.study["found"]["seconds"] for entry in timed}
        lines += _study("crowding", "Time over the number of people", timed, seconds, crowding, output)
    return lines


def _study(
    name: str, title: str, entries: Sequence[Done], found: Mapping[str, Any], shown: Any, output: epath.Path
) -> list[str]:
    """A section with the figure and the table that the module `shown` makes, and the machines of its times."""
    _save(shown.figure(found), output / f"{name}.png")
    machines = {entry.row.label: _machine(entry.study["machine"]) for entry in entries}
    where = f"Times are those of {next(iter(machines.values()))}."
    if len(set(machines.values())) > 1:
        listed = "; ".join(f"{label}: {machine}" for label, machine in machines.items())
        where = f"Times of different machines are not comparable. {listed}."
    return ["", f"## {title}", "", f"![{title}]({name}.png)", "", shown.table(found), "", where]
