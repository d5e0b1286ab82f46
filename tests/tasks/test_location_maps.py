"""Location Maps: the loss in closed form, and what the truth scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.data.frames import Frames, Origin
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.location_maps import LocationMapsPredictor, Maps
from loco_jax.tasks import location_maps, refiner
from tests.tasks.test_teaching import person

VOLUME = Volume((128, 192), 8, 16, 16.0)
CAMERA = Camera(*(np.full(1, f, np.float32) for f in (150.0, 150.0, 96.0, 64.0)))


class Oracle(LocationMapsPredictor):
    """Makes of any picture the maps that are its parameters."""

    def apply(self, variables, *arguments, **options):
        return variables


def frames_of(*people) -> Frames:
    """One frame with these people, and room for one more."""
    joints = np.zeros((1, len(people) + 1, 14, 3), np.float32)
    joints[0, : len(people)] = people
    return Frames(joints, (joints != 0).any(axis=-1), CAMERA, np.zeros((1, *VOLUME.image_size, 3), np.uint8))


# No joint lies halfway between two voxels, where rounding decides.
FRAMES = frames_of(person((-1.23, 0.02, 5)), person((1.22, 0.1, 5.5), 0.3))


def _task(**options) -> location_maps.LocationMapsTask:
    return location_maps.LocationMapsTask(
        network=Oracle(), volume=VOLUME, sigma=1.0, max_peaks=8, least_joints=5, **options
    )


def _true(frames=FRAMES) -> Maps:
    return jax.jit(jax.vmap(_task().true_maps))(frames._replace(image=None))


def _logits(heatmaps) -> np.ndarray:
    clipped = np.clip(np.asarray(heatmaps, np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_loss_in_closed_form(weight):
    rng, true = np.random.default_rng(0), jax.device_get(_true())
    logits = rng.normal(-2, 1, true.heatmaps.shape).astype(np.float32)
    # Errors below and above the Huber loss's unit of 0.5 m.
    xyz = (true.xyz + rng.normal(0, 0.7, true.xyz.shape)).astype(np.float32)
    task, params = _task(location_weight=weight), {"predictor": Maps(logits, xyz)}
    loss, logged = jax.jit(lambda params, frames: task.loss(params, frames, jax.random.key(0), 0))(params, FRAMES)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    heatmaps = true.heatmaps.astype(np.float64)
    entropy = -np.sum(heatmaps * np.log(probability) + (1 - heatmaps) * np.log(1 - probability)) / 28
    near = heatmaps > 0.5
    error = np.abs(xyz.astype(np.float64) - true.xyz)[near] / 0.5
    huber = np.where(error < 1, error**2 / 2, error - 0.5).mean(axis=-1)
    location = np.average(huber, weights=heatmaps[near])
    assert float(logged["heatmap_error"]) == pytest.approx(entropy, rel=1e-4)
    assert float(logged["location_error"]) == pytest.approx(location, rel=1e-4)
    assert float(loss) == pytest.approx(entropy + weight * location, rel=1e-4)


def test_joints_that_a_data_set_lacks_are_no_targets():
    present = FRAMES.present.copy()
    present[..., 0] = False
    origin = Origin(np.zeros(1, np.int32), np.ones(1, np.float32), np.arange(14)[None] > 0, np.zeros_like(present))
    frames = FRAMES._replace(present=present, origin=origin)
    true = jax.device_get(_true())
    logits = np.random.default_rng(0).normal(-2, 1, true.heatmaps.shape).astype(np.float32)

    @jax.value_and_grad
    def loss(logits):
        return _task().loss({"predictor": Maps(logits, true.xyz)}, frames, jax.random.key(0), 0)[0]

    value, gradients = jax.jit(loss)(logits)
    p, heatmaps = (1 / (1 + np.exp(-logits.astype(np.float64))))[:, 1:], true.heatmaps[:, 1:]
    assert float(value) == pytest.approx(-np.sum(heatmaps * np.log(p) + (1 - heatmaps) * np.log(1 - p)) / 26, rel=1e-4)
    assert not gradients[:, 0].any() and all(gradients[0, j].any() for j in range(1, 14))


def test_positions_far_from_joints_do_not_matter_and_an_empty_picture_has_no_error_of_them():
    true = jax.device_get(_true())
    elsewhere = np.where((true.heatmaps > 0.5)[..., None], true.xyz, 99).astype(np.float32)
    params = {"predictor": Maps(_logits(true.heatmaps), elsewhere)}
    loss = jax.jit(lambda params, frames: _task().loss(params, frames, jax.random.key(0), 0)[1])
    assert float(loss(params, FRAMES)["location_error"]) == 0
    empty = loss(params, FRAMES._replace(present=np.zeros_like(FRAMES.present)))
    assert float(empty["location_error"]) == 0 and np.isfinite(float(empty["heatmap_error"]))


_predict = jax.jit(lambda params, frames: _task().predict(params, frames, jax.random.key(0), thorough=True))


def _scored(frames):
    """A network that says the true maps: its summary and predictions."""
    true = _true(frames)
    params = {"predictor": Maps(jnp.asarray(_logits(true.heatmaps)), true.xyz)}
    predicted = jax.device_get(_predict(params, frames))
    return _task().summary(_task().score(predicted, frames)), predicted


def test_true_maps_score_as_their_row():
    systems = _scored(FRAMES)[0]["systems"]
    assert list(systems) == [
        "Location Maps",
        "GT Location Maps",
        "GT volumetric heatmaps",
        "GT volumetric heatmaps, sub-voxel",
    ]
    for name in ("Location Maps", "GT Location Maps"):
        assert systems[name]["hungarian"] == systems["GT Location Maps"]["hungarian"]
        assert systems[name]["error_cm"] < 1e-4 and systems[name]["people"]["found"] == 2
    assert systems["GT Location Maps"]["hungarian"]["0.4 m"]["f1"] == 1.0


def test_people_on_the_same_pixels_bound_the_row():
    """Who stands behind somebody is not read: of two people, one."""
    nearer, farther = person((0, 0, 4)), 2 * person((0, 0, 4))
    summary, predicted = _scored(frames_of(nearer, farther))
    systems = summary["systems"]
    assert systems["GT Location Maps"]["hungarian"]["0.4 m"]["recall"] == 0.5
    assert systems["GT volumetric heatmaps, sub-voxel"]["hungarian"]["0.8 m"]["recall"] == 1.0
    joints, known = predicted.people["GT Location Maps"]
    np.testing.assert_array_equal(joints[0][known[0][:, 0]], nearer[None])


def test_a_refiner_learns_from_the_people_that_it_finds():
    true, told = _true(), []
    params = {"predictor": Maps(jnp.asarray(_logits(true.heatmaps)), true.xyz)}
    found = refiner.find(_task(), params, [FRAMES], 4, told.append)
    assert told == [2] and found["joints"].shape == (4, 14, 3)
    np.testing.assert_allclose(found["joints"], found["true"], atol=1e-5)
