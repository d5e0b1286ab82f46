"""Any task that finds people is scored alike, with or without codes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import report
from loco_jax.data.frames import Frames
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.pose.people import Points, find_people
from loco_jax.tasks import people

VOLUME = Volume((96, 160), 8, 16, 16.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(people.PeopleTask):
    """Names the true people, a metre to the right of where they are; its "refiner" puts them right."""

    network: str = ""
    name = "Shifted"

    def init(self, key):
        return {}

    def loss(self, params, frames, key, stage):
        return jnp.float32(0), {}

    def points(self, frame):
        xyz = jnp.swapaxes(frame.joints, 0, 1) + jnp.float32([1, 0, 0])
        return Points(xyz, jnp.where(frame.present.T, 0.9, 0.0).astype(jnp.float32), None)

    def people_of_picture(self, params, image, camera):
        raise NotImplementedError

    def refine(self, params, found, features, camera):
        if not self.refiner_weights:
            return None
        return found._replace(joints=jnp.where(found.known[..., None], found.joints - jnp.float32([1, 0, 0]), 0))

    def predict(self, params, frames, key, thorough):
        def one(frame):
            points = self.points(frame)
            found = find_people(points)
            corrected = self.correct(params, found, None, frame.camera)
            known = people.true_heatmaps(frame, VOLUME, 1.0, 8) if thorough else {}
            systems, groups = self.results(points, found, corrected, frame.camera, known)
            voxels, present = people.targets(frame, VOLUME)
            return people.Found(systems, groups, present, people.touching(voxels, present))

        return jax.lax.map(one, frames)


def _frames():
    """Two frames; the first has two people 3 m apart, the second one of them."""
    body = 0.25 * np.stack([np.array([j % 3 - 1, j // 3 - 2, 0]) for j in range(14)])
    joints = np.float32([[body + [-1.5, 0, 9], body + [1.5, 0.2, 8]]] * 2)
    present = np.ones((2, 2, 14), bool)
    present[1, 1] = False
    camera = Camera(*(np.full(2, x, np.float32) for x in (120, 120, 80, 48)))
    return Frames(joints, present, camera, np.zeros((2, *VOLUME.image_size, 3), np.uint8))


def _found(task, thorough=True):
    found = jax.jit(lambda frames: task.predict({}, frames, jax.random.key(0), thorough))(_frames())
    records = task.score(jax.device_get(found), _frames())
    return jax.device_get(found), records, task.summary(records)


def test_a_task_without_codes_is_scored():
    task = Shifted(refiner_weights="some")
    _, records, summary = _found(task)
    systems = json.loads(json.dumps(summary))["systems"]
    assert list(systems) == ["Shifted", "Shifted+", people.GROUND_TRUTH, people.SUBVOXEL]
    for matching in people.MATCHINGS:
        shifted, refined = systems["Shifted"][matching], systems["Shifted+"][matching]
        assert (shifted["0.8 m"]["recall"], shifted["1.2 m"]["recall"], refined["0.4 m"]["f1"]) == (0, 1, 1)
    assert systems["Shifted"]["error_cm"] == pytest.approx(100, abs=0.01)
    assert systems["Shifted+"]["error_cm"] == pytest.approx(0, abs=0.01)
    assert systems["Shifted+"]["people"]["found"] == systems["Shifted+"]["people"]["true"] == 3
    assert systems["Shifted"]["people"]["found"] == 0
    # A metre to the right is more than the 40 pixels, of JTA's, by which people are matched.
    published = {name: system["protocols"] for name, system in systems.items()}
    assert published["Shifted"]["matched"] == published["Shifted"]["absolute"]["pck_all"] == 0
    assert published["Shifted+"]["matched"] == 3 and published["Shifted+"]["absolute"]["pck_all"] == 1
    assert published["Shifted+"]["absolute"]["mpjpe_mm"] == pytest.approx(0, abs=0.01)
    assert "3DPCK rel." in report.table_of("loco", {"data": "toys, test split", **summary})
    assert systems[people.SUBVOXEL]["error_cm"] < systems[people.GROUND_TRUTH]["error_cm"] < 100
    assert summary["joints"] == 3 * 14 and summary["made_of"]["refiner"] == "some"
    assert [task.rank(record) for record in records] == [1, 1]


def test_a_summary_has_only_what_its_task_has():
    task = Shifted()
    _, records, summary = _found(task, thorough=False)
    assert not {"code_error", "frames_with_too_many_peaks", "level"} & set(summary)
    assert set(summary["systems"]) == {"Shifted"} and "own_side" not in summary["systems"]["Shifted"]
    headline = task.headline(summary)
    assert headline["f1_1.2m"] == 1 and headline["people_recall"] == 0
    assert not any(name.startswith(("code", "side")) for name in headline)
    assert task.rank(records[0]) == 0  # without a "+" system


def test_only_people_who_are_sure_are_named():
    sure, unsure = (Shifted(kept=Shifted.kept._replace(min_score=score, overlap=0.0)) for score in (0.85, 0.95))
    for task, count in ((sure, 3), (unsure, 0)):
        found, _, summary = _found(task, thorough=False)
        assert found.people["Shifted"][1].any(axis=-1).sum() == summary["systems"]["Shifted"]["people"]["predicted"]
        assert summary["systems"]["Shifted"]["people"]["predicted"] == count
        assert summary["systems"]["Shifted"]["hungarian"]["1.2 m"]["recall"] == 1  # joints count all the same


def test_a_frame_of_a_task_without_codes_is_drawn():
    found, _, _ = _found(Shifted(), thorough=False)
    assert len(report.picture(Shifted(), found, _frames(), 0, "a frame").axes) == 2


def test_joints_that_touch_are_counted():
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 6, (7, 14, 3)).astype(np.float32)
    present = rng.random((7, 14)) < 0.8
    want = [
        any(
            p != q and present[p, j] and present[q, j] and np.abs(voxels[p, j] - voxels[q, j]).max() <= 1
            for q in range(7)
        )
        for p in range(7)
        for j in range(14)
    ]
    assert 0 < sum(want) < 98
    np.testing.assert_array_equal(people.touching(voxels, present), np.reshape(want, (7, 14)))
