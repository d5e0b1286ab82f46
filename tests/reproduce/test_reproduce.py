"""The command `loco_jax.reproduce`: what it trains, in which order, what it does not do again, and what it writes.

With ALL_ROWS=1 in the environment every row is trained, with the whole search; else one row of each kind.
"""

import dataclasses
import json
import math
import os
import re

import numpy as np
import pytest
from etils import epath

from loco_jax import experiment
from loco_jax.report import tables
from loco_jax.reproduce import crowding, experiments, poster, running
from loco_jax.reproduce.experiments import ROWS, Settings
from loco_jax.runs import log as logs

_ALL = bool(os.environ.get("ALL_ROWS"))
TRAINED = ROWS if _ALL else experiments.with_needs(["patch_vha2", "location_maps", "loco2"])


def _settings(folder, **shared):
    settings = Settings(epath.Path(folder), "test", 0.005, {"quiet": True, **shared})
    return settings if _ALL else dataclasses.replace(settings, factors=(1.0,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows at the scale of tests, interrupted once: the settings, the parts done in each start, and the page."""
    folder = tmp_path_factory.mktemp("poster")
    settings, starts = _settings(folder), []

    def start(most: float):
        done: list[str] = []
        starts.append(done)

        def say(text):
            if text.endswith("of training"):
                if len(done) == most:
                    raise KeyboardInterrupt
                done.append(text)

        running.run(TRAINED, settings, say, lambda: None)

    with pytest.raises(KeyboardInterrupt):
        start(4)
    start(math.inf)
    start(math.inf)
    return settings, starts, poster.write(settings, settings.folder / "page").read_text()


def test_what_is_done_is_not_done_again(whole):
    settings, starts, _ = whole
    parts = [f"{row.label}: {part.name}" for row in TRAINED for part in running.parts(row, settings)]
    assert [text.rpartition(",")[0] for text in starts[0] + starts[1]] == parts
    assert len(starts[0]) == 4 and starts[2] == []
    assert running.plan(TRAINED, settings) == "All rows are done"


def _table(page, heading):
    """The cells of the first table below a heading, by the first one."""
    rows = [line for line in page.split(f"## {heading}")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: values for name, *values in cells[2:]}


def test_every_row_is_there_and_finite(whole):
    *_, page = whole
    systems, networks = _table(page, "Systems"), _table(page, "Compression levels")
    for row in TRAINED:
        if row.config and row.is_autoencoder:
            assert row.label in networks
        elif row.config:
            assert {row.label, f"{row.label}+"} <= systems.keys()
    assert {
        "GT Location Maps",
        "GT volumetric heatmaps",
        "*poster: LoCO(2)+*",
        "*poster: Location Maps+*",
    } <= systems.keys()
    for name, values in systems.items():
        nobody = name.endswith("+") and set(values[:9]) == {"–"}  # in training scenes, for the refiner
        assert nobody or all(0 <= float(value) <= 100 for value in values[:9])
    for values in networks.values():
        assert all(0 <= float(value.split(" / ")[0]) <= 100 for value in values[:3])
        assert float(values[5]) > 0 and float(values[6]) > 0
    assert ("Not done yet" in page) != _ALL
    for picture in re.findall(r"\]\((.+?\.png)\)", page):
        assert (whole[0].folder / "page" / picture).stat().length > 10_000


def test_truth_is_the_upper_bound(whole):
    settings, *_ = whole
    systems = _table(whole[2], "Systems")
    best = max(float(values[8]) for name, values in systems.items() if name[0] not in "G*" and values[8] != "–")
    assert float(systems["GT volumetric heatmaps"][8]) > best and float(systems["GT Location Maps"][8]) >= best
    for done in poster.read(settings).values():
        if done.row.config.startswith("loco"):
            found = done.results["systems"]
            true = next(system for name, system in found.items() if "true code" in name)
            assert true["hungarian"]["1.2 m"]["f1"] >= next(iter(found.values()))["hungarian"]["1.2 m"]["f1"]


def test_budgets(whole):
    settings, *_ = whole
    done = poster.read(settings)
    for name, entry in done.items():
        assert entry.minutes == pytest.approx(0.0075 if name in ("vha1", "vha2", "vha3", "loco2_published") else 0.005)
    autoencoder = json.loads((settings.folder / "loco2" / "autoencoder" / "done.json").read_text())
    assert autoencoder["minutes"] == pytest.approx(0.005 / 3)


def test_the_best_rate_is_that_of_the_best_f1_then_of_the_least_loss(tmp_path):
    for name, f1, loss in (("a", 0.2, 9.0), ("b", 0.4, 12.0), ("c", 0.4, 11.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": 1, "loss": loss}, {"step": 1, "validation/f1_0.4m": f1, "validation/f1_0.8m": f1}]
        (tmp_path / name / logs.FILE).write_text("\n".join(map(json.dumps, lines)))
    assert running.best_rate(epath.Path(tmp_path), {"a": 1.0, "b": 2.0, "c": 3.0}) == 3.0
    assert running.best_rate(epath.Path(tmp_path), {"a": 1.0, "b": 2.0}) == 2.0


def test_a_row_that_fails_does_not_stop_the_others(tmp_path):
    settings, said = _settings(tmp_path, **{"optimizer.name": "none"}), []
    with pytest.raises(ValueError, match=r"VHA\(1\), VHA\(2\): failed"):
        running.run(ROWS[:2], settings, said.append, lambda: None)
    assert sum("config.optimizer.name='none'" in text for text in said) == 2


def test_the_configs_of_all_rows_are_good(tmp_path):
    for row in ROWS:
        if row.config:
            for scale in ("full", "demo", "test"):
                settings = Settings(epath.Path(tmp_path), scale, 1.0, {"data.workers": 3})
                config = experiments.with_budget(experiments.config_of(row, settings), 1.0, 0.5)
                assert config.data.workers == 3 and config.optimizer.learning_rate == 0.5
                experiment.create_task(config)


def test_needs_come_first():
    names = [row.name for row in experiments.with_needs(["crowding", "loco2", "vha1"])]
    assert names == ["top_down", "loco2", "crowding", "vha1"]
    with pytest.raises(ValueError, match="--only=loco9: no such row; there are vha1,"):
        experiments.with_needs(["loco9"])


def test_curves_count_the_autoencoders_minutes():
    records = [
        {"step": 10, "budget_used": 0.5},
        {"step": 10, "validation/f1_0.8m": 0.2},
        {"step": 20, "budget_used": 1.0},
    ]
    records += [{"step": 20, "validation/f1_0.8m": 0.3}]
    done = poster.Done(experiments.BY_NAME["loco2"], {}, {"minutes": 12.0}, 18.0, records)
    assert poster.curve(done) == [(12.0, 0.2), (18.0, 0.3)]


def test_time_over_people():
    found = {"top-down": [0.1, 0.2], "LoCO(2)": [0.3, 0.3]}
    assert "200" in crowding.table(found, (1, 5)) and "5 people" in crowding.table(found, (1, 5))
    lines = crowding.figure(found, (1, 5)).axes[0].lines
    np.testing.assert_allclose([line.get_ydata() for line in lines], [[0.1, 0.2], [0.3, 0.3]])
    assert len(tables.POSTER_LOCO) == 12
