"""The systems without a code, from their configs: they learn, are scored with a refined row, and can be taken up."""

import dataclasses
import functools
import importlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import evaluate, experiment, train, weights
from loco_jax.configs import refiner as refiner_config
from loco_jax.data import crowd as crowds
from loco_jax.data import sources, streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.predict.predictor import load_predictor
from loco_jax.step import init_state, make_optimizer, train_step
from loco_jax.tasks import pretrained
from tests.support import logged
from tests.tasks.test_teaching import person


def _config(task, **changes):
    """A tiny network, and pictures of 64 x 96."""
    config = importlib.import_module(f"loco_jax.configs.{task}").get_config("scale=demo")
    config.volume.update({"image_size": (64, 96), "depth_bins": 8, "max_distance": 12.0})
    config.predictor.update({"width": 8, "blocks": 1})
    config.data.crowd.update({"min_people": 1, "mean_people": 1.0, "most_people": 1})
    config.data.batch_size, config.max_peaks, config.quiet = 1, 4, True
    config.optimizer.update({"name": "adam", "learning_rate": 0.003, "schedule": "constant", "warmup": 0})
    config.steps, config.log_every, config.checkpoint_every, config.ema = 30, 5, 100, 0.0
    config.eval_every, config.eval_frames, config.test_frames = 0, 1, 1
    config.update(changes)
    return config


@pytest.fixture
def one_frame(monkeypatch):
    """All scenes are one: somebody before noise, seen by a small camera."""

    def frame(key, crowd, pictures=False):
        del key
        joints = jnp.zeros((crowd.max_people, 14, 3)).at[0].set(person((0.13, 0, 4.2), 0.3))
        present = jnp.zeros(joints.shape[:2], bool).at[0].set(True)
        size = (*crowd.volume.image_size, 3)
        image = jax.random.randint(jax.random.key(0), size, 0, 256, jnp.uint8) if pictures else None
        return Frames(joints, present, Camera(*map(jnp.float32, crowd.camera)), image)

    few = {"min_people": 1, "mean_people": 2.0, "most_people": 4, "max_people": 4}
    small = dataclasses.replace(crowds.DEMO, camera=cameras.JTA.scaled(0.05), **few)
    monkeypatch.setattr(crowds, "DEMO", small)
    streams._compile_crowd.cache_clear()
    monkeypatch.setattr(streams, "crowd_frame", frame)
    yield
    streams._compile_crowd.cache_clear()


@pytest.mark.skipif("ALL_ROWS" not in os.environ, reason="slow, and much like tests/reproduce; ALL_ROWS=1 runs it")
def test_it_learns_a_frame_and_is_scored_with_a_refined_row(one_frame, tmp_path, monkeypatch):
    task = "volumetric"
    monkeypatch.setattr(evaluate, "STANDINGS", {"median": 0.5})  # of one frame, one picture
    fresh = pretrained.init_refiner(jax.random.key(1))
    weights.save(tmp_path / "refiner", fresh, {"kind": "refiner"})
    config = _config(task, refiner=str(tmp_path / "refiner"))
    run = tmp_path / "run"
    train.train(config, str(run), lambda _: None)
    losses = [line["loss"] for line in logged(run) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    said = []
    summary = evaluate.evaluate(config, str(run), said.append)
    name = "uncompressed volumetric heatmaps"
    rows = [name, f"{name}+", "GT volumetric heatmaps", "GT volumetric heatmaps, sub-voxel"]
    assert list(summary["systems"]) == rows
    table = (run / "eval" / "table.md").read_text()
    assert table.strip() in "\n".join(said) and all(f"| {row} " in table for row in rows)
    assert f"{name} is " in table and "LoCO(2) is" not in table and (run / "eval" / "median.png").exists()
    assert json.loads((run / "eval" / "results.json").read_text())["seconds_a_frame"].keys() == {
        "picture to maps",
        "maps to points",
        "points to people",
        "refinement",
    }
    # The run can be taken up, by others than predict.
    found, params, _, camera = experiment.load(str(run))
    assert found == experiment.create_task(config) and camera == cameras.JTA.scaled(0.05)
    jax.tree.map(np.testing.assert_array_equal, params["refiner"], fresh)
    people = jax.eval_shape(found.people_of_picture, params, np.zeros((64, 96, 3), np.uint8), camera)
    assert people.joints.shape == (4, 14, 3)
    with pytest.raises(
        weights.WeightsError, match=f"run: holds a run of the task {task}, not loco: predict supports only LoCO"
    ):
        load_predictor(str(run))


@pytest.mark.parametrize(("task", "scale"), [("location_maps", "demo"), ("volumetric", "full")])
def test_config_trains_a_step(task, scale):
    """By the shapes alone."""
    config = importlib.import_module(f"loco_jax.configs.{task}").get_config(f"scale={scale}")
    config.predictor.blocks = 1  # sooner traced
    finder, optimizer = experiment.create_task(config), make_optimizer(config)
    rows, columns, bins = {"full": (136, 240, 316), "demo": (40, 60, 80)}[scale]
    assert finder.volume.shape == (rows, columns, bins) and config.name == task + "_demo" * (scale == "demo")

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((2, *sizes), dtype)

    image = shape(*config.volume.image_size, 3, dtype=jnp.uint8)
    frames = Frames(shape(8, 14, 3), shape(8, 14, dtype=bool), Camera(*[shape()] * 4), image)
    state = jax.eval_shape(lambda: init_state(finder, optimizer, config))
    step = functools.partial(train_step, task=finder, optimizer=optimizer, stage=0, seed=0, ema=config.ema)
    after, scalars = jax.eval_shape(step, state, frames)
    loss = scalars["loss"]
    assert loss.shape == () and loss.dtype == jnp.float32
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    made = jax.eval_shape(finder.look, state.params, image, frames.camera)
    assert {x.shape[2:4] for x in jax.tree.leaves(made)} == {(rows, columns)}


@pytest.mark.parametrize(
    ("task", "change", "field"),
    [
        ("location_maps", {"predictor": {"location_weight": -1.0}}, "predictor.location_weight=-1.0"),
        ("volumetric", {"model": {"loss": "other"}}, "model.loss='other'; there are entropy, squared"),
        ("volumetric", {"refiner": "picture"}, "refiner=picture is for config.task=loco"),
        ("volumetric", {"sigmas": (2.0, 1.0)}, "sigmas=.* one number"),
        ("location_maps", {"volume": {"stride": 16}}, "volume.stride=16 must be 8"),
        ("location_maps", {"predictor": {"coarsest": 48}}, "predictor.coarsest=48"),
        ("location_maps", {"data": {"pictures": False}}, "data.pictures must be True"),
        ("volumetric", {"mesh": {"rows": 2}}, "mesh.rows=2"),
    ],
)
def test_fields_that_cannot_work(task, change, field):
    config = importlib.import_module(f"loco_jax.configs.{task}").get_config("scale=demo")
    config.update(change)
    with pytest.raises(ValueError, match=f"config.{field}"):
        experiment.check(config)


def test_weights_of_other_heatmaps_are_refused(tmp_path):
    """Shapes do not tell how far a volume reaches."""
    config = _config("volumetric")
    weights.save(tmp_path / "file", {}, {"kind": "volumetric", "config": weights.portable(config)})
    experiment.check_weights(experiment.create_task(config), str(tmp_path / "file"), "--weights")
    config.volume.max_distance, config.sigmas = 13.0, (1.0,)
    wanted = "max_distance is 12.0 there, 13.0 here; the last of sigmas is 2.0 there, 1.0 here"
    with pytest.raises(weights.WeightsError, match=wanted):
        experiment.check_weights(experiment.create_task(config), str(tmp_path / "file"), "--weights")


def test_a_file_of_weights_can_be_taken_up(one_frame, tmp_path):
    config = _config("location_maps", refiner="somewhere")
    task = experiment.create_task(config)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), jax.eval_shape(task.init, jax.random.key(0)))
    weights.save(tmp_path / "file", params, {"kind": config.task, "config": weights.portable(config)})
    found, read, theirs, _ = experiment.load(str(tmp_path / "file"))
    assert found == dataclasses.replace(task, refiner_weights="") and theirs.task == config.task
    jax.tree.map(np.testing.assert_array_equal, read, params)
    weights.save(tmp_path / "other", params, {"kind": "trunk", "config": weights.portable(config)})
    with pytest.raises(weights.WeightsError, match="holds weights of kind 'trunk', not a whole loco"):
        experiment.load(str(tmp_path / "other"))


def test_a_refiner_may_learn_from_any_finder(monkeypatch):
    """The people come from the task and the parameters that the config names."""
    config = refiner_config.get_config("scale=demo")
    config.spoil.update(predictor="somewhere", found=3)
    config.quiet = True
    theirs = _config("location_maps")
    task, heard = experiment.create_task(theirs), []
    monkeypatch.setattr(experiment, "load", lambda source: (task, {"predictor": {}, "refiner": 1}, theirs, None))
    monkeypatch.setattr(sources.CrowdData, "training_stream", lambda self, sharding: [])
    monkeypatch.setattr(experiment, "find", lambda task, params, *rest: heard.append((task, params)) or {})
    assert experiment.find_people(config) == {}
    assert heard == [(dataclasses.replace(task, refiner_weights=""), {"predictor": {}})]
