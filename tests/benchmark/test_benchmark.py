"""The benchmark: floors counted by hand, turns and ratios, wrong results that are found, and the command as a whole."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import time
import types
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from loco_jax import train
from loco_jax.benchmark import cases, measure, tables, train_published
from loco_jax.benchmark.cases import Setting
from loco_jax.benchmark.floors import num_bytes, operations
from loco_jax.benchmark.measure import Case, Implementation
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import vha
from loco_jax.models.compact import CompactPredictor
from loco_jax.weights import files as weights

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


def test_floors_of_cases(monkeypatch):
    monkeypatch.setattr(cases, "_scene", scene)
    heatmaps = 4 * 14 * 16 * 18 * 24
    assert cases.make("render", TINY).bytes == heatmaps
    peaks = cases.make("peaks", TINY)
    assert peaks.bytes == heatmaps and peaks.operations == 0
    encode = cases.make("encode", TINY)
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
    ways = [
        sleeper("ours", 0.002, log),
        sleeper("b", 0.05, log, compiles=False),
        sleeper("c", 0.2, log, compiles=False),
    ]
    ways.append(sleeper("d", 0.6, log, compiles=False))
    rows = measure.measure(Case("sleep", ways, 0, 0), [], 3, 0.14)
    # All warm up; then turns, of which c has one: two would take too long. The first run of d counts.
    assert log == ["ours", "b", "c", "d", "ours", "b", "c", "ours", "b", "ours"]
    assert [len(row.seconds) for row in rows] == [3, 2, 1, 1]
    ours, b, c, d = rows
    assert ours.ratio is None and ours.equal is None
    assert 1 < b.ratio < c.ratio < d.ratio and d.equal and d.median >= 0.6
    assert all(len(row.cpu_seconds) == len(row.seconds) and max(row.cpu_seconds) < 0.05 for row in rows)  # asleep
    assert ours.floor is None and ours.share is None  # no limits were measured


def test_wrong_results_are_found():
    ways = [sleeper("ours", 0, []), sleeper("right", 0, [], 1e-5), sleeper("wrong", 0, [], 1e-3)]
    ways.append(dataclasses.replace(sleeper("other shape", 0, []), result=lambda made: made[:1]))
    ways.append(sleeper("other thing", 0, [], 0.5, comparable=False))
    rows = measure.measure(Case("case", ways, 0, 0, tolerance=1e-4), [], 1, 1.0)
    assert [row.equal for row in rows] == [None, True, False, False, None]
    assert rows[2].difference == pytest.approx(1e-3) and rows[3].difference == np.inf
    text = tables.table(rows)
    assert text.count("equal") == 1 and "differs by 0.001" in text and "differs by inf" in text


def test_what_is_missing_or_fails_is_said():
    def fail():
        raise RuntimeError("out of memory\nmore")

    ways = [sleeper("ours", 0, []), Implementation("absent", missing="not installed"), Implementation("broken", fail)]
    rows = measure.measure(Case("case", ways, 0, 0), [], 1, 1.0)
    assert [row.note for row in rows] == ["", "not installed", "failed: out of memory"]
    assert [len(line.split("|")) for line in tables.table(rows).splitlines()] == [len(tables.HEADER) + 2] * 5


def test_differences():
    a = {"x": np.float32([1, -4]), "y": np.zeros((2, 3), bool)}
    assert measure.difference(a, a) == 0
    assert measure.difference({**a, "x": np.float32([1, -3.9])}, a) == pytest.approx(0.025)
    assert measure.difference({**a, "x": np.float32([1, np.nan])}, a) == np.inf
    assert measure.difference({**a, "y": np.zeros((3, 2), bool)}, a) == np.inf
    assert measure.difference(np.float32(3), np.float32(2)) == 0.5


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is told by Linux alone")
def test_peak_memory():
    def use():
        np.ones(64 * 2**17)  # 64 MiB, given back
        return np.zeros(1)

    ways = [Implementation("ours", use), sleeper("small", 0, [])]
    large, small = measure.measure(Case("case", ways, 0, 0, np.inf), [], 2, 1.0)
    assert 0.95 * 2**26 < large.peak_bytes < 2**27 and small.peak_bytes < 2**24


def test_limits_of_the_machine():
    ways = [sleeper("ours", 0.05, []), sleeper("other", 0.05, [], floor=(1e3, 1e11))]
    rows = measure.measure(Case("case", ways, 1e9, 1e6), measure.limits(jnp.dtype("float32")), 1, 1.0)
    ours, other = rows[:2]
    limits = {row.implementation: measure.speed(row.implementation, row.median) for row in rows[2:]}
    assert all(1e8 < s < 1e14 for s in limits.values()) and len(limits) == 3
    assert ours.floor == pytest.approx(1e9 / max(limits[measure.COPY], limits[measure.READ]))
    assert other.floor == pytest.approx(1e11 / limits[measure.PRODUCT])
    assert ours.share == pytest.approx(ours.floor / ours.median)
    assert "GFLOP/s" in tables.limits(rows) and "limit" not in tables.table(rows)


# ---- The functions


def scene(scale):
    """Twelve people as straight as poles, in three rows."""
    place = np.arange(12)
    at = np.stack([place % 4 * 1.5 - 2.2, 0 * place, 6 + place // 4 * 4 + place % 4 * 0.3], axis=-1)
    joints = at[:, None] + np.linspace(-0.9, 0.8, 14)[:, None] * [0.1, 1, 0.05]
    return Frames(joints.astype(np.float32), np.ones((12, 14), bool), camera.JTA.scaled(1 / 4))


WHOLE = Setting("demo", people=3)  # in less of it, the published network finds nobody
FEW = {
    "render": TINY,
    "encode": TINY,
    "encode_patch": TINY,
    "decode_peaks": WHOLE,
    "decode_peaks_patch": TINY,
    "peaks": TINY,
    "associate": TINY,
    "score": TINY,
    "train_vha_patch": TINY,
}
if os.environ.get("LOCO_JAX_SLOW"):  # 40 seconds
    FEW["picture_to_people"] = WHOLE


@pytest.mark.parametrize("name", FEW)
def test_implementations_agree(monkeypatch, name):
    monkeypatch.setattr(cases, "_scene", scene)
    monkeypatch.setattr(cases.fast_vha, "_LEAST_VOXELS", 0)  # ours are the fast ways, small as this is
    cases._frame.cache_clear()
    case = cases.make(name, FEW[name])
    rows = measure.measure(case, [], 1, 10.0)
    made = case.implementations[0].result(case.implementations[0].run())
    assert all(np.any(part) for part in jax.tree.leaves(made))  # nothing is easily the same as nothing
    cases._frame.cache_clear()
    assert len(rows) == len(case.implementations) and case.name == name
    for row, way in zip(rows[1:], case.implementations[1:]):
        assert row.equal or "not installed" in row.note or not way.comparable, row
    assert all(row.seconds for row in rows if not row.note or "failed" in row.note)


@pytest.mark.parametrize("name", ["render", "encode", "associate"])
def test_ours_alone(name):
    case = cases.make(name, TINY)
    assert [way.name for way in cases.make(name, TINY, only_ours=True).implementations] == [
        way.name for way in case.implementations if way.name.startswith("ours")
    ]
    assert len(case.implementations) > 1


def test_torch_is_compared():
    pytest.importorskip("torch")
    pytest.importorskip("skimage")
    for name in ("encode", "peaks"):
        assert not any(way.missing for way in cases.make(name, TINY).implementations)


def test_convolutions_are_called_plainly():
    """None of the predictor's own ways is taken, and what comes out is the same: strided, dilated, with and without."""

    def refuse(*args, **options):
        raise AssertionError("not plainly")

    class Net(nn.Module):
        way: Callable

        @nn.compact
        def __call__(self, x):
            options = {"conv_general_dilated": self.way, "dtype": jnp.float32}
            x = nn.Conv(5, (3, 2), strides=2, padding=((1, 0), (0, 1)), use_bias=False, **options)(x)
            x = nn.Conv(4, (4, 4), input_dilation=2, padding=((3, 3), (2, 3)), **options)(x)
            return nn.Conv(3, (3, 3), padding="SAME", bias_init=nn.initializers.ones, **options)(x)

    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    want, variables = jax.jit(Net(None).init_with_output)(jax.random.key(0), x)
    with pytest.raises(AssertionError, match="not plainly"):
        Net(refuse).apply(variables, x)
    with nn.intercept_methods(cases._plainly):
        found = Net(refuse).apply(variables, x)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_torch_trains_as_we_do():
    """Losses of three steps of a small layer under Adam, its gradient clipped, beside optax."""
    torch = pytest.importorskip("torch")
    from loco_jax.benchmark import torch_reference

    rng = np.random.default_rng(0)
    kernel, bias, x = (rng.normal(size=n).astype(np.float32) for n in ((4, 3), (3,), (8, 4)))
    rate, clip_norm = 0.1, 0.5

    def loss(params):
        return jnp.mean(jnp.square(jnp.tanh(x @ params["kernel"] + params["bias"]) - 2))

    config = types.SimpleNamespace(
        budget_minutes=0,
        optimizer=types.SimpleNamespace(
            name="adam", learning_rate=rate, schedule="constant", warmup=0, clip_norm=clip_norm
        ),
    )
    optimizer, params = train.make_optimizer(config), {"kernel": kernel, "bias": bias}
    state, ours = optimizer.init(params), []
    for _ in range(3):
        value, gradient = jax.value_and_grad(loss)(params)
        assert optax.tree.norm(gradient) > clip_norm or ours
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        ours.append(float(value))
    runner, module = torch_reference.Runner(), torch.nn.Linear(4, 3)
    module.load_state_dict({"weight": torch.from_numpy(kernel.T.copy()), "bias": torch.from_numpy(bias)})
    module = runner.prepare(module)
    step = runner.train(
        module,
        lambda x: (torch.tanh(module(x)) - 2).square().mean(),
        runner.place(x),
        rate=rate,
        clip_norm=clip_norm,
    )
    np.testing.assert_allclose([step().item() for _ in range(3)], ours, rtol=1e-5)
    assert ours[2] < ours[1] < ours[0]


# ---- The command

_COUNTING = """
import collections, sys
import jax
from loco_jax.benchmark.__main__ import main
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
status = main(sys.argv[1:])
print("compiled", counts["compile_requests_use_cache"] - counts["cache_hits"])
sys.exit(status)
"""


def test_the_command_and_its_second_start(tmp_path):
    """Table, JSON and plot; started again it compiles nothing."""
    arguments = ["associate", "score", "--scale=demo", "--people=3", "--repeats=2", "--seconds=0.2"]
    arguments += [f"--json={tmp_path / 'a.json'}", f"--plot={tmp_path / 'a.png'}", "--scaling"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(ROOT), "LOCO_JAX_CACHE": str(tmp_path / "cache")}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _COUNTING, *arguments], cwd=ROOT, env=environment, text=True, capture_output=True
        )
        for _ in range(2)
    ]
    for output in outputs:
        assert output.returncode == 0, output.stderr
        assert output.stdout.startswith("demo scale, 3 people, batch 1, float32: ")
        assert "| associate |" in output.stdout and "| people 60 |" in output.stdout
    first, second = (int(output.stdout.rpartition("compiled ")[2]) for output in outputs)
    assert first > 5 and second == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["setting"]["people"] == 3 and content["machine"]["cores"] >= 1
    assert {row["function"] for row in content["rows"]} == {"associate", "score"}
    assert all(len(row["seconds"]) <= 2 for row in content["rows"])
    assert [entry["value"] for entry in content["scaling"]["people"]] == [1, 5, 20, 60] * 2
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("sorting", "no function sorting; there are render, "),
        ("--people=61", "--people=61 is not between 1 and 60"),
        ("--json=/no/such/a.json", "make it first"),
    ],
)
def test_impossible_requests(capsys, argument, message):
    from loco_jax.benchmark.__main__ import main

    assert main([argument]) == 1
    assert message in capsys.readouterr().err


def test_a_network_beside_itself_along_the_depth():
    """Each layer does to the channels of each of its copies what the narrow one does, the last copy cut off."""
    rng = np.random.default_rng(0)
    shapes = [jax.eval_shape(vha.VHA(2, n).init, jax.random.key(0), shape(1, 14, 8, 8, n)) for n in (16, 40)]
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes[0])
    widened = cases.along_depth(params, 40)  # twice and a half
    assert jax.tree.map(jnp.shape, widened) == jax.tree.map(lambda x: x.shape, shapes[1])
    layout = ("NHWC", "HWIO", "NHWC")
    plain = functools.partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=layout)
    for name, layer in params["params"].items():
        if "_2d_" not in name:
            np.testing.assert_array_equal(widened["params"][name]["kernel"], layer["kernel"])
            continue
        fan_in, fan_out = layer["kernel"].shape[2:]
        kernel, bias = (widened["params"][name][part] for part in ("kernel", "bias"))
        x = rng.normal(size=(6, 7, kernel.shape[2])).astype(np.float32)
        found = plain(x[None], kernel)
        for copy in range(3):
            part = x[..., copy * fan_in : (copy + 1) * fan_in]
            used = layer["kernel"][:, :, : part.shape[-1]]
            want = plain(part[None], used)
            got = found[..., copy * fan_out : (copy + 1) * fan_out]
            np.testing.assert_allclose(got, want[..., : got.shape[-1]], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(bias[copy * fan_out : (copy + 1) * fan_out], layer["bias"][: got.shape[-1]])


# ---- The weights made for it


def test_a_published_network_is_trained(monkeypatch, tmp_path, capsys):
    """A few steps in a small volume change every kernel and no bias; what is written loads, and is the last step's."""
    volume = Volume(image_size=(270, 480), stride=24, depth_bins=16, max_distance=25.0)
    monkeypatch.setattr(train_published, "CROWD", dataclasses.replace(crowds.DEMO, volume=volume))
    monkeypatch.setattr(train_published, "_EVERY", 2)
    monkeypatch.setattr(train_published, "_SIGMAS", (2.0, 2.0))  # compiled once
    seen, train_steps = [], train_published.train_steps

    def watched(*arguments):
        for done, params, loss in train_steps(*arguments):
            seen.append((done, jax.device_get(params)["params"], loss))
            yield done, params, loss

    monkeypatch.setattr(train_published, "train_steps", watched)
    file = tmp_path / "made" / "vha.safetensors"
    assert train_published.main([f"--output={file}", "--steps=5"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 2", "step 4", "step 5"]
    assert [done for done, *_ in seen] == [2, 4, 5] and all(0 < loss < np.inf for *_, loss in seen)
    like = jax.eval_shape(vha.VHA(2, 16).init, jax.random.key(0), shape(1, 14, 8, 8, 16))
    read = weights.read("vha", str(file), like)["params"]
    assert weights.load(file)[1]["made_by"].endswith("--steps=5")
    (_, earlier, _), *_, (_, last, _) = seen
    for name, layer in read.items():
        assert not layer["bias"].any()
        np.testing.assert_array_equal(layer["kernel"], last[name]["kernel"].astype(np.float16).astype(np.float32))
        assert (last[name]["kernel"] != earlier[name]["kernel"]).any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps=0"], "--steps=0 must be at least 1"),
        (["--steps=-3"], "--steps=-3 must be at least 1"),
        (["--output=."], ".: cannot be written (it is a folder); name another file"),
        (["--output="], "is a folder"),
        (["--output=README.md/weights"], "README.md"),
    ],
)
def test_impossible_trainings(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train_published, "train_steps", lambda *_: pytest.fail("began"))
    assert train_published.main(["--output=never", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not pathlib.Path("never").exists()
