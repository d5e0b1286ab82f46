"""The command `loco_jax.reproduce`: what it trains, in which order, what it does not do again, and what it writes.

With ALL_ROWS=1 in the environment (`make poster-test`) every row is trained, with two learning rates to choose from.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from loco_jax import experiment, tasks, train
from loco_jax.data import crowd as crowds
from loco_jax.report import tables
from loco_jax.reproduce import crowding, experiments, poster, records, running, studies
from loco_jax.reproduce.experiments import ROWS, Settings
from loco_jax.runs import log as logs
from loco_jax.runs import observation
from loco_jax.runs.ending import Diverged, Stopped
from loco_jax.weights import NobodyFound
from tests.support import python

_ALL = bool(os.environ.get("ALL_ROWS"))


def _settings(folder, **shared):
    settings = Settings(epath.Path(folder), "test", 0.005, {"quiet": True, **shared})
    return dataclasses.replace(settings, factors=(1.0, 3.0) if _ALL else (1.0,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows at the scale of tests, interrupted once: the settings, the parts done in each start, and the page."""
    if not _ALL:
        pytest.skip("slow; ALL_ROWS=1 runs it")
    folder = tmp_path_factory.mktemp("poster")
    settings, starts = _settings(folder), []
    parts = [f"{row.label}: {part.name}" for row in ROWS for part in running.parts(row, settings)]

    def start(most: float):
        done: list[str] = []
        starts.append(done)

        def say(text):
            part = re.sub(r", \S+ minutes of training$", "", text)
            if part in parts:
                if len(done) == most:
                    raise KeyboardInterrupt  # as a signal does outside training
                done.append(part)

        running.run(ROWS, settings, say, lambda: None)

    with pytest.raises(Stopped, match="the same command goes on"):
        start(2)
    start(math.inf)
    start(math.inf)
    return settings, starts, poster.write(settings, settings.folder / "page").read_text()


def _rows(settings):
    return records.update(settings, settings.folder / records.FILE).rows


def test_what_is_done_is_not_done_again(whole):
    settings, starts, _ = whole
    parts = [f"{row.label}: {part.name}" for row in ROWS for part in running.parts(row, settings)]
    assert starts[0] + starts[1] == parts
    assert len(starts[0]) == 2 and starts[2] == []
    assert running.plan(ROWS, settings) == "All rows are done"


def _table(page, heading):
    """The cells of the first table below a heading, by the first one."""
    rows = [line for line in page.split(f"## {heading}")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: values for name, *values in cells[2:]}


def test_every_row_is_there_and_finite(whole):
    *_, page = whole
    systems, networks = _table(page, "Systems"), _table(page, "Compression levels")
    for row in ROWS:
        if row.is_autoencoder:
            assert row.label in networks
        elif row.config:
            assert {row.label, f"{row.label}+"} <= systems.keys()
    beside = {"GT Location Maps", "GT volumetric heatmaps", "*poster: Location Maps+*", "*poster: LoCO(2)+*"}
    assert beside <= systems.keys()
    for name, values in systems.items():
        nobody = name.endswith("+") and set(values[:9]) == {"–"}  # in training scenes, for the refiner
        assert nobody or all(0 <= float(value) <= 100 for value in values[:9])
    for values in networks.values():
        assert all(0 <= float(value.split(" / ")[0]) <= 100 for value in values[:3])
        assert float(values[5]) > 0 and float(values[6]) > 0
    assert "Not done yet" not in page
    assert len(_table(page, "What compression gains")) == 2 * 5 + 6 * 6
    assert list(_table(page, "Time over the number of people")) == ["top-down", "LoCO(2)"]
    for picture in re.findall(r"\]\((.+?\.png)\)", page):
        assert (whole[0].folder / "page" / picture).stat().length > 10_000


def test_truth_is_the_upper_bound(whole):
    settings, *_ = whole
    systems = _table(whole[2], "Systems")
    best = max(float(values[8]) for name, values in systems.items() if name[0] not in "G*" and values[8] != "–")
    assert float(systems["GT volumetric heatmaps"][8]) > best and float(systems["GT Location Maps"][8]) >= best
    for done in _rows(settings).values():
        if done.row.config.startswith("loco"):
            found = done.results["systems"]
            true = next(system for name, system in found.items() if "true code" in name)
            assert true["hungarian"]["1.2 m"]["f1"] >= next(iter(found.values()))["hungarian"]["1.2 m"]["f1"]


def test_budgets(whole):
    """Minutes are measured by the log's clock: at least the budget, and at most a few slow steps more."""
    settings, *_ = whole
    for name, entry in _rows(settings).items():
        if not entry.trainings:
            continue
        budget = settings.budget * (1.5 if name in ("vha1", "vha2", "vha3", "loco2_published") else 1.0)
        budget /= 3 if entry.row.is_autoencoder else 1
        seconds, longest = [], 0.0
        for part in ("autoencoder", "run")[2 - len(entry.trainings) :]:
            records = logs.read(settings.folder / name / part / logs.FILE)
            seconds.append(sum(r.get(f"seconds/{of}", 0.0) for r in records for of in observation.STEPS))
            longest += seconds[-1] / max(record["step"] for record in records)
        assert entry.minutes == pytest.approx(budget)
        assert 60 * budget - 0.01 <= sum(seconds) < 60 * budget + 5 * longest + 1, name


def test_a_locos_autoencoder_gets_a_third(whole):
    settings, *_, page = whole
    shares = [training["minutes"] / settings.budget for training in _rows(settings)["loco2"].trainings]
    assert shares == pytest.approx([1 / 3, 2 / 3])
    trained = running.facts(settings.folder / "loco2" / "run")
    (frames,) = [values[11] for name, values in _table(page, "Systems").items() if name == "LoCO(2)"]
    assert frames.endswith(f" + {trained['frames']:,}")
    shapes = tasks.network_shapes(experiment.create_task(_config(settings, "loco2")))
    assert 0 < trained["parameters"] < tasks.count(shapes)  # without the readouts


def _config(settings, name):
    return experiments.config_of(experiments.BY_NAME[name], settings)


def test_the_best_rate_is_that_of_the_best_f1_then_of_the_least_loss(tmp_path):
    for name, f1, loss in (("a", 0.2, 9.0), ("b", 0.4, 12.0), ("c", 0.4, 11.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": 1, "loss": loss}, {"step": 1, "validation/f1_0.4m": f1, "validation/f1_0.8m": f1}]
        (tmp_path / name / logs.FILE).write_text("\n".join(map(json.dumps, lines)))
    assert running.best_rate(epath.Path(tmp_path), {"a": 1.0, "b": 2.0, "c": 3.0}) == 3.0
    assert running.best_rate(epath.Path(tmp_path), {"a": 1.0, "b": 2.0}) == 2.0
    for name, facts in (("b", {"failed": "not finite"}), ("d", {})):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / running.DONE).write_text(json.dumps(facts))
    (tmp_path / "d" / logs.FILE).write_text('{"step": 1, "loss": NaN}\n{"step": 1, "validation/f1_0.4m": NaN}\n')
    rates = {"d": 1.0, "a": 2.0, "b": 3.0, "none": 4.0}
    assert running.best_rate(epath.Path(tmp_path), rates) == 2.0
    with pytest.raises(ValueError, match="diverged at all learning rates of the search: b"):
        running.best_rate(epath.Path(tmp_path), {"b": 3.0})


@pytest.mark.parametrize("error", [Diverged, NobodyFound])
def test_some_errors_of_a_part_do_not_end_the_row(error, tmp_path, monkeypatch):
    settings = _settings(tmp_path)

    def fail(*_):
        raise error("as it is")

    monkeypatch.setattr(train, "train", fail)
    said = []
    for part in running.parts(experiments.BY_NAME["location_maps"], settings):
        forgiven = part.kind == {Diverged: "search", NobodyFound: "refiner"}[error]
        if part.kind in ("search", "refiner"):
            with contextlib.nullcontext() if forgiven else pytest.raises(error):
                assert part.do(said.append)["failed"] == "as it is"
    assert set(said) == {"as it is"}


def test_a_folder_belongs_to_its_settings(tmp_path):
    settings = _settings(tmp_path, eval_frames=3)
    running.claim(dataclasses.replace(settings, budget=1.0))  # nothing is done there yet
    running.claim(settings)
    (tmp_path / "loco2").mkdir()
    running.claim(dataclasses.replace(settings, shared={"eval_frames": 3, "data.workers": 2, "data.dir": "elsewhere"}))
    other = dataclasses.replace(settings, budget=60.0, shared={"data.source": "jta"})
    wanted = (
        r"budget: 0.005 there, 60.0 now; config.eval_frames: 3 there, None now; config.data.source: None there, 'jta'"
    )
    with pytest.raises(ValueError, match=f"holds results of other settings: {wanted} now.*or another --workdir"):
        running.check(other)


def test_a_study_is_done_again_after_its_network(tmp_path):
    settings = _settings(tmp_path)
    *_, part = running.parts(experiments.BY_NAME["loco2"], settings)

    def finish(name, at, **facts):
        path = tmp_path / name / running.DONE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"finished": at, **facts}))

    finish("loco2/run", "2026-01-02")
    assert part.name == "crowding" and not part.is_done
    finish("loco2/crowding", "2026-01-03", made_of=part.made_of)
    assert part.is_done
    finish("loco2/run", "2026-01-04")
    assert not part.is_done


def test_the_plan_names_each_part(tmp_path):
    settings = dataclasses.replace(_settings(tmp_path), scale="demo", budget=20.0)
    for number, wall in enumerate((3.5, 0.5, 4.5)):  # the second was interrupted
        path = tmp_path / f"row{number}" / "search_1" / running.DONE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"wall_minutes": wall, "minutes": 3.0}))
    plan = running.plan([experiments.BY_NAME[name] for name in ("location_maps", "heatmaps")], settings)
    searches = "".join(f"search_{rate:.2g} 3.5, " for rate in 0.006 * np.array(settings.factors))
    assert plan.splitlines()[0].endswith(f" minutes ({searches}run 22, refiner 5, scores 2)")
    assert "\nheatmaps: about 20 minutes (heatmaps 20)" in plan


def test_a_slower_machine_gets_more_minutes(tmp_path, monkeypatch):
    settings = dataclasses.replace(_settings(tmp_path), budget=24.0, speed=0.5)
    configs = {}
    monkeypatch.setattr(train, "train", lambda config, folder, say: configs.update({epath.Path(folder).name: config}))
    monkeypatch.setattr(running, "best_rate", lambda folder, rates: 0.5)
    for name, wanted in (
        ("vha1", {"run": (24.0, 1e-4)}),
        ("patch_vha1", {"run": (16.0, 0.02)}),
        ("loco1", {"autoencoder": (16.0, 0.02), "search_0.006": (6.0, 0.006), "run": (32.0, 0.5)}),
    ):
        configs.clear()
        for part in (part for part in running.parts(experiments.BY_NAME[name], settings) if part.minutes):
            with contextlib.suppress(KeyError):  # facts of what is not trained
                part.do(print)
        trained = {name: (c.budget_minutes, c.optimizer.learning_rate) for name, c in configs.items()}
        assert trained.items() >= wanted.items() and (len(trained) == 1 or configs["refiner"].budget_minutes == 6.0)
    running.claim(settings)
    (tmp_path / "vha1").mkdir()
    with pytest.raises(ValueError, match=r"speed: 0.5 there, 1.0 now"):
        running.check(dataclasses.replace(settings, speed=1.0))
    settings = dataclasses.replace(_settings(tmp_path / "other"), budget=0.3, speed=0.5)
    _finish(settings, "volumetric", 0.5, [{"step": 1, "budget_used": 0.5, "validation/f1_0.8m": 0.1}])
    page = poster.write(settings, settings.folder).read_text()
    assert _table(page, "Systems")["uncompressed volumetric heatmaps"][10] == "0.9"  # see _finish
    assert "is not 1 (`--speed`): uncompressed volumetric heatmaps 0.5." in page
    assert _rows(settings)["volumetric"].curve == [[pytest.approx(0.45), 0.1]]


def _finish(settings, name, f1, log=(), found=None, machine="a CPU", **results):
    """Leaves the files of a row that is trained and scored, and of its study if `found` is given."""
    for part in running.parts(experiments.BY_NAME[name], settings):
        is_study = part.name == getattr(studies.OF_ROW.get(name), "name", None)
        if is_study and found is None:
            continue
        facts = {"minutes": 3 * part.minutes, "frames": 100 if part.name == "run" else 50, "parameters": 7}
        facts |= {"finished": "2026-01-02T03:04:05", "made_of": part.made_of, "speed": settings.speed}
        facts["machine"] = {"cores": 2, "device": machine, "jax": "0.10"}
        facts |= {"found": found} if is_study else {}
        part.folder.mkdir(parents=True, exist_ok=True)
        (part.folder / running.DONE).write_text(json.dumps(facts))
    run = settings.folder / name / "run"
    scores = {t: dict.fromkeys(("precision", "recall", "f1"), f1) for t in tables.LOCO_THRESHOLDS}
    system = {"nearest": scores, "hungarian": scores, "people": {"true": 3}}
    whole = {"systems": {"a system": system, "a true code": system}, "joints": 5, **results}
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / "results.json").write_text(json.dumps(whole))
    (run / logs.FILE).write_text("".join(json.dumps(record) + "\n" for record in log))


def _noise(f1):
    return {"noise 0": {t: {"f1": f1} for t in tables.VHA_THRESHOLDS}}


def test_a_page_keeps_the_rows_of_workdirs_that_are_gone(tmp_path):
    output, log = (
        epath.Path(tmp_path) / "page",
        [{"step": 1, "budget_used": 0.5}, {"step": 1, "validation/f1_0.8m": 0.1}],
    )
    first, second = (_settings(tmp_path / name) for name in ("first", "second"))
    _finish(first, "loco2", 0.25, log, code_error=0.75)
    _finish(first, "volumetric", 0.5)
    _finish(
        first,
        "patch_vha2",
        0.0,
        scores={"nearest": _noise(0.625)},
        level=2,
        seconds_a_frame={"encode": 0.5, "decode": 2},
    )
    _finish(first, "top_down", 0.5, found={"seconds": [0.125, 0.25, 0.5, 1]})
    poster.write(first, output)
    (output / records.FILE).write_text(
        json.dumps({**json.loads((output / records.FILE).read_text()), "note": "Rounded."})
    )
    _finish(second, "volumetric", 0.75)
    _finish(second, "loco2", 0.25, log, found={"seconds": [0.5] * 4}, machine="another CPU", code_error=0.75)
    page = poster.write(second, output).read_text()

    head, systems = page.split("## Systems")[0], _table(page, "Systems")
    assert (
        "2 cores, a CPU, JAX 0.10; 2 cores, another CPU, JAX 0.10; 2026-01-02." in head and "\n\nRounded.\n\n" in head
    )
    assert systems["LoCO(2)"][2] == "25.0" and systems["uncompressed volumetric heatmaps"][2] == "75.0"
    assert systems["LoCO(2)"][10:] == ["0.015", "50 + 100", "7"]
    assert _table(page, "Compression levels")["PatchVHA(2)"][:1] == ["62.5"]
    assert _table(page, "Compression levels")["PatchVHA(2)"][5:7] == ["500", "2000"]
    assert _table(page, "What predicting a code gains")["LoCO(2)"] == ["75.0", "75.0", "0.75"]
    assert _table(page, "Time over the number of people")["top-down"] == ["125", "250", "500", "1000"]
    machines = "top-down: 2 cores, a CPU, JAX 0.10; LoCO(2): 2 cores, another CPU, JAX 0.10."
    assert f"Times of different machines are not comparable. {machines}" in page
    missing = head.split("Not done yet: ")[1].split(".")[0].split("; ")
    assert {"LoCO(1)", "bytes of heatmaps", "bytes of codes, PatchVHA(2)"} <= set(missing)
    assert len(missing) == 13 and not {"LoCO(2)", "PatchVHA(2)", "top-down"} & set(missing)
    ((minutes, f1),) = _rows(first)["loco2"].curve
    assert (minutes, f1) == (pytest.approx(0.005 + 0.005), 0.1)
    assert records.update(second, output / records.FILE).rows["loco2"].curve == [[minutes, f1]]


def test_scores_of_an_earlier_training_are_not_taken(tmp_path):
    settings = _settings(tmp_path)
    _finish(settings, "location_maps", 0.5)
    assert list(_rows(settings)) == ["location_maps"]
    (settings.folder / records.FILE).unlink()
    (settings.folder / "location_maps" / "run" / running.DONE).write_text('{"finished": "2027"}')
    assert _rows(settings) == {}


def test_a_study_goes_with_the_training_that_it_is_of(tmp_path):
    output = epath.Path(tmp_path) / records.FILE
    first, second = (_settings(tmp_path / name) for name in ("first", "second"))
    _finish(first, "top_down", 0.5, found={"seconds": [1.0] * 4})
    assert records.update(first, output).rows["top_down"].study["found"] == {"seconds": [1.0] * 4}
    _finish(second, "top_down", 0.25)
    assert records.update(second, output).rows["top_down"].study == {}


def test_a_page_of_other_settings_or_a_damaged_one_stays(tmp_path):
    settings = _settings(tmp_path / "rows")
    poster.write(dataclasses.replace(settings, budget=1.0), epath.Path(tmp_path) / "page")  # without results
    _finish(settings, "vha1", 0.5, scores={"nearest": _noise(0.5)}, level=1)
    file = poster.write(settings, epath.Path(tmp_path) / "page").parent / records.FILE
    other = dataclasses.replace(settings, budget=60.0)
    with pytest.raises(ValueError, match=r"poster.json: holds results of other settings: budget: .* another --output"):
        poster.write(other, file.parent)
    good = json.loads(file.read_text())
    for text in (file.read_text()[:20], "[]", "{}", *(json.dumps({**good, name: None}) for name in good),
                 json.dumps({**good, "rows": {"loco1": {}}})):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=r"poster.json: is damaged .*remove it, or give another --output"):
            poster.write(settings, file.parent)
        assert file.read_text() == text


def test_the_validation_scores_of_parts_say_whether_top_down_is_a_baseline(tmp_path):
    log = [{"step": 50, "validation/ap50": 0.2, "validation/pck": 0.3}, {"step": 100, "validation/ap50": 0.71}]
    for name, said in (("poor", "AP50 71.0 %, PCK@0.2 of its crops 30.0 %; below 50 %"), ("good", "50.0 %.")):
        settings = _settings(tmp_path / name)
        _finish(settings, "top_down", 0.5, log)
        page = poster.write(settings, settings.folder).read_text()
        (line,) = [line for line in page.splitlines() if line.startswith("The detector of the top-down")]
        assert said in line
        log.append({"step": 150, "validation/pck": 0.5})


def test_a_row_that_fails_does_not_stop_the_others(tmp_path):
    settings, said, pages = _settings(tmp_path, **{"optimizer.name": "none"}), [], []
    with pytest.raises(ValueError, match=r"VHA\(1\), VHA\(2\): failed"):
        running.run(ROWS[:2], settings, said.append, lambda: pages.append(1))
    assert sum("config.optimizer.name='none'" in text for text in said) == len(pages) == 2


def test_the_configs_of_all_rows_are_good(tmp_path):
    alike = {}
    for row in ROWS:
        if row.config:
            for scale in ("full", "demo", "test"):
                settings = Settings(epath.Path(tmp_path), scale, 1.0, {"data.workers": 3})
                config = experiments.with_budget(experiments.config_of(row, settings), 1.0, 0.5)
                assert config.data.workers == 3 and config.optimizer.learning_rate == 0.5
                task = experiment.create_task(config)
                if row.name in experiments.AUTOENCODERS:
                    assert alike.setdefault(scale, task.volume) == task.volume and task.sigmas[-1] == 2.0


def test_rows_are_chosen_by_name():
    assert [row.name for row in experiments.named(["loco2", "vha1", "loco2"])] == ["loco2", "vha1"]
    with pytest.raises(ValueError, match="--only=loco9: no such row; there are vha1,"):
        experiments.named(["loco9"])


def test_curves_count_the_autoencoders_minutes():
    log = [{"step": 10, "budget_used": 0.5}, {"step": 10, "validation/f1_0.8m": 0.2}]
    log += [{"step": 20, "budget_used": 1.0}, {"step": 20, "validation/f1_0.8m": 0.3}]
    trainings = [{"minutes": 6.0}, {"minutes": 12.0}]
    assert records.curve(trainings, log) == [[12.0, 0.2], [18.0, 0.3]]


@pytest.mark.skipif(not _ALL, reason="slow; ALL_ROWS=1 runs it")
def test_a_signal_inside_a_part_loses_nothing(tmp_path):
    """The whole command, for one row: stopped in its training, it goes on from that very step."""
    log = epath.Path(tmp_path) / "patch_vha3" / "run" / logs.FILE

    def start():
        flags = ["--scale=test", "--budget=0.3", "--only=patch_vha3", f"--workdir={tmp_path}", "--config.quiet"]
        return python("-m", "loco_jax.reproduce", *flags)

    with start() as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_bytes().count(b"\n") > 1):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        said = process.communicate()[0]
    (step,) = re.findall(r"stopped by SIGTERM at step (\d+), which is saved", said)
    assert process.returncode == os.EX_TEMPFAIL, said
    assert not (log.parent / running.DONE).exists()
    with start() as process:
        said = process.communicate()[0]
    assert process.returncode == 0 and f"going on from step {step}\n" in said, said
    assert running.facts(log.parent)["minutes"] == pytest.approx(0.1)
    assert "| PatchVHA(3) |" in (tmp_path / "poster.md").read_text()


@pytest.mark.skipif(not _ALL, reason="slow; ALL_ROWS=1 runs it")
def test_rows_on_jta(jta_with_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_SCENES_AT_ONCE", 1)  # the miniature has 3 training frames
    sizes = {"volume.image_size": (270, 480), "data.max_people": 8}
    settings = _settings(tmp_path, **{"data.source": "jta", "data.dir": str(jta_with_pictures[0] / "data"), **sizes})
    settings = dataclasses.replace(settings, factors=(1.0,))
    rows = experiments.named(["location_maps", "loco2", "heatmaps"])
    running.run(rows, settings, print, lambda: None)
    done = _rows(settings)
    assert list(done) == [row.name for row in rows]
    assert len(done["loco2"].study["found"]["seconds"]) == len(crowding.PEOPLE)
    for name in ("location_maps", "loco2"):
        assert "JTA" in done[name].results["data"] and done[name].trainings[0]["frames"] > 0


def test_scenes_have_so_many_people(monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(crowds, "take_picture", lambda key, scene, crowd: SimpleNamespace(image=scene.present))
    monkeypatch.setattr(crowding, "timed", lambda find, params, image, camera: (taken.append(image), params))
    config = _config(_settings(tmp_path), "loco2")
    assert crowding.seconds(experiment.create_task(config), 0.5, config) == [0.5] * len(crowding.PEOPLE)
    assert [int(present.sum()) for present in taken] == list(crowding.PEOPLE)


def test_time_over_people():
    found = {"top-down": [0.1, 0.2, 0.3, 0.4], "LoCO(2)": [0.3, 0.3, 0.3, 0.3]}
    assert "60 of each joint type, so its time hardly depends" in crowding.table(found)
    assert "| system, ms a picture | 1 person | 5 people | 20 people | 60 people |" in crowding.table(found)
    assert "200" in crowding.table(found)
    lines = crowding.figure(found).axes[0].lines
    np.testing.assert_allclose([line.get_ydata() for line in lines], list(found.values()))
    assert len(tables.POSTER_LOCO) == 12
