"""The top-down task: an oracle in place of its networks gives the true people; its losses fall; what is scored."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from loco_jax import experiment, report
from loco_jax.configs import top_down as config
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import refiner
from loco_jax.models.top_down import Pose, TopDown
from loco_jax.pose import boxes, lifting
from loco_jax.tasks import people, pretrained, teaching, top_down
from loco_jax.tasks.top_down import TopDownTask
from tests.tasks.test_teaching import person

SIZE = (64, 96)
CAMERA = Camera(*(np.full(1, f, np.float32) for f in (60.0, 60.0, 48.0, 32.0)))
HIPS = list(skeleton.PAIRS["hips"])


def _frames(*people):
    joints = np.zeros((1, 3, 14, 3), np.float32)
    joints[0, : len(people)] = np.reshape(people, (-1, 14, 3))
    present = np.broadcast_to((np.arange(3) < len(people))[None, :, None], joints.shape[:3]).copy()
    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    return Frames(joints, present, CAMERA, image, None)


@functools.lru_cache
def _task():
    network = TopDown(width=8, blocks=1, coarsest=32, lifting=32)
    return TopDownTask(network=network, volume=Volume(SIZE, 8, 8, 25.0), sigma=1.0, max_peaks=4)


class _Oracle:
    """Stands for the networks: says the truth of a single person, in any crop."""

    def __init__(self, joints):
        camera = jax.tree.map(lambda f: jnp.asarray(f[0]), CAMERA)
        uv = cameras.project(camera, jnp.asarray(joints))
        self.box = boxes.around(uv[None], np.ones((1, 14), bool))
        square = boxes.squares(self.box)
        places = boxes.to_crop(uv[None], square)[0]
        cells = jnp.arange(16) + 0.5
        share = jnp.maximum(1 - jnp.abs(places[..., None] * 16 - cells), 1e-9)  # its mean is the place
        self.heatmaps = jnp.log(share[:, 1, :, None] * share[:, 0, None, :]).transpose(1, 2, 0)
        true = teaching.true_poses(jnp.asarray(joints))
        root = boxes.to_crop(
            cameras.project(camera, jnp.asarray(joints)[jnp.array(HIPS)].mean(axis=0))[None], square[0]
        )
        usual = lifting.ordinary_distance(lifting.seen_from(self.box, camera))
        self.offsets = true.offsets
        self.place = jnp.concatenate([root[0] - places[jnp.array(HIPS)].mean(axis=0), true.distance - usual])
        self.crops = []

    def apply(self, variables, *arguments, method):
        if method == "features":
            return arguments[0]
        if method == "detect":
            target = boxes.targets(self.box, np.ones(1, bool), (8, 12), 8)
            heat = jnp.clip(target.heat, 1e-3, 0.999)
            numbers = boxes.encode(self.box[target.owner], 8)
            return jnp.concatenate([jnp.log(heat / (1 - heat))[..., None], numbers], axis=-1)[None]
        count = len(arguments[0].heatmaps if method == "place" else arguments[0])
        if method == "look":
            self.crops.append(count)
            numbers = Pose(self.heatmaps, jnp.full(14, 5.0), jnp.zeros(4))
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), numbers)
        said = {"lift": self.offsets, "place": self.place}[method]
        return jnp.broadcast_to(said, (count, *said.shape))


PERSON = person((0.3, 0.1, 4), 0.6)


@functools.lru_cache
def _with_oracle():
    return dataclasses.replace(_task(), network=_Oracle(PERSON))


@functools.lru_cache
def _found():
    task, frames = _with_oracle(), _frames(PERSON)
    find = jax.jit(lambda frames: task.predict({"predictor": {}}, frames, jax.random.key(0), thorough=False))
    return jax.device_get(find(frames)), frames


def test_the_truth_gives_the_true_joints():
    found, _ = _found()
    joints, known = found.people.people["Top-down"]
    np.testing.assert_array_equal(known[0].sum(axis=1), [14, 0, 0, 0])
    np.testing.assert_allclose(joints[0, 0], PERSON, atol=2e-3)


def test_people_of_a_picture_are_those_of_its_boxes():
    task, frames = _with_oracle(), _frames(PERSON)
    camera = jax.tree.map(lambda f: f[0], CAMERA)
    found = jax.jit(task.people_of_picture)({"predictor": {}}, frames.image[0], camera)
    np.testing.assert_allclose(found.joints[0], PERSON, atol=2e-3)
    assert found.strays.shape == (14, 4) and not found.strays.any()
    assert (np.asarray(found.scores)[0] > 0.3).all() and not np.asarray(found.scores)[1:].any()


def test_the_truth_scores_full():
    found, frames = _found()
    task = _with_oracle()
    summary = task.summary(task.score(found, frames))
    assert (summary["ap50"], summary["pck"], summary["boxes"], summary["pck_joints"]) == (1, 1, 1, 14)
    assert summary["systems"]["Top-down"]["hungarian"]["0.4 m"]["f1"] == 1
    headline = task.headline(summary)
    assert headline["ap50"] == headline["pck"] == headline["f1_0.4m"] == 1
    table = report.table_of("top_down", summary)
    assert "AP50" in table and "100.0" in table and "Top-down" in table
    assert task.rank(task.score(found, frames)[0]) == 1
    assert report.picture(task, found, frames, 0, "title").axes


def test_wrong_boxes_and_joints_score_nothing():
    found, frames = _found()
    task = _with_oracle()
    moved = found._replace(boxes=found.boxes._replace(boxes=found.boxes.boxes + 40), pixels=found.pixels + 40)
    summary = task.summary(task.score(moved, frames))
    assert (summary["ap50"], summary["pck"]) == (0, 0)
    nobody = found._replace(true=found.true._replace(there=~found.true.there & False, known=found.true.known & False))
    summary = task.summary(task.score(nobody, frames))
    assert summary["ap50"] is None and summary["pck"] is None and "ap50" not in task.headline(summary)
    assert report.table_of("top_down", summary)


def test_the_truth_has_no_error_but_the_entropy():
    task, frames = _with_oracle(), _frames(PERSON)
    _, errors = jax.jit(lambda frames: task.loss({"predictor": {}}, frames, jax.random.key(0), 0))(frames)
    assert float(errors["box_error"]) < 1e-6 and float(errors["offset_error"]) < 1e-6
    target = np.asarray(boxes.targets(task.network.box, np.ones(1, bool), (8, 12), 8).heat, np.float64)
    heat = np.clip(target, 1e-3, 0.999)
    want = -np.sum(target * np.log(heat) + (1 - target) * np.log(1 - heat))
    assert float(errors["centre_error"]) == pytest.approx(0.2 * want, rel=1e-3)


def test_seen_people_are_those_with_targets():
    frames = _frames(PERSON, person((30, 0, 5)), person((0, 0, 30)))
    seen = top_down.see(frames, _task().volume)
    np.testing.assert_array_equal(seen.there, [[True, False, False]])
    uv = np.asarray(cameras.project(jax.tree.map(lambda f: f[0], CAMERA), PERSON))
    margin = 0.06 * np.ptp(uv, axis=0).max()
    np.testing.assert_allclose(seen.boxes[0, 0], [*(uv.min(axis=0) - margin), *(uv.max(axis=0) + margin)], rtol=1e-4)


_OPTIMISER = optax.adam(3e-3)


@jax.jit
def _step(params, state, frames):
    gradients = jax.value_and_grad(_task().loss, has_aux=True)
    (_, errors), gradient = gradients(params, frames, jax.random.key(1), 0)
    updates, state = _OPTIMISER.update(gradient, state)
    return optax.apply_updates(params, updates), state, errors, gradient


def test_losses_fall_and_gradients_reach_all_parts():
    frames = _frames(PERSON, person((-1.2, 0, 5), 2.0))
    params = _task().init(jax.random.key(0))
    state, history = _OPTIMISER.init(params), []
    for turn in range(25):
        params, state, errors, gradient = _step(params, state, frames)
        history.append({name: float(error) for name, error in errors.items()})
        if not turn:
            for path, value in jax.tree_util.tree_leaves_with_path(gradient):
                assert np.isfinite(value).all() and np.abs(value).max() > 0, jax.tree_util.keystr(path)
    errors = ["centre", "box", "heatmap", "seen", "offset", "place"]
    assert set(history[0]) == {f"{name}_error" for name in errors}
    assert all(history[-1][name] < 0.95 * first for name, first in history[0].items()), (history[0], history[-1])


def test_an_empty_picture_has_finite_gradients():
    params = _task().init(jax.random.key(0))
    *_, gradient = _step(params, _OPTIMISER.init(params), _frames())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_stages_are_timed():
    seconds = _with_oracle().stage_seconds({"predictor": {}}, _frames(PERSON))
    assert set(seconds) == {"picture to boxes", "boxes to people"} and min(seconds.values()) > 0


def test_a_refiner_and_true_heatmaps_are_further_systems():
    def find(key):
        params = {"predictor": {}, "refiner": pretrained.init_refiner(key)}
        return _with_oracle().predict(params, _frames(PERSON), key, thorough=True)

    found = jax.eval_shape(find, jax.random.key(0)).people
    assert set(found.systems) == set(found.people)
    assert set(found.systems) == {"Top-down", "Top-down+", people.GROUND_TRUTH, people.SUBVOXEL}


def test_configs_make_the_task():
    c = config.get_config("scale=demo")
    task = experiment.create_task(c)
    assert isinstance(task, TopDownTask) and task.name == "Top-down"
    assert "6," in task.describe() and "270 x 480" in task.describe()
    experiment.check(c)
    for change, word in (({"lifting": 0}, "lifting"), ({"width": 0}, "width"), ({"coarsest": 48}, "coarsest")):
        wrong = c.copy_and_resolve_references()
        wrong.predictor.update(change)
        with pytest.raises(ValueError, match=word):
            experiment.check(wrong)


def test_a_box_of_low_score_has_no_holes_for_the_refiner():
    """Of a box with a score of 0.15 the refiner gets all joints; the people who are named have both scores."""
    task, frames = _with_oracle(), _frames(PERSON)
    camera, params = jax.tree.map(lambda f: f[0], CAMERA), {"predictor": {}}
    found = boxes.Boxes(task.network.box, np.full(1, 0.15, np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TopDownTask, "boxes_of_picture", lambda *_: found)
        got = []
        patch.setattr(TopDownTask, "correct", lambda self, params, people, *_: got.append(people))
        seen = task.people_to_refine(params, frames.image[0], camera)
        named = task.people_of_picture(params, frames.image[0], camera)
        predicted = task.predict(params, frames, jax.random.key(0), thorough=False)
    np.testing.assert_array_equal(got[0].scores, seen.scores)
    assert (seen.scores > refiner.LEAST_SCORE).all()
    assert not predicted.people.people["Top-down"][1].any()  # the mean score is too low to be named
    np.testing.assert_allclose(named.scores, 0.15 * seen.scores, rtol=1e-6)
