"""Any run becomes a file of weights, which does what the run's folder did."""

import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from loco_jax import evaluate, experiment, export, tasks, weights
from loco_jax.configs import refiner, trunk, vha2
from loco_jax.runs import checkpoints
from loco_jax.runs import config as configs
from loco_jax.runtimes import files
from loco_jax.step import TrainState
from tests.support import ROOT

CONFIGS = {
    "vha": vha2.get_config("variant=patch,scale=demo"),
    "refiner": refiner.get_config("scale=demo"),
    "trunk": trunk.get_config("scale=demo"),
}


def write_run(folder: pathlib.Path, kind: str, averaged: bool):
    """A run's folder with a checkpoint as training saves it, and the parameters that it is to give."""
    config = CONFIGS[kind].copy_and_resolve_references()
    config.ema = 0.9 * averaged
    config.data.dir = config.init = "/somewhere"
    if kind == "refiner":
        config.spoil.predictor, config.spoil.found = "/elsewhere", 3
    task, seeds = experiment.create_task(config), iter(range(1000))

    def made(x):
        return np.random.default_rng(next(seeds)).normal(size=x.shape).astype(x.dtype)

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params, other = jax.tree.map(made, shapes), jax.tree.map(made, shapes)
    state = TrainState(
        step=np.int32(1),
        params=other if averaged else params,
        opt_state={},
        ema=params if averaged else None,
    )
    configs.claim(str(folder), config)
    with checkpoints.Checkpoints(str(folder)) as saved:
        saved.save(1, state, {"data": {}})
    return config, task, {name: value for name, value in params.items() if name != "found"}


@pytest.mark.parametrize("kind, averaged", [("vha", True), ("refiner", False), ("trunk", False)])
def test_a_run_of_any_task(tmp_path, kind, averaged):
    config, task, params = write_run(tmp_path / "run", kind, averaged)
    path = tmp_path / "new" / "weights.safetensors"
    export.export(str(tmp_path / "run"), str(path))
    found, about = weights.load(path)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert about["kind"] == kind and about["config"]["name"] == config.name
    # What the run's folder did, the file does.
    for source in (str(tmp_path / "run"), str(path)):
        read = weights.read(kind, source, tasks.network_shapes(task))
        jax.tree.map(np.testing.assert_array_equal, read, params)
        experiment.check_weights(task, source, "--weights")
        assert weights.config_of(source).task == kind
    # Names of files that need not be where it is used.
    text = json.dumps(about["config"])
    assert "somewhere" not in text and "elsewhere" not in text


def test_only_a_loco_has_rules_and_a_refiner(tmp_path):
    write_run(tmp_path / "run", "refiner", averaged=False)
    for options in ({"tune": 5}, {"refiner": "released"}):
        with pytest.raises(ValueError, match="--tune and --refiner are for a run of the task loco; .*is one of ref"):
            export.export(str(tmp_path / "run"), str(tmp_path / "file"), **options)


def test_where_no_file_can_be_is_known_before_the_work(tmp_path):
    (tmp_path / "a_file").touch()
    for name, reason in (("a_file/weights", "File exists"), (".", "it is a folder")):
        with pytest.raises(weights.WeightsError, match=rf"cannot be written \({reason}\); name another file"):
            weights.check_output(tmp_path / name)
    weights.check_output(tmp_path / "new" / "weights")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_user_sets_beside_weights_reaches_the_task(tmp_path, monkeypatch):
    """Of an evaluation with --weights: the task hears which fields of the config are the user's own."""
    heard = []

    def with_parts_of(task, source, given):
        heard.append(sorted(given))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "check_weights", lambda task, source, field: heard.append(source))
    monkeypatch.setattr(experiment, "with_parts_of", with_parts_of)
    monkeypatch.setattr(evaluate.distributed, "make_mesh", lambda size: types.SimpleNamespace())
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(CONFIGS["vha"], str(tmp_path), source="file", given=["refiner", "people.overlap"])
    assert heard == ["file", ["people.overlap", "refiner"]]


def test_a_file_of_weights_becomes_another(tmp_path):
    params, about = {"a": {"b": np.float32([1, 1e-3, 7e4])}, "c": np.float32([1 / 3])}, {"kind": "vha"}
    weights.save(tmp_path / "one", params, about)
    export.convert(str(tmp_path / "one"), str(tmp_path / "same"))
    export.convert(str(tmp_path / "one"), str(tmp_path / "half"), np.float16)
    assert weights.load(tmp_path / "same")[1] == weights.load(tmp_path / "half")[1] == about
    jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "same")[0], params)
    half = weights.load(tmp_path / "half")[0]
    assert half["c"] == np.float32(np.float16(1 / 3))
    np.testing.assert_array_equal(half["a"]["b"], params["a"]["b"])  # 7e4 is too large for half precision


def command(*arguments):
    words = [sys.executable, "-m", "loco_jax.export", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights=released", "--format=bvh"], "--format=bvh: there are safetensors, onnx, stablehlo"),
        (["--weights=released", "--batch=3"], "--batch goes with --format=onnx and --format=stablehlo"),
        (["--weights=released", "--format=onnx", "--batch=0"], "--batch=0: want a number of pictures from 1 to 1024"),
        (["--weights=released", "--format=onnx", "--tune=3"], "--format=onnx takes weights as they are"),
        (["--weights=released", "--tune=3"], "for a run's folder or for parts, not for a file of weights"),
        (["--weights=released", "--workdir=runs/a"], "say the same: give one of them"),
        (["--weights=released-refiner", "--format=stablehlo"], "holds weights of kind 'refiner', not a whole loco"),
        ([], "want either --weights or --workdir, or --config and --code_predictor"),
    ],
)
def test_impossible_requests(tmp_path, arguments, message):
    done = command(*arguments, f"--output={tmp_path / 'file'}")
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder(tmp_path):
    done = command("--weights=released", "--format=stablehlo", f"--output={tmp_path}")
    assert done.returncode == 1 and "(it is a folder); name another file" in done.stderr


def test_what_lies_in_the_way_stays(tmp_path):
    """The weights themselves, and a file of others where the facts beside StableHLO go."""
    given = tmp_path / "mine.safetensors"
    weights.save(given, {"a": np.float32([1])}, {"kind": "loco"})
    before = given.read_bytes()
    done = command(f"--weights={given}", "--format=onnx", f"--output={tmp_path}/./mine.safetensors")
    assert done.returncode == 1 and "holds the weights themselves; name another file" in done.stderr
    assert given.read_bytes() == before
    for content in ('{"people": []}', "no JSON"):
        (tmp_path / "street.about.json").write_text(content)
        done = command("--weights=released", "--format=stablehlo", f"--output={tmp_path / 'street'}")
        assert done.returncode == 1 and "street.about.json: is not a file that export wrote; move it" in done.stderr
        assert (tmp_path / "street.about.json").read_text() == content and not (tmp_path / "street").exists()


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"ONNX needs jax2onnx: pip install 'loco-jax\[onnx\]'"):
        files.need("jax2onnx")
