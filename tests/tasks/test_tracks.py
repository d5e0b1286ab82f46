"""Tracks of people who are put into pictures' places by hand, so that their scores are known."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import experiment
from loco_jax.configs import loco, trunk
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames, Instant, Origin
from loco_jax.geometry.camera import Camera
from loco_jax.pose.association import People
from loco_jax.report import tables
from loco_jax.tasks import tracks
from loco_jax.tasks.people import PeopleTask
from tests.support import Mean
from tests.support.standing import person

LENGTH = 6
VOLUME = crowds.DEMO.volume


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Mean, PeopleTask):
    """Names the people of a list. The picture's first pixel is the frame's number."""

    network: None = None
    name = "told"

    def people_of_picture(self, params, image, camera):
        joints, scores = (values[image[0, 0, 0]] for values in params)
        return People(joints, scores, jnp.zeros((14, 1), bool))


def walkers() -> np.ndarray:
    """Three people, of whom the third walks beside the picture."""
    at = [[person((x + 0.3 * v * t, 0, z)) for x, v, z in ((-1, 1, 6), (2, 0, 9), (40, 1, 6))] for t in range(LENGTH)]
    return np.array(at, np.float32)


def film(joints, present=None):
    """A sequence at 3 frames a second."""
    for t, people in enumerate(joints):
        there = np.ones(people.shape[:2], bool) if present is None else present[t]
        image = np.full((*VOLUME.image_size, 3), t, np.uint8)
        camera = Camera(*map(np.float32, crowds.DEMO.camera))
        yield Instant(5 + t / 3, np.array([4, 9, 2])[: len(people)], Frames(people, there, camera, image))


def found(joints, scores=0.9):
    """People with these joints, one with a poor score, and an empty place."""
    scores = np.broadcast_to(np.float32(scores), joints.shape[:3]).copy()
    poor = np.broadcast_to(person((1, 0, 14)), (len(joints), 1, 14, 3))
    return (
        np.concatenate([joints, poor, 0 * poor], axis=1).astype(np.float32),
        np.concatenate([scores, 0.05 + 0 * scores[:, :1], 0 * scores[:, :1]], axis=1).astype(np.float32),
    )


def summary(films, params, task=Told(), **options):
    records = tracks.measure(task, params, VOLUME, films, **options)
    return json.loads(json.dumps(tracks.summarise(records), allow_nan=False))


def test_scores_of_people_who_are_found_with_known_errors():
    true, seen = walkers(), []
    joints = true[:, :2] + np.float32([[[0.2, 0, 0]], [[0, 0, 0]]])
    scores = np.full(joints.shape[:3], 0.9)
    joints[:, 0, 3], scores[:, 0, 3] = 0, 0  # a joint that is not found
    result = summary([film(true), film(true)], found(joints, scores), done=lambda: seen.append(0))
    assert len(seen) == result["frames"] == 2 * LENGTH and result["sequences"] == 2 and result["fps"] == 3
    assert list(result["systems"]) == ["told", "told, smoothed", "true poses"]
    told, smoothed, known = result["systems"].values()
    assert told["true"] == told["predicted"] == 4 * LENGTH  # nobody beside the picture, nobody with a poor score
    assert told["mota"] == told["idf1"] == told["ass_a"] == 1 and told["switches"] == 0
    # One of two people is 0.2 m away, so it does not match at the two highest of 19 thresholds.
    assert told["det_a"] == pytest.approx((17 + 2 / 3) / 19)
    assert told["error_cm"] == pytest.approx(20 * 13 / 27, abs=1e-3)
    assert smoothed["idf1"] == 1 and smoothed["error_cm"] != told["error_cm"]
    assert known["hota"] == known["mota"] == known["idf1"] == known["loc_a"] == 1 and known["error_cm"] == 0
    # People who walk on have no jolts.
    assert known["jitter_mm"] == known["true_jitter_mm"] == pytest.approx(0, abs=1e-2)
    table = tables.tracks_table(result)
    assert "told, smoothed" in table and "12 frames in 2 sequences at 3 frames/s" in table


def test_the_corrected_system_is_named():
    true = walkers()
    result = summary([film(true)], found(true[:, :2]), Told(refiner_weights="x"))
    assert list(result["systems"]) == ["told+", "told+, smoothed", "true poses"]
    assert result["systems"]["told+"]["hota"] == 1


def test_frames_without_people():
    true, present = walkers(), np.ones((LENGTH, 3, 14), bool)
    present[2:4] = False
    joints, scores = found(true[:, :2])
    scores[2] = 0
    told = summary([film(true, present)], (joints, scores))["systems"]["told"]
    assert told["misses"] == 0 and told["false_positives"] == 2 and told["true"] == 2 * (LENGTH - 2)
    nobody = summary([film(true, present & False)], (joints, 0 * scores))["systems"]
    for scores in nobody.values():
        assert scores["true"] == scores["predicted"] == scores["hota"] == 0 and scores["error_cm"] is None


def test_one_frame():
    true = walkers()
    result = summary([film(true[:1])], found(true[:, :2]))
    assert result["frames"] == 1 and result["fps"] is None
    assert all(scores["hota"] == 1 and scores["jitter_mm"] is None for scores in result["systems"].values())
    assert "1 frames in 1 sequence. 2 people" in tables.tracks_table(result)


def test_joints_that_the_data_set_lacks_do_not_count():
    """Head tops that jump about are jolts only where the data set has head tops."""
    true = walkers()
    jumping = true[:, :2].copy()
    jumping[::2, :, 0, 1] -= 0.2
    annotated = np.arange(14) > 0

    def lacking():
        for instant in film(true, np.broadcast_to(annotated, true.shape[:3])):
            origin = Origin(np.int32(0), np.float32(1), annotated, np.zeros(true.shape[1:3], bool))
            yield instant._replace(frame=instant.frame._replace(origin=origin))

    with_heads, without = (summary([frames], found(jumping))["systems"]["told"] for frames in (film(true), lacking()))
    assert with_heads["jitter_mm"] > 10 and without["jitter_mm"] == pytest.approx(0, abs=1e-2)
    assert without["hota"] == 1


def test_joints_outside_the_picture_do_not_count():
    """A true person whose feet are below the picture is compared by the joints in view."""
    low = np.repeat(person((0, 1.6, 4))[None, None], LENGTH, axis=0).astype(np.float32)
    told = low.copy()
    below = np.asarray(~VOLUME.in_view(crowds.DEMO.camera, low[0, 0]))
    assert 2 < below.sum() < 12
    told[:, :, below] += np.float32([0, 0, 3])
    assert summary([film(low)], found(told))["systems"]["told"]["error_cm"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "change", "word"),
    [
        (loco.get_config(2), {"sequences": -1}, "config.tracks.sequences=-1 must be at least 0"),
        (loco.get_config(2), {"frames": 0}, "config.tracks.frames=0 must be at least 1"),
        (loco.get_config(2), {"fps": 0.0}, "config.tracks.fps=0.0 must be a positive number"),
        (loco.get_config(2), {"fps": float("nan")}, "config.tracks.fps=nan must be a positive number"),
        (loco.get_config(2), {"fps": float("inf")}, "config.tracks.fps=inf must be a positive number"),
        (trunk.get_config(), {"sequences": 2}, "config.tracks.sequences=2 must be 0 for config.task=trunk"),
    ],
)
def test_fields_that_cannot_be(config, change, word):
    experiment.check(config)
    config.tracks.update(change)
    with pytest.raises(ValueError, match=word):
        experiment.check(config)
