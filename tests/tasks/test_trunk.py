"""Pretraining of the trunk: what is scored, and that LoCO starts from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import experiment, report, train, weights
from loco_jax.configs import loco as loco_config
from loco_jax.configs import trunk as trunk_config
from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry.camera import Camera
from loco_jax.tasks import teaching, trunk
from tests.tasks.test_teaching import _frames, person


def _config(**options):
    config = trunk_config.get_config("scale=demo")
    config.predictor.update({"width": 8, "blocks": 1, **options})
    config.data.crowd.update({"min_people": 1, "mean_people": 2.0, "most_people": 3})
    config.update({"steps": 2, "eval_every": 0, "eval_frames": 2, "checkpoint_every": 2, "log_every": 1, "quiet": True})
    return config


@pytest.fixture
def without_renderer(monkeypatch):
    """Frames of one person before noise: the renderer takes long to compile."""

    def frame(key, crowd, pictures=False):
        joints = jnp.zeros((crowd.max_people, 14, 3)).at[0].set(person((0, 0, 4)))
        present = jnp.zeros(joints.shape[:2], bool).at[0].set(True)
        image = jax.random.randint(key, (*crowd.volume.image_size, 3), 0, 256, jnp.uint8) if pictures else None
        return Frames(joints, present, Camera(*map(jnp.float32, crowd.camera)), image, jnp.float32([0, -1, 0, 2]))

    streams._compile_crowd.cache_clear()
    monkeypatch.setattr(streams, "crowd_frame", frame)
    yield
    streams._compile_crowd.cache_clear()


@functools.lru_cache
def _task():
    return experiment.create_task(_config())


def _found(frames, change):
    true = teaching.true_poses(jnp.asarray(frames.joints))
    said = jax.tree.map(np.array, true)
    view = np.concatenate([frames.ground[:, :3], np.log(frames.ground[:, 3:])], axis=-1)
    found = trunk.Found(said, true, teaching.readable(frames, _task().volume), view, frames.ground)
    change(found)
    return jax.device_get(found)


def _summary(frames, change=lambda found: None):
    task = _task()
    return task.summary(task.score(_found(frames, change), frames))


def test_the_truth_scores_full():
    frames = _frames(person((0, 0, 3)), person((0.5, 0, 4), np.pi))
    summary = _summary(frames)
    assert summary["people"] == 2 and summary["pose_cm"] < 1e-3 and summary["distance_percent"] < 1e-3
    assert summary["sides"] == {"shoulders": 100, "wrists": 100, "hips": None, "ankles": None}  # hips: 0.8 of a cell
    assert summary["up_degrees"] < 0.1 and summary["height_percent"] < 1e-3
    headline = _task().headline(summary)  # shares, and not of what LoCO calls sides
    assert {name: value for name, value in headline.items() if "_cm" not in name and "_percent" not in name} == {
        "told_shoulders": 1.0,
        "told_wrists": 1.0,
        "up_degrees": summary["up_degrees"],
    }
    table = report.table_of("trunk", summary)
    assert "shoulders" in table and "hips" not in table


def test_errors_are_what_they_are_called():
    frames = _frames(person((0, 0, 3)))

    def change(found):
        found.poses.offsets[..., 0] *= -1  # left for right
        found.poses.distance[:] += np.log(1.1)
        found.view[:, 3] += np.log(0.8)
        found.view[:, :3] = np.float32([0, -np.cos(np.radians(3)), np.sin(np.radians(3))])

    summary = _summary(frames, change)
    assert summary["sides"]["shoulders"] == 0 and summary["sides"]["wrists"] == 0
    widths = [2 * abs(x) for x in (person((0, 0, 0)))[:, 0]]
    assert summary["pose_cm"] == pytest.approx(100 * np.mean(widths), rel=1e-3)
    assert summary["distance_percent"] == pytest.approx(10, rel=1e-3)
    assert summary["height_percent"] == pytest.approx(20, rel=1e-3)
    assert summary["up_degrees"] == pytest.approx(3, rel=1e-2)


def test_nobody_there():
    summary = _summary(_frames())
    assert summary["people"] == 0 and summary["pose_cm"] is None
    assert "0 people" in report.table_of("trunk", summary)
    assert all(isinstance(v, float) for v in _task().headline(summary).values())


def test_loco_starts_from_a_trained_trunk(tmp_path, without_renderer):
    """A run of two steps; LoCO takes all of it, and makes a head of its own. Its pictures are drawn."""
    config = _config()
    summary = train.train(config, str(tmp_path / "trunk"), say=lambda line: None)
    assert summary["frames"] == 2
    loco = loco_config.get_config(2, "variant=patch,trunk=compact,scale=demo")
    loco.predictor.update({"width": 8, "blocks": 1, "trunk_weights": str(tmp_path / "trunk")})
    loco.vha = "released"
    task = experiment.create_task(loco)
    experiment.check_sources(loco, task)
    new = jax.jit(task.init)(jax.random.key(5))
    params = task.pretrained(new)
    trained = weights.read_run(tmp_path / "trunk", config, jax.eval_shape(_task().init, jax.random.key(0)))
    assert set(trained["params"]) == {"trunk", "joints", "poses", "view"}
    for name, part in trained["params"].items():
        jax.tree.map(np.testing.assert_array_equal, params["predictor"]["params"][name], part)
    head = new["predictor"]["params"]["head"]
    jax.tree.map(np.testing.assert_array_equal, params["predictor"]["params"]["head"], head)
    loco.predictor.width = 16
    with pytest.raises(weights.WeightsError, match="predictor.trunk_weights.*not the weights of this network"):
        experiment.check_sources(loco, experiment.create_task(loco))


def test_a_picture_is_drawn():
    frames = _frames(person((0, 0, 3)))
    figure = report.picture(_task(), _found(frames, lambda found: None), frames, 0, "a frame")
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("predictor.trunk", "inception"), ("data.pictures", False), ("predictor.coarsest", 48)]
)
def test_configs_that_cannot_be(field, value):
    config = _config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=field):
        experiment.create_task(config)


def test_training_scenes_have_as_many_people_as_asked_for():
    config = trunk_config.get_config("scale=demo")
    config.data.crowd.update({"min_people": 4, "mean_people": 14.0, "most_people": 24})
    crowd = streams.training_crowd(config)
    assert (crowd.min_people, crowd.mean_people, crowd.most_people, crowd.max_people) == (4, 14, 24, 24)
    assert streams.crowd_of(config) == crowds.DEMO  # what is scored stays
    count = jax.jit(lambda i: crowds.sample_scene(crowds.scene_key("train", i), crowd).present.sum())
    counts = [int(count(i)) for i in range(300)]
    assert 4 <= min(counts) and max(counts) <= 24 and np.mean(counts) == pytest.approx(14, abs=1)
    config.data.crowd.most_people = 0  # the scale's own 8, and a mean of 14
    with pytest.raises(ValueError, match="data.crowd"):
        streams.training_crowd(config)
    config.data.crowd.update({"min_people": 0, "mean_people": 0.0})
    assert streams.training_crowd(config) == crowds.DEMO
