"""Any run becomes a file of weights, which does what the run's folder did."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from loco_jax import evaluate, experiment, export, tasks, weights
from loco_jax.configs import refiner, trunk, vha2
from loco_jax.runs import checkpoints
from loco_jax.runs import config as configs
from loco_jax.step import TrainState

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
        sums={},
        bad_step=np.int32(0),
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
