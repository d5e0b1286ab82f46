"""The benchmark: floors counted by hand, turns and ratios, wrong results that are found, and the command as a whole."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from loco_jax import experiment
from loco_jax import step as training
from loco_jax.benchmark import cases, inputs, measure, steps, tables
from loco_jax.benchmark.floors import num_bytes, operations
from loco_jax.benchmark.inputs import Setting
from loco_jax.benchmark.measure import Case, Implementation
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera
from loco_jax.geometry.camera import Camera
from loco_jax.models import vha
from loco_jax.models.compact import CompactPredictor
from loco_jax.pose import heatmaps, peaks

ROOT = pathlib.Path(__file__).parents[2]
TINY = Setting("demo", people=3, grid=0.3)  # 81 x 144 pixels, 24 bins


def shape(*size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype)


# ---- Floors


def test_operations_of_convolutions():
    x, kernel = shape(2, 10, 12, 3), shape(3, 5, 3, 7)
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    same = operations(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", **numbers), x, kernel)
    assert same == 2 * (2 * 10 * 12) * 7 * (3 * 5 * 3)
    valid = operations(lambda x, k: lax.conv_general_dilated(x, k, (2, 2), "VALID", **numbers), x, kernel)
    assert valid == 2 * (2 * 4 * 4) * 7 * (3 * 5 * 3)
    x, kernel = shape(1, 5, 6, 3), shape(4, 4, 3, 7)
    transposed = operations(lambda x, k: lax.conv_transpose(x, k, (2, 2), ((3, 3), (3, 3)), **numbers), x, kernel)
    assert transposed == 2 * (12 * 14) * 7 * 3 * 4  # 4 of 16 taps see a cell


def test_operations_of_products_in_loops_and_branches():
    x, w = shape(5, 6), shape(6, 6)

    def function(x, w):
        x = jax.nn.relu(x @ w)
        x, _ = lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, w), None), x, None, length=7)
        return lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    assert operations(function, x, w) == (1 + 7 + 2) * 2 * 5 * 6 * 6
    for cpu in (lambda x, w: x @ w @ w, lambda x, w: x):  # another way to the same
        ways = {"cpu": cpu, "default": lambda x, w: x @ w}
        assert operations(lambda x, w, ways=ways: lax.platform_dependent(x, w, **ways), x, w) == 2 * 5 * 6 * 6
    batched = operations(jax.vmap(jnp.dot), shape(4, 5, 6), shape(4, 6, 3))
    assert batched == 4 * 2 * 5 * 6 * 3


def test_operations_of_a_network():
    """The compact predictor grows with the picture, but for what is done once a picture: the scene's linear layer."""
    network, camera = CompactPredictor(2, 16, width=32, blocks=1), Camera(1.0, 1.0, 0.0, 0.0)
    image = shape(1, 64, 64, 3, dtype=jnp.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), image, camera)
    predict = functools.partial(network.apply, camera=camera)
    whole = operations(predict, variables, image)
    wider = operations(predict, variables, shape(1, 64, 128, 3, dtype=jnp.uint8))
    scene = 2 * 256 * 128
    assert whole > 2 * 32 * 32 * 27 * 16 and wider == 2 * whole - scene


def test_bytes():
    assert num_bytes({"a": shape(3, 4), "b": [np.zeros(5, np.uint8)]}, None, jnp.zeros(2, jnp.bfloat16)) == 48 + 5 + 4


def test_floors_of_cases(small_scene):
    heatmaps = 4 * 14 * 16 * 18 * 24
    peaks = cases.CASES["peaks"](TINY)
    assert peaks.bytes == heatmaps and peaks.operations == 0
    encode = cases.CASES["encode"](TINY)
    # Method section 3: bins 24 -> 12 -> 6 -> 6 by 5 x 5, then 14 -> 4 -> 1 by 5 x 5 x 5; 16 x 18 voxels, padded to 20.
    in_2d = 14 * 25 * (8 * 10 * 24 * 12 + 4 * 5 * 12 * 6 + 4 * 5 * 6 * 6)
    in_3d = 125 * (4 * 5 * 6) * (14 * 4 + 4 * 1)
    assert encode.operations == 2 * (in_2d + in_3d)
    parameters = 25 * (24 * 12 + 12 * 6 + 6 * 6) + 24 + 125 * (14 * 4 + 4) + 5
    decoder = 125 * (1 * 4 + 4 * 14) + 18 + 25 * (6 * 6 + 6 * 12 + 12 * 24) + 42
    assert encode.bytes == heatmaps + 4 * (4 * 5 * 6) + 4 * (parameters + decoder)


# ---- Measuring


def sleeper(name, seconds, log, result=0.0, **options):
    def run():
        log.append(name)
        time.sleep(seconds)
        return np.float32([1.0, result])

    return Implementation(name, run, **options)


def test_turns_ratios_and_slow_ones():
    log = []
    ways = [sleeper("ours", 0.002, log), sleeper("b", 0.05, log), sleeper("c", 0.2, log)]
    rows = measure.measure("sleep", Case(ways, 0, 0, frames=6, steps=2), [], 3, 0.14)
    # All warm up; then turns, of which c has one: two would take too long.
    assert log == ["ours", "b", "c", "ours", "b", "c", "ours", "b", "ours"]
    assert [len(row.seconds) for row in rows] == [3, 2, 1]
    ours, b, c = rows
    assert ours.ratio is None and ours.equal is None and ours.frames == 6
    assert 1 < b.ratio < c.ratio and c.equal
    assert 0.1 <= c.median < 0.2  # of a step: a run does two
    assert ours.floor is None  # no limits were measured


def test_wrong_results_are_found():
    ways = [sleeper("ours", 0, []), sleeper("right", 0, [], 1e-5), sleeper("wrong", 0, [], 1e-3)]
    ways.append(dataclasses.replace(sleeper("other shape", 0, []), result=lambda made: made[:1]))
    ways.append(sleeper("other thing", 0, [], 0.5, comparable=False))
    rows = measure.measure("case", Case(ways, 0, 0, tolerance=1e-4), [], 1, 1.0)
    assert [row.equal for row in rows] == [None, True, False, False, None]
    assert rows[2].difference == pytest.approx(1e-3) and rows[3].difference == np.inf
    text = "\n".join(map(tables.line, rows))
    assert text.count("equal") == 1 and "differs by 0.001" in text and "differs by inf" in text


def test_missing_and_failing_implementations_say_why():
    def fail():
        raise RuntimeError("out of memory\nmore")

    ways = [sleeper("ours", 0, []), Implementation("absent", missing="not installed"), Implementation("broken", fail)]
    rows = measure.measure("case", Case(ways, 0, 0), [], 1, 1.0)
    assert [row.note for row in rows] == ["", "not installed", "failed: out of memory"]
    lines = [*tables.head().splitlines(), *map(tables.line, rows)]
    assert [len(line.split("|")) for line in lines] == [len(tables.HEADER) + 2] * 5


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

    case = Case([Implementation("ours", use), sleeper("small", 0, [])], 0, 0, np.inf)
    large, small = measure.measure("case", case, [], 2, 1.0)
    assert 0.95 * 2**26 < large.peak_bytes < 2**27 and small.peak_bytes < 2**24


def test_limits_of_the_machine(monkeypatch):
    monkeypatch.setattr(measure, "_COPIED", 2**22)
    monkeypatch.setattr(measure, "_SIZE", 256)
    limits = measure.limits("float32")
    rows = measure.measure("case", Case([sleeper("ours", 0.05, [])], 1e9, 1e6), limits, 1, 1.0)
    ours, speeds = rows[0], {row.implementation: measure.speed(row.implementation, row.median) for row in rows[1:]}
    assert all(1e8 < s < 1e14 for s in speeds.values()) and tuple(speeds) == measure.LIMITS
    assert ours.floor == pytest.approx(1e9 / max(speeds[measure.COPY], speeds[measure.READ]))
    assert "GFLOP/s" in tables.limits(rows)
    by_arithmetic = [Case([sleeper("ours", 0.05, [])], 0, 1e12), limits, 1, 1.0]
    assert measure.measure("case", *by_arithmetic, 1e13)[0].floor == pytest.approx(0.1)  # the peak is known
    product = measure.measure("case", *by_arithmetic)
    assert product[0].floor == pytest.approx(1e12 / measure.speed(measure.PRODUCT, product[-1].median))


# ---- The functions


@pytest.fixture
def small_scene(monkeypatch):
    """Twelve people as straight as poles, in three rows."""
    place = np.arange(12)
    at = np.stack([place % 4 * 1.5 - 2.2, 0 * place, 6 + place // 4 * 4 + place % 4 * 0.3], axis=-1)
    joints = at[:, None] + np.linspace(-0.9, 0.8, 14)[:, None] * [0.1, 1, 0.05]
    frames = Frames(joints.astype(np.float32), np.ones((12, 14), bool), camera.JTA.scaled(1 / 4))
    monkeypatch.setattr(inputs, "scene", lambda scale: frames)


def agree(name, case):
    rows = measure.measure(name, case, [], 1, 10.0)
    made = case.implementations[0].result(case.implementations[0].run())
    assert any(np.any(part) for part in jax.tree.leaves(made))  # nothing is easily the same as nothing
    assert len(rows) == len(case.implementations) and rows[0].implementation == "ours"
    for row, way in zip(rows[1:], case.implementations[1:]):
        assert row.equal or "not installed" in row.note or not way.comparable, row
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
    case = cases.KERNELS[name](dataclasses.replace(TINY, plain=True))
    assert [way.name for way in case.implementations] == ["ours", "plain"]
    agree(name, case)


def test_without_torch_the_row_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "loco_jax.benchmark.torch_reference", None)
    _, other = cases.CASES["encode"](TINY).implementations
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


@pytest.mark.parametrize("scale", ["full", "demo"])
def test_options_are_off_by_default_and_make_sense(scale, monkeypatch):
    seen = []

    def record(name, setting, config):
        seen.append((name, config))
        experiment_checks(config)
        return Case([Implementation(name)], 0, 0)

    made = {name: (record, *entry[1:]) for name, entry in steps._STEPS.items()}
    monkeypatch.setattr(steps, "_STEPS", made)
    for name, (_, _, _, fields) in made.items():
        seen.clear()
        case = steps.STEPS[name](Setting(scale, batch=4))
        assert [way.name for way in case.implementations] == [name for name, _ in seen]
        assert seen[0][0] == "default" and len(seen) == 1 + len(fields)
        for (_, config), (field, value) in zip(seen[1:], fields.items()):
            off = functools.reduce(getattr, field.split("."), seen[0][1])
            assert functools.reduce(getattr, field.split("."), config) == value != off
            config.update_from_flattened_dict({field: off})
            assert config == seen[0][1]


def experiment_checks(config):
    experiment.create_task(config)
    training.make_optimizer(config)
    streams.crowd_of(config)


def test_a_step_replaces_the_state(small_scene):
    """Each run takes two steps, and the loss moves."""
    case = steps.STEPS["train_vha_patch"](TINY)
    losses = [float(case.implementations[0].run()) for _ in range(3)]
    assert case.steps == 2 and case.operations > 1e6 and len(set(losses)) == 3 and np.isfinite(losses).all()


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
    """Table, JSON and figure; started again it compiles nothing."""
    arguments = ["peaks", "--scale=demo", "--people=3", "--repeats=2", "--seconds=0.2"]
    arguments += [f"--json={tmp_path / 'a.json'}", f"--plot={tmp_path / 'a.png'}"]
    environment = {"LOCO_JAX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": ""}
    outputs = [command(*arguments, code=("-c", _COUNTING), **environment) for _ in range(2)]
    for output in outputs:
        assert output.returncode == 0, output.stderr
        assert output.stdout.startswith("demo scale, 3 people, batch 1, float32: ")
        assert "| peaks " in output.stdout and "limits while" in output.stdout
    first, second = (int(output.stdout.rpartition("compiled ")[2]) for output in outputs)
    assert first > 5 and second == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["setting"]["people"] == 3 and content["machine"]["cores"] >= 1
    assert {row["function"] for row in content["rows"]} == {"peaks"}
    assert all(len(row["seconds"]) <= 2 for row in content["rows"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_list():
    assert command("--list", "--steps").stdout.split() == list(steps.STEPS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sorting"], "no function sorting; there are encode, "),
        (["--people=61"], "--people=61"),
        (["--json=/no/such/a.json"], "make it first"),
        (["--steps", "--kernels"], "exclude each other"),
    ],
)
def test_impossible_requests(arguments, message):
    done = command(*arguments)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
