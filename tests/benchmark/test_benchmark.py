"""The benchmark: turns and ratios, wrong results that are found, and the command as a whole."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from loco_jax.benchmark import cases, inputs, measure
from loco_jax.benchmark.inputs import Setting
from loco_jax.benchmark.measure import Implementation
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera
from loco_jax.models import vha
from loco_jax.pose import heatmaps, peaks

ROOT = pathlib.Path(__file__).parents[2]


class Smaller(Setting):
    volume = dataclasses.replace(Setting("demo").volume, image_size=(81, 144), depth_bins=24)


TINY = Smaller("demo", people=3)


# ---- Measuring


def sleeper(name, seconds, log, result=0.0, **options):
    def run():
        log.append(name)
        time.sleep(seconds)
        return np.float32([1.0, result])

    return Implementation(name, run, **{"tolerance": 1e-4, **options})


def test_turns_ratios_and_slow_ones():
    log = []
    ways = [sleeper("ours", 0.002, log, frames=6), sleeper("b", 0.05, log), sleeper("c", 0.2, log)]
    rows = measure.measure("sleep", ways, 3, 0.14)
    # All warm up; then turns, of which c has one: two would take too long.
    assert log == ["ours", "b", "c", "ours", "b", "c", "ours", "b", "ours"]
    assert [len(row.seconds) for row in rows] == [3, 2, 1]
    ours, b, c = rows
    assert ours.ratio is None and ours.equal is None and ours.frames == 6
    assert 1 < b.ratio < c.ratio and c.equal
    assert 0.2 <= c.median < 0.4


def test_wrong_results_are_found():
    ways = [sleeper("ours", 0, []), sleeper("right", 0, [], 1e-5), sleeper("wrong", 0, [], 1e-3)]
    ways.append(dataclasses.replace(sleeper("other shape", 0, []), result=lambda made: made[:1]))
    ways.append(sleeper("other thing", 0, [], 0.5, tolerance=None))
    rows = measure.measure("case", ways, 1, 1.0)
    assert [row.equal for row in rows] == [None, True, False, False, None]
    assert rows[2].difference == pytest.approx(1e-3) and rows[3].difference == np.inf
    text = "\n".join(map(measure.line, rows))
    assert text.count("equal") == 1 and "differs by 0.001" in text and "differs by inf" in text


def test_missing_and_failing_implementations_say_why():
    def fail():
        raise RuntimeError("out of memory\nmore")

    ways = [sleeper("ours", 0, []), Implementation("absent", missing="not installed"), Implementation("broken", fail)]
    rows = measure.measure("case", ways, 1, 1.0)
    assert [row.note for row in rows] == ["", "not installed", "failed: out of memory"]
    lines = [*measure.head().splitlines(), *map(measure.line, rows)]
    assert len({len(line.split("|")) for line in lines}) == 1


def test_differences():
    a = {"x": np.float32([1, -4]), "y": np.zeros((2, 3), bool)}
    assert measure.difference(a, a) == 0
    assert measure.difference({**a, "x": np.float32([1, -3.9])}, a) == pytest.approx(0.025)
    assert measure.difference({**a, "x": np.float32([1, np.nan])}, a) == np.inf
    assert measure.difference({**a, "y": np.zeros((3, 2), bool)}, a) == np.inf
    assert measure.difference(np.float32(3), np.float32(2)) == 0.5


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of memory")
def test_peak_memory():
    def use():
        np.ones(64 * 2**17)  # 64 MiB, given back
        return np.zeros(1)

    large, small = measure.measure("case", [Implementation("ours", use), sleeper("small", 0, [])], 2, 1.0)
    assert 0.95 * 2**26 < large.peak_bytes < 2**27 and small.peak_bytes < 2**24


# ---- The functions


@pytest.fixture
def small_scene(monkeypatch):
    """Twelve people as straight as poles, in three rows."""
    place = np.arange(12)
    at = np.stack([place % 4 * 1.5 - 2.2, 0 * place, 6 + place // 4 * 4 + place % 4 * 0.3], axis=-1)
    joints = at[:, None] + np.linspace(-0.9, 0.8, 14)[:, None] * [0.1, 1, 0.05]
    frames = Frames(joints.astype(np.float32), np.ones((12, 14), bool), camera.JTA.scaled(1 / 4))
    monkeypatch.setattr(inputs, "scene", lambda scale: frames)


def agree(name, ways):
    rows = measure.measure(name, ways, 1, 10.0)
    made = ways[0].result(ways[0].run())
    assert any(np.any(part) for part in jax.tree.leaves(made))  # nothing is easily the same as nothing
    assert len(rows) == len(ways) and rows[0].implementation == "ours"
    for row, way in zip(rows[1:], ways[1:]):
        assert row.equal or "not installed" in row.note or way.tolerance is None, row
    assert all(row.seconds for row in rows if not row.note or "failed" in row.note)


WHOLE = Setting("demo", people=3)  # in less of it, the published network finds nobody
FEW = {"encode": TINY, "decode_peaks": WHOLE, "peaks": TINY}
if os.environ.get("LOCO_JAX_SLOW"):  # a minute
    FEW["picture_to_people"] = WHOLE


@pytest.mark.parametrize("name", FEW)
def test_implementations_agree(small_scene, name):
    agree(name, cases.CASES[name](FEW[name]))


@pytest.mark.parametrize("name", ["encode", "encode_patch", "decode_peaks_patch"])
def test_fast_and_plain_ways_agree(small_scene, name):
    ways = cases.KERNELS[name](dataclasses.replace(TINY, plain=True))
    assert [way.name for way in ways] == ["ours", "plain"]
    agree(name, ways)


def test_without_torch_the_row_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "loco_jax.benchmark.torch_reference", None)
    _, other = cases.CASES["encode"](TINY)
    assert other.missing == "PyTorch is not installed: pip install 'torch>=2.10'"


@pytest.mark.parametrize("bins", [24, 80])
def test_made_weights_pass_the_heads_on(bins):
    """All peaks of every decoded heatmap are around the head; almost all voxels are empty."""
    network, params = vha.VHA(2, bins), inputs.passing_on(bins)
    present = np.ones((1, 14), bool)
    voxels = np.full((1, 14, 3), 8.0, np.float32)
    voxels[0, 0] = 24, 36, bins // 2
    volume = heatmaps.render(voxels, present, (48, 64, bins), 2.0)
    decoded = jax.jit(network.apply)(params, volume[None])[0]
    found = peaks.find_peaks(decoded, 0.1)
    assert (found.count > 0).all() and np.abs(found.voxels[found.scores > 0] - voxels[0, 0]).max() <= 5
    assert (decoded > 0.01).mean() < 0.1


# ---- Training steps and options


def test_options_are_off_by_default(monkeypatch):
    seen = []

    def record(name, setting, config):
        seen.append((name, config.optimizer.orthogonalise_dtype))
        return Implementation(name)

    monkeypatch.setattr(cases, "_training_step", record)
    for name in ("train_vha_patch", "train_vha", "train_code_predictor"):
        cases.STEPS[name](TINY)
    assert seen == [("ours", "float32")] * 3
    cases.STEPS["train_code_predictor_compact"](TINY)
    assert seen[3:] == [("ours", "float32"), ("ours, orthogonalise_dtype=bfloat16", "bfloat16")]


def test_a_step_replaces_the_state(small_scene):
    """The loss moves from run to run."""
    (way,) = cases.STEPS["train_vha_patch"](TINY)
    losses = [float(way.run()) for _ in range(3)]
    assert len(set(losses)) == 3 and np.isfinite(losses).all() and way.frames == 1


# ---- The command

_COUNTING = """
import collections, runpy, sys
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
try:
    runpy.run_module("loco_jax.benchmark", run_name="__main__")
finally:
    print("compiled", counts["compile_requests_use_cache"] - counts["cache_hits"])
"""


def command(*arguments, code=(), **environment):
    with_python = [sys.executable, *(code or ("-m", "loco_jax.benchmark")), *arguments]
    return subprocess.run(with_python, cwd=ROOT, env={**os.environ, **environment}, text=True, capture_output=True)


def test_the_command_and_its_second_start(tmp_path):
    """Table and JSON; started again it compiles nothing."""
    arguments = ["peaks", "--scale=demo", "--people=3", "--repeats=2", "--seconds=0.2"]
    arguments += [f"--json={tmp_path / 'a.json'}", f"--plot={tmp_path / 'a.png'}"]
    environment = {"LOCO_JAX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": ""}
    outputs = [command(*arguments, code=("-c", _COUNTING), **environment) for _ in range(2)]
    for output in outputs:
        assert output.returncode == 0, output.stderr
        assert output.stdout.startswith("demo scale, 3 people, batch 1, float32: ")
        assert "| peaks " in output.stdout
    first, second = (int(output.stdout.rpartition("compiled ")[2]) for output in outputs)
    assert first > 5 and second == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert content["setting"]["people"] == 3 and content["machine"]["cores"] >= 1
    assert {row["function"] for row in content["rows"]} == {"peaks"}
    assert all(len(row["seconds"]) <= 2 for row in content["rows"])


def test_list():
    assert command("--list", "--steps").stdout.split() == list(cases.STEPS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sorting"], "no function sorting; there are encode, "),
        (["--people=61"], "--people=61"),
        (["--json=/no/such/a.json"], "make it first"),
        (["--steps", "--kernels"], "exclude each other"),
        (["--runtimes", "--kernels"], "exclude each other"),
    ],
)
def test_impossible_requests(arguments, message):
    done = command(*arguments)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
