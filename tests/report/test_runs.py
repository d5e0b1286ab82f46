"""Reports of runs as they lie in folders, finished, stopped, old, damaged; what is written has their numbers."""

import base64
import html.parser
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure

from loco_jax import cli
from loco_jax.configs import loco, refiner, vha
from loco_jax.report import __main__ as command
from loco_jax.report import compare, figure, runs
from loco_jax.runs import observation
from tests.support.summaries import POSTER_LOCO, SUMMARY, metres, people, people_cells, read

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = {"vha": vha.get_config(2), "loco": loco.get_config(2), "refiner": refiner.get_config()}
HEADLINES = {
    "vha": ("f1_0vx", "f1_1vx", "f1_2vx"),
    "loco": (
        *("f1_0.4m", "f1_0.8m", "f1_1.2m", "code_loss", "people_precision", "people_recall", "named_twice", "mpjpe_cm"),
        *("pa_mpjpe_cm", "width_shoulders", "width_hips", "side", "side_shoulders", "side_hips"),
    ),
    "refiner": ("moved_loss", "clean_loss"),
}
SYSTEMS = {name: {"hungarian": metres(0.5), "nearest": metres(0.4), "error_cm": 12.34} for name in ("LoCO(2)", "GT")}
SYSTEMS["LoCO(2)"]["people"] = {**people(10), "by_distance": [], "by_crowding": []}
VHA_IN_METRES = ["F1 @2 vx", "F1 @0.4 m", "F1 @0.8 m", "F1 @1.2 m", "error (cm)"]
KINDS = ("untouched", "moved", "swapped", "missing")
RESULTS = {
    "vha": {**SUMMARY, "step": 400},
    "loco": {"data": "JTA, test split", "step": 400, "level": 2, "frames": 8, "systems": SYSTEMS},
    "refiner": {
        "weights": "released",
        "frames": 8,
        "joints": {kind: 1000 + i for i, kind in enumerate(KINDS)},
        "before_cm": {**dict.fromkeys(KINDS, 20.0), "missing": None},
        "after_cm": {kind: 10.0 + i for i, kind in enumerate(KINDS)},
        "clean_cm": 7.5,
    },
}


def records(task: str, steps: int, seed: int = 0, split: bool = True) -> list[dict]:
    """A log as the loop writes it, of a batch of 2: every tenth step, an evaluation every hundredth."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(10, steps + 1, 10):
        seconds = dict(zip(observation.PARTS, rng.uniform(0.5, 1.5, 6) * [0, 0.2, 3, 0, 0, 0.1]))
        seconds |= {"setup": 9.0} if step == 10 else {"save": 0.4} if step % 50 == 0 else {}
        rate = 20 / sum(seconds[part] for part in observation.TRAINING)
        line = {"step": step, "loss": float(5 * step**-0.4 * rng.uniform(0.9, 1.1)), "frames_per_second": rate}
        timing = {**{f"seconds/{p}": s for p, s in seconds.items()}, "memory/process_peak_bytes": 2**30 + step}
        lines.append(line | (timing if split else {}) | {"input_wait": 0.02, "stage": 0})
        if step % 100 == 0:
            scores = {f"validation/{n}": 0.1 * i + 0.5 * step / steps for i, n in enumerate(HEADLINES[task])}
            lines.append({"step": step, **scores} | ({"seconds/evaluation": 2.0} if step == steps else {}))
    return lines


def write_run(folder: pathlib.Path, task: str, steps: int = 400, scored: bool = True, **options) -> pathlib.Path:
    """A workdir of 400 wanted steps, `steps` of them done."""
    folder.mkdir(parents=True)
    config = CONFIGS[task].copy_and_resolve_references()
    config.update({"steps": 400, "data": {"batch_size": 2}})
    (folder / "config.json").write_text(config.to_json_best_effort())
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(task, steps, **options)))
    (folder / "parameters.txt").write_text("| x |\nTotal: 1,234,567 -- 4,938,268 bytes\n")
    if scored:
        (folder / "eval").mkdir()
        (folder / "eval" / "results.json").write_text(json.dumps(RESULTS[task]))
    return folder


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """One of each task, and an unfinished run without scores from before the time split."""
    folder = tmp_path_factory.mktemp("runs")
    made = [write_run(folder / task, task, seed=i) for i, task in enumerate(CONFIGS)]
    return [*made, write_run(folder / "old", "vha", steps=270, scored=False, split=False)]


def report(*arguments) -> int:
    return cli.run(command.main, ["report", *map(str, arguments)], command.FLAGS)


@pytest.fixture(scope="module")
def markdown(workdirs):
    """The tables of those."""
    return compare.to_markdown(compare.sections(runs.read(workdirs)))


def tables(markdown: str) -> dict[str, list[list[str]]]:
    """The tables by their headings."""
    return dict(zip(re.findall("^## (.*)$", markdown, re.MULTILINE), read(markdown), strict=True))


def columns(table: list[list[str]]) -> dict[str, dict[str, str]]:
    """Each run's facts."""
    return {name: {row[0]: row[i] for row in table[1:]} for i, name in enumerate(table[0]) if i}


def test_facts(markdown):
    facts = columns(tables(markdown)["What was run"])
    assert list(facts) == ["vha", "loco", "refiner", "old"]
    assert facts["vha"]["task"] == "vha" and facts["loco"]["config"] == "loco2"
    assert facts["old"]["steps"] == "270 of 400" and facts["vha"]["steps"] == "400"
    assert {column["parameters"] for column in facts.values()} == {"1,234,567"}
    assert facts["refiner"]["most memory"] == "1.00 GiB" and facts["old"]["most memory"] == "–"
    log = [line for line in records("loco", 400, seed=1) if "loss" in line]
    assert facts["loco"]["loss at the end"] == f"{log[-1]['loss']:.4g}"
    assert facts["loco"]["frames/s, median"] == f"{np.median([line['frames_per_second'] for line in log]):.3g}"


def test_scores_stand_beside_the_posters(markdown):
    found = tables(markdown)
    rows = found["Scores: VHA"]
    assert rows[0][:4] == ["run", "network", "PR @0 vx", "RE @0 vx"] and rows[0][10:] == VHA_IN_METRES
    assert rows[1][:2] == ["vha", "PatchVHA(2)"]
    assert rows[1][2:] == [*(f"{50 + i:.1f}" for i in range(9)), "61.2", "73.4", "85.6", "12.3"]
    assert rows[-1][:2] == ["poster", "VHA(2)"] and [rows[-1][i] for i in (4, 7, 10)] == ["92.5", "97.0", "97.1"]
    published = found["Scores: LoCO, matched as published (`nearest`)"]
    measures = [f"{m} @{t} m" for t in (0.4, 0.8, 1.2) for m in ("PR", "RE", "F1")]
    assert published[0] == ["run", "system", "matching", *measures, "error (cm)"]
    assert published[1] == ["loco", "LoCO(2)", "`nearest`", *(f"{40 + i}.00" for i in range(9)), ""]
    assert [row[0] for row in published[1:]] == ["loco"] * 2 + ["poster"] * 12
    beside = next(row for row in published if row[:2] == ["poster", "LoCO(2)+"])
    assert " ".join(beside[3:-1]) == POSTER_LOCO["LoCO(2)+"]
    best = found["Scores: LoCO, best matching (`hungarian`)"]
    assert best[1:] == [["loco", name, "`hungarian`", *(f"{50 + i}.00" for i in range(9)), "12.3"] for name in SYSTEMS]
    assert found["Scores: LoCO, people"][1:] == [["loco", "LoCO(2)", *people_cells(10), ""]]
    refined = found["Scores: refiner"]
    assert refined[3] == ["refiner", "swapped", "1,002", "20.0", "12.0"] and refined[4][3] == ""
    assert refined[-1] == ["refiner", "of people without any mistake", "", "0.0", "7.5"]
    assert "vha: 1024 frames" in markdown and "weights released" in markdown and "loco: 8 frames of JTA" in markdown


def test_poster_is_said_to_be_of_other_data_only_where_it_is(workdirs):
    notes = {section.heading: section.note for section in compare.sections(runs.read(workdirs))}
    assert "other data" in notes["Scores: VHA"]
    assert "other data" not in notes["Scores: LoCO, matched as published (`nearest`)"]


def test_last_validation(markdown):
    last = columns(tables(markdown)["Last scores on validation frames"])
    assert (last["vha"]["at step"], last["old"]["at step"]) == ("400", "200")
    assert [last["loco"][name] for name in HEADLINES["loco"]] == [f"{0.5 + 0.1 * i:.3f}" for i in range(14)]
    assert last["old"]["f1_2vx"] == f"{0.2 + 0.5 * 200 / 270:.3f}" and last["old"]["f1_0.4m"] == "–"


def test_time_adds_up(markdown, workdirs):
    time = columns(tables(markdown)["Where the time went"])
    run = runs.read(workdirs)[0]
    lines = records("vha", 400)
    for part in observation.PARTS:
        seconds = sum(line.get(f"seconds/{part}", 0.0) for line in lines)
        assert run.seconds[part] == pytest.approx(seconds)
    shares = [float(re.search(r"\(([\d.]+) %\)", time["vha"][part])[1]) for part in observation.PARTS]
    assert sum(shares) == pytest.approx(100, abs=0.3) and time["old"]["device"] == "–"
    assert time["vha"]["evaluation"].startswith("2 s") and time["vha"]["input_wait, mean"] == "2.0 %"


def test_configs_differ_where_they_differ(markdown, workdirs):
    rows = tables(markdown)["Where the configs differ"]
    names = [path.name for path in workdirs]
    assert rows[0] == ["", *names]
    configs = [json.loads((path / "config.json").read_text()) for path in workdirs]

    def at(config, name):
        for part in name.split("."):
            config = config.get(part, {}) if isinstance(config, dict) else {}
        return "–" if config == {} else '""' if config == "" else str(config)

    leaves = {name for config in CONFIGS.values() for name in leaf_names(config)}
    wanted = [[name, *(at(config, name) for config in configs)] for name in sorted(leaves)]
    assert rows[1:] == [row for row in wanted if len(set(row[1:])) > 1]
    assert "Where the configs differ" not in tables(compare.to_markdown(compare.sections(runs.read(workdirs[:1]))))


def leaf_names(config) -> list[str]:
    return [
        f"{name}{'.' if inner else ''}{inner}"
        for name, value in config.items()
        for inner in (leaf_names(value) if hasattr(value, "items") else [""])
    ]


class Page(html.parser.HTMLParser):
    """What a browser would find: tables of cells, tags, sources."""

    def __init__(self):
        super().__init__()
        self.tables, self.tags, self.sources, self.in_cell = [], set(), [], False

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.in_cell = tag in ("td", "th") or (tag == "code" and self.in_cell)

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, text):
        if self.in_cell:
            self.tables[-1][-1][-1] += text


def test_html_has_the_same_tables_and_needs_nothing_else(workdirs, markdown, tmp_path, capsys):
    output = tmp_path / "folder" / "all.html"
    assert report(*workdirs, f"--output={output}") == 0
    assert capsys.readouterr().out == f"{markdown}\nWith curves: {output}\n"
    page = Page()
    page.feed(output.read_text())
    wanted = [[[cell.replace("`", "") for cell in row] for row in table] for table in tables(markdown).values()]
    assert page.tables == wanted
    (source,) = page.sources
    kind, picture = source.split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(picture).startswith(b"\x89PNG")
    assert [path.name for path in output.parent.iterdir()] == ["all.html"]


def test_names_and_fields_are_text_whatever_is_in_them(tmp_path):
    evil = "<script>|`x`</b>"
    one = write_run(tmp_path / evil.replace("/", ""), "vha", steps=20)
    other = write_run(tmp_path / "_$x_1^{$ %s", "vha", steps=20)
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "name": evil}))
    found = runs.read([one, other])
    all_sections = compare.sections(found)
    page = Page()
    page.feed(compare.to_html(all_sections, Figure()))
    assert not page.tags & {"script", "b"}
    differ = page.tables[-1]
    assert differ[0] == ["", "<script>|x<b>", "_$x_1^{$ %s"] and differ[1:] == [["name", "<script>|x</b>", "vha2"]]
    text = compare.to_markdown(all_sections)
    for line in text.splitlines():
        if line.startswith("| name"):
            assert line.replace("\\|", "").count("|") == 4
    drawing = figure.draw_runs(found)
    assert png_size(drawing)[0] == 1600 and len(drawing.legends[0].get_texts()) == 2


def png_size(drawing) -> tuple[int, int]:
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    header = file.getvalue()[:24]
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_figure_shows_all_runs(workdirs):
    found = runs.read(workdirs)
    drawing = figure.draw_runs(found)
    assert png_size(drawing)[0] == 1600
    legend = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert legend == ["vha", "loco", "refiner", "old"]
    axes = {axes.get_title(): axes for axes in drawing.axes}
    colours = [handle.get_color() for handle in drawing.legends[0].get_lines()]
    for run, colour in zip(found, colours):
        (line,) = [line for line in axes["Loss in training"].lines if line.get_color() == colour]
        np.testing.assert_array_equal(line.get_xydata(), run.series("loss"))
    f1 = [line.get_color() for line in axes["F1 on validation frames"].lines]
    assert [f1.count(colour) for colour in colours] == [3, 3, 0, 3]
    losses = [line.get_color() for line in axes["Losses on validation frames"].lines]
    assert [losses.count(colour) for colour in colours] == [0, 1, 2, 0]
    of_people = {"People": 3, "Pose errors (cm)": 2, "Widths over the true ones": 2}
    for title, count in (of_people | {"Joints higher on their own side": 2}).items():
        lines = [line.get_color() for line in axes[title].lines]
        assert [lines.count(colour) for colour in colours] == [0, count, 0, 0]
    speed = [line.get_color() for line in axes["Frames a second"].lines]
    assert [speed.count(colour) for colour in colours] == [1, 1, 1, 1]
    assert not _pylab_helpers.Gcf.figs


def cut_line(folder):
    content = (folder / "log.jsonl").read_bytes()
    (folder / "log.jsonl").write_bytes(content[: content.rindex(b"loss")])


def log(*lines):
    return lambda folder: (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "damage, rows",
    [
        (cut_line, {"steps": "390 of 400"}),
        (lambda folder: (folder / "log.jsonl").unlink(), {"steps": "0 of 400"}),
        (log(), {"steps": "0 of 400"}),
        (log({"step": 400, "loss": float("nan")}), {"steps": "400"}),
        (log({"step": 1, "loss": -1.0, "frames_per_second": 0.0, "seconds/data": 1.0}), {"batch": "2"}),
        (log({"step": 1, "loss": 0.0, "validation/f1_x": None}), {"loss at the end": "0"}),
        (lambda folder: (folder / "config.json").unlink(), {"steps": "400"}),
        (lambda folder: (folder / "parameters.txt").unlink(), {"task": "vha"}),
        (lambda f: [(f / name).unlink() for name in ("log.jsonl", "config.json")], {"data": SUMMARY["data"]}),
    ],
)
def test_any_folder_with_something_of_a_run(tmp_path, capsys, damage, rows):
    damage(write_run(tmp_path / "run", "vha"))
    assert report(tmp_path / "run", f"--output={tmp_path / 'r.html'}") == 0
    facts = columns(tables(capsys.readouterr().out)["What was run"])["run"]
    assert rows.items() <= facts.items()


@pytest.mark.parametrize(
    "damage, output, wanted",
    [
        (lambda folder: shutil.rmtree(folder), "r.html", "{folder}: no such folder"),
        (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "r.html", "{folder}: is not a run; name a --workdir"),
        (lambda folder: (folder / "config.json").write_text("{"), "r.html", "{folder}/config.json: not JSON"),
        (
            lambda folder: (folder / "eval" / "results.json").write_text('{"scores": {}, "level": 2}'),
            "r.html",
            "run: eval/results.json is not as this version writes it",
        ),
        (lambda folder: None, "r.pdf", "--output={output}: want a file that ends in .html"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, capsys, damage, output, wanted):
    damage(write_run(tmp_path / "run", "vha"))
    output = tmp_path / output
    whole = write_run(tmp_path / "whole", "vha", steps=10)
    assert report(whole, tmp_path / "run", f"--output={output}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("loco_jax: " + wanted.format(folder=tmp_path / "run", output=output))
    assert not output.exists()


def test_names_tell_runs_apart(tmp_path, monkeypatch):
    folders = ["a/vha", "b/vha", "b/loco"]
    for folder in folders:
        write_run(tmp_path / folder, "vha", steps=10)
    monkeypatch.chdir(tmp_path / "a")
    found = [run.name for run in runs.read([tmp_path / f for f in folders])]
    assert found == [str(tmp_path / "a" / "vha"), str(tmp_path / "b" / "vha"), "loco"]
    assert [run.name for run in runs.read(["vha", tmp_path / "b/../a/vha", "vha/"])] == ["vha"]


def test_the_command_as_it_is_typed(workdirs, tmp_path):
    arguments = [sys.executable, "-m", "loco_jax.report", str(workdirs[3])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert "270 of 400" in done.stdout and done.stdout.endswith("With curves: report.html\n")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
